package vfiouser

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapOver maps a file from off on in the place of mem, which is a reservation of our
// own, in whole pages, that nothing uses yet.
func mapOver(mem []byte, fd int, off int64) error {
	// SAFETY: the mapping replaces mem exactly, and mem isn't Go's.
	_, err := unix.MmapPtr(fd, off, unsafe.Pointer(unsafe.SliceData(mem)), uintptr(len(mem)),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED|unix.MAP_NORESERVE)
	return err
}
