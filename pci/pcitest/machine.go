// Package pcitest makes machines with PCI functions for tests: a directory like
// sysfs, and a kernel that acts on what is written to it.
//
//	Machine{Functions, Drivers} ─► Create ─► files below Root/sys
//	                                              ▲ links change
//	pci.Sysfs{Write: Machine.Write} ─► Write ─────┘
//
// The kernel binds and unbinds drivers as drivers_probe, driver/unbind and
// driver_override ask, takes resets, and refuses all other writes. A Machine belongs to
// one goroutine.
//
// Spec: Linux, Documentation/ABI/testing/sysfs-bus-pci.
package pcitest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"vfiofs/pci"
)

// A Machine is a kernel with PCI functions and drivers.
type Machine struct {
	Root      string // an empty directory; sysfs is in its directory sys
	Drivers   []Driver
	Functions []Function
	// Writes are all that was written, as "file text", with files relative to sysfs.
	Writes []string
}

// A Driver is one that the kernel has.
type Driver struct {
	Name    string
	Matches func(Function) bool // what it takes by itself; nil: nothing
	Refuses error               // what its probe returns
}

// A Function is a PCI function to be.
type Function struct {
	Address        string
	Vendor, Device uint16
	Class          uint32
	Driver         string // "" for none
	Group          int    // IOMMU group; 0 for none
	Config         []byte // configuration space
	Resource       string // the lines of the file resource; "" for no BARs
	NoReset        bool
}

// Sysfs returns the machine's sysfs, with its kernel behind it.
func (m *Machine) Sysfs() pci.Sysfs {
	return pci.Sysfs{Root: m.path(""), State: filepath.Join(m.Root, "run/vfiofs"), Write: m.Write}
}

// path returns where a file of sysfs is.
func (m *Machine) path(name string) string { return filepath.Join(m.Root, "sys", name) }

func (m *Machine) device(address string) string { return m.path("bus/pci/devices/" + address) }

// Create writes the files of the machine.
func (m *Machine) Create() error {
	for _, dir := range []string{"bus/pci/devices", "bus/pci/drivers", "kernel/iommu_groups", "class/iommu", "module/vfio/parameters"} {
		if err := os.MkdirAll(m.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(m.path("bus/pci/drivers_probe"), nil, 0o644); err != nil {
		return err
	}
	for _, d := range m.Drivers {
		if err := os.Mkdir(m.path("bus/pci/drivers/"+d.Name), 0o755); err != nil {
			return err
		}
	}
	for _, f := range m.Functions {
		if err := m.plug(f); err != nil {
			return err
		}
	}
	return nil
}

// plug makes the directory of a function.
func (m *Machine) plug(f Function) error {
	dir := m.device(f.Address)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	files := map[string]string{
		"vendor":          fmt.Sprintf("0x%04x\n", f.Vendor),
		"device":          fmt.Sprintf("0x%04x\n", f.Device),
		"class":           fmt.Sprintf("0x%06x\n", f.Class),
		"irq":             "0\n",
		"resource":        f.Resource,
		"driver_override": "(null)\n",
		"config":          string(f.Config),
		"reset":           "",
	}
	if f.Resource == "" {
		files["resource"] = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
	}
	if f.NoReset {
		delete(files, "reset")
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if f.Driver != "" {
		if err := m.link(f.Address, f.Driver); err != nil {
			return err
		}
	}
	if f.Group == 0 {
		return nil
	}
	group := fmt.Sprintf("kernel/iommu_groups/%d", f.Group)
	return errors.Join(
		os.MkdirAll(m.path(group+"/devices"), 0o755),
		os.Symlink("../../../../"+group, filepath.Join(dir, "iommu_group")),
		os.Symlink("../../../../bus/pci/devices/"+f.Address, m.path(group+"/devices/"+f.Address)),
	)
}

// link binds a driver.
func (m *Machine) link(address, driver string) error {
	return os.Symlink("../../drivers/"+driver, filepath.Join(m.device(address), "driver"))
}

// Write is what a write to a file of sysfs does. Set it as pci.Sysfs.Write.
func (m *Machine) Write(path, text string) error {
	name, err := filepath.Rel(m.path("bus/pci"), path)
	if err != nil {
		return err
	}
	value := strings.TrimSuffix(text, "\n")
	if value == text {
		return fmt.Errorf("write %q to %s: it doesn't end with a line end", text, name)
	}
	m.Writes = append(m.Writes, name+" "+value)
	if name == "drivers_probe" {
		return m.probe(value)
	}
	if _, err := os.Stat(path); err != nil && filepath.Base(path) != "unbind" {
		return err
	}
	dir, file := filepath.Dir(path), filepath.Base(path)
	switch file {
	case "driver_override":
		if value == "" {
			value = "(null)"
		}
		return os.WriteFile(path, []byte(value+"\n"), 0o644)
	case "unbind":
		if filepath.Base(filepath.Dir(dir)) != value {
			return syscall.ENODEV
		}
		return os.Remove(dir)
	case "reset":
		return nil
	}
	return syscall.EACCES
}

// probe binds a driver to a function that has none: the one that driver_override
// names, or the first that matches.
func (m *Machine) probe(address string) error {
	i := slices.IndexFunc(m.Functions, func(f Function) bool { return f.Address == address })
	if i < 0 {
		return syscall.ENODEV
	}
	f := m.Functions[i]
	if _, err := os.Lstat(filepath.Join(m.device(address), "driver")); err == nil {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(m.device(address), "driver_override"))
	if err != nil {
		return err
	}
	override := strings.TrimSpace(string(text))
	for _, d := range m.Drivers {
		switch {
		case override != "(null)" && override != d.Name:
		case override == "(null)" && (d.Matches == nil || !d.Matches(f)):
		case d.Refuses != nil:
			return d.Refuses
		default:
			return m.link(address, d.Name)
		}
	}
	return nil
}
