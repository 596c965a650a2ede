package vmtest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write makes files below dir, and the directories they need.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

const labJSON = `{
  "qemu": "qemu", "qemuVersion": "11.1.3", "busybox": "busybox",
  "kernels": [{"series": "6.12", "release": "6.12.1", "image": "k/vmlinux", "modules": "k/modules"}]
}`

func TestFindLab(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"lab.json": labJSON, "qemu": "", "busybox": "", "k/vmlinux": "", "k/modules/x": ""})
	t.Run("VFIOFS_LAB", func(t *testing.T) {
		t.Setenv("VFIOFS_LAB", dir)
		lab, err := FindLab()
		if err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(dir, "qemu"); lab.QEMU != want {
			t.Errorf("QEMU = %q; want %q", lab.QEMU, want)
		}
		k, err := lab.Kernel("6.12")
		if want := filepath.Join(dir, "k/vmlinux"); err != nil || k.Image != want {
			t.Errorf("Kernel(6.12) = %q, %v; want %q", k.Image, err, want)
		}
		var missing *MissingError
		if _, err := lab.Kernel("7"); !errors.As(err, &missing) {
			t.Errorf("Kernel(7) = %v; want a MissingError", err)
		}
	})
	t.Run("cache directory", func(t *testing.T) {
		cache := t.TempDir()
		t.Setenv("VFIOFS_LAB", "")
		t.Setenv("XDG_CACHE_HOME", cache)
		if err := os.MkdirAll(filepath.Join(cache, "vfiofs"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(dir, filepath.Join(cache, "vfiofs/lab")); err != nil {
			t.Fatal(err)
		}
		if _, err := FindLab(); err != nil {
			t.Error(err)
		}
	})
}

func TestFindLabMissing(t *testing.T) {
	for _, test := range []struct {
		name    string
		files   map[string]string
		missing bool
		want    string
	}{
		{name: "nothing", missing: true, want: "run scripts/lab"},
		{name: "no QEMU", files: map[string]string{"lab.json": labJSON}, missing: true, want: "qemu: no such file"},
		{
			name: "no kernel", missing: true, want: "a kernel",
			files: map[string]string{"lab.json": `{"qemu": "/bin/sh", "busybox": "/bin/sh"}`},
		},
		{name: "broken", files: map[string]string{"lab.json": "{"}, want: "scripts/lab --update"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, test.files)
			t.Setenv("VFIOFS_LAB", dir)
			_, err := FindLab()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("FindLab() = %v; want an error with %q", err, test.want)
			}
			var missing *MissingError
			if errors.As(err, &missing) != test.missing {
				t.Errorf("FindLab() = %T; want a MissingError: %v", err, test.missing)
			}
		})
	}
}

func TestKernelModule(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"kernel/drivers/vfio/pci/vfio-pci.ko.xz": "",
		"kernel/drivers/vfio/vfio.ko":            "",
		"modules.builtin":                        "kernel/fs/fuse/virtiofs.ko\nkernel/drivers/virtio/virtio_pci.ko\n",
	})
	k := Kernel{Release: "6.12.1", Modules: dir}
	for _, test := range []struct{ name, want string }{
		{"vfio-pci", "kernel/drivers/vfio/pci/vfio-pci.ko.xz"},
		{"vfio_pci", "kernel/drivers/vfio/pci/vfio-pci.ko.xz"},
		{"vfio", "kernel/drivers/vfio/vfio.ko"},
		{"virtiofs", ""},
		{"virtio-pci", ""},
	} {
		want := test.want
		if want != "" {
			want = filepath.Join(dir, want)
		}
		if got, err := k.module(test.name); got != want || err != nil {
			t.Errorf("module(%q) = %q, %v; want %q", test.name, got, err, want)
		}
	}
	if _, err := k.module("nosuch"); err == nil {
		t.Error("module(nosuch) = nil; want an error")
	}
	if _, err := (Kernel{Modules: dir + "/none"}).module("vfio"); err == nil {
		t.Error("module without a module directory = nil; want an error")
	}
}
