package vfiouser

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/vfio"
	"vfiofs/virtio/guestmem"
)

// mapped is DMA_MAP's payload.
func mapped(address, size, offset uint64) []byte {
	return dmaRange{flags: dmaRead | dmaWrite, address: address, size: size, offset: offset}.appendMap(nil)
}

// unmapped is DMA_UNMAP's payload.
func unmapped(address, size uint64) []byte {
	return dmaRange{address: address, size: size}.appendUnmap(nil)
}

// pages returns a file of n pages, each filled with its number plus 1.
func pages(t testing.TB, n int) *fd.FD {
	f := newMemfd(t, int64(n)<<12)
	for i := range n {
		_, err := unix.Pwrite(f.Int(), bytes.Repeat([]byte{byte(i + 1)}, 4096), int64(i)<<12)
		testkit.Check(t, err)
	}
	return f
}

// at returns the first byte of n bytes of DMA memory, or -1 if they aren't in one
// piece of it.
func at(b *Bus, iova uint64, n uint64) int {
	mem, ok := b.Snapshot().Slice(guestmem.GPA(iova), n)
	if !ok {
		return -1
	}
	return int(mem[0])
}

// openFiles returns how many files the server keeps open for a client.
func (b *Bus) openFiles() int {
	b.dma.mu.Lock()
	defer b.dma.mu.Unlock()
	return len(b.dma.files)
}

// TestDMA is vfio-user.md 4.2, rule by rule.
func TestDMA(t *testing.T) {
	m := newTestModel(t)
	r, _ := greeted(t, m)
	bus := m.attached()
	ram, other := pages(t, 16), pages(t, 16)
	want := func(iova uint64, want int) {
		t.Helper()
		if got := at(bus, iova, 1); got != want {
			t.Errorf("byte at %#x = %d; want %d", iova, got, want)
		}
	}

	r.must(DMAMap, mapped(0x10000, 0x4000, 0x2000), ram)
	want(0x10000, 3)
	want(0x13fff, 6)
	want(0xffff, -1)
	want(0x14000, -1)
	table := bus.Snapshot()

	// The same again, and a part of it, changes nothing.
	r.must(DMAMap, mapped(0x10000, 0x4000, 0x2000), ram)
	r.must(DMAMap, mapped(0x11000, 0x1000, 0x3000), ram)
	if bus.Snapshot() != table {
		t.Error("Snapshot() after the same DMA_MAP again is another Table")
	}
	// More of the same replaces nothing.
	r.must(DMAMap, mapped(0xf000, 0x8000, 0x1000), ram)
	m.wantCalls(t)
	want(0xf000, 2)
	want(0x16fff, 9)
	if got := at(bus, 0xf000, 0x8000); got != 2 {
		t.Errorf("ranges that follow each other in the file are not one piece: %d; want 2", got)
	}

	// Something else takes the place of a part.
	r.must(DMAMap, mapped(0x11000, 0x2000, 0x8000), other)
	m.wantCalls(t, "unmap 0x11000-0x12fff")
	want(0x10fff, 3)
	want(0x11000, 9)
	want(0x12fff, 10)
	want(0x13000, 6)

	// Without a descriptor, or not for both directions, it can't be reached.
	r.must(DMAMap, mapped(0x11000, 0x1000, 0))
	r.must(DMAMap, dmaRange{flags: dmaRead, address: 0x12000, size: 0x1000}.appendMap(nil), ram)
	m.wantCalls(t, "unmap 0x11000-0x11fff", "unmap 0x12000-0x12fff")
	want(0x11000, -1)
	want(0x12000, -1)
	want(0x13000, 6)

	// Unmapping covers any number of maps, or none; parts of maps, and the end of the
	// address space.
	r.must(DMAUnmap, unmapped(0x100000, 0x1000))
	m.wantCalls(t)
	r.must(DMAUnmap, unmapped(0x10800, 0x3000))
	m.wantCalls(t, "unmap 0x10800-0x137ff")
	want(0x107ff, 3)
	want(0x10800, -1)
	want(0x137ff, -1)
	want(0x13800, 6)
	r.must(DMAMap, mapped(1<<63, 1<<12, 0), ram)
	r.must(DMAMap, mapped(math.MaxUint64-0xfff, 1<<12, 0x5000), ram)
	want(math.MaxUint64-1, 6)
	r.must(DMAUnmap, unmapped(0x13000, math.MaxUint64-0x13000+1))
	m.wantCalls(t, "unmap 0x13000-0xffffffffffffffff")
	want(1<<63, -1)
	want(0xf000, 2)
	r.must(DMAUnmap, dmaRange{flags: dmaAll}.appendUnmap(nil))
	want(0xf000, -1)
	m.wantCalls(t, "unmap 0x0-0xffffffffffffffff")
	r.must(DMAUnmap, dmaRange{flags: dmaAll}.appendUnmap(nil))
	m.wantCalls(t)
	if n := bus.openFiles(); n != 2 {
		t.Errorf("%d files are open; want 2", n)
	}
}

func TestDMARefused(t *testing.T) {
	m := newTestModel(t)
	r, _ := greeted(t, m)
	ram := newMemfd(t, 0x4000)
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	testkit.Check(t, err)
	device := fd.New(null, "device")
	defer device.Close()
	for _, tt := range []struct {
		name    string
		command Command
		payload []byte
		files   []*fd.FD
	}{
		{"no size", DMAMap, mapped(0x1000, 0, 0), nil},
		{"wraps", DMAMap, mapped(0x2000, math.MaxUint64-0xfff, 0), nil},
		{"two files", DMAMap, mapped(0, 0x1000, 0), []*fd.FD{ram, ram}},
		{"offset is none", DMAMap, mapped(0, 0x1000, 1<<63), []*fd.FD{ram}},
		{"end of file is none", DMAMap, mapped(0, 0x1000, 1<<63-0x1000+1), []*fd.FD{ram}},
		{"no regular file", DMAMap, mapped(0, 0x1000, 0), []*fd.FD{device}},
		{"short", DMAMap, mapped(0, 0x1000, 0)[:31], nil},
		{"argsz", DMAMap, append([]byte{31}, mapped(0, 0x1000, 0)[1:]...), nil},
		{"unmap of no size", DMAUnmap, unmapped(0x1000, 0), nil},
		{"unmap wraps", DMAUnmap, unmapped(0x2000, math.MaxUint64-0xfff), nil},
		{"unmap with a file", DMAUnmap, unmapped(0x2000, 0x1000), []*fd.FD{ram}},
		{"unmap of everything with a size", DMAUnmap, dmaRange{flags: dmaAll, size: 1}.appendUnmap(nil), nil},
		{"unmap with a dirty bitmap", DMAUnmap, dmaRange{flags: 1, size: 0x1000}.appendUnmap(nil), nil},
		{"unmap short", DMAUnmap, unmapped(0, 0x1000)[:23], nil},
	} {
		if errno, _ := r.ask(tt.command, tt.payload, tt.files...); errno != unix.EINVAL {
			t.Errorf("%s: %s = %v; want EINVAL", tt.name, tt.command, errno)
		}
	}
	m.wantCalls(t)
}

// TestFileChanges wants the length of a file to be looked at when it is used.
func TestFileChanges(t *testing.T) {
	m := newTestModel(t)
	r, _ := greeted(t, m)
	bus := m.attached()
	ram := newMemfd(t, 0x2000)
	r.must(DMAMap, mapped(0, 0x2000, 0x1000), ram)
	if got := at(bus, 0, 1); got != -1 {
		t.Errorf("memory behind the end of its file = %d; want -1", got)
	}
	// It grows: again and again, up to a limit.
	for i := range int64(maxViews + 2) {
		testkit.Check(t, unix.Ftruncate(ram.Int(), 0x4000+i<<12))
		r.must(DMAMap, mapped(0x10000, 0x1000, uint64(0x3000+i<<12)), ram)
		want := 0
		if i >= maxViews {
			want = -1
		}
		if got := at(bus, 0x10000, 1); got != want {
			t.Errorf("byte after growing %d times = %d; want %d", i+1, got, want)
		}
	}
	// It shrinks.
	testkit.Check(t, unix.Ftruncate(ram.Int(), 0x1000))
	r.must(DMAUnmap, unmapped(0x10000, 0x1000))
	if got := at(bus, 0, 1); got != -1 {
		t.Errorf("memory of a file that was cut = %d; want -1", got)
	}
	if _, _, err := bus.View(0, 4096); !errors.Is(err, unix.EFAULT) {
		t.Errorf("View() of a file that was cut = %v; want EFAULT", err)
	}
}

// TestReadOnlyFile wants memory that we can't write to be left out.
func TestReadOnlyFile(t *testing.T) {
	m := newTestModel(t)
	r, _ := greeted(t, m)
	ram := newMemfd(t, 0x1000)
	n, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", ram.Int()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	testkit.Check(t, err)
	readOnly := fd.New(n, "read-only")
	defer readOnly.Close()
	r.must(DMAMap, mapped(0, 0x1000, 0), readOnly)
	r.must(DMAMap, mapped(0x1000, 0x1000, 0), ram)
	if got := []int{at(m.attached(), 0, 1), at(m.attached(), 0x1000, 1)}; got[0] != -1 || got[1] != 0 {
		t.Errorf("bytes of a file, read-only and not = %v; want -1, 0", got)
	}
}

func TestManyFiles(t *testing.T) {
	m := newTestModel(t)
	r, _ := greeted(t, m)
	bus := m.attached()
	for i := range uint64(maxDMAFiles) {
		r.must(DMAMap, mapped(i<<12, 0x1000, 0), newMemfd(t, 0x1000))
	}
	if errno, _ := r.ask(DMAMap, mapped(0x10000000, 0x1000, 0), newMemfd(t, 0x1000)); errno != unix.ENOSPC {
		t.Errorf("DMA_MAP of another file = %v; want ENOSPC", errno)
	}
	if got := at(bus, 0, 1); got != 0 {
		t.Errorf("byte at 0 = %d; want 0", got)
	}
	r.must(DMAUnmap, unmapped(0x1000, 0x1000))
	r.must(DMAMap, mapped(0x10000000, 0x1000, 0), newMemfd(t, 0x1000))
	if n := bus.openFiles(); n != maxDMAFiles {
		t.Errorf("%d files are open; want %d", n, maxDMAFiles)
	}
}

func TestView(t *testing.T) {
	m := newTestModel(t)
	r, _ := greeted(t, m)
	bus := m.attached()
	ram, other := pages(t, 16), pages(t, 16)
	// Pages 7, 3, 4 and 2 of one file, then one of another; then a hole, and something
	// that isn't on pages.
	for i, page := range []uint64{7, 3, 4, 2} {
		r.must(DMAMap, mapped(0x10000+uint64(i)<<12, 0x1000, page<<12), ram)
	}
	r.must(DMAMap, mapped(0x14000, 0x1000, 0x9000), other)
	r.must(DMAMap, mapped(0x20000, 0x1800, 0), ram)
	r.must(DMAMap, mapped(0x21800, 0x1000, 0x5000), ram)
	want := bytes.Join([][]byte{
		bytes.Repeat([]byte{8}, 4096), bytes.Repeat([]byte{4}, 4096), bytes.Repeat([]byte{5}, 4096),
		bytes.Repeat([]byte{3}, 4096), bytes.Repeat([]byte{10}, 4096),
	}, nil)
	for _, tt := range []struct {
		name string
		iova uint64
		n    int
	}{
		{"everything", 0x10000, 0x5000},
		{"one page", 0x11000, 0x1000},
		{"two pages that follow each other", 0x11000, 0x2000},
		{"across pages", 0x10ff0, 0x20},
		{"across files", 0x13fff, 2},
		{"up to the end", 0x10800, 0x4800},
	} {
		mem, unmap, err := bus.View(vfio.IOVA(tt.iova), tt.n)
		if err != nil {
			t.Errorf("%s: View(%#x, %#x) = %v", tt.name, tt.iova, tt.n, err)
			continue
		}
		if got := want[tt.iova-0x10000:][:tt.n]; !bytes.Equal(mem, got) || cap(mem) != tt.n {
			t.Errorf("%s: View(%#x, %#x) has other bytes, or room for %#x", tt.name, tt.iova, tt.n, cap(mem))
		}
		testkit.Check(t, unmap())
	}
	for _, tt := range []struct {
		name string
		iova uint64
		n    int
		want error
	}{
		{"nothing", 0x10000, 0, unix.EINVAL},
		{"less than nothing", 0x10000, -1, unix.EINVAL},
		{"a hole before", 0xfff0, 0x20, unix.EFAULT},
		{"a hole behind", 0x10000, 0x5001, unix.EFAULT},
		{"nowhere", 0x50000, 1, unix.EFAULT},
		{"wraps", math.MaxUint64, 2, unix.EINVAL},
		{"not on pages", 0x20000, 0x2000, unix.EINVAL},
	} {
		if _, _, err := bus.View(vfio.IOVA(tt.iova), tt.n); !errors.Is(err, tt.want) {
			t.Errorf("%s: View(%#x, %#x) = %v; want %v", tt.name, tt.iova, tt.n, err, tt.want)
		}
	}

	// Stores through a view reach the file.
	mem, unmap, err := bus.View(0x10ffe, 4)
	testkit.Check(t, err)
	copy(mem, "vfio")
	testkit.Check(t, unmap())
	got := make([]byte, 2)
	for off, want := range map[int64]string{0x7ffe: "vf", 0x3000: "io"} {
		if _, err := unix.Pread(ram.Int(), got, off); err != nil || string(got) != want {
			t.Errorf("file at %#x = %q, %v; want %q", off, got, err, want)
		}
	}
}

// TestViewHuge wants a file of huge pages to be used as it is or not at all: the kernel
// maps no part of a huge page.
func TestViewHuge(t *testing.T) {
	n, err := unix.MemfdCreate("huge", unix.MFD_CLOEXEC|unix.MFD_HUGETLB)
	if err != nil {
		t.Skip("no huge pages: ", err)
	}
	huge := fd.New(n, "huge pages")
	defer huge.Close()
	testkit.Check(t, unix.Ftruncate(n, 2<<20))
	m := newTestModel(t)
	r, _ := greeted(t, m)
	r.must(DMAMap, mapped(0, 0x1000, 0x1000), huge)
	r.must(DMAMap, mapped(0x1000, 0x1000, 0), huge)
	if _, _, err := m.attached().View(0, 0x2000); err == nil {
		t.Error("View() of parts of a huge page succeeds")
	}
}

// TestBusAfterEnd wants a Bus to be harmless when its client is gone.
func TestBusAfterEnd(t *testing.T) {
	m := newTestModel(t)
	r, end := greeted(t, m)
	bus := m.attached()
	event := newEvent(t)
	r.must(DMAMap, mapped(0, uint64(os.Getpagesize()), 0), newMemfd(t, 1<<20))
	r.must(SetIRQs, irqSet{flags: irqEvents | irqTrigger, index: uint32(vfio.MSIX), count: 1}.append(nil), event)
	bus.Trigger(vfio.MSIX, 0)
	testkit.Check(t, end())
	bus.Trigger(vfio.MSIX, 0)
	if got := count(t, event); got != 1 {
		t.Errorf("%d interrupts; want the one while the client was there", got)
	}
	if got := at(bus, 0, 1); got != -1 {
		t.Errorf("byte at 0 = %d; want -1", got)
	}
	if _, _, err := bus.View(0, 1); err == nil {
		t.Error("View() succeeds")
	}
}
