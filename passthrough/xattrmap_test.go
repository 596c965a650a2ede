package passthrough

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// client returns what a name of the guest becomes, or the error.
func (m *XattrMap) client(name string, use xattrUse) string {
	var buf [maxName + 1]byte
	n, e := m.host(&buf, []byte(name), use)
	if e != 0 {
		return unix.ErrnoName(e)
	}
	return string(buf[:n])
}

// TestH177XattrMap has the tables of the language.
func TestH177XattrMap(t *testing.T) {
	long := strings.Repeat("x", 250)
	for _, test := range []struct {
		rules            string
		name             string
		set, get, remove string // what is done to that name of the guest
		host             string // a name of the host
		guest            string // and of the guest; "" is hidden
	}{
		{":prefix:all:trusted.:user.virtiofs.: :ok:all:::", "trusted.a", "user.virtiofs.trusted.a", "user.virtiofs.trusted.a", "user.virtiofs.trusted.a", "user.virtiofs.trusted.a", "trusted.a"},
		{":prefix:all:trusted.:user.virtiofs.: :ok:all:::", "user.a", "user.a", "user.a", "user.a", "user.a", "user.a"},
		{":bad:all:user.:user.: :ok:all:::", "user.a", "EPERM", "ENODATA", "EPERM", "user.a", ""},
		{":bad:client:user.:: :ok:all:::", "user.a", "EPERM", "ENODATA", "EPERM", "user.a", "user.a"},
		{":bad:server::user.: :ok:all:::", "user.a", "user.a", "user.a", "user.a", "user.a", ""},
		{":unsupported:all:user.:user.:\n:ok:all:::", "user.a", "ENOTSUP", "ENOTSUP", "ENOTSUP", "user.a", ""},
		{"/ok/all///", "security.a", "security.a", "security.a", "security.a", "security.a", "security.a"},
		{"→map→→user.virtiofs.→", "a", "user.virtiofs.a", "user.virtiofs.a", "user.virtiofs.a", "user.virtiofs.a", "a"},
		{":map::user.virtiofs.:", "user.a", "user.virtiofs.user.a", "user.virtiofs.user.a", "user.virtiofs.user.a", "user.a", ""},
		{":map:trusted.:user.virtiofs.:", "trusted.a", "user.virtiofs.trusted.a", "user.virtiofs.trusted.a", "user.virtiofs.trusted.a", "user.virtiofs.trusted.a", "trusted.a"},
		{":map:trusted.:user.virtiofs.:", "user.virtiofs.a", "EPERM", "ENODATA", "EPERM", "trusted.a", ""},
		{":map:trusted.:user.virtiofs.:", "user.a", "user.a", "user.a", "user.a", "user.a", "user.a"},
		{"  :map::" + long + ":\t", "user.a", "ERANGE", "ERANGE", "ERANGE", "user.a", ""},
		{":ok:all:::", "\xff\xfe", "\xff\xfe", "\xff\xfe", "\xff\xfe", "\xff\xfe", "\xff\xfe"},
		{":ok:client::: :bad:server:::", "a", "a", "a", "a", "a", ""},
		{":prefix:server::user.: :ok:all:::", "user.a", "user.a", "user.a", "user.a", "user.", ""},
	} {
		m, err := ParseXattrMap(test.rules)
		if err != nil {
			t.Errorf("ParseXattrMap(%q): %v", test.rules, err)
			continue
		}
		for use, want := range map[xattrUse]string{xattrSet: test.set, xattrGet: test.get, xattrRemove: test.remove} {
			if got := m.client(test.name, use); got != want {
				t.Errorf("%q, use %d: %q becomes %q; want %q", test.rules, use, test.name, got, want)
			}
		}
		if got := string(m.guest([]byte(test.host))); got != test.guest {
			t.Errorf("%q: %q of the host becomes %q; want %q", test.rules, test.host, got, test.guest)
		}
	}
}

func TestH177XattrMapErrors(t *testing.T) {
	for _, test := range []struct{ rules, want string }{
		{"", "has no rules"},
		{" \n", "has no rules"},
		{"foo", `rule 1 of the map of extended attributes: incomplete: its type does not end with "f"`},
		{":ok:all:", `rule 1 of the map of extended attributes: incomplete: its key does not end with ":"`},
		{":ok:all::", "its prefix does not end"},
		{":ok:all", "its scope does not end"},
		{":map:a", "its key does not end"},
		{":foo:all:::", `rule 1 of the map of extended attributes: invalid type "foo"`},
		{":OK:all:::", `invalid type "OK"`},
		{":ok:all::: :ok:everyone:::", `rule 2 of the map of extended attributes: invalid scope "everyone"`},
		{":map::a: :ok:all:::", "rule 1 of the map of extended attributes: a map rule must be the last one"},
		{":ok:all:::x", "rule 2 of the map of extended attributes: incomplete"},
		{":prefix:all:trusted.:user.virtiofs.:", "rule 1 of the map of extended attributes: it is the last one, and there are names that no rule fits"},
		{":ok:client:::", "names that no rule fits"},
		{":ok:server:::", "names that no rule fits"},
		{":map::" + strings.Repeat("x", 256) + ":", "cannot begin the name of an attribute"},
		{":ok:all:a\x00:: :ok:all:::", "cannot begin the name of an attribute"},
	} {
		if _, err := ParseXattrMap(test.rules); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("ParseXattrMap(%q) = %v; want %q", test.rules, err, test.want)
		}
	}
}

// FuzzParseXattrMap parses rules and uses them. Every name must find a rule.
func FuzzParseXattrMap(f *testing.F) {
	f.Add(":map::user.virtiofs.:", "user.a")
	f.Add(":map:trusted.:user.virtiofs.:", "trusted.a")
	f.Add("/prefix/all/security./user.virtiofs./ :bad:server::security.: :unsupported:client:x:: :ok:all:::", "security.capability")
	f.Add(":ok:all:", "")
	f.Fuzz(func(t *testing.T, rules, name string) {
		m, err := ParseXattrMap(rules)
		if err != nil || len(name) > maxXattrName {
			return
		}
		var buf [maxName + 1]byte
		for _, use := range []xattrUse{xattrSet, xattrGet, xattrRemove} {
			if n, e := m.host(&buf, []byte(name), use); n > maxXattrName || n > 0 && e != 0 {
				t.Errorf("%q: %q becomes %d bytes, %v", rules, name, n, e)
			}
		}
		if got := m.guest([]byte(name)); !strings.HasSuffix(name, string(got)) {
			t.Errorf("%q: %q of the host becomes %q", rules, name, got)
		}
	})
}

// mapped returns options with a map of extended attributes.
func mapped(m *XattrMap, err error) func(*Options) fuse.InitFlags {
	return func(o *Options) fuse.InitFlags {
		if err != nil {
			panic(err)
		}
		o.XattrMap = m
		return 0
	}
}

// TestH173MappedList counts what the guest sees, and not what the host has.
func TestH173MappedList(t *testing.T) {
	g := newGuest(t, mapped(ParseXattrMap(":map:user.:user.virtiofs.:")))
	g.file("f", "", 0o644)
	n := g.find("f").Node
	must(t, unix.Lsetxattr(g.path("f"), "user.native", []byte("1"), 0))
	must(t, g.setx(n, "user.a", "2", 0))
	must(t, g.setx(n, "user.b", "3", 0))
	got := strings.Split(strings.TrimSuffix(g.listx(n), "\x00"), "\x00")
	if len(got) != 2 || got[0] == got[1] || !strings.HasPrefix(got[0], "user.") || len(got[0]) != len("user.a") {
		t.Errorf("ListXattr = %q; want user.a and user.b", got)
	}
	value, err := g.getx(n, "user.a", 10)
	must(t, err)
	same(t, "value", value, "2")
	b := make([]byte, 10)
	if k, err := unix.Lgetxattr(g.path("f"), "user.virtiofs.user.a", b); err != nil || string(b[:k]) != "2" {
		t.Errorf("host has %q, %v; want 2", b, err)
	}
	_, err = g.getx(n, "user.virtiofs.user.a", 10)
	want(t, "GetXattr of the host's name", err, unix.ENODATA)
	must(t, g.fs.RemoveXattr(g.c, n, []byte("user.a")))
	_, err = g.getx(n, "user.a", 10)
	want(t, "GetXattr of what is removed", err, unix.ENODATA)
}

func TestH178RewriteSecurity(t *testing.T) {
	needRoot(t)
	g := newGuest(t, mapped(RewriteSecurity(), nil))
	g.file("f", "", 0o644)
	n := g.find("f").Node
	must(t, unix.Lsetxattr(g.path("f"), "security.native", []byte("x"), 0))
	must(t, g.setx(n, "security.foo", "1", 0))
	must(t, g.setx(n, "user.a", "2", 0))
	b := make([]byte, 10)
	if k, err := unix.Lgetxattr(g.path("f"), "user.virtiofs.security.foo", b); err != nil || string(b[:k]) != "1" {
		t.Errorf("host has %q, %v; want 1", b, err)
	}
	want(t, "SetXattr of the host's name", g.setx(n, "user.virtiofs.x", "3", 0), syscall.EPERM)
	_, err := g.getx(n, "user.virtiofs.x", 10)
	want(t, "GetXattr of the host's name", err, syscall.ENODATA)
	want(t, "RemoveXattr of the host's name", g.fs.RemoveXattr(g.c, n, []byte("user.virtiofs.security.foo")), syscall.ENODATA)
	list := "\x00" + g.listx(n)
	for name, listed := range map[string]bool{"security.foo": true, "user.a": true, "security.native": false, "user.virtiofs.security.foo": false} {
		if strings.Contains(list, "\x00"+name+"\x00") != listed {
			t.Errorf("ListXattr = %q; want %s listed: %v", list, name, listed)
		}
	}
	m := RewriteSecurity()
	same(t, "security.selinux", m.client("security.selinux", xattrSet), "security.selinux")
	same(t, "security.selinux of the host", string(m.guest([]byte("security.selinux"))), "security.selinux")
}

// TestH175HiddenACL keeps ACLs that the guest would not evaluate from it, whatever they
// are called on the host.
func TestH175MappedACL(t *testing.T) {
	g := newGuest(t, mapped(ParseXattrMap(":map::user.virtiofs.:")))
	g.file("f", "", 0o644)
	n := g.find("f").Node
	want(t, "SetXattr", g.setx(n, aclAccess, "x", 0), syscall.EOPNOTSUPP)
	must(t, unix.Lsetxattr(g.path("f"), "user.virtiofs."+aclAccess, []byte("x"), 0))
	same(t, "list", g.listx(n), "")
}

// TestH180MappedCapability ends capabilities that the host's kernel does not know with
// what ends them, and with nothing else.
func TestH180MappedCapability(t *testing.T) {
	const onHost = "user.virtiofs.security.capability"
	g := newGuest(t, mapped(ParseXattrMap(":map:security.:user.virtiofs.:")))
	for _, test := range []struct {
		name string
		do   func(g *guest, n fuse.NodeID) error
		ends bool
	}{
		{"WRITE", func(g *guest, n fuse.NodeID) error {
			g.write(n, g.open(n, unix.O_WRONLY), 0, "data")
			return nil
		}, true},
		{"O_TRUNC", func(g *guest, n fuse.NodeID) error { g.open(n, unix.O_WRONLY|unix.O_TRUNC); return nil }, true},
		{"truncate", func(g *guest, n fuse.NodeID) error {
			_, err := g.fs.SetAttr(g.c, n, &fuse.SetAttr{Valid: fuse.SetAttrSize}, new(fuse.Attr))
			return err
		}, true},
		{"chown", func(g *guest, n fuse.NodeID) error {
			in := fuse.SetAttr{Valid: fuse.SetAttrUID, UID: uint32(os.Geteuid())}
			_, err := g.fs.SetAttr(g.c, n, &in, new(fuse.Attr))
			return err
		}, true},
		{"chmod", func(g *guest, n fuse.NodeID) error {
			_, err := g.fs.SetAttr(g.c, n, &fuse.SetAttr{Valid: fuse.SetAttrMode, Mode: 0o600}, new(fuse.Attr))
			return err
		}, false},
		{"another attribute", func(g *guest, n fuse.NodeID) error { return g.setx(n, "user.a", "1", 0) }, false},
		{"reading", func(g *guest, n fuse.NodeID) error { g.read(n, g.open(n, 0), 0, 10); return nil }, false},
	} {
		t.Run("H180 "+test.name, func(t *testing.T) {
			g := g.thread(t)
			name := strings.ReplaceAll(test.name, " ", "")
			g.file(name, "old", 0o644)
			n := g.find(name).Node
			must(t, g.setx(n, "security.capability", "caps", 0))
			must(t, test.do(g, n))
			_, err := unix.Lgetxattr(g.path(name), onHost, nil)
			if (err == unix.ENODATA) != test.ends {
				t.Errorf("capability on the host: %v; want it to end: %v", err, test.ends)
			}
		})
	}
}
