package vhostuser

import (
	"fmt"
	"slices"

	"vfiofs/virtio/guestmem"
)

// maxMemSlots is the number of regions that a memory map may have, however they were
// announced.
const maxMemSlots = 509

// A memory is one immutable memory map of the guest. Maps that follow each other may
// share mappings, so a mapping is ended by whoever drops its last map.
type memory struct {
	slots []slot
	table *guestmem.Table
}

// A slot is one mapped region.
type slot struct {
	Region
	Mapping
}

// newMemory makes a map of regions that overlap neither in the guest nor in the
// front-end.
func newMemory(slots []slot) (*memory, error) {
	if len(slots) > maxMemSlots {
		return nil, fmt.Errorf("%d memory regions; want at most %d", len(slots), maxMemSlots)
	}
	regions := make([]guestmem.Region, len(slots))
	for i, s := range slots {
		regions[i] = guestmem.Region{GPA: s.GPA, Mem: s.Mem}
		for _, other := range slots[:i] {
			if s.Addr < other.Addr+FrontAddr(other.Size) && other.Addr < s.Addr+FrontAddr(s.Size) {
				return nil, fmt.Errorf("memory regions at front-end addresses %#x and %#x overlap", uint64(other.Addr), uint64(s.Addr))
			}
		}
	}
	table, err := guestmem.NewTable(regions)
	if err != nil {
		return nil, err
	}
	return &memory{slots, table}, nil
}

// with returns the map that has one region more.
func (m *memory) with(s slot) (*memory, error) {
	return newMemory(append(slices.Clone(m.slots), s))
}

// without returns the map that lacks r, and the mapping that it leaves behind. The
// file offset of r doesn't count (vhost-user, VHOST_USER_REM_MEM_REG).
func (m *memory) without(r Region) (*memory, Mapping, error) {
	i := slices.IndexFunc(m.slots, func(s slot) bool {
		return s.GPA == r.GPA && s.Addr == r.Addr && s.Size == r.Size
	})
	if i < 0 {
		return nil, Mapping{}, fmt.Errorf("no memory region of size %#x at %#x, front-end address %#x", r.Size, uint64(r.GPA), uint64(r.Addr))
	}
	rest, err := newMemory(slices.Delete(slices.Clone(m.slots), i, i+1))
	return rest, m.slots[i].Mapping, err
}

// at returns the n bytes at a front-end address. They lie in one region.
func (m *memory) at(addr FrontAddr, n int) ([]byte, error) {
	for _, s := range m.slots {
		if addr < s.Addr || addr-s.Addr >= FrontAddr(s.Size) {
			continue
		}
		mem := s.Mem[addr-s.Addr:]
		if len(mem) < n {
			return nil, fmt.Errorf("%d bytes at front-end address %#x reach out of their memory region", n, uint64(addr))
		}
		return mem[:n:n], nil
	}
	return nil, fmt.Errorf("front-end address %#x is in no memory region", uint64(addr))
}

// unmap ends all mappings of the map.
func (m *memory) unmap() error {
	maps := make([]Mapping, len(m.slots))
	for i, s := range m.slots {
		maps[i] = s.Mapping
	}
	return unmapAll(maps)
}
