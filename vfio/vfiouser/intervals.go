package vfiouser

import (
	"iter"
	"slices"
	"sort"
)

// An entry is IOVAs first to last, both included, of one DMA_MAP or of what is left of
// it.
type entry struct {
	first, last uint64
	file        *file  // nil: the client gave no descriptor
	off         uint64 // of first in file
	flags       uint32 // dmaRead, dmaWrite
}

// cut returns the part of e in first to last, which must overlap it.
func (e entry) cut(first, last uint64) entry {
	if first > e.first {
		e.off += first - e.first
		e.first = first
	}
	e.last = min(e.last, last)
	return e
}

// continues reports whether e and f say the same about addresses that both cover, and
// would if both were longer.
func (e *entry) continues(f *entry) bool {
	return e.file == f.file && e.flags == f.flags && (e.file == nil || e.off-e.first == f.off-f.first)
}

// blockSize is the largest number of entries in a block. Insertion moves half a block
// and half of the list of blocks; this balances the two for tens of thousands.
const blockSize = 256

// An intervals is an ordered set of entries that don't overlap. Arithmetic is on last
// addresses, so that entries may end at 2^64 - 1.
type intervals struct {
	blocks [][]entry // in order; none is empty
	n      int       // entries in all
}

// seek returns the place of the first entry that ends at addr or behind it: block
// len(blocks) if there is none.
func (s *intervals) seek(addr uint64) (block, i int) {
	block = sort.Search(len(s.blocks), func(b int) bool {
		return s.blocks[b][len(s.blocks[b])-1].last >= addr
	})
	if block < len(s.blocks) {
		entries := s.blocks[block]
		i = sort.Search(len(entries), func(i int) bool { return entries[i].last >= addr })
	}
	return block, i
}

// overlapping yields the entries that first to last overlaps, in order. They must not
// be changed meanwhile.
func (s *intervals) overlapping(first, last uint64) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		b, i := s.seek(first)
		for ; b < len(s.blocks); b, i = b+1, 0 {
			for ; i < len(s.blocks[b]); i++ {
				if e := &s.blocks[b][i]; e.first > last || !yield(e) {
					return
				}
			}
		}
	}
}

// remove takes first to last out of all entries, and reports whether there was
// anything.
func (s *intervals) remove(first, last uint64) bool {
	var left []entry // of the first and of the last one that overlap
	b, i := s.seek(first)
	begin, removed := b, 0
	for b < len(s.blocks) {
		block := s.blocks[b]
		j := i
		for ; j < len(block) && block[j].first <= last; j++ {
			e := block[j]
			if e.first < first {
				left = append(left, e.cut(e.first, first-1))
			}
			if e.last > last {
				left = append(left, e.cut(last+1, e.last))
			}
			e.file.drop()
		}
		removed += j - i
		end := j < len(block)
		s.blocks[b] = slices.Delete(block, i, j)
		i = 0
		if end {
			break
		}
		b++
	}
	s.n -= removed
	end := min(b+1, len(s.blocks))
	kept := slices.DeleteFunc(s.blocks[begin:end], func(block []entry) bool { return len(block) == 0 })
	s.blocks = slices.Delete(s.blocks, begin+len(kept), end)
	for i := begin + 2; i >= begin; i-- {
		s.merge(i)
	}
	for _, e := range left {
		s.insert(e)
	}
	return removed > 0
}

// merge joins block b to the one before it if both are small: two neighbours hold more
// than half a block, so that memory is in proportion to entries.
func (s *intervals) merge(b int) {
	if b > 0 && b < len(s.blocks) && len(s.blocks[b-1])+len(s.blocks[b]) <= blockSize/2 {
		s.blocks[b-1] = append(s.blocks[b-1], s.blocks[b]...)
		s.blocks = slices.Delete(s.blocks, b, b+1)
	}
}

// splits reports whether first to last lies inside one entry, so that removing it
// would leave two.
func (s *intervals) splits(first, last uint64) bool {
	for e := range s.overlapping(first, first) {
		return e.first < first && e.last > last
	}
	return false
}

// insert adds an entry that overlaps none.
func (s *intervals) insert(e entry) {
	e.file.hold()
	s.n++
	b, i := s.seek(e.first)
	if b == len(s.blocks) {
		if b == 0 {
			s.blocks = append(s.blocks, []entry{e})
			return
		}
		// Behind all others: addresses often come in ascending order.
		b--
		i = len(s.blocks[b])
	}
	block := s.blocks[b]
	if len(block) == blockSize {
		half := blockSize / 2
		if i == blockSize {
			half = blockSize // ascending order: leave full blocks behind
		}
		upper := slices.Clone(block[half:])
		clear(block[half:])
		s.blocks[b] = block[:half]
		if i >= half {
			s.blocks = slices.Insert(s.blocks, b+1, slices.Insert(upper, i-half, e))
			return
		}
		s.blocks = slices.Insert(s.blocks, b+1, upper)
	}
	s.blocks[b] = slices.Insert(s.blocks[b], i, e)
}
