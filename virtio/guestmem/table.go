// Package guestmem turns guest-physical addresses into bytes.
//
//	descriptor (GPA, length)
//	      │ Table.Append: immutable snapshot of the memory map
//	      ▼
//	     Vec  scattered bytes ──► CopyOut, CopyIn, Preadv, Pwritev
//	      │
//	      ▼
//	     Log  dirty bitmap of a migration, by GPA
//
// A Table is built once per memory map and never changes; a new map is a new
// Table. The bytes behind it are mapped by the transport and stay mapped until
// every ring that uses the Table has been stopped. They are shared with the guest:
// they may change at any time, and touching them may fault when the owner of the
// memory file shrinks it (see debug.SetPanicOnFault).
//
// There are no locks: a Table may be read and a Log may be marked by any number of
// goroutines; a Vec belongs to one goroutine at a time. The package imports nothing
// of ours, so that virtio, fuse and passthrough can all speak it.
//
// Spec: vhost-user, "Memory region description" and "Migration"; virtio 1.3, 2.7.
package guestmem

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// A GPA is a guest-physical address: what descriptors hold.
type GPA uint64

// A Region is one contiguous range of guest-physical memory. Mem is borrowed.
type Region struct {
	GPA GPA
	Mem []byte
}

// A Table is an immutable map from guest-physical addresses to bytes. The zero
// Table and a nil Table are empty.
type Table struct {
	regions []Region // by GPA, without overlap
}

// NewTable builds a Table. Regions may be in any order; each has at least one byte
// and ends below 2^64, and none overlaps another.
func NewTable(regions []Region) (*Table, error) {
	t := &Table{regions: slices.Clone(regions)}
	slices.SortFunc(t.regions, func(a, b Region) int { return cmp.Compare(a.GPA, b.GPA) })
	for i, r := range t.regions {
		switch {
		case len(r.Mem) == 0:
			return nil, fmt.Errorf("memory region at %#x: size is 0", uint64(r.GPA))
		case uint64(r.GPA) > math.MaxUint64-uint64(len(r.Mem)):
			return nil, fmt.Errorf("memory region at %#x: size %#x wraps the address space", uint64(r.GPA), len(r.Mem))
		case i > 0 && r.GPA < t.regions[i-1].end():
			return nil, fmt.Errorf("memory region at %#x: overlaps the region at %#x", uint64(r.GPA), uint64(t.regions[i-1].GPA))
		}
		// Capacity ends where the region does: Vec merges what one capacity covers.
		t.regions[i].Mem = r.Mem[:len(r.Mem):len(r.Mem)]
	}
	return t, nil
}

// Append adds the n bytes at addr to the end of v. They may span regions that are
// adjacent in guest-physical memory. If any of them lies outside the Table, Append
// returns false and leaves v as it was.
func (t *Table) Append(v *Vec, addr GPA, n uint64) bool {
	i := t.find(addr)
	if i < 0 {
		return n == 0
	}
	r := &t.regions[i]
	off := uint64(addr - r.GPA)
	if n <= uint64(len(r.Mem))-off {
		v.Append(r.Mem[off : off+n])
		return true
	}
	if !t.covers(i, addr, n) {
		return false
	}
	for off, left := off, n; left > 0; i, off = i+1, 0 {
		mem := t.regions[i].Mem[off:]
		mem = mem[:min(left, uint64(len(mem)))]
		v.Append(mem)
		left -= uint64(len(mem))
	}
	return true
}

// Slice returns the n bytes at addr, which must lie within one region.
func (t *Table) Slice(addr GPA, n uint64) ([]byte, bool) {
	i := t.find(addr)
	if i < 0 {
		return nil, n == 0
	}
	mem := t.regions[i].Mem[addr-t.regions[i].GPA:]
	if n > uint64(len(mem)) {
		return nil, false
	}
	return mem[:n:n], true
}

// find returns the index of the region that holds addr, or -1.
func (t *Table) find(addr GPA) int {
	if t == nil {
		return -1
	}
	// lo is the number of regions that start at or below addr.
	lo, hi := 0, len(t.regions)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if t.regions[mid].GPA <= addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 || addr >= t.regions[lo-1].end() {
		return -1
	}
	return lo - 1
}

// covers reports whether the n bytes at addr, which region i holds, lie in regions
// without a hole between them.
func (t *Table) covers(i int, addr GPA, n uint64) bool {
	if n > math.MaxUint64-uint64(addr) {
		return false
	}
	last := addr + GPA(n)
	for t.regions[i].end() < last {
		if i+1 == len(t.regions) || t.regions[i+1].GPA != t.regions[i].end() {
			return false
		}
		i++
	}
	return true
}

// end returns the address after the region's last byte. NewTable has made sure that
// there is one.
func (r *Region) end() GPA { return r.GPA + GPA(len(r.Mem)) }
