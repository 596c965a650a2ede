package vmtest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vfiofs/internal/vmtest/plan"
)

// A VM describes a guest. The zero value boots the oldest kernel of the lab and
// powers off.
type VM struct {
	Name   string // for messages; "guest" if empty
	Kernel Kernel // the lab's first if zero
	CPUs   int    // 1 if zero
	MemMiB int    // 512 if zero

	// Machine is QEMU's arguments for the machine, its memory and what must come before
	// other devices, such as those of a Proxy. A q35 with memory of its own if nil; CPUs
	// counts, MemMiB does not.
	Machine []string
	Disks   []string // raw images: /dev/vda, /dev/vdb, ...

	Mounts   []plan.Mount // made before those of Shares
	Shares   []Share
	Programs []Program
	Files    map[string]string // other files: path in the guest -> file of the host
	Modules  []string          // by name, in load order, each with what it needs before it
	Steps    []plan.Step
	Collect  []string // guest directories that Machine.Files returns
	Hold     bool     // the guest asks how to end: Machine.Send(plan.PowerOff) or plan.Reboot

	Archive string // made by Pack, for a guest that is booted many times; by Boot if empty

	Reboots bool     // a reboot restarts the guest; else it ends QEMU
	Console bool     // the console is this process's terminal, not a file
	Append  string   // added to the kernel's command line
	Args    []string // added to QEMU's
}

// A Share is a directory that some server offers on a vhost-user socket.
type Share struct {
	Socket string
	Tag    string
	Queues int    // request queues; 1 if zero
	Mount  string // where the guest mounts it; not at all if empty
}

// A Program is a Go package of this module, built for the guest as /bin/NAME.
type Program struct {
	Name    string
	Package string // import path
	Test    bool   // its test binary
	Cover   bool   // with coverage of the whole module, to /cov; a Test needs -test.gocoverdir=/cov too
}

// Test returns the step that runs the tests of a Program whose names match run.
func Test(step, program, run string, args ...string) plan.Step {
	return plan.Step{Name: step, Args: append([]string{
		"/bin/" + program, "-test.v=test2json", "-test.timeout=20m", "-test.run=" + run,
	}, args...)}
}

// kernelArgs keeps the boot short and its failures visible. Under emulation on a
// busy host the timer check fails by chance, hence no_timer_check.
const kernelArgs = "console=ttyS0 panic=-1 quiet rdinit=/init no_timer_check tsc=reliable " +
	"nokaslr mitigations=off audit=0 cryptomgr.notests"

// Pack makes the archive of a guest in dir, and lets every later Boot use it.
func (vm *VM) Pack(ctx context.Context, lab *Lab, dir string) error {
	vm.fill(lab)
	file := filepath.Join(dir, "initrd")
	if err := vm.writeArchive(ctx, dir, file); err != nil {
		return fmt.Errorf("archive of %s: %w", vm.Name, err)
	}
	vm.Archive = file
	return nil
}

// fill replaces zeroes by what they stand for.
func (vm *VM) fill(lab *Lab) {
	vm.Name = cmp.Or(vm.Name, "guest")
	vm.Kernel = cmp.Or(vm.Kernel, lab.Kernels[0])
	vm.CPUs, vm.MemMiB = cmp.Or(vm.CPUs, 1), cmp.Or(vm.MemMiB, 512)
	if vm.Machine == nil {
		mem := strconv.Itoa(vm.MemMiB) + "M"
		vm.Machine = []string{
			"-machine", "q35,memory-backend=mem", "-m", mem,
			"-object", "memory-backend-memfd,id=mem,share=on,size=" + mem,
		}
	}
}

// writeArchive builds the guest's programs and packs them with its plan.
func (vm *VM) writeArchive(ctx context.Context, dir, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	a := newArchive(f)

	programs := append([]Program{{Name: "init", Package: "vfiofs/internal/vmtest/guestinit"}}, vm.Programs...)
	for i, p := range programs {
		bin := filepath.Join(dir, "bin-"+p.Name)
		if err := p.build(ctx, bin); err != nil {
			return err
		}
		name := "/bin/" + p.Name
		if i == 0 {
			name = "/init"
		}
		a.hostFile(name, bin)
	}
	for _, name := range slices.Sorted(maps.Keys(vm.Files)) {
		a.hostFile(name, vm.Files[name])
	}
	a.dir("/cov")

	pl := plan.Plan{Mounts: slices.Clone(vm.Mounts), Steps: vm.Steps, Collect: vm.Collect, Hold: vm.Hold}
	for _, name := range vm.Modules {
		file, err := vm.Kernel.module(name)
		if err != nil {
			return err
		}
		if file == "" {
			continue // built in
		}
		inGuest := "/lib/modules/" + filepath.Base(file)
		a.hostFile(inGuest, file)
		pl.Modules = append(pl.Modules, inGuest)
	}
	for _, s := range vm.Shares {
		if s.Mount != "" {
			pl.Mounts = append(pl.Mounts, plan.Mount{Source: s.Tag, Target: s.Mount, Type: "virtiofs"})
		}
	}
	b, err := json.MarshalIndent(pl, "", "\t")
	if err != nil {
		return err
	}
	a.bytes(plan.Path, 0o644, b)
	if err := a.close(); err != nil {
		return err
	}
	return f.Close()
}

// build compiles the program as a static binary. The archive is unpacked by an
// emulated CPU, so it carries no symbols.
func (p Program) build(ctx context.Context, out string) error {
	args := []string{"build"}
	if p.Test {
		args = []string{"test", "-c"}
	}
	if p.Cover {
		args = append(args, "-cover", "-coverpkg=vfiofs/...")
	}
	args = append(args, "-ldflags=-s -w", "-o", out, p.Package)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s for the guest: %w\n%s", p.Package, err, msg)
	}
	return nil
}

// qemuArgs is the whole command line after the program. Nothing of QEMU's defaults
// is used, so that a guest has the same hardware everywhere.
func (vm *VM) qemuArgs(accel, dir string) []string {
	console := "file,id=console,path=" + filepath.Join(dir, "console")
	if vm.Console {
		console = "stdio,id=console,signal=off"
	}
	args := slices.Concat([]string{"-nodefaults", "-no-user-config", "-nic", "none", "-display", "none"}, vm.Machine, []string{
		"-accel", accel, "-cpu", "max", "-smp", strconv.Itoa(vm.CPUs),
		"-kernel", vm.Kernel.Image, "-initrd", vm.Archive,
		"-append", strings.TrimSpace(kernelArgs + " " + vm.Append),
		"-chardev", console, "-serial", "chardev:console",
		"-chardev", "socket,id=qmp,path=" + filepath.Join(dir, "qmp.sock"), "-mon", "chardev=qmp,mode=control",
		"-device", "virtio-serial-pci",
	})
	port := func(name, chardev string) {
		args = append(args, "-chardev", chardev+",id="+name, "-device", "virtserialport,chardev="+name+",name="+name)
	}
	port(plan.PortControl, "socket,path="+filepath.Join(dir, "ctl.sock"))
	port(plan.PortOutput, "file,path="+filepath.Join(dir, "out"))
	port(plan.PortFiles, "file,path="+filepath.Join(dir, "art.tar"))
	for i, s := range vm.Shares {
		id := "fs" + strconv.Itoa(i)
		args = append(args, "-chardev", "socket,id="+id+",path="+s.Socket, "-device",
			fmt.Sprintf("vhost-user-fs-pci,chardev=%s,tag=%s,queue-size=1024,num-request-queues=%d", id, s.Tag, max(s.Queues, 1)))
	}
	for i, file := range vm.Disks {
		id := "disk" + strconv.Itoa(i)
		args = append(args, "-blockdev", "raw,node-name="+id+",file.driver=file,file.filename="+file, "-device", "virtio-blk-pci,drive="+id)
	}
	if !vm.Reboots {
		args = append(args, "-no-reboot")
	}
	return append(args, vm.Args...)
}
