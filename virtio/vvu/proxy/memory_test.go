package proxy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/testkit"
)

func TestNewMemory(t *testing.T) {
	m, err := NewMemory(1 << 20)
	testkit.Check(t, err)
	defer m.Close()
	info, err := os.Stat(m.Path())
	testkit.Check(t, err)
	if info.Size() != 1<<20 || m.Size() != 1<<20 {
		t.Errorf("file has %d bytes, Size() = %d; want 1 MiB", info.Size(), m.Size())
	}
	f, err := os.OpenFile(m.Path(), os.O_RDWR, 0)
	testkit.Check(t, err)
	defer f.Close()
	if err := f.Truncate(0); err == nil {
		t.Error("a sibling can shrink the memory file")
	}
	for _, size := range []int64{0, -1, 4095, maxMemory + 4096} {
		if m, err := NewMemory(size); err == nil {
			m.Close()
			t.Errorf("NewMemory(%d) = nil; want an error", size)
		}
	}
}

func TestOpenMemory(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "memory")
	empty := filepath.Join(dir, "empty")
	testkit.Check(t, os.WriteFile(empty, nil, 0o600))
	for _, tt := range []struct {
		name string
		path string
		size int64
		err  string
	}{
		{"no size", path, 0, "no such file"},
		{"not there", path, 1 << 20, ""},
		{"there", path, 1 << 20, ""},
		{"there, of any size", path, 0, ""},
		{"there, of another size", path, 1 << 21, "it has 1048576 bytes; want 2097152"},
		{"empty", empty, 0, "size is 0"},
		{"not whole pages", filepath.Join(dir, "other"), 1000, "multiple of 4096"},
		{"directory", dir, 1 << 20, "is a directory"},
		{"device", "/dev/null", 1 << 20, "not a regular file"},
		{"no such directory", filepath.Join(dir, "no", "file"), 1 << 20, "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := OpenMemory(tt.path, tt.size)
			if err == nil {
				defer m.Close()
			}
			switch {
			case tt.err == "" && err != nil:
				t.Errorf("OpenMemory() = %v; want no error", err)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("OpenMemory() = %v; want an error with %q", err, tt.err)
			case tt.err == "" && (m.Size() != 1<<20 || m.Path() != tt.path):
				t.Errorf("OpenMemory() = %d bytes at %s; want 1 MiB at %s", m.Size(), m.Path(), tt.path)
			}
		})
	}
	if mode := permissions(t, path); mode != 0o600 {
		t.Errorf("permissions = %o; want 600", mode)
	}
}

func permissions(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	testkit.Check(t, unix.Stat(path, &st))
	return st.Mode & 0o777
}

func TestQEMUArgs(t *testing.T) {
	m := &Memory{path: "/dev/shm/it's,here", size: 3 << 29}
	for _, tt := range []struct{ name, got, want string }{
		{
			"sibling", m.SiblingArgs("/run/vfiofs.sock", "home"),
			`-m 1536M -object memory-backend-file,id=mem,size=1536M,mem-path='/dev/shm/it'\''s,,here',share=on -machine q35,memory-backend=mem` +
				` -chardev socket,id=vfiofs,path=/run/vfiofs.sock -device vhost-user-fs-pci,chardev=vfiofs,tag=home`,
		},
		{
			"device VM", DeviceVMArgs(`/run/a "b".sock`),
			`-m 1G -object memory-backend-memfd,id=mem,size=1G,share=on -machine q35,memory-backend=mem,kernel-irqchip=split -device intel-iommu,caching-mode=on` +
				` -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/run/a \"b\".sock"},"addr":"07.0"}'`,
		},
		{"bytes", sizeName(4097), "4097"},
		{"kibibytes", sizeName(4096), "4K"},
		{"gibibytes", sizeName(4 << 30), "4G"},
		{"nothing", quote(""), "''"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s = %s; want %s", tt.name, tt.got, tt.want)
		}
	}
}

func TestText(t *testing.T) {
	for text, want := range map[string]Profile{"crosvm": Crosvm, "dpdk": DPDK} {
		var p Profile
		if err := p.UnmarshalText([]byte(text)); err != nil || p != want || p.String() != text {
			t.Errorf("Profile %q = %v, %v; want %v", text, p, err, want)
		}
	}
	for text, want := range map[string]Rule{"direct": Direct, "stack": Stack, "gpa-linear": Linear} {
		var r Rule
		if err := r.UnmarshalText([]byte(text)); err != nil || r != want {
			t.Errorf("Rule %q = %v, %v; want %v", text, r, err, want)
		}
	}
	if new(Profile).UnmarshalText([]byte("x")) == nil || new(Rule).UnmarshalText([]byte("sum")) == nil {
		t.Error("UnmarshalText() of nonsense = nil; want errors")
	}
}

func TestNew(t *testing.T) {
	m, err := NewMemory(1 << 20)
	testkit.Check(t, err)
	defer m.Close()
	for name, opt := range map[string]Options{
		"no listener":        {Memory: m},
		"no memory":          {Listener: &rig{}},
		"too many queues":    {Listener: &rig{}, Memory: m, Queues: 1024},
		"fewer than nothing": {Listener: &rig{}, Memory: m, Queues: -1},
	} {
		if d, err := New(opt); err == nil {
			d.Close()
			t.Errorf("New() with %s = nil; want an error", name)
		}
	}
}
