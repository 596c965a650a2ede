package vmtest

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"vfiofs/internal/vmtest/plan"
)

// A Proxy is a running "vfiofs proxy": the function of a device VM, and the memory and
// the server of its siblings.
type Proxy struct {
	*Daemon
	DeviceVM []string // VM.Machine of the guest in which vfiofs runs
	Sibling  []string // VM.Machine of the guest that mounts ProxyTag
}

// What the QEMU arguments of a proxy say.
const (
	ProxyTag      = "vfiofs"       // tag of the share
	ProxyFunction = "0000:00:07.0" // address of the function in the device VM
)

// StartProxy starts a proxy with sockets in dir, for siblings with so much memory. The
// two command lines are those that it prints for its users.
func StartProxy(program, dir, memory string) (*Proxy, error) {
	d, err := Serve(Server{
		Name: "proxy",
		Command: func(o ServeOptions) []string {
			return []string{
				program, "proxy", "--socket", o.Socket, "--device-socket", filepath.Join(dir, "device.sock"),
				"--mem-size", memory, "--print-qemu-args",
			}
		},
	}, ServeOptions{Socket: filepath.Join(dir, "fs.sock")})
	if err != nil {
		return nil, err
	}
	p := &Proxy{Daemon: d}
	if err := p.readArgs(); err != nil {
		return nil, fmt.Errorf("%w (%w)", err, d.Stop())
	}
	return p, nil
}

// VFIOModules returns the modules that a device VM needs.
func VFIOModules() []string {
	return []string{"irqbypass", "vfio", "vfio_iommu_type1", "vfio-pci-core", "vfio-pci"}
}

// ServeFunction returns the step that serves a directory of the device VM to siblings. It
// is ready when the first may come.
func ServeFunction(step, dir string, args ...string) plan.Step {
	return plan.Step{
		Name: step, Background: true, Says: "waiting for a client",
		Args: append([]string{
			"/bin/vfiofs", "--vfio", ProxyFunction, "--tag", ProxyTag, "--shared-dir", dir,
			"--allow-direct-io", "--xattr",
		}, args...),
	}
}

// Memory returns the file that is the memory of siblings.
func (p *Proxy) Memory() string {
	for _, word := range p.Sibling {
		for _, field := range strings.Split(word, ",") {
			if path, ok := strings.CutPrefix(field, "mem-path="); ok {
				return path
			}
		}
	}
	return ""
}

// readArgs waits for the two command lines in the log.
func (p *Proxy) readArgs() error {
	var lines []string
	err := p.await("print the arguments of both QEMUs", func() bool {
		log, err := p.Log()
		if err != nil {
			return false
		}
		lines = nil
		for line := range bytes.Lines(log) {
			if args, ok := bytes.CutPrefix(line, []byte("qemu-system-x86_64 ")); ok && bytes.HasSuffix(line, []byte("\n")) {
				lines = append(lines, string(args))
			}
		}
		return len(lines) == 2
	})
	if err != nil {
		return err
	}
	for i, words := range []*[]string{&p.DeviceVM, &p.Sibling} {
		if *words, err = shellWords(lines[i]); err != nil {
			return err
		}
	}
	return nil
}

// shellWords splits a command line as its user's shell does.
func shellWords(line string) ([]string, error) {
	out, err := exec.Command("/bin/sh", "-c", `printf '%s\n' `+line).Output()
	if err != nil {
		return nil, fmt.Errorf("split %q: %w", line, err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n"), nil
}
