package guestmem

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxSegments is the kernel's IOV_MAX (linux/uio.h: UIO_MAXIOV).
const maxSegments = 1024

// Append adds b to the end of v. A segment that starts where the last one ends is
// merged with it. b must be mapped memory, or heap memory that the caller keeps
// alive and in place for as long as v is used.
func (v *Vec) Append(b []byte) {
	if len(b) == 0 {
		return
	}
	// SAFETY: only the address of b is kept; the caller keeps the memory.
	base := unsafe.SliceData(b)
	if n := len(v.segs); n > 0 {
		last := &v.segs[n-1]
		if uintptr(unsafe.Pointer(last.Base))+uintptr(last.Len) == uintptr(unsafe.Pointer(base)) {
			last.Len += uint64(len(b))
			v.n += uint64(len(b))
			return
		}
	}
	v.segs = append(v.segs, unix.Iovec{Base: base, Len: uint64(len(b))})
	v.n += uint64(len(b))
}

// bytes returns a segment as a slice.
func bytes(s *unix.Iovec) []byte {
	// SAFETY: the segment was made from a slice of this length by Append.
	return unsafe.Slice(s.Base, int(s.Len))
}

// Preadv reads from offset off of fd into v, in one system call and at most
// 1024 segments, so fewer bytes than v.Len() are possible. flags are RWF_*.
func (v Vec) Preadv(fd int, off int64, flags int) (int, syscall.Errno) {
	if len(v.segs) == 1 && flags == 0 {
		s := v.segs[0]
		// SAFETY: skip+n lies within the segment.
		n, _, e := syscall.Syscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Add(unsafe.Pointer(s.Base), v.skip)), uintptr(v.n), uintptr(off), 0, 0)
		return int(n), e
	}
	return v.transfer(unix.SYS_PREADV2, fd, off, flags)
}

// Pwritev is Preadv's counterpart: it writes v to offset off of fd.
func (v Vec) Pwritev(fd int, off int64, flags int) (int, syscall.Errno) {
	if len(v.segs) == 1 && flags == 0 {
		s := v.segs[0]
		// SAFETY: skip+n lies within the segment.
		n, _, e := syscall.Syscall6(unix.SYS_PWRITE64, uintptr(fd), uintptr(unsafe.Add(unsafe.Pointer(s.Base), v.skip)), uintptr(v.n), uintptr(off), 0, 0)
		return int(n), e
	}
	return v.transfer(unix.SYS_PWRITEV2, fd, off, flags)
}

// transfer narrows the first and last segment to v's bytes while the kernel looks
// at them, and puts them back.
func (v Vec) transfer(nr uintptr, fd int, off int64, flags int) (int, syscall.Errno) {
	if v.n == 0 {
		return 0, 0
	}
	segs := v.segs
	cut := v
	if len(segs) > maxSegments {
		segs = segs[:maxSegments]
		cut.n = 0
		for i := range segs {
			cut.n += segs[i].Len
		}
		cut.n -= v.skip
	}
	first, last := segs[0], segs[len(segs)-1]
	total := uint64(0)
	for i := range segs {
		total += segs[i].Len
	}
	// SAFETY: both ends stay within the segments Append was given.
	segs[len(segs)-1].Len -= total - v.skip - cut.n
	segs[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(first.Base), v.skip))
	segs[0].Len -= v.skip
	n, _, e := syscall.Syscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(&segs[0])), uintptr(len(segs)), uintptr(off), 0, uintptr(flags))
	segs[len(segs)-1] = last
	segs[0] = first
	return int(n), e
}
