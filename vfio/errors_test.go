package vfio

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
)

// TestOpenErrors breaks one thing at a time. Every error must say what to do, and leave
// nothing open.
func TestOpenErrors(t *testing.T) {
	fails := func(nr request, e syscall.Errno) func(*fakeKernel) {
		return func(k *fakeKernel) { k.fail[nr] = e }
	}
	cdev := func(nr request, e syscall.Errno) func(*fakeKernel) {
		return func(k *fakeKernel) {
			k.remove("dev/vfio/vfio")
			k.write("dev/iommu", "")
			k.write("dev/vfio/devices/vfio3", "")
			k.write("sys/bus/pci/devices/"+testName+"/vfio-dev/vfio3/dev", "")
			if nr != 0 {
				k.fail[nr] = e
			}
		}
	}
	refuse := func(path string, e error) func(*fakeKernel) {
		return func(k *fakeKernel) {
			open := k.host.open
			k.host.open = func(p string) (int, error) {
				if p == filepath.Join(k.root, path) {
					return -1, e
				}
				return open(p)
			}
		}
	}
	for _, tt := range []struct {
		name    string
		with    func(*fakeKernel)
		missing bool
		want    []string // parts of the text
	}{
		{"no such function", func(k *fakeKernel) { k.remove("sys/bus/pci/devices/" + testName) }, true, []string{"PCI function", "vfio list"}},
		{"broken sysfs", func(k *fakeKernel) { k.write("sys/bus/pci/devices/"+testName+"/vendor", "?") }, false, []string{"PCI function " + testName}},
		{"another driver", func(k *fakeKernel) { k.addFunction(testName, "virtio-pci", "7") }, true, []string{"virtio-pci", "vfio bind " + testName}},
		{"no driver", func(k *fakeKernel) { k.remove("sys/bus/pci/devices/" + testName + "/driver") }, true, []string{"none", "vfio bind " + testName}},
		{"no group", func(k *fakeKernel) { k.remove("sys/bus/pci/devices/" + testName + "/iommu_group") }, true, []string{"IOMMU group", "intel_iommu=on"}},
		{"broken group", func(k *fakeKernel) { k.remove("sys/kernel/iommu_groups") }, false, []string{"IOMMU group 7"}},
		{"no-IOMMU mode", func(k *fakeKernel) { k.write("dev/vfio/noiommu-7", "") }, true, []string{"no-IOMMU"}},
		{"no module", func(k *fakeKernel) { k.remove("dev/vfio") }, true, []string{"/dev/vfio/vfio", "modprobe vfio-pci"}},
		{"module not there to load", refuse("dev/vfio/vfio", unix.ENODEV), true, []string{"/dev/vfio/vfio", "modprobe vfio-pci"}},
		{"no group file", func(k *fakeKernel) { k.remove("dev/vfio/7") }, true, []string{"/dev/vfio/7", "visible"}},
		{"no permission", refuse("dev/vfio/7", unix.EACCES), true, []string{"permission to open /dev/vfio/7", "chown"}},
		{"in use", refuse("dev/vfio/7", unix.EBUSY), true, []string{"exclusive use of /dev/vfio/7"}},
		{"another open error", refuse("dev/vfio/7", unix.EMFILE), false, []string{"/dev/vfio/7", "too many open files"}},
		{"group status", fails(groupGetStatus, unix.EIO), false, []string{"VFIO_GROUP_GET_STATUS", "/dev/vfio/7"}},
		{"not viable", func(k *fakeKernel) {
			k.viable = 0
			k.addFunction("0000:00:07.1", "e1000e", "7")
			k.addFunction("0000:00:07.2", "pcieport", "7")
			k.addFunction("0000:00:07.3", "", "7")
		}, true, []string{"group 7, blocked by 0000:00:07.1 (e1000e) (", "vfio bind"}},
		{"not viable, nobody knows why", func(k *fakeKernel) { k.viable = 0 }, false, []string{"IOMMU group 7", "one of its devices"}},
		{"version", func(k *fakeKernel) { k.result[getAPIVersion] = 1 }, false, []string{"version 1 of the VFIO API"}},
		{"no version", fails(getAPIVersion, unix.ENOTTY), false, []string{"VFIO_GET_API_VERSION"}},
		{"no type 1", func(k *fakeKernel) { k.result[checkExtension] = 0 }, true, []string{"modprobe vfio_iommu_type1"}},
		{"owned by another", fails(groupSetCont, unix.EPERM), false, []string{"IOMMU group 7", "VFIO_GROUP_SET_CONTAINER"}},
		{"no interrupt remapping", fails(setIOMMU, unix.EPERM), true, []string{"interrupt remapping", "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"}},
		{"no IOMMU context", fails(setIOMMU, unix.ENODEV), false, []string{"VFIO_SET_IOMMU"}},
		{"no IOMMU info", fails(iommuGetInfo, unix.EIO), false, []string{"VFIO_IOMMU_GET_INFO"}},
		{"broken IOMMU info", func(k *fakeKernel) {
			k.answer[iommuGetInfo] = fields(nil, 24, iommuCaps, 0, 0, 999, 0)
		}, false, []string{"VFIO_IOMMU_GET_INFO", "broken chain"}},
		{"endless IOMMU info", func(k *fakeKernel) {
			k.answer[iommuGetInfo] = fields(make([]byte, 0, maxInfo+8), make([]uint32, maxInfo/4+1)...)
		}, false, []string{"65540 bytes"}},
		{"no page sizes", func(k *fakeKernel) { k.answer[iommuGetInfo] = fields(nil, 24, 0, 0, 0, 0, 0) }, false, []string{"page sizes"}},
		{"no device", fails(groupGetDevice, unix.ENODEV), false, []string{"VFIO_GROUP_GET_DEVICE_FD"}},
		{"no device info", fails(deviceGetInfo, unix.EIO), false, []string{"VFIO_DEVICE_GET_INFO"}},
		{"not PCI", func(k *fakeKernel) { k.flags = 4 }, false, []string{"no PCI function"}},
		{"no region info", fails(deviceGetRegion, unix.EIO), false, []string{"region 0"}},
		{"broken region info", func(k *fakeKernel) { k.region[3] = regionReply(regionRead, 1<<63, 0) }, false, []string{"region 3"}},
		{"no interrupt info", fails(deviceGetIRQ, unix.EIO), false, []string{"interrupts of kind 0"}},

		{"iommufd: no module", func(k *fakeKernel) { cdev(0, 0)(k); refuse("dev/iommu", unix.ENODEV)(k) }, true, []string{"/dev/iommu", "modprobe iommufd"}},
		{"iommufd: no device file", func(k *fakeKernel) { cdev(0, 0)(k); k.remove("dev/vfio/devices") }, true, []string{"/dev/vfio/devices/vfio3"}},
		{"iommufd: no address space", cdev(ioasAlloc, unix.EIO), false, []string{"IOMMU_IOAS_ALLOC"}},
		{"iommufd: no interrupt remapping", cdev(deviceBind, unix.EPERM), true, []string{"/sys/module/iommufd/parameters/allow_unsafe_interrupts"}},
		{"iommufd: no binding", cdev(deviceBind, unix.EINVAL), false, []string{"VFIO_DEVICE_BIND_IOMMUFD"}},
		{"iommufd: no attachment", cdev(deviceAttach, unix.EINVAL), false, []string{"VFIO_DEVICE_ATTACH_IOMMUFD_PT"}},
		{"iommufd: no ranges", cdev(ioasRanges, unix.EIO), false, []string{"IOMMU_IOAS_IOVA_RANGES"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := newFake(t)
			tt.with(k)
			before := len(fd.Open())
			d, err := openOn(k.host, testAddr, nil)
			if err == nil {
				d.Close()
				t.Fatal("open = nil error; want one")
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("open = %v; want it to contain %q", err, part)
				}
			}
			var missing *MissingError
			if errors.As(err, &missing) != tt.missing {
				t.Errorf("open = %T %v; want a MissingError: %v", err, err, tt.missing)
			}
			if n := len(fd.Open()); n != before {
				t.Errorf("%d descriptors are open, %d before; want the same: %v", n, before, fd.Open())
			}
		})
	}
}

// TestOperationErrors breaks what an open device is asked for.
func TestOperationErrors(t *testing.T) {
	mem := make([]byte, 0x1000)
	mapOne := func(d *kernelDevice) error { return d.MapDMA(0x10000, mem, nil, 0) }
	set := func(n int) func(*kernelDevice) error {
		return func(d *kernelDevice) error { return d.SetIRQs(MSIX, events(t, n)) }
	}
	for _, tt := range []struct {
		name    string
		with    func(*fakeKernel)
		do      func(*kernelDevice) error
		missing bool
		want    string
	}{
		{"limit of locked memory", func(k *fakeKernel) { k.lock = memlockError(4096, nil) }, mapOne, true, "4 KiB of lockable memory"},
		{"kernel's own limit", func(k *fakeKernel) { k.fail[iommuMapDMA] = unix.ENOMEM }, mapOne, true, "lockable memory"},
		{"kernel out of mappings", func(k *fakeKernel) { k.fail[iommuMapDMA] = unix.ENOSPC }, mapOne, true, "dma_entry_limit"},
		{"mapping exists", func(k *fakeKernel) { k.fail[iommuMapDMA] = unix.EEXIST }, mapOne, false, "0x1000 bytes at IOVA 0x10000"},
		{"limit of mappings", func(k *fakeKernel) {
			k.answer[iommuGetInfo] = capsReply(wide(fields(nil, 24, iommuPageSizes|iommuCaps), 0x1000), 24,
				capability(capDMAAvail, fields(nil, 1)))
		}, func(d *kernelDevice) error {
			return errors.Join(mapOne(d), d.UnmapDMA(0x10000, 0x1000), mapOne(d), d.MapDMA(0x20000, mem, nil, 0))
		}, true, "a free DMA mapping"},
		{"no unmap", func(k *fakeKernel) { k.fail[iommuUnmapDMA] = unix.EINVAL }, func(d *kernelDevice) error { return d.UnmapDMA(0x10000, 4) }, false, "unmap 0x4 bytes at IOVA 0x10000"},
		{"half unmapped", func(k *fakeKernel) { k.lost = 0x800 }, func(d *kernelDevice) error { return errors.Join(mapOne(d), d.UnmapDMA(0x10000, 0x1000)) }, false, "0x800 bytes were mapped"},
		{"no vectors", func(k *fakeKernel) { k.fail[deviceSetIRQs] = unix.ENOSPC }, set(2), true, "2 free interrupt vectors"},
		{"fewer vectors", func(k *fakeKernel) { k.result[deviceSetIRQs] = 1 }, set(2), true, "only 1"},
		{"another kind is on", func(k *fakeKernel) { k.fail[deviceSetIRQs] = unix.EINVAL }, set(2), false, "2 interrupts of kind 2"},
		{"no reset", func(k *fakeKernel) { k.fail[deviceReset] = unix.EIO }, (*kernelDevice).Reset, false, "VFIO_DEVICE_RESET"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := newFake(t)
			tt.with(k)
			d := k.open()
			err := tt.do(d)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error = %v; want it to contain %q", err, tt.want)
			}
			var missing *MissingError
			if errors.As(err, &missing) != tt.missing {
				t.Errorf("error = %v; want a MissingError: %v", err, tt.missing)
			}
		})
	}
}

// TestIRQsStayAfterErrors: what failed changes nothing.
func TestIRQsStayAfterErrors(t *testing.T) {
	k := newFake(t)
	d := k.open()
	if err := d.SetIRQs(MSIX, events(t, 1)); err != nil {
		t.Fatal(err)
	}
	k.fail[deviceSetIRQs] = unix.EIO
	for _, n := range []int{0, 2} {
		if err := d.SetIRQs(MSIX, events(t, n)); !errors.Is(err, unix.EIO) {
			t.Errorf("SetIRQs(%d events) = %v; want %v", n, err, unix.EIO)
		}
	}
	if got := d.irqs[MSIX].enabled; got != 1 {
		t.Errorf("%d vectors are on; want 1", got)
	}
}

func TestMissingError(t *testing.T) {
	for _, tt := range []struct {
		err  MissingError
		want string
	}{
		{MissingError{"a cat", "get one", nil}, "missing a cat (get one)"},
		{MissingError{"a cat", "get one", fs.ErrNotExist}, "missing a cat: file does not exist (get one)"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("Error() = %q; want %q", got, tt.want)
		}
		if got := tt.err.Unwrap(); got != tt.err.Err {
			t.Errorf("Unwrap() = %v; want %v", got, tt.err.Err)
		}
	}
}

func TestRaise(t *testing.T) {
	for _, tt := range []struct {
		name               string
		cur, max           uint64
		locked, size, want uint64
		ok                 bool
	}{
		{"fits", 64, 64, 10, 54, 64, true},
		{"too much", 64, 64, 10, 55, 0, false},
		{"the soft limit grows", 64, 128, 10, 100, 110, true},
		{"no limit", unix.RLIM_INFINITY, unix.RLIM_INFINITY, 10, 100, unix.RLIM_INFINITY, true},
		{"overflow", 64, unix.RLIM_INFINITY, 1 << 63, 1 << 63, 0, false},
	} {
		got, ok := raise(unix.Rlimit{Cur: tt.cur, Max: tt.max}, tt.locked, tt.size)
		if got != tt.want || ok != tt.ok {
			t.Errorf("%s: raise({%d, %d}, %d, %d) = %d, %v; want %d, %v", tt.name, tt.cur, tt.max, tt.locked, tt.size, got, ok, tt.want, tt.ok)
		}
	}
}

func TestLockedBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status")
	for _, tt := range []struct {
		text string
		want uint64
		ok   bool
	}{
		{"Name:\tx\nVmLck:\t      12 kB\nVmPin:\t 5 kB\n", 12288, true},
		{"Name:\tx\n", 0, true},
		{"VmLck:\tmuch\n", 0, false},
	} {
		if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := lockedBytes(path); got != tt.want || (err == nil) != tt.ok {
			t.Errorf("lockedBytes(%q) = %d, %v; want %d, %v", tt.text, got, err, tt.want, tt.ok)
		}
	}
	if _, err := lockedBytes(path + ".none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("lockedBytes of no file = %v; want %v", err, fs.ErrNotExist)
	}
}

// TestLockable asks the machine; what it says depends on its limits and on who we are.
func TestLockable(t *testing.T) {
	if err := lockable("/proc/self/status", 0); err != nil {
		t.Errorf("lockable(0) = %v; want nil", err)
	}
	err := withinLimit("/proc/self/status", 1<<62)
	var limit unix.Rlimit
	if e := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); e != nil {
		t.Fatal(e)
	}
	var missing *MissingError
	if limit.Max < 1<<62 && !errors.As(err, &missing) {
		t.Errorf("withinLimit(1 << 62) = %v; want a MissingError", err)
	}
	if limit.Max == unix.RLIM_INFINITY && limit.Cur >= 1<<62 && err != nil {
		t.Errorf("withinLimit(1 << 62) = %v; want nil", err)
	}
	// The soft limit is raised also for those who have the capability: it may be worth
	// nothing.
	low := unix.Rlimit{Cur: 0, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &low); err != nil {
		t.Fatal(err)
	}
	if err := lockable("/proc/self/status", 4096); err != nil {
		t.Errorf("lockable(4096) = %v; want nil", err)
	}
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &low); err != nil || low.Cur < 4096 {
		t.Errorf("limit after lockable(4096) = %+v, %v; want 4096 or more", low, err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		t.Fatal(err)
	}
	if err := withinLimit("/nonexistent", 1); err == nil {
		t.Error("withinLimit without a status file = nil; want an error")
	}
}
