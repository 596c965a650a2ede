package posix

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// copyCases are copy_file_range(2), sendfile(2) and splice(2).
func copyCases() (cases []testcase) {
	add := func(name string, run func(*env)) {
		cases = append(cases, testcase{name: "copy/" + name, run: run})
	}
	const size = 300001
	content := pattern(size)
	for _, x := range []struct {
		label    string
		from, to int64
		length   int
	}{
		{"all", 0, 0, size},
		{"part", 100, 0, 5000},
		{"to-offset", 0, 4097, 5000},
		{"beyond-end", size - 10, 0, 100},
		{"at-end", size, 0, 100},
		{"past-end", size + 5, 0, 100},
		{"nothing", 0, 0, 0},
		{"one", 7, 3, 1},
		{"far", 0, 1 << 20, 4096},
	} {
		add("range-"+x.label, func(e *env) {
			e.file("a", string(content))
			e.file("b", "old")
			in, out := e.open("a", unix.O_RDONLY), e.open("b", unix.O_RDWR)
			from, to := x.from, x.to
			want := content[min(x.from, size):min(x.from+int64(x.length), size)]
			copied := 0
			for copied < len(want) { // it may do less than it was asked for
				n, err := unix.CopyFileRange(in, &from, out, &to, x.length-copied, 0)
				e.must(err)
				if n == 0 {
					break
				}
				copied += n
			}
			n, err := unix.CopyFileRange(in, &from, out, &to, 0, 0)
			e.is("zero-length", err, "ok")
			e.is("zero-bytes", n, 0)
			e.is("copied", copied, len(want))
			e.is("in-offset", from, x.from+int64(copied))
			e.is("out-offset", to, x.to+int64(copied))
			at, _ := unix.Seek(in, 0, unix.SEEK_CUR)
			e.is("position-kept", at, 0)
			result := []byte("old")
			if need := int(x.to) + len(want); len(want) > 0 && need > len(result) {
				result = append(result, make([]byte, need-len(result))...)
			}
			copy(result[min(int(x.to), len(result)):], want)
			e.is("content", bytes.Equal(e.readAll(out), result), true)
		})
	}
	add("range-by-position", func(e *env) {
		e.file("a", "0123456789")
		e.file("b", "")
		in, out := e.open("a", unix.O_RDONLY), e.open("b", unix.O_WRONLY)
		for range 2 {
			e.must(drop(unix.CopyFileRange(in, nil, out, nil, 3, 0)))
		}
		e.is("content", e.content("b"), "012345")
	})
	for _, x := range []struct {
		label    string
		from, to int64
		flags    int
		want     string
	}{
		{"same-file-apart", 0, 8, 0, "ok"},
		{"same-file-overlap", 0, 2, 0, "EINVAL"},
		{"same-file-same-place", 0, 0, 0, "EINVAL"},
		{"flags", 0, 8, 1, "EINVAL"},
		{"negative-in", -1, 8, 0, "EOVERFLOW"},
		{"too-large", 0, 1<<63 - 2, 0, "EFBIG"},
	} {
		add("range-"+x.label, func(e *env) {
			e.file("f", "0123456789abcdef")
			fd := e.open("f", unix.O_RDWR)
			from, to := x.from, x.to
			e.is(x.want, drop(unix.CopyFileRange(fd, &from, fd, &to, 4, x.flags)), x.want)
			want := "0123456789abcdef"
			if x.want == "ok" {
				want = "012345670123cdef"
			}
			e.is("content", e.content("f"), want)
		})
	}
	add("range-append", func(e *env) { // copy_file_range(2), EBADF
		e.file("a", "data")
		e.file("b", "data")
		e.is("EBADF", drop(unix.CopyFileRange(e.open("a", unix.O_RDONLY), nil, e.open("b", unix.O_WRONLY|unix.O_APPEND), nil, 4, 0)), "EBADF")
	})
	add("range-sparse", func(e *env) {
		e.file("a", "")
		e.file("b", "")
		in, out := e.open("a", unix.O_RDWR), e.open("b", unix.O_RDWR)
		e.must(unix.Ftruncate(in, 4*page))
		e.must(drop(unix.Pwrite(in, []byte("x"), 3*page)))
		for {
			n, err := unix.CopyFileRange(in, nil, out, nil, 4*page, 0)
			e.must(err)
			if n == 0 {
				break
			}
		}
		e.is("same", bytes.Equal(e.readAll(in), e.readAll(out)), true)
	})
	for _, length := range []int{1, 4096, size} {
		add(fmt.Sprintf("sendfile-%d", length), func(e *env) {
			e.file("a", string(content))
			e.file("b", "")
			in, out := e.open("a", unix.O_RDONLY), e.open("b", unix.O_RDWR)
			sent := 0
			for sent < length {
				n, err := unix.Sendfile(out, in, nil, length-sent)
				e.must(err)
				sent += n
			}
			e.is("same", bytes.Equal(e.readAll(out), content[:length]), true)
		})
	}
	add("sendfile-offset", func(e *env) {
		e.file("a", "0123456789")
		e.file("b", "")
		in, out := e.open("a", unix.O_RDONLY), e.open("b", unix.O_WRONLY)
		offset := int64(6)
		n, err := unix.Sendfile(out, in, &offset, 100)
		e.is("sendfile", err, "ok")
		e.is("sent", n, 4)
		e.is("offset", offset, 10)
		at, _ := unix.Seek(in, 0, unix.SEEK_CUR)
		e.is("position-kept", at, 0)
		e.is("content", e.content("b"), "6789")
	})
	add("splice", func(e *env) {
		e.file("a", "0123456789")
		e.file("b", "")
		r, w := e.pipe("")
		n, err := unix.Splice(e.open("a", unix.O_RDONLY), nil, w, nil, 100, 0)
		e.is("in", err, "ok")
		e.is("in-bytes", n, 10)
		n, err = unix.Splice(r, nil, e.open("b", unix.O_WRONLY), nil, 100, 0)
		e.is("out", err, "ok")
		e.is("out-bytes", n, 10)
		e.is("content", e.content("b"), "0123456789")
	})
	return cases
}
