package posix

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrNames lists the names of a path's extended attributes with a prefix, sorted.
func (e *env) xattrNames(path, prefix string) (names []string) {
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	e.must(err)
	for _, name := range strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }) {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// xattr returns an attribute in quotes, or the error's name.
func (e *env) xattr(path, name string) string {
	buf := make([]byte, 1<<16)
	n, err := unix.Lgetxattr(path, name, buf)
	if err != nil {
		return text(err)
	}
	return text(buf[:n])
}

// xattrCases are extended attributes (xattr(7)).
func xattrCases() (cases []testcase) {
	add := func(name string, root bool, run func(*env)) {
		cases = append(cases, testcase{name: "xattr/" + name, root: root, run: run})
	}
	for _, space := range []struct {
		name  string
		kinds []string
		root  bool
	}{
		{"user.", []string{"file", "dir"}, false},
		{"trusted.", []string{"file", "dir", "dangling", "fifo", "socket", "char", "block"}, true},
		{"security.", []string{"file", "dir", "dangling", "fifo"}, true},
	} {
		for _, kind := range space.kinds {
			name := space.name + "vfiofs"
			add(space.name+"/"+kind+"/life", space.root, func(e *env) {
				e.make(kind, "f")
				e.is("get-missing", e.xattr("f", name), "ENODATA")
				e.is("replace-missing", unix.Lsetxattr("f", name, []byte("v"), unix.XATTR_REPLACE), "ENODATA")
				e.is("remove-missing", unix.Lremovexattr("f", name), "ENODATA")
				e.is("create", unix.Lsetxattr("f", name, []byte("one"), unix.XATTR_CREATE), "ok")
				e.is("get", e.xattr("f", name), `"one"`)
				e.is("create-again", unix.Lsetxattr("f", name, []byte("v"), unix.XATTR_CREATE), "EEXIST")
				e.is("unchanged", e.xattr("f", name), `"one"`)
				e.is("replace", unix.Lsetxattr("f", name, []byte("longer value"), unix.XATTR_REPLACE), "ok")
				e.is("get-replaced", e.xattr("f", name), `"longer value"`)
				e.is("list", e.xattrNames("f", space.name), []string{name})
				e.is("remove", unix.Lremovexattr("f", name), "ok")
				e.is("list-empty", e.xattrNames("f", space.name), "")
			})
		}
		for _, size := range []int{0, 1, 100, 1000, 3000} {
			add(fmt.Sprintf("%s/value-%d", space.name, size), space.root, func(e *env) {
				e.file("f", "")
				value := pattern(size)
				e.is("set", unix.Setxattr("f", space.name+"a", value, 0), "ok")
				e.is("same", e.xattr("f", space.name+"a") == text(value), true)
				n, err := unix.Getxattr("f", space.name+"a", nil)
				e.is("probe", err, "ok")
				e.is("probe-size", n, size)
				if size > 1 {
					e.is("short-buffer", drop(unix.Getxattr("f", space.name+"a", make([]byte, size-1))), "ERANGE")
				}
			})
		}
	}
	for _, x := range []struct {
		label, name string
		value       int
		flags       int
		want        string
	}{
		{"no-prefix", "plain", 1, 0, "EOPNOTSUPP"},
		{"unknown-prefix", "strange.a", 1, 0, "EOPNOTSUPP"},
		{"prefix-alone", "user.", 1, 0, "EINVAL"},
		{"empty-name", "", 1, 0, "ERANGE"},
		{"name-255", "user." + strings.Repeat("n", 250), 1, 0, "ok"},
		{"name-256", "user." + strings.Repeat("n", 251), 1, 0, "ERANGE"},
		{"value-65537", "user.a", 65537, 0, "E2BIG"},
		{"flags-unknown", "user.a", 1, 4, "EINVAL"},
		{"not-utf8", "user.\xff\xfe", 1, 0, "ok"},
		{"dots", "user.a.b..c", 1, 0, "ok"},
		{"newline", "user.a\nb", 1, 0, "ok"},
	} {
		add("set/"+x.label, false, func(e *env) {
			e.file("f", "")
			e.is(x.want, unix.Setxattr("f", x.name, make([]byte, x.value), x.flags), x.want)
			if x.want == "ok" {
				e.is("listed", e.xattrNames("f", "user."), []string{x.name})
			} else {
				e.is("nothing-listed", e.xattrNames("f", "user."), "")
			}
		})
	}
	for _, x := range []struct{ label, name, get, remove string }{
		{"no-prefix", "plain", "EOPNOTSUPP", "EOPNOTSUPP"},
		{"unknown-prefix", "strange.a", "EOPNOTSUPP", "EOPNOTSUPP"},
		{"empty-name", "", "ERANGE", "ERANGE"},
		{"name-256", "user." + strings.Repeat("n", 251), "ERANGE", "ERANGE"},
		{"other-case", "user.A", "ENODATA", "ENODATA"},
		{"prefix-of-other", "user.abc", "ENODATA", "ENODATA"},
	} {
		add("get/"+x.label, false, func(e *env) {
			e.file("f", "")
			e.must(unix.Setxattr("f", "user.abcd", nil, 0))
			e.is("get", e.xattr("f", x.name), x.get)
			e.is("remove", unix.Removexattr("f", x.name), x.remove)
		})
	}
	add("list/many", false, func(e *env) {
		e.file("f", "")
		var want []string
		for i := range 20 {
			want = append(want, fmt.Sprintf("user.name%02d", i))
			e.must(unix.Setxattr("f", want[i], []byte{byte(i)}, 0))
		}
		e.is("names", e.xattrNames("f", "user."), want)
		n, err := unix.Listxattr("f", nil)
		e.is("probe", err, "ok")
		e.is("short-buffer", drop(unix.Listxattr("f", make([]byte, max(n-1, 1)))), "ERANGE")
		e.is("exact-buffer", drop(unix.Listxattr("f", make([]byte, n))), "ok")
		e.must(unix.Removexattr("f", "user.name07"))
		e.is("after-remove", e.xattrNames("f", "user."), slices.Delete(want, 7, 8))
	})
	add("follow", false, func(e *env) {
		e.make("link", "l")
		e.must(unix.Setxattr("l", "user.a", []byte("v"), 0))
		e.is("target", e.xattr("l-target", "user.a"), `"v"`)
		e.is("link", e.xattrNames("l", "user."), "")
	})
	add("moves-along", false, func(e *env) {
		e.file("f", "")
		e.must(unix.Setxattr("f", "user.a", []byte("v"), 0))
		e.must(unix.Rename("f", "g"))
		e.is("renamed", e.xattr("g", "user.a"), `"v"`)
		e.file("f", "")
		e.is("not-inherited", e.xattr("f", "user.a"), "ENODATA")
	})
	add("sticky-dir", true, func(e *env) { // xattr(7): only the owner, in a sticky directory
		e.must(unix.Mkdir("d", 0o777))
		e.must(unix.Chown("d", alice, staff))
		e.must(unix.Chmod("d", 0o1777))
		set := func() error { return unix.Setxattr("d", "user.a", nil, 0) }
		e.is("other", e.as(user{bob, crowd, nil}, set), "EPERM")
		e.is("owner", e.as(user{alice, staff, nil}, set), "ok")
	})
	add("trusted-hidden", true, func(e *env) { // xattr(7): CAP_SYS_ADMIN sees them
		e.file("f", "")
		e.must(unix.Setxattr("f", "trusted.a", nil, 0))
		e.must(unix.Setxattr("f", "user.a", nil, 0))
		e.must(unix.Chmod("f", 0o666))
		e.try(user{bob, crowd, nil}, func() error {
			e.is("list", e.xattrNames("f", "trusted."), "")
			e.is("get", e.xattr("f", "trusted.a"), "ENODATA")
			e.is("set", unix.Setxattr("f", "trusted.a", nil, 0), "EPERM")
			e.is("user", e.xattr("f", "user.a"), `""`)
			return nil
		})
		e.is("root-lists", e.xattrNames("f", "trusted."), "trusted.a")
	})
	return append(cases, capabilityCases()...)
}

// capabilityCases are security.capability, which changes of the file take away
// (capabilities(7), "File capabilities").
func capabilityCases() (cases []testcase) {
	// struct vfs_ns_cap_data, version 2: CAP_NET_RAW permitted and effective.
	caps := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for _, x := range []struct {
		label string
		keeps bool
		do    func(e *env, fd int) error
	}{
		{"write", false, func(_ *env, fd int) error { return drop(unix.Write(fd, []byte("x"))) }},
		{"ftruncate", false, func(_ *env, fd int) error { return unix.Ftruncate(fd, 1) }},
		{"truncate", false, func(*env, int) error { return unix.Truncate("f", 1) }},
		{"open-trunc", false, func(e *env, _ int) error { return e.tryOpen("f", unix.O_WRONLY|unix.O_TRUNC) }},
		{"chown", false, func(*env, int) error { return unix.Chown("f", alice, -1) }},
		{"fallocate", false, func(_ *env, fd int) error { return unix.Fallocate(fd, 0, 0, 100) }},
		{"copy-file-range", false, func(e *env, fd int) error {
			return drop(unix.CopyFileRange(e.other("data", unix.O_RDONLY), nil, fd, nil, 4, 0))
		}},
		{"read", true, func(_ *env, fd int) error { return drop(unix.Read(fd, make([]byte, 1))) }},
		{"chmod", true, func(*env, int) error { return unix.Chmod("f", 0o700) }},
		{"utimens", true, func(*env, int) error { return unix.UtimesNanoAt(unix.AT_FDCWD, "f", make([]unix.Timespec, 2), 0) }},
		{"setxattr", true, func(*env, int) error { return unix.Setxattr("f", "user.a", nil, 0) }},
		{"link", true, func(*env, int) error { return unix.Link("f", "g") }},
	} {
		cases = append(cases, testcase{name: "xattr/capability/" + x.label, root: true, run: func(e *env) {
			e.file("f", "data")
			e.must(unix.Chmod("f", 0o755))
			fd := e.open("f", unix.O_RDWR)
			e.must(unix.Setxattr("f", capability, caps, 0))
			e.is("set", e.xattr("f", capability), text(caps))
			e.must(x.do(e, fd))
			want := "ENODATA"
			if x.keeps {
				want = text(caps)
			}
			e.is("after", e.xattr("f", capability), want)
		}})
	}
	return cases
}

// capability is the attribute of a file's capabilities.
const capability = "security.capability"
