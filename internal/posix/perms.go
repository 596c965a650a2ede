package posix

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// The bits of one class of a mode.
const (
	mayRead  = 4
	mayWrite = 2
	mayExec  = 1
)

// classes are the ways in which a user can stand to a file of alice and staff, and the
// place of the bits that count for it: exactly one class does (path_resolution(7)).
var classes = []struct {
	name  string
	who   user
	shift int
}{
	{"owner", user{alice, crowd, nil}, 6},
	{"group", user{bob, staff, nil}, 3},
	{"supplementary", user{bob, crowd, []int{guild, staff}}, 3},
	{"other", user{bob, crowd, []int{guild}}, 0},
}

// classMode returns a mode with bits for one class, and just the others for the other
// classes, so that a mix-up of classes shows.
func classMode(shift int, bits uint32) uint32 {
	mode := (bits ^ 7) * 0o111
	return mode&^(7<<shift) | bits<<shift
}

// A rule says who may do an operation on an object of alice.
type rule int

const (
	byBits      rule = iota // whose class has all the bits that it needs
	ownerOnly               // the owner, whatever the bits are
	ownerOrBits             // both
	nobody                  // root alone
)

// A permCase is an operation on an object of alice, and what it needs there.
type permCase struct {
	name    string
	rule    rule
	need    uint32 // mayRead and so on
	refusal string // EACCES or EPERM
	do      func(e *env) error
}

// want returns the outcome for a class that has some bits.
func (c *permCase) want(class string, bits uint32) string {
	owner, has := class == "owner", bits&c.need == c.need
	if c.rule == byBits && has || c.rule == ownerOnly && owner || c.rule == ownerOrBits && (owner || has) {
		return "ok"
	}
	return c.refusal
}

// permMatrix returns a case for each operation, class and value of the bits. prepare
// makes the object and gives it the mode.
func permMatrix(topic string, list []permCase, prepare func(e *env, mode uint32)) (cases []testcase) {
	for _, op := range list {
		for _, class := range classes {
			for bits := range uint32(8) {
				want := op.want(class.name, bits)
				cases = append(cases, testcase{
					name: fmt.Sprintf("perm/%s/%s/%s-%s/%s", topic, op.name, class.name, rwx(bits), want),
					root: true,
					run: func(e *env) {
						prepare(e, classMode(class.shift, bits))
						e.is("", e.as(class.who, func() error { return op.do(e) }), want)
					},
				})
			}
		}
	}
	return cases
}

// rwx prints the bits of a class.
func rwx(bits uint32) string {
	b := []byte("---")
	for i, c := range []byte("rwx") {
		if bits&(mayRead>>i) != 0 {
			b[i] = c
		}
	}
	return string(b)
}

// filePermCases are operations on a file, by the file's own mode.
func filePermCases() []testcase {
	open := func(flags int) func(e *env) error {
		return func(e *env) error { return e.tryOpen("f", flags) }
	}
	access := func(mode uint32) func(e *env) error {
		return func(*env) error { return unix.Access("f", mode) }
	}
	times := func(a, m int64) func(*env) error {
		return func(*env) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, "f", []unix.Timespec{{Sec: 1, Nsec: a}, {Sec: 1, Nsec: m}}, 0)
		}
	}
	value := make([]byte, 8)
	return permMatrix("file", []permCase{
		{"open-r", byBits, mayRead, "EACCES", open(unix.O_RDONLY)},
		{"open-w", byBits, mayWrite, "EACCES", open(unix.O_WRONLY)},
		{"open-rw", byBits, mayRead | mayWrite, "EACCES", open(unix.O_RDWR)},
		{"open-append", byBits, mayWrite, "EACCES", open(unix.O_WRONLY | unix.O_APPEND)},
		{"open-trunc", byBits, mayRead | mayWrite, "EACCES", open(unix.O_RDWR | unix.O_TRUNC)},
		{"open-creat", byBits, mayWrite, "EACCES", open(unix.O_WRONLY | unix.O_CREAT)},
		{"open-path", byBits, 0, "EACCES", open(unix.O_PATH)},
		{"truncate", byBits, mayWrite, "EACCES", func(*env) error { return unix.Truncate("f", 1) }},
		{"access-r", byBits, mayRead, "EACCES", access(unix.R_OK)},
		{"access-w", byBits, mayWrite, "EACCES", access(unix.W_OK)},
		{"access-x", byBits, mayExec, "EACCES", access(unix.X_OK)},
		{"access-rwx", byBits, 7, "EACCES", access(unix.R_OK | unix.W_OK | unix.X_OK)},
		{"utimens-now", ownerOrBits, mayWrite, "EACCES", times(unix.UTIME_NOW, unix.UTIME_NOW)},
		{"utimens-omit", byBits, 0, "EACCES", times(unix.UTIME_OMIT, unix.UTIME_OMIT)},
		{"utimens-set", ownerOnly, 0, "EPERM", times(0, 0)},
		{"utimens-half", ownerOnly, 0, "EPERM", times(unix.UTIME_OMIT, unix.UTIME_NOW)},
		{"chmod", ownerOnly, 0, "EPERM", func(*env) error { return unix.Chmod("f", 0o600) }},
		{"chown-uid", nobody, 0, "EPERM", func(*env) error { return unix.Chown("f", bob, -1) }},
		{"chown-group", ownerOnly, 0, "EPERM", func(*env) error { return unix.Chown("f", -1, crowd) }},
		{"chown-foreign-group", nobody, 0, "EPERM", func(*env) error { return unix.Chown("f", -1, 6009) }},
		{"chown-nothing", ownerOnly, 0, "EPERM", func(*env) error { return unix.Chown("f", alice, staff) }},
		{"stat", byBits, 0, "EACCES", func(*env) error { return unix.Stat("f", new(unix.Stat_t)) }},
		{"getxattr", byBits, mayRead, "EACCES", func(*env) error { return drop(unix.Getxattr("f", "user.a", value)) }},
		{"setxattr", byBits, mayWrite, "EACCES", func(*env) error { return unix.Setxattr("f", "user.a", value, 0) }},
		{"removexattr", byBits, mayWrite, "EACCES", func(*env) error { return unix.Removexattr("f", "user.a") }},
		{"listxattr", byBits, 0, "EACCES", func(*env) error { return drop(unix.Listxattr("f", nil)) }},
		{"setxattr-trusted", nobody, 0, "EPERM", func(*env) error { return unix.Setxattr("f", "trusted.a", value, 0) }},
		{"setxattr-security", nobody, 0, "EPERM", func(*env) error { return unix.Setxattr("f", "security.a", value, 0) }},
	}, func(e *env, mode uint32) {
		e.file("f", "data")
		e.must(unix.Setxattr("f", "user.a", []byte("value"), 0))
		e.must(unix.Chown("f", alice, staff))
		e.must(unix.Chmod("f", mode))
	})
}

// dirPermCases are operations in a directory d, by the directory's mode.
func dirPermCases() []testcase {
	open := func(path string, flags int) func(e *env) error {
		return func(e *env) error { return e.tryOpen(path, flags) }
	}
	const change = mayWrite | mayExec
	cases := permMatrix("dir", []permCase{
		{"open", byBits, mayRead, "EACCES", open("d", unix.O_RDONLY|unix.O_DIRECTORY)},
		{"open-path", byBits, 0, "EACCES", open("d", unix.O_PATH)},
		{"open-tmpfile", byBits, change, "EACCES", open("d", unix.O_RDWR|unix.O_TMPFILE)},
		{"chdir", byBits, mayExec, "EACCES", func(e *env) error {
			if err := unix.Chdir("d"); err != nil {
				return err
			}
			return unix.Chdir("..")
		}},
		{"stat-entry", byBits, mayExec, "EACCES", func(*env) error { return unix.Stat("d/f", new(unix.Stat_t)) }},
		{"stat-missing", byBits, mayExec, "EACCES", func(*env) error { return found(unix.Stat("d/x", new(unix.Stat_t))) }},
		{"stat-dot", byBits, mayExec, "EACCES", func(*env) error { return unix.Stat("d/.", new(unix.Stat_t)) }},
		{"open-entry", byBits, mayExec, "EACCES", open("d/f", unix.O_RDONLY)},
		{"open-below", byBits, mayExec, "EACCES", open("d/e", unix.O_RDONLY)},
		{"open-creat", byBits, change, "EACCES", open("d/new", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)},
		{"creat-existing", byBits, mayExec, "EACCES", open("d/f", unix.O_WRONLY|unix.O_CREAT)},
		{"mkdir", byBits, change, "EACCES", func(*env) error { return unix.Mkdir("d/new", 0o755) }},
		{"mknod-fifo", byBits, change, "EACCES", func(*env) error { return unix.Mknod("d/new", unix.S_IFIFO|0o644, 0) }},
		{"mknod-file", byBits, change, "EACCES", func(*env) error { return unix.Mknod("d/new", unix.S_IFREG|0o644, 0) }},
		{"bind", byBits, change, "EACCES", func(e *env) error { return unix.Bind(e.socket(), &unix.SockaddrUnix{Name: "d/new"}) }},
		{"symlink", byBits, change, "EACCES", func(*env) error { return unix.Symlink("x", "d/new") }},
		{"readlink", byBits, mayExec, "EACCES", func(*env) error { return drop(unix.Readlink("d/l", make([]byte, 8))) }},
		{"link", byBits, change, "EACCES", func(*env) error { return unix.Link("d/f", "d/new") }},
		{"unlink", byBits, change, "EACCES", func(*env) error { return unix.Unlink("d/f") }},
		{"rmdir", byBits, change, "EACCES", func(*env) error { return unix.Rmdir("d/e") }},
		{"rename-within", byBits, change, "EACCES", func(*env) error { return unix.Rename("d/f", "d/new") }},
		{"rename-out", byBits, change, "EACCES", func(*env) error { return unix.Rename("d/f", "open/f") }},
		{"rename-in", byBits, change, "EACCES", func(*env) error { return unix.Rename("open/g", "d/g") }},
		{"rename-onto", byBits, change, "EACCES", func(*env) error { return unix.Rename("open/g", "d/f") }},
		{"exchange", byBits, change, "EACCES", func(*env) error { return rename("open/g", "d/f", unix.RENAME_EXCHANGE) }},
		{"utimens-now", ownerOrBits, mayWrite, "EACCES", func(*env) error { return unix.UtimesNanoAt(unix.AT_FDCWD, "d", nil, 0) }},
		{"chmod", ownerOnly, 0, "EPERM", func(*env) error { return unix.Chmod("d", 0o755) }},
		{"setxattr", byBits, mayWrite, "EACCES", func(*env) error { return unix.Setxattr("d", "user.a", nil, 0) }},
		{"access-x", byBits, mayExec, "EACCES", func(*env) error { return unix.Access("d", unix.X_OK) }},
		{"access-w", byBits, mayWrite, "EACCES", func(*env) error { return unix.Access("d", unix.W_OK) }},
	}, func(e *env, mode uint32) {
		for _, d := range []string{"d", "d/e", "open"} {
			e.must(unix.Mkdir(d, 0o777))
		}
		for _, f := range []string{"d/f", "open/g"} {
			e.file(f, "data")
			e.must(unix.Chmod(f, 0o666))
		}
		e.must(unix.Symlink("f", "d/l"))
		e.must(unix.Chown("d", alice, staff))
		e.must(unix.Chmod("d", mode))
	})
	return append(cases, rootPermCases()...)
}

// found turns "no such file", which somebody who may search gets told, into success.
func found(err error) error {
	if err == unix.ENOENT {
		return nil
	}
	return err
}

// rootPermCases are what root may, and does not even need a bit for (capabilities(7),
// CAP_DAC_OVERRIDE): everything but executing a file without any x bit.
func rootPermCases() (cases []testcase) {
	for _, mode := range []uint32{0, 0o111, 0o444, 0o777, 0o010} {
		cases = append(cases, testcase{name: fmt.Sprintf("perm/root/%04o", mode), root: true, run: func(e *env) {
			e.file("f", "data")
			e.must(unix.Mkdir("d", 0o755))
			e.file("d/g", "data")
			for _, p := range []string{"f", "d"} {
				e.must(unix.Chown(p, alice, staff))
				e.must(unix.Chmod(p, mode))
			}
			e.is("open-rw", e.tryOpen("f", unix.O_RDWR), "ok")
			e.is("truncate", unix.Truncate("f", 1), "ok")
			e.is("list", e.list("d"), "g")
			e.is("creat", e.tryOpen("d/new", unix.O_WRONLY|unix.O_CREAT), "ok")
			e.is("unlink", unix.Unlink("d/g"), "ok")
			e.is("access-dir", unix.Access("d", unix.R_OK|unix.W_OK|unix.X_OK), "ok")
			want := "ok"
			if mode&0o111 == 0 {
				want = "EACCES"
			}
			e.is("access-x", unix.Access("f", unix.X_OK), want)
		}})
	}
	add := func(name string, run func(*env)) {
		cases = append(cases, testcase{name: "perm/privilege/" + name, root: true, run: run})
	}
	owner, other := user{alice, staff, nil}, user{bob, staff, nil}
	add("noatime", func(e *env) { // open(2): EPERM for all but the owner
		e.file("f", "data")
		e.must(unix.Chown("f", alice, staff))
		open := func() error { return e.tryOpen("f", unix.O_RDONLY|unix.O_NOATIME) }
		e.is("owner", e.as(owner, open), "ok")
		e.is("other", e.as(other, open), "EPERM")
		e.is("root", open(), "ok")
		e.must(unix.Chmod("f", 0))
		e.is("owner-unreadable", e.as(owner, open), "EACCES")
		e.is("other-unreadable", e.as(other, open), "EACCES")
	})
	add("mknod", func(e *env) { // mknod(2): CAP_MKNOD for devices
		e.must(unix.Chmod(".", 0o777))
		for _, x := range []struct {
			kind string
			mode uint32
			dev  int
			want string
		}{
			{"char", unix.S_IFCHR, nullDevice, "EPERM"},
			{"block", unix.S_IFBLK, noDevice, "EPERM"},
			{"whiteout", unix.S_IFCHR, 0, "ok"},
			{"fifo", unix.S_IFIFO, 0, "ok"},
		} {
			e.is(x.kind, e.as(owner, func() error { return unix.Mknod(x.kind, x.mode|0o600, x.dev) }), x.want)
		}
		e.is("dir", unix.Mknod("n", unix.S_IFDIR|0o755, 0), "EPERM")
		e.is("link", unix.Mknod("n", unix.S_IFLNK|0o755, 0), "EINVAL")
		e.is("unknown", unix.Mknod("n", 0o170644, 0), "EINVAL")
		e.is("no-type", unix.Mknod("n", 0o644, 0), "ok")
		e.is("no-type-is-file", e.stat("n").Mode, uint32(unix.S_IFREG|0o644))
	})
	add("open-stays-open", func(e *env) { // permissions count when a file is opened
		e.file("f", "data")
		fd := e.open("f", unix.O_RDWR)
		e.must(unix.Chown("f", alice, staff))
		e.must(unix.Chmod("f", 0))
		e.is("read", e.as(other, func() error { return drop(unix.Pread(fd, make([]byte, 4), 0)) }), "ok")
		e.is("write", e.as(other, func() error { return drop(unix.Pwrite(fd, []byte("x"), 0)) }), "ok")
		e.is("ftruncate", e.as(other, func() error { return unix.Ftruncate(fd, 1) }), "ok")
	})
	add("creat-0000", func(e *env) {
		e.must(unix.Chmod(".", 0o777))
		e.is("write", e.as(owner, func() error {
			fd, err := unix.Open("f", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return drop(unix.Write(fd, []byte("data")))
		}), "ok")
		e.is("content", e.content("f"), "data")
		e.is("again", e.as(owner, func() error { return e.tryOpen("f", unix.O_RDONLY) }), "EACCES")
	})
	add("change-at-once", func(e *env) { // no cache may keep an old answer
		e.file("f", "data")
		open := func() error { return e.as(other, func() error { return e.tryOpen("f", unix.O_RDONLY) }) }
		e.is("open", open(), "ok")
		e.must(unix.Chmod("f", 0o600))
		e.is("taken-away", open(), "EACCES")
		e.must(unix.Chmod("f", 0o604))
		e.is("given-back", open(), "ok")
		e.must(unix.Chown("f", -1, staff))
		e.is("group-counts", open(), "EACCES")
	})
	return cases
}
