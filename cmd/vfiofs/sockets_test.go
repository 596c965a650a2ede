package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/unixsock"
)

// TestH240FD passes sockets that listen, are connected, or are none.
func TestH240FD(t *testing.T) {
	start := func(t *testing.T, f *os.File, args ...string) (*exec.Cmd, *bytes.Buffer) {
		t.Helper()
		cmd := exec.Command("vfiofs", append([]string{"--fd", "3", "--tag", "t", "--shared-dir", t.TempDir()}, args...)...)
		cmd.Env = append(cmd.Environ(), "GORACE="+raceOptions)
		cmd.ExtraFiles = []*os.File{f}
		log := new(bytes.Buffer)
		cmd.Stderr = log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		f.Close()
		return cmd, log
	}
	listener := func(t *testing.T) (string, *os.File) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		defer l.Close()
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		return path, f
	}
	visit := func(t *testing.T, path string) {
		t.Helper()
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := askFeatures(conn); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("H240 listening", func(t *testing.T) {
		path, f := listener(t)
		cmd, log := start(t, f)
		visit(t, path)
		if err := cmd.Wait(); err != nil {
			t.Fatalf("exit: %v; want code 0 when the client has left; log:\n%s", err, log)
		}
		for _, want := range []string{"Waiting for vhost-user socket connection...", "Client connected, servicing requests", "Client disconnected, shutting down"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("log has no %q:\n%s", want, log)
			}
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("the socket of somebody else is gone: %v", err)
		}
	})
	t.Run("H240 listening and kept", func(t *testing.T) {
		path, f := listener(t)
		cmd, log := start(t, f, "--keep")
		visit(t, path)
		visit(t, path)
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("exit: %v; log:\n%s", err, log)
		}
	})
	t.Run("H240 connected", func(t *testing.T) {
		ours, theirs, err := unixsock.Pair()
		if err != nil {
			t.Fatal(err)
		}
		f, err := theirs.File()
		theirs.Close()
		if err != nil {
			t.Fatal(err)
		}
		cmd, log := start(t, f)
		if err := askFeatures(ours); err != nil {
			t.Errorf("%v; log:\n%s", err, log)
		}
		ours.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("exit: %v; want code 0 when the client has left; log:\n%s", err, log)
		}
	})
	for name, test := range map[string]struct {
		open func() (*os.File, error)
		args []string
		want string
	}{
		"H240 regular file": {func() (*os.File, error) { return os.Create(filepath.Join(t.TempDir(), "f")) }, nil, "`--fd 3`: socket operation on non-socket; pass a unix stream socket"},
		"H240 datagrams": {func() (*os.File, error) {
			n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			return os.NewFile(uintptr(n), "datagrams"), err
		}, nil, "it is a socket of another kind"},
		"H240 TCP": {func() (*os.File, error) {
			n, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			return os.NewFile(uintptr(n), "TCP"), err
		}, nil, "it is a socket of another kind"},
		"connected and kept": {func() (*os.File, error) {
			n, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			unix.Close(n[1])
			return os.NewFile(uintptr(n[0]), "pair"), err
		}, []string{"--keep"}, "`--keep` with `--fd 3`: that socket is connected to one client"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := test.open()
			if err != nil {
				t.Fatal(err)
			}
			cmd, log := start(t, f, test.args...)
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitFailed || !strings.Contains(log.String(), test.want) {
				t.Errorf("exit: %v, log %q; want %q", err, log, test.want)
			}
		})
	}
}

// TestConnected has a connection that somebody else has made.
func TestConnected(t *testing.T) {
	n, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(n[1])
	from, err := openFD(n[0])
	if err != nil {
		t.Fatal(err)
	}
	link, err := from.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	link.Close()
	if _, err := from.Accept(t.Context()); err != io.EOF {
		t.Errorf("second Accept = %v; want %v", err, io.EOF)
	}
	if err := from.Close(); err != nil {
		t.Error(err)
	}
	if k, err := unix.Read(n[1], make([]byte, 1)); k != 0 || err != nil {
		t.Errorf("the peer reads %d bytes, %v; want the end", k, err)
	}
	if _, err := openFD(-1); err == nil {
		t.Error("openFD(-1) succeeded")
	}
}

// TestEnds has the rule for the end of a client (launchers.md 2).
func TestEnds(t *testing.T) {
	n := 3
	for _, test := range []struct {
		s    Serve
		want bool
	}{
		{Serve{Socket: "s"}, false},
		{Serve{VFIO: "00:07.0"}, false},
		{Serve{SocketPath: "s"}, true},
		{Serve{FD: &n}, true},
		{Serve{Socket: "s", name: "virtiofsd"}, true},
		{Serve{Socket: "s", Once: true}, true},
		{Serve{SocketPath: "s", Keep: true}, false},
		{Serve{FD: &n, Keep: true}, false},
		{Serve{Socket: "s", name: "virtiofsd", Keep: true}, false},
	} {
		if got := test.s.exits(); got != test.want {
			t.Errorf("%+v exits with its client: %v; want %v", test.s, got, test.want)
		}
	}
}

// TestSocketGroup lets a group connect, and nobody else at any time.
func TestSocketGroup(t *testing.T) {
	group, err := user.LookupGroupId(fmt.Sprint(os.Getegid()))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		group string
		mode  os.FileMode
	}{"none": {"", 0o700}, "a group": {group.Name, 0o770}} {
		t.Run(name, func(t *testing.T) {
			s := &Serve{Socket: filepath.Join(t.TempDir(), "s"), SocketGroup: test.group}
			from, err := s.openSocket(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer from.Close()
			info, err := os.Lstat(s.Socket)
			if err != nil || info.Mode().Perm() != test.mode || info.Sys().(*syscall.Stat_t).Gid != uint32(os.Getegid()) {
				t.Errorf("socket: %v, %v; want mode %v", info, err, test.mode)
			}
		})
	}
	s := &Serve{Socket: "s", SharedDir: t.TempDir(), SocketGroup: "no-such-group"}
	if err := s.checkSource(); err == nil || !strings.Contains(err.Error(), "`--socket-group`: group: unknown group no-such-group; create it") {
		t.Errorf("check with an unknown group = %v", err)
	}
}

// TestH240PidFile has the life of the pid file.
func TestH240PidFile(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	p, err := lockPidFile(socket)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(socket + ".pid")
	info, err2 := os.Lstat(socket + ".pid")
	if err := errors.Join(err, err2); err != nil || string(text) != fmt.Sprintln(os.Getpid()) || info.Mode() != 0o600 {
		t.Errorf("pid file: %q, %v, %v; want our number, for us alone", text, info, err)
	}
	if _, err := lockPidFile(socket); err == nil || !strings.Contains(err.Error(), "another instance is running") {
		t.Errorf("second lock = %v; want that another instance is running", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(socket + ".pid"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pid file after Close: %v; want none", err)
	}

	t.Run("left behind", func(t *testing.T) {
		if err := os.WriteFile(socket+".pid", []byte("12345678901\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := lockPidFile(socket)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if text, _ := os.ReadFile(socket + ".pid"); string(text) != fmt.Sprintln(os.Getpid()) {
			t.Errorf("pid file = %q; want our number alone", text)
		}
		// Another has taken the place: his file stays.
		if err := os.Remove(socket + ".pid"); err != nil {
			t.Fatal(err)
		}
		other, err := lockPidFile(socket)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if err := p.lock(); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("lock of a file without a name = %v; want %v", err, os.ErrNotExist)
		}
		p.Close()
		if _, err := os.Lstat(socket + ".pid"); err != nil {
			t.Errorf("the other's pid file: %v", err)
		}
	})
	t.Run("symbolic link", func(t *testing.T) {
		link := filepath.Join(dir, "link")
		if err := os.Symlink("victim", link+".pid"); err != nil {
			t.Fatal(err)
		}
		if _, err := lockPidFile(link); !errors.Is(err, unix.ELOOP) {
			t.Errorf("lock through a link = %v; want %v", err, unix.ELOOP)
		}
		if _, err := os.Lstat(filepath.Join(dir, "victim")); err == nil {
			t.Error("a file was made through a link")
		}
	})
}
