package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vfiofs/fuse"
	"vfiofs/internal/testkit"
	"vfiofs/internal/unixsock"
	"vfiofs/passthrough"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtiofs"
)

// serveEnv makes the test program a backend: the socket and the directory follow as
// arguments.
const serveEnv = "VFIOFS_BENCH_TEST_BACKEND"

// shared is the directory that all tests share; TestMain makes it, nobody changes it.
var shared string

func TestMain(m *testing.M) {
	if mode := os.Getenv(serveEnv); mode != "" && len(os.Args) == 3 {
		if err := serveBackend(mode, os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	dir, err := os.MkdirTemp("", "vfiofs-bench-test-")
	if err == nil {
		shared = dir
		err = stage(dir, parts[:]...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := testkit.Main(m)
	os.RemoveAll(dir)
	os.Exit(code)
}

// A wrongFS cannot say how large it is.
type wrongFS struct{ *passthrough.FS }

func (w wrongFS) StatFS(*fuse.Context, fuse.NodeID, *fuse.StatFS) error { return syscall.EIO }

// serveBackend serves one client. Modes: right; wrong, where STATFS fails; dead, which
// ends at once; heavy, which listens late and keeps a processor busy.
func serveBackend(mode, socket, dir string) error {
	switch mode {
	case "dead":
		return errors.New("this backend does not like you")
	case "heavy":
		spin(heavyStart)
		go spin(time.Hour)
	}
	fs, err := passthrough.New(passthrough.Options{SharedDir: dir, XAttr: true})
	if err != nil {
		return err
	}
	defer fs.Close()
	var served fuse.FileSystem = fs
	if mode == "wrong" {
		served = wrongFS{fs}
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	device, err := virtiofs.New(fuse.NewServer(served, fuse.Options{Log: log}), virtiofs.Options{RequestQueues: 2, Workers: 2, Log: log})
	if err != nil {
		return err
	}
	defer device.Close()
	listener, err := unixsock.Listen(socket, 0o700)
	if err != nil {
		return err
	}
	defer listener.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	conn, err := listener.Accept(ctx)
	if err != nil {
		return nil // told to end
	}
	err = vhostuser.NewBackend(device, vhostuser.Options{Log: log}).Serve(ctx, vhostuser.NewSocket(conn))
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// backend returns this program as a backend.
func backend(t *testing.T, name, mode string) Backend {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Backend{Name: name, Commands: [][]string{{"/usr/bin/env", serveEnv + "=" + mode, self, "{socket}", "{dir}"}}}
}

// options returns Options for a short run.
func options(t *testing.T, backends ...Backend) Options {
	t.Helper()
	return Options{Backends: backends, Rounds: 1, Time: 20 * time.Millisecond, Dir: shared, staged: true}
}

// TestRun measures every workload at two backends.
func TestRun(t *testing.T) {
	o := options(t, backend(t, "a/1", "right"), backend(t, "a/2", "right"), backend(t, "b", "right"))
	o.Inodes = 100
	for _, w := range workloads() {
		o.Cases = append(o.Cases, Case{w.name, 3, 2, Poll}, Case{w.name, 1, 1, Event})
	}
	for _, name := range []string{"rand-read-4k", "seq-write-128k", "seq-read-1m"} {
		o.Cases = append(o.Cases, Case{name, 2, 1, Poll}, Case{name, 1, 2, Event})
	}
	var table bytes.Buffer
	out := NewTable(&table)
	o.Result = func(r Result) { out.Add(r) }
	told := 0
	o.Progress = func(p Progress) {
		if p.Task == "" {
			told++
		}
	}
	report, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Legend(report); err != nil {
		t.Fatal(err)
	}
	if want := len(o.Cases) * (1 + len(o.Backends)*o.Rounds); told != want {
		t.Errorf("progress was told %d times; want %d", told, want)
	}
	for _, r := range report.Results {
		best := 0
		for _, m := range r.Backends {
			if m.Errors > 0 {
				t.Errorf("%v, %s: %d errors: %s", r.Case, m.Name, m.Errors, m.Errno)
			}
			if m.Rate <= 0 || m.P50 <= 0 || m.P999 < m.P50 || m.CPU <= 0 {
				t.Errorf("%v, %s: %+v", r.Case, m.Name, m)
			}
			if m.Best {
				best++
			}
		}
		if best != 2 {
			t.Errorf("%v: %d backends are the best of their variants; want 2", r.Case, best)
		}
	}
	for _, want := range []string{"null ", "3x2", "Client that sleeps", "times the rate of b"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("table lacks %q:\n%s", want, &table)
		}
	}
	checkPage(t, report)
}

// checkPage writes a report as a page, by way of JSON.
func checkPage(t *testing.T, report *Report) {
	t.Helper()
	dir := t.TempDir()
	text, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "r.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := ReadReport(filepath.Join(dir, "r.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := WritePage(filepath.Join(dir, "p.md"), []*Report{r}); err != nil {
		t.Fatal(err)
	}
	md, err := os.ReadFile(filepath.Join(dir, "p.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## a against b, on ", "](p-1-a.svg)", "| rand-read-4k | 2 | a/", "a/1: env ", ", 100 inodes live", "the client left ", "4K random read, depth 32 | ≥ 1.8x | not measured | not measured | not judged |"} {
		if !strings.Contains(string(md), want) {
			t.Errorf("page lacks %q:\n%s", want, md)
		}
	}
	checkSVG(t, filepath.Join(dir, "p-1-a.svg"))
}

// TestVerify passes a right backend, and says what is wrong with another.
func TestVerify(t *testing.T) {
	var out bytes.Buffer
	if err := Verify(t.Context(), options(t, backend(t, "good", "right")), &out); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "good: ok, ") {
		t.Errorf("verify prints %q", &out)
	}
}

// TestWrongData finds a byte that differs.
func TestWrongData(t *testing.T) {
	v := new(verifier)
	b := make([]byte, 64)
	pattern(b, 1000)
	if err := v.compare(b[3:], 1003, 0, "x"); err != nil {
		t.Error(err)
	}
	b[20] ^= 1
	if err := v.compare(b[3:], 1003, 0, "x"); err == nil || !strings.Contains(err.Error(), "at 1020;") {
		t.Errorf("compare says %v; want an error at 1020", err)
	}
}

// inMemory returns a directory on tmpfs if there is one: ext4 is slow to make many files
// soon after it has removed many.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "vfiofs-bench-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestDirectory makes the shared directory, and removes it or empties it.
func TestDirectory(t *testing.T) {
	for _, exists := range []bool{false, true} {
		o := options(t, backend(t, "a", "right"))
		o.Dir, o.staged = filepath.Join(inMemory(t), "share"), false
		if exists {
			if err := os.Mkdir(o.Dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		o.Cases = []Case{{"walk", 1, 1, Poll}}
		if _, err := Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(o.Dir)
		if len(entries) > 0 || (err == nil) != exists {
			t.Errorf("after the run, the directory that existed %v holds %d entries: %v", exists, len(entries), err)
		}
	}
}

// TestErrors counts errnos that aren't the right answer, and goes on.
func TestErrors(t *testing.T) {
	o := options(t, backend(t, "a", "wrong"))
	o.Cases = []Case{{"statfs", 1, 1, Poll}}
	report, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if m := report.Results[0].Backends[0]; m.Errors == 0 || m.Rate != 0 || m.Errno != syscall.EIO.Error() {
		t.Errorf("STATFS that fails gives %+v; want errors only", m)
	}
}

// TestFailures end a benchmark, with a reason.
func TestFailures(t *testing.T) {
	good := backend(t, "good", "right")
	notEmpty := t.TempDir()
	if err := os.WriteFile(filepath.Join(notEmpty, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	one := []Case{{"null", 1, 1, Poll}}
	for _, c := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"no backend", func(o *Options) { o.Backends = nil }, "no backend to measure"},
		{"same name", func(o *Options) { o.Backends = []Backend{good, good} }, "a name of its own"},
		{"no command", func(o *Options) { o.Backends = []Backend{{Name: "x"}} }, "neither a command nor a socket"},
		{"unknown workload", func(o *Options) { o.Cases = []Case{{"nul", 1, 1, Poll}} }, "no workload \"nul\": there are null, "},
		{"too deep", func(o *Options) { o.Cases = []Case{{"null", 1000, 1, Poll}} }, "at most 256 requests in flight"},
		{"unknown files", func(o *Options) { o.Cases = []Case{{"getattr-live", 1, 1, Poll}} }, "with --inodes"},
		{"too many files", func(o *Options) { o.Inodes = maxInodes + 1 }, "want 0 to "},
		{"no server", func(o *Options) { o.Backends = []Backend{good, {Name: "bare", Bare: true}} }, "it can't do null, but for example"},
		{"no rounds", func(o *Options) { o.Rounds = 0 }, "measure nothing"},
		{"dead backend", func(o *Options) { o.Backends = []Backend{backend(t, "x", "dead")} }, "this backend does not like you"},
		{"no program", func(o *Options) { o.Backends = []Backend{{Name: "x", Commands: [][]string{{"/nonexistent"}}}} }, "start /nonexistent"},
		{"directory in use", func(o *Options) { o.Dir, o.staged = notEmpty, false }, "is not empty"},
		{"too few queues", func(o *Options) { o.Cases = []Case{{"null", 1, 3, Poll}} }, "2 request queues; the case needs 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(t, good)
			o.Cases = one
			c.change(&o)
			if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Run = %v; want an error with %q", err, c.want)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		o := options(t, good)
		o.Cases = one
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("enough")
		o.Progress = func(Progress) { cancel(cause) }
		if _, err := Run(ctx, o); !errors.Is(err, cause) {
			t.Errorf("Run = %v; want %v", err, cause)
		}
	})
}

// TestBackendDies ends a benchmark with what the backend had to say.
func TestBackendDies(t *testing.T) {
	for _, client := range []Client{Poll, Event} {
		o := options(t, backend(t, "a", "right"))
		o.Cases = []Case{{"getattr", 4, 1, client}}
		err := withField(t.Context(), o, func(f *field) error {
			r := f.backends[0]
			p, err := prepareGetAttr(r.session)
			if err != nil {
				return err
			}
			e, err := newEngine(r.session, o.Cases[0], p)
			if err != nil {
				return err
			}
			defer e.close()
			if _, err := e.run(time.Millisecond); err != nil {
				return err
			}
			r.cmds[0].Process.Kill()
			<-r.cmds[0].ended
			_, err = e.run(time.Millisecond)
			if err == nil || !strings.Contains(r.explain(err).Error(), "killed") {
				t.Errorf("%s client: after the backend was killed: %v", client, err)
			}
			return nil
		})
		if err != nil && !strings.Contains(err.Error(), "DESTROY") {
			t.Errorf("%s client: %v", client, err)
		}
	}
}

// TestAllocations: the loop that is timed allocates nothing.
func TestAllocations(t *testing.T) {
	o := options(t, backend(t, "a", "right"))
	o.Inodes = 100
	for _, w := range workloads() {
		o.Cases = append(o.Cases, Case{w.name, 4, 1, Poll})
	}
	o.Cases = append(o.Cases, Case{"rand-read-4k", 4, 1, Event}, Case{"seq-write-1m", 4, 1, Poll})
	err := withField(t.Context(), o, func(f *field) error {
		for _, c := range o.Cases {
			w, err := find(c.Workload)
			if err != nil {
				return err
			}
			p, err := w.prepare(f.backends[0].session)
			if err != nil {
				return err
			}
			e, err := newEngine(f.backends[0].session, c, p)
			if err != nil {
				return err
			}
			defer e.close()
			if n := testing.AllocsPerRun(2, func() {
				if _, err := e.run(5 * time.Millisecond); err != nil {
					t.Error(err)
				}
			}); n > 5 && !testkit.Race { // a few are the Go runtime's; a run has hundreds of requests at least
				t.Errorf("%v: %v allocations in 5 ms", c, n)
			}
			if p.finish != nil {
				if err := p.finish(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestUsage sees the time that this process spends.
func TestUsage(t *testing.T) {
	before, err := usageOf([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	spin(50 * time.Millisecond)
	after, err := usageOf([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	if u := after.minus(before); u.cpu <= 0 || u.cpu > 10*time.Second {
		t.Errorf("spinning for 50 ms used %v", u.cpu)
	}
	if _, err := usageOf([]int{1 << 30}); err == nil {
		t.Error("the usage of a process that is not there is no error")
	}
	if !slices.Contains(family([]int{os.Getppid()}), os.Getpid()) {
		t.Error("this process is not in its parent's family")
	}
}
