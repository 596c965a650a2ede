package passthrough

import (
	"context"
	"log/slog"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

func writeback(o *Options) fuse.InitFlags {
	o.Writeback = true
	return fuse.WritebackCache
}

func TestH090Writeback(t *testing.T) {
	g := newGuest(t, writeback)
	n, h := g.made("f", unix.O_WRONLY|unix.O_APPEND)
	_, err := g.writeErr(n, h, 0, "data", fuse.WriteArgs{OpenFlags: unix.O_WRONLY | unix.O_APPEND})
	must(t, err)
	_, err = g.writeErr(n, h, 0, "D", fuse.WriteArgs{OpenFlags: unix.O_WRONLY | unix.O_APPEND})
	must(t, err)
	same(t, "content", g.read(n, h, 0, 10), "Data")
	same(t, "content by another handle", g.read(n, g.open(n, unix.O_WRONLY), 0, 10), "Data")
}

func TestH091Append(t *testing.T) {
	g := newGuest(t)
	n, h := g.made("f", unix.O_WRONLY|unix.O_APPEND)
	h2 := g.open(n, unix.O_WRONLY|unix.O_APPEND)
	args := fuse.WriteArgs{OpenFlags: unix.O_WRONLY | unix.O_APPEND}
	for _, x := range []struct {
		h    fuse.Handle
		data string
	}{{h, "a"}, {h2, "b"}, {h, "c"}} {
		_, err := g.writeErr(n, x.h, 0, x.data, args)
		must(t, err)
	}
	same(t, "content", g.content("f"), "abc")
	t.Run("H092 written out of the page cache", func(t *testing.T) {
		args.Flags = fuse.WriteCache
		_, err := g.thread(t).writeErr(n, h, 0, "A", args)
		must(t, err)
		same(t, "content", g.content("f"), "Abc")
	})
	t.Run("host without RWF_APPEND", func(t *testing.T) {
		g := g.thread(t)
		e := g.fs.handles.get(h, n)
		defer g.fs.handles.put(e)
		k, errno := g.fs.appendLocked(local(g.c), &e.v, vec([]byte("tail")))
		if k != 4 || errno != 0 {
			t.Fatalf("appendLocked = %d, %v; want 4", k, errno)
		}
		same(t, "content", g.content("f"), "Abctail")
	})
}

func TestH093Direct(t *testing.T) {
	flags := func(g *guest, n fuse.NodeID, h fuse.Handle) int {
		e := g.fs.handles.get(h, n)
		defer g.fs.handles.put(e)
		k, err := unix.FcntlInt(uintptr(e.v.fd), unix.F_GETFL, 0)
		must(g, err)
		return k
	}
	g := newGuest(t)
	n, h := g.made("f", unix.O_RDWR|unix.O_DIRECT)
	same(t, "O_DIRECT of the host's file", flags(g, n, h)&unix.O_DIRECT, 0)
	g.write(n, h, 1, "x")

	g = newGuest(t, func(o *Options) fuse.InitFlags { o.AllowDirectIO = true; return 0 })
	e, o, err := g.create("f", fuse.Create{Mode: 0o644, Flags: unix.O_RDWR | unix.O_DIRECT})
	if err != nil {
		unable(t, "needs O_DIRECT: "+err.Error())
	}
	same(t, "O_DIRECT of the host's file", flags(g, e.Node, o.Handle)&unix.O_DIRECT, unix.O_DIRECT)
	var sf unix.Statfs_t
	must(t, unix.Statfs(g.dir, &sf))
	if sf.Type != unix.TMPFS_MAGIC { // which does not care
		_, err = g.writeErr(e.Node, o.Handle, 1, "x", fuse.WriteArgs{})
		want(t, "unaligned Write", err, unix.EINVAL)
	}
	g.c.MayBlock = false
	_, err = g.readErr(e.Node, o.Handle, 0, 4096)
	same(t, "Read on a ring's thread", err, error(fuse.ErrWouldBlock))
	_, err = g.writeErr(e.Node, o.Handle, 0, "x", fuse.WriteArgs{})
	same(t, "Write on a ring's thread", err, error(fuse.ErrWouldBlock))
}

func TestH094Noatime(t *testing.T) {
	g := newGuest(t)
	same(t, "flags", g.fs.hostFlags(unix.O_NOATIME), 0)
	g = newGuest(t, func(o *Options) fuse.InitFlags { o.PreserveNoatime = true; return 0 })
	same(t, "flags", g.fs.hostFlags(unix.O_NOATIME), unix.O_NOATIME)
	n, _ := g.made("f", unix.O_RDWR)
	g.open(n, unix.O_NOATIME)
}

func TestH095OpenFlags(t *testing.T) {
	g := newGuest(t)
	g.file("f", "data", 0o644)
	n := g.find("f").Node
	h := g.open(n, unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_NOCTTY|0x20)
	same(t, "content", g.read(n, h, 0, 10), "data")
	for name, flags := range map[string]uint32{"O_PATH": unix.O_PATH, "O_TMPFILE": unix.O_TMPFILE | unix.O_RDWR} {
		_, err := g.openErr(n, flags)
		want(t, "Open with "+name, err, unix.EINVAL)
	}
	_, err := g.openErr(n, unix.O_DIRECTORY)
	want(t, "Open of a file with O_DIRECTORY", err, unix.ENOTDIR)
	_, err = g.openErr(99, 0)
	want(t, "Open of nothing", err, unix.EBADF)
	g.open(n, unix.O_RDWR|unix.O_TRUNC)
	same(t, "size after O_TRUNC", g.host("f").Size, 0)
}

func TestH098Release(t *testing.T) {
	g := newGuest(t)
	a, h := g.made("a", unix.O_RDWR)
	b, _ := g.made("b", unix.O_RDWR)
	want(t, "Release for another node", g.release(b, h), unix.EBADF)
	g.write(a, h, 0, "x")
	must(t, g.release(a, h))
	want(t, "second Release", g.release(a, h), unix.EBADF)
	want(t, "Release of 0", g.release(a, 0), unix.EBADF)
	if h2 := g.open(a, 0); h2 == h {
		t.Errorf("Open = handle %d again; want a new one", h2)
	}
}

func TestH099WrongNode(t *testing.T) {
	g := newGuest(t)
	_, h := g.made("a", unix.O_RDWR)
	b, hb := g.made("b", unix.O_RDWR)
	g.mkdir("d", 0o755)
	d := g.opendir(g.find("d").Node)
	var dbuf fuse.DirBuffer
	dbuf.Reset(4096)
	for _, h := range []fuse.Handle{0, h, 12345, ^fuse.Handle(0), hb + 1<<32} {
		_, err := g.readErr(b, h, 0, 1)
		want(t, "Read", err, unix.EBADF)
		_, err = g.writeErr(b, h, 0, "x", fuse.WriteArgs{})
		want(t, "Write", err, unix.EBADF)
		want(t, "Fsync", g.fs.Fsync(g.c, b, h, false), unix.EBADF)
		want(t, "Flush", g.fs.Flush(g.c, b, h), unix.EBADF)
		want(t, "Fallocate", g.fs.Fallocate(g.c, b, h, 0, 1, 0), unix.EBADF)
		_, err = g.fs.Lseek(g.c, b, h, 0, unix.SEEK_DATA)
		want(t, "Lseek", err, unix.EBADF)
		_, err = g.fs.CopyFileRange(g.c, fuse.FileRange{Node: b, Handle: h}, fuse.FileRange{Node: b, Handle: hb}, 1, 0)
		want(t, "CopyFileRange from", err, unix.EBADF)
		_, err = g.fs.CopyFileRange(g.c, fuse.FileRange{Node: b, Handle: hb}, fuse.FileRange{Node: b, Handle: h}, 1, 0)
		want(t, "CopyFileRange to", err, unix.EBADF)
	}
	want(t, "ReadDir", g.fs.ReadDir(g.c, b, d, 0, false, &dbuf), unix.EBADF)
	want(t, "ReadDir of a file's handle", g.fs.ReadDir(g.c, b, hb, 0, false, &dbuf), unix.ENOTDIR)
	_, err := g.getattr(b, h)
	want(t, "H168 GetAttr", err, unix.EBADF)
	_, err = g.setattr(b, fuse.SetAttr{Valid: fuse.SetAttrHandle | fuse.SetAttrSize, Handle: h})
	want(t, "SetAttr", err, unix.EBADF)
}

func TestH100Policies(t *testing.T) {
	for _, x := range []struct {
		cache     string
		file, dir fuse.OpenOutFlags
		valid     int // seconds
		offer     fuse.InitFlags
	}{
		{"never", fuse.OpenDirectIO, 0, 0, 0},
		{"metadata", fuse.OpenDirectIO, fuse.OpenCacheDir | fuse.OpenKeepCache, 86400, fuse.DoReaddirplus | fuse.ReaddirplusAuto | fuse.CacheSymlinks},
		{"auto", 0, 0, 1, fuse.DoReaddirplus | fuse.ReaddirplusAuto},
		{"always", fuse.OpenKeepCache, fuse.OpenCacheDir | fuse.OpenKeepCache, 86400, fuse.DoReaddirplus | fuse.ReaddirplusAuto | fuse.CacheSymlinks | fuse.NoOpendirSupport},
	} {
		t.Run("H100 "+x.cache, func(t *testing.T) {
			g := newGuest(t, func(o *Options) fuse.InitFlags {
				o.AnnounceSubmounts = false
				must(t, o.Cache.UnmarshalText([]byte(x.cache)))
				same(t, "name", o.Cache.String(), x.cache)
				return 0
			})
			e, o, err := g.create("f", fuse.Create{Mode: 0o644, Flags: unix.O_RDWR})
			must(t, err)
			same(t, "flags of CREATE", o.Flags, x.file)
			o, err = g.openErr(e.Node, 0)
			must(t, err)
			same(t, "flags of OPEN", o.Flags, x.file)
			must(t, g.fs.OpenDir(g.c, fuse.RootID, 0, &o))
			same(t, "flags of OPENDIR", o.Flags, x.dir)
			valid, err := g.fs.GetAttr(g.c, e.Node, 0, new(fuse.Attr))
			must(t, err)
			same(t, "H169 validity", [3]int{int(valid.Seconds()), int(e.EntryValid.Seconds()), int(e.AttrValid.Seconds())}, [3]int{x.valid, x.valid, x.valid})
			offer, need := g.fs.Offer()
			same(t, "offer", offer, x.offer|fuse.HasIoctlDir)
			same(t, "need", need, 0)
		})
	}
	var c Cache
	must(t, c.UnmarshalText([]byte("none"))) // virtiofsd's other name for never
	same(t, "none", c, CacheNever)
	if err := c.UnmarshalText([]byte("some")); err == nil {
		t.Error("UnmarshalText(some) succeeded; want an error")
	}
	same(t, "text of an unknown policy", Cache(9).String(), "Cache(9)")
	if b, err := CacheNever.MarshalText(); err != nil || string(b) != "never" {
		t.Errorf("MarshalText = %q, %v; want never", b, err)
	}
}

func TestOffer(t *testing.T) {
	g := newGuest(t, writeback, func(o *Options) fuse.InitFlags { o.NoReaddirplus = true; return 0 })
	offer, _ := g.fs.Offer()
	same(t, "Offer", offer, fuse.Submounts|fuse.WritebackCache|fuse.HasIoctlDir)
}

func TestH101TruncKeepsSuid(t *testing.T) {
	needRoot(t)
	g := newGuest(t)
	g.file("f", "data", 0o755|os.ModeSetuid)
	g.open(g.find("f").Node, unix.O_WRONLY|unix.O_TRUNC)
	same(t, "mode", g.host("f").Mode&0o7777, 0o4755)
}

func TestNew(t *testing.T) {
	file := t.TempDir() + "/f"
	must(t, os.WriteFile(file, nil, 0o600))
	for dir, e := range map[string]syscall.Errno{
		"/nonexistent-directory": unix.ENOENT,
		file:                     unix.ENOTDIR,
		"":                       unix.ENOENT,
	} {
		_, err := New(Options{SharedDir: dir})
		want(t, "New", err, e)
	}
	fs, err := New(Options{SharedDir: t.TempDir()})
	must(t, err)
	if fs.budget.limit <= 0 {
		t.Errorf("descriptor limit = %d; want more than 0", fs.budget.limit)
	}
	must(t, fs.Close())
	must(t, fs.Close())
}

func TestRemote(t *testing.T) {
	same(t, "NFS", remote(unix.NFS_SUPER_MAGIC), true)
	same(t, "ext4", remote(unix.EXT4_SUPER_MAGIC), false)
}

// A counter is a log that counts its lines.
type counter struct{ n *int }

func (c counter) Enabled(context.Context, slog.Level) bool  { return true }
func (c counter) Handle(context.Context, slog.Record) error { *c.n++; return nil }
func (c counter) WithAttrs([]slog.Attr) slog.Handler        { return c }
func (c counter) WithGroup(string) slog.Handler             { return c }

func TestTroubles(t *testing.T) {
	lines := 0
	g := newGuest(t, func(o *Options) fuse.InitFlags { o.Log = slog.New(counter{&lines}); return 0 })
	for _, x := range []struct {
		host, guest syscall.Errno
		lines       int // so far
	}{
		{0, 0, 0},
		{unix.ENOENT, unix.ENOENT, 0},
		{unix.EMFILE, unix.ENFILE, 1},
		{unix.ENFILE, unix.ENFILE, 1},
		{unix.ENOSPC, unix.ENOSPC, 2},
		{unix.EDQUOT, unix.EDQUOT, 2},
	} {
		want(t, "errno", g.fs.errno(x.host), x.guest)
		same(t, "lines logged", lines, x.lines)
	}
	g.fs.troubles[troubleFDs].Add(-61)
	g.fs.errno(unix.EMFILE)
	same(t, "lines logged a minute later", lines, 3)
	g.fs.DetachThread(g.c.Local)
}

// An append-only file is opened with O_APPEND where the guest has it, and then takes
// only what goes to its end.
func TestAppendOnly(t *testing.T) {
	needRoot(t)
	const appendOnly = 0x20 // FS_APPEND_FL, linux/fs.h
	file := func(t *testing.T, g *guest) fuse.NodeID {
		g.file("f", "old", 0o644)
		f, err := os.Open(g.path("f"))
		must(t, err)
		old, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		must(t, err)
		t.Cleanup(func() {
			must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, old))
			must(t, f.Close())
		})
		must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, old|appendOnly))
		return g.find("f").Node
	}
	const flags = unix.O_WRONLY | unix.O_APPEND

	g := newGuest(t)
	n := file(t, g)
	before := fds(t)
	for _, bad := range []uint32{unix.O_WRONLY, unix.O_RDWR, flags | unix.O_TRUNC} {
		_, err := g.openErr(n, bad)
		want(t, "Open", err, unix.EPERM)
	}
	same(t, "descriptors", fds(t), before)

	h := g.open(n, flags)
	_, o, err := g.create("f", fuse.Create{Flags: flags})
	must(t, err)
	for _, x := range []struct {
		h    fuse.Handle
		args fuse.WriteArgs
		want syscall.Errno
	}{
		{h, fuse.WriteArgs{OpenFlags: flags}, 0},
		{o.Handle, fuse.WriteArgs{OpenFlags: flags}, 0},
		{h, fuse.WriteArgs{OpenFlags: unix.O_WRONLY}, unix.EPERM},
		{h, fuse.WriteArgs{OpenFlags: flags, Flags: fuse.WriteCache}, unix.EPERM},
	} {
		_, err := g.writeErr(n, x.h, 0, "+", x.args)
		want(t, "Write", err, x.want)
	}
	same(t, "content", g.content("f"), "old++")

	t.Run("writeback", func(t *testing.T) { // pages have no end to go to
		g := newGuest(t, writeback)
		_, err := g.openErr(file(t, g), flags)
		want(t, "Open", err, unix.EPERM)
	})
}
