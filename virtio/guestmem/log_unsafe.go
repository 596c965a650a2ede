package guestmem

import (
	"sync/atomic"
	"unsafe"
)

// or sets the bits of up to n pages, n > 0, from page on: those that lie in the same
// 32-bit word of memory. It returns how many. The bitmap may start at any address,
// so a word may reach up to 3 bytes beyond either end; those bits stay as they are.
func (l *Log) or(page, n uint64) uint64 {
	// SAFETY: page < l.pages, so the byte lies within bits.
	p := unsafe.Add(unsafe.Pointer(unsafe.SliceData(l.bits)), page/8)
	back := uintptr(p) % 4
	// SAFETY: an aligned word that holds a mapped byte is mapped.
	word := (*uint32)(unsafe.Add(p, -int(back)))
	first := uint64(back)*8 + page%8 // little-endian: byte i of a word holds bits 8i to 8i+7
	n = min(n, 32-first)
	atomic.OrUint32(word, uint32((uint64(1)<<n-1)<<first))
	return n
}
