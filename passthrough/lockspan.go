package passthrough

import (
	"slices"
	"sort"

	"vfiofs/fuse"
)

// A span is a part of a file that an owner has locked, first and last byte.
type span struct {
	start, end uint64
	typ        fuse.LockType
}

// spans are what one owner has locked: in order, apart from each other, and joined
// where they touch and are of one type.
type spans []span

// set replaces what s has in the range of lk by a lock of its type, or by none. It
// returns by how much s has grown.
func (s *spans) set(lk *fuse.Lock) (grown int) {
	old := *s
	from := sort.Search(len(old), func(i int) bool { return old[i].end >= lk.Start })
	to := from + sort.Search(len(old)-from, func(i int) bool { return old[from+i].start > lk.End })

	// The neighbours are taken along, in case they can be joined.
	var room [5]span
	now := spans(room[:0])
	first, last := from, to
	if from > 0 {
		first--
		now = now.join(old[first])
	}
	if from < to && old[from].start < lk.Start {
		now = now.join(span{old[from].start, lk.Start - 1, old[from].typ})
	}
	if lk.Type != fuse.LockNone {
		now = now.join(span{lk.Start, lk.End, lk.Type})
	}
	if from < to && old[to-1].end > lk.End {
		now = now.join(span{lk.End + 1, old[to-1].end, old[to-1].typ})
	}
	if to < len(old) {
		now = now.join(old[to])
		last++
	}
	*s = slices.Replace(old, first, last, now...)
	return len(*s) - len(old)
}

// hole reports whether the range of lk is within one lock, and touches neither end: to
// unlock it makes two of one.
func (s spans) hole(lk *fuse.Lock) bool {
	i := sort.Search(len(s), func(i int) bool { return s[i].end >= lk.Start })
	return i < len(s) && s[i].start < lk.Start && lk.End < s[i].end
}

// join adds x, which lies behind all others.
func (s spans) join(x span) spans {
	if n := len(s); n > 0 && s[n-1].typ == x.typ && s[n-1].end+1 == x.start {
		s[n-1].end = x.end
		return s
	}
	return append(s, x)
}

// has reports whether a lock of that type in s overlaps with lk.
func (s spans) has(lk *fuse.Lock) bool {
	for _, x := range s {
		if x.typ == lk.Type && x.start <= lk.End && lk.Start <= x.end {
			return true
		}
	}
	return false
}
