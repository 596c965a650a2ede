package vfio

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// What the device may reach is locked in memory, and counts against the limit
// RLIMIT_MEMLOCK of a process without CAP_IPC_LOCK. The kernel answers ENOMEM; asking
// before says what is wrong.

// lockable returns an error unless this process may lock size more bytes. It raises the
// soft limit if the hard limit allows it. status is the process's status file.
//
// With CAP_IPC_LOCK the kernel has the last word: the limit does not hold, except for
// those who have the capability in a user namespace only.
func lockable(status string, size uint64) error {
	err := withinLimit(status, size)
	if hasIPCLock() {
		return nil
	}
	return err
}

// withinLimit is lockable for a process that the limit holds for.
func withinLimit(status string, size uint64) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return fmt.Errorf("limit of locked memory: %w", err)
	}
	locked, err := lockedBytes(status)
	if err != nil {
		return err
	}
	want, ok := raise(limit, locked, size)
	if !ok {
		return memlockError(locked+size, nil)
	}
	if want == limit.Cur {
		return nil
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: want, Max: limit.Max}); err != nil {
		return memlockError(locked+size, err)
	}
	return nil
}

// raise returns what the soft limit must be for size more bytes beside those that are
// locked, and false if the hard limit forbids it.
func raise(limit unix.Rlimit, locked, size uint64) (soft uint64, ok bool) {
	need := locked + size
	if need < size || need > limit.Max {
		return 0, false
	}
	return max(limit.Cur, need), true
}

// memlockError says that the process must be allowed to lock need bytes.
func memlockError(need uint64, err error) error {
	kib := (need + 1023) / 1024
	return &MissingError{
		Feature: fmt.Sprintf("%d KiB of lockable memory", kib),
		Need:    fmt.Sprintf("raise the limit: ulimit -l %d, or LimitMEMLOCK= of the service; or run with CAP_IPC_LOCK", kib),
		Err:     err,
	}
}

// hasIPCLock reports whether this process has CAP_IPC_LOCK in its user namespace.
func hasIPCLock() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&hdr, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0
}

// lockedBytes returns how much memory is locked, by the line VmLck of a status file
// (proc(5)).
func lockedBytes(status string) (uint64, error) {
	f, err := os.Open(status)
	if err != nil {
		return 0, fmt.Errorf("locked memory: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		value, ok := strings.CutPrefix(s.Text(), "VmLck:")
		if !ok {
			continue
		}
		var kib uint64
		if _, err := fmt.Sscanf(value, "%d kB", &kib); err != nil {
			return 0, fmt.Errorf("locked memory: line %q of %s: %w", s.Text(), status, err)
		}
		return kib * 1024, nil
	}
	return 0, nil
}
