package passthrough

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

func TestH060LookupTwiceForgetOnce(t *testing.T) {
	g := newGuest(t)
	g.file("a", "x", 0o644)
	before := fds(t)
	n := g.find("a").Node
	same(t, "second Lookup", g.find("a").Node, n)
	g.forget(n, 1)
	g.attr(n)
	g.forget(n, 1)
	_, err := g.getattr(n, 0)
	want(t, "GetAttr of a forgotten node", err, syscall.EBADF)
	same(t, "descriptors", fds(t), before)
	if again := g.find("a").Node; again == n {
		t.Fatalf("Lookup = %d, the forgotten node; want a new one", again)
	}
}

func TestH061ForgetTooMuch(t *testing.T) {
	g := newGuest(t)
	g.file("a", "x", 0o644)
	n := g.find("a").Node
	g.forget(n, 1<<63)
	g.forget(n, 1)
	_, err := g.getattr(n, 0)
	want(t, "GetAttr", err, syscall.EBADF)
	m := g.find("a").Node
	g.forget(m, 0)
	g.attr(m)
	for _, id := range []fuse.NodeID{0, 2 << 32, 1 << 63, ^fuse.NodeID(0), 1<<32 | 1} {
		g.forget(id, 1)
		_, err := g.getattr(id, 0)
		want(t, "GetAttr of an unknown node", err, syscall.EBADF)
	}
	g.attr(m)
}

func TestH062ForgetRoot(t *testing.T) {
	g := newGuest(t)
	g.forget(fuse.RootID, 2)
	g.forget(fuse.RootID, 1_000_000_000)
	g.attr(fuse.RootID)
	_, err := g.fs.ListXattr(g.c, fuse.RootID, nil)
	must(t, err)
	g.fs.Destroy()
	g.fs.Init(0)
	g.attr(fuse.RootID)
}

func TestH063HardLinks(t *testing.T) {
	g := newGuest(t)
	g.file("a", "x", 0o644)
	must(t, os.Link(g.path("a"), g.path("b")))
	n := g.find("a").Node
	same(t, "node of the other name", g.find("b").Node, n)
	must(t, g.fs.Unlink(g.c, fuse.RootID, []byte("a")))
	same(t, "nlink", g.attr(n).Nlink, 1)
	g.forget(n, 1)
	g.attr(n)
	g.forget(n, 1)
	_, err := g.getattr(n, 0)
	want(t, "GetAttr", err, syscall.EBADF)
}

// bind mounts src on dst, both below the shared directory.
func (g *guest) bind(src, dst string) {
	g.Helper()
	needRoot(g)
	if err := unix.Mount(g.path(src), g.path(dst), "", unix.MS_BIND, ""); err != nil {
		unable(g, "needs mount(2): "+err.Error())
	}
	g.Cleanup(func() { unix.Unmount(g.path(dst), unix.MNT_DETACH) })
}

func TestH064BindMount(t *testing.T) {
	g := newGuest(t)
	g.mkdir("a", 0o755)
	g.mkdir("b", 0o755)
	g.file("a/f", "x", 0o644)
	g.bind("a", "b")
	a, b := g.find("a"), g.find("b")
	if a.Node == b.Node {
		t.Fatalf("nodes of a directory and its bind mount = %d, %d; want two", a.Node, b.Node)
	}
	same(t, "flags of a directory", a.Attr.Flags, 0)
	for range 2 { // the flag comes with every lookup (E.3.4)
		same(t, "flags of a mount", g.find("b").Attr.Flags, fuse.AttrSubmount)
	}
	if x, y := g.find("a/f"), g.find("b/f"); x.Node == y.Node || y.Attr.Flags != 0 {
		t.Fatalf("file seen through both = %+v, %+v; want two nodes without flags", x, y)
	}
	t.Run("H189 statfs works below", func(t *testing.T) {
		var st fuse.StatFS
		must(t, g.thread(t).fs.StatFS(g.thread(t).c, b.Node, &st))
		if st.Blocks == 0 || st.Namelen != 255 {
			t.Errorf("StatFS = %+v; want sizes", st)
		}
	})
	t.Run("H154 link across mounts", func(t *testing.T) {
		g := g.thread(t)
		var e fuse.Entry
		err := g.fs.Link(g.c, g.find("a/f").Node, b.Node, []byte("l"), &e)
		want(t, "Link", err, syscall.EXDEV)
	})
	t.Run("H140 readdirplus", func(t *testing.T) {
		g := g.thread(t)
		list := names(g.readAll(fuse.RootID, g.opendir(fuse.RootID), 4096, true))
		same(t, "node of the submount", list["b"].node, 0)
		same(t, "mode of the submount", list["b"].mode, unix.S_IFDIR)
		same(t, "node of a directory", list["a"].node, a.Node)
	})
	t.Run("not announced", func(t *testing.T) {
		g := g.thread(t)
		g.fs.Init(0)
		same(t, "flags", g.find("b").Attr.Flags, 0)
		list := names(g.readAll(fuse.RootID, g.opendir(fuse.RootID), 4096, true))
		if list["b"].node == 0 {
			t.Error("node of the submount = 0; want one")
		}
	})
}

func TestLookupNames(t *testing.T) {
	g := newGuest(t)
	g.mkdir("d", 0o755)
	for _, x := range []struct {
		name, in string
		err      syscall.Errno
	}{
		{"H065 dot", ".", unix.EINVAL},
		{"H065 dot dot", "..", unix.EINVAL},
		{"H066 slash inside", "d/x", unix.EINVAL},
		{"H066 empty", "", unix.EINVAL},
		{"H066 slash", "/", unix.EINVAL},
		{"H066 up and away", "../etc", unix.EINVAL},
		{"NUL", "d\x00x", unix.EINVAL},
		{"H067 256 bytes", strings.Repeat("n", 256), unix.ENAMETOOLONG},
		{"H067 4096 bytes", strings.Repeat("n", 4096), unix.ENAMETOOLONG},
		{"H072 missing", "nothing", unix.ENOENT},
	} {
		t.Run(x.name, func(t *testing.T) {
			_, err := g.thread(t).lookup(fuse.RootID, x.in)
			want(t, "Lookup", err, x.err)
		})
	}
}

func TestDotNames(t *testing.T) {
	g := newGuest(t)
	n, _ := g.made("f", unix.O_RDWR)
	for _, dots := range []string{".", ".."} {
		_, err := g.mkdirat(fuse.RootID, dots, 0o755)
		want(t, "MkDir", err, unix.EEXIST)
		_, err = g.mknod(dots, unix.S_IFREG, 0)
		want(t, "MkNod", err, unix.EEXIST)
		_, err = g.symlink(dots, "x")
		want(t, "Symlink", err, unix.EEXIST)
		_, err = g.link(n, dots)
		want(t, "Link", err, unix.EEXIST)
		_, _, err = g.create(dots, fuse.Create{Flags: unix.O_RDWR})
		want(t, "Create", err, unix.EEXIST)
		want(t, "Unlink", g.fs.Unlink(g.c, fuse.RootID, []byte(dots)), unix.EISDIR)
		want(t, "Rename from", g.rename(dots, "x", 0), unix.EBUSY)
		want(t, "Rename to", g.rename("f", dots, 0), unix.EBUSY)
	}
	want(t, "RmDir(.)", g.fs.RmDir(g.c, fuse.RootID, []byte(".")), unix.EINVAL)
	want(t, "RmDir(..)", g.fs.RmDir(g.c, fuse.RootID, []byte("..")), unix.ENOTEMPTY)
}

func TestH067LongName(t *testing.T) {
	g := newGuest(t)
	name := strings.Repeat("n", 255)
	n, _ := g.made(name, unix.O_RDWR)
	same(t, "node", g.find(name).Node, n)
	_, _, err := g.create(name+"n", fuse.Create{Flags: unix.O_RDWR})
	want(t, "Create of 256 bytes", err, unix.ENAMETOOLONG)
}

func TestH068OddNames(t *testing.T) {
	g := newGuest(t)
	odd := []string{"\x80\xff", "new\nline", "space ", "...", ".a", "..a", "~", "*", "\\"}
	for _, name := range odd {
		g.made(name, unix.O_RDWR)
		g.find(name)
	}
	list := names(g.readAll(fuse.RootID, g.opendir(fuse.RootID), 4096, false))
	same(t, "number of names", len(list), len(odd))
	for _, name := range odd {
		if _, ok := list[name]; !ok {
			t.Errorf("ReadDir has no %q", name)
		}
	}
}

func TestH069ThroughSymlink(t *testing.T) {
	g := newGuest(t)
	g.mkdir("d", 0o755)
	g.file("d/x", "", 0o644)
	must(t, os.Symlink("d", g.path("l")))
	n := g.find("l").Node
	_, err := g.lookup(n, "x")
	want(t, "Lookup below a symlink", err, unix.ENOTDIR)
	_, err = g.mkdirat(n, "y", 0o755)
	want(t, "MkDir below a symlink", err, unix.ENOTDIR)
}

func TestH070SymlinkOut(t *testing.T) {
	g := newGuest(t)
	must(t, os.Symlink("/etc/passwd", g.path("l")))
	e := g.find("l")
	same(t, "type", e.Attr.Mode&unix.S_IFMT, unix.S_IFLNK)
	_, err := g.openErr(e.Node, unix.O_RDONLY)
	want(t, "Open", err, unix.ELOOP)
	var o fuse.Opened
	want(t, "OpenDir", g.fs.OpenDir(g.c, e.Node, 0, &o), unix.ENOTDIR)
}

func TestH071DirReplaced(t *testing.T) {
	g := newGuest(t)
	g.mkdir("d", 0o755)
	out := t.TempDir()
	n := g.find("d").Node
	must(t, os.Rename(g.path("d"), g.path("old")))
	must(t, os.Symlink(out, g.path("d")))
	_, err := g.mkdirat(n, "x", 0o755)
	must(t, err)
	g.host("old/x")
	must(t, os.RemoveAll(g.path("old")))
	_, err = g.mkdirat(n, "y", 0o755)
	want(t, "MkDir in a removed directory", err, unix.ENOENT)
	if list, _ := os.ReadDir(out); len(list) != 0 {
		t.Errorf("outside = %v; want nothing", list)
	}
}

func TestH072NegativeTimeout(t *testing.T) {
	g := newGuest(t, func(o *Options) fuse.InitFlags { o.NegativeTimeout = 5 * time.Second; return 0 })
	e, err := g.lookup(fuse.RootID, "nothing")
	must(t, err)
	same(t, "entry", e, fuse.Entry{EntryValid: 5 * time.Second})
	_, err = g.lookup(99, "x")
	want(t, "Lookup below an unknown node", err, unix.EBADF)
}

func TestH074InodeNumberReuse(t *testing.T) {
	g := newGuest(t)
	g.file("a", "first", 0o644)
	a := g.find("a").Node
	must(t, os.Remove(g.path("a")))
	g.file("b", "second", 0o644)
	b := g.find("b").Node
	if a == b {
		t.Fatalf("nodes = %d, %d; want two", a, b)
	}
	same(t, "content of the removed file", g.read(a, g.open(a, 0), 0, 100), "first")
	same(t, "content of the new file", g.read(b, g.open(b, 0), 0, 100), "second")
}

func TestH075Budget(t *testing.T) {
	g := newGuest(t, func(o *Options) fuse.InitFlags { o.MaxFDs = 2; return 0 })
	g.file("a", "a", 0o644)
	g.file("b", "b", 0o644)
	before := fds(t)
	a := g.find("a").Node
	h := g.open(a, 0)
	_, err := g.lookup(fuse.RootID, "b")
	want(t, "Lookup beyond the limit", err, unix.ENFILE)
	_, err = g.openErr(a, 0)
	want(t, "Open beyond the limit", err, unix.ENFILE)
	_, _, err = g.create("new", fuse.Create{Mode: 0o644, Flags: unix.O_RDWR})
	want(t, "Create beyond the limit", err, unix.ENFILE)
	g.find("a") // known already
	list := names(g.readAll(fuse.RootID, g.opendirFull(), 4096, true))
	same(t, "known entry", list["a"].node, a)
	same(t, "entry without room", list["b"].node, 0)
	must(t, g.release(a, h))
	g.forget(a, 100)
	g.find("b")
	g.fs.Destroy()
	same(t, "descriptors", fds(t), before)
	same(t, "budget", g.fs.budget.n.Load(), 0)
}

// opendirFull opens the root although the budget is used up.
func (g *guest) opendirFull() fuse.Handle {
	g.Helper()
	g.fs.budget.n.Add(-1)
	defer g.fs.budget.n.Add(1)
	return g.opendir(fuse.RootID)
}

func TestH076SpecialFiles(t *testing.T) {
	needRoot(t)
	g := newGuest(t)
	for name, mode := range map[string]uint32{
		"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK, "char": unix.S_IFCHR, "block": unix.S_IFBLK,
	} {
		must(t, unix.Mknod(g.path(name), mode|0o644, int(unix.Mkdev(7, 3))))
		e := g.find(name)
		same(t, "type of "+name, e.Attr.Mode, mode|0o644)
		if mode == unix.S_IFCHR || mode == unix.S_IFBLK {
			same(t, "rdev", e.Attr.Rdev, 7<<8|3)
		}
		for _, flags := range []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
			_, err := g.openErr(e.Node, flags)
			want(t, "H096 Open", err, unix.EBADF)
		}
		_, err := g.setattr(e.Node, fuse.SetAttr{Valid: fuse.SetAttrSize})
		want(t, "SetAttr size", err, unix.EINVAL)
	}
}

func TestWithoutOpenat2(t *testing.T) {
	g := newGuest(t)
	g.fs.host.openat2 = false
	must(t, os.Symlink("/etc", g.path("l")))
	same(t, "type", g.find("l").Attr.Mode&unix.S_IFMT, unix.S_IFLNK)
	n, h := g.made("f", unix.O_RDWR)
	g.write(n, h, 0, "x")
	_, err := g.lookup(fuse.RootID, "..")
	want(t, "Lookup(..)", err, unix.EINVAL)
}

func TestRootIsNotFoundByName(t *testing.T) {
	g := newGuest(t)
	g.mkdir("d", 0o755)
	g.bind(".", "d")
	e := g.find("d")
	if e.Node == fuse.RootID {
		t.Fatal("Lookup of a bind mount of the root = 1; want another node")
	}
	same(t, "inode", e.Attr.Ino, g.attr(fuse.RootID).Ino)
}
