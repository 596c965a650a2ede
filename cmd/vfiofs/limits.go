package main

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultFiles is the limit of open files to strive for: each file that a guest keeps
// open holds one descriptor, and each inode that it used lately.
const defaultFiles = 1_000_000

// raiseFileLimit applies --rlimit-nofile (fs-device.md F.8); want is nil when the
// option was not given.
func raiseFileLimit(want *uint64, log *slog.Logger) error {
	highest, err := readNrOpen("/proc/sys/fs/nr_open")
	if err != nil {
		return err
	}
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	next, err := fileLimit(want, now, highest)
	if err != nil || next == now {
		return err
	}
	err = unix.Setrlimit(unix.RLIMIT_NOFILE, &next)
	switch {
	case err == nil:
		return nil
	case want != nil:
		return fmt.Errorf("cannot raise the limit of open files to %d: %w; the hard limit is %d: raise it (ulimit -Hn, LimitNOFILE=) or ask for less with --rlimit-nofile", *want, err, now.Max)
	}
	log.Info("the limit of open files stays low: guests may keep fewer files open at a time", "limit", now.Max, "wanted", next.Cur, "err", err)
	next = unix.Rlimit{Cur: now.Max, Max: now.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &next); err != nil {
		return fmt.Errorf("raise the limit of open files to the hard limit %d: %w", now.Max, err)
	}
	return nil
}

// fileLimit returns the limits to set; they equal now when nothing is to be done.
func fileLimit(want *uint64, now unix.Rlimit, highest uint64) (unix.Rlimit, error) {
	files := min(defaultFiles, highest)
	if want != nil {
		files = *want
	}
	switch {
	case files > highest:
		return now, usage("`--rlimit-nofile` is %d: this system allows at most %d; ask for less, or raise the sysctl fs.nr_open", files, highest)
	case files == 0 || now.Cur >= files:
		return now, nil
	}
	return unix.Rlimit{Cur: files, Max: max(files, now.Max)}, nil
}

// raiseLockLimit has servers in user namespaces lock what a PCI function may reach, as far
// as that is ours to allow: CAP_IPC_LOCK of such a namespace is nothing to the kernel. Who
// then may not lock enough hears of it from package vfio.
func raiseLockLimit() {
	var now unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &now) != nil || now.Cur >= enoughMemlock {
		return
	}
	for _, highest := range []uint64{max(now.Max, enoughMemlock), now.Max} {
		next := unix.Rlimit{Cur: min(enoughMemlock, highest), Max: highest}
		if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &next) == nil {
			return
		}
	}
}

// readNrOpen reads the system's ceiling for the limit of open files.
func readNrOpen(path string) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read the system's limit of open files: %w; is /proc mounted?", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the system's limit of open files in %s: %w", path, err)
	}
	return n, nil
}

// tuneRuntime fits the Go runtime to a server of few threads and few pointers. What
// the usual environment variables set stays.
func tuneRuntime(rings int) {
	if os.Getenv("GOMAXPROCS") == "" {
		// A thread that sits in a system call keeps its P for a while.
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + rings + 2)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		var info unix.Sysinfo_t
		if unix.Sysinfo(&info) == nil {
			debug.SetMemoryLimit(int64(info.Totalram * uint64(info.Unit) / 4))
		}
	}
}
