package jail

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vfiofs/internal/idmap"
)

// TestMain makes the test binary a program that confines itself: "prisoner PLAN" is both
// the launcher and the server of a Plan.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); name == "newuidmap" || name == "newgidmap" {
		os.Exit(mapProgram(name))
	}
	if len(os.Args) == 3 && os.Args[1] == "prisoner" {
		os.Exit(prisoner(os.Args[2]))
	}
	os.Exit(run(m))
}

// binaryEnv names the program that prisoners are copies of: this one, or one without cgo,
// and so without the race detector, which can jail itself.
const binaryEnv = "JAIL_TEST_BINARY"

// run runs the tests.
func run(m *testing.M) int {
	binary, err := os.Executable()
	if err == nil && !Supported {
		var dir string
		if dir, err = os.MkdirTemp("", "jail"); err == nil {
			defer os.RemoveAll(dir)
			binary = filepath.Join(dir, "prisoner")
			build := exec.Command("go", "test", "-c", "-o", binary, ".")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			build.Stdout, build.Stderr = os.Stderr, os.Stderr
			err = build.Run()
		}
	}
	if err == nil {
		err = os.Setenv(binaryEnv, binary)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare the prisoner:", err)
		return 1
	}
	return m.Run()
}

// prisoner carries out a Plan. The server then tells what it is, does what is asked on
// standard input, one attempt a line, and ends with the input.
func prisoner(text string) int {
	var p Plan
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		fmt.Println(err)
		return 3
	}
	report, code, err := p.serveOrLaunch()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if report == nil {
		return code
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer{Report: report, PID: os.Getpid()}); err != nil {
		return 3
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		a := answer{Attempt: lines.Text(), Error: "unknown attempt"}
		if try, ok := attempts[a.Attempt]; ok {
			a.Error = ""
			if err := try(); err != nil {
				a.Error = err.Error()
			}
		}
		if err := json.NewEncoder(os.Stdout).Encode(a); err != nil {
			return 3
		}
	}
	return 0
}

// serveOrLaunch is the launcher, which returns the server's exit code, or the server.
func (p *Plan) serveOrLaunch() (*Report, int, error) {
	cell, err := p.Enter()
	if err == nil && cell == nil {
		err = p.Check() // not in the server, which has no ids until it has entered
	}
	if err != nil {
		return nil, 0, err
	}
	if cell == nil && p.Mode != None {
		code, err := p.Launch(context.Background())
		return nil, code, err
	}
	report, err := p.Close(cell)
	return report, 0, err
}

// An answer is a line of a prisoner's output.
type answer struct {
	Report  any    `json:",omitempty"`
	PID     int    `json:",omitempty"`
	Attempt string `json:",omitempty"`
	Error   string `json:",omitempty"`
}

// A jailed is a prisoner that runs.
type jailed struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	server int // its pid
	report map[string]string
}

// start starts a prisoner, and with asUID other than 0 as an ordinary user.
func start(t *testing.T, p Plan, asUID uint32) *jailed {
	t.Helper()
	j, out := tryStart(t, p, asUID)
	if j == nil {
		t.Fatalf("the prisoner did not start: %s", out)
	}
	return j
}

// tryStart is start for plans that may fail; then it returns what was printed.
func tryStart(t *testing.T, p Plan, asUID uint32) (*jailed, string) {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	j := &jailed{t: t, cmd: exec.Command(selfCopy(t), "prisoner", string(text))}
	j.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	if asUID != 0 {
		j.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: asUID, Gid: asUID}}
	}
	var stderr bytes.Buffer
	j.cmd.Stderr = &stderr
	if j.in, err = j.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := j.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := j.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		j.in.Close()
		j.cmd.Process.Kill()
		j.cmd.Wait()
	})
	j.out = bufio.NewScanner(out)
	j.out.Scan()
	var a struct{ Report map[string]string }
	if err := json.Unmarshal(j.out.Bytes(), &a); err != nil || a.Report == nil {
		text := j.out.Text()
		j.in.Close()
		err := j.cmd.Wait()
		return nil, fmt.Sprintf("%s%s%v", text, &stderr, err)
	}
	j.report = a.Report
	j.server = j.cmd.Process.Pid
	if p.Jailed() {
		j.server = child(t, j.server)
	}
	return j, ""
}

// child returns the only child of a process.
func child(t *testing.T, pid int) (child int) {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		if text, err := os.ReadFile(list); err == nil && len(text) > 0 {
			if _, err := fmt.Sscan(string(text), &child); err != nil {
				t.Fatalf("children of the launcher: %q: %v", text, err)
			}
		}
	}
	if child == 0 {
		t.Fatalf("process %d has no child", pid)
	}
	return child
}

// selfCopy returns a copy of the prisoner's program that every user can run.
func selfCopy(t *testing.T) string {
	t.Helper()
	to := filepath.Join(openDir(t), "prisoner")
	data, err := os.ReadFile(os.Getenv(binaryEnv))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

// openDir is a directory that every user can read.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// share makes a shared directory that belongs to uid.
func share(t *testing.T, uid uint32) string {
	t.Helper()
	dir := filepath.Join(openDir(t), "share")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, int(uid), int(uid)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// attempt has the prisoner try something, and returns its error.
func (j *jailed) attempt(name string) string {
	j.t.Helper()
	fmt.Fprintln(j.in, name)
	if !j.out.Scan() {
		err := j.cmd.Wait()
		return fmt.Sprintf("dead: %v", err)
	}
	var a answer
	if err := json.Unmarshal(j.out.Bytes(), &a); err != nil || a.Attempt != name {
		j.t.Fatalf("attempt %q: answer %q", name, j.out.Text())
	}
	return a.Error
}

// status returns the fields of each of the server's threads' status.
func (j *jailed) status() []map[string]string {
	j.t.Helper()
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", j.server))
	if err != nil || len(paths) == 0 {
		j.t.Fatalf("threads of %d: %v, %v", j.server, paths, err)
	}
	var all []map[string]string
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // the thread has just ended
		}
		if err != nil {
			j.t.Fatal(err)
		}
		fields := make(map[string]string)
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			fields[name] = strings.TrimSpace(value)
		}
		all = append(all, fields)
	}
	return all
}

// mapPrograms makes newuidmap and newgidmap, which the tests need and systems may lack.
// They are set-user-ID root like the real ones, and lend all ids to everybody.
func mapPrograms(t *testing.T) string {
	t.Helper()
	program := selfCopy(t)
	for _, name := range []string{"newuidmap", "newgidmap"} {
		path := filepath.Join(filepath.Dir(program), name)
		if err := os.Link(program, path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(program, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(program)
}

// mapProgram is newuidmap or newgidmap: "newuidmap PID INSIDE OUTSIDE COUNT ...".
func mapProgram(name string) int {
	var text strings.Builder
	for i, arg := range os.Args[2:] {
		fmt.Fprint(&text, arg, string(" \n"[(i%3)/2]))
	}
	path := fmt.Sprintf("/proc/%s/%s_map", os.Args[1], strings.TrimSuffix(strings.TrimPrefix(name, "new"), "map"))
	if err := os.WriteFile(path, []byte(text.String()), 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// mustParse parses an id map.
func mustParse(t *testing.T, text string) idmap.Map {
	t.Helper()
	m, err := idmap.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
