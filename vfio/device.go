// Package vfio drives one PCI function from user space.
//
//	 driver ── Registers ──┐ one access per call     ┌── Arena: memory both sides see
//	           (a window)  ▼                         ▼   (Space: where the device sees it)
//	          Device: regions, interrupts, DMA, reset
//	            ▲                         ▲
//	kernel: Open              vfio-user client: vfio/vfiouser
//	  kernelDevice              a socket, no privilege, no IOMMU
//	    ├─ container: a group in /dev/vfio/vfio, type1v2
//	    └─ addressSpace: /dev/iommu, on systems without groups
//
// Registers are read and written with accesses of the width that is asked for,
// through a mapping where there is one and through the device descriptor or socket
// where there is none. Interrupts are eventfds. Memory for DMA comes from files, so
// that both implementations can map it.
//
// A Device owns its mappings of regions, and whoever has such a slice or a Registers
// must be done with it before Close. An Arena owns its memory and is closed before its
// Device. What the machine lacks is a MissingError with the remedy. Locks are held for
// no longer than one call and never two at once.
//
// Spec: linux/vfio.h and linux/iommufd.h, by nested-lab.md sections 6 to 8; vfio-user
// protocol 0.0 (vfio-user.md); virtio-vhost-user.md section 9.
package vfio

import (
	"errors"
	"io"

	"vfiofs/internal/fd"
)

// An IOVA is an address as the device sees memory.
type IOVA uint64

// An IRQ is a kind of interrupt: VFIO_PCI_*_IRQ_INDEX.
type IRQ int

// Kinds of interrupts of a PCI function.
const (
	INTx IRQ = 0
	MSI  IRQ = 1
	MSIX IRQ = 2
	Err  IRQ = 3
	Req  IRQ = 4
)

// Indexes of regions of a PCI function: VFIO_PCI_*_REGION_INDEX. BARs are 0 to 5.
const (
	ROMRegion    = 6
	ConfigRegion = 7
	VGARegion    = 8
	NumRegions   = 9
)

// ErrNotMappable says that a region can only be read and written by calls.
var ErrNotMappable = errors.New("region can't be mapped")

// A Device is one PCI function in user space. Methods belong to one goroutine at a
// time; a Region may be used from many.
type Device interface {
	// Region returns region i; one that the function doesn't have has size 0.
	Region(i int) (Region, error)
	// Vectors returns how many interrupts of a kind there are.
	Vectors(kind IRQ) (int, error)
	// SetIRQs has interrupts 0 to len(events)-1 of a kind signal eventfds, which stay the
	// caller's and open; none at all switches the kind off.
	SetIRQs(kind IRQ, events []*fd.FD) error
	// Ranges returns what IOVAs may be mapped, in order.
	Ranges() []Range
	// PageSize is the granularity of MapDMA, in bytes.
	PageSize() uint64
	// MapDMA lets the device read and write mem at iova: all of it is a shared mapping of
	// file from offset off on. Both stay the caller's until UnmapDMA.
	MapDMA(iova IOVA, mem []byte, file *fd.FD, off int64) error
	UnmapDMA(iova IOVA, size uint64) error
	// Reset resets the function, if it can be.
	Reset() error
	// Gone is closed when the device is known to be lost, for example because the other
	// end of a socket has left. It may be nil.
	Gone() <-chan struct{}
	io.Closer
}

// A Range is IOVAs from First to Last, both included.
type Range struct{ First, Last IOVA }

// A Region is one BAR, or configuration space. ReadAt and WriteAt of 1, 2, 4 or 8
// naturally aligned bytes are one access of that width.
type Region interface {
	io.ReaderAt
	io.WriterAt
	// Size in bytes.
	Size() int64
	// Mmap maps the region from its start, whole or as far as it can be mapped in one
	// piece; the mapping lives as long as the Device. ErrNotMappable: use ReadAt and
	// WriteAt.
	Mmap() ([]byte, error)
}
