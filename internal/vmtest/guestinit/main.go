// Command guestinit is the first and only process that a test guest needs: PID 1 of
// an archive that holds nothing but this program, a plan and what the plan runs.
//
//	mount proc sys dev tmp ─► ports ─► modules ─► mounts ─► steps ─► hold ─► unmount
//	                                                                              │
//	                                    power off or reboot ◄── "off" ◄───────────┘
//
// It has no shell, no configuration and no network. What goes wrong goes to the host
// as a "fail" line, or to the console where there is no control port yet, and ends
// the guest. The plan and the lines are described in package plan; there is no
// specification.
package main

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/vmtest/plan"
)

func main() {
	g := &guest{}
	end, err := g.run()
	if err != nil {
		fmt.Println("guestinit:", err)
		if g.ctl != nil {
			g.tell(plan.Fail, strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	unix.Sync()
	if g.ctl != nil {
		g.tell(plan.Off)
	}
	if end == plan.Reboot {
		err = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	} else {
		err = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	panic(err) // PID 1 must not return
}

// A guest is the state of the one run of this program.
type guest struct {
	plan  plan.Plan
	ctl   *os.File
	heard chan string // lines of the host

	out   *os.File
	outMu sync.Mutex

	background []*process
}

type process struct {
	step plan.Step
	cmd  *exec.Cmd
	said chan struct{} // closed when it has printed step.Says
	done chan struct{} // closed when it has ended
}

// run carries the plan out and returns how to end: plan.PowerOff or plan.Reboot.
func (g *guest) run() (end string, err error) {
	end = plan.PowerOff
	for _, m := range []plan.Mount{
		{Source: "proc", Target: "/proc", Type: "proc"},
		{Source: "sysfs", Target: "/sys", Type: "sysfs"},
		{Source: "devtmpfs", Target: "/dev", Type: "devtmpfs"},
		{Source: "tmpfs", Target: "/tmp", Type: "tmpfs"},
	} {
		if err := mount(m); err != nil {
			return end, err
		}
	}
	// The usual name for a process's own descriptors; devtmpfs does not have it.
	if err := os.Symlink("/proc/self/fd", "/dev/fd"); err != nil {
		return end, err
	}
	if err := g.openPorts(); err != nil {
		return end, err
	}
	uptime, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return end, err
	}
	g.tell(plan.Up, strings.Fields(string(uptime))[0])

	b, err := os.ReadFile(plan.Path)
	if err != nil {
		return end, err
	}
	if err := json.Unmarshal(b, &g.plan); err != nil {
		return end, fmt.Errorf("%s: %w", plan.Path, err)
	}
	for _, name := range g.plan.Modules {
		if err := loadModule(name); err != nil {
			return end, err
		}
	}
	for _, m := range g.plan.Mounts {
		if err := mount(m); err != nil {
			return end, err
		}
	}
	for _, s := range g.plan.Steps {
		if err := g.step(s); err != nil {
			return end, err
		}
	}
	g.stopBackground()
	if err := g.collect(); err != nil {
		return end, err
	}
	if g.plan.Hold {
		g.tell(plan.Hold)
		if end, err = g.hear(plan.PowerOff, plan.Reboot); err != nil {
			return plan.PowerOff, err
		}
	}
	for i := len(g.plan.Mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(g.plan.Mounts[i].Target, 0); err != nil {
			return end, fmt.Errorf("unmount %s: %w", g.plan.Mounts[i].Target, err)
		}
	}
	return end, nil
}

func mount(m plan.Mount) error {
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.Source, m.Target, m.Type, 0, m.Options); err != nil {
		return fmt.Errorf("mount %s %q on %s: %w", m.Type, m.Source, m.Target, err)
	}
	return nil
}

// loadModule loads one module, which may be compressed. One that is there already is
// no error.
func loadModule(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(name, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	return nil
}

// openPorts opens the control and output ports and begins to listen to the host.
func (g *guest) openPorts() (err error) {
	if g.ctl, err = openPort(plan.PortControl); err != nil {
		return err
	}
	if g.out, err = openPort(plan.PortOutput); err != nil {
		return err
	}
	g.heard = make(chan string)
	go func() {
		lines := bufio.NewScanner(g.ctl)
		for lines.Scan() {
			g.heard <- lines.Text()
		}
		close(g.heard)
	}()
	return nil
}

// openPort finds a virtio-serial port by its name. Ports appear some time after the
// kernel has started init. The descriptor stays blocking: then a write returns when
// the host has taken the data, so that nothing is lost at power-off.
func openPort(name string) (*os.File, error) {
	var device string
	err := wait(5*time.Second, func() bool {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			if b, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(b)) == name {
				device = filepath.Join("/dev", filepath.Base(filepath.Dir(n)))
				return true
			}
		}
		return false
	})
	if err != nil {
		return nil, fmt.Errorf("find virtio-serial port %q: %w", name, err)
	}
	n, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", device, err)
	}
	return os.NewFile(uintptr(n), device), nil
}

// wait looks every few milliseconds whether a condition has come true.
func wait(limit time.Duration, cond func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			return os.ErrDeadlineExceeded
		}
	}
	return nil
}

// tell sends one line to the host.
func (g *guest) tell(words ...string) {
	fmt.Fprintln(g.ctl, strings.Join(words, " "))
}

// hear waits for one of the given lines and returns it, and meanwhile kills and starts
// what it is told to. A host that is gone means the end: power off.
func (g *guest) hear(want ...string) (string, error) {
	for line := range g.heard {
		if slices.Contains(want, line) {
			return line, nil
		}
		verb, name, _ := strings.Cut(line, " ")
		for i, p := range g.background {
			if p.step.Name != name {
				continue
			}
			switch verb {
			case plan.Kill:
				_ = p.cmd.Process.Kill() // it may have ended by itself
				<-p.done
			case plan.Start:
				p, err := g.start(p.step)
				if err != nil {
					return "", err
				}
				g.background[i] = p
				if err := g.awaitReady(p); err != nil {
					return "", err
				}
			}
		}
	}
	return plan.PowerOff, nil
}

// step runs one step. Only trouble with starting is an error; the status of a
// program is the host's to judge.
func (g *guest) step(s plan.Step) error {
	if s.Await {
		g.tell(plan.Await, s.Name)
		if _, err := g.hear(plan.Go + " " + s.Name); err != nil {
			return err
		}
	}
	if len(s.Args) == 0 {
		return nil
	}
	p, err := g.start(s)
	if err != nil {
		return err
	}
	if !s.Background {
		<-p.done
		return nil
	}
	g.background = append(g.background, p)
	return g.awaitReady(p)
}

// start starts the program of a step, and tells the host when it has ended.
func (g *guest) start(s plan.Step) (*process, error) {
	p := &process{
		step: s, cmd: exec.Command(s.Args[0], s.Args[1:]...),
		said: make(chan struct{}), done: make(chan struct{}),
	}
	p.cmd.Env = append([]string{"PATH=/bin", "HOME=/tmp", "TMPDIR=/tmp", "TERM=linux", "GOCOVERDIR=/cov"}, s.Env...)
	flush, err := g.redirect(p)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start step %s: %w", s.Name, err)
	}
	go func() {
		flush()
		_ = p.cmd.Wait() // the status is in ProcessState
		g.tell(plan.Exit, s.Name, fmt.Sprint(p.cmd.ProcessState.ExitCode()),
			fmt.Sprintf("%.3f", time.Since(began).Seconds()))
		close(p.done)
	}()
	return p, nil
}

// awaitReady waits until a background step is what its plan calls ready, or has ended.
func (g *guest) awaitReady(p *process) error {
	if p.step.Ready == "" && p.step.Says == "" {
		return nil
	}
	if err := wait(time.Minute, p.ready); err != nil {
		return fmt.Errorf("step %s: wait for %q: %w", p.step.Name, p.step.Ready+p.step.Says, err)
	}
	g.tell(plan.Ready, p.step.Name)
	return nil
}

// ready reports whether a background step is ready, or has ended.
func (p *process) ready() bool {
	select {
	case <-p.done:
		return true
	case <-p.said:
		return true
	default:
	}
	if p.step.Ready == "" {
		return false
	}
	_, err := os.Stat(p.step.Ready)
	return err == nil
}

// redirect connects a step to the output port, or to the console. The result is to
// be called after the start, and returns when all output has been sent.
func (g *guest) redirect(p *process) (flush func(), err error) {
	if p.step.Console {
		tty, err := os.OpenFile("/dev/ttyS0", os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = tty, tty, tty
		p.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
		return func() { tty.Close() }, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	return func() {
		w.Close()
		g.copyLines(p, r)
	}, nil
}

// copyLines sends what a step prints to the host, each line under the step's name.
// It ends when the step and all that inherited its output have ended.
func (g *guest) copyLines(p *process, r *os.File) {
	defer r.Close()
	in := bufio.NewReader(r)
	said := p.step.Says == ""
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			g.outMu.Lock()
			fmt.Fprintf(g.out, "%s%s%s\n", p.step.Name, plan.Tag, strings.TrimSuffix(line, "\n"))
			g.outMu.Unlock()
		}
		if !said && strings.Contains(line, p.step.Says) {
			said = true
			close(p.said)
		}
		if err != nil {
			return
		}
	}
}

// stopBackground ends the background steps, the last first, and waits for each.
func (g *guest) stopBackground() {
	for i := len(g.background) - 1; i >= 0; i-- {
		p := g.background[i]
		_ = p.cmd.Process.Signal(unix.SIGTERM) // it may have ended by itself
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	}
}

// collect sends the plan's directories to the host as one tar.
func (g *guest) collect() error {
	if len(g.plan.Collect) == 0 {
		return nil
	}
	port, err := openPort(plan.PortFiles)
	if err != nil {
		return err
	}
	defer port.Close()
	buf := bufio.NewWriterSize(port, 64<<10)
	tw := tar.NewWriter(buf)
	for _, dir := range g.plan.Collect {
		if err := addTree(tw, dir); err != nil {
			return fmt.Errorf("collect %s: %w", dir, err)
		}
	}
	return errors.Join(tw.Close(), buf.Flush())
}

func addTree(tw *tar.Writer, dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		h := &tar.Header{Name: strings.TrimPrefix(path, "/"), Mode: 0o644, Size: st.Size()}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err = io.CopyN(tw, f, st.Size())
		return err
	})
}
