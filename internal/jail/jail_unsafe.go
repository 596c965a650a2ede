package jail

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// allThreads runs a system call on all threads, which all get the same result.
func allThreads(nr, a1, a2, a3 uintptr) error {
	// Some options of prctl insist on zeros in the arguments that they do not have.
	if _, _, e := syscall.AllThreadsSyscall6(nr, a1, a2, a3, 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

// capset sets the capabilities of all threads.
func capset(s capSets) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := s.words()
	// SAFETY: version 3 has two data elements. The call keeps both alive and in place.
	if _, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0); e != 0 {
		return e
	}
	return nil
}

// landlockVersion returns the version of Landlock that the kernel has.
func landlockVersion() (int, error) {
	n, _, e := syscall.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// landlockRuleset makes a set of rules; size is that of what the kernel knows of attr.
func landlockRuleset(attr *unix.LandlockRulesetAttr, size uintptr) (int, error) {
	// SAFETY: size is at most attr's.
	n, _, e := syscall.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(attr)), min(size, unsafe.Sizeof(*attr)), 0)
	if e != 0 {
		return -1, e
	}
	return int(n), nil
}

// landlockAllow adds a rule: what may be done below a directory.
func landlockAllow(ruleset, dir int, access uint64) error {
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(dir)}
	// SAFETY: the rule is of the type that the call names.
	if _, _, e := syscall.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

// filterAll puts a seccomp filter on all threads.
func filterAll(filter []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: unsafe.SliceData(filter)}
	// SAFETY: prog has the length of filter, and both live until the call is over.
	n, _, e := syscall.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	switch {
	case e != 0:
		return e
	case n != 0:
		return unix.EBUSY // thread n has a filter of its own
	}
	return nil
}
