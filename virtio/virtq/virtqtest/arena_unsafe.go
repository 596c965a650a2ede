package virtqtest

import (
	"unsafe"

	"vfiofs/virtio/guestmem"
)

// Holds reports whether every byte of v lies in the Arena.
func (a *Arena) Holds(v guestmem.Vec) bool {
	for i := range v.Segments() {
		if !a.holds(v.Segment(i)) {
			return false
		}
	}
	return true
}

// holds reports whether b lies within one region.
func (a *Arena) holds(b []byte) bool {
	// SAFETY: addresses are only compared.
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	for _, r := range a.Regions {
		// SAFETY: addresses are only compared.
		base := uintptr(unsafe.Pointer(unsafe.SliceData(r.Mem)))
		if start >= base && start+uintptr(len(b)) <= base+uintptr(len(r.Mem)) {
			return true
		}
	}
	return false
}
