package vfiouser

import (
	"vfiofs/vfio"
	"vfiofs/virtio/guestmem"
)

// A Bus is what a Model may do to its client: reach the memory that the client has
// mapped for DMA, and interrupt it. Methods may be called from any goroutine.
//
// Only memory that came with a descriptor, and that the device may both read and
// write, is there. Its size is checked when a Table or view is made; a client that
// shrinks its file later makes accesses fault, which the user of the bytes contains
// (debug.SetPanicOnFault), as with any memory of a guest.
//
// The Server tells the Model about an unmapping when new Snapshots and views have
// it already. A Model that keeps either calls Snapshot and View with a lock held that
// its Unmap takes too.
type Bus struct {
	dma  dmaMap
	irqs irqs
}

// Snapshot returns the client's DMA map, with IOVAs as addresses. It is the same Table
// as long as nothing changes. Its bytes must not be used after Model.Unmap has named
// them.
func (b *Bus) Snapshot() *guestmem.Table { return b.dma.snapshot() }

// View maps n bytes at iova in one piece, however the client scattered them. close
// unmaps; the same rule about Model.Unmap holds.
func (b *Bus) View(iova vfio.IOVA, n int) (mem []byte, close func() error, err error) {
	return b.dma.view(iova, n)
}

// Trigger raises interrupt vector of a kind, if the client listens for it.
func (b *Bus) Trigger(kind vfio.IRQ, vector int) { b.irqs.trigger(kind, vector) }
