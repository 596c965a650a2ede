package passthrough

import "encoding/binary"

// An arena keeps short strings of bytes in a few large pieces of memory without
// pointers: a million names are nothing to the garbage collector. Its user locks.
//
// A string takes whole units and begins with its length. A string that is freed waits
// in the list of its size for the next one.
type arena struct {
	chunks [][]byte
	next   uint32 // unit after the last one used; unit 0 is none
	free   [arenaMax/arenaUnit + 1]uint32
}

const (
	arenaUnit  = 8         // bytes
	arenaChunk = 32 << 10  // bytes
	arenaMax   = 2 + 2*256 // longest string with its length
)

// put stores a copy of b, at most arenaMax-2 bytes, and returns where.
func (a *arena) put(b []byte) uint32 {
	at := a.alloc(units(len(b)))
	m := a.memory(at)
	binary.NativeEndian.PutUint16(m, uint16(len(b)))
	copy(m[2:], b)
	return at
}

// get returns the string that put stored, valid until it is freed.
func (a *arena) get(at uint32) []byte {
	m := a.memory(at)
	n := binary.NativeEndian.Uint16(m)
	return m[2 : 2+n : 2+n]
}

// drop frees a string.
func (a *arena) drop(at uint32) {
	m := a.memory(at)
	n := units(int(binary.NativeEndian.Uint16(m)))
	binary.NativeEndian.PutUint32(m, a.free[n])
	a.free[n] = at
}

func (a *arena) alloc(n uint32) uint32 {
	if at := a.free[n]; at != 0 {
		a.free[n] = binary.NativeEndian.Uint32(a.memory(at))
		return at
	}
	const per = arenaChunk / arenaUnit
	at := max(a.next, 1)
	if at/per != (at+n-1)/per { // it must not cross the end of a chunk
		at = (at/per + 1) * per
	}
	if int(at/per) == len(a.chunks) {
		a.chunks = append(a.chunks, make([]byte, arenaChunk))
	}
	a.next = at + n
	return at
}

func (a *arena) memory(at uint32) []byte {
	const per = arenaChunk / arenaUnit
	return a.chunks[at/per][at%per*arenaUnit:]
}

// units returns how many units a string of n bytes takes.
func units(n int) uint32 { return uint32(2+n+arenaUnit-1) / arenaUnit }
