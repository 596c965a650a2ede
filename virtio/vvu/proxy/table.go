package proxy

import (
	"cmp"
	"fmt"
	"os"
	"slices"

	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/vhostuser"
)

// A Rule says how a driver computes the place of a region in the memory BAR from a
// SET_MEM_TABLE (virtio-vhost-user.md 6.4 and 6.6). Numbers are those of mem_rule in the
// device's configuration.
type Rule uint16

// Rules.
const (
	Direct Rule = 1 // the region is at its mmap_offset
	Stack  Rule = 3 // at its mmap_offset behind the end of the region before it
	Linear Rule = 4 // there is one region, and file offsets are guest-physical addresses
)

// UnmarshalText parses a name.
func (r *Rule) UnmarshalText(text []byte) error {
	switch string(text) {
	case "direct":
		*r = Direct
	case "stack":
		*r = Stack
	case "gpa-linear":
		*r = Linear
	default:
		return fmt.Errorf("memory rule %q: want direct, stack or gpa-linear", text)
	}
	return nil
}

// linearBase is the front-end address of the one region of the Linear rule. The
// sibling's own addresses have no order there.
const linearBase = 1 << 44

// mergeGap is the largest hole between regions that is closed: those of old PC hardware
// below 1 MiB, and of rounding. The file has memory there that nobody uses.
const mergeGap = 1 << 20

// table decodes a SET_MEM_TABLE and checks that all of its memory is the memory file's.
// regions are what the driver gets, memory is what came.
func (d *Device) table(m *vhostuser.Message) (memory, regions []vhostuser.Region, err error) {
	if memory, err = vhostuser.DecodeMemTable(m.Payload); err != nil {
		return nil, nil, refuse(reasonMemory, m, "%w", err)
	}
	if len(m.Files) != len(memory) {
		return nil, nil, refuse(reasonMemory, m, "%d descriptors for %d regions", len(m.Files), len(memory))
	}
	for i, r := range memory {
		if err := d.opt.Memory.holds(r, m.Files[i]); err != nil {
			return nil, nil, refuse(reasonMemory, m, "region %d at guest address %#x, %#x bytes: %w; start its VMM with %s",
				i, uint64(r.GPA), r.Size, err, d.opt.Memory.QEMUArgs())
		}
	}
	if regions, err = d.opt.Rule.place(memory, d.opt.Memory.Size()); err != nil {
		return nil, nil, refuse(reasonMemory, m, "%w", err)
	}
	return memory, regions, nil
}

// place returns the regions by which a driver finds memory that lies in the BAR as it
// does in the file.
func (r Rule) place(memory []vhostuser.Region, size int64) ([]vhostuser.Region, error) {
	if r == Linear {
		for i, m := range memory {
			if m.Offset != uint64(m.GPA) {
				return nil, fmt.Errorf("region %d at guest address %#x is at %#x of the file; the rule gpa-linear wants them equal", i, uint64(m.GPA), m.Offset)
			}
		}
		return []vhostuser.Region{{Size: uint64(size), Addr: linearBase}}, nil
	}
	merged := merge(memory)
	if r == Direct {
		return merged, nil
	}
	end := uint64(0)
	for i := range merged {
		m := &merged[i]
		if m.Offset < end {
			return nil, fmt.Errorf("region at guest address %#x shares memory with another", uint64(m.GPA))
		}
		m.Offset, end = m.Offset-end, m.Offset+m.Size
	}
	return merged, nil
}

// merge returns regions in the order of the file, with neighbours joined that are
// neighbours in all three address spaces.
func merge(memory []vhostuser.Region) []vhostuser.Region {
	sorted := slices.SortedFunc(slices.Values(memory), func(a, b vhostuser.Region) int { return cmp.Compare(a.Offset, b.Offset) })
	merged := sorted[:1]
	for _, next := range sorted[1:] {
		last := &merged[len(merged)-1]
		shift := next.Offset - last.Offset
		if next.GPA == last.GPA+guestmem.GPA(shift) && next.Addr == last.Addr+vhostuser.FrontAddr(shift) && shift <= last.Size+mergeGap {
			last.Size = max(last.Size, shift+next.Size)
			continue
		}
		merged = append(merged, next)
	}
	return merged
}

// translate rewrites the addresses of a SET_VRING_ADDR for the one region of the Linear
// rule. An address that lies nowhere stays as it is: the driver refuses it.
func (s *sibling) translate(m *vhostuser.Message) error {
	a, err := vhostuser.DecodeVringAddr(m.Payload)
	if err != nil {
		return refuse(reasonProtocol, m, "%w", err)
	}
	for _, p := range []*vhostuser.FrontAddr{&a.Desc, &a.Used, &a.Avail} {
		for _, r := range s.memory {
			if off := uint64(*p - r.Addr); *p >= r.Addr && off < r.Size {
				*p = linearBase + vhostuser.FrontAddr(uint64(r.GPA)+off)
				break
			}
		}
	}
	m.Payload = a.Append(nil)
	return nil
}

// aligned reports whether a region consists of whole pages, which drivers map.
func aligned(r vhostuser.Region) bool {
	page := uint64(os.Getpagesize())
	return (uint64(r.GPA)|r.Size|r.Offset)%page == 0
}
