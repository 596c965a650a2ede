package vfio_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/vfio"
	"vfiofs/vfio/vfiotest"
)

// newFunction makes a function that is closed at the end of the test.
func newFunction(t testing.TB, opt vfiotest.Options) *vfiotest.Function {
	t.Helper()
	f, err := vfiotest.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// window makes registers of region 0 of a function.
func window(t testing.TB, r vfiotest.Region, off, size int64) (*vfio.Registers, *vfiotest.Function) {
	t.Helper()
	f := newFunction(t, vfiotest.Options{Regions: map[int]vfiotest.Region{0: r}})
	region, err := f.Region(0)
	if err != nil {
		t.Fatal(err)
	}
	w, err := vfio.NewRegisters(region, off, size)
	if err != nil {
		t.Fatal(err)
	}
	return w, f
}

// TestRegisters reads and writes every width, with and without a mapping.
func TestRegisters(t *testing.T) {
	for _, mappable := range []bool{true, false} {
		t.Run(fmt.Sprintf("mappable %v", mappable), func(t *testing.T) {
			init := []byte{0, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0xe1, 0xd2, 0xc3, 0xb4, 0xa5, 0x96, 0x87}
			w, _ := window(t, vfiotest.Region{Size: 0x1000, Init: init, Mappable: mappable}, 8, 0x100)
			if w.Mapped() != mappable || w.Size() != 0x100 {
				t.Errorf("Mapped() = %v, Size() = %#x; want %v, 0x100", w.Mapped(), w.Size(), mappable)
			}
			for _, tt := range []struct {
				name      string
				got, want uint64
			}{
				{"Read8(1)", uint64(w.Read8(1)), 0xe1},
				{"Read16(2)", uint64(w.Read16(2)), 0xc3d2},
				{"Read32(4)", uint64(w.Read32(4)), 0x8796a5b4},
				{"Read64(0)", w.Read64(0), 0x8796a5b4c3d2e1f0},
			} {
				if tt.got != tt.want {
					t.Errorf("%s = %#x; want %#x", tt.name, tt.got, tt.want)
				}
			}
			w.Write8(0x81, 0x12)
			w.Write16(0x82, 0x3456)
			w.Write32(0x84, 0x789abcde)
			if got, want := w.Read64(0x80), uint64(0x789abcde34561200); got != want {
				t.Errorf("Read64 after narrow writes = %#x; want %#x", got, want)
			}
			w.Write64(0xf8, 0x0102030405060708)
			if got := w.Read64(0xf8); got != 0x0102030405060708 {
				t.Errorf("Read64 after Write64 = %#x; want 0x0102030405060708", got)
			}
			if err := w.Err(); err != nil {
				t.Errorf("Err() = %v; want nil", err)
			}
		})
	}
}

// TestRegisterErrors: an access that can't be reads as ones, writes nothing and is
// remembered.
func TestRegisterErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(*vfio.Registers) uint64
	}{
		{"before the start", func(w *vfio.Registers) uint64 { return uint64(w.Read8(-1)) }},
		{"behind the end", func(w *vfio.Registers) uint64 { return uint64(w.Read8(16)) }},
		{"across the end", func(w *vfio.Registers) uint64 { return uint64(w.Read64(12)) }},
		{"far away", func(w *vfio.Registers) uint64 { return uint64(w.Read32(1<<63 - 4)) }},
		{"unaligned 16", func(w *vfio.Registers) uint64 { return uint64(w.Read16(1)) }},
		{"unaligned 32", func(w *vfio.Registers) uint64 { return uint64(w.Read32(2)) }},
		{"unaligned in the region", func(w *vfio.Registers) uint64 { return w.Read64(0) }},
		{"write behind the end", func(w *vfio.Registers) uint64 { w.Write32(16, 7); return 0xff }},
		{"write unaligned", func(w *vfio.Registers) uint64 { w.Write16(3, 7); return 0xff }},
	} {
		for _, mappable := range []bool{true, false} {
			w, _ := window(t, vfiotest.Region{Size: 32, Mappable: mappable}, 4, 16)
			if got := tt.do(w); got != 0xff && got != 0xffff && got != 1<<32-1 && got != 1<<64-1 {
				t.Errorf("%s, mappable %v: read %#x; want ones", tt.name, mappable, got)
			}
			if w.Err() == nil {
				t.Errorf("%s, mappable %v: Err() = nil; want an error", tt.name, mappable)
			}
			if got := []uint32{w.Read32(0), w.Read32(4), w.Read32(8), w.Read32(12)}; fmt.Sprint(got) != "[0 0 0 0]" {
				t.Errorf("%s, mappable %v: registers hold %v afterwards; want zeros", tt.name, mappable, got)
			}
		}
	}
}

func TestNewRegistersErrors(t *testing.T) {
	broken := errors.New("broken")
	f := newFunction(t, vfiotest.Options{
		Regions: map[int]vfiotest.Region{0: {Size: 0x1000}},
		Fail: func(op string) error {
			if op == "Mmap" {
				return broken
			}
			return nil
		},
	})
	r, err := f.Region(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range [][2]int64{{-1, 4}, {0, 0}, {0, -4}, {0, 0x1001}, {0x1000, 4}, {1<<63 - 1, 4}, {4, 1<<63 - 1}} {
		if _, err := vfio.NewRegisters(r, at[0], at[1]); err == nil || errors.Is(err, broken) {
			t.Errorf("NewRegisters(%#x, %#x) = %v; want an error about its size", at[0], at[1], err)
		}
	}
	if _, err := vfio.NewRegisters(r, 0, 4); !errors.Is(err, broken) {
		t.Errorf("NewRegisters with a broken Mmap = %v; want %v", err, broken)
	}
}

// A short region can be mapped at its start only.
type short struct {
	vfio.Region
	n int
}

func (s short) Mmap() ([]byte, error) {
	mem, err := s.Region.Mmap()
	return mem[:s.n], err
}

func TestMappedInPart(t *testing.T) {
	f := newFunction(t, vfiotest.Options{Regions: map[int]vfiotest.Region{0: {Size: 0x2000, Mappable: true}}})
	r, _ := f.Region(0)
	for off, want := range map[int64]bool{0: true, 0xffc: true, 0xffd: false, 0x1000: false} {
		w, err := vfio.NewRegisters(short{r, 0x1000}, off, 4)
		if err != nil || w.Mapped() != want {
			t.Errorf("registers at %#x: mapped %v, %v; want %v", off, w.Mapped(), err, want)
		}
	}
}

// TestAccessWidths: one call is one access, of its width.
func TestAccessWidths(t *testing.T) {
	var got []string
	w, f := window(t, vfiotest.Region{
		Size:  64,
		Read:  func(p []byte, off int64) { got = append(got, fmt.Sprintf("r%d@%#x", len(p), off)); p[0] = 0x5a },
		Write: func(p []byte, off int64) { got = append(got, fmt.Sprintf("w%d@%#x=%x", len(p), off, p)) },
	}, 16, 32)
	if v := w.Read16(4); v != 0x5a {
		t.Errorf("Read16(4) = %#x; want 0x5a", v)
	}
	w.Read8(1)
	w.Read32(8)
	w.Read64(16)
	w.Write8(1, 1)
	w.Write16(4, 0x102)
	w.Write32(8, 0x1020304)
	w.Write64(16, 0x102030405060708)
	want := "[r2@0x14 r1@0x11 r4@0x18 r8@0x20 w1@0x11=01 w2@0x14=0201 w4@0x18=04030201 w8@0x20=0807060504030201]"
	if fmt.Sprint(got) != want {
		t.Errorf("accesses %v; want %v", got, want)
	}
	f.Lose()
	w.Write8(0, 1)
	if v := w.Read32(0); v != 1<<32-1 || !errors.Is(w.Err(), vfiotest.ErrGone) {
		t.Errorf("Read32 of a lost function = %#x, Err() = %v; want ones and %v", v, w.Err(), vfiotest.ErrGone)
	}
}

// fileOf returns a memory file of one page.
func fileOf(t *testing.T) *fd.FD {
	t.Helper()
	n, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	file := fd.New(n, "test memory")
	t.Cleanup(func() { file.Close() })
	if err := unix.Ftruncate(n, int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestFault cuts the file behind a mapping, which faults as a function does that doesn't
// decode its memory.
func TestFault(t *testing.T) {
	file := fileOf(t)
	w, f := window(t, vfiotest.Region{Size: int64(os.Getpagesize()), Mappable: true, File: file}, 0, 64)
	w.Write32(4, 7)
	if err := unix.Ftruncate(file.Int(), 0); err != nil {
		t.Fatal(err)
	}
	var fault *vfio.FaultError
	if v := w.Read32(4); v != 1<<32-1 || !errors.As(w.Err(), &fault) {
		t.Errorf("Read32 without memory = %#x, Err() = %v; want ones and a FaultError", v, w.Err())
	}
	w.Write32(4, 8)
	if debug.SetPanicOnFault(false) {
		t.Error("the goroutine still panics on faults")
	}
	if err := vfio.Guard(func() { f.Mem(0)[5]++ }); !errors.As(err, &fault) || !strings.Contains(err.Error(), "fault at address") {
		t.Errorf("Guard of a fault = %v; want a FaultError", err)
	}
	if err := vfio.Guard(func() {}); err != nil {
		t.Errorf("Guard of nothing = %v; want nil", err)
	}
	// Other panics are somebody's bug, and pass.
	for _, bug := range []func(){
		func() { panic("bug") },
		func() { var p *int; *p = 1 },
		func() { var s []int; s[len(s)] = 1 },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("Guard swallowed a panic")
				}
			}()
			vfio.Guard(bug)
		}()
	}

	// With its memory back, the mapping works again.
	if err := unix.Ftruncate(file.Int(), int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	w.Write32(4, 9)
	if got := w.Read32(4); got != 9 {
		t.Errorf("Read32 with memory again = %d; want 9", got)
	}
}

// TestRegistersAllocate: a doorbell costs nothing, mapped or not, and from many
// goroutines.
func TestRegistersAllocate(t *testing.T) {
	for _, mappable := range []bool{true, false} {
		w, _ := window(t, vfiotest.Region{Size: 64, Mappable: mappable, Write: hook(mappable)}, 0, 64)
		what := fmt.Sprintf("mappable %v: Write32", mappable)
		testkit.NoAllocs(t, 100, what, func() { vfio.Fence(); w.Write32(8, 1) })
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for range 100 {
					w.Write32(int64(4*i), uint32(i))
					w.Read32(int64(4 * i))
				}
			})
		}
		wg.Wait()
		if err := w.Err(); err != nil {
			t.Errorf("mappable %v: Err() = %v; want nil", mappable, err)
		}
	}
}

// hook returns a hook for a region that isn't mappable.
func hook(mappable bool) func([]byte, int64) {
	if mappable {
		return nil
	}
	return func([]byte, int64) {}
}

func BenchmarkDoorbell(b *testing.B) {
	w, _ := window(b, vfiotest.Region{Size: 64, Mappable: true}, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		vfio.Fence()
		w.Write32(8, 1)
	}
}

func TestArena(t *testing.T) {
	f := newFunction(t, vfiotest.Options{})
	a, err := vfio.NewArena(f, 5000)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Mem)%os.Getpagesize() != 0 || len(a.Mem) < 5000 || a.IOVA != 0x10000 {
		t.Errorf("arena of %d bytes at %#x; want whole pages at 0x10000", len(a.Mem), a.IOVA)
	}
	if !bytes.Equal(a.Mem, make([]byte, len(a.Mem))) {
		t.Error("a new arena doesn't hold zeros")
	}
	// Both sides see the same bytes.
	copy(a.Mem[4998:], "hi")
	dev, err := f.DMA(a.IOVA+4998, 2)
	if err != nil || string(dev) != "hi" {
		t.Fatalf("the device sees %q, %v; want hi", dev, err)
	}
	dev[0] = 'H'
	if got := string(a.Mem[4998:5000]); got != "Hi" {
		t.Errorf("arena holds %q; want Hi", got)
	}
	for range 2 {
		if err := a.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	}
	if got := f.Mapped(); got != nil {
		t.Errorf("mapped after Close: %#x; want nothing", got)
	}
	if got := fd.Open(); len(got) != 0 {
		t.Errorf("open after Close: %v; want nothing", got)
	}
}

// TestArenas shares a Space.
func TestArenas(t *testing.T) {
	f := newFunction(t, vfiotest.Options{})
	s := vfio.NewSpace(f.Ranges(), f.PageSize())
	var list []*vfio.Arena
	for range 3 {
		a, err := s.NewArena(f, 1)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, a)
	}
	if err := list[1].Close(); err != nil {
		t.Fatal(err)
	}
	again, err := s.NewArena(f, 1)
	if err != nil || again.IOVA != vfio.IOVA(0x10000+os.Getpagesize()) {
		t.Errorf("arena where the second was: %#x, %v", again.IOVA, err)
	}
	for _, a := range []*vfio.Arena{list[0], list[2], again} {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestArenaErrors(t *testing.T) {
	broken := errors.New("broken")
	fails := func(name string) func(string) error {
		return func(op string) error {
			if op == name {
				return broken
			}
			return nil
		}
	}
	for _, tt := range []struct {
		name string
		opt  vfiotest.Options
		size int
		want string
	}{
		{"no size", vfiotest.Options{}, 0, "0 bytes"},
		{"absurd size", vfiotest.Options{}, 1 << 50, "no such size"},
		{"no IOVAs", vfiotest.Options{Ranges: []vfio.Range{}}, 4096, "are free"},
		{"no mapping", vfiotest.Options{Fail: fails("MapDMA")}, 4096, "broken"},
		{"pages of an IOMMU for giants", vfiotest.Options{Page: 1 << 20}, 4096, "pages of 1048576"},
	} {
		f := newFunction(t, tt.opt)
		a, err := vfio.NewArena(f, tt.size)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: NewArena = %v, %v; want an error with %q", tt.name, a, err, tt.want)
		}
		if got := fd.Open(); len(got) != 0 {
			t.Errorf("%s: open: %v; want nothing", tt.name, got)
		}
	}

	// What couldn't be unmapped isn't given out again.
	f := newFunction(t, vfiotest.Options{Fail: fails("UnmapDMA")})
	s := vfio.NewSpace(f.Ranges(), f.PageSize())
	a, err := s.NewArena(f, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); !errors.Is(err, broken) {
		t.Errorf("Close() = %v; want %v", err, broken)
	}
	if iova, err := s.Alloc(1); err != nil || iova == a.IOVA {
		t.Errorf("Alloc = %#x, %v; want another than %#x", iova, err, a.IOVA)
	}
}

// TestSealed: the other side has the file, and can't shorten it under our feet.
func TestSealed(t *testing.T) {
	f := newFunction(t, vfiotest.Options{})
	spy := &spy{Device: f}
	a, err := vfio.NewArena(spy, 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := unix.Ftruncate(spy.file.Int(), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncate = %v; want %v", err, unix.EPERM)
	}
}

// A spy keeps the file of the last mapping.
type spy struct {
	vfio.Device
	file *fd.FD
}

func (s *spy) MapDMA(iova vfio.IOVA, mem []byte, file *fd.FD, off int64) error {
	s.file = file
	return s.Device.MapDMA(iova, mem, file, off)
}

var _ io.Closer = (*vfio.Arena)(nil)
