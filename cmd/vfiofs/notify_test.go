package main

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"vfiofs/virtio/vhostuser"
)

// A manager is a service manager's end of sd_notify(3).
type manager struct {
	t    *testing.T
	conn *net.UnixConn
	path string
}

// newManager listens for notifications.
func newManager(t *testing.T) *manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var option error
	if err := raw.Control(func(fd uintptr) { option = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) }); err != nil || option != nil {
		t.Fatal(err, option)
	}
	if err := conn.SetReadDeadline(time.Now().Add(3 * patience)); err != nil {
		t.Fatal(err)
	}
	return &manager{t, conn, path}
}

// start starts a program under the manager.
func (m *manager) start(argv ...string) *exec.Cmd {
	m.t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.path, "WATCHDOG_USEC=90000", "GORACE="+raceOptions)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

// expect reads messages of cmd, and of nobody else, until one is text.
func (m *manager) expect(cmd *exec.Cmd, text string) {
	m.t.Helper()
	var seen []string
	for {
		data, control := make([]byte, 4096), make([]byte, 256)
		n, cn, _, _, err := m.conn.ReadMsgUnix(data, control)
		if err != nil {
			m.t.Fatalf("the manager waits for %q after %q: %v", text, seen, err)
		}
		seen = append(seen, string(data[:n]))
		messages, err := unix.ParseSocketControlMessage(control[:cn])
		if err != nil || len(messages) != 1 {
			m.t.Fatalf("control messages: %v, %v; want the sender's credentials", messages, err)
		}
		sender, err := unix.ParseUnixCredentials(&messages[0])
		if err != nil || sender.Pid != int32(cmd.Process.Pid) {
			m.t.Fatalf("%q comes from %+v, %v; want it from %d, the process that was started", data[:n], sender, err, cmd.Process.Pid)
		}
		if string(data[:n]) == text {
			return
		}
	}
}

// modes returns the values of --sandbox that can be had here.
func modes() []string {
	if os.Geteuid() != 0 {
		return []string{"namespace", "none"}
	}
	return []string{"namespace", "chroot", "none"}
}

func TestNotify(t *testing.T) {
	vfiofs := program(t)
	for _, mode := range modes() {
		t.Run(mode, func(t *testing.T) {
			m, socket := newManager(t), filepath.Join(t.TempDir(), "s")
			cmd := m.start(vfiofs, "--socket", socket, "--shared-dir", t.TempDir(), "--sandbox", mode, "--log-level", "error")
			m.expect(cmd, "READY=1\nSTATUS=Waiting for a client")
			conn, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatalf("ready, but: %v", err)
			}
			defer conn.Close()
			if err := askFeatures(conn); err != nil {
				t.Fatal(err)
			}
			m.expect(cmd, "STATUS=Serving a client")
			m.expect(cmd, "WATCHDOG=1")
			conn.Close()
			m.expect(cmd, "STATUS=Waiting for a client")
			m.expect(cmd, "WATCHDOG=1")
			stop(t, cmd)
			m.expect(cmd, "STOPPING=1\nSTATUS=Ending")
		})
	}
}

func TestNotifyProxy(t *testing.T) {
	vfiofs := program(t)
	for _, mode := range []string{"namespace", "none"} {
		t.Run(mode, func(t *testing.T) {
			m, dir := newManager(t), t.TempDir()
			cmd := m.start(vfiofs, "proxy", "--socket", filepath.Join(dir, "s"), "--device-socket", filepath.Join(dir, "d"),
				"--mem-size", "64M", "--sandbox", mode, "--log-level", "error")
			m.expect(cmd, "READY=1\nSTATUS=Waiting for a client")
			m.expect(cmd, "WATCHDOG=1")
			stop(t, cmd)
			m.expect(cmd, "STOPPING=1\nSTATUS=Ending")
		})
	}
}

// TestNotifyFailedStart sees that a server that can't serve was never ready.
func TestNotifyFailedStart(t *testing.T) {
	m := newManager(t)
	cmd := m.start(program(t), "--socket", filepath.Join(t.TempDir(), "s"), "--shared-dir", "/nonexistent")
	if err := cmd.Wait(); err == nil {
		t.Error("a share that does not exist was served")
	}
	if err := m.conn.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if n, err := m.conn.Read(make([]byte, 100)); err == nil {
		t.Errorf("the manager got %d bytes; want nothing", n)
	}
}

// TestNotifyNobody serves although there is no manager behind NOTIFY_SOCKET.
func TestNotifyNobody(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	cmd := exec.Command(program(t), "--socket", socket, "--shared-dir", t.TempDir(), "--once")
	var log strings.Builder
	cmd.Env, cmd.Stderr = append(os.Environ(), "NOTIFY_SOCKET=/nonexistent/notify", "WATCHDOG_USEC=often"), &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := waitBound(socket); err != nil {
		t.Error(err)
	}
	stop(t, cmd)
}

// TestRelay sees that a server can't choose the words.
func TestRelay(t *testing.T) {
	ours, theirs := net.Pipe()
	var heard []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 100)
		for {
			n, err := theirs.Read(buf)
			if err != nil {
				return
			}
			heard = append(heard, string(buf[:n]))
		}
	}()
	(&notifier{manager: ours}).relay(strings.NewReader("MAINPID=1\n\x00\xffsa"))
	ours.Close()
	<-done
	if diff := cmp.Diff([]string{"STATUS=Serving a client", "WATCHDOG=1"}, heard); diff != "" {
		t.Errorf("told to the manager (-want +got):\n%s", diff)
	}
}

// A stuckLink hands out one message at once, and then waits.
type stuckLink struct {
	vhostuser.Link
	more bool
}

func (l *stuckLink) Recv(ctx context.Context) (*vhostuser.Message, error) {
	if !l.more {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	l.more = false
	return new(vhostuser.Message), nil
}

func (*stuckLink) Close() error { return nil }

// TestWatchdog counts the signs of life of a server that waits, that works on a message
// for too long, and that comes back.
func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		nf := &notifier{manager: ours, watchdog: 3 * time.Second}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var pings atomic.Int32
		go func() {
			buf := make([]byte, 100)
			for {
				if _, err := theirs.Read(buf); err != nil {
					return
				}
				pings.Add(1)
			}
		}()
		go nf.watch(ctx)
		link := nf.observe(&stuckLink{more: true})
		count := func(what string, want int) {
			t.Helper()
			pings.Store(0)
			<-time.After(10*time.Second + time.Millisecond)
			synctest.Wait()
			if got := int(pings.Load()); got != want {
				t.Errorf("%s: %d signs of life in 10 s; want %d", what, got, want)
			}
		}
		count("waiting for a client", 11)
		if _, err := link.Recv(ctx); err != nil {
			t.Fatal(err)
		}
		count("busy with one message", 3)
		go link.Recv(ctx)
		count("waiting for a message", 10)
		if err := link.Close(); err != nil {
			t.Fatal(err)
		}
		count("without a client", 10)
		cancel()
		synctest.Wait()
		ours.Close()
		if _, err := io.WriteString(ours, "x"); err == nil {
			t.Error("the pipe is open")
		}
	})
}
