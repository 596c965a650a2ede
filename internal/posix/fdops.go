package posix

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// drop forgets the number that a system call answers beside its error.
func drop[T any](_ T, err error) error { return err }

// procPath is the magic link of a descriptor (proc(5)); thread-self, since the case's
// thread is not the process's first.
func procPath(fd int) string { return "/proc/thread-self/fd/" + strconv.Itoa(fd) }

// descriptorOps are the system calls of descriptorTable.
func (e *env) descriptorOps() map[string]func(fd int) error {
	var (
		two    = []byte("xy")
		twice  = [][]byte{[]byte("x"), []byte("y")}
		buffer = make([]byte, 4096)
		st     unix.Stat_t
		sx     unix.Statx_t
		fs     unix.Statfs_t
	)
	lock := func(cmd int, kind int16) func(int) error {
		return func(fd int) error {
			return unix.FcntlFlock(uintptr(fd), cmd, &unix.Flock_t{Type: kind})
		}
	}
	flock := func(how int) func(int) error {
		return func(fd int) error { return unix.Flock(fd, how|unix.LOCK_NB) }
	}
	seek := func(offset int64, whence int) func(int) error {
		return func(fd int) error { return drop(unix.Seek(fd, offset, whence)) }
	}
	mmap := func(prot, flags int) func(int) error {
		return func(fd int) error {
			b, err := unix.Mmap(fd, 0, 4096, prot, flags)
			if err == nil {
				e.must(unix.Munmap(b))
			}
			return err
		}
	}
	return map[string]func(fd int) error{
		"read":            func(fd int) error { return drop(unix.Read(fd, buffer)) },
		"read-0":          func(fd int) error { return drop(unix.Read(fd, nil)) },
		"write":           func(fd int) error { return drop(unix.Write(fd, two)) },
		"write-0":         func(fd int) error { return drop(unix.Write(fd, nil)) },
		"pread":           func(fd int) error { return drop(unix.Pread(fd, buffer, 1)) },
		"pread-negative":  func(fd int) error { return drop(unix.Pread(fd, buffer, -1)) },
		"pwrite":          func(fd int) error { return drop(unix.Pwrite(fd, two, 1)) },
		"readv":           func(fd int) error { return drop(unix.Readv(fd, twice)) },
		"writev":          func(fd int) error { return drop(unix.Writev(fd, twice)) },
		"preadv":          func(fd int) error { return drop(unix.Preadv(fd, twice, 1)) },
		"pwritev":         func(fd int) error { return drop(unix.Pwritev(fd, twice, 1)) },
		"preadv2-hipri":   func(fd int) error { return drop(unix.Preadv2(fd, twice, 0, unix.RWF_HIPRI)) },
		"preadv2-unknown": func(fd int) error { return drop(unix.Preadv2(fd, twice, 0, 1<<20)) },
		"pwritev2-append": func(fd int) error { return drop(unix.Pwritev2(fd, twice, 0, unix.RWF_APPEND)) },
		"pwritev2-dsync":  func(fd int) error { return drop(unix.Pwritev2(fd, twice, 0, unix.RWF_DSYNC)) },
		"pwritev2-sync":   func(fd int) error { return drop(unix.Pwritev2(fd, twice, 0, unix.RWF_SYNC)) },

		"lseek-set":      seek(2, unix.SEEK_SET),
		"lseek-negative": seek(-2, unix.SEEK_SET),
		"lseek-whence":   seek(0, 99),
		"lseek-data":     seek(0, unix.SEEK_DATA),
		"lseek-data-eof": seek(4, unix.SEEK_DATA),
		"lseek-hole":     seek(0, unix.SEEK_HOLE),
		"ftruncate":      func(fd int) error { return unix.Ftruncate(fd, 2) },
		"ftruncate-less": func(fd int) error { return unix.Ftruncate(fd, -1) },
		"fallocate":      func(fd int) error { return unix.Fallocate(fd, 0, 0, 8) },

		"fchmod":          func(fd int) error { return unix.Fchmod(fd, 0o700) },
		"fchmodat-empty":  func(fd int) error { return unix.Fchmodat(fd, "", 0o700, unix.AT_EMPTY_PATH) },
		"fchown":          func(fd int) error { return unix.Fchown(fd, -1, -1) },
		"fchownat-empty":  func(fd int) error { return unix.Fchownat(fd, "", -1, -1, unix.AT_EMPTY_PATH) },
		"utimensat-empty": func(fd int) error { return unix.UtimesNanoAt(fd, "", make([]unix.Timespec, 2), unix.AT_EMPTY_PATH) },
		"fstat":           func(fd int) error { return unix.Fstat(fd, &st) },
		"statx-empty":     func(fd int) error { return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_ALL, &sx) },
		"fstatfs":         func(fd int) error { return unix.Fstatfs(fd, &fs) },
		"fsync":           unix.Fsync,
		"fdatasync":       unix.Fdatasync,
		"syncfs":          unix.Syncfs,
		"sync-range":      func(fd int) error { return unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE) },
		"fadvise":         func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_WILLNEED) },
		"fgetxattr":       func(fd int) error { return drop(unix.Fgetxattr(fd, "user.a", buffer)) },
		"fsetxattr":       func(fd int) error { return unix.Fsetxattr(fd, "user.a", two, 0) },
		"flistxattr":      func(fd int) error { return drop(unix.Flistxattr(fd, buffer)) },
		"fremovexattr":    func(fd int) error { return unix.Fremovexattr(fd, "user.a") },
		"getdents":        func(fd int) error { return drop(unix.Getdents(fd, buffer)) },
		"mmap-read":       mmap(unix.PROT_READ, unix.MAP_SHARED),
		"mmap-shared":     mmap(unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED),
		"mmap-private":    mmap(unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE),
		"getflags":        func(fd int) error { return drop(unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)) },
		"ioctl-unknown":   func(fd int) error { return drop(unix.IoctlGetInt(fd, 0x5a5a)) },
		"getfl":           func(fd int) error { return drop(unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)) },
		"setfl-append":    func(fd int) error { return drop(unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND)) },
		"dup": func(fd int) error {
			return drop(e.fd(unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)), nil)
		},
		"poll": func(fd int) error {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			_, err := unix.Poll(fds, 0)
			if fds[0].Revents&unix.POLLNVAL != 0 {
				return unix.EBADF
			}
			return err
		},

		"flock-sh":    flock(unix.LOCK_SH),
		"flock-ex":    flock(unix.LOCK_EX),
		"flock-bad":   flock(0),
		"setlk-read":  lock(unix.F_SETLK, unix.F_RDLCK),
		"setlk-write": lock(unix.F_SETLK, unix.F_WRLCK),
		"ofd-read":    lock(unix.F_OFD_SETLK, unix.F_RDLCK),
		"ofd-write":   lock(unix.F_OFD_SETLK, unix.F_WRLCK),
		"getlk":       lock(unix.F_GETLK, unix.F_RDLCK),
		"setlk-bad":   lock(unix.F_SETLK, 99),

		"copy-from": func(fd int) error {
			return drop(unix.CopyFileRange(fd, nil, e.other("", unix.O_WRONLY), nil, 4, 0))
		},
		"copy-to": func(fd int) error {
			return drop(unix.CopyFileRange(e.other("data", unix.O_RDONLY), nil, fd, nil, 4, 0))
		},
		"sendfile-from": func(fd int) error { return drop(unix.Sendfile(e.other("", unix.O_WRONLY), fd, nil, 4)) },
		"sendfile-to":   func(fd int) error { return drop(unix.Sendfile(fd, e.other("data", unix.O_RDONLY), nil, 4)) },
		"splice-from": func(fd int) error {
			_, w := e.pipe("")
			return drop(unix.Splice(fd, nil, w, nil, 4, 0))
		},
		"splice-to": func(fd int) error {
			r, _ := e.pipe("data")
			return drop(unix.Splice(r, nil, fd, nil, 4, 0))
		},

		"fchdir":    unix.Fchdir,
		"openat":    func(fd int) error { return drop(unix.Openat(fd, "name", unix.O_RDONLY, 0)) },
		"mkdirat":   func(fd int) error { return unix.Mkdirat(fd, "name", 0o755) },
		"mknodat":   func(fd int) error { return unix.Mknodat(fd, "name", unix.S_IFIFO|0o644, 0) },
		"symlinkat": func(fd int) error { return unix.Symlinkat("target", fd, "name") },
		"linkat": func(fd int) error {
			e.file("source", "")
			return unix.Linkat(unix.AT_FDCWD, "source", fd, "name", 0)
		},
		"unlinkat":         func(fd int) error { return unix.Unlinkat(fd, "name", 0) },
		"renameat":         func(fd int) error { return unix.Renameat(fd, "name", unix.AT_FDCWD, "new") },
		"fstatat":          func(fd int) error { return unix.Fstatat(fd, "name", &st, 0) },
		"readlinkat":       func(fd int) error { return drop(unix.Readlinkat(fd, "name", buffer)) },
		"readlinkat-empty": func(fd int) error { return drop(unix.Readlinkat(fd, "", buffer)) },
		"reopen-proc":      func(fd int) error { return e.tryOpen(procPath(fd), unix.O_RDONLY|unix.O_NONBLOCK) },
		"link-proc": func(fd int) error {
			return unix.Linkat(unix.AT_FDCWD, procPath(fd), unix.AT_FDCWD, "new", unix.AT_SYMLINK_FOLLOW)
		},
	}
}

// other opens another regular file with some content.
func (e *env) other(content string, flags int) int {
	e.file("other", content)
	return e.open("other", flags)
}

// pipe returns both ends of a pipe that holds content.
func (e *env) pipe(content string) (r, w int) {
	var p [2]int
	e.must(unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK))
	e.fds = append(e.fds, p[:]...)
	if content != "" {
		e.must(drop(unix.Write(p[1], []byte(content))))
	}
	return p[0], p[1]
}
