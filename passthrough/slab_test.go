package passthrough

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestSlabIDs(t *testing.T) {
	ended := 0
	s := slab[int]{end: func(*int) { ended++ }}
	seen := make(map[uint64]bool)
	for range 5000 {
		e, id := s.alloc()
		if id == 0 || seen[id] {
			t.Fatalf("alloc = id %d; want a new one", id)
		}
		seen[id] = true
		if s.get(id) != nil {
			t.Fatal("get found a slot that was not published")
		}
		s.publish(e, 0)
		if len(seen)%3 == 0 {
			continue // keep it
		}
		u := s.get(id)
		if u != e {
			t.Fatalf("get(%d) = %p; want %p", id, u, e)
		}
		if !s.kill(u) || s.kill(u) {
			t.Fatal("kill does not work once")
		}
		if s.get(id) != nil {
			t.Fatal("get found a killed slot")
		}
		s.put(u)
	}
	same(t, "slots ended", ended, 5000-5000/3)
	same(t, "slots used", s.used() < 2000, true)
}

func TestSlabLastGeneration(t *testing.T) {
	s := slab[int]{end: func(*int) {}}
	e, _ := s.alloc()
	e.state.Store((1<<32 - 1) << 32)
	s.publish(e, 0)
	u := s.get((1<<32-1)<<32 | 1)
	s.kill(u)
	s.put(u)
	if e2, id := s.alloc(); e2 == e {
		t.Errorf("alloc = id %d in a slot without generations; want another slot", id)
	}
}

func TestSlabFull(t *testing.T) {
	s := slab[int]{next: slabChunk * slabChunks}
	if e, _ := s.alloc(); e != nil {
		t.Error("alloc of a full slab = a slot; want none")
	}
	if s.at(slabChunk*slabChunks) != nil || s.at(5) != nil || s.pin(5) != nil {
		t.Error("at found a slot that never was")
	}
}

func TestSlabStorm(t *testing.T) {
	var live atomic.Int64
	s := slab[atomic.Int64]{}
	s.end = func(v *atomic.Int64) {
		live.Add(-1)
		v.Store(-1)
	}
	var ids [16]atomic.Uint64
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 3000 {
				k := &ids[(i*7+w)%len(ids)]
				if e := s.get(k.Load()); e != nil {
					if e.v.Load() != 1 {
						t.Error("slot in use was emptied")
					}
					if i%3 == 0 {
						s.kill(e)
					}
					s.put(e)
					continue
				}
				e, id := s.alloc()
				live.Add(1)
				e.v.Store(1)
				s.publish(e, 0)
				if old := s.get(k.Swap(id)); old != nil {
					s.kill(old)
					s.put(old)
				}
			}
		})
	}
	wg.Wait()
	for i := range ids {
		if e := s.get(ids[i].Load()); e != nil {
			s.kill(e)
			s.put(e)
		}
	}
	same(t, "slots alive", live.Load(), 0)
}

func TestBudget(t *testing.T) {
	b := budget{limit: 1}
	if !b.take() || b.take() {
		t.Fatal("take does not stop at the limit")
	}
	b.give()
	same(t, "take after give", b.take(), true)
}
