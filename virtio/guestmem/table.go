// Package guestmem turns guest-physical addresses into bytes.
//
//	GPA ─► Table (immutable snapshot of the memory map) ─► Vec (scattered bytes)
//
// A Table is built once per memory map and never changes; a new map is a new
// Table. The bytes behind it are mapped by the transport and stay mapped until
// every ring that uses the Table has been stopped. They are shared with the guest:
// they may change at any time, and touching them may fault when the owner of the
// memory file shrinks it (see debug.SetPanicOnFault).
//
// The package imports nothing of ours, so that virtio, fuse and passthrough can
// all speak it. Spec: vhost-user "Memory region description"; virtio 1.3, 2.7.
package guestmem

// A GPA is a guest-physical address: what descriptors hold.
type GPA uint64

// A Region is one contiguous range of guest-physical memory. Mem is borrowed.
type Region struct {
	GPA GPA
	Mem []byte
}
