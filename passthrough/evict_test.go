package passthrough

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// smallGuest returns a guest whose inodes have 15 descriptors.
func smallGuest(t testing.TB, m FileHandles) *guest {
	return newGuest(t, func(o *Options) fuse.InitFlags {
		o.MaxFDs, o.FileHandles = 20, m
		return 0
	})
}

// eachWay runs a test with file handles and without, and with inodes that are evicted and
// such that never had a descriptor.
func eachWay(t *testing.T, f func(t *testing.T, g *guest)) {
	for _, m := range []FileHandles{HandlesPrefer, HandlesNever} {
		t.Run(m.String(), func(t *testing.T) { f(t, smallGuest(t, m)) })
		t.Run(m.String()+" lazy", func(t *testing.T) {
			g := smallGuest(t, m)
			g.lazy()
			f(t, g)
		})
	}
}

// handles reports whether nodes without a descriptor have a file handle.
func (g *guest) handles() bool {
	return g.fs.opt.FileHandles != HandlesNever && g.fs.nodes.old != 0
}

// evictAll takes the descriptor from every node that can be found again.
func (g *guest) evictAll() {
	for g.fs.evict(local(g.c), 1<<20, needSoft) {
	}
}

// evicted reports whether a node has no descriptor.
func (g *guest) evicted(id fuse.NodeID) bool {
	g.Helper()
	e := g.fs.nodes.get(id)
	if e == nil {
		g.Fatalf("node %d is not known", id)
	}
	defer g.fs.nodes.put(e)
	return !e.open()
}

// isEvicted evicts everything and fails if one node is still open.
func (g *guest) isEvicted(id fuse.NodeID) {
	g.Helper()
	g.evictAll()
	if !g.evicted(id) {
		g.Fatalf("node %d has its descriptor; want none", id)
	}
}

func TestEvictAndRevive(t *testing.T) {
	eachWay(t, func(t *testing.T, g *guest) {
		before := fds(t)
		nodes := make(map[string]fuse.Entry)
		for i := range 30 {
			dir := fmt.Sprintf("dir%d", i)
			g.mkdir(dir, 0o755)
			nodes[dir] = g.find(dir)
			for j := range 10 {
				name := fmt.Sprintf("%s/file%d", dir, j)
				g.file(name, name, 0o644)
				e, err := g.lookup(nodes[dir].Node, fmt.Sprintf("file%d", j))
				must(t, err)
				nodes[name] = e
			}
		}
		most := 0
		for name, e := range nodes {
			same(t, "inode of "+name, g.attr(e.Node).Ino, e.Attr.Ino)
			same(t, "node of "+name, g.find(name).Node, e.Node)
			if e.Attr.Mode&unix.S_IFMT == unix.S_IFREG {
				h := g.open(e.Node, 0)
				same(t, "content", g.read(e.Node, h, 0, 100), name)
				must(t, g.release(e.Node, h))
			}
			most = max(most, fds(t))
		}
		if most > before+20 {
			t.Errorf("descriptors = %d more than before; want at most 20", most-before)
		}
		for _, e := range nodes {
			g.forget(e.Node, 100)
		}
		same(t, "descriptors when all is forgotten", fds(t), before)
		same(t, "budget", g.fs.budget.n.Load(), 0)
		for i := range g.fs.nodes.shards {
			same(t, "entries of an index", g.fs.nodes.shards[i].index.n, 0)
		}
	})
}

func TestEvictEveryType(t *testing.T) {
	needRoot(t)
	eachWay(t, func(t *testing.T, g *guest) {
		must(t, unix.Mkfifo(g.path("fifo"), 0o600))
		must(t, os.Symlink("/etc", g.path("link")))
		must(t, unix.Mknod(g.path("char"), unix.S_IFCHR, int(unix.Mkdev(1, 3))))
		g.mkdir("dir", 0)
		g.file("none", "", 0)
		for _, name := range []string{"fifo", "link", "char", "dir", "none"} {
			e := g.find(name)
			g.isEvicted(e.Node)
			same(t, "attributes of "+name, g.attr(e.Node), e.Attr)
		}
	})
}

func TestEvictedAndRenamedByTheHost(t *testing.T) {
	eachWay(t, func(t *testing.T, g *guest) {
		g.mkdir("d", 0o755)
		g.mkdir("e", 0o755)
		g.file("d/near", "near", 0o644)
		g.file("d/far", "far", 0o644)
		g.mkdir("d/sub", 0o755)
		g.file("d/sub/f", "below", 0o644)
		near, far, below := g.find("d/near").Node, g.find("d/far").Node, g.find("d/sub/f").Node
		g.isEvicted(near)
		must(t, os.Rename(g.path("d/near"), g.path("d/closer")))
		must(t, os.Rename(g.path("d/far"), g.path("e/there")))
		must(t, os.Rename(g.path("d/sub"), g.path("d/subway")))
		same(t, "size of a file renamed in its directory", g.attr(near).Size, 4)
		same(t, "size of a file in a renamed directory", g.attr(below).Size, 5)
		g.isEvicted(near)
		same(t, "size under the name that was found", g.attr(near).Size, 4)

		a, err := g.getattr(far, 0)
		if !g.handles() {
			want(t, "GetAttr of a file that went elsewhere", err, unix.ESTALE)
			_, err = g.getattr(far, 0)
			want(t, "GetAttr again", err, unix.ESTALE)
		} else {
			must(t, err)
			same(t, "size", a.Size, 3)
		}
		// A guest that is told ESTALE looks up the path again.
		same(t, "node under the new name", g.find("e/there").Node, far)
		same(t, "size under the new name", g.attr(far).Size, 3)
	})
}

func TestEvictedAndReplacedByTheHost(t *testing.T) {
	eachWay(t, func(t *testing.T, g *guest) {
		g.file("f", "old", 0o644)
		old := g.find("f").Node
		g.isEvicted(old)
		g.file("new", "newer", 0o644)
		must(t, os.Rename(g.path("new"), g.path("f")))
		_, err := g.getattr(old, 0)
		want(t, "GetAttr of a file that is gone", err, unix.ESTALE)
		e := g.find("f")
		same(t, "size", e.Attr.Size, 5)
		if e.Node == old {
			t.Error("node of the new file = that of the old one")
		}
		_, err = g.openErr(old, 0)
		want(t, "Open of the old node", err, unix.ESTALE)
		h := g.open(e.Node, 0)
		same(t, "content", g.read(e.Node, h, 0, 10), "newer")
		g.forget(old, 1)
		_, err = g.getattr(old, 0)
		want(t, "GetAttr of the forgotten node", err, unix.EBADF)
		same(t, "content", g.read(e.Node, h, 0, 10), "newer")
	})
}

// TestH074ReuseOfEvicted: the inode number of a file that is gone comes back with
// another file. ext4 does that at once, or gives it to whoever makes a file meanwhile.
func TestH074ReuseOfEvicted(t *testing.T) {
	eachWay(t, func(t *testing.T, g *guest) {
		var others sync.WaitGroup
		defer others.Wait()
		stop, dir := make(chan struct{}), t.TempDir()
		defer close(stop)
		for i := range 2 {
			others.Go(func() { makeAndRemove(filepath.Join(dir, fmt.Sprint(i)), stop) })
		}
		reused := 0
		for i := range 20 {
			a, b := fmt.Sprint("a", i), fmt.Sprint("b", i)
			g.file(a, "first", 0o644)
			old := g.find(a)
			g.isEvicted(old.Node)
			must(t, os.Remove(g.path(a)))
			g.file(b, "second", 0o644)
			e := g.find(b)
			if e.Node == old.Node {
				t.Fatal("node of the new file = that of the old one")
			}
			if e.Attr.Ino == old.Attr.Ino {
				reused++
			}
			_, err := g.getattr(old.Node, 0)
			want(t, "GetAttr of the old file", err, unix.ESTALE)
			same(t, "size of the new file", g.attr(e.Node).Size, 6)
			g.isEvicted(e.Node)
			same(t, "node found again", g.find(b).Node, e.Node)
			same(t, "size found again", g.attr(e.Node).Size, 6)
		}
		t.Logf("%d of 20 inode numbers came back", reused)
	})
}

// makeAndRemove makes a file and removes it, again and again.
func makeAndRemove(name string, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if f, err := os.Create(name); err == nil {
			f.Close()
			os.Remove(name)
		}
	}
}

func TestEvictedAndUnlinkedByTheGuest(t *testing.T) {
	eachWay(t, func(t *testing.T, g *guest) {
		g.file("a", "a", 0o644)
		g.file("b", "bb", 0o644)
		g.file("c", "ccc", 0o644)
		g.mkdir("d", 0o755)
		g.mkdir("e", 0o755)
		a, b, c, d, e := g.find("a").Node, g.find("b").Node, g.find("c").Node, g.find("d").Node, g.find("e").Node
		g.evictAll()
		must(t, g.fs.Unlink(g.c, fuse.RootID, []byte("a")))
		must(t, g.rename("c", "b", 0))
		must(t, g.fs.RmDir(g.c, fuse.RootID, []byte("d")))
		g.evictAll()
		for _, n := range []fuse.NodeID{a, b, d} {
			if g.evicted(n) {
				t.Errorf("node %d without a link has no descriptor; want one", n)
			}
			same(t, "nlink", g.attr(n).Nlink, 0)
		}
		same(t, "size of the unlinked", g.attr(a).Size, 1)
		same(t, "size of the replaced", g.attr(b).Size, 2)
		same(t, "size of the renamed", g.attr(c).Size, 3)
		same(t, "node of the renamed", g.find("b").Node, c)
		g.attr(e)
		g.read(a, g.open(a, 0), 0, 1)
	})
}

func TestEvictedAndRenamedByTheGuest(t *testing.T) {
	eachWay(t, func(t *testing.T, g *guest) {
		g.mkdir("d", 0o755)
		g.mkdir("e", 0o755)
		g.file("d/f", "f", 0o644)
		g.file("x", "xx", 0o644)
		g.file("y", "yyy", 0o644)
		d, e, f, x, y := g.find("d").Node, g.find("e").Node, g.find("d/f").Node, g.find("x").Node, g.find("y").Node
		g.evictAll()
		must(t, g.fs.Rename(g.c, d, []byte("f"), e, []byte("g"), 0))
		must(t, g.rename("d", "dd", 0))
		must(t, g.fs.Rename(g.c, fuse.RootID, []byte("e"), d, []byte("sub"), 0))
		must(t, g.rename("x", "y", unix.RENAME_EXCHANGE))
		for range 2 {
			g.isEvicted(f)
			g.isEvicted(x)
			same(t, "size of a renamed file", g.attr(f).Size, 1)
			same(t, "size of an exchanged file", g.attr(x).Size, 2)
			same(t, "size of the other", g.attr(y).Size, 3)
			same(t, "node at the new path", g.find("dd/sub/g").Node, f)
		}
		same(t, "exchanged", g.find("y").Node, x)
		same(t, "exchanged", g.find("x").Node, y)
		var l fuse.Entry
		g.isEvicted(x)
		must(t, g.fs.Link(g.c, x, d, []byte("l"), &l))
		same(t, "node of the new link", l.Node, x)
		must(t, g.fs.Unlink(g.c, fuse.RootID, []byte("y")))
		g.evictAll()
		same(t, "nlink of what has another name", g.attr(x).Nlink, 1)
	})
}

func TestOpenFilesAreNotEvicted(t *testing.T) {
	eachWay(t, func(t *testing.T, g *guest) {
		g.file("f", "data", 0o644)
		g.mkdir("d", 0o755)
		n, d := g.find("f").Node, g.find("d").Node
		h, dh := g.open(n, 0), g.opendir(d)
		g.evictAll()
		must(t, os.Remove(g.path("f")))
		must(t, os.Remove(g.path("d")))
		same(t, "size of an open file", g.attr(n).Size, 4)
		same(t, "nlink of an open directory", g.attr(d).Nlink, 0)
		must(t, g.release(n, h))
		must(t, g.fs.ReleaseDir(g.c, d, dh))
		g.evictAll()
		same(t, "size of a file without links", g.attr(n).Size, 4)
	})
}

// TestUnlinkedFilesFillTheBudget: what cannot be found again counts.
func TestUnlinkedFilesFillTheBudget(t *testing.T) {
	eachWay(t, func(t *testing.T, g *guest) {
		var nodes []fuse.NodeID
		for i := range 20 {
			e, err := g.mknod(fmt.Sprint(i), unix.S_IFREG|0o644, 0)
			must(t, err)
			must(t, g.fs.Unlink(g.c, fuse.RootID, fmt.Append(nil, i)))
			nodes = append(nodes, e.Node)
		}
		g.file("f", "", 0o644)
		e, err := g.lookup(fuse.RootID, "f")
		if err == nil && g.fs.nodes.old == 0 {
			err = g.use(e.Node)
		}
		want(t, "Lookup beyond the limit", err, unix.ENFILE)
		for _, n := range nodes {
			same(t, "nlink", g.attr(n).Nlink, 0)
		}
		g.forget(nodes[0], 1)
		must(t, g.use(g.find("f").Node))
	})
}

// TestRemovedFilesDoNotFillTheBudget: what the host has removed is let go when the
// descriptors are needed.
func TestRemovedFilesDoNotFillTheBudget(t *testing.T) {
	eachWay(t, func(t *testing.T, g *guest) {
		g.file("open", "data", 0o644)
		open := g.find("open").Node
		h := g.open(open, 0)
		must(t, os.Remove(g.path("open")))
		var nodes []fuse.NodeID
		for i := range 60 {
			name := fmt.Sprint(i)
			g.file(name, "", 0o644)
			nodes = append(nodes, g.find(name).Node)
			must(t, os.Remove(g.path(name)))
		}
		gone := 0
		for _, n := range nodes {
			if a, err := g.getattr(n, 0); err == nil {
				same(t, "nlink", a.Nlink, 0)
			} else {
				want(t, "GetAttr", err, unix.ESTALE)
				gone++
			}
		}
		same(t, "some are gone and some are not", gone > 40 && gone < 60, true)
		same(t, "data of an open file", g.read(open, h, 0, 10), "data")
		same(t, "size of an open file", g.attr(open).Size, 4)
	})
}

func TestDeepRevival(t *testing.T) {
	eachWay(t, func(t *testing.T, g *guest) {
		const depth = 400
		n, path := fuse.RootID, g.dir
		for range depth {
			e, err := g.mkdirat(n, "d", 0o755)
			must(t, err)
			n = e.Node
			path += "/d"
		}
		ino := g.attr(n).Ino
		g.isEvicted(n)
		same(t, "inode at the bottom", g.attr(n).Ino, ino)
		same(t, "inode below", g.find(strings.Repeat("d/", depth-1)+"d").Attr.Ino, ino)
	})
}

// TestCircle: names that were true one after the other make each of two directories
// the parent of the other.
func TestCircle(t *testing.T) {
	g := smallGuest(t, HandlesNever)
	g.mkdir("a", 0o755)
	g.mkdir("a/b", 0o755)
	a, b := g.find("a").Node, g.find("a/b").Node // b is in a
	must(t, os.Rename(g.path("a/b"), g.path("b")))
	must(t, os.Rename(g.path("a"), g.path("b/a")))
	e, err := g.lookup(b, "a") // a is in b
	must(t, err)
	same(t, "node", e.Node, a)
	g.evictAll()
	if g.evicted(b) {
		t.Fatal("a directory whose name leads elsewhere was evicted")
	}
	// It is not noticed if the host is quick.
	for _, id := range []fuse.NodeID{a, b} {
		n := g.fs.nodes.get(id)
		g.fs.witness(local(g.c), n.v.fd, nil)
		if n.open() {
			n.state.And(^uint64(slotRecent))
			n.v.way.witness = 1
			if !g.fs.shut(n) {
				t.Fatal("shut = false; want true")
			}
		}
		g.fs.nodes.put(n)
	}
	_, err = g.getattr(a, 0)
	want(t, "GetAttr in a circle", err, unix.ESTALE)
	same(t, "depth", local(g.c).depth, 0)
}

func TestForgottenParent(t *testing.T) {
	eachWay(t, func(t *testing.T, g *guest) {
		g.mkdir("d", 0o755)
		g.file("d/f", "data", 0o644)
		n := g.find("d/f").Node
		g.isEvicted(n)
		g.forget(g.find("d").Node, 2)
		same(t, "content", g.read(n, g.open(n, unix.O_RDONLY), 0, 10), "data")
		same(t, "node", g.find("d/f").Node, n)
		same(t, "size", g.attr(n).Size, 4)
	})
}

// TestHandlesOfSubmounts: each mount's handles need a descriptor of that mount, which
// must not outlive them.
func TestHandlesOfSubmounts(t *testing.T) {
	g := smallGuest(t, HandlesMandatory)
	g.mkdir("a", 0o755)
	g.mkdir("b", 0o755)
	g.file("a/f", "data", 0o644)
	g.bind("a", "b")
	before := fds(t)
	x, y := g.find("a/f").Node, g.find("b/f").Node
	g.isEvicted(y)
	same(t, "mounts", len(g.fs.nodes.mounts.list), 2)
	must(t, os.Rename(g.path("a/f"), g.path("a/g")))
	same(t, "size through one mount", g.attr(x).Size, 4)
	same(t, "size through the other", g.attr(y).Size, 4)
	must(t, os.Rename(g.path("a/g"), g.path("f")))
	_, err := g.link(y, "l")
	want(t, "Link across mounts", err, unix.EXDEV)
	for range 2 {
		for _, path := range []string{"a", "b"} {
			g.forget(g.find(path).Node, 100)
		}
	}
	g.forget(x, 100)
	g.forget(y, 100)
	same(t, "mounts", len(g.fs.nodes.mounts.list), 1)
	same(t, "descriptors", fds(t), before)
}

func TestMandatoryHandles(t *testing.T) {
	_, err := New(Options{SharedDir: "/proc/self", FileHandles: HandlesMandatory})
	if err == nil || !strings.Contains(err.Error(), "file handles") {
		t.Errorf("New without file handles = %v; want an error that names them", err)
	}
	needRoot(t)
	g := smallGuest(t, HandlesMandatory)
	g.mkdir("p", 0o755)
	if err := unix.Mount("proc", g.path("p"), "proc", 0, ""); err != nil {
		unable(t, "needs mount(2): "+err.Error())
	}
	t.Cleanup(func() { unix.Unmount(g.path("p"), unix.MNT_DETACH) })
	_, err = g.lookup(fuse.RootID, "p")
	want(t, "Lookup of what has no handle", err, unix.EOPNOTSUPP)
}

func TestFileHandlesText(t *testing.T) {
	for _, m := range []FileHandles{HandlesPrefer, HandlesNever, HandlesMandatory} {
		text, err := m.MarshalText()
		must(t, err)
		var got FileHandles
		must(t, got.UnmarshalText(text))
		same(t, "mode", got, m)
	}
	var m FileHandles
	if err := m.UnmarshalText([]byte("sometimes")); err == nil || !strings.Contains(err.Error(), "sometimes") {
		t.Errorf("UnmarshalText(sometimes) = %v; want an error that says so", err)
	}
	same(t, "String of no mode", FileHandles(7).String(), "FileHandles(7)")
}

// TestEvictionStorm lets threads use more files than have descriptors, while another
// process's worth of changes goes on. No request may see another file's data, and
// every path that exists all the time must be found all the time.
func TestEvictionStorm(t *testing.T) {
	eachWay(t, func(t *testing.T, g *guest) {
		const dirs, files, rounds = 6, 12, 60
		for d := range dirs {
			g.mkdir(fmt.Sprint(d), 0o755)
			for f := range files {
				g.file(fmt.Sprintf("%d/%d", d, f), fmt.Sprintf("%d/%d", d, f), 0o644)
			}
		}
		before := fds(t)
		done := make(chan struct{})
		var host, wg sync.WaitGroup
		var stale atomic.Int64
		host.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				// Every other file is replaced by one with the same content.
				name := fmt.Sprintf("%d/%d", i%dirs, i/dirs*2%files)
				tmp := g.path(fmt.Sprintf("%d/tmp", i%dirs))
				os.WriteFile(tmp, []byte(name), 0o644)
				os.Rename(tmp, g.path(name))
			}
		})
		for w := range 4 {
			wg.Go(func() {
				g := g.thread(t)
				for i := range rounds {
					d := (i + w) % dirs
					dir, err := g.lookup(fuse.RootID, fmt.Sprint(d))
					if err != nil {
						t.Errorf("Lookup(%d) = %v; want success", d, err)
						return
					}
					for f := range files {
						name := fmt.Sprintf("%d/%d", d, f)
						e, err := g.lookup(dir.Node, fmt.Sprint(f))
						if err != nil {
							t.Errorf("Lookup(%s) = %v; want success", name, err)
							return
						}
						o, err := g.openErr(e.Node, 0)
						if err == unix.ESTALE && f%2 == 0 {
							stale.Add(1) // replaced since
						} else if err != nil {
							t.Errorf("Open(%s) = %v; want success", name, err)
						} else {
							if s, err := g.readErr(e.Node, o.Handle, 0, 100); s != name || err != nil {
								t.Errorf("Read of %s = %q, %v", name, s, err)
							}
							if a, err := g.getattr(e.Node, 0); err != nil || a.Ino != e.Attr.Ino {
								t.Errorf("GetAttr of open %s = inode %d, %v; want %d", name, a.Ino, err, e.Attr.Ino)
							}
							g.release(e.Node, o.Handle)
						}
						if (i+f)%3 == 0 {
							g.forget(e.Node, 1)
						}
					}
					mine := fmt.Sprint("mine", w)
					g.file(fmt.Sprint(d, "/", mine), "", 0o644)
					if e, err := g.lookup(dir.Node, mine); err != nil {
						t.Errorf("Lookup(%s) = %v; want success", mine, err)
					} else if err := g.fs.Rename(g.c, dir.Node, []byte(mine), fuse.RootID, []byte(mine), 0); err != nil {
						t.Errorf("Rename(%s) = %v; want success", mine, err)
					} else if err := g.fs.Unlink(g.c, fuse.RootID, []byte(mine)); err != nil {
						t.Errorf("Unlink(%s) = %v; want success", mine, err)
					} else if a, err := g.getattr(e.Node, 0); err != nil || a.Nlink != 0 || a.Ino != e.Attr.Ino {
						t.Errorf("GetAttr after Unlink(%s) = %+v, %v; want nlink 0 of inode %d", mine, a, err, e.Attr.Ino)
					} else {
						g.forget(e.Node, 1)
					}
				}
			})
		}
		wg.Wait()
		close(done)
		host.Wait()
		t.Logf("%d opens met a file that was replaced since its lookup", stale.Load())
		g.fs.Destroy()
		same(t, "descriptors", fds(t), before)
		same(t, "budget", g.fs.budget.n.Load(), 0)
		if list, _ := filepath.Glob(g.path("mine*")); len(list) != 0 {
			t.Errorf("left over: %v", list)
		}
	})
}

// TestBirth: an evicted inode that is old is known by its birth, and a later one of its
// number is another.
func TestBirth(t *testing.T) {
	for _, test := range []struct {
		name      string
		old, born int64 // the age that is old, and how far the birth is off
		same      bool
	}{
		{"old", 0, 0, true},
		{"young, and the witness agrees", 3600, 0, true},
		{"a later inode", 0, 2, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := smallGuest(t, HandlesPrefer)
			g.file("f", "", 0o644)
			n := g.find("f").Node
			g.fs.nodes.old = test.old
			g.isEvicted(n)
			e := g.fs.nodes.get(n)
			defer g.fs.nodes.put(e)
			if got := e.v.way.born != 0; got != (test.old == 0) {
				t.Errorf("known by its birth: %v; want %v", got, test.old == 0)
			}
			if test.born != 0 { // as if what has the number now were another
				e.v.way.born += uint64(test.born)
				e.v.way.witness += 2
			}
			if got := g.find("f").Node == n; got != test.same {
				t.Errorf("the same node: %v; want %v", got, test.same)
			}
		})
	}
}
