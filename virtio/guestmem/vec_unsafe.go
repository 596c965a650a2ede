package guestmem

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxSegments is the kernel's limit for one vectored call (linux/uio.h: UIO_MAXIOV).
const maxSegments = 1024

// maxRaw is the most bytes that are transferred without telling the Go runtime, if the
// call waits for nothing (RWF_NOWAIT): to tell it takes 5 % of a 4 KiB read.
const maxRaw = 64 << 10

// Append adds b to the end of v. If b continues the last slice that was appended,
// within its capacity, the two become one segment. b must be mapped memory or heap
// memory; v keeps the latter alive.
//
// Appending to a Vec that Slice made panics.
func (v *Vec) Append(b []byte) {
	if len(b) == 0 {
		return
	}
	if v.room == piece {
		panic("guestmem: append to a piece of a Vec")
	}
	n := uint64(len(b))
	base := unsafe.SliceData(b)
	if len(v.segs) > 0 && n <= v.room {
		last := &v.segs[len(v.segs)-1]
		// SAFETY: room says that the slice behind last goes on for n bytes after it.
		if unsafe.Add(unsafe.Pointer(last.Base), last.Len) == unsafe.Pointer(base) {
			last.Len += n
			v.n += n
			v.room -= n
			return
		}
	}
	v.segs = append(v.segs, unix.Iovec{Base: base, Len: n})
	v.n += n
	v.room = uint64(cap(b)) - n
}

// segment returns a segment as a slice.
func segment(s *unix.Iovec) []byte {
	// SAFETY: Append made the segment from one slice, or from parts of one that follow
	// each other.
	return unsafe.Slice(s.Base, int(s.Len))
}

// Preadv reads from offset off of fd into v, in one system call and at most
// 1024 segments, so fewer bytes than v.Len() are possible. flags are RWF_*.
// A negative offset is EINVAL.
func (v Vec) Preadv(fd int, off int64, flags int) (int, syscall.Errno) {
	if len(v.segs) == 1 && flags == 0 {
		s := &v.segs[0]
		// SAFETY: skip+n lies within the segment.
		n, _, e := syscall.Syscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Add(unsafe.Pointer(s.Base), v.skip)), uintptr(v.n), uintptr(off), 0, 0)
		return count(n, e)
	}
	return v.transfer(unix.SYS_PREADV2, fd, off, flags)
}

// Pwritev is Preadv's counterpart: it writes v to offset off of fd.
func (v Vec) Pwritev(fd int, off int64, flags int) (int, syscall.Errno) {
	if len(v.segs) == 1 && flags == 0 {
		s := &v.segs[0]
		// SAFETY: skip+n lies within the segment.
		n, _, e := syscall.Syscall6(unix.SYS_PWRITE64, uintptr(fd), uintptr(unsafe.Add(unsafe.Pointer(s.Base), v.skip)), uintptr(v.n), uintptr(off), 0, 0)
		return count(n, e)
	}
	return v.transfer(unix.SYS_PWRITEV2, fd, off, flags)
}

// transfer narrows the first and last segment to v's bytes while the kernel looks
// at them, and puts them back.
func (v Vec) transfer(nr uintptr, fd int, off int64, flags int) (int, syscall.Errno) {
	if off < 0 {
		// To these calls -1 means the file position (preadv2(2)), which guests don't have.
		return 0, unix.EINVAL
	}
	if v.n == 0 {
		return 0, 0
	}
	segs := v.segs[:min(len(v.segs), maxSegments)]
	total := uint64(0)
	for i := range segs {
		total += segs[i].Len
	}
	first, last := segs[0], segs[len(segs)-1]
	if end := v.skip + v.n; total > end {
		segs[len(segs)-1].Len -= total - end
	}
	// SAFETY: Slice keeps skip below the length of the first segment.
	segs[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(first.Base), v.skip))
	segs[0].Len -= v.skip
	var n uintptr
	var e syscall.Errno
	if flags&unix.RWF_NOWAIT != 0 && v.n <= maxRaw {
		n, _, e = syscall.RawSyscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(&segs[0])), uintptr(len(segs)), uintptr(off), 0, uintptr(flags))
	} else {
		n, _, e = syscall.Syscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(&segs[0])), uintptr(len(segs)), uintptr(off), 0, uintptr(flags))
	}
	segs[len(segs)-1] = last
	segs[0] = first
	return count(n, e)
}

// count turns the kernel's -1 on failure into 0.
func count(n uintptr, e syscall.Errno) (int, syscall.Errno) {
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}
