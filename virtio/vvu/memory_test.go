package vvu

import (
	"encoding/hex"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/virtio/vhostuser"
)

// Memory tables of virtio-vhost-user.md 11.8, as on the wire.
const (
	tableQEMU = `05000000 01000000 68000000 03000000 00000000
		0000000000000000 00000a0000000000 00000000127f0000 0000000000000000
		00000c0000000000 0000f47f00000000 00000c00127f0000 00000c0000000000
		0000000001000000 0000000001000000 00000080127f0000 0000008000000000`
	tableCrosvm = `05000000 01000000 48000000 02000000 00000000
		0000000000000000 0000008000000000 00000000127f0000 0000000000000000
		0000000001000000 0000000001000000 00000080127f0000 0000008000000000`
	tableDPDK = `05000000 01000000 48000000 02000000 00000000
		0000000000000000 0000008000000000 00000000127f0000 0000000000000000
		0000000001000000 0000000001000000 00000080127f0000 0000000000000000`
	tableLinear = `05000000 01000000 28000000 01000000 00000000
		0000000000000000 0000000002000000 0000000000100000 0000000000000000`
)

// table decodes the memory table of a message in hexadecimal.
func table(t *testing.T, text string) []vhostuser.Region {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	m, err := decode(b)
	if err != nil {
		t.Fatal(err)
	}
	regions, err := vhostuser.DecodeMemTable(m.Payload)
	if err != nil {
		t.Fatal(err)
	}
	return regions
}

const gib = 1 << 30

func TestPlace(t *testing.T) {
	// (f): a gap in the file, as our proxy sends it by rule stack.
	gap := []vhostuser.Region{
		{Size: 2 * gib},
		{GPA: 4 * gib, Addr: 4 * gib, Size: 4 * gib},
		{GPA: 0x2_4000_0000, Addr: 0x2_4000_0000, Size: gib, Offset: 0x4000_0000},
	}
	for _, test := range []struct {
		name  string
		table []vhostuser.Region
		rule  MemRule
		want  []uint64
	}{
		{"a direct", table(t, tableQEMU), RuleDirect, []uint64{0, 0xc_0000, 0x8000_0000}},
		{"a sum", table(t, tableQEMU), RuleSum, []uint64{0, 0xa_0000, 0x7ffe_0000}},
		{"a stack", table(t, tableQEMU), RuleStack, []uint64{0, 0x16_0000, 0x1_000a_0000}},
		{"a cursor", table(t, tableQEMU), ruleCursor, []uint64{0, 0xa_0000, 0x7ffe_0000}},
		{"b direct", table(t, tableCrosvm), RuleDirect, []uint64{0, 0x8000_0000}},
		{"b sum", table(t, tableCrosvm), RuleSum, []uint64{0, 0x8000_0000}},
		{"b cursor", table(t, tableCrosvm), ruleCursor, []uint64{0, 0x8000_0000}},
		{"b stack", table(t, tableCrosvm), RuleStack, []uint64{0, 0x1_0000_0000}},
		{"c stack", table(t, tableDPDK), RuleStack, []uint64{0, 0x8000_0000}},
		{"c sum", table(t, tableDPDK), RuleSum, []uint64{0, 0x8000_0000}},
		{"c direct", table(t, tableDPDK), RuleDirect, []uint64{0, 0}},
		{"d direct", table(t, tableLinear), RuleDirect, []uint64{0}},
		{"d sum", table(t, tableLinear), RuleSum, []uint64{0}},
		{"d stack", table(t, tableLinear), RuleStack, []uint64{0}},
		{"d linear", table(t, tableLinear), RuleLinear, []uint64{0}},
		{"d cursor", table(t, tableLinear), ruleCursor, []uint64{0}},
		{"f stack", gap, RuleStack, []uint64{0, 0x8000_0000, 0x1_c000_0000}},
		{"f sum", gap, RuleSum, []uint64{0, 0x8000_0000, 0x1_8000_0000}},
		{"one region with an offset, direct", []vhostuser.Region{{Size: gib, Offset: gib}}, RuleDirect, []uint64{gib}},
		{"one region with an offset, stack", []vhostuser.Region{{Size: gib, Offset: gib}}, RuleStack, []uint64{gib}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := placer{rule: test.rule, window: 64 * gib}
			got, err := p.place(test.table)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("place: -want +got:\n%s", diff)
			}
		})
	}
}

// TestPlaceByCursor is (h): a device that never frees what a table took.
func TestPlaceByCursor(t *testing.T) {
	p := placer{rule: ruleCursor, window: 64 * gib}
	first := table(t, tableCrosvm)
	other := []vhostuser.Region{{Size: gib}}
	for i, step := range []struct {
		table []vhostuser.Region
		want  []uint64
	}{
		{first, []uint64{0, 0x8000_0000}},
		{first, []uint64{0, 0x8000_0000}},
		{other, []uint64{0x3_0000_0000}},
		{other, []uint64{0x3_0000_0000}},
		{first, []uint64{0x3_8000_0000, 0x4_0000_0000}},
	} {
		got, err := p.place(step.table)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("table %d: -want +got:\n%s", i, diff)
		}
	}
}

// TestCursorNeverWraps: no number of tables leads back to the start of the window.
func TestCursorNeverWraps(t *testing.T) {
	p := placer{rule: ruleCursor, window: math.MaxInt64}
	huge := []vhostuser.Region{{Size: 1 << 62}}
	for range 10 {
		if _, err := p.place(huge); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := p.place([]vhostuser.Region{{Size: gib}}); err == nil {
		t.Errorf("place after 10 tables of 4 EiB = %#x; want an error", got)
	}
}

func TestPlaceRefuses(t *testing.T) {
	two := []vhostuser.Region{{Size: 0x1000}, {Size: 0x1000, Offset: math.MaxInt64 - 0x1000}}
	for _, test := range []struct {
		name  string
		rule  MemRule
		table []vhostuser.Region
		want  string
	}{
		{"past the end, direct", RuleDirect, []vhostuser.Region{{Size: 0x1000, Offset: 0x1_0000}}, "memory region 0: 0x1000 bytes at offset 0x10000, by rule direct, reach out of the window of 0x10000"},
		{"half past the end", RuleDirect, []vhostuser.Region{{Size: 0x2000, Offset: 0xf000}}, "reach out"},
		{"far past the end", RuleDirect, two, "memory region 1"},
		{"far past the end, stack", RuleStack, two, "memory region 1"},
		{"too much, sum", RuleSum, []vhostuser.Region{{Size: 0x8000}, {Size: 0x9000}}, "memory region 1: 0x9000 bytes at offset 0x8000, by rule sum,"},
		{"unaligned size", RuleSum, []vhostuser.Region{{Size: 0x1001}}, "not whole pages"},
		{"unaligned offset", RuleDirect, []vhostuser.Region{{Size: 0x1000, Offset: 0x10}}, "not whole pages"},
		{"two of one", RuleLinear, []vhostuser.Region{{Size: 0x1000}, {Size: 0x1000}}, "2 memory regions; want 1 by rule gpa-linear"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := placer{rule: test.rule, window: 0x1_0000}
			if _, err := p.place(test.table); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("place = %v; want %q in it", err, test.want)
			}
		})
	}
}

func TestMemRuleText(t *testing.T) {
	for _, want := range []MemRule{RuleAuto, RuleDirect, RuleSum, RuleStack, RuleLinear} {
		var got MemRule
		if err := got.UnmarshalText([]byte(want.String())); err != nil || got != want {
			t.Errorf("UnmarshalText(%q) = %v, %v; want %v", want, got, err, want)
		}
	}
	var r MemRule
	for _, bad := range []string{"", "Direct", ruleCursor.String()} {
		if err := r.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("UnmarshalText(%q) = nil; want an error", bad)
		}
	}
	if got := MemRule(9).String(); got != "MemRule(9)" {
		t.Errorf("String() = %q; want MemRule(9)", got)
	}
}
