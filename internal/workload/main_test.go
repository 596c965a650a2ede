package workload

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"vfiofs/fuse/devfuse/mounttest"
)

var (
	full     = flag.Bool("full", false, "run the workloads in their full size, for minutes each")
	fsxTime  = flag.Duration("fsx-time", time.Minute, "how long the fsx checker runs, over all its modes")
	fsxSeed  = flag.Uint64("fsx-seed", 0, "seed of the fsx checker; 0 takes the time")
	fsxTrace = flag.String("fsx-trace", "", "file with operations for the fsx checker to repeat")
)

// needProgram fails the test if a program is missing, and says what to install.
func needProgram(t *testing.T, program, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%s is missing: apt-get install %s", program, pkg)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestMain runs the tests, or is an agent of one. The tests share one binary of vfiofs.
func TestMain(m *testing.M) {
	switch os.Getenv(agentVariable) {
	case "locker":
		lockerMain()
		return
	case "observer":
		observerMain()
		return
	}
	remove := func() {}
	if os.Getenv("VFIOFS_MOUNT") == "1" && os.Getenv("VFIOFS_BINARY") == "" {
		var err error
		if remove, err = build(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	code := m.Run()
	remove()
	os.Exit(code)
}

// build builds vfiofs, and tells mounttest.
func build() (remove func(), err error) {
	dir, err := os.MkdirTemp("", "workload")
	if err != nil {
		return nil, err
	}
	binary := filepath.Join(dir, "vfiofs")
	cmd := exec.Command("go", "build", "-o", binary, "vfiofs/cmd/vfiofs")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build vfiofs: %w\n%s", err, out)
	}
	return func() { os.RemoveAll(dir) }, os.Setenv("VFIOFS_BINARY", binary)
}

// A mounted is a share and its mount.
type mounted struct {
	*mounttest.Mounted
	host string // the shared directory
}

// mount mounts a new directory on the disk.
func mount(t *testing.T, b mounttest.Backend) mounted {
	t.Helper()
	return mountOf(t, b, t.TempDir())
}

// mountOf mounts a directory that exists.
func mountOf(t *testing.T, b mounttest.Backend, host string) mounted {
	t.Helper()
	return mounted{mounttest.Mount(t, b, host), host}
}
