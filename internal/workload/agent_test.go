package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// agentVariable makes the test binary a process that does one thing for a test.
const agentVariable = "WORKLOAD_AGENT"

// agentCommand returns the test binary as an agent.
func agentCommand(kind string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), agentVariable+"="+kind)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	cmd.Stderr = os.Stderr
	return cmd
}

// A lockKind is one of the three sorts of locks (fcntl(2), flock(2)).
type lockKind string

const (
	posixLock lockKind = "posix"
	ofdLock   lockKind = "ofd"
	flockLock lockKind = "flock"
)

// A lockRequest is what a locker is told to do with its file.
type lockRequest struct {
	Kind       lockKind
	Type       int16 // F_RDLCK, F_WRLCK or F_UNLCK; for flock too
	Start, Len int64
	Wait       bool
	Get        bool // F_GETLK or F_OFD_GETLK
}

// A lockReply is how it went.
type lockReply struct {
	Err        string // name of the errno, or ""
	Type       int16  // of Get
	Start, Len int64
}

// lockerMain is a process with one open file: the first argument. It prints its thread,
// and answers a request a line.
func lockerMain() {
	runtime.LockOSThread() // all requests on the thread it tells
	fd, err := unix.Open(os.Args[1], unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o666)
	if err != nil {
		fmt.Fprintf(os.Stderr, "locker: open %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	out := json.NewEncoder(os.Stdout)
	out.Encode(unix.Gettid())
	in := json.NewDecoder(os.Stdin)
	for {
		var r lockRequest
		if in.Decode(&r) != nil {
			return
		}
		out.Encode(r.do(fd))
	}
}

func (r lockRequest) do(fd int) (reply lockReply) {
	var err error
	if r.Kind == flockLock {
		how := map[int16]int{unix.F_RDLCK: unix.LOCK_SH, unix.F_WRLCK: unix.LOCK_EX, unix.F_UNLCK: unix.LOCK_UN}[r.Type]
		if !r.Wait {
			how |= unix.LOCK_NB
		}
		err = ignoringEINTR(func() error { return unix.Flock(fd, how) })
	} else {
		l := unix.Flock_t{Type: r.Type, Start: r.Start, Len: r.Len}
		err = ignoringEINTR(func() error { return unix.FcntlFlock(uintptr(fd), r.command(), &l) })
		reply = lockReply{Type: l.Type, Start: l.Start, Len: l.Len}
	}
	if errors.Is(err, unix.EACCES) { // fcntl(2): either
		err = unix.EAGAIN
	}
	if err != nil {
		reply.Err = result(err)
	}
	return reply
}

// command returns the command of fcntl.
func (r lockRequest) command() int {
	commands := map[lockKind][3]int{
		posixLock: {unix.F_SETLK, unix.F_SETLKW, unix.F_GETLK},
		ofdLock:   {unix.F_OFD_SETLK, unix.F_OFD_SETLKW, unix.F_OFD_GETLK},
	}[r.Kind]
	switch {
	case r.Get:
		return commands[2]
	case r.Wait:
		return commands[1]
	}
	return commands[0]
}

// A locker is a process that holds locks on a file.
type locker struct {
	t       *testing.T
	path    string
	cmd     *exec.Cmd
	tid     int
	in      *json.Encoder
	replies chan lockReply // closed when the process is gone
}

// startLocker starts a process that has a file open. It ends with the test at the latest.
func startLocker(t *testing.T, path string) *locker {
	t.Helper()
	l := &locker{t: t, path: path, cmd: agentCommand("locker", path), replies: make(chan lockReply)}
	in, err := l.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.kill)
	l.in = json.NewEncoder(in)
	replies := json.NewDecoder(out)
	if err := replies.Decode(&l.tid); err != nil {
		t.Fatalf("locker on %s: %v", path, err)
	}
	go func() {
		defer close(l.replies)
		for {
			var r lockReply
			if replies.Decode(&r) != nil {
				return
			}
			l.replies <- r
		}
	}()
	return l
}

// kill ends the process with SIGKILL and waits for its end.
func (l *locker) kill() {
	l.cmd.Process.Kill()
	for range l.replies { // until closed: the process has left the system call
	}
	l.cmd.Wait()
}

// send tells the process what to do.
func (l *locker) send(r lockRequest) {
	l.t.Helper()
	if err := l.in.Encode(r); err != nil {
		l.t.Fatalf("locker on %s: %v", l.path, err)
	}
}

// reply waits for the answer.
func (l *locker) reply() lockReply {
	l.t.Helper()
	select {
	case r, ok := <-l.replies:
		if !ok {
			l.t.Fatalf("the locker on %s has ended", l.path)
		}
		return r
	case <-time.After(10 * time.Second):
		l.t.Fatalf("no answer from the locker on %s within 10 s", l.path)
	}
	return lockReply{}
}

// try does a request and compares the errno.
func (l *locker) try(r lockRequest, want string) lockReply {
	l.t.Helper()
	l.send(r)
	got := l.reply()
	if got.Err != want {
		l.t.Errorf("%+v on %s = %q; want %q", r, l.path, got.Err, want)
	}
	return got
}

// wait begins a request that has to wait, and returns when it does.
func (l *locker) wait(r lockRequest) {
	l.t.Helper()
	r.Wait = true
	l.send(r)
	number := unix.SYS_FCNTL
	if r.Kind == flockLock {
		number = unix.SYS_FLOCK
	}
	l.inCall(l.cmd.Process.Pid, l.tid, number)
	// A request that is not made to wait is answered before these are.
	for range 20 {
		if _, err := statx(l.path); err != nil {
			l.t.Fatal(err)
		}
	}
	select {
	case got := <-l.replies:
		l.t.Errorf("%+v on %s = %q at once; want it to wait", r, l.path, got.Err)
	default:
	}
}

// inCall returns when a thread sleeps in a system call (proc_pid_syscall(5)).
func (l *locker) inCall(pid, tid, number int) {
	l.t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", pid, tid))
		if err == nil && strings.HasPrefix(string(state), fmt.Sprintf("%d ", number)) {
			return
		}
		select {
		case <-deadline:
			l.t.Fatalf("the process on %s is not in system call %d, but: %s %v", l.path, number, state, err)
		case <-tick.C:
		}
	}
}
