package launchers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse/fusetest"
	"vfiofs/internal/fsclient"
	"vfiofs/internal/unixsock"
)

const (
	// patience is how long anything may take that a launcher waits for. It is as long as
	// it is because the machine may be busy.
	patience = 20 * time.Second
	// quick is how long a process may take to end: launchers kill after a few seconds.
	quick = 5 * time.Second
)

// A fixture is what one launcher does and expects. {dir}, {run} and {group} in arguments
// stand for the directory to share, one for sockets, and a group that exists.
type fixture struct {
	Launcher  string   `json:"launcher"`
	Source    string   `json:"source"`    // where this was read
	Says      string   `json:"says"`      // what the launcher relies on
	Called    string   `json:"called"`    // the name of the program
	Needs     []string `json:"needs"`     // "root", "syslog"
	Cwd       string   `json:"cwd"`       // the directory that it is started in
	Env       []string `json:"env"`       // beside our own
	Argv      []string `json:"argv"`      // without the program
	Sandbox   string   `json:"sandbox"`   // what the launcher asks for, if only by default
	Tag       string   `json:"tag"`       // what the device says
	FD        int      `json:"fd"`        // the number of the socket that is passed, or 0
	Connected bool     `json:"connected"` // the socket is connected, and does not listen
	Socket    string   `json:"socket"`    // the name of the socket that it makes, below {run}
	Mode      string   `json:"socket_mode"`
	Probes    []probe  `json:"probes"` // what is asked before
	Stderr    []string `json:"stderr"` // what it writes, the first before there is a client
	Syslog    []string `json:"syslog"`
	Ends      []string `json:"ends"` // "client" leaves, or a signal
}

// A probe is a call that ends by itself.
type probe struct {
	Argv   []string `json:"argv"`
	Code   int      `json:"code"`
	Stdout string   `json:"stdout"` // what must be part of it
	Stderr string   `json:"stderr"`
}

// A stage is where one fixture is played.
type stage struct {
	*fixture
	program  string
	dir, run string
	env      []string
	syslog   *transcript
}

// TestLaunchers plays all fixtures.
func TestLaunchers(t *testing.T) {
	program := build(t)
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("fixtures: %q, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			s := &stage{fixture: load(t, file)}
			s.set(t, program)
			for _, p := range s.Probes {
				s.probe(t, p)
			}
			for _, end := range s.Ends {
				t.Run(end, func(t *testing.T) { s.play(t, end) })
			}
		})
	}
}

// build returns the program to test.
func build(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("VFIOFS_BINARY"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "vfiofs")
	cmd := exec.Command("go", "build", "-o", path, "vfiofs/cmd/vfiofs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // the jail needs it
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return path
}

// load reads a fixture.
func load(t *testing.T, name string) *fixture {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	f := new(fixture)
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(f); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if f.Launcher == "" || f.Source == "" || f.Called == "" || len(f.Ends) == 0 || f.Sandbox == "" || (f.FD == 0) == (f.Socket == "") {
		t.Fatalf("%s is not complete", name)
	}
	return f
}

// set sets the stage: directories, the program under its name, and what the fixture needs.
func (s *stage) set(t *testing.T, program string) {
	t.Helper()
	missing := func(what string) {
		t.Helper()
		if os.Getenv("CI") == "true" {
			t.Fatalf("needs %s", what)
		}
		t.Skipf("needs %s", what)
	}
	if slices.Contains(s.Needs, "root") && os.Geteuid() != 0 {
		missing("root")
	}
	if slices.Contains(s.Needs, "syslog") {
		s.syslog = listenSyslog(t, missing)
	}
	s.run, s.dir = t.TempDir(), t.TempDir()
	if err := errors.Join(os.Chmod(s.dir, 0o777), os.Chmod(filepath.Dir(s.dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	s.program = filepath.Join(s.run, s.Called)
	if err := os.Symlink(program, s.program); err != nil {
		t.Fatal(err)
	}
	s.env = append(os.Environ(), s.Env...)
	if s.Sandbox != "none" && !canHave(s.Sandbox) {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s asks for --sandbox %s, which can't be had here", s.Launcher, s.Sandbox)
		}
		t.Logf("%s asks for --sandbox %s, which can't be had here: played with none", s.Launcher, s.Sandbox)
		s.Argv = append(s.Argv, "--sandbox=none") // the last one counts
	}
}

// canHave reports whether this machine has what a sandbox takes.
func canHave(sandbox string) bool {
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.SysProcAttr = new(unix.SysProcAttr)
	switch {
	case sandbox == "chroot":
		return os.Geteuid() == 0
	case os.Geteuid() != 0:
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER
	}
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	return cmd.Run() == nil
}

// words fills an argument in.
func (s *stage) words(arg string) string {
	group := strconv.Itoa(os.Getegid())
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	return strings.NewReplacer("{dir}", s.dir, "{run}", s.run, "{group}", group).Replace(arg)
}

// command returns a call of the program.
func (s *stage) command(argv []string) *exec.Cmd {
	cmd := exec.Command(s.program)
	for _, arg := range argv {
		cmd.Args = append(cmd.Args, s.words(arg))
	}
	cmd.Dir, cmd.Env = s.words(s.Cwd), s.env
	return cmd
}

// probe makes a call that ends by itself.
func (s *stage) probe(t *testing.T, p probe) {
	t.Helper()
	cmd := s.command(p.Argv)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != p.Code || !strings.Contains(stdout.String(), p.Stdout) || !strings.Contains(stderr.String(), p.Stderr) {
		t.Errorf("%q = %d\n%s%s\nwant %d with %q and %q", p.Argv, code, &stdout, &stderr, p.Code, p.Stdout, p.Stderr)
	}
	if p.Code != 0 && stdout.Len() > 0 {
		t.Errorf("%q failed, and wrote to standard output: %q", p.Argv, &stdout)
	}
}

// play starts the program, uses the share, and ends it in one of the ways.
func (s *stage) play(t *testing.T, end string) {
	cmd := s.command(s.Argv)
	log := newTranscript()
	cmd.Stdout, cmd.Stderr = log, log
	path := filepath.Join(s.run, "passed")
	if s.Socket != "" {
		path = filepath.Join(s.run, s.Socket)
	}
	if s.syslog != nil {
		s.syslog.reset()
	}
	ours := s.pass(t, cmd, path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // also for its server, which has the same stderr
	t.Cleanup(func() {
		cmd.Process.Kill()
		if t.Failed() {
			t.Logf("log:\n%s", log)
		}
	})
	s.expect(t, log, s.Stderr[:min(1, len(s.Stderr))], ended)
	if s.syslog != nil {
		s.expect(t, s.syslog, s.Syslog[:1], ended)
	}
	if s.Socket != "" {
		await(t, path, ended)
		s.checkFiles(t, path, cmd.Process.Pid)
	}
	if ours == nil {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatalf("the socket was announced, but: %v", err)
		}
		ours = conn.(*net.UnixConn)
	}
	client, err := fsclient.Connect(ours, fsclient.Options{Queues: 1})
	if err != nil {
		t.Fatal(err)
	}
	left := sync.OnceValue(client.Close)
	defer left()
	if s.Tag != "" && client.Tag() != s.Tag {
		t.Errorf("tag %q; want %q", client.Tag(), s.Tag)
	}
	converse(t, client)
	s.expect(t, log, s.Stderr, ended)
	if s.syslog != nil {
		s.expect(t, s.syslog, s.Syslog, ended)
	}

	begin, want := time.Now(), "exit status 0"
	switch end {
	case "client":
		if err := left(); err != nil {
			t.Error(err)
		}
	default:
		if end == "SIGKILL" {
			want = "signal: killed"
		}
		if err := cmd.Process.Signal(unix.SignalNum(end)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-ended:
		if took := time.Since(begin); took > quick {
			t.Errorf("%s: it took %v to end; want %v at most", end, took, quick)
		}
	case <-time.After(patience):
		t.Fatalf("%s: it has not ended after %v", end, patience)
	}
	if state := cmd.ProcessState.String(); state != want {
		t.Errorf("%s: it ended with %s; want %s", end, state, want)
	}
	if end == "SIGKILL" {
		return // what it leaves must not be in the way of the next
	}
	for _, name := range []string{s.Socket, s.Socket + ".pid"} {
		if _, err := os.Lstat(filepath.Join(s.run, name)); s.Socket != "" && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %s was left behind (%v)", end, name, err)
		}
	}
}

// pass gives cmd the socket of the fixture, at its number. It returns our end if that is
// connected.
func (s *stage) pass(t *testing.T, cmd *exec.Cmd, path string) *net.UnixConn {
	t.Helper()
	if s.FD == 0 {
		return nil
	}
	var ours *net.UnixConn
	var theirs interface{ File() (*os.File, error) }
	if s.Connected {
		a, b, err := unixsock.Pair()
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		ours, theirs = a, b
	} else {
		os.Remove(path)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		theirs = l
	}
	file, err := theirs.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	cmd.ExtraFiles = make([]*os.File, s.FD-3+1)
	cmd.ExtraFiles[s.FD-3] = file
	return ours
}

// expect waits until all phrases were written.
func (s *stage) expect(t *testing.T, log *transcript, phrases []string, ended chan error) {
	t.Helper()
	for _, phrase := range phrases {
		select {
		case <-log.wait(phrase):
		case err := <-ended:
			ended <- err
			t.Fatalf("it ended (%v) before it wrote %q:\n%s", err, phrase, log)
		case <-time.After(patience):
			t.Fatalf("it has not written %q after %v:\n%s", phrase, patience, log)
		}
	}
}

// await waits for a socket, for those who have nothing else to wait for.
func await(t *testing.T, path string, ended chan error) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		if _, err := os.Lstat(path); err == nil {
			return
		}
		select {
		case <-tick.C:
		case err := <-ended:
			ended <- err
			t.Fatalf("it ended (%v) before %s was there", err, path)
		case <-deadline:
			t.Fatalf("%s was not there after %v", path, patience)
		}
	}
}

// checkFiles looks at the socket, and the pid file beside it.
func (s *stage) checkFiles(t *testing.T, path string, pid int) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := fmt.Sprintf("%04o", info.Mode().Perm()); mode != s.Mode || info.Mode().Type() != os.ModeSocket {
		t.Errorf("%s is %v; want a socket with mode %s", path, info.Mode(), s.Mode)
	}
	text, err := os.ReadFile(path + ".pid")
	if want := fmt.Sprintln(pid); err != nil || string(text) != want {
		t.Errorf("pid file: %q, %v; want %q", text, err, want)
	}
	if info, err := os.Lstat(path + ".pid"); err != nil || info.Mode() != 0o600 {
		t.Errorf("pid file: %v, %v; want mode 0600", info, err)
	}
}

// converse mounts the share and looks at its root, as a guest does.
func converse(t *testing.T, client *fsclient.Client) {
	t.Helper()
	ring, slot := client.Ring(1), client.Slots()[0]
	guest := fusetest.NewClient(func(in []byte, out int) ([]byte, error) {
		copy(slot.In, in)
		if !ring.Submit(slot, len(in), out) {
			return nil, errors.New("the ring is full")
		}
		if err := errors.Join(ring.Publish(), ring.Wait(patience)); err != nil {
			return nil, err
		}
		_, n, ok := ring.Reap()
		if !ok {
			return nil, fmt.Errorf("no reply: %w", ring.Err())
		}
		return bytes.Clone(slot.Out[:n]), nil
	})
	if _, err := guest.Init(fusetest.AllFlags); err != nil {
		t.Fatalf("INIT: %v", err)
	}
	attr, err := guest.GetAttr(1, 0)
	if err != nil || attr.Attr.Mode&unix.S_IFMT != unix.S_IFDIR {
		t.Fatalf("GETATTR of the root = mode %#o, %v; want a directory", attr.Attr.Mode, err)
	}
}

// A transcript is what a program writes, for those who wait for words.
type transcript struct {
	mu   sync.Mutex
	text []byte
	more chan struct{} // closed with the next bytes
}

func newTranscript() *transcript { return &transcript{more: make(chan struct{})} }

// Write implements io.Writer.
func (l *transcript) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	close(l.more)
	l.more = make(chan struct{})
	return len(p), nil
}

func (l *transcript) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// reset forgets what was written.
func (l *transcript) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = nil
}

// wait returns a channel that is closed once phrase was written.
func (l *transcript) wait(phrase string) <-chan struct{} {
	found := make(chan struct{})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	go func() {
		defer cancel()
		for {
			l.mu.Lock()
			has, more := bytes.Contains(l.text, []byte(phrase)), l.more
			l.mu.Unlock()
			if has {
				close(found)
				return
			}
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
		}
	}()
	return found
}

// listenSyslog is the system's log, or nil where there is one already.
func listenSyslog(t *testing.T, missing func(string)) *transcript {
	t.Helper()
	const path = "/dev/log"
	if other, err := net.Dial("unixgram", path); err == nil {
		other.Close()
		return nil // there is one already, and the words go there
	}
	os.Remove(path) // left behind by a log service
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path})
	if err != nil {
		missing("a log service, or root to be one: " + err.Error())
	}
	log := newTranscript()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			log.Write(append(buf[:n:n], '\n'))
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
		os.Remove(path)
	})
	return log
}
