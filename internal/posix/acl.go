package posix

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Names of the attributes that hold access control lists (acl(5)).
const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

// Tags of ACL entries (linux/posix_acl.h).
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// An aclEntry is one line of an ACL.
type aclEntry struct {
	tag, perm uint16
	id        int // -1 where there is none
}

// encodeACL returns the value of an ACL attribute (linux/posix_acl_xattr.h).
func encodeACL(entries ...aclEntry) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, x := range entries {
		b = binary.LittleEndian.AppendUint16(b, x.tag)
		b = binary.LittleEndian.AppendUint16(b, x.perm)
		b = binary.LittleEndian.AppendUint32(b, uint32(x.id))
	}
	return b
}

// acl returns owner, one named user and one named group, owning group, mask, other.
func acl(owner, named, group, namedGroup, mask, other uint16) []byte {
	return encodeACL(
		aclEntry{aclUserObj, owner, -1}, aclEntry{aclUser, named, bob},
		aclEntry{aclGroupObj, group, -1}, aclEntry{aclGroup, namedGroup, guild},
		aclEntry{aclMask, mask, -1}, aclEntry{aclOther, other, -1},
	)
}

// aclCases are POSIX access control lists.
func aclCases() (cases []testcase) {
	add := func(name string, run func(*env)) {
		cases = append(cases, testcase{name: "acl/" + name, root: true, run: run})
	}
	add("life", func(e *env) {
		e.file("f", "data")
		e.is("missing", e.xattr("f", accessACL), "ENODATA")
		value := acl(6, 4, 4, 0, 6, 0)
		e.is("set", unix.Setxattr("f", accessACL, value, 0), "ok")
		e.is("get", e.xattr("f", accessACL), text(value))
		e.is("listed", e.xattrNames("f", "system."), accessACL)
		e.is("mode-has-mask", e.mode("f"), "0660")
		e.is("remove", unix.Removexattr("f", accessACL), "ok")
		e.is("gone", e.xattr("f", accessACL), "ENODATA")
		e.is("mode-after", e.mode("f"), "0660")
	})
	add("minimal-is-mode", func(e *env) { // acl(5): three entries are the mode
		e.file("f", "data")
		e.must(unix.Setxattr("f", accessACL, encodeACL(
			aclEntry{aclUserObj, 7, -1}, aclEntry{aclGroupObj, 5, -1}, aclEntry{aclOther, 1, -1}), 0))
		e.is("mode", e.mode("f"), "0751")
		e.is("get", e.xattr("f", accessACL), "ENODATA")
	})
	add("chmod-changes-mask", func(e *env) {
		e.file("f", "data")
		e.must(unix.Setxattr("f", accessACL, acl(6, 7, 7, 7, 7, 4), 0))
		e.must(unix.Chmod("f", 0o640))
		e.is("acl", e.xattr("f", accessACL), text(acl(6, 7, 7, 7, 4, 0)))
		e.is("mode", e.mode("f"), "0640")
	})
	for _, x := range []struct {
		label string
		value []byte
		want  string
	}{
		{"empty", nil, "ok"},
		{"short", []byte{2, 0}, "EINVAL"},
		{"version", []byte{9, 0, 0, 0}, "EOPNOTSUPP"},
		{"odd-size", append(acl(6, 4, 4, 4, 4, 0), 0), "EINVAL"},
		{"no-mask", encodeACL(aclEntry{aclUserObj, 6, -1}, aclEntry{aclUser, 4, bob}, aclEntry{aclGroupObj, 4, -1}, aclEntry{aclOther, 0, -1}), "EINVAL"},
		{"no-other", encodeACL(aclEntry{aclUserObj, 6, -1}, aclEntry{aclGroupObj, 4, -1}), "EINVAL"},
		{"unknown-tag", encodeACL(aclEntry{0x40, 6, -1}), "EINVAL"},
		{"bad-perm", encodeACL(aclEntry{aclUserObj, 9, -1}, aclEntry{aclGroupObj, 4, -1}, aclEntry{aclOther, 0, -1}), "EINVAL"},
		{"order", encodeACL(aclEntry{aclOther, 0, -1}, aclEntry{aclGroupObj, 4, -1}, aclEntry{aclUserObj, 6, -1}), "EINVAL"},
	} {
		add("value-"+x.label, func(e *env) {
			e.file("f", "data")
			e.is(x.want, unix.Setxattr("f", accessACL, x.value, 0), x.want)
			e.is("mode", e.mode("f"), "0644")
		})
	}
	for _, x := range []struct{ kind, access, def string }{
		{"file", "ok", "EACCES"},
		{"dir", "ok", "ok"},
		{"fifo", "ok", "EACCES"},
		{"socket", "ok", "EACCES"},
		{"char", "ok", "EACCES"},
		{"dangling", "EOPNOTSUPP", "EOPNOTSUPP"},
	} {
		add("kind-"+x.kind, func(e *env) {
			e.make(x.kind, "f")
			e.is("access", unix.Lsetxattr("f", accessACL, acl(7, 7, 7, 7, 7, 7), 0), x.access)
			e.is("default", unix.Lsetxattr("f", defaultACL, acl(7, 7, 7, 7, 7, 7), 0), x.def)
		})
	}
	cases = append(cases, aclAccessCases()...)
	return append(cases, aclDefaultCases()...)
}

// aclAccessCases are whom an ACL lets do what: the named user and group of it, cut by
// the mask (acl(5), ACCESS CHECK ALGORITHM). There is no mask without any bit: then
// Linux does not look at the ACL, and named users have what others have (linux
// fs/namei.c: acl_permission_check).
func aclAccessCases() (cases []testcase) {
	for bits := range uint16(8) {
		for _, mask := range []uint16{7, 6, 4, 1} {
			for _, x := range []struct {
				label string
				who   user
				value []byte
				bits  uint16
			}{
				{"named-user", user{bob, crowd, nil}, acl(7, bits, 7, 7, mask, 7), bits & mask},
				{"named-group", user{5003, guild, nil}, acl(7, 7, 7, bits, mask, 7), bits & mask},
				{"supplementary", user{5003, crowd, []int{guild}}, acl(7, 7, 7, bits, mask, 7), bits & mask},
				{"owning-group", user{5003, staff, nil}, acl(7, 7, bits, 7, mask, 7), bits & mask},
				{"owner", user{alice, staff, nil}, acl(bits, 7, 7, 7, mask, 7), bits},
				{"other", user{5003, crowd, nil}, acl(7, 7, 7, 7, mask, bits), bits},
			} {
				cases = append(cases, testcase{
					name: fmt.Sprintf("acl/access/%s/%s-mask-%s", x.label, rwx(uint32(bits)), rwx(uint32(mask))),
					root: true,
					run: func(e *env) {
						e.file("f", "data")
						e.must(unix.Chown("f", alice, staff))
						e.must(unix.Setxattr("f", accessACL, x.value, 0))
						for _, op := range []struct {
							name string
							need uint16
							do   func() error
						}{
							{"r", mayRead, func() error { return e.tryOpen("f", unix.O_RDONLY) }},
							{"w", mayWrite, func() error { return e.tryOpen("f", unix.O_WRONLY) }},
							{"x", mayExec, func() error { return unix.Access("f", unix.X_OK) }},
						} {
							want := "ok"
							if x.bits&op.need == 0 {
								want = "EACCES"
							}
							e.is(op.name, e.as(x.who, op.do), want)
						}
					},
				})
			}
		}
	}
	return cases
}

// aclDefaultCases are what new objects inherit of a directory's default ACL: it, cut by
// the mode asked for, and the umask does not count (acl(5), OBJECT CREATION).
func aclDefaultCases() (cases []testcase) {
	value := acl(7, 6, 5, 4, 7, 1)
	for _, m := range makers {
		for _, umask := range []int{0, 0o077} {
			cases = append(cases, testcase{name: fmt.Sprintf("acl/default/%s/umask-%03o", m.name, umask), root: true, run: func(e *env) {
				e.must(unix.Mkdir("d", 0o755))
				e.must(unix.Setxattr("d", defaultACL, value, 0))
				unix.Umask(umask)
				err := m.do(e, "d/n", 0o740)
				unix.Umask(0)
				e.must(err)
				switch m.name {
				case "symlink":
					e.is("access", e.xattr("d/n", accessACL), "EOPNOTSUPP")
				case "bind": // asks for all bits; the umask would count if there were no ACL
					e.is("access", e.xattr("d/n", accessACL), text(acl(7&^uint16(umask>>6), 6, 5, 4, 7&^uint16(umask>>3)&7, 1&^uint16(umask)&7)))
				default:
					e.is("access", e.xattr("d/n", accessACL), text(acl(7, 6, 5, 4, 4, 0)))
					e.is("mode", e.mode("d/n"), "0740")
				}
				want := "ENODATA"
				switch m.name {
				case "mkdir":
					want = text(value)
				case "symlink":
					want = "EOPNOTSUPP"
				}
				e.is("default", e.xattr("d/n", defaultACL), want)
			}})
		}
	}
	cases = append(cases, testcase{name: "acl/default/life", root: true, run: func(e *env) {
		e.must(unix.Mkdir("d", 0o755))
		e.is("missing", e.xattr("d", defaultACL), "ENODATA")
		e.is("set", unix.Setxattr("d", defaultACL, value, 0), "ok")
		e.is("get", e.xattr("d", defaultACL), text(value))
		e.is("mode-kept", e.mode("d"), "0755")
		e.is("remove", unix.Removexattr("d", defaultACL), "ok")
		e.is("gone", e.xattr("d", defaultACL), "ENODATA")
		e.must(unix.Mkdir("d/n", 0o750))
		e.is("not-inherited", e.xattr("d/n", accessACL), "ENODATA")
	}})
	for _, x := range []struct {
		label string
		who   user
		want  string
	}{
		{"in-group", user{alice, staff, nil}, "2770"}, {"not-in-group", user{alice, crowd, nil}, "0770"}, {"root", user{0, 0, nil}, "2770"},
	} {
		// Setting an ACL is a chmod, and drops S_ISGID as one (chmod(2)).
		cases = append(cases, testcase{name: "acl/setgid/" + x.label, root: true, run: func(e *env) {
			e.file("f", "")
			e.must(unix.Chown("f", alice, staff))
			e.must(unix.Chmod("f", 0o2770))
			e.is("set", e.as(x.who, func() error { return unix.Setxattr("f", accessACL, acl(7, 7, 7, 7, 7, 0), 0) }), "ok")
			e.is("mode", e.mode("f"), x.want)
		}})
	}
	for _, x := range []struct {
		label string
		who   user
		want  string
	}{{"owner", user{alice, staff, nil}, "ok"}, {"other", user{bob, staff, nil}, "EPERM"}} {
		cases = append(cases, testcase{name: "acl/set-by/" + x.label, root: true, run: func(e *env) {
			e.file("f", "")
			e.must(unix.Chown("f", alice, staff))
			e.must(unix.Chmod("f", 0o666))
			e.is("set", e.as(x.who, func() error { return unix.Setxattr("f", accessACL, acl(7, 7, 7, 7, 7, 0), 0) }), x.want)
			e.is("remove", e.as(x.who, func() error { return unix.Removexattr("f", accessACL) }), x.want)
		}})
	}
	return cases
}
