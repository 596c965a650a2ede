package pci_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/pci"
	"vfiofs/pci/pcitest"
)

// Functions of the machine that most tests use.
const (
	vvu      = "0000:00:07.0"  // virtio-vhost-user, alone in its group
	disk     = "0000:00:08.0"  // in one group with nic and port
	nic      = "0000:00:08.1"  // has no driver
	port     = "0000:00:1c.0"  // a bridge
	loose    = "0000:01:00.0"  // no IOMMU group
	far      = "10000:e1:00.0" // another domain, bound to VFIO by someone
	proxyBAR = "0x00000000fec00000 0x00000000fec07fff 0x0000000000040200\n" +
		"0x0000000000000000 0x0000000000000000 0x0000000000000000\n" +
		"0x00000000fec08000 0x00000000fec0bfff 0x0000000000140204\n" +
		"0x0000000000000000 0x0000000000000000 0x0000000000000000\n" +
		"0x0000000200000000 0x00000003ffffffff 0x000000000014220c\n" +
		"0x000000000000c000 0x000000000000c03f 0x0000000000040101\n" +
		"0x00000000fe000000 0x00000000fe00ffff 0x0000000000046200\n"
)

// machine makes a machine with these functions, or some of them, changed by how.
func machine(t *testing.T, how func(*pcitest.Machine), some ...string) *pcitest.Machine {
	t.Helper()
	virtio := func(f pcitest.Function) bool { return f.Vendor == 0x1af4 }
	m := &pcitest.Machine{
		Root: t.TempDir(),
		Drivers: []pcitest.Driver{
			{Name: "vfio-pci"}, {Name: "virtio-pci", Matches: virtio}, {Name: "pcieport"}, {Name: "nvme"},
		},
		Functions: []pcitest.Function{
			{Address: vvu, Vendor: 0x1af4, Device: 0x107d, Class: 0x00ff00, Driver: "virtio-pci", Group: 5, Resource: proxyBAR},
			{Address: disk, Vendor: 0x8086, Device: 0x5845, Class: 0x010802, Driver: "nvme", Group: 6},
			{Address: nic, Vendor: 0x8086, Device: 0xffff, Class: 0x020000, Group: 6, NoReset: true},
			{Address: port, Vendor: 0x1b36, Device: 0x000c, Class: 0x060400, Driver: "pcieport", Group: 6},
			{Address: loose, Vendor: 0x1af4, Device: 0x1058, Class: 0x00ff00, Driver: "virtio-pci"},
			{Address: far, Vendor: 0xfff5, Device: 1, Class: 0x123456, Driver: "vfio-pci", Group: 7},
		},
	}
	if len(some) > 0 {
		m.Functions = slices.DeleteFunc(m.Functions, func(f pcitest.Function) bool { return !slices.Contains(some, f.Address) })
	}
	if how != nil {
		how(m)
	}
	if err := m.Create(); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestList(t *testing.T) {
	list, err := machine(t, nil).Sysfs().List()
	if err != nil {
		t.Fatal(err)
	}
	want := []pci.Function{
		{
			Address: address(t, vvu), Vendor: 0x1af4, Device: 0x107d, Class: 0x00ff00,
			VendorName: "Red Hat, Inc.", DeviceName: "107d", ClassName: "NotDefined", Driver: "virtio-pci", Group: 5, Resettable: true,
			BARs: []pci.BAR{
				{Index: 0, Kind: pci.Mem32, Address: 0xfec00000, Size: 0x8000},
				{Index: 2, Kind: pci.Mem64, Address: 0xfec08000, Size: 0x4000},
				{Index: 4, Kind: pci.Mem64, Prefetchable: true, Address: 0x2_0000_0000, Size: 0x2_0000_0000},
				{Index: 5, Kind: pci.IO, Address: 0xc000, Size: 64},
			},
		},
		{
			Address: address(t, disk), Vendor: 0x8086, Device: 0x5845, Class: 0x010802,
			VendorName: "Intel Corporation", DeviceName: "QEMU NVM Express Controller", ClassName: "StorageNVMHCI",
			Driver: "nvme", Group: 6, Resettable: true,
		},
		{
			Address: address(t, nic), Vendor: 0x8086, Device: 0xffff, Class: 0x020000,
			VendorName: "Intel Corporation", DeviceName: "ffff", ClassName: "NetworkEthernet", Group: 6,
		},
		{
			Address: address(t, port), Vendor: 0x1b36, Device: 0x000c, Class: 0x060400,
			VendorName: "Red Hat, Inc.", DeviceName: "QEMU PCIe Root port", ClassName: "BridgePCI",
			Driver: "pcieport", Group: 6, Bridge: true, Resettable: true,
		},
		{
			Address: address(t, loose), Vendor: 0x1af4, Device: 0x1058, Class: 0x00ff00,
			VendorName: "Red Hat, Inc.", DeviceName: "Virtio 1.0 mem", ClassName: "NotDefined", Driver: "virtio-pci", Group: -1, Resettable: true,
		},
		{
			Address: address(t, far), Vendor: 0xfff5, Device: 1, Class: 0x123456,
			VendorName: "fff5", DeviceName: "0001", ClassName: "1234", Driver: "vfio-pci", Group: 7, Resettable: true,
		},
	}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
}

func TestListErrors(t *testing.T) {
	if _, err := (pci.Sysfs{Root: filepath.Join(t.TempDir(), "none")}).List(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("List without sysfs = %v; want %v", err, os.ErrNotExist)
	}
	m := machine(t, nil)
	device := filepath.Join(m.Root, "sys/bus/pci/devices", vvu)
	for _, test := range []struct{ name, file, text, want string }{
		{"vendor", "vendor", "many\n", `PCI function 0000:00:07.0: strconv.ParseUint: parsing "many"`},
		{"resource", "resource", "0x1\n", "PCI function 0000:00:07.0: scanning resource 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(device, test.file)
			before, _ := os.ReadFile(path)
			defer os.WriteFile(path, before, 0o644)
			os.WriteFile(path, []byte(test.text), 0o644)
			_, err := m.Sysfs().List()
			checkError(t, err, test.want)
		})
	}
	t.Run("unplugged meanwhile", func(t *testing.T) {
		os.Remove(filepath.Join(device, "vendor"))
		if list, err := m.Sysfs().List(); len(list) != 5 || err != nil {
			t.Errorf("List = %d functions, %v; want 5", len(list), err)
		}
	})
	t.Run("group", func(t *testing.T) {
		path := filepath.Join(m.Root, "sys/bus/pci/devices", loose, "iommu_group")
		os.Symlink("nonsense", path)
		_, err := m.Sysfs().List()
		checkError(t, err, `IOMMU group "nonsense" is no number`)
		os.Remove(path)
	})
	t.Run("stranger", func(t *testing.T) {
		os.Mkdir(filepath.Join(m.Root, "sys/bus/pci/devices/stranger"), 0o755)
		_, err := m.Sysfs().List()
		checkError(t, err, `"stranger" is no PCI address`)
	})
}

func TestFunctionMissing(t *testing.T) {
	_, err := machine(t, nil).Sysfs().Function(address(t, "00:09.0"))
	checkError(t, err, `PCI function 0000:00:09.0: no such device ("vfiofs vfio list --all"`)
	if !errors.Is(err, syscall.ENODEV) {
		t.Errorf("Function = %v; want %v", err, syscall.ENODEV)
	}
}

func TestGroup(t *testing.T) {
	s := machine(t, nil).Sysfs()
	for _, test := range []struct {
		address  string
		want     pci.Group
		blockers []string
		err      string
	}{
		{vvu, pci.Group{Number: 5, Members: []pci.Member{{vvu, "virtio-pci"}}}, []string{vvu}, ""},
		{nic, pci.Group{Number: 6, Members: []pci.Member{{disk, "nvme"}, {nic, ""}, {port, "pcieport"}}}, []string{disk}, ""},
		{far, pci.Group{Number: 7, Members: []pci.Member{{far, "vfio-pci"}}}, nil, ""},
		{loose, pci.Group{}, nil, "PCI function 0000:01:00.0: no IOMMU group"},
	} {
		t.Run(test.address, func(t *testing.T) {
			f, err := s.Function(address(t, test.address))
			if err != nil {
				t.Fatal(err)
			}
			g, err := s.Group(f)
			checkError(t, err, test.err)
			if diff := cmp.Diff(test.want, g); diff != "" {
				t.Errorf("Group (-want +got):\n%s", diff)
			}
			var names []string
			for _, m := range g.Blockers() {
				names = append(names, m.Name)
			}
			if !slices.Equal(names, test.blockers) {
				t.Errorf("Blockers = %v; want %v", names, test.blockers)
			}
		})
	}
	if _, err := s.Group(pci.Function{Address: address(t, loose), Group: 9}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Group of a function that lost it = %v; want %v", err, os.ErrNotExist)
	}
}

func TestIsVFIO(t *testing.T) {
	for driver, want := range map[string]bool{
		"vfio-pci": true, "mlx5_vfio_pci": true, "nvgrace-gpu-vfio-pci": true, "hisi_acc_vfio_pci": true,
		"": false, "virtio-pci": false, "uio_pci_generic": false, "pci-stub": false,
	} {
		if got := pci.IsVFIO(driver); got != want {
			t.Errorf("IsVFIO(%q) = %v; want %v", driver, got, want)
		}
	}
}

func TestReset(t *testing.T) {
	m := machine(t, nil)
	if err := m.Sysfs().Reset(address(t, vvu)); err != nil {
		t.Fatal(err)
	}
	if want := []string{"devices/0000:00:07.0/reset 1"}; !slices.Equal(m.Writes, want) {
		t.Errorf("writes = %q; want %q", m.Writes, want)
	}
	checkError(t, m.Sysfs().Reset(address(t, nic)), "no way to be reset")
	checkError(t, m.Sysfs().Reset(address(t, "00:09.0")), "no such device")
}

func TestOpenConfig(t *testing.T) {
	space := build(t, proxy(t))
	whole := make([]byte, space.Size())
	space.ReadAt(whole, 0)
	m := machine(t, func(m *pcitest.Machine) { m.Functions[0].Config = whole })
	file, err := m.Sysfs().OpenConfig(address(t, vvu))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if got, ok, err := (pci.Config{Registers: file}).MSIX(); got.Vectors != 256 || !ok || err != nil {
		t.Errorf("MSIX = %+v, %v, %v; want 256 vectors", got, ok, err)
	}
	if err := (pci.Config{Registers: file}).SetCommand(pci.CommandMaster); err == nil {
		t.Error("SetCommand = nil; want an error: the file is open for reading")
	}
	if _, err := m.Sysfs().OpenConfig(address(t, "00:09.0")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("OpenConfig of nothing = %v; want %v", err, os.ErrNotExist)
	}
}

// bound returns the driver, the override and what is remembered of a function.
func bound(t *testing.T, m *pcitest.Machine, text string) string {
	t.Helper()
	f, err := m.Sysfs().Function(address(t, text))
	if err != nil {
		t.Fatal(err)
	}
	state, err := os.ReadFile(filepath.Join(m.Root, "run/vfiofs", text))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return f.Driver + "|" + f.Override + "|" + strings.TrimSpace(string(state))
}

// override sets driver_override of a function behind the kernel's back.
func override(t *testing.T, m *pcitest.Machine, text, driver string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.Root, "sys/bus/pci/devices", text, "driver_override"), []byte(driver+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestBindUnbind(t *testing.T) {
	for _, test := range []struct {
		name            string
		address         string
		override        string
		bind            []string // writes
		bound           string
		unbind          []string
		unbound         string
		noIOMMU, forget bool
	}{
		{
			name: "a driver has it", address: vvu,
			bind: []string{
				"devices/0000:00:07.0/driver_override vfio-pci",
				"devices/0000:00:07.0/driver/unbind 0000:00:07.0",
				"drivers_probe 0000:00:07.0",
			},
			bound: `vfio-pci|vfio-pci|{"driver":"virtio-pci","driver_override":""}`,
			unbind: []string{
				"devices/0000:00:07.0/driver_override virtio-pci",
				"devices/0000:00:07.0/driver/unbind 0000:00:07.0",
				"drivers_probe 0000:00:07.0",
				"devices/0000:00:07.0/driver_override ",
			},
			unbound: "virtio-pci||",
		},
		{
			name: "no driver has it", address: nic,
			bind:    []string{"devices/0000:00:08.1/driver_override vfio-pci", "drivers_probe 0000:00:08.1"},
			bound:   `vfio-pci|vfio-pci|{"driver":"","driver_override":""}`,
			unbind:  []string{"devices/0000:00:08.1/driver_override ", "devices/0000:00:08.1/driver/unbind 0000:00:08.1"},
			unbound: "||",
		},
		{
			name: "an override was set", address: vvu, override: "virtio-pci",
			bind: []string{
				"devices/0000:00:07.0/driver_override vfio-pci",
				"devices/0000:00:07.0/driver/unbind 0000:00:07.0",
				"drivers_probe 0000:00:07.0",
			},
			bound: `vfio-pci|vfio-pci|{"driver":"virtio-pci","driver_override":"virtio-pci"}`,
			unbind: []string{
				"devices/0000:00:07.0/driver_override virtio-pci",
				"devices/0000:00:07.0/driver/unbind 0000:00:07.0",
				"drivers_probe 0000:00:07.0",
			},
			unbound: "virtio-pci|virtio-pci|",
		},
		{
			name: "bound by another program", address: far, override: "vfio-pci",
			bound: "vfio-pci|vfio-pci|",
			unbind: []string{
				"devices/10000:e1:00.0/driver_override ",
				"devices/10000:e1:00.0/driver/unbind 10000:e1:00.0",
				"drivers_probe 10000:e1:00.0",
			},
			unbound: "||",
		},
		{
			name: "without an IOMMU", address: loose, noIOMMU: true,
			bind: []string{
				"devices/0000:01:00.0/driver_override vfio-pci",
				"devices/0000:01:00.0/driver/unbind 0000:01:00.0",
				"drivers_probe 0000:01:00.0",
			},
			bound: `vfio-pci|vfio-pci|{"driver":"virtio-pci","driver_override":""}`,
			unbind: []string{
				"devices/0000:01:00.0/driver_override ",
				"devices/0000:01:00.0/driver/unbind 0000:01:00.0",
				"drivers_probe 0000:01:00.0",
			},
			forget:  true,
			unbound: "virtio-pci||",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := machine(t, nil, test.address)
			s := m.Sysfs()
			a := address(t, test.address)
			if test.noIOMMU {
				os.WriteFile(filepath.Join(m.Root, "sys/module/vfio/parameters/enable_unsafe_noiommu_mode"), []byte("Y\n"), 0o644)
			}
			if test.override != "" {
				override(t, m, test.address, test.override)
			}
			step := func(name string, do func(pci.Address) error, plan func(pci.Address) ([]pci.Step, error), writes []string, state string) {
				t.Helper()
				steps, err := plan(a)
				if err != nil || len(steps) != len(writes) {
					t.Errorf("plan of %s = %v, %v; want %d steps", name, steps, err, len(writes))
				}
				for range 2 { // the second time, there is nothing to do
					m.Writes = nil
					if err := do(a); err != nil {
						t.Fatalf("%s = %v", name, err)
					}
					if diff := cmp.Diff(writes, m.Writes); diff != "" {
						t.Errorf("writes of %s (-want +got):\n%s", name, diff)
					}
					if got := bound(t, m, test.address); got != state {
						t.Errorf("after %s: %s; want %s", name, got, state)
					}
					writes = nil
				}
			}
			bind := func(a pci.Address) error { return s.Bind(a, "vfio-pci") }
			step("Bind", bind, func(a pci.Address) ([]pci.Step, error) { return s.PlanBind(a, "vfio-pci") }, test.bind, test.bound)
			driver, known, err := s.Previous(a)
			if err != nil || known != (test.bind != nil) || known && !strings.Contains(test.bound, `"driver":"`+driver+`"`) {
				t.Errorf("Previous = %q, %v, %v; want what %s says", driver, known, err, test.bound)
			}
			if test.forget {
				os.RemoveAll(filepath.Join(m.Root, "run/vfiofs"))
			}
			step("Unbind", s.Unbind, s.PlanUnbind, test.unbind, test.unbound)
		})
	}
}

func TestBindRefused(t *testing.T) {
	for _, test := range []struct {
		name    string
		address string
		driver  string
		want    string
	}{
		{"no such function", "0000:00:09.0", "vfio-pci", "PCI function 0000:00:09.0"},
		{"bridge", port, "vfio-pci", "a bridge can't be given to user space"},
		{"no IOMMU", loose, "vfio-pci", "no IOMMU group"},
		{"no driver", vvu, "vfio-none", "there is no driver vfio-none (load it: modprobe vfio-none)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := machine(t, nil, vvu, test.address)
			checkError(t, m.Sysfs().Bind(address(t, test.address), test.driver), test.want)
			if m.Writes != nil {
				t.Errorf("writes = %q; want none", m.Writes)
			}
			if _, err := os.Stat(filepath.Join(m.Root, "run")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("state directory: %v; want none", err)
			}
		})
	}
}

// TestBindFails has the kernel fail at each write. The function must get back what it
// had.
func TestBindFails(t *testing.T) {
	for _, test := range []struct {
		name string
		how  func(*pcitest.Machine) func(path, text string) error // nil: the machine's own
		err  string
	}{
		{"driver_override", func(m *pcitest.Machine) func(string, string) error {
			return failOnce(m, "driver_override", syscall.EACCES)
		}, "echo vfio-pci > "},
		{"unbind", func(m *pcitest.Machine) func(string, string) error { return failOnce(m, "unbind", syscall.EBUSY) }, "device or resource busy"},
		{"probe", func(m *pcitest.Machine) func(string, string) error {
			m.Drivers[0].Refuses = syscall.EINVAL
			return m.Write
		}, "invalid argument"},
		{"silent probe", func(m *pcitest.Machine) func(string, string) error { return failOnce(m, "drivers_probe", nil) }, "driver vfio-pci didn't take it, it has none"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := machine(t, nil, vvu)
			s := m.Sysfs()
			s.Write = test.how(m)
			checkError(t, s.Bind(address(t, vvu), "vfio-pci"), test.err)
			if got := bound(t, m, vvu); got != "virtio-pci||" {
				t.Errorf("afterwards: %s; want as before", got)
			}
		})
	}
}

// failOnce returns the machine's Write, but the first write to a file of this name
// does nothing and returns err.
func failOnce(m *pcitest.Machine, name string, err error) func(path, text string) error {
	failed := false
	return func(path, text string) error {
		if filepath.Base(path) == name && !failed {
			failed = true
			return err
		}
		return m.Write(path, text)
	}
}

func TestBindFailsForGood(t *testing.T) {
	m := machine(t, nil, vvu)
	s := m.Sysfs()
	s.Write = func(path, text string) error {
		if filepath.Base(path) == "drivers_probe" {
			return syscall.EIO
		}
		return m.Write(path, text)
	}
	checkError(t, s.Bind(address(t, vvu), "vfio-pci"), "putting back what was before failed too")
	if got, want := bound(t, m, vvu), `|virtio-pci|{"driver":"virtio-pci","driver_override":""}`; got != want {
		t.Errorf("afterwards: %s; want %s", got, want)
	}
}

func TestUnbindFails(t *testing.T) {
	a := address(t, vvu)
	t.Run("former driver is gone", func(t *testing.T) {
		m := machine(t, nil, vvu)
		s := m.Sysfs()
		if err := s.Bind(a, "vfio-pci"); err != nil {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(m.Root, "sys/bus/pci/drivers/virtio-pci"))
		checkError(t, s.Unbind(a), "its former driver virtio-pci isn't there any more")
	})
	t.Run("former driver refuses", func(t *testing.T) {
		m := machine(t, func(m *pcitest.Machine) { m.Drivers[1].Refuses = syscall.EINVAL }, vvu)
		s := m.Sysfs()
		if err := s.Bind(a, "vfio-pci"); err != nil {
			t.Fatal(err)
		}
		checkError(t, s.Unbind(a), "invalid argument")
	})
	t.Run("state is damaged", func(t *testing.T) {
		m := machine(t, nil, vvu)
		s := m.Sysfs()
		if err := s.Bind(a, "vfio-pci"); err != nil {
			t.Fatal(err)
		}
		os.WriteFile(filepath.Join(m.Root, "run/vfiofs", vvu), []byte("{"), 0o644)
		checkError(t, s.Unbind(a), "recall the former driver of PCI function 0000:00:07.0 from ")
		if _, _, err := s.Previous(a); err == nil {
			t.Error("Previous = nil; want an error")
		}
	})
	t.Run("state can't be kept", func(t *testing.T) {
		m := machine(t, nil, vvu)
		s := m.Sysfs()
		s.State = filepath.Join(m.Root, "sys/bus/pci/drivers_probe") // a file
		checkError(t, s.Bind(a, "vfio-pci"), "not a directory")
		if m.Writes != nil {
			t.Errorf("writes = %q; want none", m.Writes)
		}
	})
	t.Run("no such function", func(t *testing.T) {
		checkError(t, machine(t, nil, vvu).Sysfs().Unbind(address(t, "00:09.0")), "no such device")
	})
}

// TestWriteFile writes to a real file, as on a real machine.
func TestWriteFile(t *testing.T) {
	m := machine(t, nil, vvu)
	s := m.Sysfs()
	s.Write = nil
	if err := s.Reset(address(t, vvu)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(m.Root, "sys/bus/pci/devices", vvu, "reset")
	if text, err := os.ReadFile(path); string(text) != "1\n" || err != nil {
		t.Errorf("reset = %q, %v; want 1", text, err)
	}
	s.Write = func(string, string) error { return syscall.EACCES }
	checkError(t, s.Reset(address(t, vvu)), "permission denied (only root may")
	s.Write = nil
	os.Remove(path)
	os.Symlink("nowhere", path)
	if err := s.Reset(address(t, vvu)); err == nil {
		t.Error("Reset without its file = nil; want an error")
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), "nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("file made: %v; want none", err)
	}
}

func TestStepString(t *testing.T) {
	for _, test := range []struct {
		step pci.Step
		want string
	}{
		{pci.Step{Path: "/sys/x", Text: "vfio-pci"}, "echo vfio-pci > /sys/x"},
		{pci.Step{Path: "/sys/x"}, "echo > /sys/x"},
	} {
		if got := test.step.String(); got != test.want {
			t.Errorf("%#v.String() = %q; want %q", test.step, got, test.want)
		}
	}
}
