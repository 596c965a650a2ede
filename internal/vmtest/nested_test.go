package vmtest_test

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"vfiofs/internal/testkit"
	"vfiofs/internal/vmtest"
	"vfiofs/internal/vmtest/guesttest"
	"vfiofs/internal/vmtest/plan"
)

// startProxy starts "vfiofs proxy", built from this tree, for siblings with 512 MiB.
// Its log is shown if the test fails, and it must stop in good order.
func startProxy(t *testing.T, program string) *vmtest.Proxy {
	t.Helper()
	// t.TempDir is too long for a socket's path.
	dir, err := os.MkdirTemp("", "vvu-")
	testkit.Check(t, err)
	p, err := vmtest.StartProxy(program, dir, "512M")
	testkit.Check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	stopAtEnd(t, p.Daemon)
	return p
}

// deviceVM is a guest in which vfiofs serves /srv, an ext4, through the function of p,
// as step "serve", with more steps after it.
func deviceVM(t *testing.T, lab *vmtest.Lab, p *vmtest.Proxy, steps ...plan.Step) vmtest.VM {
	t.Helper()
	return vmtest.VM{
		Name: "device VM", Machine: p.DeviceVM, Disks: []string{disk(t, lab)},
		Modules:  append(vmtest.VFIOModules(), "virtio_blk"),
		Mounts:   []plan.Mount{{Source: "/dev/vda", Target: "/srv", Type: "ext4"}},
		Programs: []vmtest.Program{{Name: "vfiofs", Package: "vfiofs/cmd/vfiofs"}, suite},
		Steps: append([]plan.Step{
			{Name: "bind", Args: []string{"/bin/vfiofs", "vfio", "bind", vmtest.ProxyFunction}},
			vmtest.ServeFunction("serve", "/srv", "--log-level", "debug"),
		}, steps...),
	}
}

// siblingVM is a guest that mounts the share at /mnt.
func siblingVM(p *vmtest.Proxy, steps ...plan.Step) vmtest.VM {
	return vmtest.VM{
		Name: "sibling", Machine: p.Sibling, Programs: []vmtest.Program{suite}, Steps: steps,
		Mounts: []plan.Mount{{Source: vmtest.ProxyTag, Target: "/mnt", Type: "virtiofs"}},
	}
}

// disk makes an image of 1 GiB with an ext4: O_DIRECT is real there; on tmpfs it is not.
func disk(t *testing.T, lab *vmtest.Lab) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "ext4.img")
	testkit.Check(t, lab.Ext4(image, "1G"))
	return image
}

// ready waits until a background step is ready, and checks that it runs.
func ready(t *testing.T, m *vmtest.Machine, step string) {
	t.Helper()
	_, err := m.Expect(time.Minute, plan.Ready, step)
	testkit.Check(t, err)
	if status, _, ended := m.Status(step); ended {
		out, _ := m.Output(step)
		t.Fatalf("step %s has ended with status %d\n%s", step, status, out)
	}
}

// succeeded waits for the end of a step, which must be a good one.
func succeeded(t *testing.T, m *vmtest.Machine, step string) {
	t.Helper()
	line, err := m.Expect(time.Minute, plan.Exit, step)
	testkit.Check(t, err)
	if fields := strings.Fields(line); fields[2] != "0" {
		out, _ := m.Output(step)
		t.Fatalf("step %s: exit status %s; want 0\n%s", step, fields[2], out)
	}
}

// TestNested runs the guest suite on a sibling VM, against vfiofs in a device VM: real
// QEMU, real kernels, real VFIO.
func TestNested(t *testing.T) {
	const size = 64 << 20
	lab := vmtest.Find(t)
	program := build(t)
	p := startProxy(t, program)

	sizeArg := "-size=" + strconv.Itoa(size)
	after := vmtest.Test("far", "suite", "^TestFarCheck$", "-far=/srv", sizeArg)
	after.Await = true
	device := deviceVM(t, lab, p,
		vmtest.Test("prepare", "suite", "^TestFarPrepare$", "-far=/srv", sizeArg), after)
	withHardwareLab(t, lab, &device)
	d := vmtest.Start(t, lab, device)
	succeeded(t, d, "hw-lab")
	succeeded(t, d, "bind")
	ready(t, d, "serve")
	succeeded(t, d, "prepare")

	sum, err := guesttest.FarBytes(io.Discard, size)
	testkit.Check(t, err)
	steps := []plan.Step{
		vmtest.Test("posix", "suite", "^TestPosix$", "-dir=/mnt"),
		vmtest.Test("write", "suite", "^TestWrite$", "-dir=/mnt", sizeArg),
		vmtest.Test("read", "suite", "^TestRead$", "-dir=/mnt", "-sum="+sum),
		vmtest.Test("direct", "suite", "^TestDirect$", "-dir=/mnt"),
		vmtest.Test("small", "suite", "^TestSmallFiles$", "-dir=/mnt"),
	}
	s := vmtest.Start(t, lab, siblingVM(p, steps...))
	poweredOff(t, s, time.Minute)
	for _, step := range steps {
		s.Report(t, step.Name)
	}

	_, err = d.Expect(time.Minute, plan.Await, "far")
	testkit.Check(t, err)
	testkit.Check(t, d.Send(plan.Go, "far"))
	poweredOff(t, d, time.Minute)
	d.Report(t, "far")
	// The hardware lab leaves no trace: the function has its own driver again.
	if out, err := d.Output("hw-lab"); !strings.HasSuffix(string(out), ": driver virtio-pci, was vfio-pci\n") || t.Failed() {
		t.Errorf("Output(hw-lab) = %v\n%s\nwant the last line to say that virtio-pci is back", err, out)
	}
	if status, _, _ := d.Status("serve"); status != 0 || t.Failed() {
		out, _ := d.Output("serve")
		t.Errorf("vfiofs ended with status %d; want 0\n%s", status, out)
	}
	if !p.Running() {
		t.Error("the proxy has ended")
	}
}

// withHardwareLab lets scripts/hw-lab give the function to vfiofs and take it back,
// before anything else happens.
func withHardwareLab(t *testing.T, lab *vmtest.Lab, vm *vmtest.VM) {
	t.Helper()
	script, err := filepath.Abs("../../scripts/hw-lab")
	testkit.Check(t, err)
	vm.Files = map[string]string{"/bin/busybox": lab.Busybox, "/bin/hw-lab": script}
	vm.Steps = append([]plan.Step{
		{Name: "busybox", Args: []string{"/bin/busybox", "--install", "-s", "/bin"}},
		{Name: "hw-lab", Args: []string{"/bin/sh", "/bin/hw-lab", "--check", vmtest.ProxyFunction, "/srv", "lab"}},
	}, vm.Steps...)
}

// TestNestedRestarts kills each party ten times while a sibling writes: the sibling,
// vfiofs in the device VM, the device VM. The proxy goes on, and the next sibling
// mounts and works. With -short it is twice each.
func TestNestedRestarts(t *testing.T) {
	lab := vmtest.Find(t)
	rounds := 10
	if testing.Short() {
		rounds = 2
	}
	p := startProxy(t, build(t))
	n := nested{t: t, lab: lab, device: deviceVM(t, lab, p, plan.Step{Name: "end", Await: true}), sibling: siblingVM(p,
		vmtest.Test("once", "suite", "^TestOnce$", "-dir=/mnt"),
		plan.Step{
			Name: "busy", Args: []string{"/bin/suite", "-test.run=^TestBusy$", "-dir=/mnt"},
			Background: true, Says: "busy",
		},
		plan.Step{Name: "end", Await: true},
	)}
	testkit.Check(t, n.device.Pack(t.Context(), lab, t.TempDir()))
	testkit.Check(t, n.sibling.Pack(t.Context(), lab, t.TempDir()))

	n.bootDevice()
	for _, round := range []struct {
		victim string
		kill   func()
	}{
		{"sibling", func() {}},
		{"vfiofs", n.restartServer},
		{"device VM", n.restartDevice},
	} {
		for i := range rounds {
			began := time.Now()
			s := n.bootSibling()
			round.kill()
			testkit.Check(t, s.Close()) // its QEMU can't do without the server, even with a new one
			t.Logf("killed %s, time %d: %.1f s", round.victim, i+1, time.Since(began).Seconds())
			if !p.Running() {
				t.Fatal("the proxy has ended")
			}
		}
	}

	// And after all that a life that ends well.
	s := n.bootSibling()
	testkit.Check(t, s.Send(plan.Go, "end"))
	poweredOff(t, s, time.Minute)
	testkit.Check(t, n.d.Send(plan.Go, "end"))
	poweredOff(t, n.d, time.Minute)
	if status, _, _ := n.d.Status("serve"); status != 0 {
		t.Errorf("vfiofs ended with status %d; want 0", status)
	}
}

// A nested is what TestNestedRestarts kills.
type nested struct {
	t       *testing.T
	lab     *vmtest.Lab
	device  vmtest.VM
	sibling vmtest.VM
	d       *vmtest.Machine // the device VM that runs
}

func (n *nested) bootDevice() {
	n.d = vmtest.Start(n.t, n.lab, n.device)
	ready(n.t, n.d, "serve")
}

// bootSibling returns when the sibling is in the middle of its work.
func (n *nested) bootSibling() *vmtest.Machine {
	s := vmtest.Start(n.t, n.lab, n.sibling)
	succeeded(n.t, s, "once")
	ready(n.t, s, "busy")
	return s
}

func (n *nested) restartServer() {
	testkit.Check(n.t, n.d.Send(plan.Kill, "serve"))
	_, err := n.d.Expect(time.Minute, plan.Exit, "serve")
	testkit.Check(n.t, err)
	testkit.Check(n.t, n.d.Send(plan.Start, "serve"))
	_, err = n.d.Expect(time.Minute, plan.Ready, "serve")
	testkit.Check(n.t, err)
}

func (n *nested) restartDevice() {
	testkit.Check(n.t, n.d.Close())
	n.bootDevice()
}
