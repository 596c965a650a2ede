package escape

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/testkit"
)

// inside says that this process has a mount namespace of its own.
const inside = "VFIOFS_ESCAPE_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(inside) == "" {
		os.Exit(again())
	}
	// What is mounted here shows in the namespaces of servers, and never on the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		fmt.Fprintln(os.Stderr, "keep mounts from the host:", err)
		os.Exit(1)
	}
	os.Exit(testkit.Main(m))
}

// again runs this test in new namespaces and returns its exit code. An ordinary user
// is root in a user namespace.
func again() int {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	signal.Ignore(unix.SIGINT, unix.SIGQUIT) // the child decides
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		fmt.Fprintf(os.Stderr, "start in a mount namespace: %v (run as root, or allow user namespaces)\n", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// privileged reports whether other users exist here: not in the namespace of an
// ordinary user, who is root there.
func privileged() bool {
	runtime.LockOSThread() // or another thread gets its user back, and this one stays nobody
	defer runtime.UnlockOSThread()
	return unix.Access("/proc/1/environ", unix.R_OK) == nil && unix.Setfsuid(nobody) == nil && unix.Setfsuid(0) == nil
}

// build returns the path of vfiofs as it is released.
func build(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "escape") // others have to get there, too
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "vfiofs")
	cmd := exec.Command("go", "build", "-o", path, "vfiofs/cmd/vfiofs")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build vfiofs: %v\n%s", err, out)
	}
	return path
}
