package jail

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// cellEnv tells a server its descriptors: the lifeline, and those of Launch.
	cellEnv = "_VFIOFS_CELL"
	// grace is how long a server may take to end before it is killed.
	grace = 5 * time.Second
)

// Launch runs the program's own command line again as the server of p, waits until it
// ends, and returns its exit code; 128+n if signal n killed it. The server ends in good
// order when ctx is done, and is killed if the launcher dies or if that takes too long.
//
// The server has the launcher's standard descriptors and files, at the same numbers, and
// no others.
func (p *Plan) Launch(ctx context.Context, files ...*os.File) (code int, err error) {
	// The server is killed when the thread that started it ends (fs-device.md F.4.9).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var id identity
	if p.userNamespace() {
		if id, err = p.identity(); err != nil {
			return 0, err
		}
	}
	theirs, lifeline, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("make the server's pipe: %w", err)
	}
	defer lifeline.Close()
	server, err := p.start(theirs, files)
	theirs.Close()
	if err != nil {
		return 0, err
	}
	if err := id.send(server.Pid, lifeline); err != nil {
		return 0, errors.Join(err, server.Kill(), reap(server))
	}
	// What is left to do is to remove files, in directories of anybody.
	if err := keepOnly(1 << unix.CAP_DAC_OVERRIDE); err != nil {
		return 0, errors.Join(err, server.Kill(), reap(server))
	}
	var killer *time.Timer
	stop := context.AfterFunc(ctx, func() {
		killer = time.AfterFunc(grace, func() { server.Kill() })
		lifeline.Close()
	})
	state, err := server.Wait()
	if !stop() && killer != nil {
		killer.Stop()
	}
	if err != nil {
		return 0, fmt.Errorf("wait for the server: %w", err)
	}
	if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return state.ExitCode(), nil
}

// start starts the server, which waits for its identity.
func (p *Plan) start(lifeline *os.File, files []*os.File) (*os.Process, error) {
	attr := &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if p.Mode == Namespace {
		attr.Cloneflags = namespaces
	}
	if p.userNamespace() {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		// The maps come after execve, which takes capabilities from those without a
		// user id (fs-device.md F.4.1).
		attr.AmbientCaps = allCaps().list()
	} else if err := bequeath(p.Caps); err != nil { // a new user namespace has all of them again
		return nil, err
	}
	// Whoever started us may have left descriptors open.
	if err := unix.CloseRange(3, ^uint(0)>>1&0xffffffff, unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) {
		return nil, fmt.Errorf("keep descriptors from the server: %w", err)
	}
	var numbers []string
	for _, f := range append([]*os.File{lifeline}, files...) {
		n := number(f)
		if _, err := unix.FcntlInt(uintptr(n), unix.F_SETFD, 0); err != nil {
			return nil, fmt.Errorf("pass descriptor %d to the server: %w", n, err)
		}
		defer unix.CloseOnExec(n)
		numbers = append(numbers, strconv.Itoa(n))
	}
	server, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   append(environment(), cellEnv+"="+strings.Join(numbers, ",")),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   attr,
	})
	if err != nil {
		return nil, p.namespaceError(err)
	}
	return server, nil
}

// number returns the descriptor's number, and leaves its flags alone, as Fd does not.
func number(f *os.File) int {
	n := -1
	if conn, err := f.SyscallConn(); err == nil {
		conn.Control(func(fd uintptr) { n = int(fd) })
	}
	return n
}

// environment is what a server may know of the environment: its options, the time zone,
// how often the service manager wants to hear from it, and what the Go runtime looks at.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		for _, prefix := range []string{"TZ=", "GO", "VFIOFS_", "WATCHDOG_USEC="} {
			if strings.HasPrefix(v, prefix) {
				return false
			}
		}
		return true
	})
}

// reap waits for a server that was killed.
func reap(server *os.Process) error {
	_, err := server.Wait()
	return err
}

// A Cell is what a server was given by its launcher.
type Cell struct {
	identity identity
	lifeline *os.File
	files    []int
}

// Enter takes the first steps of a server: it waits for the launcher and becomes who it
// is to be, in a view of the file system that nobody else has. It returns nil if there is
// no launcher. It is called once, before anything is opened.
func (p *Plan) Enter() (*Cell, error) {
	value, ok := os.LookupEnv(cellEnv)
	if !ok || !p.Jailed() {
		return nil, nil
	}
	os.Unsetenv(cellEnv)
	var numbers []int
	for field := range strings.SplitSeq(value, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 3 {
			return nil, fmt.Errorf("%s=%s: not a list of descriptors; it is set by vfiofs itself: unset it", cellEnv, value)
		}
		unix.CloseOnExec(n)
		numbers = append(numbers, n)
	}
	c := Cell{lifeline: os.NewFile(uintptr(numbers[0]), "lifeline"), files: numbers[1:]}
	line, err := bufio.NewReaderSize(c.lifeline, 4096).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &c.identity)
	}
	if err != nil {
		return nil, fmt.Errorf("hear from the launcher: %w", err)
	}
	if err := c.identity.assume(); err != nil {
		return nil, err
	}
	if p.Mode == Namespace {
		err = p.mountRoot()
	}
	return &c, err
}

// Take returns the descriptor that was the nth of Launch. The caller owns it.
func (c *Cell) Take(n int) (int, error) {
	if n >= len(c.files) {
		return -1, fmt.Errorf("the launcher has passed %d descriptors; want more", len(c.files))
	}
	return c.files[n], nil
}

// Launcher returns the launcher's pid, as the host sees it.
func (c *Cell) Launcher() int { return c.identity.Launcher }

// Context returns a context that is done when the launcher says so, or has ended: also if
// it did before Close asked to be killed with it.
func (c *Cell) Context(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		_, err := c.lifeline.Read(make([]byte, 1))
		cancel(fmt.Errorf("told by the launcher: %w", err))
	}()
	return ctx
}
