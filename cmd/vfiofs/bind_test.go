package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/pci"
	"vfiofs/pci/pcitest"
)

// newMachine returns a machine with one PCI function for each thing that can be said
// about one.
func newMachine(root string) *pcitest.Machine {
	msix, err := pci.MSIX{Vectors: 256, TableOffset: 0x6000, PBAOffset: 0x7000}.Build()
	if err != nil {
		panic(err)
	}
	space, err := pci.Layout{Size: 256, Vendor: 0x1af4, Device: 0x107d, Caps: []pci.CapBuild{msix}}.Build()
	if err != nil {
		panic(err)
	}
	config := make([]byte, space.Size())
	space.ReadAt(config, 0)
	loop := bytes.Clone(config)
	binary.LittleEndian.PutUint16(loop[0x40:], 0x4009)

	vvu := func(f pcitest.Function) pcitest.Function {
		f.Vendor, f.Device, f.Class, f.Config = 0x1af4, 0x107d, 0x00ff00, config
		f.Resource = "0x00000000fec00000 0x00000000fec07fff 0x0000000000040200\n" +
			"0x0000000000000000 0x0000000000000000 0x0000000000000000\n" +
			"0x0000000200000000 0x00000003ffffffff 0x000000000014220c\n"
		return f
	}
	return &pcitest.Machine{
		Root: root,
		Drivers: []pcitest.Driver{
			{Name: "virtio-pci", Matches: func(f pcitest.Function) bool { return f.Vendor == 0x1af4 }},
			{Name: "vfio-pci"},
			{Name: "mlx5_vfio_pci"},
			{Name: "nvme"},
			{Name: "pcieport"},
		},
		Functions: []pcitest.Function{
			vvu(pcitest.Function{Address: "0000:00:06.0", Driver: "virtio-pci", Group: 1}),
			vvu(pcitest.Function{Address: "0000:00:07.0", Driver: "vfio-pci", Group: 2}),
			vvu(pcitest.Function{Address: "0000:00:08.0", Group: 3}),
			{Address: "0000:00:08.1", Vendor: 0x8086, Device: 0x5845, Class: 0x010802, Driver: "nvme", Group: 3, NoReset: true, Config: loop},
			vvu(pcitest.Function{Address: "0000:00:09.0", Driver: "virtio-pci"}),
			{Address: "0000:00:1c.0", Vendor: 0x1b36, Device: 0x000c, Class: 0x060400, Driver: "pcieport", Group: 4},
			{Address: "0000:01:00.0", Vendor: 0x15b3, Device: 0x101e, Class: 0x020000, Driver: "mlx5_vfio_pci", Group: 5},
		},
	}
}

// createMachine makes newMachine's files.
func createMachine(t *testing.T) *pcitest.Machine {
	t.Helper()
	m := newMachine(t.TempDir())
	if err := m.Create(); err != nil {
		t.Fatal(err)
	}
	return m
}

// addresses parses addresses, which must be right.
func addresses(t *testing.T, texts ...string) []pci.Address {
	t.Helper()
	var list []pci.Address
	for _, text := range texts {
		a, err := pci.ParseAddress(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, a)
	}
	return list
}

// TestVFIOBindUnbind binds and unbinds on a machine with a kernel.
func TestVFIOBindUnbind(t *testing.T) {
	m := createMachine(t)
	list := addresses(t, "00:06.0", "00:07.0", "01:00.0")
	for _, test := range []struct {
		name string
		run  func(*bytes.Buffer) error
		want string
	}{
		{"bind", func(w *bytes.Buffer) error { return (&VFIOBind{Address: list}).run(m.Sysfs(), w) }, "0000:00:06.0: driver vfio-pci, was virtio-pci\n" +
			"0000:00:07.0: nothing to do: driver vfio-pci\n0000:01:00.0: nothing to do: driver mlx5_vfio_pci\n"},
		{"bind again", func(w *bytes.Buffer) error { return (&VFIOBind{Address: list[:1]}).run(m.Sysfs(), w) }, "0000:00:06.0: nothing to do: driver vfio-pci\n"},
		{"a group as a whole", func(w *bytes.Buffer) error {
			return (&VFIOBind{Address: addresses(t, "00:08.0", "00:08.1"), Force: true}).run(m.Sysfs(), w)
		}, "0000:00:08.0: driver vfio-pci, was none\n0000:00:08.1: driver vfio-pci, was nvme\n"},
		{"unbind", func(w *bytes.Buffer) error { return (&VFIOUnbind{Address: list[:2]}).run(m.Sysfs(), w) }, "0000:00:06.0: driver virtio-pci, was vfio-pci\n" +
			"0000:00:07.0: driver virtio-pci, was vfio-pci\n"},
		{"unbind again", func(w *bytes.Buffer) error { return (&VFIOUnbind{Address: list[:2]}).run(m.Sysfs(), w) }, "0000:00:06.0: nothing to do: driver virtio-pci\n" +
			"0000:00:07.0: nothing to do: driver virtio-pci\n"},
		{"unbind a group", func(w *bytes.Buffer) error {
			return (&VFIOUnbind{Address: addresses(t, "00:08.0", "00:08.1")}).run(m.Sysfs(), w)
		}, "0000:00:08.0: driver none, was vfio-pci\n0000:00:08.1: driver nvme, was vfio-pci\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := test.run(&out); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, out.String()); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

// TestVFIOBindPartly has one function that fails among others.
func TestVFIOBindPartly(t *testing.T) {
	m := createMachine(t)
	b := &VFIOBind{Address: addresses(t, "00:08.0", "00:0a.0", "00:06.0")}
	b.JSON = true
	var out bytes.Buffer
	err := b.run(m.Sysfs(), &out)
	if err == nil || !strings.Contains(err.Error(), "its IOMMU group 3 also holds 0000:00:08.1 (nvme)") || !strings.Contains(err.Error(), "PCI function 0000:00:0a.0") {
		t.Errorf("run = %v; want both errors", err)
	}
	var got []change
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, &out)
	}
	if len(got) != 3 || got[0].Error == "" || got[0].Changed || got[1].Error == "" || got[2].To != "vfio-pci" || got[2].From != "virtio-pci" || !got[2].Changed || len(got[2].Steps) != 3 {
		t.Errorf("changes = %+v; want the last one made", got)
	}
	f, err := m.Sysfs().Function(b.Address[0])
	if err != nil || f.Driver != "" {
		t.Errorf("driver of the blocked function = %q, %v; want none", f.Driver, err)
	}
}

func TestVFIOKernelRefuses(t *testing.T) {
	m := createMachine(t)
	m.Drivers[0].Refuses = syscall.EINVAL
	for name, run := range map[string]func(*bytes.Buffer) error{
		"unbind": func(w *bytes.Buffer) error {
			return (&VFIOUnbind{Address: addresses(t, "00:07.0")}).run(m.Sysfs(), w)
		},
		"bind": func(w *bytes.Buffer) error {
			s := m.Sysfs()
			s.Write = func(string, string) error { return syscall.EACCES }
			return (&VFIOBind{Address: addresses(t, "00:06.0")}).run(s, w)
		},
	} {
		var out bytes.Buffer
		if err := run(&out); err == nil || out.Len() != 0 {
			t.Errorf("%s = %v, printed %q; want an error alone", name, err, &out)
		}
	}
}

// TestVFIODamagedState has a file of remembered drivers that nobody can read.
func TestVFIODamagedState(t *testing.T) {
	m := createMachine(t)
	state := filepath.Join(m.Root, "run/vfiofs/0000:00:07.0")
	if err := os.MkdirAll(filepath.Dir(state), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state, []byte("?"), 0o644); err != nil {
		t.Fatal(err)
	}
	list := addresses(t, "00:07.0")
	for name, run := range map[string]func(*bytes.Buffer) error{
		"unbind": func(w *bytes.Buffer) error { return (&VFIOUnbind{Address: list}).run(m.Sysfs(), w) },
		"status": func(w *bytes.Buffer) error { return (&VFIOStatus{Address: list}).run(m.Sysfs(), w) },
		"list":   func(w *bytes.Buffer) error { return (&VFIOList{}).run(m.Sysfs(), w) },
	} {
		var out bytes.Buffer
		if err := run(&out); err == nil || !strings.Contains(err.Error(), "recall the former driver") {
			t.Errorf("%s = %v; want an error about the state", name, err)
		}
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 bytes", 1: "1 bytes", 1000: "1000 bytes", 1024: "1 KiB", 1536: "1536 bytes",
		0x8000: "32 KiB", 3 << 30: "3 GiB", 1 << 50: "1024 TiB",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q; want %q", n, got, want)
		}
	}
}
