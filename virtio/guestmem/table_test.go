package guestmem

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNewTable(t *testing.T) {
	mem := make([]byte, 4096)
	for _, tt := range []struct {
		name    string
		regions []Region
		want    string // in the error, "" for success
	}{
		{"no regions", nil, ""},
		{"one", []Region{{0, mem}}, ""},
		{"unsorted", []Region{{0x2000, mem}, {0, mem}}, ""},
		{"adjacent", []Region{{0, mem}, {0x1000, mem}}, ""},
		{"empty region", []Region{{0, mem}, {0x1000, nil}}, "size is 0"},
		{"same address", []Region{{0, mem}, {0, mem}}, "overlaps"},
		{"overlap of a byte", []Region{{0xfff, mem}, {0, mem}}, "overlaps"},
		{"ends below 2^64", []Region{{math.MaxUint64 - 4096, mem}}, ""},
		{"ends at 2^64", []Region{{math.MaxUint64 - 4095, mem}}, "wraps"},
		{"wraps", []Region{{math.MaxUint64, mem}}, "wraps"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewTable(tt.regions)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("NewTable() = %v; want success", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("NewTable() = %v; want an error with %q", err, tt.want)
			}
		})
	}
}

// numbered returns n bytes that tell their offset.
func numbered(n int, first byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// table has regions [0x1000,0x1010) [0x1010,0x1018) and [0x2000,0x2010).
func table(t testing.TB) *Table {
	t.Helper()
	tab, err := NewTable([]Region{
		{0x2000, numbered(16, 0x80)}, {0x1000, numbered(16, 0)}, {0x1010, numbered(8, 0x40)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func TestTableAppend(t *testing.T) {
	for _, tt := range []struct {
		name string
		addr GPA
		n    uint64
		want []byte // nil: refused
	}{
		{"first byte", 0x1000, 1, []byte{0}},
		{"whole region", 0x2000, 16, numbered(16, 0x80)},
		{"inside", 0x2004, 2, []byte{0x84, 0x85}},
		{"empty", 0x1000, 0, []byte{}},
		{"empty outside", 0x5000, 0, []byte{}},
		{"below all", 0xfff, 1, nil},
		{"above all", 0x2010, 1, nil},
		{"in the hole", 0x1018, 1, nil},
		{"H007 adjacent regions", 0x100e, 4, []byte{14, 15, 0x40, 0x41}},
		{"H007 all of both", 0x1000, 24, append(numbered(16, 0), numbered(8, 0x40)...)},
		{"H008 into the hole", 0x1017, 2, nil},
		{"H008 across the hole", 0x1000, 0x1001, nil},
		{"past the end", 0x200f, 2, nil},
		{"H006 wraps", 0x2000, math.MaxUint64, nil},
		{"H006 wraps to itself", 0x100f, math.MaxUint64 - 0x100e, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var v Vec
			v.Append([]byte{0xee})
			ok := table(t).Append(&v, tt.addr, tt.n)
			if want := tt.want != nil; ok != want {
				t.Errorf("Append(%#x, %d) = %v; want %v", uint64(tt.addr), tt.n, ok, want)
			}
			if got, want := contents(v), append([]byte{0xee}, tt.want...); !cmp.Equal(got, want) {
				t.Errorf("after Append(%#x, %d): %x; want %x", uint64(tt.addr), tt.n, got, want)
			}
		})
	}
}

func TestTableSlice(t *testing.T) {
	for _, tt := range []struct {
		name string
		addr GPA
		n    uint64
		want []byte // nil: refused
	}{
		{"inside", 0x2004, 2, []byte{0x84, 0x85}},
		{"whole region", 0x1010, 8, numbered(8, 0x40)},
		{"two regions", 0x100f, 2, nil},
		{"hole", 0x1018, 1, nil},
		{"below", 0, 1, nil},
		{"too long", 0x2001, 16, nil},
		{"wraps", 0x2001, math.MaxUint64, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := table(t).Slice(tt.addr, tt.n)
			if want := tt.want != nil; ok != want || !cmp.Equal(got, tt.want) {
				t.Errorf("Slice(%#x, %d) = %x, %v; want %x, %v", uint64(tt.addr), tt.n, got, ok, tt.want, want)
			}
			if cap(got) != len(got) {
				t.Errorf("Slice(%#x, %d) has room for %d bytes; want none", uint64(tt.addr), tt.n, cap(got)-len(got))
			}
		})
	}
	if _, ok := (*Table)(nil).Slice(0, 1); ok {
		t.Error("Slice of a nil Table = true; want false")
	}
}

func TestTableManyRegions(t *testing.T) {
	// Every second page, as many as vhost-user allows (B.1: 509 slots).
	mem := make([]byte, 4096)
	var regions []Region
	for i := range 509 {
		regions = append(regions, Region{GPA(i) * 8192, mem})
	}
	tab, err := NewTable(regions)
	if err != nil {
		t.Fatal(err)
	}
	for addr := GPA(0); addr < 510*8192; addr += 2048 {
		_, ok := tab.Slice(addr, 1)
		if want := addr%8192 < 4096 && addr < 509*8192; ok != want {
			t.Errorf("Slice(%#x, 1) = %v; want %v", uint64(addr), ok, want)
		}
	}
}

// FuzzTable compares Append and Slice with a look at every single byte.
func FuzzTable(f *testing.F) {
	f.Add(uint64(0x1000), uint64(24))
	f.Add(uint64(0x1017), uint64(2))
	f.Add(uint64(0x2000), uint64(math.MaxUint64))
	tab := table(f)
	f.Fuzz(func(t *testing.T, addr, n uint64) {
		want := n == 0
		var bytes []byte
		if n > 0 && n <= 64 && addr <= math.MaxUint64-n {
			want = true
			for i := range n {
				b, ok := tab.Slice(GPA(addr+i), 1)
				want = want && ok
				bytes = append(bytes, b...)
			}
		}
		var v Vec
		if got := tab.Append(&v, GPA(addr), n); got != want {
			t.Fatalf("Append(%#x, %#x) = %v; want %v", addr, n, got, want)
		}
		if !want {
			bytes = nil
		}
		if got := contents(v); string(got) != string(bytes) {
			t.Fatalf("Append(%#x, %#x): %x; want %x", addr, n, got, bytes)
		}
		b, ok := tab.Slice(GPA(addr), n)
		if ok && n > 0 && string(b) != string(bytes) {
			t.Fatalf("Slice(%#x, %#x) = %x; want %x", addr, n, b, bytes)
		}
	})
}
