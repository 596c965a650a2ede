package pci_test

import (
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/pci"
)

// registers is configuration space in memory that checks how it is accessed.
type registers struct {
	t    testing.TB
	data []byte
	fail error // what all accesses return
}

func (r registers) ReadAt(p []byte, off int64) (int, error) {
	r.aligned(p, off)
	if r.fail != nil || off >= int64(len(r.data)) {
		return 0, r.fail
	}
	return copy(p, r.data[off:]), nil
}

func (r registers) WriteAt(p []byte, off int64) (int, error) {
	r.aligned(p, off)
	if r.fail != nil {
		return 0, r.fail
	}
	return copy(r.data[off:], p), nil
}

func (r registers) aligned(p []byte, off int64) {
	if n := int64(len(p)); n != 1 && n != 2 && n != 4 || off%n != 0 {
		r.t.Errorf("access of %d bytes at %#x; want 1, 2 or 4 aligned ones", len(p), off)
	}
}

// config returns configuration space of 256 bytes that holds what parts say: an offset
// and bytes in hexadecimal each.
func config(t testing.TB, parts map[int]string) pci.Config {
	t.Helper()
	data := make([]byte, 256)
	for off, text := range parts {
		b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		copy(data[off:], b)
	}
	return pci.Config{Registers: registers{t: t, data: data}}
}

func TestHeader(t *testing.T) {
	for _, test := range []struct {
		name  string
		parts map[int]string
		want  pci.Header
	}{
		{
			"function (virtio-vhost-user.md 11.3)",
			map[int]string{0: "f41a 7d10 0604 1000 01 00ff00 00 00 80", 0x2c: "f41a 7d10", 0x3d: "02"},
			pci.Header{
				Vendor: 0x1af4, Device: 0x107d, Command: pci.CommandMemory | pci.CommandMaster | pci.CommandINTxDisable, Revision: 1,
				Class: 0x00ff00, MultiFunction: true, SubVendor: 0x1af4, SubDevice: 0x107d, Pin: 2,
			},
		},
		{
			"bridge: no subsystem there",
			map[int]string{0: "3612 0c00 0700 1000 00 000406 00 00 01", 0x2c: "ffff ffff"},
			pci.Header{Vendor: 0x1236, Device: 0x000c, Command: 7, Class: 0x060400, Type: 1},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := config(t, test.parts).Header()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("Header (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHeaderErrors(t *testing.T) {
	gone := strings.Repeat("ff", 256)
	if h, err := config(t, map[int]string{0: gone}).Header(); err == nil || !strings.Contains(err.Error(), "no function answers") {
		t.Errorf("Header of a lost device = %+v, %v; want an error", h, err)
	}
	short := pci.Config{Registers: registers{t: t, data: make([]byte, 0x30)}}
	if _, err := short.Header(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Header of 48 bytes = %v; want %v", err, io.ErrUnexpectedEOF)
	}
	broken := pci.Config{Registers: registers{t: t, fail: io.ErrClosedPipe}}
	if _, err := broken.Header(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Header of a lost connection = %v; want %v", err, io.ErrClosedPipe)
	}
	for name, do := range map[string]func() error{
		"Capabilities": func() error { _, err := broken.Capabilities(); return err },
		"MSIX":         func() error { _, _, err := broken.MSIX(); return err },
		"BARs":         func() error { _, err := broken.BARs(); return err },
		"SetCommand":   func() error { return broken.SetCommand(pci.CommandMaster) },
	} {
		if err := do(); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s of a lost connection = %v; want %v", name, err, io.ErrClosedPipe)
		}
	}
}

func TestClass(t *testing.T) {
	c := pci.Class(0x010802)
	if c.Base() != 1 || c.Sub() != 8 || c.String() != "0108" {
		t.Errorf("Class(%#x) = base %d, sub %d, %q; want 1, 8, 0108", uint32(c), c.Base(), c.Sub(), c.String())
	}
}

func TestCommand(t *testing.T) {
	c := config(t, map[int]string{4: "0104"})
	for _, test := range []struct {
		do   func() error
		want pci.Command
	}{
		{func() error { return c.SetCommand(pci.CommandMemory | pci.CommandMaster) }, 0x407},
		{func() error { return c.SetCommand(pci.CommandMemory) }, 0x407},
		{func() error { return c.ClearCommand(pci.CommandMaster | pci.CommandIO) }, 0x402},
	} {
		if err := test.do(); err != nil {
			t.Fatal(err)
		}
		if h, err := c.Header(); err != nil || h.Command != test.want {
			t.Errorf("Command = %#x, %v; want %#x", h.Command, err, test.want)
		}
	}
}

// forks is the list of 11.2, which runs backwards.
func forks() map[int]string {
	return map[int]string{
		6: "1000", 0x34: "cc",
		0xcc: "11 b8 02 04 01 00 00 00 31 40 00 00",
		0xb8: "09 a4 14 05",
		0xa4: "09 94 14 02 04 00 00 00 00 30 00 00 00 10 00 00 04 00 00 00",
		0x94: "09 84 10 04 04 00 00 00 00 20 00 00 00 10 00 00",
		0x84: "09 74 10 03 04 00 00 00 00 10 00 00 00 10 00 00",
		0x74: "09 64 10 01 04 00 00 00 00 00 00 00 00 10 00 00",
		0x64: "09 54 10 08 02 00 00 00 00 30 00 00 00 10 00 00",
		0x54: "09 40 10 07 02 00 00 00 00 20 00 00 00 10 00 00",
		0x40: "09 00 14 06 02 00 00 00 00 00 00 00 00 20 00 00 04 00 00 00",
	}
}

func TestCapabilities(t *testing.T) {
	for _, test := range []struct {
		name  string
		parts map[int]string
		want  []pci.Capability
		err   string
	}{
		{"no list", map[int]string{0x34: "40", 0x40: "09 00"}, nil, ""},
		{"empty list", map[int]string{6: "1000"}, nil, ""},
		{"virtio-vhost-user.md 11.2", forks(), []pci.Capability{
			{ID: pci.CapMSIX, Offset: 0xcc},
			{ID: pci.CapVendor, Offset: 0xb8},
			{ID: pci.CapVendor, Offset: 0xa4},
			{ID: pci.CapVendor, Offset: 0x94},
			{ID: pci.CapVendor, Offset: 0x84},
			{ID: pci.CapVendor, Offset: 0x74},
			{ID: pci.CapVendor, Offset: 0x64},
			{ID: pci.CapVendor, Offset: 0x54},
			{ID: pci.CapVendor, Offset: 0x40},
		}, ""},
		{"reserved bits of pointers", map[int]string{6: "1000", 0x34: "43", 0x40: "05 fe", 0xfc: "01 00"}, []pci.Capability{{ID: 5, Offset: 0x40}, {ID: 1, Offset: 0xfc}}, ""},
		{"itself", map[int]string{6: "1000", 0x34: "40", 0x40: "09 40"}, nil, "it loops"},
		{"loop of two", map[int]string{6: "1000", 0x34: "40", 0x40: "09 50", 0x50: "09 40"}, nil, "it loops"},
		{"into the header", map[int]string{6: "1000", 0x34: "40", 0x40: "09 3c"}, nil, "the pointer at 0x41 leads into the header, to 0x3c"},
		{"first into the header", map[int]string{6: "1000", 0x34: "04"}, nil, "the pointer at 0x34 leads into the header"},
		{"lost device", map[int]string{0: strings.Repeat("ff", 256)}, nil, "it loops"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := config(t, test.parts).Capabilities()
			checkError(t, err, test.err)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("Capabilities (-want +got):\n%s", diff)
			}
		})
	}
}

// TestCapabilitiesMost has as many capabilities as fit, each right behind the other.
func TestCapabilitiesMost(t *testing.T) {
	parts := map[int]string{6: "1000", 0x34: "40"}
	for at := 0x40; at < 0x100; at += 4 {
		parts[at] = hex.EncodeToString([]byte{1, byte(at + 4)})
	}
	got, err := config(t, parts).Capabilities()
	if err != nil || len(got) != 48 || got[47].Offset != 0xfc {
		t.Errorf("Capabilities = %v, %v; want 48 of them", got, err)
	}
}

// TestCapabilitiesShort reads what a user who is not root may: 64 bytes.
func TestCapabilitiesShort(t *testing.T) {
	c := config(t, forks())
	short := registers{t: t, data: c.Registers.(registers).data[:64]}
	got, err := pci.Config{Registers: short}.Capabilities()
	if !errors.Is(err, io.ErrUnexpectedEOF) || got != nil {
		t.Errorf("Capabilities = %v, %v; want %v", got, err, io.ErrUnexpectedEOF)
	}
}

// checkError fails unless err is nil for want "", or its text has want in it.
func checkError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("error = %v; want %q", err, want)
	}
}

func TestMSIX(t *testing.T) {
	list := func(body string) map[int]string {
		return map[int]string{6: "1000", 0x34: "40", 0x40: "05 98", 0x98: "11 00" + body}
	}
	for _, test := range []struct {
		name  string
		parts map[int]string
		want  pci.MSIX
		ok    bool
		err   string
	}{
		{"none", map[int]string{6: "1000", 0x34: "40", 0x40: "05 00"}, pci.MSIX{}, false, ""},
		{"11.1", list("12 00 00 60 00 00 00 70 00 00"), pci.MSIX{Vectors: 19, TableOffset: 0x6000, PBAOffset: 0x7000}, true, ""},
		{"11.2", forks(), pci.MSIX{Vectors: 1027, TableBAR: 1, PBABAR: 1, PBAOffset: 0x4030}, true, ""},
		{"11.3, enabled and masked", list("ff c0 00 60 00 00 00 70 00 00"), pci.MSIX{Vectors: 256, TableOffset: 0x6000, PBAOffset: 0x7000, Enabled: true, AllMasked: true}, true, ""},
		{"reserved bits", list("ff 38 05 00 00 00 05 00 00 00"), pci.MSIX{Vectors: 256, TableBAR: 5, PBABAR: 5}, true, ""},
		{"table in BAR 6", list("12 00 06 60 00 00 00 70 00 00"), pci.MSIX{}, false, "BAR 6 doesn't exist"},
		{"pending bits in BAR 7", list("12 00 00 60 00 00 07 70 00 00"), pci.MSIX{}, false, "BAR 7 doesn't exist"},
		{"at the end", map[int]string{6: "1000", 0x34: "f8", 0xf8: "11 00 12 00 00 60 00 00"}, pci.MSIX{}, false, "doesn't fit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, ok, err := config(t, test.parts).MSIX()
			checkError(t, err, test.err)
			if diff := cmp.Diff(test.want, got); diff != "" || ok != test.ok {
				t.Errorf("MSIX: ok = %v; want %v (-want +got):\n%s", ok, test.ok, diff)
			}
		})
	}
}

func TestMSIXSizes(t *testing.T) {
	for _, test := range []struct{ vectors, table, pba int }{
		{1, 16, 8}, {64, 1024, 8}, {65, 1040, 16}, {256, 0x1000, 32}, {2048, 0x8000, 256},
	} {
		m := pci.MSIX{Vectors: test.vectors}
		if m.TableSize() != test.table || m.PBASize() != test.pba {
			t.Errorf("%d vectors: table %d, pending bits %d bytes; want %d, %d", test.vectors, m.TableSize(), m.PBASize(), test.table, test.pba)
		}
	}
}

func TestBARs(t *testing.T) {
	for _, test := range []struct {
		name  string
		parts map[int]string
		want  []pci.BAR
		err   string
	}{
		{"none", nil, nil, ""},
		{
			"our proxy's",
			map[int]string{0x10: "0000c0fe 00000000 0400b0fe 00000000 0c000000 01000000"},
			[]pci.BAR{
				{Index: 0, Kind: pci.Mem32, Address: 0xfec00000},
				{Index: 2, Kind: pci.Mem64, Address: 0xfeb00000},
				{Index: 4, Kind: pci.Mem64, Prefetchable: true, Address: 0x100000000},
			},
			"",
		},
		{
			"I/O, below 1 MiB, prefetchable",
			map[int]string{0x10: "01c10000 02000a00 080000e0"},
			[]pci.BAR{
				{Index: 0, Kind: pci.IO, Address: 0xc100},
				{Index: 1, Kind: pci.Mem32, Address: 0xa0000},
				{Index: 2, Kind: pci.Mem32, Prefetchable: true, Address: 0xe0000000},
			},
			"",
		},
		{"bridge has two", map[int]string{0x0e: "81", 0x10: "0000c0fe 0000c1fe 0000c2fe"}, []pci.BAR{
			{Index: 0, Kind: pci.Mem32, Address: 0xfec00000}, {Index: 1, Kind: pci.Mem32, Address: 0xfec10000},
		}, ""},
		{"CardBus has none", map[int]string{0x0e: "02", 0x10: "0000c0fe"}, nil, ""},
		{"half of a 64-bit one", map[int]string{0x24: "04000000"}, nil, "BAR 5 is 64 bits wide and has no second half"},
		{"reserved type", map[int]string{0x14: "06000000"}, nil, "BAR 1 has the reserved type 3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := config(t, test.parts).BARs()
			checkError(t, err, test.err)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("BARs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBARKindText(t *testing.T) {
	for kind, want := range map[pci.BARKind]string{pci.IO: "I/O", pci.Mem32: "32-bit", pci.Mem64: "64-bit", 0: "BARKind(0)", 9: "BARKind(9)"} {
		if got, err := kind.MarshalText(); string(got) != want || err != nil {
			t.Errorf("MarshalText of %d = %s, %v; want %s", uint8(kind), got, err, want)
		}
	}
}
