package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/jail"
	"vfiofs/passthrough"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/vvu"
)

// quiet discards what is logged.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestRun(t *testing.T) {
	for _, test := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string // what must be part of it
	}{
		{"help", []string{"--help"}, 0, "Usage: vfiofs [serve]", ""},
		{"version", []string{"--version"}, 0, "vfiofs " + version, ""},
		{"version command", []string{"version"}, 0, "built with go", ""},
		{"unknown flag", []string{"--nope"}, 1, "", "vfiofs: error: unknown flag --nope\nRun \"vfiofs --help\""},
		{"no socket", []string{"--shared-dir", "."}, 1, "", "`--socket-path` (or `--socket`), `--fd` or `--vfio` is required"},
		{"no directory", []string{"--socket", "s", "--shared-dir", "/nonexistent"}, 1, "", "/nonexistent: no such file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append([]string{"vfiofs"}, test.args...), &stdout, &stderr)
			if code != test.code {
				t.Errorf("run(%q) = %d; want %d", test.args, code, test.code)
			}
			if !strings.Contains(stdout.String(), test.stdout) || (test.stdout == "") != (stdout.Len() == 0) {
				t.Errorf("run(%q): stdout = %q; want %q in it", test.args, &stdout, test.stdout)
			}
			if !strings.Contains(stderr.String(), test.stderr) || (test.stderr == "") != (stderr.Len() == 0) {
				t.Errorf("run(%q): stderr = %q; want %q in it", test.args, &stderr, test.stderr)
			}
		})
	}
}

// TestServe runs the daemon in this process until its context ends, and looks at
// what the file system was asked for.
func TestServe(t *testing.T) {
	second := time.Second
	s := Serve{
		Confine: Confine{Sandbox: jail.None},
		Socket:  filepath.Join(t.TempDir(), "s"), SharedDir: t.TempDir(), Cache: passthrough.CacheAlways,
		Timeout: &second, Readdirplus: true, NumRequestQueues: 1, RlimitNofile: new(uint64), LogLevel: "debug", LogFormat: "json",
	}
	ctx, cancel := context.WithCancel(t.Context())
	var log bytes.Buffer
	ended := make(chan error)
	go func() { ended <- s.run(ctx, io.Discard, &log) }()
	if err := waitBound(s.Socket); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run = %v; want nil", err)
	}
	if _, err := os.Lstat(s.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after the end: %v; want it removed", err)
	}
	if !strings.Contains(log.String(), `"msg":"Waiting for vhost-user socket connection..."`) {
		t.Errorf("log = %s; want a line that the daemon waits", &log)
	}
	want := passthrough.Options{SharedDir: s.SharedDir, Cache: passthrough.CacheAlways, Timeout: &second}
	got, err := s.shareOptions(nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(passthrough.IDMap{})); diff != "" {
		t.Errorf("shareOptions (-want +got):\n%s", diff)
	}
}

func TestWait(t *testing.T) {
	failure := errors.New("device broke")
	for _, test := range []struct {
		name  string
		end   func(cancel func(), ended chan<- error)
		err   error
		after time.Duration
	}{
		{"ends by itself", func(_ func(), ended chan<- error) { ended <- failure }, failure, 0},
		{"told to end", func(cancel func(), ended chan<- error) { cancel(); ended <- nil }, nil, 0},
		{"busy for a while", func(cancel func(), ended chan<- error) {
			cancel()
			time.AfterFunc(drainTime/2, func() { ended <- nil })
		}, nil, drainTime / 2},
		{"a request hangs", func(cancel func(), _ chan<- error) { cancel() }, nil, drainTime},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error, 1)
				begin := time.Now()
				test.end(cancel, ended)
				err := wait(ctx, ended, quiet())
				if took := time.Since(begin); err != test.err || took != test.after {
					t.Errorf("wait = %v after %v; want %v after %v", err, took, test.err, test.after)
				}
			})
		})
	}
}

// failing is a source that has trouble; it cancels after the last.
type failing struct {
	errs   []error
	cancel func()
}

func (f *failing) Close() error { return nil }

func (f *failing) Accept(context.Context) (vhostuser.Link, error) {
	if len(f.errs) == 0 {
		f.cancel()
		return nil, context.Canceled
	}
	err := f.errs[0]
	f.errs = f.errs[1:]
	return nil, fmt.Errorf("accept: %w", err)
}

func TestAcceptErrors(t *testing.T) {
	for _, test := range []struct {
		name  string
		errs  []error
		err   error
		after time.Duration
	}{
		{"told to end", nil, nil, 0},
		{"no descriptors for a while", []error{unix.EMFILE, unix.ENFILE}, nil, 2 * acceptPause},
		{"socket broken", []error{unix.EBADF}, unix.EBADF, 0},
		{"function gone", []error{vvu.ErrGone}, vvu.ErrGone, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				begin := time.Now()
				err := new(Serve).serveClients(ctx, &failing{test.errs, cancel}, nil, new(notifier), quiet())
				if took := time.Since(begin); !errors.Is(err, test.err) || took != test.after {
					t.Errorf("serveClients = %v after %v; want %v after %v", err, took, test.err, test.after)
				}
			})
		})
	}
}

func TestFileLimit(t *testing.T) {
	number := func(n uint64) *uint64 { return &n }
	limits := func(soft, hard uint64) unix.Rlimit { return unix.Rlimit{Cur: soft, Max: hard} }
	for _, test := range []struct {
		name      string
		want      *uint64
		now, next unix.Rlimit
		highest   uint64
		refused   bool
	}{
		{"default", nil, limits(1024, 4096), limits(1_000_000, 1_000_000), 1 << 20, false},
		{"default where the system allows less", nil, limits(1024, 4096), limits(65536, 65536), 65536, false},
		{"default keeps a higher hard limit", nil, limits(1024, 1<<20), limits(1_000_000, 1<<20), 1 << 20, false},
		{"default has enough", nil, limits(1<<20, 1<<20), limits(1<<20, 1<<20), 1 << 20, false},
		{"H239 0 leaves it", number(0), limits(1024, 4096), limits(1024, 4096), 1 << 20, false},
		{"H239 1000 is enough", number(1000), limits(1024, 4096), limits(1024, 4096), 1 << 20, false},
		{"H239 1000 raised", number(1000), limits(256, 4096), limits(1000, 4096), 1 << 20, false},
		{"H239 more than nr_open", number(1<<20 + 1), limits(256, 4096), limits(256, 4096), 1 << 20, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			next, err := fileLimit(test.want, test.now, test.highest)
			if next != test.next || (err != nil) != test.refused {
				t.Errorf("fileLimit = %+v, %v; want %+v, refused %v", next, err, test.next, test.refused)
			}
		})
	}
}

func TestReadNrOpen(t *testing.T) {
	if n, err := readNrOpen("/proc/sys/fs/nr_open"); err != nil || n == 0 {
		t.Errorf("readNrOpen = %d, %v; want this system's limit", n, err)
	}
	if _, err := readNrOpen(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("readNrOpen of a missing file = %v; want %v", err, os.ErrNotExist)
	}
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("many\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readNrOpen(bad); err == nil || !strings.Contains(err.Error(), bad) {
		t.Errorf("readNrOpen of nonsense = %v; want an error that names the file", err)
	}
}

func TestLog(t *testing.T) {
	for _, test := range []struct{ level, format, want string }{
		{"trace", "text", "level=TRACE msg=request opcode=READ\nlevel=INFO msg=event\n"},
		{"debug", "text", "level=INFO msg=event\n"},
		{"info", "json", `{"level":"INFO","msg":"event"}` + "\n"},
		{"error", "text", ""},
		{"off", "text", ""},
	} {
		t.Run(test.level+" "+test.format, func(t *testing.T) {
			var out bytes.Buffer
			log := newLog(&out, test.level, test.format)
			log.Log(t.Context(), fuse.LevelTrace, "request", "opcode", "READ")
			log.Info("event")
			if got := withoutTime(out.String()); got != test.want {
				t.Errorf("log = %q; want %q", got, test.want)
			}
		})
	}
}

// TestSyslog has --syslog with and without a log.
func TestSyslog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	s := &Serve{Syslog: true, LogLevel: "warn", name: "virtiofsd"}
	if _, err := s.openLog(io.Discard, path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "`--syslog`: connect to the system's log") {
		t.Errorf("openLog without a log = %v", err)
	}
	service, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	var stderr bytes.Buffer
	log, err := s.openLog(&stderr, path)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("not wanted")
	s.sayWaiting(log)
	b := make([]byte, 1000)
	if err := service.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	n, err := service.Read(b)
	if got := string(b[:n]); err != nil || !strings.HasPrefix(got, "<30>") || !strings.Contains(got, " virtiofsd[") || !strings.Contains(got, `msg="Waiting for vhost-user socket connection..."`) || stderr.Len() != 0 {
		t.Errorf("the log has %q, %v; want one line there and nothing on stderr: %q", got, err, &stderr)
	}
}

// TestH244LocalTime has a time zone whose file a jail hides.
func TestH244LocalTime(t *testing.T) {
	dir := t.TempDir()
	zone := filepath.Join(dir, "zone")
	text := "TZif" + strings.Repeat("\x00", 16+4*4) + "\x00\x00\x00\x01\x00\x00\x00\x04" + // tzfile(5): one type, four characters
		"\x00\x00\x4d\x58\x00\x00" + "IST\x00" // 19800 s, no daylight saving time
	if err := os.WriteFile(zone, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	share := filepath.Join(dir, "share")
	if err := os.Mkdir(share, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"none", "chroot", "namespace"} {
		if mode == "chroot" && os.Geteuid() != 0 || mode != "none" && !jail.Supported {
			continue // refused, which the jail's own tests assert
		}
		t.Run("H244 "+mode, func(t *testing.T) {
			socket := filepath.Join(dir, mode)
			cmd := exec.Command("vfiofs", "--socket-path", socket, "--shared-dir", share, "--sandbox", mode)
			cmd.Env = append(cmd.Environ(), "TZ="+zone, "GORACE="+raceOptions)
			var log bytes.Buffer
			cmd.Stderr = &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var conn net.Conn
			err := poll(func() (err error) { conn, err = net.Dial("unix", socket); return err })
			if err == nil {
				err = askFeatures(conn)
				conn.Close()
			} else {
				cmd.Process.Kill()
			}
			if err := errors.Join(err, cmd.Wait()); err != nil {
				t.Fatalf("%v; log:\n%s", err, &log)
			}
			lines := 0
			for line := range strings.Lines(log.String()) {
				if !strings.HasPrefix(line, "time=") {
					continue // a jailed server can't write down what of it was covered, and says so
				}
				lines++
				if !strings.Contains(line, "+05:30 level=") {
					t.Errorf("log line %q; want the zone's time", line)
				}
			}
			if lines == 0 {
				t.Errorf("log %q; want lines", &log)
			}
		})
	}
}

// TestWarn has what works, but not as one might think.
func TestWarn(t *testing.T) {
	for _, test := range []struct {
		s    Serve
		want string
	}{
		{Serve{Socket: "s", Writeback: true}, ""},
		{Serve{notes: []string{"old"}}, "level=WARN msg=old\n"},
		{Serve{Writeback: true, Cache: passthrough.CacheNever}, "--writeback has no effect"},
		{Serve{Writeback: true, Cache: passthrough.CacheMetadata}, "--writeback has no effect"},
		{Serve{Socket: "s", name: "virtiofsd"}, "--socket is deprecated"},
	} {
		var out bytes.Buffer
		test.s.warn(newLog(&out, "info", "text"))
		if got := out.String(); !strings.Contains(got, test.want) || (test.want == "") != (got == "") {
			t.Errorf("warnings of %+v: %q; want %q", test.s, got, test.want)
		}
	}
}

// withoutTime removes the time, the first attribute, from each line of a log.
func withoutTime(log string) string {
	text := ""
	for line := range strings.Lines(log) {
		if rest, ok := strings.CutPrefix(line, `{"time":`); ok {
			_, rest, _ = strings.Cut(rest, ",")
			text += "{" + rest
			continue
		}
		_, rest, _ := strings.Cut(line, " ")
		text += rest
	}
	return text
}

func TestBuildFacts(t *testing.T) {
	info := &debug.BuildInfo{Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "abc123"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"},
	}}
	const want = "commit abc123 with changes, 2026-01-02T03:04:05Z\nbuilt with go"
	if got := buildFacts(info, true); !strings.HasPrefix(got, want) {
		t.Errorf("buildFacts = %q; want prefix %q", got, want)
	}
	if got := buildFacts(nil, false); !strings.HasPrefix(got, "built with go") {
		t.Errorf("buildFacts without information = %q; want only the tool chain", got)
	}
}

func TestVersionWriteError(t *testing.T) {
	r, w := io.Pipe()
	r.Close()
	if err := (Version{}).write(w); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write to a closed pipe = %v; want %v", err, io.ErrClosedPipe)
	}
}
