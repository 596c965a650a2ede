// Command demo shows a shared directory at work: it starts vfiofs, boots a guest that
// mounts the directory, and lets each side read what the other has written. With -vfio
// the directory is in a second guest, and the host runs only the proxy. It is the second
// half of scripts/demo, which fetches and builds what it needs.
//
//	host$ write hello.txt ─► vfiofs ─► guest# cat /mnt/hello.txt
//	host$ cat reply.txt   ◄─ vfiofs ◄─ guest# write /mnt/reply.txt
//
//	device# write hello.txt ─► vfiofs --vfio ─► proxy ─► sibling# cat /mnt/hello.txt
//	device# cat reply.txt   ◄─ vfiofs --vfio ◄─ proxy ◄─ sibling# write /mnt/reply.txt
//
// It owns the server or the proxy, the guests and a temporary directory, and ends all of
// them. It follows no specification.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/vmtest"
	"vfiofs/internal/vmtest/plan"
)

func main() {
	program := flag.String("vfiofs", "", "the vfiofs `program` to show")
	shell := flag.Bool("shell", false, "give a shell in the guest instead of the tour")
	vfio := flag.Bool("vfio", false, "share a directory of a device VM with a sibling")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	demo := run
	if *vfio {
		demo = runNested
	}
	if err := demo(ctx, *program, *shell); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, program string, shell bool) (err error) {
	lab, err := vmtest.FindLab()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vfiofs-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	shared := filepath.Join(dir, "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		return err
	}

	server := vmtest.Vfiofs(program)
	d, err := vmtest.Serve(server, vmtest.ServeOptions{Dir: shared, Socket: filepath.Join(dir, "fs.sock"), Tag: "demo"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	say("vfiofs shares %s over %s", shared, d.Options.Socket)

	s := session{ctx: ctx, lab: lab, shared: shared, vm: vmtest.VM{
		Name:   "the guest",
		Shares: []vmtest.Share{{Socket: d.Options.Socket, Tag: "demo", Mount: "/mnt"}},
		Files:  map[string]string{"/bin/busybox": lab.Busybox},
		Steps:  []plan.Step{installBusybox()},
	}}
	if shell {
		err = s.shell()
	} else {
		err = s.tour()
	}
	if err != nil {
		err = withLog(err, d)
	}
	return err
}

// withLog adds to an error what the server has printed last.
func withLog(err error, d *vmtest.Daemon) error {
	log, e := d.Log()
	if e != nil {
		return err
	}
	return fmt.Errorf("%w\n--- vfiofs ---\n%s", err, log[max(0, len(log)-4000):])
}

// installBusybox is the step that gives a guest its commands.
func installBusybox() plan.Step {
	return plan.Step{Name: "busybox", Args: []string{"/bin/busybox", "--install", "-s", "/bin"}}
}

func say(format string, args ...any) { fmt.Printf("==> "+format+"\n", args...) }

// A session is one guest and the directory it shares with us.
type session struct {
	ctx    context.Context
	lab    *vmtest.Lab
	shared string
	vm     vmtest.VM
}

// boot starts the guest with more steps than it has.
func (s *session) boot(steps ...plan.Step) (*vmtest.Machine, error) {
	s.vm.Steps = append(s.vm.Steps, steps...)
	say("booting Linux %s in QEMU %s", s.lab.Kernels[0].Release, s.lab.QEMUVersion)
	began := time.Now()
	m, err := vmtest.Boot(s.ctx, s.lab, s.vm)
	if err == nil {
		say("the guest is up after %.1f s and has mounted the directory at /mnt", time.Since(began).Seconds())
	}
	return m, err
}

// tour writes on one side and reads on the other, both ways and while the guest runs.
func (s *session) tour() error {
	const fromHost, fromGuest, later = "Hello from the host.\n", "Hello from the guest.\n", "The host has more to say.\n"
	if err := s.write("hello.txt", fromHost); err != nil {
		return err
	}
	read := command("read", "cat /mnt/hello.txt")
	write := command("write", "echo 'Hello from the guest.' > /mnt/reply.txt; ls -l /mnt")
	again := command("again", "cat /mnt/later.txt")
	again.Await = true
	m, err := s.boot(command("kernel", "uname -sr; grep virtiofs /proc/mounts"), read, write, again)
	if err != nil {
		return err
	}
	defer m.Close()

	if _, err := show(m, "guest", "kernel", s.vm.Steps); err != nil {
		return err
	}
	if err := s.expectGuest(m, "read", fromHost); err != nil {
		return err
	}
	if _, err := show(m, "guest", "write", s.vm.Steps); err != nil {
		return err
	}
	got, err := os.ReadFile(filepath.Join(s.shared, "reply.txt"))
	if err != nil {
		return err
	}
	fmt.Printf("host$  cat reply.txt\n%s", got)
	if string(got) != fromGuest {
		return fmt.Errorf("the host reads %q; want %q", got, fromGuest)
	}
	if err := s.write("later.txt", later); err != nil {
		return err
	}
	if err := m.Send(plan.Go, "again"); err != nil {
		return err
	}
	if err := s.expectGuest(m, "again", later); err != nil {
		return err
	}
	if err := m.Wait(time.Minute); err != nil {
		return err
	}
	say("the guest has powered off, QEMU ended %.1f s later", m.Linger().Seconds())
	say("it works: what one side writes, the other reads")
	return nil
}

// shell gives the user a shell in the guest.
func (s *session) shell() error {
	if err := s.write("hello.txt", "Hello from the host.\n"); err != nil {
		return err
	}
	say("leave the shell with \"exit\"; it starts in /mnt")
	s.vm.Console = true
	m, err := s.boot(plan.Step{Name: "shell", Console: true, Args: []string{"/bin/sh", "-c", "cd /mnt && exec sh -i"}})
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Wait(24 * time.Hour)
}

// command is a step that runs a line of shell.
func command(name, line string) plan.Step {
	return plan.Step{Name: name, Args: []string{"/bin/sh", "-c", line}}
}

// write writes a file on the host, for all to see.
func (s *session) write(name, text string) error {
	fmt.Printf("host$  echo '%s' > %s\n", strings.TrimSpace(text), name)
	return os.WriteFile(filepath.Join(s.shared, name), []byte(text), 0o644)
}

// show waits for a step, shows it under the guest's name, and returns what it printed.
func show(m *vmtest.Machine, name, step string, steps []plan.Step) ([]byte, error) {
	line, err := m.Expect(time.Minute, plan.Exit, step)
	if err != nil {
		return nil, err
	}
	out, err := m.Output(step)
	if err != nil {
		return nil, err
	}
	for _, s := range steps {
		if s.Name == step {
			fmt.Printf("%s# %s\n%s", name, s.Args[len(s.Args)-1], out)
		}
	}
	if status, _, _ := m.Status(step); status != 0 {
		return nil, fmt.Errorf("the guest's command failed: %s\n%s", line, out)
	}
	return out, nil
}

func (s *session) expectGuest(m *vmtest.Machine, step, want string) error {
	return expect(m, "guest", step, s.vm.Steps, want)
}

// expect shows a step, which must print what is wanted.
func expect(m *vmtest.Machine, name, step string, steps []plan.Step, want string) error {
	got, err := show(m, name, step, steps)
	if err == nil && !bytes.Equal(got, []byte(want)) {
		err = fmt.Errorf("the %s reads %q; want %q", name, got, want)
	}
	return err
}
