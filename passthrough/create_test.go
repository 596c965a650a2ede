package passthrough

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

func TestH080CreateUnwritable(t *testing.T) {
	needRoot(t)
	g := newGuest(t)
	must(t, os.Chmod(g.dir, 0o777))
	e, o, err := g.as(1000, 1000).create("f", fuse.Create{Mode: unix.S_IFREG | 0o444, Flags: unix.O_RDWR})
	must(t, err)
	g.write(e.Node, o.Handle, 0, "data")
	same(t, "content", g.content("f"), "data")
	same(t, "mode", e.Attr.Mode, unix.S_IFREG|0o444)
	same(t, "node by name", g.find("f").Node, e.Node)
}

func TestH081CreateExisting(t *testing.T) {
	g := newGuest(t)
	g.file("f", "data", 0o644)
	n, h := g.made("f", unix.O_RDWR)
	same(t, "content", g.read(n, h, 0, 100), "data")
	same(t, "node", g.find("f").Node, n)
	_, _, err := g.create("f", fuse.Create{Flags: unix.O_RDWR | unix.O_EXCL})
	want(t, "Create with O_EXCL", err, unix.EEXIST)
	g.made("f", unix.O_RDWR|unix.O_TRUNC)
	same(t, "size after O_TRUNC", g.host("f").Size, 0)
}

func TestH082CreateExistingForbidden(t *testing.T) {
	g := newGuest(t)
	g.file("f", "data", 0o600)
	n := g.find("f").Node
	for _, flags := range []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_TRUNC} {
		_, _, err := g.as(4711, 4711).create("f", fuse.Create{Flags: flags})
		if os.Geteuid() == 0 {
			want(t, "Create", err, unix.EACCES)
		} else {
			want(t, "Create", err, unix.EPERM) // cannot act as the other user
		}
	}
	same(t, "content", g.content("f"), "data")
	g.forget(n, 1)
	_, err := g.getattr(n, 0)
	want(t, "GetAttr after the only lookup was forgotten", err, unix.EBADF)
}

func TestH083CreateOverOthers(t *testing.T) {
	g := newGuest(t)
	g.mkdir("d", 0o755)
	must(t, os.Symlink("/etc/passwd", g.path("l")))
	must(t, os.Symlink("new", g.path("dangling")))
	must(t, unix.Mkfifo(g.path("fifo"), 0o666))
	before := fds(t)
	for name, e := range map[string]syscall.Errno{"d": unix.EISDIR, "l": unix.ELOOP, "dangling": unix.ELOOP, "fifo": unix.EEXIST} {
		_, _, err := g.create(name, fuse.Create{Mode: 0o644, Flags: unix.O_RDONLY})
		want(t, "Create over "+name, err, e)
	}
	same(t, "descriptors", fds(t), before)
	if _, err := os.Lstat(g.path("new")); err == nil {
		t.Error("a symlink was followed")
	}
}

func TestH084Owner(t *testing.T) {
	needRoot(t)
	g := newGuest(t)
	g.mkdir("sgid", 0o777|os.ModeSetgid)
	must(t, os.Chown(g.path("sgid"), 0, 77))
	must(t, os.Chmod(g.path("sgid"), 0o777|os.ModeSetgid))
	u := g.as(1000, 1001)
	for _, dir := range []string{"", "sgid/"} {
		parent, gid := fuse.RootID, uint32(1001)
		if dir != "" {
			parent, gid = g.find("sgid").Node, 77
		}
		var e fuse.Entry
		var o fuse.Opened
		in := &fuse.Create{Mode: unix.S_IFREG | 0o644, Flags: unix.O_RDWR}
		must(t, u.fs.Create(u.c, parent, []byte("file"), in, &e, &o))
		must(t, u.fs.MkDir(u.c, parent, []byte("dir"), &fuse.Create{Mode: 0o755}, &e))
		must(t, u.fs.MkNod(u.c, parent, []byte("node"), &fuse.Create{Mode: unix.S_IFIFO | 0o600}, &e))
		must(t, u.fs.Symlink(u.c, parent, []byte("link"), []byte("x"), in, &e))
		for _, name := range []string{"file", "dir", "node", "link"} {
			st := g.host(dir + name)
			same(t, "uid of "+dir+name, st.Uid, 1000)
			same(t, "gid of "+dir+name, st.Gid, gid)
		}
	}
	same(t, "mode of a directory below setgid", g.host("sgid/dir").Mode, unix.S_IFDIR|unix.S_ISGID|0o755)
	_, err := g.mkdirat(fuse.RootID, "root", 0o755)
	must(t, err)
	same(t, "uid after", g.host("root").Uid, 0)
	same(t, "thread's uid after", unix.Geteuid(), 0)
	same(t, "thread's gid after", unix.Getegid(), 0)
}

func TestH085Umask(t *testing.T) {
	mode := func(g *guest, name string) uint32 {
		_, _, err := g.create(name, fuse.Create{Mode: unix.S_IFREG | 0o666, Umask: 0o022, Flags: unix.O_RDWR})
		must(g, err)
		return g.host(name).Mode & 0o7777
	}
	t.Run("H085 not negotiated", func(t *testing.T) {
		same(t, "mode", mode(newGuest(t), "f"), 0o666)
	})
	g := newGuest(t, func(*Options) fuse.InitFlags { return fuse.DontMask })
	same(t, "mode", mode(g, "f"), 0o644)
	_, err := g.mkdirat(fuse.RootID, "d", 0o777)
	must(t, err)
	same(t, "mode without umask", g.host("d").Mode&0o7777, 0o777)

	// A default ACL in the parent replaces the umask: user::rwx group::rwx other::rwx.
	acl := "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x04\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x07\x00\xff\xff\xff\xff"
	if err := unix.Setxattr(g.dir, aclDefault, []byte(acl), 0); err != nil {
		unable(t, "needs POSIX ACLs: "+err.Error())
	}
	same(t, "mode under a default ACL", mode(g, "acl"), 0o666)
}

func TestH086NoID(t *testing.T) {
	g := newGuest(t)
	n, h := g.made("f", unix.O_RDWR)
	for _, u := range []*guest{g.as(fuse.NoID, 0), g.as(0, fuse.NoID), g.as(fuse.NoID, fuse.NoID)} {
		_, err := u.mkdirat(fuse.RootID, "d", 0o755)
		want(t, "MkDir", err, unix.EINVAL)
		_, _, err = u.create("c", fuse.Create{Flags: unix.O_RDWR})
		want(t, "Create", err, unix.EINVAL)
		want(t, "whiteout", u.rename("f", "g", unix.RENAME_WHITEOUT), unix.EINVAL)
		u.write(n, h, 0, "x")
		u.read(n, h, 0, 1)
		u.attr(n)
	}
	list := names(g.readAll(fuse.RootID, g.opendir(fuse.RootID), 4096, false))
	same(t, "number of entries", len(list), 1)
}

func TestH087RestoreAfterFailure(t *testing.T) {
	needRoot(t)
	g := newGuest(t)
	_, err := g.as(1000, 1000).mkdirat(99, "d", 0o755)
	want(t, "MkDir", err, unix.EBADF)
	g.mkdir("d", 0o755)
	_, err = g.as(1000, 1000, 5).mkdirat(fuse.RootID, "d", 0o755)
	want(t, "MkDir", err, unix.EEXIST)
	many := make([]uint32, 70000) // more than NGROUPS_MAX
	_, err = g.as(1000, 1000, many...).mkdirat(fuse.RootID, "e", 0o755)
	want(t, "MkDir with too many groups", err, unix.EINVAL)
	same(t, "uid", unix.Geteuid(), 0)
	same(t, "gid", unix.Getegid(), 0)
	groups, err := unix.Getgroups()
	must(t, err)
	same(t, "groups", len(groups), len(local(g.c).groups))
}

func TestH088ParallelOwners(t *testing.T) {
	needRoot(t)
	g := newGuest(t)
	must(t, os.Chmod(g.dir, 0o777))
	var wg sync.WaitGroup
	for i := range uint32(100) {
		wg.Go(func() {
			g := g.thread(t)
			for j := range 5 {
				name := fmt.Sprintf("%d-%d", i, j)
				if _, _, err := g.as(1000+i, 2000+i).create(name, fuse.Create{Mode: 0o644, Flags: unix.O_RDWR}); err != nil {
					t.Errorf("Create(%s) = %v; want success", name, err)
				}
			}
		})
	}
	wg.Wait()
	for i := range uint32(100) {
		for j := range 5 {
			st := g.host(fmt.Sprintf("%d-%d", i, j))
			if st.Uid != 1000+i || st.Gid != 2000+i {
				t.Errorf("owner of %d-%d = %d:%d; want %d:%d", i, j, st.Uid, st.Gid, 1000+i, 2000+i)
			}
		}
	}
}

// dropFixup takes the thread's capabilities away from switched users, as where
// SECBIT_NO_SETUID_FIXUP is not allowed.
func (g *guest) dropFixup() {
	g.Helper()
	if _, e := call(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, 0, 0, 0); e != 0 {
		unable(g, "needs CAP_SETPCAP: "+e.Error())
	}
	local(g.c).keepsCaps = false
}

func TestH089Groups(t *testing.T) {
	needRoot(t)
	dir := func(g *guest) fuse.NodeID {
		g.mkdir("d", 0o770)
		must(g, os.Chown(g.path("d"), 0, 500))
		return g.find("d").Node
	}
	t.Run("H089 capabilities kept", func(t *testing.T) {
		g := newGuest(t)
		_, err := g.as(1000, 1000).mkdirat(dir(g), "x", 0o755)
		must(t, err)
	})
	t.Run("H089 host checks", func(t *testing.T) {
		g := newGuest(t, func(*Options) fuse.InitFlags { return fuse.CreateSuppGroup })
		g.dropFixup()
		d := dir(g)
		_, err := g.as(1000, 1000, 500).mkdirat(d, "x", 0o755)
		must(t, err)
		_, err = g.as(1000, 1000, 400, 500, 600).mkdirat(d, "w", 0o755) // one of several
		must(t, err)
		_, err = g.as(1000, 1000, 400, 600).mkdirat(d, "v", 0o755)
		want(t, "MkDir with other groups", err, unix.EACCES)
		_, err = g.as(1000, 1000).mkdirat(d, "y", 0o755)
		want(t, "MkDir without the group", err, unix.EACCES)
		_, err = g.mkdirat(d, "z", 0o755)
		must(t, err)
		same(t, "uid", g.host("d/x").Uid, 1000)
	})
	t.Run("H089 guest sends no groups", func(t *testing.T) {
		g := newGuest(t)
		g.dropFixup()
		_, err := g.as(1000, 1000).mkdirat(dir(g), "x", 0o755)
		must(t, err)
		same(t, "uid", g.host("d/x").Uid, 1000)
	})
}

func TestH097TmpFile(t *testing.T) {
	g := newGuest(t)
	tmp := func(flags uint32) (fuse.Entry, fuse.Opened, error) {
		var e fuse.Entry
		var o fuse.Opened
		in := &fuse.Create{Mode: unix.S_IFREG | 0o640, Flags: flags | unix.O_TMPFILE}
		err := g.fs.TmpFile(g.c, fuse.RootID, in, &e, &o)
		return e, o, err
	}
	e, o, err := tmp(unix.O_RDWR)
	must(t, err)
	g.write(e.Node, o.Handle, 0, "data")
	same(t, "nlink", g.attr(e.Node).Nlink, 0)
	l, err := g.link(e.Node, "f")
	must(t, err)
	same(t, "node", l.Node, e.Node)
	same(t, "content", g.content("f"), "data")
	same(t, "mode", g.host("f").Mode, unix.S_IFREG|0o640)

	e, _, err = tmp(unix.O_WRONLY | unix.O_EXCL)
	must(t, err)
	_, err = g.link(e.Node, "g")
	want(t, "Link of an O_EXCL file", err, unix.ENOENT)
	_, _, err = tmp(unix.O_RDONLY)
	want(t, "TmpFile read-only", err, unix.EINVAL)
	want(t, "TmpFile below a file", g.fs.TmpFile(g.c, l.Node, &fuse.Create{Flags: unix.O_RDWR}, &e, &o), unix.ENOTDIR)
	want(t, "TmpFile below nothing", g.fs.TmpFile(g.c, 99, &fuse.Create{Flags: unix.O_RDWR}, &e, &o), unix.EBADF)
}

func TestH156Symlink(t *testing.T) {
	g := newGuest(t)
	read := func(n fuse.NodeID, size int) (string, error) {
		b := make([]byte, size)
		k, err := g.fs.ReadLink(g.c, n, b)
		return string(b[:k]), err
	}
	for i, target := range []string{"x", strings.Repeat("t", 4095), "new\nline\xff", "/etc/passwd", "../.."} {
		e, err := g.symlink(fmt.Sprint("l", i), target)
		if err == unix.ENAMETOOLONG && len(target) == 4095 {
			continue // the host's file system keeps less
		}
		must(t, err)
		same(t, "type", e.Attr.Mode&unix.S_IFMT, unix.S_IFLNK)
		got, err := read(e.Node, 4096)
		must(t, err)
		same(t, "target", got, target)
		same(t, "size", e.Attr.Size, uint64(len(target)))
	}
	_, err := g.symlink("long", strings.Repeat("t", 4096))
	want(t, "Symlink to 4096 bytes", err, unix.ENAMETOOLONG)
	_, err = g.symlink("empty", "")
	want(t, "Symlink to nothing", err, unix.ENOENT)
	n, _ := g.made("f", unix.O_RDWR)
	_, err = read(n, 100)
	want(t, "H157 ReadLink of a file", err, unix.EINVAL)
	_, err = read(99, 100)
	want(t, "ReadLink of nothing", err, unix.EBADF)
}

func TestH158MkNod(t *testing.T) {
	g := newGuest(t)
	e, err := g.mknod("f", 0o600, 0)
	must(t, err)
	same(t, "type 0", e.Attr.Mode, unix.S_IFREG|0o600)
	_, err = g.mknod("d", unix.S_IFDIR|0o755, 0)
	want(t, "MkNod of a directory", err, unix.EPERM)
	_, err = g.mknod("l", unix.S_IFLNK|0o777, 0)
	want(t, "MkNod of a symlink", err, unix.EINVAL)
	e, err = g.mknod("s", unix.S_IFSOCK|0o600, 0)
	must(t, err)
	same(t, "socket", e.Attr.Mode, unix.S_IFSOCK|0o600)
	if os.Geteuid() == 0 {
		const rdev = 300&0xff | 5<<8 | (300&^0xff)<<12
		e, err = g.mknod("c", unix.S_IFCHR|0o600, rdev)
		must(t, err)
		same(t, "rdev", e.Attr.Rdev, rdev)
		same(t, "host's rdev", g.host("c").Rdev, unix.Mkdev(5, 300))
	}
}
