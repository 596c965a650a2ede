package pcitest_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"vfiofs/pci/pcitest"
)

// TestWrite plays what pci.Sysfs does, and what it never does.
func TestWrite(t *testing.T) {
	m := &pcitest.Machine{
		Root: t.TempDir(),
		Drivers: []pcitest.Driver{
			{Name: "none"},
			{Name: "virtio-pci", Matches: func(f pcitest.Function) bool { return f.Vendor == 0x1af4 }},
			{Name: "broken", Refuses: syscall.EINVAL},
		},
		Functions: []pcitest.Function{{Address: "0000:00:07.0", Vendor: 0x1af4, Driver: "virtio-pci", Group: 3}},
	}
	if err := m.Create(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(m.Root, "sys/bus/pci/devices/0000:00:07.0")
	probe := filepath.Join(m.Root, "sys/bus/pci/drivers_probe")
	for _, test := range []struct {
		name, path, text string
		err              error
		driver           string // then
	}{
		{"a driver has it already", probe, "0000:00:07.0\n", nil, "virtio-pci"},
		{"unbind another", dir + "/driver/unbind", "0000:00:08.0\n", syscall.ENODEV, "virtio-pci"},
		{"unbind", dir + "/driver/unbind", "0000:00:07.0\n", nil, ""},
		{"unbind again", dir + "/driver/unbind", "0000:00:07.0\n", syscall.ENOENT, ""},
		{"override", dir + "/driver_override", "none\n", nil, ""},
		{"probe", probe, "0000:00:07.0\n", nil, "none"},
		{"unbind that", dir + "/driver/unbind", "0000:00:07.0\n", nil, ""},
		{"override with what refuses", dir + "/driver_override", "broken\n", nil, ""},
		{"probe what refuses", probe, "0000:00:07.0\n", syscall.EINVAL, ""},
		{"override with what isn't there", dir + "/driver_override", "missing\n", nil, ""},
		{"probe what isn't there", probe, "0000:00:07.0\n", nil, ""},
		{"no override", dir + "/driver_override", "\n", nil, ""},
		{"probe all", probe, "0000:00:07.0\n", nil, "virtio-pci"},
		{"probe nothing", probe, "0000:00:09.0\n", syscall.ENODEV, "virtio-pci"},
		{"reset", dir + "/reset", "1\n", nil, "virtio-pci"},
		{"read-only file", dir + "/vendor", "1\n", syscall.EACCES, "virtio-pci"},
		{"no such file", dir + "/missing", "1\n", syscall.ENOENT, "virtio-pci"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := m.Write(test.path, test.text); !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Errorf("Write = %v; want %v", err, test.err)
			}
			f, err := m.Sysfs().List()
			if err != nil || len(f) != 1 || f[0].Driver != test.driver || f[0].Group != 3 {
				t.Errorf("List = %+v, %v; want driver %q, group 3", f, err, test.driver)
			}
		})
	}
	if err := m.Write(probe, "0000:00:07.0"); err == nil {
		t.Error("Write without a line end = nil; want an error")
	}
	if err := m.Write("outside", "\n"); err == nil {
		t.Error("Write outside of sysfs = nil; want an error")
	}
	if want := "devices/0000:00:07.0/driver_override none"; m.Writes[4] != want {
		t.Errorf("fifth write = %q; want %q", m.Writes[4], want)
	}
}

func TestCreateErrors(t *testing.T) {
	one := pcitest.Function{Address: "0000:00:07.0", Driver: "a", Group: 1}
	for _, test := range []struct {
		name string
		m    pcitest.Machine
	}{
		{"driver twice", pcitest.Machine{Drivers: []pcitest.Driver{{Name: "a"}, {Name: "a"}}}},
		{"function twice", pcitest.Machine{Functions: []pcitest.Function{one, one}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.m.Root = t.TempDir()
			if err := test.m.Create(); !errors.Is(err, os.ErrExist) {
				t.Errorf("Create = %v; want %v", err, os.ErrExist)
			}
		})
	}
	m := pcitest.Machine{Root: filepath.Join(t.TempDir(), "file")}
	if err := os.WriteFile(m.Root, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Create(); err == nil {
		t.Error("Create in a file = nil; want an error")
	}
}
