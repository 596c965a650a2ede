package passthrough

import (
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/virtio/guestmem"
)

// bounceSize is how much goes through a bounce buffer at once, in bytes. It is a
// multiple of every block size, and the longest READ or WRITE of a guest.
const bounceSize = 1 << 20

// A bounce is memory of a thread's own that stands between guest memory and files that
// are open with O_DIRECT. The kernel takes references to the pages of such transfers,
// which pages of a PCI function's memory don't have: it says EFAULT
// (virtio-vhost-user.md 9.3).
type bounce struct {
	mem []byte // page-aligned; nil before the first use
	vec guestmem.Vec
}

// take returns the first n bytes of the buffer, or all of it.
func (b *bounce) take(n int) (guestmem.Vec, []byte, syscall.Errno) {
	if b.mem == nil {
		mem, err := unix.Mmap(-1, 0, bounceSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return guestmem.Vec{}, nil, unix.ENOMEM
		}
		b.mem = mem
		b.vec.Append(mem)
	}
	n = min(n, len(b.mem))
	return b.vec.Slice(0, n), b.mem[:n], 0
}

// free gives the buffer back.
func (b *bounce) free() {
	if b.mem != nil {
		unix.Munmap(b.mem)
	}
	*b = bounce{}
}

// refused reports whether e says that the memory of a transfer can't be used directly.
// Then transfers of the handle bounce from now on: the next would fail as well.
func (h *handle) refused(e syscall.Errno) bool {
	if e != unix.EFAULT || h.flags&unix.O_DIRECT == 0 {
		return false
	}
	h.bounced.Store(true)
	return true
}

// preadv reads into guest memory: some bytes, or none at the end of the file.
func (h *handle) preadv(t *thread, dst guestmem.Vec, off int64, flags int) (int, syscall.Errno) {
	if !h.bounced.Load() {
		n, e := dst.Preadv(h.fd, off, flags)
		if !h.refused(e) {
			return n, e
		}
	}
	vec, mem, e := t.bounce.take(dst.Len())
	if e != 0 {
		return 0, e
	}
	n, e := vec.Preadv(h.fd, off, flags)
	return dst.CopyIn(mem[:n], 0), e
}

// pwritev writes from guest memory: some bytes.
func (h *handle) pwritev(t *thread, src guestmem.Vec, off int64, flags int) (int, syscall.Errno) {
	if !h.bounced.Load() {
		n, e := src.Pwritev(h.fd, off, flags)
		if !h.refused(e) {
			return n, e
		}
	}
	vec, mem, e := t.bounce.take(src.Len())
	if e != 0 {
		return 0, e
	}
	src.CopyOut(mem, 0)
	return vec.Pwritev(h.fd, off, flags)
}
