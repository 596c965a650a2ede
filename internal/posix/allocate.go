package posix

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// page is a multiple of the block size of every usual file system.
const page = 64 << 10

// allocateCases are fallocate(2) with its modes, and SEEK_DATA and SEEK_HOLE
// (lseek(2)).
func allocateCases() (cases []testcase) {
	add := func(name string, run func(*env)) {
		cases = append(cases, testcase{name: "allocate/" + name, run: run})
	}
	const (
		keep     = unix.FALLOC_FL_KEEP_SIZE
		punch    = unix.FALLOC_FL_PUNCH_HOLE
		zero     = unix.FALLOC_FL_ZERO_RANGE
		collapse = unix.FALLOC_FL_COLLAPSE_RANGE
		insert   = unix.FALLOC_FL_INSERT_RANGE
		unshare  = unix.FALLOC_FL_UNSHARE_RANGE
	)
	old := pattern(4 * page)
	cut := func(from, to int) []byte { // old with zeros
		b := bytes.Clone(old)
		clear(b[from:min(to, len(b))])
		return b
	}
	longer := func(b []byte, to int) []byte { return append(b, make([]byte, to-len(b))...) }
	for _, x := range []struct {
		label    string
		mode     uint32
		off, len int64
		err      string
		want     []byte
	}{
		{"plain-inside", 0, page, page, "ok", old},
		{"plain-beyond", 0, 0, 6 * page, "ok", longer(bytes.Clone(old), 6*page)},
		{"plain-far", 0, 8 * page, 10, "ok", longer(bytes.Clone(old), 8*page+10)},
		{"keep-beyond", keep, 0, 6 * page, "ok", old},
		{"punch", keep | punch, page, page, "ok", cut(page, 2*page)},
		{"punch-unaligned", keep | punch, page + 5, 100, "ok", cut(page+5, page+105)},
		{"punch-over-end", keep | punch, 3 * page, 9 * page, "ok", cut(3*page, 4*page)},
		{"punch-beyond", keep | punch, 8 * page, page, "ok", old},
		{"punch-all", keep | punch, 0, 4 * page, "ok", make([]byte, 4*page)},
		{"punch-alone", punch, page, page, "EOPNOTSUPP", old},
		{"zero", zero, page, page, "ok", cut(page, 2*page)},
		{"zero-unaligned", zero, 3, page, "ok", cut(3, page+3)},
		{"zero-beyond", zero, 3 * page, 2 * page, "ok", longer(cut(3*page, 4*page), 5*page)},
		{"zero-keep", zero | keep, 3 * page, 2 * page, "ok", cut(3*page, 4*page)},
		{"collapse", collapse, page, page, "ok", append(bytes.Clone(old[:page]), old[2*page:]...)},
		{"collapse-unaligned", collapse, 1, page, "EINVAL", old},
		{"collapse-over-end", collapse, 3 * page, page, "EINVAL", old},
		{"collapse-keep", collapse | keep, page, page, "EOPNOTSUPP", old},
		{"insert", insert, page, page, "ok", append(append(bytes.Clone(old[:page]), make([]byte, page)...), old[page:]...)},
		{"insert-unaligned", insert, page, 5, "EINVAL", old},
		{"insert-at-end", insert, 4 * page, page, "EINVAL", old},
		{"unshare", unshare, page, page, "EOPNOTSUPP", old},
		{"unknown", 0x8000, page, page, "EOPNOTSUPP", old},
		{"length-0", 0, page, 0, "EINVAL", old},
		{"length-negative", 0, page, -1, "EINVAL", old},
		{"offset-negative", 0, -1, page, "EINVAL", old},
		{"too-large", 0, 1<<63 - 1 - page, page + page, "EFBIG", old},
	} {
		add(x.label, func(e *env) {
			e.file("f", "")
			fd := e.open("f", unix.O_RDWR)
			e.must(drop(unix.Pwrite(fd, old, 0)))
			e.is(x.err, unix.Fallocate(fd, x.mode, x.off, x.len), x.err)
			e.is("size", e.stat("f").Size, len(x.want))
			e.is("content", bytes.Equal(e.readAll(fd), x.want), true)
		})
	}
	add("punch-frees", func(e *env) {
		e.file("f", "")
		fd := e.open("f", unix.O_RDWR)
		e.must(drop(unix.Pwrite(fd, old, 0)))
		e.must(unix.Fsync(fd))
		before := e.stat("f").Blocks
		e.must(unix.Fallocate(fd, keep|punch, 0, 2*page))
		e.is("blocks", before-e.stat("f").Blocks >= 2*page/512, true)
	})
	for _, x := range []struct {
		label  string
		offset int64
		whence int
		want   string
	}{
		{"data-at-hole", 0, unix.SEEK_DATA, fmt.Sprint(page)},
		{"data-at-data", page + 7, unix.SEEK_DATA, fmt.Sprint(page + 7)},
		{"data-at-second-hole", 2 * page, unix.SEEK_DATA, fmt.Sprint(3 * page)},
		{"data-in-last-hole", 4 * page, unix.SEEK_DATA, "ENXIO"},
		{"data-at-end", 5 * page, unix.SEEK_DATA, "ENXIO"},
		{"data-beyond", 9 * page, unix.SEEK_DATA, "ENXIO"},
		{"data-negative", -1, unix.SEEK_DATA, "ENXIO"},
		{"hole-at-hole", 5, unix.SEEK_HOLE, "5"},
		{"hole-at-data", page, unix.SEEK_HOLE, fmt.Sprint(2 * page)},
		{"hole-at-last-data", 3*page + 1, unix.SEEK_HOLE, fmt.Sprint(4 * page)},
		{"hole-at-end", 5 * page, unix.SEEK_HOLE, "ENXIO"},
		{"hole-negative", -1, unix.SEEK_HOLE, "ENXIO"},
	} {
		// Hole, data, hole, data, hole: one page each.
		add("seek-"+x.label, func(e *env) {
			e.file("f", "")
			fd := e.open("f", unix.O_RDWR)
			e.must(unix.Ftruncate(fd, 5*page))
			e.must(drop(unix.Pwrite(fd, old[:page], page)))
			e.must(drop(unix.Pwrite(fd, old[:page], 3*page)))
			got, err := unix.Seek(fd, x.offset, x.whence)
			if err != nil {
				e.is("", err, x.want)
				return
			}
			e.is("", got, x.want)
		})
	}
	add("seek-hole-of-whole-file", func(e *env) { // there is a hole at the end of any file
		e.file("f", "data")
		got, err := unix.Seek(e.open("f", unix.O_RDONLY), 0, unix.SEEK_HOLE)
		e.is("seek", err, "ok")
		e.is("at", got, 4)
	})
	add("seek-empty", func(e *env) {
		e.file("f", "")
		fd := e.open("f", unix.O_RDONLY)
		e.is("data", drop(unix.Seek(fd, 0, unix.SEEK_DATA)), "ENXIO")
		e.is("hole", drop(unix.Seek(fd, 0, unix.SEEK_HOLE)), "ENXIO")
	})
	add("seek-moves-offset", func(e *env) {
		e.file("f", "0123456789")
		fd := e.open("f", unix.O_RDONLY)
		e.must(drop(unix.Seek(fd, 7, unix.SEEK_DATA)))
		buf := make([]byte, 10)
		n, _ := unix.Read(fd, buf)
		e.is("read", buf[:max(n, 0)], []byte("789"))
	})
	return cases
}
