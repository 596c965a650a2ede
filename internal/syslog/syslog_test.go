package syslog

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// TestHandler has a log that takes datagrams.
func TestHandler(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	service := listen(t, path)
	h, err := New(path, "vfiofs", slog.HandlerOptions{Level: slog.LevelDebug})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	log := slog.New(h).With("ring", 1).WithGroup("file")
	for _, test := range []struct {
		level    slog.Level
		priority int
	}{{slog.LevelError, 27}, {slog.LevelWarn, 28}, {slog.LevelInfo, 30}, {slog.LevelDebug, 31}} {
		log.Log(t.Context(), test.level, "queue stopped", "level", "x")
		want := fmt.Sprintf(`^<%d>\w{3} [ 0-9]\d \d\d:\d\d:\d\d vfiofs\[%d\]: msg="queue stopped" ring=1 file\.level=x$`, test.priority, os.Getpid())
		if got := receive(t, service); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("level %v: received %q; want %s", test.level, got, want)
		}
	}
	if log.Enabled(t.Context(), slog.LevelDebug-1) {
		t.Error("a level below the least one is enabled")
	}
}

// TestReplace keeps what the caller does to attributes.
func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	service := listen(t, path)
	h, err := New(path, "v", slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		a.Key = "x" + a.Key
		return a
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	slog.New(h).Info("m", "k", 1)
	if got := receive(t, service); !regexp.MustCompile(`: xmsg=m xk=1$`).MatchString(got) {
		t.Errorf("received %q; want renamed attributes", got)
	}
}

// TestRestart has a log that goes away and comes back.
func TestRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	service := listen(t, path)
	h, err := New(path, "v", slog.HandlerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	service.Close()
	os.Remove(path)
	record := slog.NewRecord(time.Now(), slog.LevelInfo, "lost", 0)
	if err := h.Handle(t.Context(), record); err == nil {
		t.Error("Handle without a log = nil; want an error")
	}
	service = listen(t, path)
	record.Message = "found"
	if err := h.Handle(t.Context(), record); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, service); !regexp.MustCompile(`msg=found$`).MatchString(got) {
		t.Errorf("received %q; want the second record", got)
	}
}

// TestStream has a log that takes a stream.
func TestStream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h, err := New(path, "v", slog.HandlerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	slog.New(h).Info("one")
	slog.New(h).Info("two")
	h.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	for _, want := range []string{"one", "two"} {
		if got, err := r.ReadString(0); err != nil || !regexp.MustCompile(`^<30>.*msg=`+want+"\x00$").MatchString(got) {
			t.Errorf("received %q, %v; want %s", got, err, want)
		}
	}
}

func TestNoLog(t *testing.T) {
	_, err := New(filepath.Join(t.TempDir(), "log"), "v", slog.HandlerOptions{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("New without a log = %v; want %v", err, fs.ErrNotExist)
	}
}

// listen is a log that takes datagrams.
func listen(t *testing.T, path string) net.PacketConn {
	t.Helper()
	conn, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// receive returns one datagram.
func receive(t *testing.T, conn net.PacketConn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var b [1024]byte
	n, _, err := conn.ReadFrom(b[:])
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}
