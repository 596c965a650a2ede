package fuse

import "unsafe"

// take copies the first T out of b and returns it with the rest of b. T is a wire
// structure.
func take[T any](b []byte) (v T, rest []byte, ok bool) {
	n := int(unsafe.Sizeof(v))
	if len(b) < n {
		return v, nil, false
	}
	copy(bytesOf(&v), b)
	return v, b[n:], true
}

// bytesOf returns the memory of a wire structure.
func bytesOf[T any](v *T) []byte {
	// SAFETY: wire structures hold integers only, have no implicit padding (tested),
	// and the slice covers exactly one of them.
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), int(unsafe.Sizeof(*v)))
}
