package vmtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ServeOptions is what every virtio-fs server can be told.
type ServeOptions struct {
	Dir    string // directory to share
	Socket string // vhost-user socket to listen on
	Tag    string
	Queues int // request queues
}

// A Server is a kind of virtio-fs server: vfiofs, or another to compare with.
type Server struct {
	Name    string
	Command func(ServeOptions) []string // program and arguments

	Relistens  bool     // serves one guest after another
	MultiQueue bool     // has more than one request queue, and logs their use
	Lacks      []string // cases of TestPosix that it cannot do
}

// Vfiofs is our own server.
func Vfiofs(program string) Server {
	return Server{
		Name: "vfiofs",
		Command: func(o ServeOptions) []string {
			return []string{
				program, "--socket", o.Socket, "--tag", o.Tag, "--shared-dir", o.Dir,
				"--num-request-queues", strconv.Itoa(max(o.Queues, 1)), "--xattr", "--log-format", "json", "--log-level", "debug",
			}
		},
		Relistens:  true,
		MultiQueue: true,
	}
}

// Virtiofsd is the lab's virtiofsd, the reference to compare with.
func Virtiofsd(lab *Lab) Server {
	return Server{
		Name: "virtiofsd",
		Command: func(o ServeOptions) []string {
			return []string{
				lab.Virtiofsd, "--socket-path", o.Socket, "--tag", o.Tag, "--shared-dir", o.Dir,
				"--sandbox", "none", "--seccomp", "none", "--xattr", "--cache", "auto", "--inode-file-handles=never",
			}
		},
		Lacks: []string{"Tmpfile"},
	}
}

// A Daemon is a running server.
type Daemon struct {
	Options ServeOptions
	server  Server
	cmd     *exec.Cmd
	logFile string
	exited  chan struct{} // closed when the process is gone; then exitErr stands
	exitErr error
}

// Serve starts a server and returns when it listens.
func Serve(s Server, o ServeOptions) (*Daemon, error) {
	d := &Daemon{Options: o, server: s, logFile: o.Socket + ".log", exited: make(chan struct{})}
	log, err := os.Create(d.logFile)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	argv := s.Command(o)
	d.cmd = exec.Command(argv[0], argv[1:]...)
	d.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL} // a test may be killed
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	go func() {
		d.exitErr = d.cmd.Wait()
		close(d.exited)
	}()
	// To dial the socket would be simpler, but would be a connection, and some servers take
	// only one.
	if err := d.await("listen on "+o.Socket, func() bool { return Listening(o.Socket) }); err != nil {
		return nil, errors.Join(err, d.Stop(), tailFile(s.Name, d.logFile))
	}
	return d, nil
}

// await waits until a condition comes true.
func (d *Daemon) await(what string, cond func() bool) error {
	limit := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-d.exited:
			return fmt.Errorf("%s has ended and did not %s: %w", d.server.Name, what, d.exitErr)
		case <-limit:
			return fmt.Errorf("%s does not %s", d.server.Name, what)
		case <-tick.C:
		}
		if cond() {
			return nil
		}
	}
}

// Listening reports whether a process listens on a unix socket, without connecting to
// it. It looks in /proc/net/unix (proc(5)): the fourth field has the bit
// __SO_ACCEPTCON, the last is the path.
func Listening(socket string) bool {
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return false
	}
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) == 8 && f[3] == "00010000" && f[7] == filepath.Clean(socket) {
			return true
		}
	}
	return false
}

// Running reports whether the process is alive.
func (d *Daemon) Running() bool {
	select {
	case <-d.exited:
		return false
	default:
		return true
	}
}

// PID returns the process's number, which tells one process from its successor.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Log returns everything the server has printed.
func (d *Daemon) Log() ([]byte, error) { return os.ReadFile(d.logFile) }

// Stop ends the server with SIGTERM and waits for it. It is an error if that takes
// more than five seconds. Stopping twice does nothing.
func (d *Daemon) Stop() error {
	_ = d.cmd.Process.Signal(unix.SIGTERM) // it may be gone already
	select {
	case <-d.exited:
		return nil
	case <-time.After(5 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.exited
		return fmt.Errorf("%s ignored SIGTERM and was killed", d.server.Name)
	}
}
