package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"vfiofs/internal/vmtest"
	"vfiofs/internal/vmtest/plan"
)

// runNested shows a directory of a device VM in its sibling.
func runNested(ctx context.Context, program string, shell bool) (err error) {
	lab, err := vmtest.FindLab()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vfiofs-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p, err := vmtest.StartProxy(program, dir, "512M")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	say("the proxy is all that this host runs: no file server, no shared directory")

	n := nested{ctx: ctx, lab: lab, proxy: p}
	if err := n.run(shell); err != nil {
		return withLog(err, p.Daemon)
	}
	return nil
}

// A nested is the two guests of a proxy.
type nested struct {
	ctx   context.Context
	lab   *vmtest.Lab
	proxy *vmtest.Proxy
}

const fromDevice, fromSibling = "Hello from the device VM.\n", "Hello from the sibling.\n"

func (n *nested) run(shell bool) error {
	device, err := n.boot(n.deviceVM())
	if err != nil {
		return err
	}
	defer device.Close()
	steps := n.deviceVM().Steps
	for _, step := range []string{"kernel", "bind", "write"} {
		if _, err := show(device, "device", step, steps); err != nil {
			return err
		}
	}
	if _, err := device.Expect(time.Minute, plan.Ready, "serve"); err != nil {
		return err
	}
	if status, _, ended := device.Status("serve"); ended {
		out, _ := device.Output("serve")
		return fmt.Errorf("vfiofs in the device VM has ended with status %d\n%s", status, out)
	}
	fmt.Printf("device# %s &\n", strings.TrimPrefix(strings.Join(vmtest.ServeFunction("serve", "/srv").Args, " "), "/bin/"))
	say("vfiofs runs in the device VM and waits for a sibling")

	if shell {
		return n.shell()
	}
	if err := n.sibling(); err != nil {
		return err
	}
	if err := device.Send(plan.Go, "read"); err != nil {
		return err
	}
	if err := expect(device, "device", "read", steps, fromSibling); err != nil {
		return err
	}
	if err := device.Wait(time.Minute); err != nil {
		return err
	}
	say("the device VM has powered off, QEMU ended %.1f s later", device.Linger().Seconds())
	say("it works: what one virtual machine writes, the other reads")
	return nil
}

// deviceVM has an IOMMU and the function; vfiofs in it serves a directory of its own.
func (n *nested) deviceVM() vmtest.VM {
	read := command("read", "cat /srv/reply.txt")
	read.Await = true
	return vmtest.VM{
		Name: "the device VM", Machine: n.proxy.DeviceVM,
		Modules:  vmtest.VFIOModules(),
		Mounts:   []plan.Mount{{Source: "srv", Target: "/srv", Type: "tmpfs"}},
		Programs: []vmtest.Program{{Name: "vfiofs", Package: "vfiofs/cmd/vfiofs"}},
		Files:    map[string]string{"/bin/busybox": n.lab.Busybox},
		Steps: []plan.Step{
			installBusybox(),
			command("kernel", "uname -sr"),
			command("bind", "vfiofs vfio bind "+vmtest.ProxyFunction),
			command("write", "echo 'Hello from the device VM.' > /srv/hello.txt"),
			vmtest.ServeFunction("serve", "/srv"),
			read,
		},
	}
}

// siblingVM is a guest like any other: it sees a virtio-fs device.
func (n *nested) siblingVM(steps ...plan.Step) vmtest.VM {
	return vmtest.VM{
		Name: "the sibling", Machine: n.proxy.Sibling,
		Mounts: []plan.Mount{{Source: vmtest.ProxyTag, Target: "/mnt", Type: "virtiofs"}},
		Files:  map[string]string{"/bin/busybox": n.lab.Busybox},
		Steps:  append([]plan.Step{installBusybox()}, steps...),
	}
}

func (n *nested) boot(vm vmtest.VM) (*vmtest.Machine, error) {
	say("booting %s: Linux %s in QEMU %s", vm.Name, n.lab.Kernels[0].Release, n.lab.QEMUVersion)
	began := time.Now()
	m, err := vmtest.Boot(n.ctx, n.lab, vm)
	if err == nil {
		say("%s is up after %.1f s", vm.Name, time.Since(began).Seconds())
	}
	return m, err
}

// sibling boots the sibling for one look and one answer.
func (n *nested) sibling() error {
	vm := n.siblingVM(
		command("mount", "grep virtiofs /proc/mounts"),
		command("read", "cat /mnt/hello.txt"),
		command("write", "echo 'Hello from the sibling.' > /mnt/reply.txt; ls -l /mnt"),
	)
	m, err := n.boot(vm)
	if err != nil {
		return err
	}
	defer m.Close()
	if _, err := show(m, "sibling", "mount", vm.Steps); err != nil {
		return err
	}
	if err := expect(m, "sibling", "read", vm.Steps, fromDevice); err != nil {
		return err
	}
	if _, err := show(m, "sibling", "write", vm.Steps); err != nil {
		return err
	}
	if err := m.Wait(time.Minute); err != nil {
		return err
	}
	say("the sibling has powered off, QEMU ended %.1f s later", m.Linger().Seconds())
	return nil
}

// shell gives the user a shell in the sibling.
func (n *nested) shell() error {
	say("leave the shell with \"exit\"; it starts in /mnt, which is a directory of the device VM")
	vm := n.siblingVM(plan.Step{Name: "shell", Console: true, Args: []string{"/bin/sh", "-c", "cd /mnt && exec sh -i"}})
	vm.Console = true
	m, err := n.boot(vm)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Wait(24 * time.Hour)
}
