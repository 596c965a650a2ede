package vfio

import (
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"vfiofs/pci"
)

// Options are where Open looks and what it tells.
type Options struct {
	// Root stands before /dev, /sys and /proc: "" for the machine itself.
	Root string
	// Log gets what was found; nil discards it.
	Log *slog.Logger
}

// Open opens a function that a VFIO driver of the kernel has: through its IOMMU group, or
// its own device file on a system without groups. What the machine lacks is a
// *MissingError.
//
// Memory decoding and bus mastering may be off; they are the caller's to switch on, by
// the function's configuration space. A function can be opened once at a time.
func Open(addr pci.Address, opt Options) (Device, error) {
	d, err := openOn(newHost(opt.Root), addr, opt.Log)
	if err != nil {
		return nil, fmt.Errorf("open %v: %w", addr, err)
	}
	return d, nil
}

// openOn is Open on a given host.
func openOn(h *host, addr pci.Address, log *slog.Logger) (d *kernelDevice, err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if !h.exists(sysfsDevice(addr)) {
		return nil, &MissingError{Feature: "PCI function", Need: "see what there is: vfiofs vfio list --all", Err: fs.ErrNotExist}
	}
	f, err := h.sysfs().Function(addr)
	switch {
	case err != nil:
		return nil, err
	case !pci.IsVFIO(f.Driver):
		driver := f.Driver
		if driver == "" {
			driver = "none"
		}
		return nil, &MissingError{
			Feature: "a VFIO driver (bound now: " + driver + ")",
			Need:    fmt.Sprintf("bind it: vfiofs vfio bind %v", addr),
		}
	}
	way := "group"
	if name := h.cdev(addr); name != "" {
		way = "iommufd"
		d, err = openCdev(h, name)
	} else {
		d, err = openGroup(h, f)
	}
	if err == nil {
		log.Info("PCI function opened", "function", addr, "way", way, "iovas", fmt.Sprintf("%#x", d.limits.ranges))
	}
	return d, err
}

// sysfsDevice returns the directory of a function.
func sysfsDevice(addr pci.Address) string { return "/sys/bus/pci/devices/" + addr.String() }

// cdev returns the name of the function's own device file, if that is the way to open it:
// more kernels have groups, so these come first.
func (h *host) cdev(addr pci.Address) string {
	if h.exists("/dev/vfio/vfio") || !h.exists("/dev/iommu") {
		return ""
	}
	entries, err := os.ReadDir(h.path(sysfsDevice(addr) + "/vfio-dev"))
	if err != nil || len(entries) == 0 {
		return ""
	}
	return entries[0].Name()
}
