package posix

import "golang.org/x/sys/unix"

// pathTable says what a system call answers that is given the name of an object of
// each kind. Opens have O_NONBLOCK, so that none waits at a FIFO.
const pathTable = `
                    none    file    dir     full      link    dlink   dangling loop    fifo    socket  char    block
open-r              ENOENT  -       -       -         -       -       ENOENT   ELOOP   -       ENXIO   -       ENXIO
open-w              ENOENT  -       EISDIR  EISDIR    -       EISDIR  ENOENT   ELOOP   ENXIO   ENXIO   -       ENXIO
open-rw             ENOENT  -       EISDIR  EISDIR    -       EISDIR  ENOENT   ELOOP   -       ENXIO   -       ENXIO
open-creat-r        -       -       EISDIR  EISDIR    -       EISDIR  -        ELOOP   -       ENXIO   -       ENXIO
open-creat-w        -       -       EISDIR  EISDIR    -       EISDIR  -        ELOOP   ENXIO   ENXIO   -       ENXIO
open-creat-excl     -       EEXIST  EEXIST  EEXIST    EEXIST  EEXIST  EEXIST   EEXIST  EEXIST  EEXIST  EEXIST  EEXIST
open-creat-nofollow -       -       EISDIR  EISDIR    ELOOP   ELOOP   ELOOP    ELOOP   ENXIO   ENXIO   -       ENXIO
open-creat-dir      EINVAL  EINVAL  EINVAL  EINVAL    EINVAL  EINVAL  EINVAL   EINVAL  EINVAL  EINVAL  EINVAL  EINVAL
open-trunc-w        ENOENT  -       EISDIR  EISDIR    -       EISDIR  ENOENT   ELOOP   ENXIO   ENXIO   -       ENXIO
open-trunc-rw       ENOENT  -       EISDIR  EISDIR    -       EISDIR  ENOENT   ELOOP   -       ENXIO   -       ENXIO
open-append         ENOENT  -       EISDIR  EISDIR    -       EISDIR  ENOENT   ELOOP   ENXIO   ENXIO   -       ENXIO
open-directory      ENOENT  ENOTDIR -       -         ENOTDIR -       ENOENT   ELOOP   ENOTDIR ENOTDIR ENOTDIR ENOTDIR
open-directory-w    ENOENT  ENOTDIR EISDIR  EISDIR    ENOTDIR EISDIR  ENOENT   ELOOP   ENOTDIR ENOTDIR ENOTDIR ENOTDIR
open-nofollow       ENOENT  -       -       -         ELOOP   ELOOP   ELOOP    ELOOP   -       ENXIO   -       ENXIO
open-nofollow-dir   ENOENT  ENOTDIR -       -         ENOTDIR ENOTDIR ENOTDIR  ENOTDIR ENOTDIR ENOTDIR ENOTDIR ENOTDIR
open-path           ENOENT  -       -       -         -       -       ENOENT   ELOOP   -       -       -       -
open-path-nofollow  ENOENT  -       -       -         -       -       -        -       -       -       -       -
open-path-directory ENOENT  ENOTDIR -       -         ENOTDIR -       ENOENT   ELOOP   ENOTDIR ENOTDIR ENOTDIR ENOTDIR
open-tmpfile        ENOENT  ENOTDIR -       -         ENOTDIR -       ENOENT   ELOOP   ENOTDIR ENOTDIR ENOTDIR ENOTDIR
open-tmpfile-r      EINVAL  EINVAL  EINVAL  EINVAL    EINVAL  EINVAL  EINVAL   EINVAL  EINVAL  EINVAL  EINVAL  EINVAL
open-noatime        ENOENT  -       -       -         -       -       ENOENT   ELOOP   -       ENXIO   -       ENXIO
creat               -       -       EISDIR  EISDIR    -       EISDIR  -        ELOOP   ENXIO   ENXIO   -       ENXIO
mkdir               -       EEXIST  EEXIST  EEXIST    EEXIST  EEXIST  EEXIST   EEXIST  EEXIST  EEXIST  EEXIST  EEXIST
mkdir-slash         -       EEXIST  EEXIST  EEXIST    EEXIST  EEXIST  EEXIST   EEXIST  EEXIST  EEXIST  EEXIST  EEXIST
mknod-file          -       EEXIST  EEXIST  EEXIST    EEXIST  EEXIST  EEXIST   EEXIST  EEXIST  EEXIST  EEXIST  EEXIST
mknod-fifo          -       EEXIST  EEXIST  EEXIST    EEXIST  EEXIST  EEXIST   EEXIST  EEXIST  EEXIST  EEXIST  EEXIST
mknod-socket        -       EEXIST  EEXIST  EEXIST    EEXIST  EEXIST  EEXIST   EEXIST  EEXIST  EEXIST  EEXIST  EEXIST
mknod-fifo-slash    ENOENT  EEXIST  EEXIST  EEXIST    EEXIST  EEXIST  EEXIST   EEXIST  EEXIST  EEXIST  EEXIST  EEXIST
symlink             -       EEXIST  EEXIST  EEXIST    EEXIST  EEXIST  EEXIST   EEXIST  EEXIST  EEXIST  EEXIST  EEXIST
symlink-slash       ENOENT  EEXIST  EEXIST  EEXIST    EEXIST  EEXIST  EEXIST   EEXIST  EEXIST  EEXIST  EEXIST  EEXIST
link-onto           -       EEXIST  EEXIST  EEXIST    EEXIST  EEXIST  EEXIST   EEXIST  EEXIST  EEXIST  EEXIST  EEXIST
link-from           ENOENT  -       EPERM   EPERM     -       -       -        -       -       -       -       -
link-from-follow    ENOENT  -       EPERM   EPERM     -       EPERM   ENOENT   ELOOP   -       -       -       -
bind                -       EADDRINUSE EADDRINUSE EADDRINUSE EADDRINUSE EADDRINUSE EADDRINUSE EADDRINUSE EADDRINUSE EADDRINUSE EADDRINUSE EADDRINUSE
connect             ENOENT  ECONNREFUSED ECONNREFUSED ECONNREFUSED ECONNREFUSED ECONNREFUSED ENOENT ELOOP ECONNREFUSED ECONNREFUSED ECONNREFUSED ECONNREFUSED
unlink              ENOENT  -       EISDIR  EISDIR    -       -       -        -       -       -       -       -
unlink-slash        ENOENT  ENOTDIR EISDIR  EISDIR    ENOTDIR ENOTDIR ENOTDIR  ENOTDIR ENOTDIR ENOTDIR ENOTDIR ENOTDIR
rmdir               ENOENT  ENOTDIR -       ENOTEMPTY ENOTDIR ENOTDIR ENOTDIR  ENOTDIR ENOTDIR ENOTDIR ENOTDIR ENOTDIR
rmdir-slash         ENOENT  ENOTDIR -       ENOTEMPTY ENOTDIR ENOTDIR ENOTDIR  ENOTDIR ENOTDIR ENOTDIR ENOTDIR ENOTDIR
rmdir-dot           ENOENT  ENOTDIR EINVAL  EINVAL    ENOTDIR EINVAL  ENOENT   ELOOP   ENOTDIR ENOTDIR ENOTDIR ENOTDIR
rmdir-dotdot        ENOENT  ENOTDIR ENOTEMPTY ENOTEMPTY ENOTDIR ENOTEMPTY ENOENT ELOOP ENOTDIR ENOTDIR ENOTDIR ENOTDIR
unlink-dot          ENOENT  ENOTDIR EISDIR  EISDIR    ENOTDIR EISDIR  ENOENT   ELOOP   ENOTDIR ENOTDIR ENOTDIR ENOTDIR
chmod               ENOENT  -       -       -         -       -       ENOENT   ELOOP   -       -       -       -
lchmod              ENOENT  -       -       -         EOPNOTSUPP EOPNOTSUPP EOPNOTSUPP EOPNOTSUPP - -     -       -
chown               ENOENT  -       -       -         -       -       ENOENT   ELOOP   -       -       -       -
lchown              ENOENT  -       -       -         -       -       -        -       -       -       -       -
truncate            ENOENT  -       EISDIR  EISDIR    -       EISDIR  ENOENT   ELOOP   EINVAL  EINVAL  EINVAL  EINVAL
truncate-negative   EINVAL  EINVAL  EINVAL  EINVAL    EINVAL  EINVAL  EINVAL   EINVAL  EINVAL  EINVAL  EINVAL  EINVAL
utimens             ENOENT  -       -       -         -       -       ENOENT   ELOOP   -       -       -       -
lutimens            ENOENT  -       -       -         -       -       -        -       -       -       -       -
stat                ENOENT  -       -       -         -       -       ENOENT   ELOOP   -       -       -       -
stat-slash          ENOENT  ENOTDIR -       -         ENOTDIR -       ENOENT   ELOOP   ENOTDIR ENOTDIR ENOTDIR ENOTDIR
lstat               ENOENT  -       -       -         -       -       -        -       -       -       -       -
lstat-slash         ENOENT  ENOTDIR -       -         ENOTDIR -       ENOENT   ELOOP   ENOTDIR ENOTDIR ENOTDIR ENOTDIR
access              ENOENT  -       -       -         -       -       ENOENT   ELOOP   -       -       -       -
access-nofollow     ENOENT  -       -       -         -       -       -        -       -       -       -       -
access-x            ENOENT  EACCES  -       -         EACCES  -       ENOENT   ELOOP   EACCES  EACCES  EACCES  EACCES
access-bad          EINVAL  EINVAL  EINVAL  EINVAL    EINVAL  EINVAL  EINVAL   EINVAL  EINVAL  EINVAL  EINVAL  EINVAL
readlink            ENOENT  EINVAL  EINVAL  EINVAL    -       -       -        -       EINVAL  EINVAL  EINVAL  EINVAL
chdir               ENOENT  ENOTDIR -       -         ENOTDIR -       ENOENT   ELOOP   ENOTDIR ENOTDIR ENOTDIR ENOTDIR
statfs              ENOENT  -       -       -         -       -       ENOENT   ELOOP   -       -       -       -
inotify             ENOENT  -       -       -         -       -       ENOENT   ELOOP   -       -       -       -
inotify-onlydir     ENOENT  ENOTDIR -       -         ENOTDIR -       ENOENT   ELOOP   ENOTDIR ENOTDIR ENOTDIR ENOTDIR
openat2-nolinks     ENOENT  -       -       -         ELOOP   ELOOP   ELOOP    ELOOP   -       ENXIO   -       ENXIO
openat2-beneath     ENOENT  -       -       -         -       -       ENOENT   ELOOP   -       ENXIO   -       ENXIO
getxattr            ENOENT  ENODATA ENODATA ENODATA   ENODATA ENODATA ENOENT   ELOOP   ENODATA ENODATA ENODATA ENODATA
lgetxattr           ENOENT  ENODATA ENODATA ENODATA   ENODATA ENODATA ENODATA  ENODATA ENODATA ENODATA ENODATA ENODATA
setxattr            ENOENT  -       -       -         -       -       ENOENT   ELOOP   EPERM   EPERM   EPERM   EPERM
lsetxattr           ENOENT  -       -       -         EPERM   EPERM   EPERM    EPERM   EPERM   EPERM   EPERM   EPERM
listxattr           ENOENT  -       -       -         -       -       ENOENT   ELOOP   -       -       -       -
llistxattr          ENOENT  -       -       -         -       -       -        -       -       -       -       -
removexattr         ENOENT  ENODATA ENODATA ENODATA   ENODATA ENODATA ENOENT   ELOOP   EPERM   EPERM   EPERM   EPERM
rename-away         ENOENT  -       -       -         -       -       -        -       -       -       -       -
rename-away-slash   ENOENT  ENOTDIR -       -         ENOTDIR ENOTDIR ENOTDIR  ENOTDIR ENOTDIR ENOTDIR ENOTDIR ENOTDIR
rename-itself       ENOENT  -       -       -         -       -       -        -       -       -       -       -
`

// pathDevices are rows that only root can see the outcome of.
const pathRootTable = `
                    none    file    dir     full      link    dlink   dangling loop    fifo    socket  char    block
mknod-char          -       EEXIST  EEXIST  EEXIST    EEXIST  EEXIST  EEXIST   EEXIST  EEXIST  EEXIST  EEXIST  EEXIST
mknod-block         -       EEXIST  EEXIST  EEXIST    EEXIST  EEXIST  EEXIST   EEXIST  EEXIST  EEXIST  EEXIST  EEXIST
lsetxattr-trusted   ENOENT  -       -       -         -       -       -        -       -       -       -       -
lgetxattr-trusted   ENOENT  ENODATA ENODATA ENODATA   ENODATA ENODATA ENODATA  ENODATA ENODATA ENODATA ENODATA ENODATA
lsetxattr-security  ENOENT  -       -       -         -       -       -        -       -       -       -       -
`

// pathOps are the system calls of pathTable, on the name p.
func (e *env) pathOps() map[string]func(p string) error {
	open := func(flags int) func(string) error {
		return func(p string) error { return e.tryOpen(p, flags|unix.O_NONBLOCK) }
	}
	mknod := func(mode uint32, dev int, slash string) func(string) error {
		return func(p string) error { return unix.Mknod(p+slash, mode|0o644, dev) }
	}
	at := func(flags int) func(string) error {
		return func(p string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 1}, {Sec: 2}}, flags)
		}
	}
	value := make([]byte, 256)
	var st unix.Stat_t
	var fs unix.Statfs_t
	return map[string]func(p string) error{
		"open-r":              open(unix.O_RDONLY),
		"open-w":              open(unix.O_WRONLY),
		"open-rw":             open(unix.O_RDWR),
		"open-creat-r":        open(unix.O_RDONLY | unix.O_CREAT),
		"open-creat-w":        open(unix.O_WRONLY | unix.O_CREAT),
		"open-creat-excl":     open(unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL),
		"open-creat-nofollow": open(unix.O_WRONLY | unix.O_CREAT | unix.O_NOFOLLOW),
		"open-creat-dir":      open(unix.O_RDONLY | unix.O_CREAT | unix.O_DIRECTORY),
		"open-trunc-w":        open(unix.O_WRONLY | unix.O_TRUNC),
		"open-trunc-rw":       open(unix.O_RDWR | unix.O_TRUNC),
		"open-append":         open(unix.O_WRONLY | unix.O_APPEND),
		"open-directory":      open(unix.O_RDONLY | unix.O_DIRECTORY),
		"open-directory-w":    open(unix.O_WRONLY | unix.O_DIRECTORY),
		"open-nofollow":       open(unix.O_RDONLY | unix.O_NOFOLLOW),
		"open-nofollow-dir":   open(unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_DIRECTORY),
		"open-path":           open(unix.O_PATH),
		"open-path-nofollow":  open(unix.O_PATH | unix.O_NOFOLLOW),
		"open-path-directory": open(unix.O_PATH | unix.O_DIRECTORY),
		"open-tmpfile":        open(unix.O_TMPFILE | unix.O_RDWR),
		"open-tmpfile-r":      open(unix.O_TMPFILE | unix.O_RDONLY),
		"open-noatime":        open(unix.O_RDONLY | unix.O_NOATIME),
		"creat":               open(unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC),
		"openat2-nolinks":     e.openat2(unix.RESOLVE_NO_SYMLINKS),
		"openat2-beneath":     e.openat2(unix.RESOLVE_BENEATH),

		"mkdir":            func(p string) error { return unix.Mkdir(p, 0o755) },
		"mkdir-slash":      func(p string) error { return unix.Mkdir(p+"/", 0o755) },
		"mknod-file":       mknod(unix.S_IFREG, 0, ""),
		"mknod-fifo":       mknod(unix.S_IFIFO, 0, ""),
		"mknod-fifo-slash": mknod(unix.S_IFIFO, 0, "/"),
		"mknod-socket":     mknod(unix.S_IFSOCK, 0, ""),
		"mknod-char":       mknod(unix.S_IFCHR, nullDevice, ""),
		"mknod-block":      mknod(unix.S_IFBLK, noDevice, ""),
		"symlink":          func(p string) error { return unix.Symlink("anything", p) },
		"symlink-slash":    func(p string) error { return unix.Symlink("anything", p+"/") },
		"link-onto": func(p string) error {
			e.file("source", "")
			return unix.Link("source", p)
		},
		"link-from": func(p string) error { return unix.Link(p, "new") },
		"link-from-follow": func(p string) error {
			return unix.Linkat(unix.AT_FDCWD, p, unix.AT_FDCWD, "new", unix.AT_SYMLINK_FOLLOW)
		},
		"bind":    func(p string) error { return unix.Bind(e.socket(), &unix.SockaddrUnix{Name: p}) },
		"connect": func(p string) error { return unix.Connect(e.socket(), &unix.SockaddrUnix{Name: p}) },

		"unlink":       unix.Unlink,
		"unlink-slash": func(p string) error { return unix.Unlink(p + "/") },
		"unlink-dot":   func(p string) error { return unix.Unlink(p + "/.") },
		"rmdir":        unix.Rmdir,
		"rmdir-slash":  func(p string) error { return unix.Rmdir(p + "/") },
		"rmdir-dot":    func(p string) error { return unix.Rmdir(p + "/.") },
		"rmdir-dotdot": func(p string) error { return unix.Rmdir(p + "/..") },

		"chmod": func(p string) error { return unix.Chmod(p, 0o700) },
		"lchmod": func(p string) error {
			return unix.Fchmodat(unix.AT_FDCWD, p, 0o700, unix.AT_SYMLINK_NOFOLLOW)
		},
		"chown":             func(p string) error { return unix.Chown(p, -1, -1) },
		"lchown":            func(p string) error { return unix.Lchown(p, -1, -1) },
		"truncate":          func(p string) error { return unix.Truncate(p, 2) },
		"truncate-negative": func(p string) error { return unix.Truncate(p, -1) },
		"utimens":           at(0),
		"lutimens":          at(unix.AT_SYMLINK_NOFOLLOW),

		"stat":        func(p string) error { return unix.Stat(p, &st) },
		"stat-slash":  func(p string) error { return unix.Stat(p+"/", &st) },
		"lstat":       func(p string) error { return unix.Lstat(p, &st) },
		"lstat-slash": func(p string) error { return unix.Lstat(p+"/", &st) },
		"access":      func(p string) error { return unix.Access(p, unix.F_OK) },
		"access-nofollow": func(p string) error {
			return unix.Faccessat2(unix.AT_FDCWD, p, unix.F_OK, unix.AT_SYMLINK_NOFOLLOW)
		},
		"access-x":        func(p string) error { return unix.Access(p, unix.X_OK) },
		"access-bad":      func(p string) error { return unix.Access(p, 0o10) },
		"readlink":        func(p string) error { _, err := unix.Readlink(p, value); return err },
		"chdir":           unix.Chdir,
		"statfs":          func(p string) error { return unix.Statfs(p, &fs) },
		"inotify":         e.inotify(unix.IN_ALL_EVENTS),
		"inotify-onlydir": e.inotify(unix.IN_ALL_EVENTS | unix.IN_ONLYDIR),

		"getxattr":           func(p string) error { _, err := unix.Getxattr(p, "user.a", value); return err },
		"lgetxattr":          func(p string) error { _, err := unix.Lgetxattr(p, "user.a", value); return err },
		"setxattr":           func(p string) error { return unix.Setxattr(p, "user.a", value, 0) },
		"lsetxattr":          func(p string) error { return unix.Lsetxattr(p, "user.a", value, 0) },
		"listxattr":          func(p string) error { _, err := unix.Listxattr(p, value); return err },
		"llistxattr":         func(p string) error { _, err := unix.Llistxattr(p, value); return err },
		"removexattr":        func(p string) error { return unix.Removexattr(p, "user.a") },
		"lsetxattr-trusted":  func(p string) error { return unix.Lsetxattr(p, "trusted.a", value, 0) },
		"lgetxattr-trusted":  func(p string) error { _, err := unix.Lgetxattr(p, "trusted.a", value); return err },
		"lsetxattr-security": func(p string) error { return unix.Lsetxattr(p, "security.a", value, 0) },

		"rename-away":       func(p string) error { return unix.Rename(p, "new") },
		"rename-away-slash": func(p string) error { return unix.Rename(p+"/", "new") },
		"rename-itself":     func(p string) error { return unix.Rename(p, p) },
	}
}

// pathCases are the cells of pathTable.
func pathCases() (cases []testcase) {
	add := func(table string, root bool) {
		for _, c := range cells(table) {
			cases = append(cases, testcase{
				name: "path/" + c.row + "/" + c.column + "/" + c.want,
				root: root || isDevice(c.column),
				run: func(e *env) {
					e.make(c.column, "object")
					e.is("", e.pathOps()[c.row]("object"), c.want)
				},
			})
		}
	}
	add(pathTable, false)
	add(pathRootTable, true)
	return cases
}

// tryOpen opens and forgets.
func (e *env) tryOpen(p string, flags int) error {
	fd, err := unix.Open(p, flags|unix.O_CLOEXEC, 0o644)
	if err == nil {
		e.fds = append(e.fds, fd)
	}
	return err
}

// openat2 opens for reading with a resolve flag.
func (e *env) openat2(resolve uint64) func(string) error {
	return func(p string) error {
		how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: resolve}
		fd, err := unix.Openat2(unix.AT_FDCWD, p, &how)
		if err == nil {
			e.fds = append(e.fds, fd)
		}
		return err
	}
}

// inotify watches a path.
func (e *env) inotify(mask uint32) func(string) error {
	return func(p string) error {
		_, err := unix.InotifyAddWatch(e.fd(unix.InotifyInit1(unix.IN_CLOEXEC)), p, mask)
		return err
	}
}

// socket makes a stream socket without an address.
func (e *env) socket() int {
	return e.fd(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
}

// underCases give a name below an object that is no directory to every operation of
// pathTable that takes one (path_resolution(7)): the prefix decides, and alone.
func underCases() (cases []testcase) {
	const table = `
		            none   file    link    dangling loop  fifo    socket  char    block
		below       ENOENT ENOTDIR ENOTDIR ENOENT   ELOOP ENOTDIR ENOTDIR ENOTDIR ENOTDIR
	`
	for _, op := range []string{
		"open-r", "open-creat-w", "open-creat-excl", "open-path", "open-tmpfile", "mkdir",
		"mknod-fifo", "symlink", "link-onto", "link-from", "bind", "connect", "unlink",
		"rmdir", "chmod", "lchmod", "chown", "lchown", "truncate", "utimens", "lutimens", "stat",
		"lstat", "access", "readlink", "chdir", "statfs", "lgetxattr", "lsetxattr",
		"llistxattr", "removexattr", "rename-away",
	} {
		for _, c := range cells(table) {
			cases = append(cases, testcase{
				name: "path/" + op + "/below-" + c.column + "/" + c.want,
				root: isDevice(c.column),
				run: func(e *env) {
					e.make(c.column, "object")
					e.is("", e.pathOps()[op]("object/name"), c.want)
				},
			})
		}
	}
	return cases
}
