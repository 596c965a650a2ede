package passthrough

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

func (g *guest) getx(n fuse.NodeID, name string, size int) (string, error) {
	dst := make([]byte, size)
	k, err := g.fs.GetXattr(g.c, n, []byte(name), dst)
	if err != nil {
		return "", err
	}
	return string(dst[:k]), nil
}

func (g *guest) setx(n fuse.NodeID, name, value string, flags uint32) error {
	return g.fs.SetXattr(g.c, n, []byte(name), []byte(value), flags, false)
}

func (g *guest) listx(n fuse.NodeID) string {
	g.Helper()
	size, err := g.fs.ListXattr(g.c, n, nil)
	must(g, err)
	dst := make([]byte, size)
	k, err := g.fs.ListXattr(g.c, n, dst)
	must(g, err)
	same(g, "H173 length of the list", k, size)
	if size > 0 {
		_, err = g.fs.ListXattr(g.c, n, dst[:size-1])
		want(g, "ListXattr with too little room", err, unix.ERANGE)
	}
	return string(dst)
}

func TestH170XattrTypes(t *testing.T) {
	g := newGuest(t)
	mode := os.FileMode(0)
	if os.Geteuid() != 0 {
		mode = 0o700 // user.* follows the permissions
	}
	g.file("file", "", mode)
	g.mkdir("dir", mode)
	must(t, os.Symlink("file", g.path("link")))
	must(t, unix.Mkfifo(g.path("fifo"), 0))
	for _, file := range []string{"file", "dir", "link", "fifo"} {
		t.Run("H170 "+file, func(t *testing.T) {
			g := g.thread(t)
			name := "user.a"
			if file == "link" || file == "fifo" {
				needRoot(t)
				name = "trusted.a"
			}
			n := g.find(file).Node
			_, err := g.getx(n, name, 10)
			want(t, "GetXattr of none", err, unix.ENODATA)
			must(t, g.setx(n, name, "value", 0))
			got, err := g.getx(n, name, 10)
			must(t, err)
			same(t, "value", got, "value")
			if list := g.listx(n); !strings.Contains("\x00"+list, "\x00"+name+"\x00") {
				t.Errorf("ListXattr = %q; want %s in it", list, name)
			}
			b := make([]byte, 10)
			if k, err := unix.Lgetxattr(g.path(file), name, b); err != nil || string(b[:k]) != "value" {
				t.Errorf("host has %q, %v; want value", b, err)
			}
			must(t, g.fs.RemoveXattr(g.c, n, []byte(name)))
			want(t, "second RemoveXattr", g.fs.RemoveXattr(g.c, n, []byte(name)), unix.ENODATA)
		})
	}
}

func TestH171SetXattr(t *testing.T) {
	g := newGuest(t)
	n, _ := g.made("f", unix.O_RDWR)
	for _, x := range []struct {
		name, attr, value string
		flags             uint32
		err               syscall.Errno
	}{
		{"H171 new", "user.a", "1", unix.XATTR_CREATE, 0},
		{"H171 create existing", "user.a", "2", unix.XATTR_CREATE, unix.EEXIST},
		{"H171 replace", "user.a", "3", unix.XATTR_REPLACE, 0},
		{"H171 replace missing", "user.b", "3", unix.XATTR_REPLACE, unix.ENODATA},
		{"H171 both flags", "user.a", "4", 3, unix.EINVAL},
		{"H171 unknown flag", "user.a", "4", 4, unix.EINVAL},
		{"H171 too long", "user.a", strings.Repeat("x", 65537), 0, unix.E2BIG},
		{"H171 name of 256 bytes", "user." + strings.Repeat("n", 251), "x", 0, unix.ERANGE},
		{"H171 empty name", "", "x", 0, unix.ERANGE},
		{"H171 NUL in the name", "user.a\x00b", "x", 0, unix.EINVAL},
		{"H171 not UTF-8", "user.\xff", "x", 0, 0},
		{"H171 no value", "user.empty", "", 0, 0},
		{"H171 unknown class", "nonsense.a", "x", 0, unix.EOPNOTSUPP},
	} {
		t.Run(x.name, func(t *testing.T) {
			want(t, "SetXattr", g.thread(t).setx(n, x.attr, x.value, x.flags), x.err)
		})
	}
	got, err := g.getx(n, "user.a", 10)
	must(t, err)
	same(t, "value", got, "3")
	_, err = g.getx(n, "", 10)
	want(t, "GetXattr without a name", err, unix.ERANGE)
	want(t, "RemoveXattr without a name", g.fs.RemoveXattr(g.c, n, nil), unix.ERANGE)
	_, err = g.getx(99, "user.a", 10)
	want(t, "GetXattr of nothing", err, unix.EBADF)
	if err := g.setx(n, "user.big", strings.Repeat("x", 65536), 0); err != nil {
		want(t, "SetXattr of 65536 bytes", err, unix.ENOSPC) // where the host keeps less
	}
}

func TestH172Sizes(t *testing.T) {
	g := newGuest(t)
	n, _ := g.made("f", unix.O_RDWR)
	must(t, g.setx(n, "user.a", "value", 0))
	k, err := g.fs.GetXattr(g.c, n, []byte("user.a"), nil)
	must(t, err)
	same(t, "length", k, 5)
	_, err = g.getx(n, "user.a", 5)
	must(t, err)
	_, err = g.getx(n, "user.a", 4)
	want(t, "GetXattr with too little room", err, unix.ERANGE)
	_, err = g.getx(n, "user.a", 0)
	want(t, "GetXattr with no room", err, unix.ERANGE)
}

func TestH174XattrOff(t *testing.T) {
	g := newGuest(t, func(o *Options) fuse.InitFlags { o.XAttr = false; return 0 })
	_, err := g.getx(fuse.RootID, "user.a", 10)
	same(t, "GetXattr", err, fuse.ErrNotImplemented)
	_, err = g.fs.ListXattr(g.c, fuse.RootID, nil)
	same(t, "ListXattr", err, fuse.ErrNotImplemented)
	same(t, "SetXattr", g.setx(fuse.RootID, "user.a", "", 0), fuse.ErrNotImplemented)
	same(t, "RemoveXattr", g.fs.RemoveXattr(g.c, fuse.RootID, []byte("user.a")), fuse.ErrNotImplemented)
}

// acl is user::rw- user:1000:rw- group::r-- mask::rw- other::r--.
const acl = "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\xe8\x03\x00\x00" +
	"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x06\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"

func TestH175ACLHidden(t *testing.T) {
	g := newGuest(t)
	n, _ := g.made("f", unix.O_RDWR)
	if err := unix.Setxattr(g.path("f"), aclAccess, []byte(acl), 0); err != nil {
		unable(t, "needs POSIX ACLs: "+err.Error())
	}
	for _, name := range []string{aclAccess, aclDefault} {
		_, err := g.getx(n, name, 100)
		want(t, "GetXattr", err, unix.EOPNOTSUPP)
		want(t, "SetXattr", g.setx(n, name, acl, 0), unix.EOPNOTSUPP)
		want(t, "RemoveXattr", g.fs.RemoveXattr(g.c, n, []byte(name)), unix.EOPNOTSUPP)
	}
	same(t, "list", g.listx(n), "")
	for _, name := range []string{"system", "system.foo", "system.posix_acl_accessx"} {
		same(t, "hidden", g.fs.hidden([]byte(name)), false)
	}
	g.fs.Init(fuse.PosixACL)
	n = g.find("f").Node
	got, err := g.getx(n, aclAccess, 100)
	must(t, err)
	same(t, "ACL", got, acl)
	same(t, "list", g.listx(n), aclAccess+"\x00")
}

func TestH176KillSgid(t *testing.T) {
	needRoot(t)
	g := newGuest(t, func(*Options) fuse.InitFlags { return fuse.PosixACL | fuse.SetxattrExt })
	n, _ := g.made("f", unix.O_RDWR)
	set := func(name, value string, kill bool) error {
		must(t, os.Chmod(g.path("f"), 0o755|os.ModeSetgid))
		return g.fs.SetXattr(g.c, n, []byte(name), []byte(value), 0, kill)
	}
	if err := set(aclAccess, acl, false); err != nil {
		unable(t, "needs POSIX ACLs: "+err.Error())
	}
	same(t, "S_ISGID without the flag", g.host("f").Mode&unix.S_ISGID, unix.S_ISGID)
	must(t, set(aclAccess, acl, true))
	same(t, "S_ISGID", g.host("f").Mode&unix.S_ISGID, 0)
	want(t, "SetXattr of nonsense", set(aclAccess, "nonsense", true), unix.EOPNOTSUPP)
	same(t, "S_ISGID after failure", g.host("f").Mode&unix.S_ISGID, unix.S_ISGID)
	must(t, set("user.a", "x", true))
	same(t, "S_ISGID after another name", g.host("f").Mode&unix.S_ISGID, unix.S_ISGID)
}

// Names in trusted.* are listed for root only, whatever they are called on the host.
func TestListTrusted(t *testing.T) {
	needRoot(t)
	list := func(g *guest, uid uint32) string {
		t.Helper()
		return g.as(uid, 0).listx(g.find("f").Node)
	}
	for name, all := range map[string]struct {
		edit         func(*Options)
		root, nobody string
	}{
		"as they are": {func(*Options) {}, "trusted.a\x00user.a\x00", "user.a\x00"},
		"renamed": {func(o *Options) {
			m, err := ParseXattrMap(":prefix:server::trusted.: :bad:server::: :ok:client:::")
			must(t, err)
			o.XattrMap = m
		}, "a\x00", "a\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, func(o *Options) fuse.InitFlags { all.edit(o); return 0 })
			g.file("f", "", 0o644)
			for _, x := range []string{"trusted.a", "user.a"} {
				must(t, unix.Setxattr(g.path("f"), x, nil, 0))
			}
			same(t, "root's list", list(g, 0), all.root)
			same(t, "list of who has no id", list(g, fuse.NoID), all.root)
			same(t, "list of a user", list(g, 1000), all.nobody)
		})
	}
}
