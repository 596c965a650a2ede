package mounttest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A process is a child with its output in a file.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    string
	exited chan struct{} // closed when it is gone; then err stands
	err    error
	killed bool
}

// start starts a process, which gets SIGTERM if the test binary dies.
func start(name, log string, argv []string) (*process, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &process{name: name, cmd: exec.Command(argv[0], argv[1:]...), log: log, exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGTERM, Setpgid: true}
	started := make(chan error)
	go func() {
		// Pdeathsig is about the thread that starts the child: it has to stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// await waits until ready.
func (p *process) await(what string, ready func() bool) error {
	limit := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended before it %s: %w\n%s", p.name, what, p.err, p.output())
		case <-limit:
			return fmt.Errorf("%s: not so far that it %s after %v\n%s", p.name, what, patience, p.output())
		case <-tick.C:
		}
	}
	return nil
}

// running reports whether the process is alive.
func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p *process) signal(s os.Signal) { _ = p.cmd.Process.Signal(s) } // it may be gone

// kill kills the process and waits for its end.
func (p *process) kill() {
	p.killed = true
	p.signal(unix.SIGKILL)
	<-p.exited
}

// killIfPanicked watches a program for a panic that ends one thread only, as in Rust:
// without that thread it answers no more, and everybody who uses the mount would wait
// for good. It returns when the process has ended.
func (p *process) killIfPanicked() {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for seen := int64(0); ; {
		select {
		case <-p.exited:
			return
		case <-tick.C:
		}
		info, err := os.Stat(p.log)
		if err != nil || info.Size() == seen {
			continue
		}
		seen = info.Size()
		if strings.Contains(p.output(), " panicked at ") {
			p.signal(unix.SIGKILL)
		}
	}
}

// wait waits for the end of the process and says what is wrong with it. A process that
// does not end is told to, and killed if it doesn't obey.
func (p *process) wait(code int) error {
	select {
	case <-p.exited:
	case <-time.After(patience):
		p.signal(unix.SIGTERM)
		select {
		case <-p.exited:
			return fmt.Errorf("%s did not end by itself in %v", p.name, patience)
		case <-time.After(patience):
			p.kill()
			return fmt.Errorf("%s did not end on SIGTERM in %v", p.name, patience)
		}
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code && !p.killed {
		return fmt.Errorf("%s: %v; want exit code %d", p.name, p.cmd.ProcessState, code)
	}
	return nil
}

// output returns what the process has printed.
func (p *process) output() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
