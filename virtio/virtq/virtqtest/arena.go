// Package virtqtest builds guest memory and rings by hand, for tests of whatever
// serves a ring: good chains, and every bad one that the specification names.
//
//	Arena  memfd regions at chosen addresses
//	  ▲
//	Ring   descriptors, available entries and used elements, written raw
//	  ▲
//	Hostile() []Case   each writes one bad chain or index and says what must come of it
//
// A Ring plays the driver without any rule; virtq.Driver is the one that keeps them.
// Memory belongs to the Arena and is unmapped when the test ends. Nothing here may
// be used by more than one goroutine at a time. Failures end the test.
//
// Spec: virtio 1.3, 2.7.
package virtqtest

import (
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/virtio/guestmem"
)

// Where NewRing puts memory. Data and Adjacent touch each other in guest-physical
// memory but not in ours; after Adjacent there is a hole.
const (
	RingGPA     guestmem.GPA = 0x1_0000
	DataGPA     guestmem.GPA = 0x20_0000
	AdjacentGPA guestmem.GPA = 0x30_0000
	HoleGPA     guestmem.GPA = 0x40_0000
	HighGPA     guestmem.GPA = 0x1_0000_0000
	RegionSize               = 1 << 20 // bytes of each region
)

// A Region is one piece of guest memory.
type Region struct {
	GPA  guestmem.GPA
	Size int // bytes, a multiple of the page size
}

// A Mapped is a Region with its memory and the memfd behind it, which belong to the
// Arena.
type Mapped struct {
	GPA guestmem.GPA
	Mem []byte
	FD  int
}

// An Arena is guest memory.
type Arena struct {
	t       testing.TB
	Table   *guestmem.Table
	Regions []Mapped
}

// NewArena maps guest memory until the test ends.
func NewArena(t testing.TB, regions ...Region) *Arena {
	t.Helper()
	a := &Arena{t: t}
	var table []guestmem.Region
	for _, r := range regions {
		fd, err := unix.MemfdCreate("guest memory", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatalf("memfd: %v", err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Ftruncate(fd, int64(r.Size)); err != nil {
			t.Fatalf("memfd of %d bytes: %v", r.Size, err)
		}
		mem, err := unix.Mmap(fd, 0, r.Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatalf("map %d bytes: %v", r.Size, err)
		}
		t.Cleanup(func() { unix.Munmap(mem) })
		a.Regions = append(a.Regions, Mapped{r.GPA, mem, fd})
		table = append(table, guestmem.Region{GPA: r.GPA, Mem: mem})
	}
	var err error
	if a.Table, err = guestmem.NewTable(table); err != nil {
		t.Fatalf("memory table: %v", err)
	}
	return a
}

// Bytes returns the n bytes at addr, which lie within one region.
func (a *Arena) Bytes(addr guestmem.GPA, n int) []byte {
	b, ok := a.Table.Slice(addr, uint64(n))
	if !ok {
		a.t.Helper()
		a.t.Fatalf("%d bytes at %#x: not within one region", n, uint64(addr))
	}
	return b
}

// Clear stores zeros in all memory.
func (a *Arena) Clear() {
	for _, r := range a.Regions {
		clear(r.Mem)
	}
}
