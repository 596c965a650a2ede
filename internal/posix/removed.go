package posix

import "golang.org/x/sys/unix"

// removedCases are files and directories that are open and have no name any more: a
// file lives until its last descriptor is closed (unlink(3P)).
func removedCases() (cases []testcase) {
	for _, how := range []struct {
		name string
		do   func(e *env) error
	}{
		{"unlink", func(*env) error { return unix.Unlink("f") }},
		{"rename-over", func(e *env) error {
			e.file("other", "other")
			return unix.Rename("other", "f")
		}},
		{"unlink-by-link", func(*env) error {
			if err := unix.Link("f", "g"); err != nil {
				return err
			}
			if err := unix.Unlink("g"); err != nil {
				return err
			}
			return unix.Unlink("f")
		}},
	} {
		for _, op := range removedOps {
			cases = append(cases, testcase{name: "removed/" + how.name + "/" + op.name, root: op.root, run: func(e *env) {
				e.file("f", "data")
				fd := e.open("f", unix.O_RDWR)
				e.must(how.do(e))
				op.do(e, fd)
			}})
		}
	}
	add := func(name string, run func(e *env, fd int)) {
		cases = append(cases, testcase{name: "removed-dir/" + name, run: func(e *env) {
			e.must(unix.Mkdir("d", 0o755))
			fd := e.open("d", unix.O_RDONLY|unix.O_DIRECTORY)
			e.must(unix.Rmdir("d"))
			run(e, fd)
		}})
	}
	add("list", func(e *env, fd int) { // getdents(2), ENOENT
		e.is("ENOENT", drop(unix.Getdents(fd, make([]byte, 4096))), "ENOENT")
	})
	add("fstat", func(e *env, fd int) {
		var st unix.Stat_t
		e.is("fstat", unix.Fstat(fd, &st), "ok")
		e.is("nlink", st.Nlink, 0)
	})
	add("make", func(e *env, fd int) {
		e.is("open", drop(unix.Openat(fd, "n", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o644)), "ENOENT")
		e.is("mkdir", unix.Mkdirat(fd, "n", 0o755), "ENOENT")
		e.is("mknod", unix.Mknodat(fd, "n", unix.S_IFIFO|0o644, 0), "ENOENT")
		e.is("symlink", unix.Symlinkat("x", fd, "n"), "ENOENT")
		e.file("f", "")
		e.is("link", unix.Linkat(unix.AT_FDCWD, "f", fd, "n", 0), "ENOENT")
		e.is("rename", unix.Renameat(unix.AT_FDCWD, "f", fd, "n"), "ENOENT")
	})
	add("dots", func(e *env, fd int) {
		var st unix.Stat_t
		e.is("dot", unix.Fstatat(fd, ".", &st, 0), "ok")
		e.is("dotdot", unix.Fstatat(fd, "..", &st, 0), "ok")
		e.is("missing", unix.Fstatat(fd, "n", &st, 0), "ENOENT")
	})
	add("change", func(e *env, fd int) {
		e.is("fchmod", unix.Fchmod(fd, 0o700), "ok")
		e.is("fsync", unix.Fsync(fd), "ok")
		e.is("utimens", unix.UtimesNanoAt(fd, "", make([]unix.Timespec, 2), unix.AT_EMPTY_PATH), "ok")
		e.is("setxattr", unix.Fsetxattr(fd, "user.a", nil, 0), "ok")
	})
	add("made-anew", func(e *env, fd int) {
		e.must(unix.Mkdir("d", 0o755))
		e.file("d/f", "")
		e.is("old-is-dead", drop(unix.Getdents(fd, make([]byte, 4096))), "ENOENT")
		e.is("new-is-not", e.list("d"), "f")
		var st unix.Stat_t
		e.must(unix.Fstat(fd, &st))
		e.is("other-inode", st.Ino != e.stat("d").Ino, true)
	})
	add("working-directory", func(e *env, _ int) {
		e.must(unix.Mkdir("d", 0o755))
		e.must(unix.Chdir("d"))
		e.must(unix.Rmdir("../d"))
		e.is("getcwd", drop(unix.Getcwd(make([]byte, 4096))), "ENOENT")
		e.is("mkdir", unix.Mkdir("n", 0o755), "ENOENT")
		e.is("open", e.tryOpen("n", unix.O_RDONLY), "ENOENT")
		e.is("dotdot", unix.Chdir(".."), "ok")
		e.is("empty", e.list("."), "")
	})
	return cases
}

// removedOps are what still works on a file without a name.
var removedOps = []struct {
	name string
	root bool
	do   func(e *env, fd int)
}{
	{"read", false, func(e *env, fd int) {
		buf := make([]byte, 8)
		n, err := unix.Pread(fd, buf, 0)
		e.is("pread", err, "ok")
		e.is("bytes", buf[:max(n, 0)], []byte("data"))
	}},
	{"write", false, func(e *env, fd int) {
		n, err := unix.Pwrite(fd, []byte("more"), 4)
		e.is("pwrite", err, "ok")
		e.is("written", n, 4)
		buf := make([]byte, 8)
		e.must(drop(unix.Pread(fd, buf, 0)))
		e.is("bytes", buf, []byte("datamore"))
	}},
	{"fstat", false, func(e *env, fd int) {
		var st unix.Stat_t
		e.is("fstat", unix.Fstat(fd, &st), "ok")
		e.is("nlink", st.Nlink, 0)
		e.is("size", st.Size, 4)
	}},
	{"statx", false, func(e *env, fd int) {
		var sx unix.Statx_t
		e.is("statx", unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &sx), "ok")
		e.is("nlink", sx.Nlink, 0)
	}},
	{"ftruncate", false, func(e *env, fd int) {
		e.is("ftruncate", unix.Ftruncate(fd, 1), "ok")
		var st unix.Stat_t
		e.must(unix.Fstat(fd, &st))
		e.is("size", st.Size, 1)
	}},
	{"fchmod", false, func(e *env, fd int) {
		e.is("fchmod", unix.Fchmod(fd, 0o600), "ok")
		var st unix.Stat_t
		e.must(unix.Fstat(fd, &st))
		e.is("mode", octal(st.Mode&0o7777), "0600")
	}},
	{"fchown", true, func(e *env, fd int) {
		e.is("fchown", unix.Fchown(fd, alice, staff), "ok")
		var st unix.Stat_t
		e.must(unix.Fstat(fd, &st))
		e.is("uid", st.Uid, alice)
	}},
	{"utimens", false, func(e *env, fd int) {
		e.is("utimens", unix.UtimesNanoAt(fd, "", []unix.Timespec{{Sec: 3}, {Sec: 4}}, unix.AT_EMPTY_PATH), "ok")
		var st unix.Stat_t
		e.must(unix.Fstat(fd, &st))
		e.is("mtime", st.Mtim.Sec, 4)
	}},
	{"xattr", false, func(e *env, fd int) {
		e.is("set", unix.Fsetxattr(fd, "user.a", []byte("v"), 0), "ok")
		n, err := unix.Fgetxattr(fd, "user.a", make([]byte, 8))
		e.is("get", err, "ok")
		e.is("size", n, 1)
		e.is("list", drop(unix.Flistxattr(fd, nil)), "ok")
		e.is("remove", unix.Fremovexattr(fd, "user.a"), "ok")
	}},
	{"fsync", false, func(e *env, fd int) {
		e.is("fsync", unix.Fsync(fd), "ok")
		e.is("fdatasync", unix.Fdatasync(fd), "ok")
		e.is("syncfs", unix.Syncfs(fd), "ok")
	}},
	{"allocate", false, func(e *env, fd int) {
		e.is("fallocate", unix.Fallocate(fd, 0, 0, 100), "ok")
		e.is("seek-hole", drop(unix.Seek(fd, 0, unix.SEEK_HOLE)), "ok")
	}},
	{"copy", false, func(e *env, fd int) {
		n, err := unix.CopyFileRange(fd, nil, e.other("", unix.O_WRONLY), nil, 4, 0)
		e.is("copy", err, "ok")
		e.is("copied", n, 4)
	}},
	{"mmap", false, func(e *env, fd int) {
		e.is("touch", e.touch(fd, unix.PROT_READ|unix.PROT_WRITE), "ok")
		buf := make([]byte, 4)
		e.must(drop(unix.Pread(fd, buf, 0)))
		e.is("bytes", buf, []byte("eata"))
	}},
	{"lock", false, func(e *env, fd int) {
		e.is("flock", unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB), "ok")
		e.is("setlk", unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}), "ok")
	}},
	{"reopen", false, func(e *env, fd int) { e.is("reopen", e.tryOpen(procPath(fd), unix.O_RDWR), "ok") }},
	{"link", false, func(e *env, fd int) {
		e.is("link", unix.Linkat(unix.AT_FDCWD, procPath(fd), unix.AT_FDCWD, "back", unix.AT_SYMLINK_FOLLOW), "ENOENT")
	}},
	{"flags", false, func(e *env, fd int) {
		e.is("getflags", drop(unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)), "ok")
	}},
}
