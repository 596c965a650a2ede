package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fsclient"
	"vfiofs/virtio/vhostuser"
)

// A Backend is something to measure: commands that the benchmark runs, or a socket where
// something listens already.
type Backend struct {
	// Name may have a part after a slash: then it is a variant, and only the best of the
	// variants of a name counts in each case.
	Name string
	// Commands are the programs to run, in this order, with their arguments. {socket},
	// {dir} and {queues} stand for where to listen, what to share and how many request
	// queues to offer; {device} and {memory} for one more socket and a memory file.
	Commands [][]string
	// Socket is used as it is if there are no commands. PID, if not 0, is whose processor
	// time counts then.
	Socket string
	PID    int
	// Bare stands for no server at all: see bare.
	Bare bool
}

// base returns the name without the variant.
func (b Backend) base() string {
	name, _, _ := strings.Cut(b.Name, "/")
	return name
}

// start-up and end of commands.
const (
	startTime = 10 * time.Second
	endTime   = 5 * time.Second
	startTick = 5 * time.Millisecond
)

// A running is a backend with its processes and a session, or a bare one.
type running struct {
	Backend
	*session
	bare *bare
	pids []int
	cmds []*process
}

// A process is one command that runs.
type process struct {
	*exec.Cmd
	log   string // file with what it prints
	ended chan struct{}
}

// launch starts a backend and connects to it. Its files go to tmp, and dir is what it
// shares.
func launch(ctx context.Context, b Backend, tmp, dir string, queues, lanes int) (_ *running, err error) {
	r := &running{Backend: b}
	defer func() {
		if err != nil {
			err = fmt.Errorf("backend %s: %w", b.Name, r.explain(err))
			r.end()
		}
	}()
	if b.Bare {
		r.bare, err = newBare(dir, lanes)
		return r, err
	}
	socket := b.Socket
	var memory *vhostuser.GuestMemory
	if len(b.Commands) > 0 {
		place := filepath.Join(tmp, strings.ReplaceAll(b.Name, "/", "-"))
		socket = socketAt(place)
		if b.mentions("{memory}") {
			if memory, err = makeMemory(place+".mem", lanes); err != nil {
				return nil, err
			}
			defer func() {
				if r.session == nil {
					memory.Close()
				}
			}()
		}
		for i, argv := range b.Commands {
			if err := r.run(argv, words(place, dir, queues), fmt.Sprintf("%s.%d.log", place, i)); err != nil {
				return nil, err
			}
			if i+1 < len(b.Commands) && b.mentions("{device}") {
				if err := r.await(ctx, place+".device", startTick); err != nil {
					return nil, err
				}
			}
		}
	} else if b.PID != 0 {
		r.pids = []int{b.PID}
	}
	if err := r.await(ctx, socket, startTick); err != nil {
		return nil, err
	}
	r.session, err = connect(ctx, socket, queues, lanes, memory)
	return r, err
}

// socketAt returns where a backend listens whose files are at place.
func socketAt(place string) string { return place + ".sock" }

// words says what the placeholders of a command stand for.
func words(place, dir string, queues int) *strings.Replacer {
	return strings.NewReplacer("{socket}", socketAt(place), "{dir}", dir, "{queues}", strconv.Itoa(queues),
		"{device}", place+".device", "{memory}", place+".mem")
}

// mentions reports whether a placeholder is used.
func (b Backend) mentions(word string) bool {
	for _, argv := range b.Commands {
		if strings.Contains(strings.Join(argv, " "), word) {
			return true
		}
	}
	return false
}

// memorySlack is room for rings and slots in a memory file.
const memorySlack = 4 << 20

// makeMemory makes a file for guest memory and maps it.
func makeMemory(name string, lanes int) (*vhostuser.GuestMemory, error) {
	size := int64(memorySlack + (lanes+1)*laneSize)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("guest memory: %w", err)
	}
	defer f.Close()
	if err := f.Truncate((size + 1<<21 - 1) &^ (1<<21 - 1)); err != nil {
		return nil, fmt.Errorf("guest memory: %w", err)
	}
	return vhostuser.OpenGuestMemory(0, name)
}

// run starts one command.
func (r *running) run(argv []string, words *strings.Replacer, log string) error {
	full := make([]string, len(argv))
	for i, a := range argv {
		full[i] = words.Replace(a)
	}
	out, err := os.Create(log)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(full[0], full[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the benchmark
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", full[0], err)
	}
	p := &process{cmd, log, make(chan struct{})}
	go func() {
		cmd.Wait()
		close(p.ended)
	}()
	r.cmds = append(r.cmds, p)
	r.pids = append(r.pids, cmd.Process.Pid)
	return nil
}

// await waits until a socket is there, and looks for it at each tick, or until a command
// ends.
func (r *running) await(ctx context.Context, socket string, every time.Duration) error {
	ctx, stop := context.WithTimeoutCause(ctx, startTime, fmt.Errorf("%s did not appear in %v", socket, startTime))
	defer stop()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if listens(socket) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		for _, p := range r.cmds {
			select {
			case <-p.ended:
				return fmt.Errorf("%s ended before it listened: %v", p.Path, p.ProcessState)
			default:
			}
		}
	}
}

// listens reports whether somebody listens at a socket, without connecting: many
// backends serve the first connection and no other (proc(5), /proc/net/unix: flag
// __SO_ACCEPTCON).
func listens(socket string) bool {
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return false
	}
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) >= 8 && f[7] == socket && f[3] == "00010000" {
			return true
		}
	}
	return false
}

// explain adds to an error what a command that ended has to say.
func (r *running) explain(err error) error {
	for _, p := range r.cmds {
		if errors.Is(err, fsclient.ErrGone) || errors.Is(err, io.EOF) {
			select {
			case <-p.ended:
			case <-time.After(startTick):
			}
		}
		select {
		case <-p.ended:
			text, _ := os.ReadFile(p.log)
			return fmt.Errorf("%w\n%s: %v, and its last words were:\n%s", err, p.Path, p.ProcessState, tail(text))
		default:
		}
	}
	return err
}

// tail returns the last lines of a log.
func tail(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-10):], "\n  ")
}

// end disconnects, and ends the commands.
func (r *running) end() error {
	var err error
	if r.session != nil {
		err = r.session.close()
	}
	if r.bare != nil {
		err = r.bare.close()
	}
	for i := len(r.cmds) - 1; i >= 0; i-- {
		p := r.cmds[i]
		p.Process.Signal(unix.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(endTime):
			p.Process.Kill()
			<-p.ended
			err = errors.Join(err, fmt.Errorf("%s did not end in %v after SIGTERM", p.Path, endTime))
		}
	}
	return err
}

// pin binds all threads of processes to processors.
func pin(pids []int, cpus *unix.CPUSet) error {
	for _, pid := range family(pids) {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil {
			return err
		}
		for _, task := range tasks {
			tid, _ := strconv.Atoi(filepath.Base(task))
			if err := unix.SchedSetaffinity(tid, cpus); err != nil && err != unix.ESRCH {
				return fmt.Errorf("pin thread %d: %w", tid, err)
			}
		}
	}
	return nil
}
