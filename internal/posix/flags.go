package posix

import "golang.org/x/sys/unix"

// Flags of a file (ioctl_iflags(2)).
const (
	syncFlag  = 0x08
	immutable = 0x10
	appendTo  = 0x20
	noDump    = 0x40
	noATime   = 0x80
)

// setFlags sets the flags of a file, and leaves those that this file does not name.
func (e *env) setFlags(fd, flags int) error {
	old, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	const named = syncFlag | immutable | appendTo | noDump | noATime
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, old&^named|flags)
}

// flagCases are the flags of files, and what they forbid.
func flagCases() (cases []testcase) {
	add := func(name string, root bool, run func(*env)) {
		cases = append(cases, testcase{name: "flags/" + name, root: root, run: run})
	}
	for _, kind := range []string{"file", "dir"} {
		for _, x := range []struct {
			label string
			flag  int
		}{{"sync", syncFlag}, {"nodump", noDump}, {"noatime", noATime}} {
			add(kind+"/"+x.label, false, func(e *env) {
				e.make(kind, "f")
				fd := e.open("f", unix.O_RDONLY)
				e.is("set", e.setFlags(fd, x.flag), "ok")
				got, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
				e.is("get", err, "ok")
				e.is("flag", got&x.flag != 0, true)
				e.is("unset", e.setFlags(fd, 0), "ok")
				got, _ = unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
				e.is("flag-gone", got&x.flag != 0, false)
			})
		}
	}
	locked := func(e *env, flag int, run func()) {
		e.make("full", "d")
		e.file("f", "data")
		f, d := e.open("f", unix.O_RDONLY), e.open("d", unix.O_RDONLY)
		for _, fd := range []int{f, d} {
			e.must(e.setFlags(fd, flag))
			defer e.setFlags(fd, 0)
		}
		run()
	}
	add("immutable", true, func(e *env) {
		locked(e, immutable, func() {
			e.is("open-w", e.tryOpen("f", unix.O_WRONLY), "EPERM")
			e.is("open-r", e.tryOpen("f", unix.O_RDONLY), "ok")
			e.is("truncate", unix.Truncate("f", 1), "EPERM")
			e.is("chmod", unix.Chmod("f", 0o600), "EPERM")
			e.is("chown", unix.Chown("f", alice, -1), "EPERM")
			e.is("utimens", unix.UtimesNanoAt(unix.AT_FDCWD, "f", make([]unix.Timespec, 2), 0), "EPERM")
			e.is("setxattr", unix.Setxattr("f", "user.a", nil, 0), "EPERM")
			e.is("unlink", unix.Unlink("f"), "EPERM")
			e.is("rename", unix.Rename("f", "g"), "EPERM")
			e.is("link", unix.Link("f", "g"), "EPERM")
			e.is("create-below", e.tryOpen("d/n", unix.O_WRONLY|unix.O_CREAT), "EPERM")
			e.is("unlink-below", unix.Unlink("d/x"), "EPERM")
			e.is("write-below", e.tryOpen("d/x", unix.O_WRONLY), "ok")
		})
	})
	add("append-only", true, func(e *env) {
		locked(e, appendTo, func() {
			e.is("open-w", e.tryOpen("f", unix.O_WRONLY), "EPERM")
			e.is("open-append", e.tryOpen("f", unix.O_WRONLY|unix.O_APPEND), "ok")
			e.is("append", drop(unix.Pwrite(e.open("f", unix.O_WRONLY|unix.O_APPEND), []byte("+"), 0)), "ok")
			e.is("appended", e.content("f"), "data+")
			e.is("open-append-trunc", e.tryOpen("f", unix.O_WRONLY|unix.O_APPEND|unix.O_TRUNC), "EPERM")
			e.is("truncate", unix.Truncate("f", 1), "EPERM")
			e.is("unlink", unix.Unlink("f"), "EPERM")
			e.is("rename", unix.Rename("f", "g"), "EPERM")
			e.is("create-below", e.tryOpen("d/n", unix.O_WRONLY|unix.O_CREAT), "ok")
			e.is("unlink-below", unix.Unlink("d/x"), "EPERM")
		})
	})
	return cases
}
