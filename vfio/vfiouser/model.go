// Package vfiouser is both sides of the vfio-user protocol: a PCI function that lives
// in one process and is driven from another, over a unix stream socket.
//
//	client (a VMM, or Dial)            socket               Server
//	vfio.Device: registers  ── REGION_READ, REGION_WRITE ──► Model.Read, Write
//	             BAR memory ◄── descriptor, once ──────────  RegionInfo.File
//	             DMA memory ─── DMA_MAP with descriptor ───► Bus.Snapshot, View
//	             eventfds   ─── SET_IRQS with descriptors ─► Bus.Trigger
//	             eventfds that save a message or a wake-up ◄ Model.Events, Source
//
// A Server serves one client at a time, from one goroutine that obeys commands in the
// order in which they come and replies at once. It maps each file with DMA memory once,
// when a Model first wants to see it. It never sends commands: memory that came without
// a descriptor can't be reached, which is right for VMs with shared memory and keeps
// the server from waiting for a client that waits for it. The client of Dial does obey
// DMA_READ and DMA_WRITE of other servers. It sends one command at a time and takes
// replies and commands in a goroutine that Close ends and waits for.
//
// A message owns its descriptors until somebody takes them. A Bus owns eventfds, files
// and mappings of one client, until it leaves. MapDMA borrows memory until UnmapDMA.
//
// Neither side trusts the other. Lengths, offsets, numbers of descriptors and of DMA
// ranges are limited; what breaks the protocol ends the connection (PeerError). The
// file behind shared memory is its owner's, who may cut it: sizes are checked before a
// mapping is handed out, and whoever uses it contains later faults (vfio.Guard).
//
// Lock order: on the server, a Model's own lock, then that of the Bus; the Server
// calls a Model with none held. In the client, calls, then dma or waiting, then the
// connection's.
//
// Spec: vfio-user protocol 0.0 (vfio-user.md, all sections); nested-lab.md section 11.
package vfiouser

import (
	"vfiofs/internal/fd"
	"vfiofs/vfio"
)

// A Model is a PCI function that a Server shows to a client (a VMM, or Dial). The
// Server calls all methods from one goroutine per client, in the order of the client's
// commands, and serves one client at a time.
//
// The client waits for every call while its whole VM stands still: a Model must never
// block, and never wait for the client (vfio-user.md 1.3).
type Model interface {
	// Attach begins the life of one client, before its first access; bus is valid until
	// Detach returns.
	Attach(bus *Bus)
	// Detach ends it: the client is gone.
	Detach()
	// Region describes region i, and Vectors returns how many interrupts of a kind there
	// are. The Server asks once per client, before Attach.
	Region(i int) RegionInfo
	Vectors(kind vfio.IRQ) int
	// Read fills p from offset off of a region; Write stores it. p is 1 to 8 bytes for
	// BARs, any length for configuration space, and lies within the region.
	Read(region int, p []byte, off int64)
	Write(region int, p []byte, off int64)
	// Events returns registers of a region where eventfds take the place of Write, at most
	// max of them. They are what they are now: a client asks again when that may have
	// changed.
	Events(region, max int) []Event
	// Source returns an eventfd for the client to wait for in place of a vector, or nil.
	// From now on the Model raises the vector no longer when that is signalled, and never
	// reads it. The Server closes it.
	Source(kind vfio.IRQ, vector int) *fd.FD
	// Unmap says that IOVAs first to last, or some of them, are no longer the device's or
	// are other memory now: it must have stopped using them when Unmap returns.
	Unmap(first, last vfio.IOVA)
	// Reset is DEVICE_RESET.
	Reset()
}

// A RegionInfo describes a region of a Model. QEMU aborts if the size of a BAR isn't a
// power of two, and dies of SIGBUS if File ends before the areas do (vfio-user.md 5.2).
type RegionInfo struct {
	Size  int64  // bytes; 0: no such region
	File  *fd.FD // the memory behind the mappable areas, from offset 0; nil: trapped
	Areas []Area // what of it the client may map; nil with a File: everything
}

// An Area is a part of a region, in bytes.
type Area struct{ Offset, Size int64 }
