package virtq

import "unsafe"

// word returns the aligned 32-bit word of memory that holds b[off] and b[off+1],
// and the shift of the 16-bit field at off within it. off is even relative to an
// aligned word, so the field never straddles two. The word may reach up to 2 bytes
// beyond b.
func word(b []byte, off int) (p *uint32, shift uint) {
	_ = b[off+1]
	// SAFETY: the field lies within b, and an aligned word of mapped memory doesn't
	// cross a page: all of it is mapped.
	f := unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), off)
	back := uintptr(f) % 4
	return (*uint32)(unsafe.Add(f, -int(back))), 8 * uint(back)
}

// half returns the 16-bit field at an even offset of b.
func half(b []byte, off int) *uint16 {
	_ = b[off+1]
	// SAFETY: the field lies within b, and the parts of a ring are 2-aligned.
	return (*uint16)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), off))
}

// aligned reports whether b starts at a multiple of n.
func aligned(b []byte, n int) bool {
	// SAFETY: the address is only looked at.
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%uintptr(n) == 0
}
