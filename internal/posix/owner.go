package posix

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// makers create something called n in the working directory, with mode 0777 or less.
var makers = []struct {
	name string
	mode uint32 // asked for
	do   func(e *env, path string, mode uint32) error
}{
	{"open", 0o666, func(e *env, path string, mode uint32) error {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, mode)
		if err == nil {
			e.fds = append(e.fds, fd)
		}
		return err
	}},
	{"mkdir", 0o777, func(_ *env, path string, mode uint32) error { return unix.Mkdir(path, mode) }},
	{"mknod-file", 0o666, func(_ *env, path string, mode uint32) error { return unix.Mknod(path, unix.S_IFREG|mode, 0) }},
	{"mknod-fifo", 0o666, func(_ *env, path string, mode uint32) error { return unix.Mknod(path, unix.S_IFIFO|mode, 0) }},
	{"mknod-socket", 0o666, func(_ *env, path string, mode uint32) error { return unix.Mknod(path, unix.S_IFSOCK|mode, 0) }},
	{"bind", 0o777, func(e *env, path string, _ uint32) error {
		return unix.Bind(e.socket(), &unix.SockaddrUnix{Name: path})
	}},
	{"symlink", 0o777, func(_ *env, path string, _ uint32) error { return unix.Symlink("x", path) }},
}

// ownerCases are owner, group and mode of what is made, by whom and where.
func ownerCases() (cases []testcase) {
	users := []struct {
		name string
		who  user
	}{
		{"root", user{0, 0, nil}},
		{"alice", user{alice, staff, nil}},
		{"bob", user{bob, crowd, []int{guild, staff}}},
	}
	for _, u := range users {
		for _, place := range []struct {
			name string
			mode uint32
		}{{"plain", 0o777}, {"setgid", 0o2777}, {"sticky", 0o1777}} {
			for _, m := range makers {
				cases = append(cases, testcase{name: fmt.Sprintf("owner/%s/%s/%s", m.name, u.name, place.name), root: true, run: func(e *env) {
					e.must(unix.Mkdir("d", 0o777))
					e.must(unix.Chown("d", 0, guild))
					e.must(unix.Chmod("d", place.mode))
					e.is("make", e.as(u.who, func() error { return m.do(e, "d/n", m.mode) }), "ok")
					st := e.stat("d/n")
					group, mode := u.who.gid, m.mode
					if place.name == "setgid" { // inode(7): the group is inherited
						group = guild
						if m.name == "mkdir" {
							mode |= unix.S_ISGID // and so is the bit, by directories
						}
					}
					e.is("uid", st.Uid, u.who.uid)
					e.is("gid", st.Gid, group)
					e.is("mode", octal(st.Mode&0o7777), octal(mode))
				}})
			}
		}
	}
	return append(cases, append(umaskCases(), chownCases()...)...)
}

// umaskCases are the mode of what is made, by umask(2) and the mode asked for.
func umaskCases() (cases []testcase) {
	for _, m := range makers {
		for _, umask := range []int{0, 0o022, 0o027, 0o077, 0o777, 0o111} {
			for _, mode := range []uint32{0o777, 0o640, 0, 0o7777} {
				want := mode &^ uint32(umask)
				switch m.name {
				case "symlink":
					want = 0o777 // symlink(7): the mode of a link never matters
				case "bind":
					want = 0o777 &^ uint32(umask)
				case "mkdir":
					want &= 0o1777 // mkdir(2): Linux honours the sticky bit, not the others
				}
				if (m.name == "symlink" || m.name == "bind") && mode != 0o777 {
					continue // they are not told a mode
				}
				cases = append(cases, testcase{name: fmt.Sprintf("umask/%s/%04o-of-%04o", m.name, umask, mode), run: func(e *env) {
					unix.Umask(umask)
					err := m.do(e, "n", mode)
					unix.Umask(0)
					e.must(err)
					e.is(octal(want), e.mode("n"), octal(want))
				}})
			}
		}
	}
	return cases
}

// chownCases are what chown(2) and chmod(2) allow and change.
func chownCases() (cases []testcase) {
	add := func(name string, run func(*env)) {
		cases = append(cases, testcase{name: "chown/" + name, root: true, run: run})
	}
	for _, kind := range []string{"file", "dir", "dangling", "fifo", "socket", "char", "block"} {
		for _, x := range []struct {
			name     string
			uid, gid int
		}{{"uid", bob, -1}, {"gid", -1, crowd}, {"both", bob, crowd}, {"neither", -1, -1}, {"large", 1<<31 + 7, 1<<32 - 2}} {
			add(kind+"/"+x.name, func(e *env) {
				e.make(kind, "f")
				e.must(unix.Lchown("f", alice, staff))
				e.is("lchown", unix.Lchown("f", x.uid, x.gid), "ok")
				uid, gid := x.uid, x.gid
				if uid == -1 {
					uid = alice
				}
				if gid == -1 {
					gid = staff
				}
				e.is("uid", e.stat("f").Uid, uid)
				e.is("gid", e.stat("f").Gid, gid)
			})
		}
	}
	add("link-or-target", func(e *env) {
		e.make("link", "l")
		e.must(unix.Chown("l", alice, -1))
		e.is("target", e.stat("l-target").Uid, alice)
		e.is("link", e.stat("l").Uid, 0)
		e.must(unix.Lchown("l", bob, -1))
		e.is("link-after", e.stat("l").Uid, bob)
		e.is("target-after", e.stat("l-target").Uid, alice)
	})
	for bits := range uint32(8) {
		mode := bits<<9 | 0o751
		for _, kind := range []string{"file", "dir", "fifo", "socket"} {
			cases = append(cases, testcase{name: fmt.Sprintf("chmod/%s/%04o", kind, mode), run: func(e *env) {
				e.make(kind, "f")
				e.must(unix.Chmod("f", mode))
				e.is("mode", e.mode("f"), octal(mode))
				e.is("type", e.stat("f").Mode&unix.S_IFMT == typeOf(kind), true)
			}})
		}
	}
	for _, x := range []struct {
		name string
		who  user
		want string
	}{
		{"in-group", user{alice, staff, nil}, "2755"},
		{"supplementary", user{alice, crowd, []int{staff}}, "2755"},
		{"not-in-group", user{alice, crowd, nil}, "0755"}, // chmod(2): S_ISGID is dropped
		{"root", user{0, 0, nil}, "2755"},
	} {
		add("chmod-setgid/"+x.name, func(e *env) {
			e.file("f", "")
			e.must(unix.Mkdir("d", 0o755))
			for _, p := range []string{"f", "d"} {
				e.must(unix.Chown(p, alice, staff))
				e.must(e.as(x.who, func() error { return unix.Chmod(p, 0o2755) }))
				e.is(p, e.mode(p), x.want)
			}
		})
	}
	return cases
}
