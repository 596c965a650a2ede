package posix

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setGroups sets the supplementary groups of the calling thread alone; unix.Setgroups
// would set those of the whole process.
func setGroups(groups []int) error {
	ids := make([]uint32, len(groups)+1) // one more, so that it has an address
	for i, g := range groups {
		ids[i] = uint32(g)
	}
	// SAFETY: the kernel reads len(groups) ids, which are there, and keeps nothing.
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&ids[0])), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
