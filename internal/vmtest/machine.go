package vmtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/vmtest/plan"
)

const (
	bootLimit = 2 * time.Minute // from starting QEMU to the first line of init, on a busy machine
	bootUsual = 2 * time.Second // the same on an idle one, emulated; longer boots stretch all limits
)

// A Machine is a running guest. Its methods may be called from one goroutine at a
// time; Close ends it, whatever state it is in.
type Machine struct {
	vm    VM
	dir   string // sockets, console, output; removed by Close
	cmd   *exec.Cmd
	qmp   *qmp
	ctl   net.Conn
	scale float64 // how much slower than usual this machine is, at least 1

	exited  chan struct{} // closed when QEMU is gone; then exitErr and exitAt stand
	exitErr error
	exitAt  time.Time

	mu      sync.Mutex
	lines   []string      // everything the guest said on the control port
	next    int           // first line that Expect has not seen
	changed chan struct{} // closed and replaced with each line
	offAt   time.Time     // when the guest said its last word
}

// Boot starts a guest and returns when its init runs. The error holds the tail of
// the console.
func Boot(ctx context.Context, lab *Lab, vm VM) (*Machine, error) {
	return boot(ctx, lab, vm, lab.acceleration(ctx))
}

// acceleration is "kvm" if KVM can boot a kernel here, and "tcg" otherwise. That
// /dev/kvm exists says little: a nested KVM may be unable to run a stock kernel.
func (l *Lab) acceleration(ctx context.Context) string {
	l.accel.once.Do(func() {
		l.accel.name = "tcg"
		f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
		if err != nil {
			return
		}
		f.Close()
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		m, err := boot(ctx, l, VM{Name: "KVM probe"}, "kvm")
		if err != nil {
			return
		}
		defer m.Close()
		if m.Wait(5*time.Second) == nil {
			l.accel.name = "kvm"
		}
	})
	return l.accel.name
}

func boot(ctx context.Context, lab *Lab, vm VM, accel string) (_ *Machine, err error) {
	vm.fill(lab)
	// Sockets live here too, and their paths must stay below 108 bytes.
	dir, err := os.MkdirTemp("", "vm-")
	if err != nil {
		return nil, err
	}
	m := &Machine{vm: vm, dir: dir, scale: 1, exited: make(chan struct{}), changed: make(chan struct{})}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if vm.Archive == "" {
		if err := vm.Pack(ctx, lab, dir); err != nil {
			return nil, err
		}
	}
	if err := m.start(ctx, lab.QEMU, vm.qemuArgs(accel, dir)); err != nil {
		return nil, err
	}
	began := time.Now()
	if _, err := m.Expect(bootLimit, plan.Up); err != nil {
		return nil, err
	}
	m.scale = max(1, time.Since(began).Seconds()/bootUsual.Seconds())
	return m, nil
}

// start runs QEMU, and connects the control port and QMP: we listen first, QEMU
// dials, so there is no race.
func (m *Machine) start(ctx context.Context, qemu string, args []string) error {
	ctl, err := listen(filepath.Join(m.dir, "ctl.sock"))
	if err != nil {
		return err
	}
	defer ctl.Close()
	mon, err := listen(filepath.Join(m.dir, "qmp.sock"))
	if err != nil {
		return err
	}
	defer mon.Close()
	stderr, err := os.Create(filepath.Join(m.dir, "qemu.log"))
	if err != nil {
		return err
	}
	defer stderr.Close()
	m.cmd = exec.CommandContext(ctx, qemu, args...)
	m.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL} // a test may be killed
	m.cmd.Stdout, m.cmd.Stderr = stderr, stderr
	if m.vm.Console {
		m.cmd.Stdin, m.cmd.Stdout = os.Stdin, os.Stdout
	}
	if err := m.cmd.Start(); err != nil {
		m.cmd = nil
		return fmt.Errorf("start %s: %w", qemu, err)
	}
	go func() {
		m.exitErr = m.cmd.Wait()
		m.exitAt = time.Now()
		ctl.Close() // ends the accepts below if QEMU never dialled
		mon.Close()
		close(m.exited)
	}()
	conn, err := mon.Accept()
	if err == nil {
		m.qmp, err = newQMP(conn)
	}
	if err == nil {
		m.ctl, err = ctl.Accept()
	}
	if err != nil {
		return m.errorf("connect to QEMU: %w", err)
	}
	go m.listen()
	return nil
}

func listen(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return l, l.SetDeadline(time.Now().Add(30 * time.Second))
}

// Scale is the factor by which this machine is slower than an idle one, measured by
// its boot.
func (m *Machine) Scale() float64 { return m.scale }

// QMP runs one of QEMU's commands, such as stop, cont, system_reset or quit.
func (m *Machine) QMP(command string) error {
	if _, err := m.qmp.execute(command, time.Duration(m.scale*float64(30*time.Second))); err != nil {
		return m.errorf("%w", err)
	}
	return nil
}

// Wait returns when QEMU has ended. It is an error if the guest did not go down in
// good order, or was silent for longer than limit; see Expect.
func (m *Machine) Wait(limit time.Duration) error {
	silence := m.watch(limit)
	defer silence.stop()
	for ended := false; !ended; {
		select {
		case <-m.exited:
			ended = true
		case <-silence.tick.C:
			if silence.over() {
				return m.errorf("wait for QEMU's end: nothing happens for %s", silence.limit)
			}
		}
	}
	if _, err := m.Expect(time.Second, plan.Off); err != nil {
		return err
	}
	if m.exitErr != nil {
		return m.errorf("QEMU: %w", m.exitErr)
	}
	return nil
}

// Linger is how long QEMU ran on after the guest's last word. It is valid after
// Wait.
func (m *Machine) Linger() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exitAt.Sub(m.offAt)
}

// Close ends the guest and forgets everything about it.
func (m *Machine) Close() error {
	if m.cmd != nil {
		_ = m.cmd.Process.Kill() // it may be gone already
		<-m.exited
	}
	for _, c := range []net.Conn{m.ctl, m.monitor()} {
		if c != nil {
			c.Close()
		}
	}
	return os.RemoveAll(m.dir)
}

func (m *Machine) monitor() net.Conn {
	if m.qmp == nil {
		return nil
	}
	return m.qmp.conn
}

// errorf makes an error that names the guest and ends with what its console and QEMU
// said last.
func (m *Machine) errorf(format string, args ...any) error {
	err := fmt.Errorf("%s: "+format, append([]any{m.vm.Name}, args...)...)
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(err,
		tail("control port", []byte(strings.Join(m.lines, "\n"))),
		tailFile("output of the steps", filepath.Join(m.dir, "out")),
		tailFile("console", filepath.Join(m.dir, "console")),
		tailFile("QEMU", filepath.Join(m.dir, "qemu.log")))
}

func tailFile(what, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return tail(what, b)
}

// tail returns the last lines of a text as an error, or nil for an empty text.
func tail(what string, b []byte) error {
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(b), "\r", "")), "\n")
	if len(lines) == 1 && lines[0] == "" {
		return nil
	}
	const n = 30
	return fmt.Errorf("--- %s ---\n%s", what, strings.Join(lines[max(0, len(lines)-n):], "\n"))
}
