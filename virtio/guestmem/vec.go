package guestmem

import "golang.org/x/sys/unix"

// A Vec is scattered bytes of guest memory, in order: the readable or the writable
// part of a descriptor chain, or a piece of it. It is a small value; copies share
// the list of segments, so that Slice allocates nothing.
//
// The zero Vec is empty and ready for Append. A Vec, its copies and its pieces
// belong to one goroutine at a time: Preadv and Pwritev adjust the shared segments
// for the length of the call.
type Vec struct {
	segs []unix.Iovec
	skip uint64 // bytes of segs[0] that lie before the Vec
	n    uint64 // bytes in the Vec
	room uint64 // bytes after the last segment that its slice's capacity covers, or piece
}

// piece is the room of a Vec that Slice made: its last segment may reach beyond it.
const piece = ^uint64(0)

// Len returns the number of bytes.
func (v *Vec) Len() int { return int(v.n) }

// Segments returns the number of contiguous segments.
func (v *Vec) Segments() int { return len(v.segs) }

// Segment returns segment i of Segments. It aliases guest memory.
func (v Vec) Segment(i int) []byte {
	seg := segment(&v.segs[i])
	if i == len(v.segs)-1 {
		end := v.skip + v.n // of v, from the start of the first segment
		for j := range i {
			end -= v.segs[j].Len
		}
		seg = seg[:end]
	}
	if i == 0 {
		seg = seg[v.skip:]
	}
	return seg
}

// Reset empties v and keeps its storage for the next Append. It is for a Vec that
// was built by Append: a copy that is still in use would see the new segments.
func (v *Vec) Reset() {
	v.segs = v.segs[:0]
	v.skip, v.n, v.room = 0, 0, 0
}

// Slice returns bytes off to off+n of v, cut to what v holds. The result can be read
// and written but not appended to.
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
	return Vec{segs: segs[:i:i], skip: skip, n: left, room: piece}
}

// first returns the n bytes at offset off if the first segment holds them all, which is
// how most headers and arguments lie; otherwise nil.
func (v *Vec) first(off, n int) []byte {
	if len(v.segs) == 0 || off < 0 || uint64(off)+uint64(n) > v.n {
		return nil
	}
	seg := segment(&v.segs[0])
	if from := v.skip + uint64(off); from+uint64(n) <= uint64(len(seg)) {
		return seg[from : from+uint64(n)]
	}
	return nil
}

// CopyOut copies from offset off of v into p and returns the number of bytes.
func (v *Vec) CopyOut(p []byte, off int) int {
	if b := v.first(off, len(p)); b != nil {
		return copy(p, b)
	}
	return v.copyOut(p, off)
}

func (v Vec) copyOut(p []byte, off int) int {
	v = v.Slice(off, len(p))
	p = p[:v.n]
	done, skip := 0, v.skip
	for i := range v.segs {
		done += copy(p[done:], segment(&v.segs[i])[skip:])
		skip = 0
	}
	return done
}

// CopyIn copies p to offset off of v and returns the number of bytes.
func (v *Vec) CopyIn(p []byte, off int) int {
	if b := v.first(off, len(p)); b != nil {
		return copy(b, p)
	}
	return v.copyIn(p, off)
}

func (v Vec) copyIn(p []byte, off int) int {
	v = v.Slice(off, len(p))
	p = p[:v.n]
	done, skip := 0, v.skip
	for i := range v.segs {
		done += copy(segment(&v.segs[i])[skip:], p[done:])
		skip = 0
	}
	return done
}

// Clear stores zeros at off to off+n, cut to what v holds.
func (v Vec) Clear(off, n int) {
	v = v.Slice(off, n)
	skip, left := v.skip, v.n
	for i := range v.segs {
		seg := segment(&v.segs[i])[skip:]
		seg = seg[:min(uint64(len(seg)), left)]
		clear(seg)
		left -= uint64(len(seg))
		skip = 0
	}
}
