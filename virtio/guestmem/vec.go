package guestmem

import "golang.org/x/sys/unix"

// A Vec is scattered bytes of guest memory, in order: the readable or the writable
// part of a descriptor chain, or a piece of it. It is a small value; copies share
// the list of segments, so that Slice allocates nothing.
//
// The zero Vec is empty and ready for Append. A Vec and its pieces belong to one
// goroutine at a time: Preadv and Pwritev adjust the shared segments for the length
// of the call.
type Vec struct {
	segs []unix.Iovec // raw addresses of mapped memory, never of the Go heap's movable parts
	skip uint64       // bytes of segs[0] that lie before the Vec
	n    uint64       // bytes in the Vec
}

// Len returns the number of bytes.
func (v *Vec) Len() int { return int(v.n) }

// Segments returns the number of contiguous pieces.
func (v *Vec) Segments() int { return len(v.segs) }

// Reset empties v and keeps its storage for the next Append.
func (v *Vec) Reset() {
	v.segs = v.segs[:0]
	v.skip, v.n = 0, 0
}

// Slice returns bytes off to off+n of v, cut to what v holds.
func (v Vec) Slice(off, n int) Vec {
	if off < 0 || n <= 0 || uint64(off) >= v.n {
		return Vec{}
	}
	left := min(uint64(n), v.n-uint64(off))
	skip := v.skip + uint64(off)
	segs := v.segs
	for skip >= segs[0].Len {
		skip -= segs[0].Len
		segs = segs[1:]
	}
	end, i := uint64(0), 0
	for end < skip+left {
		end += segs[i].Len
		i++
	}
	return Vec{segs: segs[:i:i], skip: skip, n: left}
}

// CopyOut copies from offset off of v into p and returns the number of bytes.
func (v Vec) CopyOut(p []byte, off int) int {
	return v.each(p, off, func(p, seg []byte) int { return copy(p, seg) })
}

// CopyIn copies p to offset off of v and returns the number of bytes.
func (v Vec) CopyIn(p []byte, off int) int {
	return v.each(p, off, func(p, seg []byte) int { return copy(seg, p) })
}

// Clear stores zeros at off to off+n.
func (v Vec) Clear(off, n int) {
	v = v.Slice(off, n)
	skip, left := v.skip, v.n
	for i := range v.segs {
		seg := bytes(&v.segs[i])[skip:]
		seg = seg[:min(uint64(len(seg)), left)]
		clear(seg)
		left -= uint64(len(seg))
		skip = 0
	}
}

// each pairs p with the segments from offset off on.
func (v Vec) each(p []byte, off int, move func(p, seg []byte) int) int {
	v = v.Slice(off, len(p))
	p = p[:v.n]
	done, skip := 0, v.skip
	for i := range v.segs {
		done += move(p[done:], bytes(&v.segs[i])[skip:])
		skip = 0
	}
	return done
}
