package vfio

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
)

// ioctl makes a request whose argument is a structure, which the kernel may change.
func ioctl(f *fd.FD, nr request, b []byte) (int, syscall.Errno) {
	for {
		// SAFETY: the kernel reads and writes what the structure's first field or the request
		// says is there, which the layouts in uapi.go keep within b.
		n, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(f.Int()), uintptr(nr), uintptr(unsafe.Pointer(&b[0])))
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

// ioctlInt makes a request whose argument is a number, or that has none.
func ioctlInt(f *fd.FD, nr request, arg int) (int, syscall.Errno) {
	for {
		n, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(f.Int()), uintptr(nr), uintptr(arg))
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

// withAddress calls f with the address of b, which stays where it is meanwhile.
func withAddress(b []byte, f func(addr uint64) error) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	p := unsafe.SliceData(b)
	pin.Pin(p)
	// SAFETY: b is mapped memory, or pinned until f returns.
	return f(uint64(uintptr(unsafe.Pointer(p))))
}
