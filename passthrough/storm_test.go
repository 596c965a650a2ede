package passthrough

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/testkit"
)

// TestStorm lets several threads look up, forget, open, read and release the same few
// files. No request may see another file's data, and nothing may be left over.
func TestStorm(t *testing.T) {
	g := newGuest(t)
	const files = 4
	for i := range files {
		g.file(fmt.Sprint(i), fmt.Sprint(i), 0o644)
	}
	before := fds(t)
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			g := g.thread(t)
			for i := range 400 {
				name := fmt.Sprint((i + w) % files)
				e, err := g.lookup(fuse.RootID, name)
				if err != nil {
					t.Errorf("Lookup(%s) = %v; want success", name, err)
					return
				}
				o, err := g.openErr(e.Node, 0)
				if err != nil {
					t.Errorf("Open of a node with a lookup = %v; want success", err)
					return
				}
				if i%2 == 0 {
					g.forget(e.Node, 1) // the handle stays usable
				}
				if s, err := g.readErr(e.Node, o.Handle, 0, 10); err != nil || s != name {
					t.Errorf("Read of %s = %q, %v", name, s, err)
				}
				g.getattr(e.Node, 0)
				g.release(e.Node, o.Handle)
				if _, err := g.readErr(e.Node, o.Handle, 0, 1); err != syscall.EBADF {
					t.Errorf("Read after Release = %v; want EBADF", err)
				}
				if i%2 == 1 {
					g.forget(e.Node, 1)
				}
				if i%50 == 0 {
					h := g.opendir(fuse.RootID)
					for _, x := range g.readAll(fuse.RootID, h, 4096, true) {
						g.forget(x.node, 1)
					}
					g.release(fuse.RootID, h)
				}
			}
		})
	}
	wg.Wait()
	same(t, "descriptors", fds(t), before)
	same(t, "budget", g.fs.budget.n.Load(), 0)
}

// TestForgetStorm takes lookups away that other threads believe to have, as a hostile
// guest can.
func TestForgetStorm(t *testing.T) {
	g := newGuest(t)
	g.file("f", "data", 0o644)
	before := fds(t)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			g := g.thread(t)
			for i := range 500 {
				e, err := g.lookup(fuse.RootID, "f")
				must(t, err)
				if a, err := g.getattr(e.Node, 0); err == nil && a.Size != 4 {
					t.Errorf("GetAttr = size %d; want 4", a.Size)
				}
				g.forget(e.Node, uint64(1+(i+w)%3))
				g.create("f", fuse.Create{Flags: unix.O_RDONLY})
				g.link(e.Node, fmt.Sprint("l", w))
				g.fs.Unlink(g.c, fuse.RootID, fmt.Append(nil, "l", w))
			}
		})
	}
	wg.Wait()
	g.fs.Destroy()
	same(t, "descriptors", fds(t), before)
}

func TestDestroy(t *testing.T) {
	g := newGuest(t)
	before := fds(t)
	n, h := g.made("f", unix.O_RDWR)
	g.mkdir("d", 0o755)
	g.opendir(g.find("d").Node)
	g.fs.Destroy()
	g.fs.Destroy()
	same(t, "descriptors", fds(t), before)
	_, err := g.getattr(n, 0)
	want(t, "GetAttr", err, unix.EBADF)
	_, err = g.readErr(n, h, 0, 1)
	want(t, "Read", err, unix.EBADF)
	g.fs.Init(0)
	if m := g.find("f").Node; m == n {
		t.Errorf("node of the next life = %d, that of the last; want a new one", m)
	}
}

func TestNoAllocations(t *testing.T) {
	g := newGuest(t)
	g.file("f", "0123456789", 0o644)
	g.mkdir("d", 0o755)
	n := g.find("f").Node
	h := g.open(n, unix.O_RDWR)
	dh := g.opendir(fuse.RootID)
	v := vec(make([]byte, 10))
	var (
		entry fuse.Entry
		attr  fuse.Attr
		o     fuse.Opened
		st    fuse.StatFS
		args  fuse.WriteArgs
		buf   = make([]byte, 100)
		dbuf  fuse.DirBuffer
		name  = []byte("f")
		gone  = []byte("gone")
		xname = []byte("user.a")
		set   = fuse.SetAttr{Valid: fuse.SetAttrMode | fuse.SetAttrMtime, Mode: 0o644}
		in    = fuse.Create{Mode: unix.S_IFREG | 0o644, Flags: unix.O_RDWR}
	)
	dbuf.Reset(4096)
	g.fs.ReadDir(g.c, fuse.RootID, dh, 0, true, &dbuf) // grows the buffer
	u := g
	if local(g.c).setsGroups {
		u = g.as(1000, 1000)
	}
	for what, f := range map[string]func() error{
		"Lookup of a known name": func() error { return g.fs.Lookup(g.c, fuse.RootID, name, &entry) },
		"Lookup of a missing name": func() error {
			if g.fs.Lookup(g.c, fuse.RootID, gone, &entry) != syscall.ENOENT {
				return syscall.EIO
			}
			return nil
		},
		"GetAttr": func() error { _, err := g.fs.GetAttr(g.c, n, 0, &attr); return err },
		"SetAttr": func() error { _, err := g.fs.SetAttr(g.c, n, &set, &attr); return err },
		"Read":    func() error { _, err := g.fs.Read(g.c, n, h, v, 0); return err },
		"Write":   func() error { _, err := g.fs.Write(g.c, n, h, v, 0, &args); return err },
		"Forget":  func() error { g.fs.Forget(g.c, n, 1); return g.fs.Lookup(g.c, fuse.RootID, name, &entry) },
		"StatFS":  func() error { return g.fs.StatFS(g.c, n, &st) },
		"Flush":   func() error { return g.fs.Flush(g.c, n, h) },
		"Open and Release": func() error {
			if err := g.fs.Open(g.c, n, 0, false, &o); err != nil {
				return err
			}
			return g.fs.Release(g.c, n, o.Handle)
		},
		"ReadDir with attributes": func() error {
			dbuf.Reset(4096)
			return g.fs.ReadDir(g.c, fuse.RootID, dh, 0, true, &dbuf)
		},
		"GetXattr": func() error {
			if _, err := g.fs.GetXattr(g.c, n, xname, buf); err != syscall.ENODATA {
				return syscall.EIO
			}
			return nil
		},
		"Create and Unlink": func() error {
			if err := u.fs.Create(u.c, fuse.RootID, gone, &in, &entry, &o); err != nil {
				return err
			}
			g.fs.Release(g.c, entry.Node, o.Handle)
			g.fs.Forget(g.c, entry.Node, 1)
			return g.fs.Unlink(g.c, fuse.RootID, gone)
		},
	} {
		// New inodes may have any number, and the table of each shard is made for its first.
		for range 16 * nodeShards {
			f()
		}
		var err error
		testkit.NoAllocs(t, 50, what, func() {
			if e := f(); e != nil {
				err = e
			}
		})
		if err != nil {
			t.Errorf("%s = %v; want success", what, err)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	g := newGuest(b)
	g.file("f", "data", 0o644)
	name := []byte("f")
	var e fuse.Entry
	for b.Loop() {
		g.fs.Lookup(g.c, fuse.RootID, name, &e)
	}
}

func BenchmarkGetAttr(b *testing.B) {
	g := newGuest(b)
	var a fuse.Attr
	for b.Loop() {
		g.fs.GetAttr(g.c, fuse.RootID, 0, &a)
	}
}

func BenchmarkRead4K(b *testing.B) {
	b.ReportAllocs()
	g := newGuest(b)
	n, h := g.made("f", unix.O_RDWR)
	v := vec(make([]byte, 4096))
	g.fs.Write(g.c, n, h, v, 0, new(fuse.WriteArgs))
	g.c.MayBlock = false
	for b.Loop() {
		g.fs.Read(g.c, n, h, v, 0)
	}
}

func BenchmarkOpenRelease(b *testing.B) {
	b.ReportAllocs()
	g := newGuest(b)
	g.file("f", "data", 0o644)
	n := g.find("f").Node
	var o fuse.Opened
	for b.Loop() {
		g.fs.Open(g.c, n, unix.O_RDONLY, false, &o)
		g.fs.Release(g.c, n, o.Handle)
	}
}

func BenchmarkCreateUnlink(b *testing.B) {
	g := newGuest(b)
	u, name := g.as(1000, 1000), []byte("f")
	must(b, os.Chmod(g.dir, 0o777))
	in := fuse.Create{Mode: 0o644, Flags: unix.O_RDWR}
	var e fuse.Entry
	var o fuse.Opened
	for b.Loop() {
		u.fs.Create(u.c, fuse.RootID, name, &in, &e, &o)
		u.fs.Release(u.c, e.Node, o.Handle)
		u.fs.Unlink(u.c, fuse.RootID, name)
		u.fs.Forget(u.c, e.Node, 1)
	}
}

func BenchmarkHold(b *testing.B) {
	g := newGuest(b)
	g.file("f", "data", 0o644)
	t, id := local(g.c), g.find("f").Node
	for b.Loop() {
		n, _ := g.fs.hold(t, id)
		g.fs.nodes.put(n)
	}
}
