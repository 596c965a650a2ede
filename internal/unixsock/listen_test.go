package unixsock

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
)

// echo sends back what one peer says.
func echo(l *Listener) error {
	conn, err := l.Accept(context.Background())
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.Copy(conn, conn)
	return err
}

// exchange talks to whoever listens at path.
func exchange(t *testing.T, path string) {
	t.Helper()
	conn, err := Dial(context.Background(), path)
	testkit.Check(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("hello"))
	testkit.Check(t, err)
	testkit.Check(t, conn.CloseWrite())
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Errorf("echo = %q, %v; want hello", got, err)
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := Listen(path, 0o660)
	testkit.Check(t, err)
	defer l.Close()
	info, err := os.Lstat(path)
	testkit.Check(t, err)
	if got, want := info.Mode(), fs.ModeSocket|0o660; got != want {
		t.Errorf("mode of the socket = %v; want %v", got, want)
	}

	// The live socket can't be taken, and doesn't notice the attempt.
	if _, err := Listen(path, 0o600); !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), path) {
		t.Errorf("Listen(live) = %v; want %v", err, unix.EADDRINUSE)
	}
	accepted := testkit.Async(func() error { return echo(l) })
	exchange(t, path)
	testkit.Check(t, testkit.Receive(t, accepted))

	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("shutdown")
	waiting := testkit.Async(func() error { _, err := l.Accept(ctx); return err })
	cancel(cause)
	if err := testkit.Receive(t, waiting); err != cause {
		t.Errorf("Accept() = %v; want %v", err, cause)
	}
	accepted = testkit.Async(func() error { return echo(l) })
	exchange(t, path)
	testkit.Check(t, testkit.Receive(t, accepted))

	testkit.Check(t, l.Close())
	testkit.Check(t, l.Close())
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("socket after Close: %v; want %v", err, fs.ErrNotExist)
	}
	if _, err := l.Accept(context.Background()); err == nil {
		t.Error("Accept() after Close succeeds")
	}
	if _, err := Dial(context.Background(), path); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Dial(nothing) = %v; want %v", err, unix.ENOENT)
	}
}

func TestListenStale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	testkit.Check(t, err)
	stale.SetUnlinkOnClose(false)
	testkit.Check(t, stale.Close())
	l, err := Listen(path, 0o600)
	testkit.Check(t, err)

	// Close leaves the socket of a successor alone.
	testkit.Check(t, os.Remove(path))
	next, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	testkit.Check(t, err)
	defer next.Close()
	testkit.Check(t, l.Close())
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("socket of the successor: %v", err)
	}
}

func TestListenErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	testkit.Check(t, os.WriteFile(file, []byte("precious"), 0o600))
	bound := filepath.Join(dir, "datagram")
	dgram, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: bound, Net: "unixgram"})
	testkit.Check(t, err)
	defer dgram.Close()
	for _, tt := range []struct {
		path, want string
	}{
		{file, "exists and is not a socket"},
		{dir, "exists and is not a socket"},
		{bound, "address already in use"},
		{filepath.Join(dir, "no", "socket"), "no such file or directory"},
		{filepath.Join(file, "socket"), "not a directory"},
		{filepath.Join(dir, strings.Repeat("long", 40)), "invalid argument"},
	} {
		l, err := Listen(tt.path, 0o600)
		if err == nil {
			l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.path) {
			t.Errorf("Listen(%s) = %v; want an error about %q", tt.path, err, tt.want)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("file in the way = %q, %v; want it untouched", b, err)
	}
}

func TestListenRelative(t *testing.T) {
	t.Chdir(t.TempDir())
	l, err := Listen("@socket", 0o600)
	testkit.Check(t, err)
	if _, err := os.Lstat("@socket"); err != nil {
		t.Errorf("Listen(@socket) makes no file: %v", err)
	}
	testkit.Check(t, l.Close())
}

func TestListenFD(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	bound, err := Listen(path, 0o600)
	testkit.Check(t, err)
	defer bound.Close()
	file, err := bound.File()
	testkit.Check(t, err)
	n, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	testkit.Check(t, err)
	testkit.Check(t, file.Close())
	l, err := ListenFD(fd.New(n, "inherited"))
	testkit.Check(t, err)
	accepted := testkit.Async(func() error { return echo(l) })
	exchange(t, path)
	testkit.Check(t, testkit.Receive(t, accepted))
	testkit.Check(t, l.Close())
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("socket of somebody else after Close: %v", err)
	}

	event, err := fd.NewEvent("event")
	testkit.Check(t, err)
	plain, err := unix.Open(path+".file", unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	testkit.Check(t, err)
	for _, f := range []*fd.FD{event, fd.New(plain, "plain file")} {
		if _, err := ListenFD(f); err == nil {
			t.Errorf("ListenFD(%s) succeeds", f)
		}
	}
}
