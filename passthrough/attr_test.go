package passthrough

import (
	"math"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

func TestH160Mode(t *testing.T) {
	g := newGuest(t)
	g.file("f", "", 0o644)
	g.mkdir("d", 0o755)
	must(t, os.Symlink("f", g.path("l")))
	for _, name := range []string{"f", "d"} {
		n := g.find(name).Node
		typ := g.attr(n).Mode & unix.S_IFMT
		a, err := g.setattr(n, fuse.SetAttr{Valid: fuse.SetAttrMode, Mode: 0xffff0000 | unix.S_IFLNK | 0o1750})
		must(t, err)
		same(t, "mode of "+name, a.Mode, typ|0o1750)
	}
	_, err := g.setattr(g.find("l").Node, fuse.SetAttr{Valid: fuse.SetAttrMode, Mode: 0o600})
	want(t, "SetAttr of a symlink", err, unix.EOPNOTSUPP)
	same(t, "mode of its target", g.host("f").Mode&0o7777, 0o1750)
	_, err = g.setattr(99, fuse.SetAttr{})
	want(t, "SetAttr of nothing", err, unix.EBADF)
}

func TestH161Owner(t *testing.T) {
	needRoot(t)
	g := newGuest(t)
	g.file("f", "", 0o644)
	must(t, os.Symlink("f", g.path("l")))
	n := g.find("f").Node
	for _, x := range []struct {
		valid    fuse.SetAttrValid
		uid, gid uint32
	}{
		{fuse.SetAttrUID, 5, 0},
		{fuse.SetAttrGID, 5, 6},
		{fuse.SetAttrUID | fuse.SetAttrGID, 7, 8},
	} {
		in := fuse.SetAttr{Valid: x.valid, UID: fuse.NoID, GID: fuse.NoID}
		if x.valid&fuse.SetAttrUID != 0 {
			in.UID = x.uid
		}
		if x.valid&fuse.SetAttrGID != 0 {
			in.GID = x.gid
		}
		a, err := g.setattr(n, in)
		must(t, err)
		same(t, "owner", [2]uint32{a.UID, a.GID}, [2]uint32{x.uid, x.gid})
	}
	for _, valid := range []fuse.SetAttrValid{fuse.SetAttrUID, fuse.SetAttrGID} {
		_, err := g.setattr(n, fuse.SetAttr{Valid: valid, UID: fuse.NoID, GID: fuse.NoID})
		want(t, "SetAttr to no id", err, unix.EINVAL)
	}
	_, err := g.setattr(g.find("l").Node, fuse.SetAttr{Valid: fuse.SetAttrUID, UID: 9})
	must(t, err)
	same(t, "owner of the link", g.host("l").Uid, 9)
	same(t, "owner of its target", g.host("f").Uid, 7)

	t.Run("H166 chown clears suid", func(t *testing.T) {
		g := g.thread(t)
		must(t, os.Chmod(g.path("f"), 0o755|os.ModeSetuid))
		a, err := g.setattr(n, fuse.SetAttr{Valid: fuse.SetAttrUID, UID: 10})
		must(t, err)
		same(t, "mode", a.Mode&0o7777, 0o755)
	})
}

func TestH162Size(t *testing.T) {
	g := newGuest(t)
	g.file("f", "data", 0)
	g.mkdir("d", 0o755)
	n := g.find("f").Node
	size := func(n fuse.NodeID, size uint64) (fuse.Attr, error) {
		return g.setattr(n, fuse.SetAttr{Valid: fuse.SetAttrSize, Size: size})
	}
	if os.Geteuid() == 0 {
		a, err := size(n, 2)
		must(t, err)
		same(t, "size", a.Size, 2)
	}
	_, err := size(n, 1<<63)
	want(t, "size 2^63", err, unix.EINVAL)
	_, err = size(g.find("d").Node, 0)
	want(t, "size of a directory", err, unix.EISDIR)
	_, err = g.setattr(fuse.RootID, fuse.SetAttr{Valid: fuse.SetAttrSize | fuse.SetAttrHandle, Handle: g.opendir(fuse.RootID)})
	want(t, "size of a directory by handle", err, unix.EISDIR)
	m, h := g.made("g", unix.O_RDONLY)
	_, err = g.setattr(m, fuse.SetAttr{Valid: fuse.SetAttrSize | fuse.SetAttrHandle, Handle: h})
	want(t, "size by a read-only handle", err, unix.EINVAL)
	_, err = g.setattr(m, fuse.SetAttr{Valid: fuse.SetAttrSize | fuse.SetAttrHandle, Size: 1})
	must(t, err) // handle 0 is none
}

func TestH163Times(t *testing.T) {
	g := newGuest(t)
	g.file("f", "", 0o644)
	must(t, os.Symlink("f", g.path("l")))
	n := g.find("f").Node
	y1960 := time.Date(1960, 1, 2, 3, 4, 5, 0, time.UTC).Unix()
	a, err := g.setattr(n, fuse.SetAttr{Valid: fuse.SetAttrMtime, Mtime: fuse.Timespec{Sec: y1960, Nsec: 999_999_999}})
	must(t, err)
	same(t, "mtime", a.Mtime, y1960)
	same(t, "mtime ns", a.MtimeNsec, 999_999_999)
	before := a.Atime
	a, err = g.setattr(n, fuse.SetAttr{Valid: fuse.SetAttrAtime | fuse.SetAttrAtimeNow, Atime: fuse.Timespec{Sec: 1, Nsec: math.MaxUint32}})
	must(t, err)
	if a.Atime < before || a.Mtime != y1960 {
		t.Errorf("times = %d, %d; want now and 1960", a.Atime, a.Mtime)
	}
	for _, nsec := range []uint32{1e9, unix.UTIME_NOW, unix.UTIME_OMIT, math.MaxUint32} {
		for _, valid := range []fuse.SetAttrValid{fuse.SetAttrAtime, fuse.SetAttrMtime} {
			ts := fuse.Timespec{Sec: 1, Nsec: nsec}
			_, err = g.setattr(n, fuse.SetAttr{Valid: valid, Atime: ts, Mtime: ts})
			want(t, "bad nanoseconds", err, unix.EINVAL)
		}
	}
	a, err = g.setattr(n, fuse.SetAttr{Valid: fuse.SetAttrAtimeNow | fuse.SetAttrMtimeNow})
	must(t, err)
	same(t, "mtime after NOW without MTIME", a.Mtime, y1960)
	a, err = g.setattr(g.find("l").Node, fuse.SetAttr{Valid: fuse.SetAttrMtime, Mtime: fuse.Timespec{Sec: 5}})
	must(t, err)
	same(t, "mtime of a symlink", a.Mtime, 5)
	same(t, "mtime of its target", g.attr(n).Mtime, y1960)
}

func TestH164Several(t *testing.T) {
	g := newGuest(t)
	n, _ := g.made("f", unix.O_RDWR)
	in := fuse.SetAttr{Valid: fuse.SetAttrMode | fuse.SetAttrSize | fuse.SetAttrMtime, Mode: 0o600, Size: 7, Mtime: fuse.Timespec{Sec: 3}}
	a, err := g.setattr(n, in)
	must(t, err)
	same(t, "mode, size, mtime", [3]int64{int64(a.Mode), int64(a.Size), a.Mtime}, [3]int64{unix.S_IFREG | 0o600, 7, 3})
	in.Mode, in.Size = 0o640, 1<<63
	_, err = g.setattr(n, in)
	want(t, "SetAttr with a bad size", err, unix.EINVAL)
	same(t, "mode", g.attr(n).Mode, unix.S_IFREG|0o640)
}

func TestH165CtimeOnly(t *testing.T) {
	g := newGuest(t)
	n, _ := g.made("f", unix.O_RDWR)
	before := g.attr(n)
	a, err := g.setattr(n, fuse.SetAttr{Valid: fuse.SetAttrCtime | fuse.SetAttrLockOwner})
	must(t, err)
	if a.Ctime == before.Ctime && a.CtimeNsec < before.CtimeNsec || a.Ctime < before.Ctime {
		t.Errorf("ctime %d.%09d is before %d.%09d", a.Ctime, a.CtimeNsec, before.Ctime, before.CtimeNsec)
	}
	a.Ctime, a.CtimeNsec = before.Ctime, before.CtimeNsec // the host's clock makes it
	same(t, "attributes", a, before)
}

// TestAttrEveryWay: GETATTR asks the host by another system call than LOOKUP, and says the
// same.
func TestAttrEveryWay(t *testing.T) {
	needRoot(t)
	g := newGuest(t)
	g.fs.host.ready = true
	g.file("file", "content", 0o4751)
	must(t, os.Truncate(g.path("file"), 1<<40))
	must(t, os.Chown(g.path("file"), 1<<31, 1<<32-2))
	must(t, os.Link(g.path("file"), g.path("again")))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, g.path("file"), []unix.Timespec{{Sec: -5, Nsec: 999999999}, {Sec: 1<<33 + 7, Nsec: 1}}, 0))
	g.mkdir("dir", 0o1777)
	must(t, os.Symlink("file", g.path("link")))
	must(t, unix.Mkfifo(g.path("fifo"), 0o600))
	must(t, unix.Mknod(g.path("char"), unix.S_IFCHR|0o600, int(unix.Mkdev(0xabc, 0xfedcb))))
	must(t, unix.Mknod(g.path("block"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0xff))))
	for _, name := range []string{"file", "dir", "link", "fifo", "char", "block"} {
		e := g.find(name)
		same(t, "attributes of "+name, g.attr(e.Node), e.Attr)
	}
}

func TestH169Attr(t *testing.T) {
	g := newGuest(t)
	g.file("f", "0123456789", 0o640)
	must(t, os.Symlink("target", g.path("l")))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, g.path("f"), []unix.Timespec{{Sec: 1, Nsec: 2}, {Sec: 3, Nsec: 4}}, 0))
	st, a := g.host("f"), g.find("f").Attr
	same(t, "attr", a, fuse.Attr{
		Ino: st.Ino, Size: 10, Blocks: uint64(st.Blocks), Atime: 1, AtimeNsec: 2, Mtime: 3, MtimeNsec: 4,
		Ctime: st.Ctim.Sec, CtimeNsec: uint32(st.Ctim.Nsec), Mode: unix.S_IFREG | 0o640, Nlink: 1,
		UID: st.Uid, GID: st.Gid, Blksize: uint32(st.Blksize),
	})
	same(t, "size of a symlink", g.find("l").Attr.Size, 6)
	five := 5 * time.Second
	g = newGuest(t, func(o *Options) fuse.InitFlags { o.Timeout = &five; return 0 })
	g.file("f", "", 0o644)
	e := g.find("f")
	same(t, "EntryValid", e.EntryValid, five)
	same(t, "AttrValid", e.AttrValid, five)
}

func TestRootRemoved(t *testing.T) {
	g := newGuest(t)
	must(t, os.Remove(g.dir))
	same(t, "nlink", g.attr(fuse.RootID).Nlink, 0)
	_, err := g.lookup(fuse.RootID, "x")
	want(t, "Lookup", err, unix.ENOENT)
	_, _, err = g.create("x", fuse.Create{Mode: 0o644, Flags: unix.O_RDWR})
	want(t, "Create", err, unix.ENOENT)
	if g.fs.troubles[troubleGone].Load() == 0 {
		t.Error("the loss was not logged")
	}
}

func TestH190Access(t *testing.T) {
	g := newGuest(t)
	g.file("f", "", 0o644)
	g.mkdir("d", 0)
	n := g.find("f").Node
	must(t, os.Chmod(g.path("f"), 0o074))
	st := g.host("f")
	for _, x := range []struct {
		name     string
		uid, gid uint32
		groups   []uint32
		mask     uint32
		err      syscall.Errno
	}{
		{"H190 group", 4711, st.Gid, nil, 7, 0},
		{"H190 extension group", 4711, 4711, []uint32{1, st.Gid}, 7, 0},
		{"H190 other reads", 4711, 4711, nil, mayRead, 0},
		{"H190 other writes", 4711, 4711, nil, mayWrite, unix.EACCES},
		{"H190 existence", 4711, 4711, nil, 0, 0},
		{"H190 root", 0, 0, nil, 7, 0},
		{"H190 bad mask", 0, 0, nil, 8, unix.EINVAL},
	} {
		t.Run(x.name, func(t *testing.T) {
			u := g.thread(t).as(x.uid, x.gid, x.groups...)
			want(t, "Access", u.fs.Access(u.c, n, x.mask), x.err)
		})
	}
	// The owner has no bits, though the group has all.
	a := fuse.Attr{Mode: unix.S_IFREG | 0o077, UID: 5, GID: 6}
	same(t, "owner", permits(&a, &fuse.Caller{UID: 5, GID: 6}, mayRead), false)
	a.Mode = unix.S_IFREG | 0o666
	same(t, "root executes", permits(&a, &fuse.Caller{}, mayExec), false)
	a.Mode = unix.S_IFDIR
	same(t, "root searches", permits(&a, &fuse.Caller{}, mayExec), true)
	want(t, "Access of nothing", g.fs.Access(g.c, 99, 0), unix.EBADF)
	want(t, "StatFS of nothing", g.fs.StatFS(g.c, 99, new(fuse.StatFS)), unix.EBADF)
}
