package posix

import (
	"cmp"
	"strings"

	"golang.org/x/sys/unix"
)

// timeTable says which timestamps an operation marks for update (POSIX, "shall mark for
// update"; inode(7)): of access, of modification, of status change. The objects are
//
//	d/     with file f, empty directory s and symbolic link l to f
//	e/     with file g
//
// An operation acts on f and d unless its name says otherwise. Where POSIX leaves it
// open it is as local file systems of Linux do it.
const timeTable = `
                f    d    s    l    e    g
nothing         -    -    -    -    -    -
stat            -    -    -    -    -    -
access          -    -    -    -    -    -
open-r          -    -    -    -    -    -
open-w          -    -    -    -    -    -
open-path       -    -    -    -    -    -
read            a    -    -    -    -    -
read-0          -    -    -    -    -    -
read-noatime    -    -    -    -    -    -
pread           a    -    -    -    -    -
readv           a    -    -    -    -    -
mmap-read       a    -    -    -    -    -
mmap-write      .mc  -    -    -    -    -
write           mc   -    -    -    -    -
write-0         -    -    -    -    -    -
write-same      mc   -    -    -    -    -
write-fails     -    -    -    -    -    -
append          mc   -    -    -    -    -
pwrite          mc   -    -    -    -    -
writev          mc   -    -    -    -    -
truncate        mc   -    -    -    -    -
truncate-longer mc   -    -    -    -    -
ftruncate       mc   -    -    -    -    -
ftruncate-same  mc   -    -    -    -    -
open-trunc      mc   -    -    -    -    -
open-creat      -    -    -    -    -    -
open-creat-new  -    mc   -    -    -    -
open-excl-fails -    -    -    -    -    -
fallocate       mc   -    -    -    -    -
fallocate-keep  mc   -    -    -    -    -
punch-hole      mc   -    -    -    -    -
copy-file-range a    -    -    -    -    mc
sendfile        a    -    -    -    -    mc
lseek           -    -    -    -    -    -
fsync           -    -    -    -    -    -
fdatasync       -    -    -    -    -    -
flock           -    -    -    -    -    -
setlk           -    -    -    -    -    -
getflags        -    -    -    -    -    -
setflags        c    -    -    -    -    -
chmod           c    -    -    -    -    -
chmod-same      c    -    -    -    -    -
fchmod          c    -    -    -    -    -
chmod-dir       -    c    -    -    -    -
chown-nothing   c    -    -    -    -    -
chown-same      c    -    -    -    -    -
lchown-link     -    -    -    c    -    -
chown-dir       -    c    -    -    -    -
utimens-now     amc  -    -    -    -    -
utimens-omit    -    -    -    -    -    -
utimens-atime   ac   -    -    -    -    -
utimens-mtime   mc   -    -    -    -    -
utimens-link    -    -    -    amc  -    -
utimens-dir     -    amc  -    -    -    -
setxattr        c    -    -    -    -    -
setxattr-dir    -    c    -    -    -    -
getxattr        -    -    -    -    -    -
listxattr       -    -    -    -    -    -
removexattr     -    -    -    -    -    -
readlink        -    -    -    a    -    -
follow-link     -    -    -    a    -    -
readdir         -    a    -    -    -    -
chdir           -    -    -    -    -    -
mkdir           -    mc   -    -    -    -
mkdir-fails     -    -    -    -    -    -
mkdir-below     -    -    mc   -    -    -
mknod-fifo      -    mc   -    -    -    -
mknod-file      -    mc   -    -    -    -
bind            -    mc   -    -    -    -
symlink         -    mc   -    -    -    -
link            c    mc   -    -    -    -
link-elsewhere  c    -    -    -    mc   -
link-link       -    mc   -    c    -    -
unlink          c    mc   -    -    -    -
unlink-link     -    mc   -    c    -    -
unlink-fails    -    -    -    -    -    -
rmdir           -    mc   c    -    -    -
rmdir-fails     -    -    -    -    -    -
rename          c    mc   -    -    -    -
rename-out      c    mc   -    -    mc   -
rename-onto     c    mc   -    -    mc   c
rename-dir      -    mc   c    -    -    -
rename-dir-out  -    mc   c    -    mc   -
rename-link     -    mc   -    c    -    -
rename-itself   -    -    -    -    -    -
rename-fails    -    -    -    -    -    -
exchange        c    mc   -    -    mc   c
tmpfile         -    -    -    -    -    -
tmpfile-link    -    mc   -    -    -    -
`

// past is a time at which nothing happens, in seconds since 1970.
const past = 1e9

// timeOps are the operations of timeTable.
func (e *env) timeOps() map[string]func() error {
	buf := make([]byte, 4)
	with := func(path string, flags int, do func(fd int) error) func() error {
		return func() error { return do(e.open(path, flags)) }
	}
	r := func(do func(fd int) error) func() error { return with("d/f", unix.O_RDONLY, do) }
	w := func(do func(fd int) error) func() error { return with("d/f", unix.O_RDWR, do) }
	times := func(path string, a, m int64) func() error {
		return func() error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Nsec: a}, {Nsec: m}}, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	open := func(path string, flags int) func() error { return with(path, flags, func(int) error { return nil }) }
	fails := func(do func() error) func() error {
		return func() error {
			if do() == nil {
				return unix.EALREADY
			}
			return nil
		}
	}
	var st unix.Stat_t
	ops := map[string]func() error{
		"nothing":        func() error { return nil },
		"stat":           func() error { return unix.Stat("d/f", &st) },
		"access":         func() error { return unix.Access("d/f", unix.R_OK) },
		"open-r":         open("d/f", unix.O_RDONLY),
		"open-w":         open("d/f", unix.O_WRONLY),
		"open-path":      open("d/f", unix.O_PATH),
		"read":           r(func(fd int) error { return drop(unix.Read(fd, buf)) }),
		"read-0":         r(func(fd int) error { return drop(unix.Read(fd, nil)) }),
		"read-noatime":   with("d/f", unix.O_NOATIME, func(fd int) error { return drop(unix.Read(fd, buf)) }),
		"pread":          r(func(fd int) error { return drop(unix.Pread(fd, buf, 1)) }),
		"readv":          r(func(fd int) error { return drop(unix.Readv(fd, [][]byte{buf})) }),
		"mmap-read":      r(func(fd int) error { return e.touch(fd, unix.PROT_READ) }),
		"mmap-write":     w(func(fd int) error { return e.touch(fd, unix.PROT_READ|unix.PROT_WRITE) }),
		"write":          w(func(fd int) error { return drop(unix.Write(fd, []byte("new data"))) }),
		"write-0":        w(func(fd int) error { return drop(unix.Write(fd, nil)) }),
		"write-same":     w(func(fd int) error { return drop(unix.Write(fd, []byte("data"))) }),
		"write-fails":    fails(r(func(fd int) error { return drop(unix.Write(fd, buf)) })),
		"append":         with("d/f", unix.O_WRONLY|unix.O_APPEND, func(fd int) error { return drop(unix.Write(fd, buf)) }),
		"pwrite":         w(func(fd int) error { return drop(unix.Pwrite(fd, buf, 100)) }),
		"writev":         w(func(fd int) error { return drop(unix.Writev(fd, [][]byte{buf, buf})) }),
		"ftruncate":      w(func(fd int) error { return unix.Ftruncate(fd, 1) }),
		"ftruncate-same": w(func(fd int) error { return unix.Ftruncate(fd, 4) }),
		"fallocate":      w(func(fd int) error { return unix.Fallocate(fd, 0, 0, 10000) }),
		"fallocate-keep": w(func(fd int) error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 10000) }),
		"punch-hole": w(func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 2)
		}),
		"copy-file-range": r(func(fd int) error { return drop(unix.CopyFileRange(fd, nil, e.open("e/g", unix.O_WRONLY), nil, 4, 0)) }),
		"sendfile":        r(func(fd int) error { return drop(unix.Sendfile(e.open("e/g", unix.O_WRONLY), fd, nil, 4)) }),
		"lseek":           r(func(fd int) error { return drop(unix.Seek(fd, 0, unix.SEEK_END)) }),
		"fsync":           w(unix.Fsync),
		"fdatasync":       w(unix.Fdatasync),
		"flock":           r(func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) }),
		"setlk": w(func(fd int) error {
			return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		}),
		"getflags": r(func(fd int) error { return drop(unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)) }),
		"setflags": r(func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, noDump) }),
		"fchmod":   r(func(fd int) error { return unix.Fchmod(fd, 0o600) }),
		"readdir":  with("d", unix.O_RDONLY, func(fd int) error { e.entries(fd, 4096); return nil }),
		"tmpfile":  open("d", unix.O_TMPFILE|unix.O_RDWR),
		"tmpfile-link": with("d", unix.O_TMPFILE|unix.O_RDWR, func(fd int) error {
			return unix.Linkat(unix.AT_FDCWD, procPath(fd), unix.AT_FDCWD, "d/n", unix.AT_SYMLINK_FOLLOW)
		}),
		"open-trunc":      open("d/f", unix.O_WRONLY|unix.O_TRUNC),
		"open-creat":      open("d/f", unix.O_WRONLY|unix.O_CREAT),
		"open-creat-new":  open("d/n", unix.O_WRONLY|unix.O_CREAT),
		"open-excl-fails": fails(func() error { return e.tryOpen("d/f", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL) }),
		"follow-link":     open("d/l", unix.O_RDONLY),
		"utimens-now":     times("d/f", unix.UTIME_NOW, unix.UTIME_NOW),
		"utimens-omit":    times("d/f", unix.UTIME_OMIT, unix.UTIME_OMIT),
		"utimens-atime":   times("d/f", 5, unix.UTIME_OMIT),
		"utimens-mtime":   times("d/f", unix.UTIME_OMIT, 5),
		"utimens-link":    times("d/l", unix.UTIME_NOW, unix.UTIME_NOW),
		"utimens-dir":     times("d", unix.UTIME_NOW, unix.UTIME_NOW),
	}
	for name, do := range e.timePathOps(fails) {
		ops[name] = do
	}
	return ops
}

// timePathOps are those that are one system call on paths.
func (e *env) timePathOps(fails func(func() error) func() error) map[string]func() error {
	uid, gid := me()
	move := func(from, to string) func() error { return func() error { return unix.Rename(from, to) } }
	link := func(from, to string) func() error { return func() error { return unix.Link(from, to) } }
	unlink := func(path string) func() error { return func() error { return unix.Unlink(path) } }
	rmdir := func(path string) func() error { return func() error { return unix.Rmdir(path) } }
	mkdir := func(path string) func() error { return func() error { return unix.Mkdir(path, 0o755) } }
	chmod := func(path string, mode uint32) func() error { return func() error { return unix.Chmod(path, mode) } }
	return map[string]func() error{
		"truncate":        func() error { return unix.Truncate("d/f", 1) },
		"truncate-longer": func() error { return unix.Truncate("d/f", 100) },
		"chmod":           chmod("d/f", 0o600),
		"chmod-same":      chmod("d/f", 0o644),
		"chmod-dir":       chmod("d", 0o700),
		"chown-nothing":   func() error { return unix.Chown("d/f", -1, -1) },
		"chown-same":      func() error { return unix.Chown("d/f", uid, gid) },
		"chown-dir":       func() error { return unix.Chown("d", uid, gid) },
		"lchown-link":     func() error { return unix.Lchown("d/l", uid, gid) },
		"setxattr":        func() error { return unix.Setxattr("d/f", "user.a", []byte("v"), 0) },
		"setxattr-dir":    func() error { return unix.Setxattr("d", "user.a", []byte("v"), 0) },
		"getxattr":        fails(func() error { return drop(unix.Getxattr("d/f", "user.a", nil)) }),
		"listxattr":       func() error { return drop(unix.Listxattr("d/f", nil)) },
		"removexattr":     fails(func() error { return unix.Removexattr("d/f", "user.a") }),
		"readlink":        func() error { return drop(unix.Readlink("d/l", make([]byte, 9))) },
		"chdir":           func() error { return cmp.Or(unix.Chdir("d"), unix.Chdir("..")) },
		"mkdir":           mkdir("d/n"),
		"mkdir-fails":     fails(mkdir("d/f")),
		"mkdir-below":     mkdir("d/s/n"),
		"mknod-fifo":      func() error { return unix.Mknod("d/n", unix.S_IFIFO|0o644, 0) },
		"mknod-file":      func() error { return unix.Mknod("d/n", unix.S_IFREG|0o644, 0) },
		"bind":            func() error { return unix.Bind(e.socket(), &unix.SockaddrUnix{Name: "d/n"}) },
		"symlink":         func() error { return unix.Symlink("x", "d/n") },
		"link":            link("d/f", "d/n"),
		"link-elsewhere":  link("d/f", "e/n"),
		"link-link":       link("d/l", "d/n"),
		"unlink":          unlink("d/f"),
		"unlink-link":     unlink("d/l"),
		"unlink-fails":    fails(unlink("d/s")),
		"rmdir":           rmdir("d/s"),
		"rmdir-fails":     fails(rmdir("d/f")),
		"rename":          move("d/f", "d/n"),
		"rename-out":      move("d/f", "e/n"),
		"rename-onto":     move("d/f", "e/g"),
		"rename-dir":      move("d/s", "d/n"),
		"rename-dir-out":  move("d/s", "e/n"),
		"rename-link":     move("d/l", "d/n"),
		"rename-itself":   move("d/f", "d/f"),
		"rename-fails":    fails(move("d/f", "d/s")),
		"exchange":        func() error { return rename("d/f", "e/g", unix.RENAME_EXCHANGE) },
	}
}

// touch maps a file, reads its first byte, and writes it back if the mapping allows.
func (e *env) touch(fd, prot int) error {
	b, err := unix.Mmap(fd, 0, 4, prot, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	first := b[0]
	if prot&unix.PROT_WRITE != 0 {
		b[0] = first + 1
		err = unix.Msync(b, unix.MS_SYNC)
	}
	return cmp.Or(err, unix.Munmap(b))
}

// timeCases are the rows of timeTable, and what utimensat(2) stores.
func timeCases() (cases []testcase) {
	rows := map[string][]cell{}
	var order []string
	for _, c := range cells(timeTable) {
		if rows[c.row] == nil {
			order = append(order, c.row)
		}
		rows[c.row] = append(rows[c.row], c)
	}
	for _, row := range order {
		cases = append(cases, testcase{name: "times/" + row, run: func(e *env) { e.times(row, rows[row]) }})
	}
	return append(cases, utimensCases()...)
}

// times runs one row of timeTable.
func (e *env) times(op string, row []cell) {
	for _, d := range []string{"d", "e", "d/s"} {
		e.must(unix.Mkdir(d, 0o755))
	}
	e.file("d/f", "data")
	e.file("e/g", "data")
	e.must(unix.Symlink("f", "d/l"))
	paths := map[string]string{"f": "d/f", "d": "d", "s": "d/s", "l": "d/l", "e": "e", "g": "e/g"}
	before := map[string]unix.Stat_t{}
	fds := map[string]int{}
	for _, c := range row {
		p := paths[c.column]
		e.must(unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: past}, {Sec: past}}, unix.AT_SYMLINK_NOFOLLOW))
		fds[c.column] = e.open(p, unix.O_PATH|unix.O_NOFOLLOW)
		before[c.column] = e.stat(p)
	}
	e.must(tick())
	e.must(e.timeOps()[op]())
	for _, c := range row {
		var after unix.Stat_t
		e.must(unix.Fstat(fds[c.column], &after))
		want := strings.TrimPrefix(strings.TrimPrefix(c.want, "ok"), ".")
		got := changed(before[c.column], after)
		if c.want[0] == '.' {
			got = strings.TrimPrefix(got, "a") // may be marked, or not
		}
		e.is(c.column, "changed:"+got, "changed:"+want)
	}
}

// changed returns the letters of the timestamps that differ.
func changed(before, after unix.Stat_t) (letters string) {
	if before.Atim != after.Atim {
		letters += "a"
	}
	if before.Mtim != after.Mtim {
		letters += "m"
	}
	if before.Ctim != after.Ctim {
		letters += "c"
	}
	return letters
}

// tick returns when the clock from which file systems take timestamps, which moves in
// steps of some milliseconds (time(7)), is past every timestamp that there can be: they
// come from the exact clock too, if somebody looked at the last one.
func tick() error {
	var start, now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_REALTIME, &start)
	for now = start; err == nil && !later(now, start); {
		err = unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now)
	}
	return err
}
