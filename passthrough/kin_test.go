package passthrough

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// known reports whether a node is in the table.
func (g *guest) known(n fuse.NodeID) bool {
	e := g.fs.nodes.get(n)
	g.fs.putNamed(e)
	return e != nil
}

// TestKin: a directory that is forgotten stays as long as a way leads through it.
func TestKin(t *testing.T) {
	for what, end := range map[string]func(g *guest, n fuse.NodeID){
		"forgotten": func(g *guest, n fuse.NodeID) { g.forget(n, 1) },
		"renamed": func(g *guest, n fuse.NodeID) {
			b := g.find("a/b").Node
			must(g, g.fs.Rename(g.c, b, []byte("f"), fuse.RootID, []byte("f"), 0))
			g.forget(b, 1)
			g.forget(g.find("a").Node, 2)
			g.forget(g.find("g").Node, 1)
		},
		"removed": func(g *guest, n fuse.NodeID) {
			b := g.find("a/b")
			must(g, g.fs.Unlink(g.c, b.Node, []byte("f")))
			g.forget(n, 1)
			g.forget(b.Node, 1)
			g.forget(g.find("a").Node, 2)
		},
		"all": func(g *guest, _ fuse.NodeID) { g.fs.Destroy() },
	} {
		t.Run(what, func(t *testing.T) {
			g := lazyGuest(t)
			g.mkdir("a", 0o755)
			g.mkdir("a/b", 0o755)
			g.file("a/b/f", "data", 0o644)
			g.file("g", "", 0o644)
			n := g.findLazy("a/b/f").Node
			a, b := g.find("a").Node, g.find("a/b").Node
			g.forget(b, 2) // the walk counts each once more
			g.forget(a, 3)
			same(t, "both are known", g.known(a) && g.known(b), true)
			h := g.open(n, unix.O_RDONLY)
			same(t, "content", g.read(n, h, 0, 10), "data")
			must(t, g.release(n, h))
			same(t, "node that was found again", g.find("a").Node, a)
			g.forget(a, 1)

			end(g, n)
			same(t, "one of both is known", g.known(a) || g.known(b), false)
		})
	}
}

// TestKinDeep: the end of the last file ends all directories above.
func TestKinDeep(t *testing.T) {
	g := lazyGuest(t)
	const depth = 1000
	at := fuse.RootID
	var all []fuse.NodeID
	for range depth {
		e, err := g.mkdirat(at, "d", 0o755)
		must(t, err)
		at = e.Node
		all = append(all, at)
	}
	for _, n := range all[:depth-1] {
		g.forget(n, 1)
	}
	same(t, "first is known", g.known(all[0]), true)
	g.forget(at, 1)
	for i, n := range all {
		if g.known(n) {
			t.Fatalf("directory %d is known; want none", i)
		}
	}
	same(t, "budget", g.fs.budget.n.Load(), 0)
}

// TestKinStorm: threads look up, rename and forget in directories that others forget.
func TestKinStorm(t *testing.T) {
	g := lazyGuest(t)
	const dirs, files = 3, 8
	for d := range dirs {
		g.mkdir(fmt.Sprint(d), 0o755)
		for f := range files {
			must(t, os.WriteFile(g.path(fmt.Sprintf("%d/%d-%d", d, d, f)), nil, 0o600))
		}
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			u := g.thread(t)
			for i := range 2000 {
				var dir, to, file fuse.Entry
				d, name := []byte(fmt.Sprint((i+w)%dirs)), []byte(fmt.Sprintf("%d-%d", (i+w)%dirs, i%files))
				if u.fs.Lookup(u.c, fuse.RootID, d, &dir) != nil || u.fs.Lookup(u.c, fuse.RootID, []byte(fmt.Sprint(i%dirs)), &to) != nil {
					t.Error("a directory is gone")
					return
				}
				err := u.fs.Lookup(u.c, dir.Node, name, &file)
				u.fs.Forget(u.c, dir.Node, 1)
				if err == nil {
					var a fuse.Attr
					u.fs.GetAttr(u.c, file.Node, 0, &a)
					u.fs.Rename(u.c, dir.Node, name, to.Node, name, 0)
					u.fs.Rename(u.c, to.Node, name, dir.Node, name, 0)
					u.fs.Forget(u.c, file.Node, 1)
				}
				u.fs.Forget(u.c, to.Node, 1)
			}
		})
	}
	wg.Wait()
	g.fs.nodes.settle()
	for i := range g.fs.nodes.shards {
		same(t, "entries of an index", g.fs.nodes.shards[i].index.n, 0)
	}
	same(t, "budget", g.fs.budget.n.Load(), 0)
}
