package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"vfiofs/pci"
)

// vfioDriver is the driver that bind gives functions to.
const vfioDriver = "vfio-pci"

// VFIO holds the commands that give PCI functions to user space and take them back.
type VFIO struct {
	List   VFIOList   `cmd:"" help:"Show virtio-vhost-user functions, and what is bound to VFIO."`
	Bind   VFIOBind   `cmd:"" help:"Give functions to VFIO, for vfiofs --vfio ADDR."`
	Unbind VFIOUnbind `cmd:"" help:"Take functions from VFIO and give them back to the driver they had."`
	Status VFIOStatus `cmd:"" help:"Show all about functions: driver, IOMMU group and who blocks it, BARs, interrupts."`
}

// Help is what "vfiofs vfio --help" says beyond the list of commands.
func (VFIO) Help() string {
	return `A PCI function must be bound to the kernel driver vfio-pci before "vfiofs --vfio ADDR" can drive it. All functions of its IOMMU group must be free or bound to VFIO too. Addresses are written 0000:00:07.0, 00:07.0 or pci_0000_00_07_0.

bind uses driver_override, so no other function is affected, and remembers the driver that the function had until the next boot, below /run/vfiofs. unbind gives it back. Both do nothing if there is nothing to do, and both need root.

Exit codes: 0 done, 1 failed, 2 wrong usage.`
}

// run carries out one of the commands.
func (v *VFIO) run(command string, stdout io.Writer) error {
	switch name := strings.Fields(command)[1]; name {
	case "bind":
		return v.Bind.run(v.Bind.sysfs(), stdout)
	case "unbind":
		return v.Unbind.run(v.Unbind.sysfs(), stdout)
	case "status":
		return v.Status.run(v.Status.sysfs(), stdout)
	default:
		return v.List.run(v.List.sysfs(), stdout)
	}
}

// machine is where a tool looks, and how it prints.
type machine struct {
	JSON bool   `name:"json" help:"Print JSON, for programs."`
	Root string `hidden:"" placeholder:"DIR" help:"Look for /sys, /dev, /proc and /run below this directory."`
}

// path returns where an absolute path is.
func (m machine) path(name string) string { return filepath.Join(m.Root, name) }

func (m machine) sysfs() pci.Sysfs {
	return pci.Sysfs{Root: m.path("/sys"), State: m.path("/run/vfiofs")}
}

// inUse reports whether a process has a function of an IOMMU group open: the group's
// file can be opened once.
func (m machine) inUse(group int) bool {
	for _, name := range []string{"", "noiommu-"} {
		f, err := os.OpenFile(m.path(fmt.Sprintf("/dev/vfio/%s%d", name, group)), os.O_RDWR, 0)
		if err == nil {
			f.Close()
		}
		if errors.Is(err, unix.EBUSY) {
			return true
		}
	}
	return false
}

// VFIOBind holds the options of "vfio bind".
type VFIOBind struct {
	machine
	Address []pci.Address `arg:"" name:"ADDR" help:"PCI address of a function, like 0000:00:07.0."`
	DryRun  bool          `help:"Print what would be written to sysfs, and write nothing."`
	Force   bool          `help:"Also bind functions that don't look like virtio-vhost-user, and so take them from this machine."`
}

// run binds all functions, or as many as it can.
func (b *VFIOBind) run(sysfs pci.Sysfs, stdout io.Writer) error {
	return b.change(b.Address, stdout, func(a pci.Address) (change, error) {
		c := change{Address: a}
		f, err := sysfs.Function(a)
		if err != nil {
			return c, err
		}
		if !b.Force && vvuNames[id(f)] == "" && !pci.IsVFIO(f.Driver) {
			return c, fmt.Errorf("PCI function %v: it is no virtio-vhost-user function but %s (%s): with --force it is bound all the same, and this machine can't use it meanwhile", a, id(f), describe(f))
		}
		c.From, c.To = f.Driver, cmp.Or(vfioName(f.Driver), vfioDriver)
		steps, err := sysfs.PlanBind(a, c.To)
		if err != nil {
			return c, err
		}
		c.plan(steps)
		if err := b.viable(sysfs, f); err != nil || b.DryRun {
			return c, err
		}
		return c, sysfs.Bind(a, c.To)
	}, b.JSON, b.DryRun)
}

// vfioName returns driver if it belongs to VFIO: a variant of vfio-pci stays.
func vfioName(driver string) string {
	if pci.IsVFIO(driver) {
		return driver
	}
	return ""
}

// viable says who would block the IOMMU group of f once all of b.Address are bound.
func (b *VFIOBind) viable(sysfs pci.Sysfs, f pci.Function) error {
	if f.Group < 0 {
		return nil // then the mode without an IOMMU is on, or PlanBind had refused
	}
	group, err := sysfs.Group(f)
	if err != nil {
		return err
	}
	rest := blockers(group, b.Address...)
	if len(rest) == 0 {
		return nil
	}
	return fmt.Errorf("PCI function %v: its IOMMU group %d also holds %s, and VFIO gives out whole groups: bind these too, or put the function on another slot or bus", f.Address, group.Number, strings.Join(rest, ", "))
}

// VFIOUnbind holds the options of "vfio unbind".
type VFIOUnbind struct {
	machine
	Address []pci.Address `arg:"" name:"ADDR" help:"PCI address of a function, like 0000:00:07.0."`
	DryRun  bool          `help:"Print what would be written to sysfs, and write nothing."`
}

// run unbinds all functions, or as many as it can.
func (u *VFIOUnbind) run(sysfs pci.Sysfs, stdout io.Writer) error {
	return u.change(u.Address, stdout, func(a pci.Address) (change, error) {
		c := change{Address: a}
		f, err := sysfs.Function(a)
		if err != nil {
			return c, err
		}
		steps, err := sysfs.PlanUnbind(a)
		if err != nil {
			return c, err
		}
		c.From, c.To = f.Driver, f.Driver
		c.plan(steps)
		if len(steps) > 0 {
			c.To, _, err = sysfs.Previous(a)
			if err != nil {
				return c, err
			}
			if u.inUse(f.Group) {
				return c, fmt.Errorf("PCI function %v: a process uses its IOMMU group %d, and the kernel would wait for it: end it first", a, f.Group)
			}
		}
		if u.DryRun {
			return c, nil
		}
		if err := sysfs.Unbind(a); err != nil {
			return c, err
		}
		now, err := sysfs.Function(a)
		c.To = now.Driver
		return c, err
	}, u.JSON, u.DryRun)
}

// A change is what happened to one function, or would happen.
type change struct {
	Address pci.Address `json:"address"`
	From    string      `json:"from"` // driver; "" for none
	To      string      `json:"to"`
	Changed bool        `json:"changed"` // or would be, with --dry-run
	Steps   []string    `json:"steps"`   // shell commands that do the same
	Error   string      `json:"error,omitempty"`
}

func (c *change) plan(steps []pci.Step) {
	c.Steps = []string{}
	for _, step := range steps {
		c.Steps = append(c.Steps, step.String())
	}
	c.Changed = len(steps) > 0
}

// String tells what happened.
func (c change) String() string {
	if !c.Changed {
		return fmt.Sprintf("%v: nothing to do: driver %s", c.Address, cmp.Or(c.To, "none"))
	}
	return fmt.Sprintf("%v: driver %s, was %s", c.Address, cmp.Or(c.To, "none"), cmp.Or(c.From, "none"))
}

// change does one thing to each address, prints what happened, and returns what went
// wrong. A failure doesn't keep the others from being tried.
func (m machine) change(list []pci.Address, stdout io.Writer, do func(pci.Address) (change, error), asJSON, dry bool) error {
	var failed error
	changes := []change{}
	for _, a := range list {
		c, err := do(a)
		if err != nil {
			failed = errors.Join(failed, err)
			c = change{Address: a, From: c.From, To: c.From, Steps: []string{}, Error: err.Error()}
		}
		changes = append(changes, c)
	}
	if asJSON {
		return errors.Join(failed, writeJSON(stdout, changes))
	}
	for _, c := range changes {
		if c.Error != "" {
			continue
		}
		if dry && c.Changed {
			fmt.Fprintln(stdout, strings.Join(c.Steps, "\n"))
			continue
		}
		fmt.Fprintln(stdout, c)
	}
	return failed
}
