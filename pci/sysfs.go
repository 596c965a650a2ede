package pci

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/u-root/u-root/pkg/pci"
)

// Sysfs is what Linux tells about PCI functions, and how drivers are bound to them.
// The zero value is this machine's. Changes need root.
type Sysfs struct {
	// Root is where sysfs is mounted; "" means /sys.
	Root string
	// State is the directory that remembers, for Unbind, which driver a function had
	// before Bind; "" means /run/vfiofs. It must not outlive a boot, as bindings don't.
	State string
	// Write writes a file of sysfs; nil writes the file itself. A test has its kernel
	// here.
	Write func(path, text string) error
}

// A Function is a PCI function as Linux knows it.
type Function struct {
	Address    Address
	Vendor     uint16
	Device     uint16
	Class      Class
	VendorName string // from the table of u-root; four digits if it isn't there
	DeviceName string
	ClassName  string
	Driver     string // "" if none is bound
	Override   string // driver_override: the only driver that may bind; "" for any
	Group      int    // IOMMU group; -1 if there is none
	Bridge     bool   // leads to other buses; can't be given to user space
	Resettable bool
	BARs       []BAR // those that have an address
}

// noGroup is Function.Group when there is no IOMMU group.
const noGroup = -1

// Flags of a line in the file resource (Linux, include/linux/ioport.h).
const (
	resourceIO       = 0x00000100 // IORESOURCE_IO
	resourceMem      = 0x00000200 // IORESOURCE_MEM
	resourcePrefetch = 0x00002000 // IORESOURCE_PREFETCH
	resourceMem64    = 0x00100000 // IORESOURCE_MEM_64
)

// IsVFIO reports whether a driver gives its functions to user space through VFIO:
// vfio-pci, or a variant of it for one kind of device.
func IsVFIO(driver string) bool {
	return strings.HasPrefix(driver, "vfio-") || strings.HasSuffix(driver, "-vfio-pci") ||
		strings.HasSuffix(driver, "_vfio_pci")
}

// List returns all functions, by address.
func (s Sysfs) List() ([]Function, error) {
	entries, err := os.ReadDir(s.path("bus/pci/devices"))
	if err != nil {
		return nil, fmt.Errorf("list PCI functions: %w", err)
	}
	var list []Function
	for _, entry := range entries {
		a, err := ParseAddress(entry.Name())
		if err != nil {
			return nil, fmt.Errorf("list PCI functions: %w", err)
		}
		f, err := s.Function(a)
		switch {
		case errors.Is(err, syscall.ENODEV), errors.Is(err, os.ErrNotExist): // unplugged meanwhile
		case err != nil:
			return nil, err
		default:
			list = append(list, f)
		}
	}
	slices.SortFunc(list, func(a, b Function) int { return a.Address.Compare(b.Address) })
	return list, nil
}

// Function returns what sysfs tells about one function; ENODEV if there is none.
func (s Sysfs) Function(a Address) (Function, error) {
	dir := s.device(a)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return Function{}, fmt.Errorf("PCI function %v: %w (\"vfiofs vfio list --all\" shows what there is)", a, syscall.ENODEV)
	}
	p, err := pci.OnePCI(dir) // u-root's
	if err != nil {
		return Function{}, fmt.Errorf("PCI function %v: %w", a, err)
	}
	f := Function{
		Address: a,
		Vendor:  p.Vendor, Device: p.Device,
		Class:  Class(p.Class),
		Driver: linkName(filepath.Join(dir, "driver")),
		Group:  noGroup,
		Bridge: Class(p.Class).bridge(),
		BARs:   assignedBARs(p.BARS),
	}
	f.VendorName, f.DeviceName = pci.Lookup(pci.IDs, f.Vendor, f.Device)
	f.ClassName = className(f.Class)
	if f.Override, err = readOverride(dir); err != nil {
		return Function{}, fmt.Errorf("PCI function %v: %w", a, err)
	}
	if name := linkName(filepath.Join(dir, "iommu_group")); name != "" {
		if f.Group, err = strconv.Atoi(name); err != nil {
			return Function{}, fmt.Errorf("PCI function %v: IOMMU group %q is no number", a, name)
		}
	}
	_, err = os.Stat(filepath.Join(dir, "reset"))
	f.Resettable = err == nil
	return f, nil
}

// className returns a name for a class. The table has whole classes and, as 8-bit
// numbers, base classes.
func className(c Class) string {
	for _, known := range []uint32{uint32(c), uint32(c) &^ 0xff, uint32(c.Base())} {
		if name, ok := pci.ClassNames[known]; ok {
			return name
		}
	}
	return c.String()
}

// assignedBARs translates the lines of the file resource. Those behind the BARs are
// the expansion ROM, windows of bridges and virtual functions.
func assignedBARs(lines []pci.BAR) []BAR {
	var bars []BAR
	for _, line := range lines {
		if line.Index >= maxBARs || line.Lim < line.Base {
			continue
		}
		bar := BAR{
			Index:        line.Index,
			Prefetchable: line.Attr&resourcePrefetch != 0,
			Address:      line.Base,
			Size:         line.Lim - line.Base + 1,
		}
		switch {
		case line.Attr&resourceIO != 0:
			bar.Kind = IO
		case line.Attr&resourceMem64 != 0:
			bar.Kind = Mem64
		case line.Attr&resourceMem != 0:
			bar.Kind = Mem32
		default:
			continue
		}
		bars = append(bars, bar)
	}
	return bars
}

// readOverride reads driver_override, which says "(null)" when it isn't set.
func readOverride(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "driver_override"))
	name := strings.TrimSpace(string(text))
	if name == "(null)" || errors.Is(err, os.ErrNotExist) { // none before Linux 3.16
		return "", nil
	}
	return name, err
}

// OpenConfig opens the configuration space of a function for reading. Without
// CAP_SYS_ADMIN only its first 64 bytes can be read.
func (s Sysfs) OpenConfig(a Address) (*os.File, error) {
	f, err := os.Open(filepath.Join(s.device(a), "config"))
	if err != nil {
		return nil, fmt.Errorf("PCI function %v: %w", a, err)
	}
	return f, nil
}

// Reset resets a function. Whoever uses it loses what it was doing.
func (s Sysfs) Reset(a Address) error {
	f, err := s.Function(a)
	if err != nil {
		return err
	}
	if !f.Resettable {
		return fmt.Errorf("PCI function %v: it has no way to be reset", a)
	}
	return s.write(Step{s.device(a) + "/reset", "1"})
}

// A Step is one write to a file of sysfs.
type Step struct{ Path, Text string }

// String returns the step as a shell command. An empty Text is a line end, which
// is how driver_override is cleared.
func (s Step) String() string {
	if s.Text == "" {
		return "echo > " + s.Path
	}
	return "echo " + s.Text + " > " + s.Path
}

func (s Sysfs) write(step Step) error {
	write := s.Write
	if write == nil {
		write = writeFile
	}
	err := write(step.Path, step.Text+"\n")
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%v: %w (only root may; is sysfs mounted read-only?)", step, err)
	}
	if err != nil {
		return fmt.Errorf("%v: %w", step, err)
	}
	return nil
}

// writeFile writes text in one write, as sysfs wants it, and never makes a file.
func writeFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return cmp.Or(err, f.Close())
}

// path returns a path below Root.
func (s Sysfs) path(name string) string { return filepath.Join(cmp.Or(s.Root, "/sys"), name) }

// device returns the directory of a function.
func (s Sysfs) device(a Address) string { return s.path("bus/pci/devices/" + a.String()) }

// linkName returns the last element of what a symbolic link points to, or "".
func linkName(path string) string {
	target, err := os.Readlink(path)
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}
