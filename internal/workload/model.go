package workload

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// Sizes of the model's world. Few names and descriptors, so that they meet often.
const (
	nameCount   = 12
	handleCount = 6
	maxSize     = 256 << 10 // bytes of a file
	pageSize    = 4096
)

// A file is what the model knows of an inode.
type file struct {
	data  []byte
	links int
	// dirty: the kernel may hold data that the shared directory lacks.
	dirty bool
}

// resize makes the file n bytes long; what is new is zero.
func (f *file) resize(n int64) {
	if int64(len(f.data)) >= n {
		f.data = f.data[:n:n]
		return
	}
	f.data = append(f.data, make([]byte, n-int64(len(f.data)))...)
}

// size returns the length in bytes.
func (f *file) size() int64 { return int64(len(f.data)) }

// slice returns the bytes of a range that exist.
func (f *file) slice(off, n int64) []byte {
	end := min(off+n, f.size())
	return f.data[min(off, end):end]
}

// write puts bytes at an offset, which may be behind the end.
func (f *file) write(off int64, b []byte) {
	if len(b) == 0 {
		return
	}
	if end := off + int64(len(b)); end > f.size() {
		f.resize(end)
	}
	copy(f.data[off:], b)
}

// allocate does what fallocate(2) says for a mode that has succeeded.
func (f *file) allocate(mode int, off, n int64) {
	const (
		punch    = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		zero     = unix.FALLOC_FL_ZERO_RANGE
		zeroKeep = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
	)
	switch mode {
	case 0, zero:
		if off+n > f.size() {
			f.resize(off + n)
		}
	case unix.FALLOC_FL_COLLAPSE_RANGE:
		f.data = append(f.data[:off:off], f.data[off+n:]...)
	case unix.FALLOC_FL_INSERT_RANGE:
		f.data = append(append(f.data[:off:off], make([]byte, n)...), f.data[off:]...)
	}
	if mode == punch || mode == zero || mode == zeroKeep {
		clear(f.slice(off, n))
	}
}

// allocateErrno returns the errnos that fallocate may give, and whether it may succeed.
func (f *file) allocateErrno(mode int, off, n int64) (errnos []error, ok bool) {
	unsupported := []error{unix.EOPNOTSUPP}
	if n == 0 {
		return []error{unix.EINVAL, unix.EOPNOTSUPP}, false
	}
	switch mode {
	case 0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE:
		return nil, true
	case unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE:
		return unsupported, true
	case unix.FALLOC_FL_COLLAPSE_RANGE:
		if off%pageSize != 0 || n%pageSize != 0 || off+n >= f.size() {
			return []error{unix.EINVAL, unix.EOPNOTSUPP}, false
		}
		return unsupported, true
	case unix.FALLOC_FL_INSERT_RANGE:
		if off%pageSize != 0 || n%pageSize != 0 || off >= f.size() {
			return []error{unix.EINVAL, unix.EOPNOTSUPP}, false
		}
		return unsupported, true
	}
	return []error{unix.EINVAL, unix.EOPNOTSUPP}, false
}

// A handle is an open descriptor, with at most one mapping.
type handle struct {
	file  *file
	fd    int
	flags int    // O_*
	mem   []byte // maxSize bytes from the start of the file; nil if not mapped
}

func (h *handle) readable() bool { return h.flags&unix.O_ACCMODE != unix.O_WRONLY }
func (h *handle) writable() bool { return h.flags&unix.O_ACCMODE != unix.O_RDONLY }
func (h *handle) appends() bool  { return h.flags&unix.O_APPEND != 0 }

// unaligned reports whether a host may refuse a transfer because of O_DIRECT.
func (h *handle) unaligned(off, n int64) bool {
	return h.flags&unix.O_DIRECT != 0 && (off|n)%pageSize != 0
}

// pattern fills b with bytes that depend on fill, and are never zero: lost data shows.
func pattern(b []byte, fill uint32) {
	x := fill*2654435761 + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x>>24) | 1
	}
}

// differ describes how bytes at off differ from what the model has; nil if they agree.
func differ(what string, off int64, got, want []byte) error {
	if len(got) != len(want) {
		return fmt.Errorf("%s at %d: %d bytes; want %d", what, off, len(got), len(want))
	}
	if bytes.Equal(got, want) {
		return nil
	}
	first, last, zero := -1, 0, true
	for i := range got {
		if got[i] != want[i] {
			if first < 0 {
				first = i
			}
			last = i
			zero = zero && got[i] == 0
		}
	}
	note := ""
	if zero {
		note = "; what is wrong is zero"
	}
	return fmt.Errorf("%s: wrong bytes between %#x and %#x, the first is %#02x; want %#02x%s",
		what, off+int64(first), off+int64(last)+1, got[first], want[first], note)
}
