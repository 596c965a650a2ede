package posix

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// statCases are the fields of stat(2), statx(2) and statfs(2).
func statCases() (cases []testcase) {
	add := func(name string, root bool, run func(*env)) {
		cases = append(cases, testcase{name: "stat/" + name, root: root, run: run})
	}
	for _, kind := range []string{"file", "dir", "dangling", "fifo", "socket", "char", "block"} {
		add("fields/"+kind, isDevice(kind), func(e *env) {
			e.make(kind, "f")
			st, dir := e.stat("f"), e.stat(".")
			uid, gid := me()
			e.is("type", st.Mode&unix.S_IFMT == typeOf(kind), true)
			e.is("uid", st.Uid, uid)
			e.is("gid", st.Gid, gid)
			e.is("nlink", st.Nlink, map[bool]int{true: 2, false: 1}[kind == "dir"])
			e.is("size", map[bool]int64{true: 0, false: st.Size}[kind == "dir"],
				map[string]int64{"file": 4, "dangling": int64(len("f-target"))}[kind])
			e.is("device", st.Dev == dir.Dev, true)
			e.is("inode", st.Ino != 0 && st.Ino != dir.Ino, true)
			e.is("blksize", st.Blksize >= 512, true)
			e.is("rdev", uint64(st.Rdev), map[string]uint64{"char": unix.Mkdev(1, 3), "block": unix.Mkdev(0xff, 0xff)}[kind])
			var other unix.Stat_t
			e.must(unix.Fstat(e.open("f", unix.O_PATH|unix.O_NOFOLLOW), &other))
			e.is("fstat-is-stat", other == st, true)
		})
		add("statx/"+kind, isDevice(kind), func(e *env) {
			e.make(kind, "f")
			var sx unix.Statx_t
			e.must(unix.Statx(unix.AT_FDCWD, "f", unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &sx))
			st := e.stat("f")
			e.is("mask", sx.Mask&unix.STATX_BASIC_STATS == unix.STATX_BASIC_STATS, true)
			e.is("birth-known", sx.Mask&unix.STATX_BTIME != 0, true)
			e.is("birth-not-later", sx.Btime.Sec != 0 && sx.Btime.Sec <= sx.Ctime.Sec, true)
			e.is("inode", sx.Ino == st.Ino, true)
			e.is("mode", uint32(sx.Mode) == st.Mode, true)
			e.is("nlink", uint64(sx.Nlink) == uint64(st.Nlink), true)
			e.is("size", sx.Size == uint64(st.Size), true)
			e.is("blocks", sx.Blocks == uint64(st.Blocks), true)
			e.is("mtime", sx.Mtime.Sec == st.Mtim.Sec && int64(sx.Mtime.Nsec) == st.Mtim.Nsec, true)
			e.is("device", unix.Mkdev(sx.Dev_major, sx.Dev_minor) == st.Dev, true)
		})
	}
	for _, mode := range []int{unix.AT_STATX_SYNC_AS_STAT, unix.AT_STATX_FORCE_SYNC, unix.AT_STATX_DONT_SYNC} {
		add(fmt.Sprintf("statx-sync/%#x", mode), false, func(e *env) {
			e.file("f", "data")
			var sx unix.Statx_t
			e.is("statx", unix.Statx(unix.AT_FDCWD, "f", mode, unix.STATX_ALL, &sx), "ok")
			e.is("size", sx.Size, 4)
		})
	}
	add("statx-sync/both", false, func(e *env) {
		var sx unix.Statx_t
		e.is("EINVAL", unix.Statx(unix.AT_FDCWD, ".", unix.AT_STATX_FORCE_SYNC|unix.AT_STATX_DONT_SYNC, unix.STATX_ALL, &sx), "EINVAL")
		e.is("reserved", unix.Statx(unix.AT_FDCWD, ".", 0, unix.STATX__RESERVED, &sx), "EINVAL")
	})
	add("birth-stays", false, func(e *env) {
		birth := func() unix.StatxTimestamp {
			var sx unix.Statx_t
			e.must(unix.Statx(unix.AT_FDCWD, "f", 0, unix.STATX_BTIME, &sx))
			return sx.Btime
		}
		e.file("f", "")
		first := birth()
		e.must(tick())
		e.must(drop(unix.Write(e.open("f", unix.O_WRONLY), []byte("data"))))
		e.must(unix.Chmod("f", 0o600))
		e.must(unix.UtimesNanoAt(unix.AT_FDCWD, "f", make([]unix.Timespec, 2), 0))
		e.is("same", birth() == first, true)
	})
	add("attributes", false, func(e *env) {
		e.file("f", "")
		e.must(e.setFlags(e.open("f", unix.O_RDONLY), noDump))
		var sx unix.Statx_t
		e.must(unix.Statx(unix.AT_FDCWD, "f", 0, unix.STATX_ALL, &sx))
		e.is("known", sx.Attributes_mask&unix.STATX_ATTR_NODUMP != 0, true)
		e.is("nodump", sx.Attributes&unix.STATX_ATTR_NODUMP != 0, true)
	})
	for _, x := range []struct {
		label string
		makes string
		nlink uint64
	}{
		{"empty", "", 2}, {"file", "file", 2}, {"dir", "dir", 3}, {"link", "dangling", 2}, {"fifo", "fifo", 2},
	} {
		add("nlink-of-dir/"+x.label, false, func(e *env) {
			e.must(unix.Mkdir("d", 0o755))
			if x.makes != "" {
				e.make(x.makes, "d/n")
			}
			e.is("with", e.stat("d").Nlink, x.nlink)
			if x.makes != "" {
				e.must(removeAny("d/n"))
				e.is("without", e.stat("d").Nlink, 2)
			}
		})
	}
	for _, x := range []struct {
		label string
		do    func(fd int) error
		size  int64
	}{
		{"write", func(fd int) error { return drop(unix.Write(fd, make([]byte, 10000))) }, 10000},
		{"pwrite-beyond", func(fd int) error { return drop(unix.Pwrite(fd, []byte{1}, 1<<20)) }, 1<<20 + 1},
		{"ftruncate-longer", func(fd int) error { return unix.Ftruncate(fd, 1<<30) }, 1 << 30},
		{"ftruncate-shorter", func(fd int) error { return unix.Ftruncate(fd, 1) }, 1},
		{"fallocate", func(fd int) error { return unix.Fallocate(fd, 0, 0, 1<<20) }, 1 << 20},
		{"fallocate-keep", func(fd int) error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20) }, 4},
		{"large", func(fd int) error { return unix.Ftruncate(fd, 1<<42) }, 1 << 42},
	} {
		add("size/"+x.label, false, func(e *env) {
			e.file("f", "data")
			fd := e.open("f", unix.O_RDWR)
			e.must(x.do(fd))
			var st unix.Stat_t
			e.must(unix.Fstat(fd, &st))
			e.is("fstat", st.Size, x.size)
			e.is("stat", e.stat("f").Size, x.size)
			end, err := unix.Seek(fd, 0, unix.SEEK_END)
			e.is("seek-end", err, "ok")
			e.is("end", end, x.size)
		})
	}
	add("blocks", false, func(e *env) {
		e.file("f", "")
		fd := e.open("f", unix.O_RDWR)
		e.is("empty", e.stat("f").Blocks, 0)
		e.must(unix.Ftruncate(fd, 1<<20))
		e.is("hole", e.stat("f").Blocks, 0)
		e.must(unix.Fallocate(fd, 0, 0, 1<<20))
		e.is("allocated", e.stat("f").Blocks >= 2048, true)
		e.must(unix.Ftruncate(fd, 0))
		e.is("cut", e.stat("f").Blocks, 0)
	})
	add("statfs", false, func(e *env) {
		var fs, of unix.Statfs_t
		e.must(unix.Statfs(".", &fs))
		e.file("f", "data")
		e.must(unix.Fstatfs(e.open("f", unix.O_RDONLY), &of))
		e.is("bsize", fs.Bsize >= 512, true)
		e.is("frsize", fs.Frsize >= 512, true)
		e.is("blocks", fs.Blocks > 0, true)
		e.is("free", fs.Bfree <= fs.Blocks && fs.Bavail <= fs.Bfree, true)
		e.is("files", fs.Files > 0, true)
		e.is("ffree", fs.Ffree <= fs.Files, true)
		e.is("same-by-fd", of.Blocks == fs.Blocks && of.Bsize == fs.Bsize && of.Type == fs.Type, true)
	})
	return cases
}

// removeAny removes a file or directory.
func removeAny(path string) error {
	if err := unix.Unlink(path); err != unix.EISDIR {
		return err
	}
	return unix.Rmdir(path)
}
