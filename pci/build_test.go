package pci_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/pci"
)

// virtioCap lays out a capability of virtio: n bytes, given what stands from the type
// on.
func virtioCap(t testing.TB, body string) pci.CapBuild {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(body, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return pci.CapBuild{ID: pci.CapVendor, Body: append([]byte{byte(len(b) + 3)}, b...)}
}

// proxy is the layout of virtio-vhost-user.md 11.3.
func proxy(t testing.TB) pci.Layout {
	t.Helper()
	msix, err := pci.MSIX{Vectors: 256, TableOffset: 0x6000, PBAOffset: 0x7000}.Build()
	if err != nil {
		t.Fatal(err)
	}
	window := virtioCap(t, "05"+strings.Repeat("00", 16))
	window.Writable = append([]byte{0, 0, 0xff, 0, 0, 0}, bytes.Repeat([]byte{0xff}, 8)...) // BAR, offset, length
	return pci.Layout{
		Size: 256, Vendor: 0x1af4, Device: 0x107d, Revision: 1, Class: 0x00ff00, SubVendor: 0x1af4, SubDevice: 0x107d,
		BARs: []pci.BAR{
			{Index: 0, Kind: pci.Mem32, Size: 0x8000},
			{Index: 2, Kind: pci.Mem64, Size: 0x4000},
			{Index: 4, Kind: pci.Mem64, Prefetchable: true, Size: 0x2_0000_0000},
		},
		Caps: []pci.CapBuild{
			virtioCap(t, "01 00 00 00 00 00 00 00 00 38 00 00 00"),
			virtioCap(t, "03 00 00 00 00 00 10 00 00 01 00 00 00"),
			virtioCap(t, "04 00 00 00 00 00 20 00 00 00 10 00 00"),
			virtioCap(t, "02 00 00 00 00 00 30 00 00 00 10 00 00 04 00 00 00"),
			window,
			msix,
			virtioCap(t, "06 02 00 00 00 00 00 00 00 00 20 00 00 04 00 00 00"),
			virtioCap(t, "07 02 00 00 00 00 20 00 00 00 10 00 00"),
			virtioCap(t, "08 04 01 00 00 00 00 00 00 00 00 00 80 00 00 00 00 01 00 00 00"),
		},
	}
}

func build(t testing.TB, l pci.Layout) *pci.Space {
	t.Helper()
	s, err := l.Build()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// dump returns n bytes from off on.
func dump(t testing.TB, s *pci.Space, off int64, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := s.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b)
}

func TestBuildGolden(t *testing.T) {
	s := build(t, proxy(t))
	for _, test := range []struct {
		name string
		off  int64
		want string
	}{
		{"ids", 0x00, "f41a7d10"},
		{"command and status", 0x04, "00001000"},
		{"revision and class", 0x08, "0100ff00"},
		{"header type", 0x0c, "00000000"},
		{"BARs", 0x10, "00000000 00000000 04000000 00000000 0c000000 00000000"},
		{"subsystem", 0x2c, "f41a7d10"},
		{"ROM", 0x30, "00000000"},
		{"pointer", 0x34, "40"},
		{"line and pin", 0x3c, "0000"},
		{"common", 0x40, "09 50 10 01 00 00 00 00 00 00 00 00 38 00 00 00"},
		{"isr", 0x50, "09 60 10 03 00 00 00 00 00 10 00 00 01 00 00 00"},
		{"device", 0x60, "09 70 10 04 00 00 00 00 00 20 00 00 00 10 00 00"},
		{"notify", 0x70, "09 84 14 02 00 00 00 00 00 30 00 00 00 10 00 00 04 00 00 00"},
		{"pci cfg", 0x84, "09 98 14 05 00000000 00000000 00000000 00000000"},
		{"MSI-X", 0x98, "11 a4 ff 00 00 60 00 00 00 70 00 00"},
		{"doorbell", 0xa4, "09 b8 14 06 02 00 00 00 00 00 00 00 00 20 00 00 04 00 00 00"},
		{"notification", 0xb8, "09 c8 10 07 02 00 00 00 00 20 00 00 00 10 00 00"},
		{"shared memory", 0xc8, "09 00 18 08 04 01 00 00 00 00 00 00 00 00 00 80 00 00 00 00 01 00 00 00"},
		{"the rest", 0xe0, strings.Repeat("00", 0x20)},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := strings.ReplaceAll(test.want, " ", "")
			if got := dump(t, s, test.off, len(want)/2); got != want {
				t.Errorf("bytes at %#x = %s; want %s", test.off, got, want)
			}
		})
	}
}

// TestBuildParse reads a built space with the driver's side.
func TestBuildParse(t *testing.T) {
	s := build(t, proxy(t))
	c := pci.Config{Registers: s}
	caps, err := c.Capabilities()
	var at []int
	for _, entry := range caps {
		at = append(at, entry.Offset)
	}
	if diff := cmp.Diff([]int{0x40, 0x50, 0x60, 0x70, 0x84, 0x98, 0xa4, 0xb8, 0xc8}, at); diff != "" || err != nil {
		t.Errorf("Capabilities: %v (-want +got):\n%s", err, diff)
	}
	want := pci.MSIX{Vectors: 256, TableOffset: 0x6000, PBAOffset: 0x7000}
	if got, ok, err := c.MSIX(); got != want || !ok || err != nil {
		t.Errorf("MSIX = %+v, %v, %v; want %+v", got, ok, err, want)
	}
}

func TestSpaceWrite(t *testing.T) {
	const ones = "ffffffff"
	for _, test := range []struct {
		name  string
		off   int64
		write string
		want  string
	}{
		{"ids", 0x00, ones, "f41a7d10"},
		{"command and status", 0x04, ones, "06041000"},
		{"revision and class", 0x08, ones, "0100ff00"},
		{"cache line, latency, header type", 0x0c, ones, "ff000000"},
		{"BAR 0 sizing", 0x10, ones, "0080ffff"},
		{"BAR 0 address", 0x10, "00c0c0fe", "0080c0fe"},
		{"BAR 1 isn't there", 0x14, ones, "00000000"},
		{"BAR 2 sizing", 0x18, ones + ones, "04c0ffff" + ones},
		{"BAR 4 sizing", 0x20, ones + ones, "0c000000" + "feffffff"},
		{"BAR 4 address", 0x20, "0000000040000000", "0c000000" + "40000000"},
		{"ROM probe", 0x30, "00f8ffff", "00000000"},
		{"pointer", 0x34, ones, "40000000"},
		{"interrupt line and pin", 0x3c, ones, "ff000000"},
		{"virtio capability", 0x40, ones + ones, "0950100100000000"},
		{"configuration access window", 0x84, ones + ones, "09981405" + "ff000000"},
		{"MSI-X control", 0x98, ones, "11a4ffc0"},
		{"MSI-X enable", 0x9a, "0080", "ff80"},
		{"nothing", 0xfc, ones, "00000000"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := build(t, proxy(t))
			before := dump(t, s, 0, s.Size())
			b, _ := hex.DecodeString(test.write)
			if n, err := s.WriteAt(b, test.off); n != len(b) || err != nil {
				t.Fatalf("WriteAt = %d, %v; want %d", n, err, len(b))
			}
			if got := dump(t, s, test.off, len(b)); got != test.want {
				t.Errorf("after writing %s at %#x: %s; want %s", test.write, test.off, got, test.want)
			}
			after := dump(t, s, 0, s.Size())
			if i, j := 2*int(test.off), 2*(int(test.off)+len(b)); after[:i] != before[:i] || after[j:] != before[j:] {
				t.Errorf("writing at %#x changed other bytes", test.off)
			}
			s.Reset()
			if got := dump(t, s, 0, s.Size()); got != before {
				t.Errorf("after Reset: %s; want %s", got, before)
			}
		})
	}
}

func TestSpaceEdges(t *testing.T) {
	l := proxy(t)
	l.Size = 4096
	s := build(t, l)
	if s.Size() != 4096 {
		t.Errorf("Size = %d; want 4096", s.Size())
	}
	for _, test := range []struct {
		off  int64
		n    int
		got  int
		read error
		ok   bool // whether a write is
	}{
		{0, 4096, 4096, nil, true},
		{4095, 1, 1, nil, true},
		{4095, 2, 1, io.EOF, false},
		{4096, 1, 0, io.EOF, false},
		{1 << 62, 4, 0, io.EOF, false},
	} {
		if n, err := s.ReadAt(make([]byte, test.n), test.off); n != test.got || err != test.read {
			t.Errorf("ReadAt of %d bytes at %#x = %d, %v; want %d, %v", test.n, test.off, n, err, test.got, test.read)
		}
		if n, err := s.WriteAt(make([]byte, test.n), test.off); (err == nil) != test.ok || test.ok != (n == test.n) {
			t.Errorf("WriteAt of %d bytes at %#x = %d, %v; want ok %v", test.n, test.off, n, err, test.ok)
		}
	}
	if n, err := s.ReadAt(make([]byte, 1), -1); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("ReadAt at -1 = %d, %v; want an error", n, err)
	}
	if n, err := s.WriteAt(make([]byte, 1), -1); n != 0 || err == nil {
		t.Errorf("WriteAt at -1 = %d, %v; want an error", n, err)
	}
}

func TestSpaceSet(t *testing.T) {
	s := build(t, proxy(t))
	s.Set(0x94, []byte{1, 2, 3, 4}) // the data of the window, past what drivers write
	if got := dump(t, s, 0x94, 4); got != "01020304" {
		t.Errorf("after Set: %s; want 01020304", got)
	}
	s.Reset()
	if got := dump(t, s, 0x94, 4); got != "00000000" {
		t.Errorf("after Reset: %s; want zeros", got)
	}
}

func TestBuildPlacement(t *testing.T) {
	l := pci.Layout{Size: 256, Caps: []pci.CapBuild{
		{ID: 1, At: 0xf8, Body: make([]byte, 6)},
		{ID: 2, At: 0x40, Body: []byte{7}},
		{ID: 3}, // behind, aligned
		{ID: 4, At: 0x80},
	}}
	got, err := pci.Config{Registers: build(t, l)}.Capabilities()
	want := []pci.Capability{{ID: 1, Offset: 0xf8}, {ID: 2, Offset: 0x40}, {ID: 3, Offset: 0x44}, {ID: 4, Offset: 0x80}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Capabilities: %v (-want +got):\n%s", err, diff)
	}
}

func TestBuildIO(t *testing.T) {
	s := build(t, pci.Layout{Size: 256, BARs: []pci.BAR{{Index: 5, Kind: pci.IO, Size: 64, Address: 0xc040}}})
	if got := dump(t, s, 0x24, 4); got != "41c00000" {
		t.Errorf("I/O BAR = %s; want 41c00000", got)
	}
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], 1<<32-1)
	s.WriteAt(b[:], 0x24)
	s.WriteAt(b[:], 0x04)
	if got := dump(t, s, 0x24, 4) + dump(t, s, 4, 2); got != "c1ffffff"+"0504" {
		t.Errorf("I/O BAR and command after ones = %s; want c1ffffff, 0504", got)
	}
}

func TestBuildErrors(t *testing.T) {
	bars := func(list ...pci.BAR) pci.Layout { return pci.Layout{Size: 256, BARs: list} }
	caps := func(list ...pci.CapBuild) pci.Layout { return pci.Layout{Size: 256, Caps: list} }
	for _, test := range []struct {
		name   string
		layout pci.Layout
		want   string
	}{
		{"size", pci.Layout{Size: 512}, "configuration space of 512 bytes"},
		{"no kind", bars(pci.BAR{Size: 64}), "kind BARKind(0) is unknown"},
		{"index", bars(pci.BAR{Index: 6, Kind: pci.Mem32, Size: 64}), "BAR 6: a 32-bit BAR can't be there"},
		{"negative index", bars(pci.BAR{Index: -1, Kind: pci.Mem32, Size: 64}), "BAR -1"},
		{"64-bit at the end", bars(pci.BAR{Index: 5, Kind: pci.Mem64, Size: 64}), "a 64-bit BAR can't be there"},
		{"no size", bars(pci.BAR{Kind: pci.Mem64}), "size 0x0"},
		{"odd size", bars(pci.BAR{Kind: pci.Mem64, Size: 0x3000}), "size 0x3000"},
		{"small", bars(pci.BAR{Kind: pci.Mem32, Size: 8}), "size 0x8"},
		{"large", bars(pci.BAR{Kind: pci.Mem32, Size: 1 << 32}), "size 0x100000000"},
		{"large I/O", bars(pci.BAR{Kind: pci.IO, Size: 512}), "size 0x200"},
		{"misplaced", bars(pci.BAR{Kind: pci.Mem32, Size: 0x1000, Address: 0x800}), "address 0x800"},
		{"too high", bars(pci.BAR{Kind: pci.Mem32, Size: 0x1000, Address: 1 << 32}), "address 0x100000000"},
		{"prefetchable I/O", bars(pci.BAR{Kind: pci.IO, Size: 64, Prefetchable: true}), "I/O can't be prefetchable"},
		{"twice", bars(pci.BAR{Kind: pci.Mem64, Size: 64}, pci.BAR{Index: 1, Kind: pci.Mem32, Size: 64}), "BAR 1: its place is taken"},
		{"capability in the header", caps(pci.CapBuild{ID: 9, At: 0x3c}), "capability 0x09 of 2 bytes doesn't fit at 0x3c"},
		{"capability unaligned", caps(pci.CapBuild{ID: 9, At: 0x42}), "doesn't fit at 0x42"},
		{"capability past the end", caps(pci.CapBuild{ID: 9, At: 0xf8, Body: make([]byte, 7)}), "of 9 bytes doesn't fit at 0xf8"},
		{"too many", caps(pci.CapBuild{ID: 9, Body: make([]byte, 190)}, pci.CapBuild{ID: 9}), "doesn't fit at 0x100"},
		{"overlap", caps(pci.CapBuild{ID: 9, Body: make([]byte, 14)}, pci.CapBuild{ID: 9, At: 0x4c}), "at 0x4c overlaps another"},
		{"mask", caps(pci.CapBuild{ID: 9, Writable: []byte{1}}), "1 writable bytes of 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := test.layout.Build()
			checkError(t, err, test.want)
			if s != nil {
				t.Errorf("Build = %v; want nil", s)
			}
		})
	}
}

func TestMSIXBuildErrors(t *testing.T) {
	for _, test := range []struct {
		name string
		msix pci.MSIX
		want string
	}{
		{"none", pci.MSIX{}, "0 vectors"},
		{"many", pci.MSIX{Vectors: 2049}, "2049 vectors"},
		{"BAR of the table", pci.MSIX{Vectors: 1, TableBAR: 6}, "table in BAR 6"},
		{"BAR of the pending bits", pci.MSIX{Vectors: 1, PBABAR: -1}, "pending bits in BAR -1"},
		{"offset", pci.MSIX{Vectors: 1, TableOffset: 0x6004}, "0x6004"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := test.msix.Build()
			checkError(t, err, test.want)
		})
	}
}
