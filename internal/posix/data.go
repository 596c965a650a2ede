package posix

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// pattern returns n bytes that tell their place.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// readAll returns what a file holds from its start, by pread(2).
func (e *env) readAll(fd int) []byte {
	var st unix.Stat_t
	e.must(unix.Fstat(fd, &st))
	b := make([]byte, st.Size+1)
	done := 0
	for {
		n, err := unix.Pread(fd, b[done:], int64(done))
		e.must(err)
		if n == 0 {
			return b[:done]
		}
		done += n
	}
}

// dataCases are reading, writing, seeking and truncating.
func dataCases() (cases []testcase) {
	add := func(name string, run func(*env)) {
		cases = append(cases, testcase{name: "data/" + name, run: run})
	}
	for _, size := range []int{1, 511, 4095, 4096, 4097, 65536, 131072 + 1, 1<<20 + 3} {
		for _, offset := range []int64{0, 1, 4095, 1 << 20} {
			add(fmt.Sprintf("write-%d-at-%d", size, offset), func(e *env) {
				e.file("f", "")
				fd := e.open("f", unix.O_RDWR)
				want := append(make([]byte, offset), pattern(size)...)
				n, err := unix.Pwrite(fd, want[offset:], offset)
				e.is("pwrite", err, "ok")
				e.is("written", n, size)
				e.is("size", e.stat("f").Size, len(want))
				e.is("same", bytes.Equal(e.readAll(fd), want), true)
				other := e.open("f", unix.O_RDONLY)
				e.is("same-elsewhere", bytes.Equal(e.readAll(other), want), true)
			})
		}
	}
	for _, x := range []struct {
		label      string
		from, to   int64
		zerosAfter bool
	}{
		{"longer", 4, 10, true},
		{"much-longer", 4, 1 << 20, true},
		{"shorter", 10000, 5000, false},
		{"to-0", 10000, 0, false},
		{"to-page", 10000, 4096, false},
		{"same", 100, 100, false},
	} {
		add("truncate-"+x.label, func(e *env) {
			old := pattern(int(x.from))
			e.file("f", string(old))
			fd := e.open("f", unix.O_RDWR)
			e.must(unix.Ftruncate(fd, x.to))
			want := make([]byte, x.to)
			copy(want, old)
			e.is("size", e.stat("f").Size, x.to)
			e.is("content", bytes.Equal(e.readAll(fd), want), true)
		})
	}
	add("truncate-cuts-for-good", func(e *env) { // what was cut off comes back as zeros
		e.file("f", string(pattern(9000)))
		fd := e.open("f", unix.O_RDWR)
		e.must(unix.Ftruncate(fd, 100))
		e.must(unix.Ftruncate(fd, 9000))
		b := e.readAll(fd)
		e.is("kept", bytes.Equal(b[:100], pattern(100)), true)
		e.is("zeros", bytes.Count(b[100:], []byte{0}), 8900)
	})
	add("read-short-at-eof", func(e *env) {
		e.file("f", "data")
		fd := e.open("f", unix.O_RDONLY)
		for _, x := range []struct{ offset, n int }{{0, 4}, {2, 2}, {4, 0}, {5, 0}, {1 << 40, 0}} {
			n, err := unix.Pread(fd, make([]byte, 100), int64(x.offset))
			e.is(fmt.Sprintf("at-%d", x.offset), err, "ok")
			e.is(fmt.Sprintf("bytes-at-%d", x.offset), n, x.n)
		}
	})
	add("seek", func(e *env) {
		e.file("f", "0123456789")
		fd := e.open("f", unix.O_RDWR)
		for _, x := range []struct {
			label  string
			offset int64
			whence int
			want   string
		}{
			{"set-4", 4, unix.SEEK_SET, "4"},
			{"cur-0", 0, unix.SEEK_CUR, "4"},
			{"cur-2", 2, unix.SEEK_CUR, "6"},
			{"cur-minus-3", -3, unix.SEEK_CUR, "3"},
			{"cur-minus-9", -9, unix.SEEK_CUR, "EINVAL"},
			{"cur-unmoved", 0, unix.SEEK_CUR, "3"},
			{"end-0", 0, unix.SEEK_END, "10"},
			{"end-5", 5, unix.SEEK_END, "15"},
			{"end-minus-10", -10, unix.SEEK_END, "0"},
			{"end-minus-11", -11, unix.SEEK_END, "EINVAL"},
			{"set-large", 1 << 40, unix.SEEK_SET, "1099511627776"},
			{"cur-overflow", 1<<63 - 1, unix.SEEK_CUR, "EINVAL"}, // POSIX: EOVERFLOW; no Linux does that
		} {
			got, err := unix.Seek(fd, x.offset, x.whence)
			if x.want[0] == 'E' {
				e.is(x.label, err, x.want)
				continue
			}
			e.must(err)
			e.is(x.label, got, x.want)
		}
	})
	add("write-moves-offset", func(e *env) {
		e.file("f", "")
		fd := e.open("f", unix.O_RDWR)
		for range 3 {
			e.must(drop(unix.Write(fd, []byte("ab"))))
		}
		e.must(drop(unix.Pwrite(fd, []byte("X"), 1)))
		at, _ := unix.Seek(fd, 0, unix.SEEK_CUR)
		e.is("offset", at, 6)
		e.is("content", e.content("f"), "aXabab")
	})
	add("seek-then-write-leaves-hole", func(e *env) {
		e.file("f", "ab")
		fd := e.open("f", unix.O_RDWR)
		e.must(drop(unix.Seek(fd, 5, unix.SEEK_END)))
		e.must(drop(unix.Write(fd, []byte("c"))))
		e.is("content", e.content("f"), "ab\x00\x00\x00\x00\x00c")
	})
	add("vectors", func(e *env) {
		e.file("f", "")
		fd := e.open("f", unix.O_RDWR)
		n, err := unix.Pwritev(fd, [][]byte{[]byte("ab"), {}, []byte("c"), []byte("defg")}, 1)
		e.is("pwritev", err, "ok")
		e.is("written", n, 7)
		a, b := make([]byte, 3), make([]byte, 9)
		n, err = unix.Preadv(fd, [][]byte{a, b}, 0)
		e.is("preadv", err, "ok")
		e.is("read", n, 8)
		e.is("first", a, []byte("\x00ab"))
		e.is("second", b[:5], []byte("cdefg"))
	})
	add("rwf-append", func(e *env) { // pwritev2(2): whatever the offset says
		e.file("f", "data")
		fd := e.open("f", unix.O_RDWR)
		n, err := unix.Pwritev2(fd, [][]byte{[]byte("++")}, 0, unix.RWF_APPEND)
		e.is("pwritev2", err, "ok")
		e.is("written", n, 2)
		e.is("content", e.content("f"), "data++")
	})
	add("rwf-nowait", func(e *env) {
		e.file("f", "data")
		e.content("f")
		buf := make([]byte, 4)
		n, err := unix.Preadv2(e.open("f", unix.O_RDONLY), [][]byte{buf}, 0, unix.RWF_NOWAIT)
		e.is("cached", err, "ok")
		e.is("read", n, 4)
	})
	add("concurrent-descriptors", func(e *env) {
		e.file("f", "aaaa")
		r, w := e.open("f", unix.O_RDONLY), e.open("f", unix.O_WRONLY)
		buf := make([]byte, 4)
		for i := range 5 {
			e.must(drop(unix.Pwrite(w, bytes.Repeat([]byte{byte('b' + i)}, 4), 0)))
			e.must(drop(unix.Pread(r, buf, 0)))
			e.is(fmt.Sprint("round-", i), string(buf), string(bytes.Repeat([]byte{byte('b' + i)}, 4)))
		}
	})
	for _, x := range []struct {
		label  string
		offset int64
		want   string
	}{{"last-byte", 1<<63 - 2, "EFBIG"}, {"beyond", 1<<63 - 1, "EINVAL"}, {"negative", -1, "EINVAL"}} {
		add("write-at-"+x.label, func(e *env) {
			e.file("f", "data")
			e.is(x.want, drop(unix.Pwrite(e.open("f", unix.O_RDWR), []byte("x"), x.offset)), x.want)
			e.is("size", e.stat("f").Size, 4)
		})
	}
	add("truncate-too-large", func(e *env) {
		e.file("f", "data")
		e.is("truncate", unix.Truncate("f", 1<<63-1), "EFBIG")
		e.is("ftruncate", unix.Ftruncate(e.open("f", unix.O_RDWR), 1<<63-1), "EFBIG")
		e.is("content", e.content("f"), "data")
	})
	add("fsync", func(e *env) {
		e.file("f", "")
		fd := e.open("f", unix.O_RDWR)
		e.must(drop(unix.Write(fd, []byte("data"))))
		e.is("fdatasync", unix.Fdatasync(fd), "ok")
		e.is("fsync", unix.Fsync(fd), "ok")
		e.is("syncfs", unix.Syncfs(fd), "ok")
		e.is("range", unix.SyncFileRange(fd, 0, 4, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER), "ok")
		e.is("dir", unix.Fsync(e.open(".", unix.O_RDONLY)), "ok")
		e.is("content", e.content("f"), "data")
	})
	return cases
}
