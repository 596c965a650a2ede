package passthrough

import (
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// Special files are the guest's own business. A FIFO without a writer would keep the
// thread for ever.
func TestH096OpenSpecial(t *testing.T) {
	g := newGuest(t)
	must(t, unix.Mkfifo(g.path("fifo"), 0o666))
	must(t, unix.Mknod(g.path("socket"), unix.S_IFSOCK|0o666, 0))
	types := []string{"fifo", "socket"}
	if os.Geteuid() == 0 {
		must(t, unix.Mknod(g.path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		types = append(types, "null")
	}
	before := fds(t)
	for _, name := range types {
		n := g.find(name).Node
		for _, flags := range []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR | unix.O_NONBLOCK, unix.O_RDWR | unix.O_TRUNC} {
			_, err := g.openErr(n, flags)
			want(t, "Open of "+name, err, unix.EBADF)
		}
		g.forget(n, 1)
	}
	same(t, "descriptors", fds(t), before)
}

func TestH157ReadLink(t *testing.T) {
	g := newGuest(t)
	g.mkdir("d", 0o755)
	g.file("f", "", 0o644)
	must(t, unix.Mkfifo(g.path("p"), 0o600))
	for _, name := range []string{"d", "f", "p"} {
		_, err := g.fs.ReadLink(g.c, g.find(name).Node, make([]byte, 100))
		want(t, "ReadLink of "+name, err, unix.EINVAL)
	}
}

// GETATTR by a handle that is not there, or not of this node, is an error and not the
// attributes of the node; without a handle it is by node.
func TestH168GetAttrHandle(t *testing.T) {
	g := newGuest(t)
	a, h := g.made("a", unix.O_RDWR)
	b, _ := g.made("b", unix.O_RDWR)
	g.write(a, h, 0, "four")
	st, err := g.getattr(a, h)
	must(t, err)
	same(t, "size by handle", st.Size, 4)
	st, err = g.getattr(a, 0)
	must(t, err)
	same(t, "size by node", st.Size, 4)
	for _, bad := range []fuse.Handle{h + 1<<32, 12345, ^fuse.Handle(0)} {
		_, err = g.getattr(a, bad)
		want(t, "GetAttr by an unknown handle", err, unix.EBADF)
	}
	_, err = g.getattr(b, h)
	want(t, "GetAttr by another node's handle", err, unix.EBADF)
	must(t, g.release(a, h))
	_, err = g.getattr(a, h)
	want(t, "GetAttr by a released handle", err, unix.EBADF)
}

// A create goes into the directory that the guest found, wherever that is now.
func TestH071CreateInReplaced(t *testing.T) {
	g := newGuest(t)
	g.mkdir("d", 0o755)
	out := t.TempDir()
	n := g.find("d").Node
	must(t, os.Rename(g.path("d"), g.path("old")))
	must(t, os.Symlink(out, g.path("d")))
	in := &fuse.Create{Mode: unix.S_IFREG | 0o644, Flags: unix.O_RDWR}
	var e fuse.Entry
	var o fuse.Opened
	must(t, g.fs.Create(g.c, n, []byte("x"), in, &e, &o))
	same(t, "inode", g.host("old/x").Ino, e.Attr.Ino)
	must(t, os.RemoveAll(g.path("old")))
	want(t, "Create in a removed directory", g.fs.Create(g.c, n, []byte("y"), in, &e, &o), unix.ENOENT)
	if list, _ := os.ReadDir(out); len(list) != 0 {
		t.Errorf("outside = %v; want nothing", list)
	}
}

func TestH115StatxOfUnlinked(t *testing.T) {
	g := newGuest(t)
	n, h := g.made("f", unix.O_RDWR)
	g.write(n, h, 0, "data")
	must(t, g.fs.Unlink(g.c, fuse.RootID, []byte("f")))
	for _, by := range []fuse.Handle{0, h} {
		var st fuse.Statx
		_, err := g.fs.Statx(g.c, n, by, unix.STATX_BASIC_STATS, 0, &st)
		must(t, err)
		same(t, "nlink", st.Nlink, 0)
		same(t, "size", st.Size, 4)
	}
}

func TestH117CopyAcross(t *testing.T) {
	g := newGuest(t)
	g.tmpfs("d", "")
	a, ha := g.made("a", unix.O_RDWR)
	g.write(a, ha, 0, "0123456789")
	var e fuse.Entry
	var o fuse.Opened
	must(t, g.fs.Create(g.c, g.find("d").Node, []byte("b"), &fuse.Create{Mode: 0o644, Flags: unix.O_RDWR}, &e, &o))
	n, err := g.fs.CopyFileRange(g.c, fuse.FileRange{Node: a, Handle: ha}, fuse.FileRange{Node: e.Node, Handle: o.Handle}, 10, 0)
	if err == syscall.EXDEV {
		same(t, "size after EXDEV", g.host("d/b").Size, 0)
		return
	}
	must(t, err)
	same(t, "data", g.read(e.Node, o.Handle, 0, 100), "0123456789"[:n])
}

// Modes that a file system may lack are refused as fallocate(2) of the host does.
func TestH119FallocateModes(t *testing.T) {
	g := newGuest(t)
	n, h := g.made("f", unix.O_RDWR)
	g.write(n, h, 0, "0123456789")
	direct, err := os.OpenFile(g.path("direct"), os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	defer direct.Close()
	_, err = direct.WriteString("0123456789")
	must(t, err)
	for name, mode := range map[string]uint32{
		"zero": unix.FALLOC_FL_ZERO_RANGE, "zero, keep size": unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE,
		"unshare": unix.FALLOC_FL_UNSHARE_RANGE, "punch without keep size": unix.FALLOC_FL_PUNCH_HOLE,
		"collapse": unix.FALLOC_FL_COLLAPSE_RANGE, "insert": unix.FALLOC_FL_INSERT_RANGE,
	} {
		ours := g.fs.Fallocate(g.c, n, h, 2, 4, mode)
		host := unix.Fallocate(int(direct.Fd()), mode, 2, 4)
		if host != ours && (host != nil || ours != nil) {
			t.Errorf("Fallocate(%s) = %v; want %v, as the host says", name, ours, host)
		}
		same(t, "content after "+name, g.content("f"), g.content("direct"))
	}
}

// A second INIT drops all that came before it, descriptors included.
func TestH054InitCloses(t *testing.T) {
	g := newGuest(t)
	for _, name := range []string{"a", "b", "c"} {
		g.file(name, name, 0o644)
	}
	before := fds(t)
	n := g.find("a").Node
	h := g.open(n, unix.O_RDWR)
	g.find("b")
	g.opendir(fuse.RootID)
	if fds(t) <= before {
		t.Fatal("nodes and handles take no descriptors; want some, to be closed")
	}
	g.fs.Init(0)
	same(t, "descriptors", fds(t), before)
	_, err := g.getattr(n, 0)
	want(t, "GetAttr of an old node", err, unix.EBADF)
	_, err = g.readErr(g.find("a").Node, h, 0, 1)
	want(t, "Read by an old handle", err, unix.EBADF)
}

// The flag that makes a file immutable takes a capability that the server does not have.
func TestH185Immutable(t *testing.T) {
	const immutable = 0x10 // FS_IMMUTABLE_FL
	needRoot(t)
	base := newGuest(t)
	base.file("f", "", 0o644)
	must(t, os.Chown(base.path("f"), 1000, 1000))
	t.Run("as a user", func(t *testing.T) { // on a thread that stays one
		base := *base
		base.TB = t
		g := base.asDaemonOf(1000)
		n := g.find("f").Node
		h := g.open(n, unix.O_RDWR)
		old, result, err := g.ioctl(n, h, fsGetFlags, nil, 4)
		must(t, err)
		same(t, "FS_IOC_GETFLAGS", result, 0)
		_, result, err = g.ioctl(n, h, fsSetFlags, le(word(old, 0)|immutable), 0)
		must(t, err)
		same(t, "FS_IOC_SETFLAGS(immutable)", result, -int(unix.EPERM))
		now, _, err := g.ioctl(n, h, fsGetFlags, nil, 4)
		must(t, err)
		same(t, "flags", word(now, 0), word(old, 0))
	})
}

// STATFS is about the file system on which the node is, and not about the root's.
func TestH189StatfsOfSubmount(t *testing.T) {
	g := newGuest(t)
	g.tmpfs("d", "size=64k,nr_inodes=10")
	for name, here := range map[string]bool{"d": true, "": false} {
		n := fuse.RootID
		if name != "" {
			n = g.find(name).Node
		}
		var st fuse.StatFS
		must(t, g.fs.StatFS(g.c, n, &st))
		same(t, "64 KiB and 10 inodes in "+g.path(name), st.Blocks*uint64(st.Frsize) == 64<<10 && st.Files == 10, here)
	}
}

// ".." in a listing is a directory of the share, wherever the host moves this one.
func TestH136DotDotElsewhere(t *testing.T) {
	g := newGuest(t)
	for _, name := range []string{"a", "b", "a/d"} {
		g.mkdir(name, 0o755)
	}
	a, b, d := g.find("a"), g.find("b"), g.find("a/d")
	above := func() uint64 {
		for _, e := range g.readAll(d.Node, g.opendir(d.Node), 4096, false) {
			if e.name == ".." {
				return e.ino
			}
		}
		return 0
	}
	same(t, "ino where it was found", above(), a.Attr.Ino)
	must(t, g.fs.Rename(g.c, a.Node, []byte("d"), b.Node, []byte("d"), 0))
	same(t, "ino after a rename by the guest", above(), b.Attr.Ino)
	must(t, os.Rename(g.path("b/d"), g.path("a/d")))
	same(t, "ino after a rename by the host", above(), d.Attr.Ino)
	g.find("a/d")
	same(t, "ino when it was found again", above(), a.Attr.Ino)
	must(t, os.Rename(g.path("a/d"), t.TempDir()+"/d"))
	same(t, "ino outside of the share", above(), d.Attr.Ino)
	g.forget(a.Node, 1<<20)
	same(t, "ino when the parent is forgotten", above(), d.Attr.Ino)
}
