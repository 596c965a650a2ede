package jail

import (
	"errors"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// attempts are what a server that was taken over might try. All fail in a jail, but for
// what begins with "share".
var attempts = map[string]func() error{
	"share 1: make a file": func() error { return os.WriteFile("made", []byte("x"), 0o644) },
	"share 2: read it":     func() error { _, err := os.ReadFile("made"); return err },
	"share 3: move it":     func() error { return unix.Renameat2(unix.AT_FDCWD, "made", unix.AT_FDCWD, "moved", 0) },
	"share 4: new threads": func() error { return newThreads(8) },
	"read /etc/passwd":     func() error { _, err := os.ReadFile("/etc/passwd"); return err },
	"read by ..":           func() error { _, err := os.ReadFile("../../../../../../../../etc/passwd"); return err },
	"read /proc/1/environ": func() error { _, err := os.ReadFile("/proc/1/environ"); return err },
	"write to /tmp":        func() error { return os.WriteFile("/tmp/prisoner-was-here", nil, 0o600) },
	"run a program":        func() error { return unix.Exec("/bin/true", []string{"true"}, nil) },
	"fork":                 func() error { return failed(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0) },
	"make a socket":        func() error { _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
	"connect by TCP":       connectTCP,
	"trace the parent":     func() error { return unix.PtraceAttach(os.Getppid()) },
	"trace process 1":      func() error { return unix.PtraceSeize(1) },
	"kill the parent":      func() error { return unix.Kill(os.Getppid(), 0) },
	"mount":                func() error { return unix.Mount("none", "/", "tmpfs", 0, "") },
	"mount proc":           func() error { return unix.Mount("proc", ".", "proc", 0, "") },
	"change the root":      func() error { return unix.Chroot(".") },
	"new user namespace":   func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
	"make a jail":          ProbeNamespaces,
	"new mount namespace":  func() error { return unix.Unshare(unix.CLONE_NEWNS) },
	"map code":             mapCode,
	"load BPF":             func() error { return failed(unix.SYS_BPF, 0, 0, 0) },
	"io_uring":             func() error { return failed(unix.SYS_IO_URING_SETUP, 1, 0, 0) },
	"read other memory":    func() error { return failed(unix.SYS_PROCESS_VM_READV, 1, 0, 0) },
	"keys":                 func() error { return failed(unix.SYS_KEYCTL, 0, 0, 0) },
	"set the clock":        func() error { return unix.ClockSettime(unix.CLOCK_REALTIME, &unix.Timespec{Sec: 1}) },
	"raise a limit":        func() error { return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}) },
	"terminal input":       func() error { return unix.IoctlSetInt(0, unix.TIOCSTI, 0) },
}

// newThreads has n threads at the same time, each with a umask of its own, as servers do.
func newThreads(n int) error {
	errs := make(chan error)
	for range n {
		go func() {
			runtime.LockOSThread()
			errs <- unix.Unshare(unix.CLONE_FS)
		}()
	}
	var err error
	for range n {
		err = errors.Join(err, <-errs)
	}
	return err
}

// failed makes a system call.
func failed(nr, a1, a2, a3 uintptr) error {
	if _, _, e := syscall.RawSyscall(nr, a1, a2, a3); e != 0 {
		return e
	}
	return nil
}

// connectTCP connects to whatever listens on port 9.
func connectTCP() error {
	n, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(n)
	return unix.Connect(n, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}})
}

// mapCode makes memory that can be written and run.
func mapCode() error {
	_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
	return err
}
