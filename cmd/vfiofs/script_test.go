package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// patience is how long a script waits for what should come at once.
const patience = 10 * time.Second

// raceOptions keep the race detector from waiting a second at the end of each process.
const raceOptions = "atexit_sleep_ms=0"

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"vfiofs": main, "virtiofsd": main})
}

// TestScripts runs testdata/script: the command line as its users see it. Beside
// the usual commands a script has
//
//	bound SOCKET     wait until a daemon listens there
//	client SOCKET    connect, ask for the feature bits, leave in good order
//	stay SOCKET      likewise, but stay until the script ends
//	garbage SOCKET   connect, send nonsense, wait to be thrown out
//	exits CODE ARGS  run a program, which must end with this exit code
//	listen SOCKET    listen there until the script ends
//	machine DIR      make a machine with PCI functions, for --root DIR
//	signal NAME      send SIGNAME to the programs in the background
//	stale SOCKET     leave a socket behind that nobody listens on
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", raceOptions)
			env.Setenv("NL", "\n")
			env.Setenv("LATIN1", "caf\xe9")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"bound": withPath(func(ts *testscript.TestScript, path string) {
				ts.Check(waitBound(path))
			}),
			"client": withPath(func(ts *testscript.TestScript, path string) {
				conn := dial(ts, path)
				ts.Check(askFeatures(conn))
				ts.Check(conn.Close())
			}),
			"stay": withPath(func(ts *testscript.TestScript, path string) {
				ts.Check(askFeatures(dial(ts, path)))
			}),
			"garbage": withPath(func(ts *testscript.TestScript, path string) {
				ts.Check(sendGarbage(dial(ts, path)))
			}),
			"exits": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
				}
				var exit *exec.ExitError
				if err := ts.Exec(args[1], args[2:]...); !errors.As(err, &exit) || fmt.Sprint(exit.ExitCode()) != args[0] {
					ts.Fatalf("%s: %v; want exit code %s", args[1], err, args[0])
				}
			},
			"listen": withPath(func(ts *testscript.TestScript, path string) {
				l, err := net.Listen("unix", path)
				ts.Check(err)
				ts.Defer(func() { l.Close() })
			}),
			"machine": withPath(func(ts *testscript.TestScript, dir string) {
				ts.Check(newMachine(dir).Create())
			}),
			"signal": func(ts *testscript.TestScript, neg bool, args []string) {
				number := unix.SignalNum("SIG" + strings.Join(args, " "))
				if neg || number == 0 {
					ts.Fatalf("usage: signal NAME, for example signal TERM")
				}
				for _, cmd := range ts.BackgroundCmds() {
					ts.Check(cmd.Process.Signal(number))
				}
			},
			"stale": withPath(func(ts *testscript.TestScript, path string) {
				l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
				ts.Check(err)
				l.SetUnlinkOnClose(false)
				ts.Check(l.Close())
			}),
		},
	})
}

// withPath makes a script command of do, which takes one path and cannot be
// negated.
func withPath(do func(*testscript.TestScript, string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 1 {
			ts.Fatalf("this command takes one path and no !")
		}
		do(ts, ts.MkAbs(args[0]))
	}
}

// dial connects to a daemon that may still be starting; the connection is closed
// when the script ends, if not before.
func dial(ts *testscript.TestScript, path string) *net.UnixConn {
	var conn net.Conn
	err := poll(func() (err error) {
		conn, err = net.Dial("unix", path)
		return err
	})
	ts.Check(err)
	ts.Check(conn.SetDeadline(time.Now().Add(patience)))
	ts.Defer(func() { conn.Close() })
	return conn.(*net.UnixConn)
}

// waitBound waits until path is a socket that the kernel knows as listening,
// without connecting to it.
func waitBound(path string) error {
	return poll(func() error {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
			return errors.New("not a socket")
		}
		// A socket is a file before it listens (proc(5), /proc/net/unix: __SO_ACCEPTCON). The
		// table has the path as the server knows it, so perhaps a relative one.
		table, err := os.ReadFile("/proc/net/unix")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(table)) {
			f := strings.Fields(line)
			if len(f) == 8 && f[3] == "00010000" && strings.HasSuffix(path, filepath.Clean(f[7])) {
				return nil
			}
		}
		return errors.New("nobody listens")
	})
}

// poll calls try until it succeeds or patience ends, and returns its last error.
func poll(try func() error) error {
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-deadline:
			return fmt.Errorf("not ready after %v: %w", patience, err)
		case <-tick.C:
		}
	}
}

// askFeatures sends GET_FEATURES and takes the reply (vhost-user, "Message
// structure").
func askFeatures(conn io.ReadWriter) error {
	request := []byte{
		1, 0, 0, 0, // request: GET_FEATURES
		1, 0, 0, 0, // flags: version 1
		0, 0, 0, 0, // size of the payload
	}
	if _, err := conn.Write(request); err != nil {
		return fmt.Errorf("send GET_FEATURES: %w", err)
	}
	var reply [20]byte
	if _, err := io.ReadFull(conn, reply[:]); err != nil {
		return fmt.Errorf("receive the reply to GET_FEATURES: %w", err)
	}
	header := []byte{1, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0}
	if !bytes.Equal(reply[:12], header) {
		return fmt.Errorf("reply to GET_FEATURES = % x; want header % x", reply, header)
	}
	const version1 = 1 << 32
	if features := binary.LittleEndian.Uint64(reply[12:]); features&version1 == 0 {
		return fmt.Errorf("features = %#x; want VIRTIO_F_VERSION_1 among them", features)
	}
	return nil
}

// sendGarbage sends what is no message and waits until the daemon hangs up.
func sendGarbage(conn *net.UnixConn) error {
	if _, err := conn.Write(bytes.Repeat([]byte{0xa5}, 64)); err != nil {
		return fmt.Errorf("send garbage: %w", err)
	}
	n, err := conn.Read(make([]byte, 64))
	if n == 0 && (errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET)) {
		return nil
	}
	return fmt.Errorf("after garbage: read %d bytes, %v; want a closed connection", n, err)
}

// TestStopTime measures how long SIGTERM takes with and without a client. The best
// of a few runs counts, because a busy machine adds what is not ours.
func TestStopTime(t *testing.T) {
	const limit = 100 * time.Millisecond
	for _, connected := range []bool{false, true} {
		t.Run(fmt.Sprintf("client %v", connected), func(t *testing.T) {
			best := patience
			for range 5 {
				best = min(best, stopTime(t, connected))
				if best < limit {
					return
				}
			}
			t.Errorf("SIGTERM to exit = %v; want less than %v", best, limit)
		})
	}
}

// stopTime starts a daemon, with a client if asked for, ends it, and returns how
// long that took.
func stopTime(t *testing.T, connected bool) time.Duration {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	daemon := exec.Command("vfiofs", "--socket", socket, "--tag", "t", "--shared-dir", t.TempDir())
	daemon.Env = append(daemon.Environ(), "GORACE="+raceOptions)
	var log bytes.Buffer
	daemon.Stderr = &log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			daemon.Process.Kill()
			daemon.Wait()
			t.Logf("log of the daemon:\n%s", &log)
		}
	}()
	conn := new(net.UnixConn)
	err := poll(func() error {
		c, err := net.Dial("unix", socket)
		if err == nil {
			conn = c.(*net.UnixConn)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := askFeatures(conn); err != nil {
		t.Fatal(err)
	}
	if !connected {
		conn.Close()
	}
	begin := time.Now()
	if err := daemon.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := daemon.Wait(); err != nil {
		t.Fatalf("exit after SIGTERM: %v; want code 0", err)
	}
	return time.Since(begin)
}
