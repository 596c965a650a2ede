package passthrough

import (
	"sync"
	"sync/atomic"
)

// A slab holds slots of T, found by an id that is never used twice: the slot's
// number in the lower half and its generation in the upper half. T has no pointers,
// so the garbage collector does not look inside.
//
// A slot is free, being filled (between alloc and publish), live, or dying (between
// kill and the end of the last use). While it is live, its user may keep a few bits of
// his own in the state.
type slab[T any] struct {
	end    func(*T) // releases what a slot held; called once per slot, without locks
	chunks [slabChunks]atomic.Pointer[[slabChunk]slot[T]]

	mu   sync.Mutex
	free []uint32
	next uint32 // lowest slot never used
}

const (
	slabChunk  = 1024
	slabChunks = 16384
)

// A slot's state is generation<<32 | live | recent | the user's bits | uses.
type slot[T any] struct {
	state atomic.Uint64
	kin   atomic.Uint64 // of nodes: see kin.go
	n     uint32        // own number
	v     T
}

const (
	slotLive   = 1 << 31
	slotRecent = 1 << 30 // found by its id since somebody cleared this bit
	slotUser   = 1 << 26 // this bit and the next three are the user's
	slotUses   = slotUser - 1
)

// alloc returns a free slot and the id that it will have, or nil. Slot 0 is never
// used, so that no id is 0.
func (s *slab[T]) alloc() (*slot[T], uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := len(s.free); k > 0 {
		e := s.at(s.free[k-1])
		s.free = s.free[:k-1]
		return e, e.state.Load() | uint64(e.n)
	}
	n := max(s.next, 1)
	if n/slabChunk >= slabChunks {
		return nil, 0
	}
	if s.chunks[n/slabChunk].Load() == nil {
		s.chunks[n/slabChunk].Store(new([slabChunk]slot[T]))
	}
	s.next = n + 1
	e := s.at(n)
	e.n = n
	return e, uint64(n)
}

// publish makes a filled slot live, with some of the user's bits set.
func (s *slab[T]) publish(e *slot[T], bits uint64) {
	e.kin.Store(e.state.Load() >> 32 << 32)
	e.state.Store(e.state.Load() | slotLive | bits)
}

// at returns slot n, or nil if there never was one.
func (s *slab[T]) at(n uint32) *slot[T] {
	if n/slabChunk >= slabChunks {
		return nil
	}
	c := s.chunks[n/slabChunk].Load()
	if c == nil {
		return nil
	}
	return &c[n%slabChunk]
}

// get finds a live slot and uses it until put, or returns nil.
func (s *slab[T]) get(id uint64) *slot[T] {
	e := s.at(uint32(id))
	if e == nil {
		return nil
	}
	for {
		st := e.state.Load()
		if st>>32 != id>>32 || st&slotLive == 0 || st&slotUses == slotUses {
			return nil
		}
		if e.state.CompareAndSwap(st, st+1|slotRecent) {
			return e
		}
	}
}

// kill marks a slot that the caller uses, and reports whether it was live until now.
func (s *slab[T]) kill(e *slot[T]) bool {
	for {
		st := e.state.Load()
		if st&slotLive == 0 {
			return false
		}
		if e.state.CompareAndSwap(st, st&^slotLive) {
			return true
		}
	}
}

// put ends a use. The last one of a killed slot empties it.
func (s *slab[T]) put(e *slot[T]) {
	st := e.state.Add(^uint64(0))
	if st&(slotLive|slotUses) != 0 {
		return
	}
	s.end(&e.v)
	s.recycle(e)
}

// recycle gives back a slot that nobody uses. One that has no generation left stays
// empty for good.
func (s *slab[T]) recycle(e *slot[T]) {
	gen := e.state.Load()>>32 + 1
	if gen == 1<<32 {
		return
	}
	e.state.Store(gen << 32)
	s.mu.Lock()
	s.free = append(s.free, e.n)
	s.mu.Unlock()
}

// used returns the number of slots that were ever used, slot 0 included.
func (s *slab[T]) used() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// pin returns live slot n and uses it until put, or nil.
func (s *slab[T]) pin(n uint32) *slot[T] {
	e := s.at(n)
	if e == nil {
		return nil
	}
	return s.get(e.state.Load()>>32<<32 | uint64(n))
}

// A budget limits the descriptors that the guest keeps open (fs-device.md E.1.8).
type budget struct {
	limit int64
	n     atomic.Int64
}

func (b *budget) take() bool {
	if b.n.Add(1) <= b.limit {
		return true
	}
	b.n.Add(-1)
	return false
}

func (b *budget) give() { b.n.Add(-1) }
