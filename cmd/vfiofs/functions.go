package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"vfiofs/pci"
)

// vvuNames are the ids that virtio-vhost-user functions have had (virtio-vhost-user.md
// 2.1). All but the first have other owners by now.
var vvuNames = map[string]string{
	"1af4:107d": "virtio-vhost-user",
	"1af4:1058": "virtio-vhost-user as of 2018, or virtio-mem",
	"1af4:106a": "virtio-vhost-user as of 2021, or virtio RDMA",
	"1af4:106b": "virtio-vhost-user as of 2022, or virtio camera",
}

// id returns vendor and device as lspci -n does.
func id(f pci.Function) string { return fmt.Sprintf("%04x:%04x", f.Vendor, f.Device) }

// describe says in words what a function is.
func describe(f pci.Function) string {
	return cmp.Or(vvuNames[id(f)], f.VendorName+" "+f.DeviceName)
}

// What a function is to vfiofs.
const (
	stateReady   = "ready"   // vfiofs --vfio can use it
	stateUnbound = "unbound" // after vfio bind, it could
	stateBlocked = "blocked" // another device of its group is in the way
	stateNoIOMMU = "no-iommu"
	stateBridge  = "bridge"
)

// A report is all that list and status know about a function.
type report struct {
	Address    pci.Address `json:"address"`
	ID         string      `json:"id"`
	Name       string      `json:"name"`
	Class      string      `json:"class"`
	State      string      `json:"state"`
	VVU        bool        `json:"virtio_vhost_user"` // going by its id
	Driver     string      `json:"driver"`
	Override   string      `json:"driver_override"`
	Previous   *string     `json:"previous_driver,omitempty"` // what unbind restores, if bind remembered it
	Group      int         `json:"iommu_group"`               // -1 if there is none
	Members    []string    `json:"group_members"`
	Blockers   []string    `json:"blockers"`
	InUse      bool        `json:"in_use"` // a process has the group open
	Resettable bool        `json:"resettable"`
	Vectors    int         `json:"msix_vectors"`
	BARs       []bar       `json:"bars"`
	note       string      // why something is not known
}

type bar struct {
	Index        int         `json:"index"`
	Kind         pci.BARKind `json:"kind"`
	Prefetchable bool        `json:"prefetchable"`
	Size         uint64      `json:"size"`
}

// inspect collects all about a function.
func (m machine) inspect(sysfs pci.Sysfs, f pci.Function) (report, error) {
	r := report{
		Address: f.Address, ID: id(f), Name: describe(f), Class: f.ClassName,
		VVU:    vvuNames[id(f)] != "",
		Driver: f.Driver, Override: f.Override, Group: f.Group,
		Members: []string{}, Blockers: []string{},
		Resettable: f.Resettable, BARs: []bar{},
	}
	for _, b := range f.BARs {
		r.BARs = append(r.BARs, bar{b.Index, b.Kind, b.Prefetchable, b.Size})
	}
	if f.Group >= 0 {
		group, err := sysfs.Group(f)
		if err != nil {
			return report{}, err
		}
		for _, member := range group.Members {
			r.Members = append(r.Members, memberText(member))
		}
		r.Blockers = append(r.Blockers, blockers(group, f.Address)...)
		r.InUse = pci.IsVFIO(f.Driver) && m.inUse(f.Group)
	}
	switch driver, known, err := sysfs.Previous(f.Address); {
	case err != nil:
		return report{}, err
	case known:
		r.Previous = &driver
	}
	var err error
	if r.Vectors, err = vectors(sysfs, f.Address); err != nil {
		r.note = err.Error()
	}
	switch {
	case f.Bridge:
		r.State = stateBridge
	case f.Group < 0 && !sysfs.UnsafeNoIOMMU():
		r.State = stateNoIOMMU
	case len(r.Blockers) > 0:
		r.State = stateBlocked
	case pci.IsVFIO(f.Driver):
		r.State = stateReady
	default:
		r.State = stateUnbound
	}
	return r, nil
}

// vectors returns how many MSI-X vectors a function has.
func vectors(sysfs pci.Sysfs, a pci.Address) (int, error) {
	file, err := sysfs.OpenConfig(a)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	msix, _, err := pci.Config{Registers: file}.MSIX()
	if err != nil {
		return 0, fmt.Errorf("%w (only root can read all of it)", err)
	}
	return msix.Vectors, nil
}

// blockers names the devices that keep a group from user space, but for those in
// except.
func blockers(g pci.Group, except ...pci.Address) []string {
	var list []string
	for _, member := range g.Blockers() {
		a, err := pci.ParseAddress(member.Name)
		if err != nil || !slices.Contains(except, a) {
			list = append(list, memberText(member))
		}
	}
	return list
}

func memberText(m pci.Member) string {
	if m.Driver == "" {
		return m.Name
	}
	return m.Name + " (" + m.Driver + ")"
}

// VFIOList holds the options of "vfio list".
type VFIOList struct {
	machine
	Address []pci.Address `arg:"" optional:"" name:"ADDR" help:"Only these functions."`
	All     bool          `help:"All functions of this machine."`
}

// run prints one line per function.
func (l *VFIOList) run(sysfs pci.Sysfs, stdout io.Writer) error {
	reports, err := l.reports(sysfs, l.Address, l.All)
	if err != nil {
		return err
	}
	if l.JSON {
		return writeJSON(stdout, reports)
	}
	if len(reports) == 0 {
		return nothing(stdout)
	}
	w := newTable(stdout)
	fmt.Fprintln(w, "ADDRESS\tID\tDRIVER\tGROUP\tSTATE\tWHAT")
	for _, r := range reports {
		fmt.Fprintf(w, "%v\t%s\t%s\t%s\t%s\t%s\n", r.Address, r.ID, cmp.Or(r.Driver, "-"), groupText(r.Group), r.State, r.Name)
	}
	return w.Flush()
}

// VFIOStatus holds the options of "vfio status".
type VFIOStatus struct {
	machine
	Address []pci.Address `arg:"" optional:"" name:"ADDR" help:"PCI addresses of functions. Default: virtio-vhost-user functions, and what is bound to VFIO."`
}

// run prints a block per function.
func (s *VFIOStatus) run(sysfs pci.Sysfs, stdout io.Writer) error {
	reports, err := s.reports(sysfs, s.Address, false)
	if err != nil {
		return err
	}
	if s.JSON {
		return writeJSON(stdout, reports)
	}
	if len(reports) == 0 {
		return nothing(stdout)
	}
	for i, r := range reports {
		if i > 0 {
			fmt.Fprintln(stdout)
		}
		if err := r.print(stdout); err != nil {
			return err
		}
	}
	return nil
}

// reports inspects the functions of list; without any, all that may concern us.
func (m machine) reports(sysfs pci.Sysfs, list []pci.Address, all bool) ([]report, error) {
	var functions []pci.Function
	var err error
	if len(list) == 0 {
		functions, err = sysfs.List()
	}
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		f, err := sysfs.Function(a)
		if err != nil {
			return nil, err
		}
		functions = append(functions, f)
	}
	reports := []report{}
	for _, f := range functions {
		if len(list) == 0 && !all && vvuNames[id(f)] == "" && !pci.IsVFIO(f.Driver) {
			continue
		}
		r, err := m.inspect(sysfs, f)
		if err != nil {
			return nil, err
		}
		reports = append(reports, r)
	}
	return reports, nil
}

func nothing(w io.Writer) error {
	_, err := fmt.Fprintln(w, `no virtio-vhost-user function, and none bound to VFIO ("vfiofs vfio list --all" shows every function)`)
	return err
}

// print writes the block of status.
func (r report) print(stdout io.Writer) error {
	w := newTable(stdout)
	line := func(key, format string, args ...any) {
		fmt.Fprintf(w, "  %s\t%s\n", key, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(stdout, "%v  %s  %s\n", r.Address, r.ID, r.Name)
	line("class", "%s", r.Class)
	line("state", "%s", r.verdict())
	line("driver", "%s", cmp.Or(r.Driver, "none"))
	line("driver_override", "%s", cmp.Or(r.Override, "none"))
	if r.Previous != nil {
		line("before bind", "%s", cmp.Or(*r.Previous, "none"))
	}
	if r.Group >= 0 {
		line("IOMMU group", "%d: %s", r.Group, strings.Join(r.Members, ", "))
	}
	line("reset", "%s", map[bool]string{true: "yes", false: "no"}[r.Resettable])
	if r.note == "" {
		line("MSI-X vectors", "%d", r.Vectors)
	} else {
		line("MSI-X vectors", "not known: %s", r.note)
	}
	for _, b := range r.BARs {
		prefetch := ""
		if b.Prefetchable {
			prefetch = ", prefetchable"
		}
		line(fmt.Sprintf("BAR %d", b.Index), "%v, %s%s", b.Kind, bytesText(b.Size), prefetch)
	}
	return w.Flush()
}

// verdict says what the state means for the user.
func (r report) verdict() string {
	switch r.State {
	case stateReady:
		if r.InUse {
			return "in use by a process"
		}
		return fmt.Sprintf("ready for vfiofs --vfio %v", r.Address)
	case stateBlocked:
		return "its IOMMU group is blocked by " + strings.Join(r.Blockers, ", ")
	case stateNoIOMMU:
		return `no IOMMU group ("vfiofs doctor" says more)`
	case stateBridge:
		return "a bridge, which VFIO doesn't take"
	}
	return fmt.Sprintf("not bound to VFIO (vfiofs vfio bind %v)", r.Address)
}

func groupText(group int) string {
	if group < 0 {
		return "-"
	}
	return fmt.Sprint(group)
}

// bytesText writes a size in the largest binary unit that divides it.
func bytesText(n uint64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for n >= 1024 && n%1024 == 0 && i < len(units)-1 {
		n /= 1024
		i++
	}
	return fmt.Sprintf("%d %s", n, units[i])
}

func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }

func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false) // steps are shell commands
	return encoder.Encode(v)
}
