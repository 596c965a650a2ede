package vfiotest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/vfio"
	"vfiofs/vfio/vfiotest"
)

var _ vfio.Device = (*vfiotest.Function)(nil)

// newFunction makes a function that is closed at the end of the test.
func newFunction(t *testing.T, opt vfiotest.Options) *vfiotest.Function {
	t.Helper()
	f, err := vfiotest.New(opt)
	testkit.Check(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// newFile makes a memory file.
func newFile(t *testing.T, size int64) *fd.FD {
	t.Helper()
	n, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	testkit.Check(t, err)
	file := fd.New(n, "test memory")
	t.Cleanup(func() { file.Close() })
	testkit.Check(t, unix.Ftruncate(n, size))
	return file
}

func TestRegion(t *testing.T) {
	file := newFile(t, 4096)
	f := newFunction(t, vfiotest.Options{Regions: map[int]vfiotest.Region{
		0:                 {Size: 64, Init: []byte{1, 2, 3, 4}},
		2:                 {Size: 4096, Mappable: true, Init: []byte("init")},
		4:                 {Size: 4096, Mappable: true, File: file},
		vfio.ConfigRegion: {Init: make([]byte, 256)},
	}})
	for i, want := range map[int]int64{0: 64, 1: 0, 2: 4096, vfio.ConfigRegion: 256, vfio.VGARegion: 0} {
		r, err := f.Region(i)
		if err != nil || r.Size() != want {
			t.Errorf("size of region %d = %d, %v; want %d", i, r.Size(), err, want)
		}
	}
	bar0, _ := f.Region(0)
	if _, err := bar0.Mmap(); !errors.Is(err, vfio.ErrNotMappable) || f.Mem(0) != nil || f.Mem(-1) != nil {
		t.Errorf("Mmap() = %v; want %v, and no Mem", err, vfio.ErrNotMappable)
	}
	for _, tt := range []struct {
		off  int64
		n    int
		want string
	}{
		{2, 2, "2 <nil>"},
		{0, 8, "8 <nil>"},
		{64, 1, "0 EOF"},
		{63, 2, "1 EOF"},
		{65, 4, "0 EOF"},
		{1, 2, "0 region 0: 2 bytes at offset 0x1 are no register access"},
		{0, 3, "0 region 0: 3 bytes at offset 0x0 are no register access"},
		{-4, 4, "0 region 0: 4 bytes at offset -0x4 of 0x40: EOF"},
	} {
		n, err := bar0.ReadAt(make([]byte, tt.n), tt.off)
		if got := fmt.Sprint(n, " ", err); got != tt.want {
			t.Errorf("ReadAt(%d bytes, %#x) = %s; want %s", tt.n, tt.off, got, tt.want)
		}
	}
	if _, err := bar0.WriteAt(make([]byte, 4), 64); !errors.Is(err, io.EOF) {
		t.Errorf("WriteAt behind the end = %v; want %v", err, io.EOF)
	}
	b := make([]byte, 4)
	_, err := bar0.WriteAt([]byte{9, 8}, 2)
	testkit.Check(t, err)
	_, err = bar0.ReadAt(b, 0)
	if testkit.Check(t, err); !bytes.Equal(b, []byte{1, 2, 9, 8}) {
		t.Errorf("registers hold %v; want [1 2 9 8]", b)
	}

	// All ways to mappable memory lead to the same bytes.
	bar2, _ := f.Region(2)
	mem, err := bar2.Mmap()
	testkit.Check(t, err)
	mem[1] = 'N'
	_, err = bar2.ReadAt(b, 0)
	if testkit.Check(t, err); string(b) != "iNit" || string(f.Mem(2)[:4]) != "iNit" {
		t.Errorf("memory = %q and %q; want iNit", b, f.Mem(2)[:4])
	}
	f.Mem(4)[7] = 'x'
	if _, err := unix.Pread(file.Int(), b[:1], 7); err != nil || b[0] != 'x' {
		t.Errorf("the file holds %q, %v; want x", b[:1], err)
	}
	config, _ := f.Region(vfio.ConfigRegion)
	if n, err := config.ReadAt(make([]byte, 255), 1); n != 255 || err != nil {
		t.Errorf("ReadAt of configuration space = %d, %v; want 255 bytes", n, err)
	}
	for _, i := range []int{-1, vfio.NumRegions} {
		if _, err := f.Region(i); err == nil {
			t.Errorf("Region(%d) = nil error; want one", i)
		}
	}
}

func TestNewErrors(t *testing.T) {
	nop := func([]byte, int64) {}
	for _, tt := range []struct {
		name    string
		regions map[int]vfiotest.Region
	}{
		{"index", map[int]vfiotest.Region{vfio.NumRegions: {Size: 4}}},
		{"content", map[int]vfiotest.Region{0: {Size: 4, Init: make([]byte, 5)}}},
		{"hooks and mappable", map[int]vfiotest.Region{0: {Size: 4096, Mappable: true, Write: nop}}},
		{"short file", map[int]vfiotest.Region{0: {Size: 8192, Mappable: true, File: newFile(t, 4096)}}},
		{"mappable without size", map[int]vfiotest.Region{0: {Mappable: true}}},
		{"absurd size", map[int]vfiotest.Region{0: {Mappable: true, Size: -1}}},
	} {
		if f, err := vfiotest.New(vfiotest.Options{Regions: tt.regions}); err == nil {
			f.Close()
			t.Errorf("New with wrong %s = nil error; want one", tt.name)
		}
	}
}

func TestInterrupts(t *testing.T) {
	f := newFunction(t, vfiotest.Options{Vectors: map[vfio.IRQ]int{vfio.MSIX: 2}})
	if n, err := f.Vectors(vfio.MSIX); n != 2 || err != nil {
		t.Errorf("Vectors(MSIX) = %d, %v; want 2", n, err)
	}
	e, err := fd.NewEvent("vector")
	testkit.Check(t, err)
	defer e.Close()
	if f.Trigger(vfio.MSIX, 0) {
		t.Error("Trigger before SetIRQs = true; want false")
	}
	testkit.Check(t, f.SetIRQs(vfio.MSIX, []*fd.FD{e}))
	for vector, want := range map[int]bool{0: true, 1: false, -1: false} {
		if got := f.Trigger(vfio.MSIX, vector); got != want {
			t.Errorf("Trigger(%d) = %v; want %v", vector, got, want)
		}
	}
	var b [8]byte
	if _, err := unix.Read(e.Int(), b[:]); err != nil || b[0] != 1 {
		t.Errorf("eventfd holds %v, %v; want 1", b, err)
	}
	if err := f.SetIRQs(vfio.MSIX, []*fd.FD{e, e, e}); err == nil {
		t.Error("SetIRQs of 3 of 2 vectors = nil; want an error")
	}
	if n := f.Listening(vfio.MSIX); n != 1 {
		t.Errorf("Listening(MSIX) = %d; want 1", n)
	}
	testkit.Check(t, f.SetIRQs(vfio.MSIX, nil))
	if f.Trigger(vfio.MSIX, 0) || f.Listening(vfio.MSIX) != 0 {
		t.Error("interrupts work when they are off")
	}
}

func TestDMA(t *testing.T) {
	page := uint64(os.Getpagesize())
	file := newFile(t, int64(4*page))
	f := newFunction(t, vfiotest.Options{})
	mem := make([]byte, 2*page)
	testkit.Check(t, f.MapDMA(0x10000, mem, file, int64(page)))
	_, err := unix.Pwrite(file.Int(), []byte("hi"), int64(page)+4)
	testkit.Check(t, err)
	if b, err := f.DMA(0x10004, 2); err != nil || string(b) != "hi" {
		t.Errorf("DMA(0x10004, 2) = %q, %v; want hi", b, err)
	}
	end := vfio.IOVA(0x10000 + 2*page)
	for _, tt := range []struct {
		iova vfio.IOVA
		n    int
	}{{0xffff, 1}, {end, 1}, {end - 1, 2}, {0x10000, -1}} {
		if _, err := f.DMA(tt.iova, tt.n); err == nil {
			t.Errorf("DMA(%#x, %d) = nil error; want one", tt.iova, tt.n)
		}
	}
	for _, tt := range []struct {
		name string
		iova vfio.IOVA
		mem  []byte
		off  int64
	}{
		{"nothing", 0x40000, nil, 0},
		{"half a page", 0x40000, mem[:page/2], 0},
		{"between pages", 0x40800, mem[:page], 0},
		{"outside of the ranges", 0xf000_0000_0000, mem[:page], 0},
		{"across the end", 0xffff_f000, mem, 0},
		{"overlap", end - vfio.IOVA(page), mem[:page], 0},
		{"behind the file", 0x40000, mem, int64(3 * page)},
		{"negative offset", 0x40000, mem, -int64(page)},
		{"between pages of the file", 0x40000, mem, 1},
	} {
		if err := f.MapDMA(tt.iova, tt.mem, file, tt.off); err == nil {
			t.Errorf("MapDMA of %s = nil; want an error", tt.name)
		}
	}
	if got, want := f.Mapped(), []vfio.Range{{First: 0x10000, Last: end - 1}}; !slices.Equal(got, want) {
		t.Errorf("Mapped() = %#x; want %#x", got, want)
	}
	if err := f.UnmapDMA(0x10000, page); !errors.Is(err, unix.ENOENT) {
		t.Errorf("UnmapDMA of a half = %v; want %v", err, unix.ENOENT)
	}
	testkit.Check(t, f.UnmapDMA(0x10000, 2*page))
	testkit.Check(t, f.MapDMA(0x10000, mem, file, 0)) // ended by Close
}

func TestLife(t *testing.T) {
	broken := errors.New("broken")
	resets, failing := 0, ""
	f := newFunction(t, vfiotest.Options{
		OnReset: func() { resets++ },
		Fail: func(op string) error {
			if op == failing {
				return broken
			}
			return nil
		},
	})
	region, err := f.Region(0)
	testkit.Check(t, err)
	operations := map[string]func() error{
		"Region":   func() error { _, err := f.Region(0); return err },
		"Vectors":  func() error { _, err := f.Vectors(vfio.MSIX); return err },
		"SetIRQs":  func() error { return f.SetIRQs(vfio.MSIX, nil) },
		"MapDMA":   func() error { return f.MapDMA(0x10000, nil, nil, 0) },
		"UnmapDMA": func() error { return f.UnmapDMA(0x10000, 1) },
		"Reset":    f.Reset,
		"Mmap":     func() error { _, err := region.Mmap(); return err },
		"ReadAt":   func() error { _, err := region.ReadAt(nil, 0); return err },
		"WriteAt":  func() error { _, err := region.WriteAt(nil, 0); return err },
	}
	for op, do := range operations {
		failing = op
		if err := do(); !errors.Is(err, broken) {
			t.Errorf("failing %s = %v; want %v", op, err, broken)
		}
	}
	failing = ""
	if err := f.Reset(); err != nil || resets != 1 {
		t.Errorf("Reset() = %v, %d calls of OnReset; want nil, 1", err, resets)
	}
	select {
	case <-f.Gone():
		t.Error("gone at first")
	default:
	}
	f.Lose()
	f.Lose()
	<-f.Gone()
	for op, do := range operations {
		if err := do(); !errors.Is(err, vfiotest.ErrGone) {
			t.Errorf("%s of a lost function = %v; want %v", op, err, vfiotest.ErrGone)
		}
	}
	testkit.Check(t, f.Close())
	testkit.Check(t, f.Close())
}
