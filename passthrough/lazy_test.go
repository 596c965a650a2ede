package passthrough

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/testkit"
)

// lazy makes every inode an old one, so that nodes begin without a descriptor. A test's own
// files are nothing that an overlay would copy up, so births last there, too.
func (g *guest) lazy() {
	g.fs.host.ready, g.fs.nodes.old = true, 0
	g.fs.nodes.lazy.count(lazyMost)
}

// lazyGuest returns a guest whose nodes begin without a descriptor.
func lazyGuest(t testing.TB, edit ...func(*Options) fuse.InitFlags) *guest {
	g := newGuest(t, edit...)
	g.lazy()
	return g
}

// findLazy is find for what must have no descriptor after it.
func (g *guest) findLazy(path string) fuse.Entry {
	g.Helper()
	e := g.find(path)
	if !g.evicted(e.Node) {
		g.Fatalf("node of %s has a descriptor; want none", path)
	}
	return e
}

func TestLazyNodesHaveNoDescriptors(t *testing.T) {
	g := lazyGuest(t)
	const files = 10_000
	g.mkdir("d", 0o755)
	d := g.find("d").Node
	for i := range files {
		must(t, unix.Mknod(g.path(fmt.Sprint("d/", i)), unix.S_IFREG|0o644, 0))
	}
	before := fds(t)
	nodes := make([]fuse.NodeID, files)
	for i := range files {
		e, err := g.lookup(d, fmt.Sprint(i))
		must(t, err)
		nodes[i] = e.Node
	}
	same(t, "descriptors", fds(t), before)
	same(t, "budget", g.fs.budget.n.Load(), 1)
	for _, n := range nodes {
		g.forget(n, 1)
	}
	g.forget(d, 1)
	same(t, "budget when all is forgotten", g.fs.budget.n.Load(), 0)
	for i := range g.fs.nodes.shards {
		same(t, "entries of an index", g.fs.nodes.shards[i].index.n, 0)
	}
}

// TestLazyIsForFewTypes: what may not begin without a descriptor begins with it.
func TestLazyIsForFewTypes(t *testing.T) {
	option := func(edit func(*Options)) func(t *testing.T) *guest {
		return func(t *testing.T) *guest {
			return lazyGuest(t, func(o *Options) fuse.InitFlags { edit(o); return 0 })
		}
	}
	plain := option(func(*Options) {})
	exports := func(t *testing.T) *guest {
		return lazyGuest(t, func(o *Options) fuse.InitFlags { o.Export = true; return fuse.ExportSupport })
	}
	for _, test := range []struct {
		name  string
		guest func(t *testing.T) *guest
		make  func(g *guest, name string)
		lazy  bool
	}{
		{"file", plain, func(g *guest, name string) { g.file(name, "", 0o644) }, true},
		{"file without permissions", plain, func(g *guest, name string) { g.file(name, "", 0) }, true},
		{"symlink", plain, func(g *guest, name string) { must(g, os.Symlink("/etc", g.path(name))) }, true},
		{"directory", plain, func(g *guest, name string) { g.mkdir(name, 0o755) }, false},
		{"fifo", plain, func(g *guest, name string) { must(g, unix.Mkfifo(g.path(name), 0o644)) }, false},
		{"bind mount", plain, func(g *guest, name string) {
			g.file("other", "", 0o644)
			g.file(name, "", 0o644)
			g.bind("other", name)
		}, false},
		{"young file", func(t *testing.T) *guest {
			g := plain(t)
			g.fs.nodes.old = 3600
			return g
		}, func(g *guest, name string) { g.file(name, "", 0o644) }, false},
		{"other host file system", func(t *testing.T) *guest {
			g := plain(t)
			g.fs.host.ready = false
			return g
		}, func(g *guest, name string) { g.file(name, "", 0o644) }, false},
		{"share that the guest could export", exports, func(g *guest, name string) { g.file(name, "", 0o644) }, true},
		{"share that the guest exports", exports, func(g *guest, name string) {
			g.file("other", "", 0o644)
			n := g.findLazy("other").Node
			_, err := g.lookup(n, ".")
			must(g, err)
			same(g, "descriptor of what is exported", g.evicted(n), false)
			g.file(name, "", 0o644)
		}, false},
		{"mandatory file handles", func(t *testing.T) *guest {
			needRoot(t)
			return option(func(o *Options) { o.FileHandles = HandlesMandatory })(t)
		}, func(g *guest, name string) { g.file(name, "", 0o644) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := test.guest(t)
			test.make(g, "f")
			e := g.find("f")
			same(t, "without a descriptor", g.evicted(e.Node), test.lazy)
			same(t, "attributes", g.attr(e.Node), e.Attr)
		})
	}
}

// TestLazyOperations: each operation works on a node that has no descriptor yet.
func TestLazyOperations(t *testing.T) {
	for _, test := range []struct {
		name string
		run  func(g *guest, n fuse.NodeID)
	}{
		{"getattr", func(g *guest, n fuse.NodeID) { same(g, "size", g.attr(n).Size, 4) }},
		{"statx", func(g *guest, n fuse.NodeID) {
			var x fuse.Statx
			_, err := g.fs.Statx(g.c, n, 0, unix.STATX_BASIC_STATS, 0, &x)
			must(g, err)
			same(g, "size", x.Size, 4)
		}},
		{"setattr", func(g *guest, n fuse.NodeID) {
			a, err := g.setattr(n, fuse.SetAttr{Valid: fuse.SetAttrMode | fuse.SetAttrSize, Mode: 0o600, Size: 2})
			must(g, err)
			same(g, "mode", a.Mode&0o777, 0o600)
			same(g, "content", g.content("f"), "da")
		}},
		{"read", func(g *guest, n fuse.NodeID) { same(g, "content", g.read(n, g.open(n, unix.O_RDONLY), 0, 10), "data") }},
		{"write", func(g *guest, n fuse.NodeID) {
			g.write(n, g.open(n, unix.O_WRONLY), 0, "D")
			same(g, "content", g.content("f"), "Data")
		}},
		{"create", func(g *guest, n fuse.NodeID) {
			m, h := g.made("f", unix.O_RDWR)
			same(g, "node", m, n)
			same(g, "content", g.read(m, h, 0, 10), "data")
		}},
		{"opendir", func(g *guest, n fuse.NodeID) {
			var o fuse.Opened
			want(g, "OpenDir", g.fs.OpenDir(g.c, n, 0, &o), unix.ENOTDIR)
		}},
		{"readlink", func(g *guest, n fuse.NodeID) {
			_, err := g.fs.ReadLink(g.c, n, make([]byte, 10))
			want(g, "ReadLink", err, unix.EINVAL)
		}},
		{"lookup below", func(g *guest, n fuse.NodeID) {
			_, err := g.lookup(n, "x")
			want(g, "Lookup", err, unix.ENOTDIR)
		}},
		{"xattr", func(g *guest, n fuse.NodeID) {
			must(g, g.fs.SetXattr(g.c, n, []byte("user.a"), []byte("b"), 0, false))
			size, err := g.fs.GetXattr(g.c, n, []byte("user.a"), make([]byte, 10))
			must(g, err)
			same(g, "size", size, 1)
		}},
		{"link", func(g *guest, n fuse.NodeID) {
			e, err := g.link(n, "l")
			must(g, err)
			same(g, "node", e.Node, n)
			same(g, "links", e.Attr.Nlink, 2)
		}},
		{"rename", func(g *guest, n fuse.NodeID) {
			must(g, g.rename("f", "g", 0))
			same(g, "size", g.attr(n).Size, 4)
			same(g, "node", g.find("g").Node, n)
		}},
		{"rename over it", func(g *guest, n fuse.NodeID) {
			g.file("new", "", 0o644)
			must(g, g.rename("new", "f", 0))
			same(g, "links", g.attr(n).Nlink, 0)
		}},
		{"unlink", func(g *guest, n fuse.NodeID) {
			must(g, g.fs.Unlink(g.c, fuse.RootID, []byte("f")))
			same(g, "links", g.attr(n).Nlink, 0)
			same(g, "content", g.read(n, g.open(n, unix.O_RDONLY), 0, 10), "data")
		}},
		{"statfs", func(g *guest, n fuse.NodeID) { must(g, g.fs.StatFS(g.c, n, new(fuse.StatFS))) }},
		{"access", func(g *guest, n fuse.NodeID) { must(g, g.fs.Access(g.c, n, unix.R_OK)) }},
		{"forget", func(g *guest, n fuse.NodeID) {
			g.forget(n, 1)
			_, err := g.getattr(n, 0)
			want(g, "GetAttr", err, unix.EBADF)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := lazyGuest(t)
			g.file("f", "data", 0o644)
			before := fds(t)
			test.run(g, g.findLazy("f").Node)
			g.fs.Destroy()
			same(t, "descriptors", fds(t), before)
			same(t, "budget", g.fs.budget.n.Load(), 0)
		})
	}
	t.Run("symlink", func(t *testing.T) {
		g := lazyGuest(t)
		must(t, os.Symlink("../target", g.path("l")))
		n, b := g.findLazy("l").Node, make([]byte, 100)
		size, err := g.fs.ReadLink(g.c, n, b)
		must(t, err)
		same(t, "target", string(b[:size]), "../target")
		_, err = g.openErr(n, 0)
		want(t, "Open", err, unix.ELOOP)
	})
}

// opened tells how often a file was opened, O_PATH not counted, since it began to look.
func opened(t *testing.T, path string) func() int {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	_, err = unix.InotifyAddWatch(fd, path, unix.IN_OPEN|unix.IN_DONT_FOLLOW)
	must(t, err)
	return func() int {
		n, err := unix.Read(fd, make([]byte, 100*unix.SizeofInotifyEvent))
		if err == unix.EAGAIN {
			return 0
		}
		must(t, err)
		return n / unix.SizeofInotifyEvent
	}
}

// TestLazyReplacedByTheHost: what a name leads to when the node is used may be anything. It
// is never taken for what the guest saw, nor opened.
func TestLazyReplacedByTheHost(t *testing.T) {
	for _, test := range []struct {
		name string
		root bool
		make func(g *guest, name string) error
	}{
		{"file", false, func(g *guest, name string) error { return os.WriteFile(g.path(name), []byte("evil"), 0o644) }},
		{"symlink", false, func(g *guest, name string) error { return os.Symlink("/etc/passwd", g.path(name)) }},
		{"fifo", false, func(g *guest, name string) error { return unix.Mkfifo(g.path(name), 0o644) }},
		{"device", true, func(g *guest, name string) error {
			return unix.Mknod(g.path(name), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3)))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.root {
				needRoot(t)
			}
			for _, m := range []FileHandles{HandlesPrefer, HandlesNever} {
				g := lazyGuest(t, func(o *Options) fuse.InitFlags { o.FileHandles = m; return 0 })
				must(t, test.make(g, "new"))
				opens := opened(t, g.path("new"))
				g.file("f", "data", 0o644)
				n := g.findLazy("f").Node
				must(t, os.Rename(g.path("new"), g.path("f")))
				for range 2 {
					_, err := g.openErr(n, unix.O_RDWR)
					want(t, "Open of the file that was replaced", err, unix.ESTALE)
					_, err = g.getattr(n, 0)
					want(t, "GetAttr", err, unix.ESTALE)
					_, err = g.setattr(n, fuse.SetAttr{Valid: fuse.SetAttrMode, Mode: 0o777})
					want(t, "SetAttr", err, unix.ESTALE)
				}
				e := g.find("f")
				if e.Node == n {
					t.Fatal("node of what is there now = that of what was")
				}
				same(t, "inode", e.Attr.Ino, g.host("f").Ino)
				same(t, "attributes", g.attr(e.Node), e.Attr)
				same(t, "opens", opens(), 0)
				if test.name == "file" {
					same(t, "content", g.read(e.Node, g.open(e.Node, 0), 0, 10), "evil")
					same(t, "opens by the guest", opens(), 1)
				}
			}
		})
	}
}

// TestLazyNamesOfOneFile: an inode is one node, whatever names it is found under and with
// or without a descriptor.
func TestLazyNamesOfOneFile(t *testing.T) {
	g := lazyGuest(t)
	g.mkdir("d", 0o755)
	g.file("a", "data", 0o644)
	must(t, os.Link(g.path("a"), g.path("d/b")))
	d := g.find("d").Node
	n := g.findLazy("a").Node
	same(t, "node of the other name", g.findLazy("d/b").Node, n)
	// The last name that it was seen under is the way back, also if it was known before.
	must(t, os.Rename(g.path("d/b"), g.path("c")))
	same(t, "node of the first name", g.findLazy("a").Node, n)
	same(t, "links", g.attr(n).Nlink, 2)
	same(t, "node of a third name", g.find("c").Node, n)
	_, err := g.lookup(d, "b")
	want(t, "Lookup of the name that is gone", err, unix.ENOENT)
	g.forget(n, 3)
	same(t, "links", g.attr(n).Nlink, 2)
	g.forget(n, 1)
	_, err = g.getattr(n, 0)
	want(t, "GetAttr of the forgotten node", err, unix.EBADF)
}

// TestLazyNodeIsFoundAgain: a node that was ESTALE works again as soon as a lookup says
// where it is.
func TestLazyNodeIsFoundAgain(t *testing.T) {
	g := lazyGuest(t)
	g.mkdir("d", 0o755)
	g.file("f", "data", 0o644)
	n := g.findLazy("f").Node
	must(t, os.Rename(g.path("f"), g.path("d/f")))
	_, err := g.getattr(n, 0)
	want(t, "GetAttr of what went elsewhere", err, unix.ESTALE)
	must(t, os.Rename(g.path("d/f"), g.path("f")))
	same(t, "node", g.findLazy("f").Node, n)
	same(t, "size", g.attr(n).Size, 4)
}

// TestLazyMeetsDescriptor: a node with a descriptor is known by its birth if it was old when
// it was made, and by another descriptor otherwise.
func TestLazyMeetsDescriptor(t *testing.T) {
	for _, old := range []int64{0, 3600} {
		g := lazyGuest(t)
		g.fs.nodes.old = old
		g.file("a", "", 0o644)
		must(t, os.Link(g.path("a"), g.path("b")))
		n := g.find("a").Node
		must(t, g.release(n, g.open(n, unix.O_RDONLY)))
		g.fs.nodes.old = 0
		same(t, "node of the other name", g.find("b").Node, n)
		same(t, "has its descriptor", !g.evicted(n), true)
	}
}

// TestLazyAndLookupWithDescriptor: when the predictor is against it, a node without a
// descriptor gets one from the next lookup that has it.
func TestLazyAndLookupWithDescriptor(t *testing.T) {
	g := lazyGuest(t)
	g.file("a", "", 0o644)
	must(t, os.Link(g.path("a"), g.path("b")))
	n := g.findLazy("a").Node
	g.fs.nodes.lazy.count(-2 * lazyMost)
	same(t, "node of the other name", g.find("b").Node, n)
	same(t, "has its descriptor", !g.evicted(n), true)
}

// TestLazyNumberOfAnother: an inode with the number of one that is gone is another node.
func TestLazyNumberOfAnother(t *testing.T) {
	for _, won := range []int32{0, -2 * lazyMost} { // without a descriptor, and with one
		g := lazyGuest(t)
		g.file("a", "data", 0o644)
		n := g.findLazy("a").Node
		e := g.fs.nodes.get(n)
		e.v.way.born += 2 // as if it had been an earlier inode
		g.fs.nodes.put(e)
		must(t, os.Rename(g.path("a"), g.path("b")))
		g.fs.nodes.lazy.count(won)
		m := g.find("b")
		if m.Node == n {
			t.Fatal("node of the later inode = that of the earlier")
		}
		_, err := g.openErr(n, 0)
		want(t, "Open of the earlier", err, unix.ESTALE)
		same(t, "content of the later", g.read(m.Node, g.open(m.Node, 0), 0, 10), "data")
		g.forget(n, 1)
		same(t, "node of the later", g.find("b").Node, m.Node)
	}
}

// TestLazyVictim: the guest removes a name that led to one file when it looked, and leads to
// another, without a descriptor, now.
func TestLazyVictim(t *testing.T) {
	g := lazyGuest(t)
	g.file("a", "a", 0o644)
	g.file("b", "bb", 0o644)
	g.fs.nodes.old = 3600
	g.find("a")
	g.fs.nodes.old = 0
	b := g.findLazy("b").Node
	must(t, os.Rename(g.path("b"), g.path("a")))
	must(t, g.fs.Unlink(g.c, fuse.RootID, []byte("a")))
	same(t, "links", g.attr(b).Nlink, 0)
	same(t, "content", g.read(b, g.open(b, 0), 0, 10), "bb")
}

func TestLazyUnlinkOfOneName(t *testing.T) {
	for _, m := range []FileHandles{HandlesPrefer, HandlesNever} {
		for _, names := range [][2]string{{"a", "b"}, {"b", "a"}} {
			g := lazyGuest(t, func(o *Options) fuse.InitFlags { o.FileHandles = m; return 0 })
			g.file("a", "data", 0o644)
			must(t, os.Link(g.path("a"), g.path("b")))
			n := g.findLazy("a").Node
			same(t, "node of the other name", g.findLazy("b").Node, n)
			must(t, g.fs.Unlink(g.c, fuse.RootID, []byte(names[0])))
			g.evictAll()
			same(t, "links", g.attr(n).Nlink, 1)
			must(t, g.fs.Unlink(g.c, fuse.RootID, []byte(names[1])))
			g.evictAll()
			same(t, "links", g.attr(n).Nlink, 0)
		}
	}
}

func TestPredictor(t *testing.T) {
	var p predictor
	for _, step := range []struct {
		name  string
		calls []int32
		times int
		lazy  bool
	}{
		{"nothing is known", nil, 1, true},
		{"files are looked up to be opened", []int32{lazyMade, lazyHeld}, 3, false},
		{"a tree is walked", []int32{lazyMade}, 10, true},
		{"every other file is opened", []int32{lazyMade, lazyMade, lazyHeld}, 10 * lazyMost, true},
		{"a few are opened", []int32{lazyHeld}, 50, true},
		{"what is looked up is young", []int32{lazyVain}, 2 * lazyMost, false},
		{"files are looked up to be opened", []int32{lazyMade, lazyHeld}, 10 * lazyMost, false},
		{"a directory is read, and its files opened later", []int32{lazyMade}, 50, false},
		{"a tree is walked", []int32{lazyMade}, lazyMost, true},
	} {
		for range step.times {
			for _, n := range step.calls {
				p.count(n)
			}
		}
		if p.lazy() != step.lazy {
			t.Errorf("%s: lazy = %v; want %v", step.name, p.lazy(), step.lazy)
		}
	}
}

// TestPredictorCounts: it learns from nodes that begin with a descriptor, and from others.
func TestPredictorCounts(t *testing.T) {
	g := lazyGuest(t)
	p := &g.fs.nodes.lazy
	for i := range 20 {
		g.file(fmt.Sprint(i), "", 0o644)
	}
	p.won.Store(-10)
	for i := range 10 {
		same(t, "without a descriptor", g.evicted(g.find(fmt.Sprint(i)).Node), i >= 5)
	}
	same(t, "calls won by 10 lookups", p.won.Load(), -10+10*lazyMade)
	for i := range 10 {
		must(t, g.use(g.find(fmt.Sprint(i)).Node))
		must(t, g.use(g.find(fmt.Sprint(i)).Node))
	}
	same(t, "calls lost when all are used", p.won.Load(), -10+10*(lazyMade+lazyHeld))
}

// TestNothingIsKnown: without a birth and a witness, nothing is taken for the inode.
func TestNothingIsKnown(t *testing.T) {
	g := lazyGuest(t)
	g.file("f", "", 0o644)
	e := g.fs.nodes.get(g.findLazy("f").Node)
	defer g.fs.nodes.put(e)
	e.v.way.born = 0
	if g.fs.knows(local(g.c), e, new(unix.Statx_t), -1, nil) {
		t.Error("knows = true; want false")
	}
}

func TestLazyAllocatesNothing(t *testing.T) {
	g := lazyGuest(t)
	g.file("f", "", 0o644)
	name := []byte("f")
	var e fuse.Entry
	f := func() {
		g.fs.Lookup(g.c, fuse.RootID, name, &e)
		g.forget(e.Node, 1)
	}
	f()
	testkit.NoAllocs(t, 50, "Lookup and Forget", f)
	if m := g.findLazy("f").Node; m == e.Node {
		t.Errorf("node = %d, which was forgotten; want another", m)
	}
}

// TestLazyStorm lets threads find, use, rename, remove and forget files that have names and
// content in common, while the host replaces some. No request may see another file's data,
// and nothing may be left over.
func TestLazyStorm(t *testing.T) {
	eachWay(t, func(t *testing.T, g *guest) {
		if g.fs.nodes.old != 0 {
			g.fs.nodes.old = oldAge // all are young: mostly descriptors
		}
		const files, rounds = 12, 150
		g.mkdir("d", 0o755)
		for f := range files {
			g.file(fmt.Sprint("d/", f), fmt.Sprint(f), 0o644)
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
				name := fmt.Sprint(i * 2 % files) // of the others the guest is sure
				os.WriteFile(g.path("tmp"), []byte(name), 0o644)
				os.Rename(g.path("tmp"), g.path("d/"+name))
			}
		})
		for w := range 4 {
			wg.Go(func() {
				g := g.thread(t)
				d, err := g.lookup(fuse.RootID, "d")
				if err != nil {
					t.Errorf("Lookup(d) = %v; want success", err)
					return
				}
				for i := range rounds {
					f := (i + w) % files
					name := fmt.Sprint(f)
					e, err := g.lookup(d.Node, name)
					if err != nil {
						t.Errorf("Lookup(%s) = %v; want success", name, err)
						return
					}
					if (i+w)%3 == 0 {
						o, err := g.openErr(e.Node, 0)
						if err == unix.ESTALE && f%2 == 0 {
							stale.Add(1)
						} else if err != nil {
							t.Errorf("Open(%s) = %v; want success", name, err)
						} else {
							if s, err := g.readErr(e.Node, o.Handle, 0, 10); s != name || err != nil {
								t.Errorf("Read of %s = %q, %v", name, s, err)
							}
							g.release(e.Node, o.Handle)
						}
					}
					if i%2 == 0 {
						g.forget(e.Node, 1)
					}
					if i%10 == 0 {
						h := g.opendir(d.Node)
						for _, x := range g.readAll(d.Node, h, 4096, true) {
							g.forget(x.node, 1)
						}
						g.release(d.Node, h)
						g.fs.nodes.lazy.count(int32(i-rounds/2) * lazyMost)
					}
					mine := fmt.Sprint("mine", w)
					g.file(mine, mine, 0o644)
					m, err := g.lookup(fuse.RootID, mine)
					if err != nil {
						t.Errorf("Lookup(%s) = %v; want success", mine, err)
						return
					}
					if err := g.fs.Rename(g.c, fuse.RootID, []byte(mine), d.Node, []byte(mine), 0); err != nil {
						t.Errorf("Rename(%s) = %v; want success", mine, err)
					}
					if err := g.fs.Unlink(g.c, d.Node, []byte(mine)); err != nil {
						t.Errorf("Unlink(%s) = %v; want success", mine, err)
					}
					if a, err := g.getattr(m.Node, 0); err != nil || a.Nlink != 0 || a.Ino != m.Attr.Ino {
						t.Errorf("GetAttr after Unlink(%s) = %+v, %v; want inode %d without links", mine, a, err, m.Attr.Ino)
					}
					g.forget(m.Node, 1)
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
	})
}
