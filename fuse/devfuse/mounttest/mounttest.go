// Package mounttest gives tests a real mount: a backend, vfiofs or another, and
// "vfiofs mount", each in a process of its own, around a directory of the test.
//
//	test ──► m.Dir ──► kernel ──► /dev/fuse ──► vfiofs mount ──► backend ──► shared
//
// In use:
//
//	shared := t.TempDir()
//	m := mounttest.Mount(t, mounttest.Vfiofs(t, "--xattr"), shared)
//	os.WriteFile(filepath.Join(m.Dir, "file"), ...) // appears in shared
//
// Backends are children because a Go program that uses a mount it serves itself can
// stop for good: its garbage collector waits for a system call that waits for it.
//
// These tests run when VFIOFS_MOUNT=1 (scripts/check mount) and are skipped without it,
// since they need root and /dev/fuse. VFIOFS_BINARY is the vfiofs to test; without it,
// one is built for each mount.
//
// Ownership: a Mounted owns its processes, its mount point and its logs until the test
// ends. The package follows no specification of its own.
package mounttest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/vmtest"
)

// patience is how long processes may take to get ready, or to end with a million files
// to forget, on a busy machine.
const patience = time.Minute

// A Backend is a program that serves a directory.
type Backend struct {
	Name string
	// Argv is the program and its arguments, with {socket} and {dir} in the places of
	// the socket to listen on and of the directory.
	Argv []string
}

// want skips the test unless mount tests were asked for, and fails it if they cannot
// run.
func want(t testing.TB) {
	t.Helper()
	if os.Getenv("VFIOFS_MOUNT") != "1" {
		t.Skip("mount tests run with VFIOFS_MOUNT=1 (scripts/check mount)")
	}
	if os.Geteuid() != 0 {
		t.Fatal("mounting needs root: run this as root (sudo, or a container with --privileged)")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Fatalf("%v: load the module (modprobe fuse), or give it to the container (--device /dev/fuse)", err)
	}
}

// Vfiofs is our own backend, with args beside the socket and the directory. It ends
// when its client leaves.
func Vfiofs(t testing.TB, args ...string) Backend {
	t.Helper()
	want(t)
	argv := append([]string{binary(t), "--socket", "{socket}", "--shared-dir", "{dir}", "--tag", "mounttest", "--once"}, args...)
	return Backend{Name: "vfiofs", Argv: argv}
}

// Virtiofsd is the lab's virtiofsd, outside of its sandbox, with args beside the socket
// and the directory.
func Virtiofsd(t testing.TB, args ...string) Backend {
	t.Helper()
	want(t)
	lab, err := vmtest.FindLab()
	if err != nil {
		t.Fatal(err)
	}
	if lab.Virtiofsd == "" {
		t.Fatal("this lab has no virtiofsd: run scripts/lab")
	}
	argv := []string{lab.Virtiofsd, "--socket-path", "{socket}", "--shared-dir", "{dir}", "--tag", "mounttest"}
	if !hasOption(args, "--sandbox") {
		argv = append(argv, "--sandbox=none", "--seccomp=none")
	}
	return Backend{Name: "virtiofsd", Argv: append(argv, args...)}
}

// hasOption reports whether args have an option, with = or without.
func hasOption(args []string, name string) bool {
	for _, a := range args {
		if option, _, _ := strings.Cut(a, "="); option == name {
			return true
		}
	}
	return false
}

// binary returns the path of vfiofs.
func binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("VFIOFS_BINARY"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "vfiofs")
	cmd := exec.Command("go", "build", "-o", path, "vfiofs/cmd/vfiofs")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build vfiofs: %v\n%s", err, out)
	}
	return path
}

// A Mounted is a mount in use.
type Mounted struct {
	Dir string // the mount point

	t       testing.TB
	tmp     string
	backend *process
	mount   *process
	stopped bool
}

// Mount has b serve the directory shared, and mounts that. Everybody may enter the mount
// point; set-user-id bits and device nodes count. At the end of the test it is unmounted,
// and the test fails if a process crashed or the mount is left. Args go to
// "vfiofs mount".
func Mount(t testing.TB, b Backend, shared string, args ...string) *Mounted {
	t.Helper()
	want(t)
	program := binary(t)
	tmp, err := os.MkdirTemp("", "mounttest") // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	m := &Mounted{Dir: filepath.Join(tmp, "mnt"), t: t, tmp: tmp}
	t.Cleanup(m.remove)
	if err := os.Chmod(tmp, 0o777|os.ModeSticky); err != nil { // a backend of another user makes its socket here
		t.Fatal(err)
	}
	if err := os.Mkdir(m.Dir, 0o755); err != nil {
		t.Fatal(err)
	}

	socket := filepath.Join(tmp, "socket")
	argv := make([]string, len(b.Argv))
	for i, a := range b.Argv {
		argv[i] = strings.NewReplacer("{socket}", socket, "{dir}", shared).Replace(a)
	}
	if m.backend, err = start(b.Name, filepath.Join(tmp, "backend.log"), argv); err != nil {
		t.Fatal(err)
	}
	err = m.backend.await("listens on "+socket, func() bool { return vmtest.Listening(socket) })
	if err != nil {
		t.Fatal(err)
	}
	argv = append([]string{program, "mount", "--socket", socket, "--trusted", m.Dir}, args...)
	if m.mount, err = start("vfiofs mount", filepath.Join(tmp, "mount.log"), argv); err != nil {
		t.Fatal(err)
	}
	err = m.mount.await("mounts", func() bool { return strings.Contains(m.mount.output(), "mounted "+socket) })
	if err != nil {
		t.Fatal(err)
	}
	go m.backend.killIfPanicked()
	return m
}

// BackendPID returns the number of the backend's process.
func (m *Mounted) BackendPID() int { return m.backend.cmd.Process.Pid }

// MountPID returns the number of the process of "vfiofs mount".
func (m *Mounted) MountPID() int { return m.mount.cmd.Process.Pid }

// Logs returns what both processes have said.
func (m *Mounted) Logs() string {
	var b strings.Builder
	for _, p := range []*process{m.backend, m.mount} {
		if p != nil {
			fmt.Fprintf(&b, "--- %s\n%s", p.name, p.output())
		}
	}
	return b.String()
}

// KillBackend kills the backend, as a crash would, and waits until the mount is gone.
func (m *Mounted) KillBackend() {
	m.t.Helper()
	m.backend.kill()
	m.finish(1)
}

// Unmount unmounts as "umount" does. It fails if the mount is in use.
func (m *Mounted) Unmount() error {
	if err := unix.Unmount(m.Dir, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", m.Dir, err)
	}
	m.finish(0)
	return nil
}

// Stop unmounts and ends both processes. It is called at the end of the test.
func (m *Mounted) Stop() {
	m.t.Helper()
	if m.stopped {
		return
	}
	switch {
	case m.mount == nil && m.backend != nil:
		m.backend.signal(unix.SIGTERM) // it has no client to wait for
	case m.mount != nil && m.mount.running():
		m.mount.signal(unix.SIGTERM)
	case m.mount != nil:
		m.t.Errorf("vfiofs mount has ended by itself: %v", m.mount.err)
	}
	m.finish(0)
}

// finish waits for the end of both processes and checks that "vfiofs mount" ends with
// code, that the backend didn't crash, and that nothing is left.
func (m *Mounted) finish(code int) {
	m.t.Helper()
	if m.stopped {
		return
	}
	m.stopped = true
	if m.mount != nil {
		if err := m.mount.wait(code); err != nil {
			m.t.Error(err)
		}
	}
	if m.backend != nil {
		m.backend.signal(unix.SIGCONT) // a test may have stopped it
		if err := m.backend.wait(0); err != nil && code == 0 {
			m.t.Error(err)
		}
	}
	if m.t.Failed() {
		m.t.Log(m.Logs())
	}
	// Not RemoveAll: that would empty the share.
	if err := os.Remove(m.Dir); err != nil {
		m.t.Errorf("the mount is left: %v", err)
		_ = unix.Unmount(m.Dir, unix.MNT_DETACH)
		_ = os.Remove(m.Dir)
	}
}

// remove ends everything and removes the logs.
func (m *Mounted) remove() {
	m.t.Helper()
	m.Stop()
	if _, err := os.Lstat(m.Dir); !errors.Is(err, fs.ErrNotExist) {
		return // whatever is left there, it isn't ours to remove
	}
	if err := os.RemoveAll(m.tmp); err != nil {
		m.t.Error(err)
	}
}
