package vvu

import (
	"fmt"
	"math"
	"slices"

	"vfiofs/virtio/vhostuser"
)

// A MemRule says where in the shared memory window the regions of a SET_MEM_TABLE lie
// (virtio-vhost-user.md 6.4). Devices do not agree on that.
type MemRule uint16

// Rules. With sz_i the size and mo_i the file offset of region i, its offset in the
// window is:
const (
	RuleAuto   MemRule = 0 // whatever the device is known to follow
	RuleDirect MemRule = 1 // mo_i: the window is an image of one file
	RuleSum    MemRule = 2 // sz_0 + ... + sz_i-1
	RuleStack  MemRule = 3 // mo_0 + sz_0 + ... + mo_i-1 + sz_i-1 + mo_i
	RuleLinear MemRule = 4 // mo_i of a single region that covers the whole guest

	// ruleCursor is RuleSum of a device that never frees what a table took: a table that
	// differs from the one before lies behind all tables of the connection. It is also
	// RuleDirect where that and RuleSum agree.
	ruleCursor MemRule = 5
)

// ruleNames are the rules as users write them.
func ruleNames() [6]string {
	return [6]string{"auto", "direct", "sum", "stack", "gpa-linear", "sum, one table after the other"}
}

// String returns the name of the rule.
func (r MemRule) String() string {
	if names := ruleNames(); int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("MemRule(%d)", uint16(r))
}

// UnmarshalText takes the name of a rule that users may choose.
func (r *MemRule) UnmarshalText(text []byte) error {
	names := ruleNames()
	i := slices.Index(names[:ruleCursor], string(text))
	if i < 0 {
		return fmt.Errorf("memory rule %q; want one of %q", text, names[:ruleCursor])
	}
	*r = MemRule(i)
	return nil
}

// A placer places the tables of one connection.
type placer struct {
	rule   MemRule
	window uint64 // bytes

	cursor  uint64 // bytes of all tables so far, for ruleCursor
	last    []vhostuser.Region
	offsets []uint64 // of last
}

// regionAlign is the unit of regions in bytes.
const regionAlign = 4096

// place returns the offsets in the window of the regions of a table. All of them lie
// within the window.
func (p *placer) place(table []vhostuser.Region) ([]uint64, error) {
	offsets := p.offsets
	if p.rule != ruleCursor || !slices.Equal(table, p.last) {
		var err error
		if offsets, err = p.offsetsOf(table); err != nil {
			return nil, err
		}
		p.last, p.offsets = slices.Clone(table), offsets
	}
	for _, r := range table {
		p.cursor = min(p.cursor+r.Size, math.MaxInt64)
	}
	return offsets, nil
}

// offsetsOf applies the rule to a table that is not the one before.
func (p *placer) offsetsOf(table []vhostuser.Region) ([]uint64, error) {
	if p.rule == RuleLinear && len(table) != 1 {
		return nil, fmt.Errorf("%d memory regions; want 1 by rule %s", len(table), p.rule)
	}
	offsets := make([]uint64, len(table))
	next := uint64(0) // offset behind the region before
	if p.rule == ruleCursor {
		next = p.cursor
	}
	for i, r := range table {
		off := next
		switch p.rule {
		case RuleDirect, RuleLinear:
			off = r.Offset
		case RuleStack:
			off += r.Offset
		}
		switch {
		case off > p.window || r.Size > p.window-off:
			return nil, fmt.Errorf("memory region %d: %#x bytes at offset %#x, by rule %s, reach out of the window of %#x bytes", i, r.Size, off, p.rule, p.window)
		case (off|r.Size)%regionAlign != 0:
			return nil, fmt.Errorf("memory region %d: %#x bytes at offset %#x, by rule %s, are not whole pages", i, r.Size, off, p.rule)
		}
		offsets[i] = off
		next = off + r.Size
	}
	return offsets, nil
}
