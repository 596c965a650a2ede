package pci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A Group is an IOMMU group: functions that the IOMMU can't keep apart. VFIO gives
// user space all of a group or nothing.
type Group struct {
	Number  int
	Members []Member
}

// A Member is a device of a Group. Nearly always it is a PCI function.
type Member struct {
	Name   string // its name on its bus: for a PCI function, its address
	Driver string // "" if none is bound
}

// Blocks reports whether the device's driver keeps its group from user space. Free
// devices and those of VFIO don't, nor do drivers that never do DMA of their own
// (Linux, struct device_driver.driver_managed_dma).
func (m Member) Blocks() bool {
	switch m.Driver {
	case "", "pci-stub", "pcieport":
		return false
	}
	return !IsVFIO(m.Driver)
}

// Blockers returns the members that keep the group from being viable, that is, from
// being given to user space.
func (g Group) Blockers() []Member {
	var list []Member
	for _, m := range g.Members {
		if m.Blocks() {
			list = append(list, m)
		}
	}
	return list
}

// Group returns the IOMMU group of a function. There is none without an IOMMU.
func (s Sysfs) Group(f Function) (Group, error) {
	if f.Group == noGroup {
		return Group{}, noIOMMU(f.Address)
	}
	g := Group{Number: f.Group}
	dir := filepath.Join(s.device(f.Address), "iommu_group", "devices")
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return Group{}, fmt.Errorf("IOMMU group %d: %w", g.Number, err)
	}
	for _, entry := range entries {
		g.Members = append(g.Members, Member{
			Name:   entry.Name(),
			Driver: linkName(filepath.Join(dir, entry.Name(), "driver")),
		})
	}
	return g, nil
}

// noIOMMU says that a function has no IOMMU group, and what to do.
func noIOMMU(a Address) error {
	return fmt.Errorf("PCI function %v: no IOMMU group: the machine has no IOMMU, or it is off (switch on VT-d or AMD-Vi in the firmware and boot with intel_iommu=on; a VM needs -device intel-iommu,caching-mode=on; see \"vfiofs doctor\")", a)
}

// UnsafeNoIOMMU reports whether VFIO may do without an IOMMU: then every device can
// read and write all memory.
func (s Sysfs) UnsafeNoIOMMU() bool {
	text, err := os.ReadFile(s.path("module/vfio/parameters/enable_unsafe_noiommu_mode"))
	return err == nil && strings.TrimSpace(string(text)) == "Y"
}

// HasDriver reports whether a PCI driver is there, built in or loaded.
func (s Sysfs) HasDriver(name string) bool {
	_, err := os.Stat(s.path("bus/pci/drivers/" + name))
	return err == nil
}
