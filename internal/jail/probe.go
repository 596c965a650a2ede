package jail

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/internal/idmap"
)

// What follows asks what a jail could be made of here, and changes nothing.

// ProbeNamespaces returns an error unless the caller may have the namespaces of Mode
// Namespace, with a user namespace where Launch would make one.
func ProbeNamespaces() error {
	var p Plan
	p.Mode = Namespace
	attr := &syscall.SysProcAttr{Cloneflags: namespaces}
	if p.userNamespace() {
		attr.Cloneflags |= unix.CLONE_NEWUSER
	}
	// There is no program of this name: by the time the kernel says so, the process that
	// was to run it has its namespaces.
	process, err := os.StartProcess("", []string{""}, &os.ProcAttr{Sys: attr})
	switch {
	case err == nil:
		return errors.Join(errors.New("a program without a name runs"), process.Kill(), reap(process))
	case errors.Is(err, unix.ENOENT):
		return nil
	}
	return errors.Unwrap(err)
}

// ProbeLandlock returns the version of Landlock, and an error if it is of no use.
func ProbeLandlock() (version int, err error) {
	version, err = landlockVersion()
	if err == nil && version < landlockNeeded {
		err = fmt.Errorf("this kernel has version %d, which can't move files between directories", version)
	}
	return version, err
}

// ProbeSeccomp returns an error unless there are seccomp filters.
func ProbeSeccomp() error {
	// A kernel with filters misses the filter.
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, 0, 0, 0)
	if errors.Is(err, unix.EFAULT) {
		return nil
	}
	return err
}

// ProbeSubids returns how many users and groups the system lends to the caller, and an
// error if there are none or no programs to map them.
func ProbeSubids() (users, groups uint64, err error) {
	uids, gids, err := subordinates(uint32(os.Geteuid()), uint32(os.Getegid()))
	return lent(uids), lent(gids), err
}

// lent counts the ids of a map beside the caller's own.
func lent(m idmap.Map) (n uint64) {
	for _, e := range m[min(1, len(m)):] {
		n += uint64(e.Count)
	}
	return n
}
