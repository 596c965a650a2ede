package vfio

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/pci"
)

const testName = "0000:00:07.0"

var testAddr = pci.Address{Device: 7}

// Layout of the fake device's descriptor.
const (
	fakeBAR    = 0x10000 // BAR 2: 4 pages, mappable
	fakeBARLen = 0x4000
	fakeConfig = 0x20000 // configuration space, 256 bytes
	fakeTotal  = 0x30000
)

// A fakeKernel answers the requests of one function in group 7.
type fakeKernel struct {
	t    *testing.T
	host *host
	root string
	file *fd.FD // the device's memory

	mu     sync.Mutex
	calls  []string // what was asked for, in order, without queries
	fail   map[request]syscall.Errno
	result map[request]int // instead of 0
	answer map[request][]byte
	region map[uint32][]byte // answers of GET_REGION_INFO
	irq    irqInfo           // of MSI-X
	flags  uint32            // of the device
	viable uint32
	lock   error
	maps   map[uint64]uint64
	lost   uint64 // bytes that an unmap doesn't report
}

// newFake builds the files of a system below a directory, and its kernel.
func newFake(t *testing.T) *fakeKernel {
	t.Helper()
	k := &fakeKernel{
		t: t, root: t.TempDir(), viable: groupViable, flags: deviceIsPCI | deviceHasReset,
		fail: map[request]syscall.Errno{}, result: map[request]int{}, answer: map[request][]byte{},
		region: map[uint32][]byte{}, irq: irqInfo{flags: 1, count: 20}, maps: map[uint64]uint64{},
	}
	k.addFunction(testName, "vfio-pci", "7")
	k.write("dev/vfio/vfio", "")
	k.write("dev/vfio/7", "")
	n, err := unix.MemfdCreate("device", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	k.file = fd.New(n, "fake device")
	t.Cleanup(func() { k.file.Close() })
	if err := unix.Ftruncate(n, fakeTotal); err != nil {
		t.Fatal(err)
	}
	k.region[2] = regionReply(regionRead|regionWrite|regionMmap, fakeBARLen, fakeBAR)
	k.region[ConfigRegion] = regionReply(regionRead|regionWrite, 256, fakeConfig)
	k.answer[iommuGetInfo] = capsReply(wide(fields(nil, 24, iommuPageSizes|iommuCaps), 0x40201000), 24,
		capability(capIOVARanges, wide(fields(nil, 2, 0), 0, 0xfedfffff, 0xfef00000, 1<<48-1)),
		capability(capDMAAvail, fields(nil, 65535)))
	k.host = newHost(k.root)
	k.host.ioctl, k.host.ioctlInt = k.ioctl, k.ioctlInt
	k.host.lockable = func(uint64) error { return k.lock }
	return k
}

// write makes a file of the system.
func (k *fakeKernel) write(path, text string) {
	k.t.Helper()
	path = filepath.Join(k.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		k.t.Fatal(err)
	}
}

// link makes a symbolic link.
func (k *fakeKernel) link(to, path string) {
	k.t.Helper()
	path = filepath.Join(k.root, path)
	os.MkdirAll(filepath.Dir(path), 0o755)
	os.Remove(path)
	if err := os.Symlink(to, path); err != nil {
		k.t.Fatal(err)
	}
}

// remove removes a file of the system.
func (k *fakeKernel) remove(path string) {
	k.t.Helper()
	if err := os.RemoveAll(filepath.Join(k.root, path)); err != nil {
		k.t.Fatal(err)
	}
}

// addFunction adds a function with a driver and a group.
func (k *fakeKernel) addFunction(name, driver, group string) {
	k.t.Helper()
	dir := "sys/bus/pci/devices/" + name
	for file, text := range map[string]string{
		"vendor": "0x1af4\n", "device": "0x1017\n", "class": "0xff0000\n", "irq": "0\n",
		"resource": strings.Repeat("0x0000000000000000 0x0000000000000000 0x0000000000000000\n", 13), "driver_override": "(null)\n", "reset": "",
	} {
		k.write(dir+"/"+file, text)
	}
	k.link("../../../../kernel/iommu_groups/"+group, dir+"/iommu_group")
	k.link("../../../../bus/pci/devices/"+name, "sys/kernel/iommu_groups/"+group+"/devices/"+name)
	if driver != "" {
		k.link("../../drivers/"+driver, dir+"/driver")
	}
}

// regionReply is an answer of GET_REGION_INFO without capabilities.
func regionReply(flags uint32, size, offset uint64) []byte {
	return wide(fields(nil, 32, flags, 0, 0), size, offset)
}

// capability builds one, with its link missing.
func capability(id uint16, body []byte) []byte {
	c := binary.LittleEndian.AppendUint16(nil, id)
	c = binary.LittleEndian.AppendUint16(c, 1)
	return append(fields(c, 0), body...)
}

// capsReply chains capabilities behind a structure of n bytes, at each multiple of 8.
func capsReply(b []byte, n int, caps ...[]byte) []byte {
	b = append(b, make([]byte, n-len(b))...)
	at := 12 // cap_offset of struct vfio_region_info
	if n == 24 {
		at = 16 // of struct vfio_iommu_type1_info
	}
	for _, c := range caps {
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
		binary.LittleEndian.PutUint32(b[at:], uint32(len(b)))
		at = len(b) + 4
		b = append(b, c...)
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	return b
}

// reply stores an answer as the kernel does: in full if there is room for it, and
// otherwise its length.
func reply(b, answer []byte) {
	if len(answer) > len(b) {
		copy(b, answer[:32])
		binary.LittleEndian.PutUint32(b, uint32(len(answer)))
		return
	}
	copy(b, answer)
}

func (k *fakeKernel) note(format string, args ...any) {
	k.calls = append(k.calls, fmt.Sprintf(format, args...))
}

// name returns what a descriptor is, without its number.
func name(f *fd.FD) string {
	s, _, _ := strings.Cut(f.String(), "(")
	return s
}

func (k *fakeKernel) ioctlInt(f *fd.FD, nr request, arg int) (int, syscall.Errno) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.note("%s(%s, %d)", nr, name(f), arg)
	if e := k.fail[nr]; e != 0 {
		return -1, e
	}
	n, ok := k.result[nr]
	if nr == checkExtension && !ok {
		n = 1
	}
	return n, 0
}

func (k *fakeKernel) ioctl(f *fd.FD, nr request, b []byte) (int, syscall.Errno) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if want := uint32(len(b)); nr != groupSetCont && nr != groupGetDevice && u32(b, 0) > want {
		k.t.Errorf("%s: argsz = %d; want at most %d", nr, u32(b, 0), want)
	}
	if e := k.fail[nr]; e != 0 {
		return -1, e
	}
	switch nr {
	case groupGetStatus:
		binary.LittleEndian.PutUint32(b[4:], k.viable)
		k.note("%s(%s)", nr, name(f))
	case groupGetDevice:
		k.note("%s(%s, %q)", nr, name(f), b)
		n, err := unix.FcntlInt(uintptr(k.file.Int()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return -1, err.(syscall.Errno)
		}
		return n, 0
	case groupSetCont:
		k.note("%s(%s, %v)", nr, name(f), u32(b, 0) > 2)
	case deviceGetInfo:
		copy(b[4:], fields(nil, k.flags, 9, 5))
	case deviceGetRegion:
		i := u32(b, 8)
		if i == VGARegion {
			return -1, unix.EINVAL
		}
		if r, ok := k.region[i]; ok {
			reply(b, r)
		}
	case deviceGetIRQ:
		if IRQ(u32(b, 8)) == Err {
			return -1, unix.EINVAL
		}
		if IRQ(u32(b, 8)) == MSIX {
			copy(b[4:], fields(nil, k.irq.flags, 2, k.irq.count))
		}
	case deviceSetIRQs:
		var fds []int32
		for i := 20; i < len(b); i += 4 {
			fds = append(fds, min(int32(u32(b, i)), 1)) // 1: any descriptor
		}
		k.note("%s(flags %#x, kind %d, start %d, count %d, %v)", nr, u32(b, 4), u32(b, 8), u32(b, 12), u32(b, 16), fds)
		return k.result[nr], 0
	case iommuMapDMA:
		k.note("%s(%#x, %#x)", nr, u64(b, 16), u64(b, 24))
		if u64(b, 8) == 0 {
			k.t.Errorf("%s: address 0", nr)
		}
		k.maps[u64(b, 16)] = u64(b, 24)
	case iommuUnmapDMA, ioasUnmap:
		k.note("%s(%#x, %#x)", nr, u64(b, 8), u64(b, 16))
		binary.LittleEndian.PutUint64(b[16:], k.maps[u64(b, 8)]-k.lost)
		delete(k.maps, u64(b, 8))
	case ioasMap:
		k.note("%s(%#x, %#x)", nr, u64(b, 32), u64(b, 24))
		k.maps[u64(b, 32)] = u64(b, 24)
	case ioasAlloc:
		k.note("%s(%s)", nr, name(f))
		binary.LittleEndian.PutUint32(b[8:], 5)
	case deviceBind, deviceAttach:
		k.note("%s(%s, %v)", nr, name(f), u32(b, 8) > 2)
	case ioasRanges:
		k.note("%s(%d, room %d)", nr, u32(b, 4), u32(b, 8))
		copy(b[8:], fields(nil, 1))
		copy(b[24:], wide(nil, 0x1000))
	default:
		if a, ok := k.answer[nr]; ok {
			reply(b, a)
		}
	}
	return k.result[nr], 0
}

// open opens the fake function and closes it at the end of the test.
func (k *fakeKernel) open() *kernelDevice {
	k.t.Helper()
	d, err := openOn(k.host, testAddr, nil)
	if err != nil {
		k.t.Fatalf("open = %v; want a device", err)
	}
	k.t.Cleanup(func() { d.Close() })
	k.calls = nil
	return d
}

// wantCalls compares what was asked for since the last time.
func (k *fakeKernel) wantCalls(what string, want ...string) {
	k.t.Helper()
	if !slices.Equal(k.calls, want) {
		k.t.Errorf("%s:\n%s\nwant:\n%s", what, strings.Join(k.calls, "\n"), strings.Join(want, "\n"))
	}
	k.calls = nil
}

// events makes n eventfds.
func events(t *testing.T, n int) []*fd.FD {
	t.Helper()
	var list []*fd.FD
	for range n {
		e, err := fd.NewEvent("vector")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		list = append(list, e)
	}
	return list
}

func TestOpenGroup(t *testing.T) {
	k := newFake(t)
	d, err := openOn(k.host, testAddr, nil)
	if err != nil {
		t.Fatal(err)
	}
	k.wantCalls("open",
		"VFIO_GROUP_GET_STATUS(/dev/vfio/7)",
		"VFIO_GET_API_VERSION(/dev/vfio/vfio, 0)",
		"VFIO_CHECK_EXTENSION(/dev/vfio/vfio, 3)",
		"VFIO_GROUP_SET_CONTAINER(/dev/vfio/7, true)",
		"VFIO_SET_IOMMU(/dev/vfio/vfio, 3)",
		`VFIO_GROUP_GET_DEVICE_FD(/dev/vfio/7, "0000:00:07.0\x00")`)
	if got, want := d.Ranges(), []Range{{0, 0xfedfffff}, {0xfef00000, 1<<48 - 1}}; !slices.Equal(got, want) {
		t.Errorf("Ranges() = %#x; want %#x", got, want)
	}
	if got := d.PageSize(); got != 4096 {
		t.Errorf("PageSize() = %d; want 4096", got)
	}
	if d.Gone() != nil {
		t.Error("Gone() != nil; want nil")
	}
	for range 2 {
		if err := d.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	}
}

func TestOpenExported(t *testing.T) {
	_, err := Open(testAddr, Options{Root: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), testName) {
		t.Errorf("Open of an empty system = %v; want an error that names %s", err, testName)
	}
}

// TestUsualRanges is a kernel that doesn't tell ranges (virtio-vhost-user.md 9.1).
func TestUsualRanges(t *testing.T) {
	k := newFake(t)
	k.answer[iommuGetInfo] = wide(fields(nil, 24, iommuPageSizes), 0x1000, 0)
	d := k.open()
	if got, want := d.Ranges(), []Range{{0x10000, 0xfedfffff}, {0xfef00000, 1<<39 - 1}}; !slices.Equal(got, want) {
		t.Errorf("Ranges() = %#x; want %#x", got, want)
	}
}

func TestRegions(t *testing.T) {
	k := newFake(t)
	k.region[0] = capsReply(regionReply(regionRead|regionWrite|regionMmap|regionCaps, 0x3000, 0), 32,
		capability(3, nil), capability(capSparse, wide(fields(nil, 2, 0), 0, 0x1000, 0x2000, 0x1000)))
	k.region[1] = regionReply(regionRead, 64, 0x8000) // read only
	d := k.open()
	for _, tt := range []struct {
		index        int
		size, mapped int64
	}{{0, 0x3000, 0x1000}, {1, 64, 0}, {2, fakeBARLen, fakeBARLen}, {3, 0, 0}, {ConfigRegion, 256, 0}, {VGARegion, 0, 0}} {
		r, err := d.Region(tt.index)
		if err != nil {
			t.Fatal(err)
		}
		mem, err := r.Mmap()
		if r.Size() != tt.size || int64(len(mem)) != tt.mapped || (err == nil) != (tt.mapped != 0) {
			t.Errorf("region %d: size %#x, mapped %#x, %v; want %#x, %#x", tt.index, r.Size(), len(mem), err, tt.size, tt.mapped)
		}
	}
	for _, i := range []int{-1, NumRegions} {
		if _, err := d.Region(i); err == nil {
			t.Errorf("Region(%d) = nil error; want one", i)
		}
	}

	// A mapping, calls and the descriptor show the same bytes, at the region's offset.
	bar, _ := d.Region(2)
	mem, _ := bar.Mmap()
	again, _ := bar.Mmap()
	if &mem[0] != &again[0] {
		t.Error("the second Mmap() made a new mapping")
	}
	if _, err := bar.WriteAt([]byte("abcd"), 0x3ffc); err != nil {
		t.Fatal(err)
	}
	if got := string(mem[0x3ffc:]); got != "abcd" {
		t.Errorf("mapping after WriteAt = %q; want abcd", got)
	}
	b := make([]byte, 4)
	if _, err := unix.Pread(k.file.Int(), b, fakeBAR+0x3ffc); err != nil || string(b) != "abcd" {
		t.Errorf("descriptor after WriteAt = %q, %v; want abcd", b, err)
	}
	for _, tt := range []struct {
		off  int64
		n    int
		want string
	}{{0x3ffc, 4, "4 <nil>"}, {0x3ffe, 4, "2 EOF"}, {0x4000, 1, "0 EOF"}, {0x5000, 1, "0 EOF"}, {-1, 1, "0 offset -0x1 of 0000:00:07.0"}} {
		n, err := bar.ReadAt(make([]byte, tt.n), tt.off)
		if got := fmt.Sprint(n, " ", err); !strings.HasPrefix(got, tt.want) {
			t.Errorf("ReadAt(%d bytes, %#x) = %s; want %s", tt.n, tt.off, got, tt.want)
		}
	}
	ro, _ := d.Region(1)
	if _, err := ro.WriteAt(b, 0); err == nil {
		t.Error("WriteAt of a read-only region = nil; want an error")
	}
	unix.Ftruncate(k.file.Int(), fakeConfig)
	config, _ := d.Region(ConfigRegion)
	if _, err := config.ReadAt(b, 0); err == nil {
		t.Error("ReadAt behind the end of the descriptor = nil; want an error")
	}
}

// TestSetIRQs plays sequences of SetIRQs with n events each.
func TestSetIRQs(t *testing.T) {
	const off = "VFIO_DEVICE_SET_IRQS(flags 0x21, kind 2, start 0, count 0, [])"
	on := func(fds ...int) string {
		return fmt.Sprintf("VFIO_DEVICE_SET_IRQS(flags 0x24, kind 2, start 0, count %d, %v)", len(fds), fds)
	}
	for _, tt := range []struct {
		name  string
		flags uint32
		steps []int
		want  []string
	}{
		{"off at first", 1, []int{0}, nil},
		{"on and off", 1, []int{3, 0, 0}, []string{on(1, 1, 1), off}},
		{"grow in place", 1, []int{1, 3}, []string{on(1), on(1, 1, 1)}},
		{"grow on an old kernel", 1 | irqNoResize, []int{1, 3}, []string{on(1), off, on(1, 1, 1)}},
		{"shrink", 1 | irqNoResize, []int{3, 1, 2}, []string{on(1, 1, 1), on(1, -1, -1), on(1, 1, -1)}},
		{"everything", 1, []int{20}, []string{on(slices.Repeat([]int{1}, 20)...)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := newFake(t)
			k.irq.flags = tt.flags
			d := k.open()
			for _, n := range tt.steps {
				if err := d.SetIRQs(MSIX, events(t, n)); err != nil {
					t.Fatalf("SetIRQs(%d events) = %v; want nil", n, err)
				}
			}
			k.wantCalls("requests", tt.want...)
		})
	}
}

func TestVectors(t *testing.T) {
	d := newFake(t).open()
	for kind, want := range map[IRQ]int{MSIX: 20, MSI: 0, Err: 0, Req: 0} {
		if n, err := d.Vectors(kind); n != want || err != nil {
			t.Errorf("Vectors(%d) = %d, %v; want %d", kind, n, err, want)
		}
	}
	for _, kind := range []IRQ{-1, 5} {
		if _, err := d.Vectors(kind); err == nil {
			t.Errorf("Vectors(%d) = nil error; want one", kind)
		}
		if err := d.SetIRQs(kind, nil); err == nil {
			t.Errorf("SetIRQs(%d) = nil; want an error", kind)
		}
	}
	if err := d.SetIRQs(MSIX, events(t, 21)); err == nil {
		t.Error("SetIRQs of 21 of 20 vectors = nil; want an error")
	}
}

func TestDMA(t *testing.T) {
	k := newFake(t)
	d := k.open()
	mem := make([]byte, 0x2000)
	if err := d.MapDMA(0x10000, mem, nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.UnmapDMA(0x10000, 0x2000); err != nil {
		t.Fatal(err)
	}
	k.wantCalls("requests", "VFIO_IOMMU_MAP_DMA(0x10000, 0x2000)", "VFIO_IOMMU_UNMAP_DMA(0x10000, 0x2000)")
	for _, bad := range []struct {
		iova IOVA
		n    int
	}{{0x10000, 0}, {0x10000, 0x1800}, {0x10800, 0x1000}} {
		if err := d.MapDMA(bad.iova, mem[:bad.n], nil, 0); err == nil {
			t.Errorf("MapDMA(%#x, %#x bytes) = nil; want an error", bad.iova, bad.n)
		}
	}
	if err := d.UnmapDMA(0x10000, 0x2000); err == nil {
		t.Error("UnmapDMA of nothing = nil; want an error")
	}
}

func TestReset(t *testing.T) {
	k := newFake(t)
	if err := k.open().Reset(); err != nil {
		t.Errorf("Reset() = %v; want nil", err)
	}
	k.wantCalls("requests", "VFIO_DEVICE_RESET(0000:00:07.0, 0)")

	k = newFake(t)
	k.flags = deviceIsPCI
	d := k.open()
	if err := d.Reset(); err == nil {
		t.Error("Reset() of what can't be reset = nil; want an error")
	}
	k.wantCalls("requests")
}

// TestOpenCdev is a system with iommufd and without groups.
func TestOpenCdev(t *testing.T) {
	k := newFake(t)
	k.remove("dev/vfio/vfio")
	k.remove("dev/vfio/7")
	k.write("dev/iommu", "")
	k.write("dev/vfio/devices/vfio3", "")
	k.write("sys/bus/pci/devices/"+testName+"/vfio-dev/vfio3/dev", "")
	d, err := openOn(k.host, testAddr, nil)
	if err != nil {
		t.Fatal(err)
	}
	mem := make([]byte, 0x1000)
	if err := d.MapDMA(0x10000, mem, nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.UnmapDMA(0x10000, 0x1000); err != nil {
		t.Fatal(err)
	}
	k.wantCalls("requests",
		"IOMMU_IOAS_ALLOC(/dev/iommu)",
		"VFIO_DEVICE_BIND_IOMMUFD(/dev/vfio/devices/vfio3, true)",
		"VFIO_DEVICE_ATTACH_IOMMUFD_PT(/dev/vfio/devices/vfio3, true)",
		"IOMMU_IOAS_IOVA_RANGES(5, room 64)",
		"IOMMU_IOAS_MAP(0x10000, 0x1000)",
		"IOMMU_IOAS_UNMAP(0x10000, 0x1000)")
	if got := d.PageSize(); got != uint64(os.Getpagesize()) {
		t.Errorf("PageSize() = %d; want the system's", got)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestWay says which way is taken.
func TestWay(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files []string
		want  string
	}{
		{"groups", []string{"dev/vfio/vfio"}, ""},
		{"both", []string{"dev/vfio/vfio", "dev/iommu", "sys/bus/pci/devices/" + testName + "/vfio-dev/vfio0/dev"}, ""},
		{"iommufd", []string{"dev/iommu", "sys/bus/pci/devices/" + testName + "/vfio-dev/vfio0/dev"}, "vfio0"},
		{"iommufd without the device", []string{"dev/iommu"}, ""},
		{"nothing", nil, ""},
	} {
		k := &fakeKernel{t: t, root: t.TempDir()}
		for _, f := range tt.files {
			k.write(f, "")
		}
		if got := newHost(k.root).cdev(testAddr); got != tt.want {
			t.Errorf("%s: cdev() = %q; want %q", tt.name, got, tt.want)
		}
	}
}
