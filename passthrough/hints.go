package passthrough

import (
	"hash/maphash"
	"sync/atomic"

	"vfiofs/fuse"
)

// hints remember which node a name led to, or that it led nowhere, so that most names
// need one look and no descriptor (fs-device.md E.3 allows both). A hint is believed
// when the look confirms it, so it may be old, lost, or another name's.
//
// A hint is one word: 24 bits of the name's hash, the lower 16 bits of the slot's
// generation, and the slot. A hint dies with its node, as that ends the generation.
// Slot 0 stands for nothing.
type hints struct {
	seed  maphash.Seed
	table []atomic.Uint64
}

const hintBits = 16 // 512 KiB

func (x *hints) init() {
	x.seed = maphash.MakeSeed()
	x.table = make([]atomic.Uint64, 1<<hintBits)
}

// A hint is the place of one.
type hint struct {
	at  *atomic.Uint64
	tag uint64 // never 0
}

// of returns the place for a name below a directory.
func (x *hints) of(dir fuse.NodeID, name []byte) hint {
	h := (maphash.Bytes(x.seed, name) ^ uint64(dir)) * 0x9e3779b97f4a7c15
	return hint{&x.table[h>>(64-hintBits)], (h&(1<<23-1) | 1<<23) << 40}
}

// load returns what is known of the name. slot 0 is nothing.
func (h hint) load() (slot uint32, gen uint16, known bool) {
	v := h.at.Load()
	return uint32(v) & (1<<24 - 1), uint16(v >> 24), v&^(1<<40-1) == h.tag
}

// set remembers a node.
func (h hint) set(id fuse.NodeID) {
	h.at.Store(h.tag | uint64(id)>>32&0xffff<<24 | uint64(id)&(1<<24-1))
}

// setMissing remembers that there is nothing under the name.
func (h hint) setMissing() { h.at.Store(h.tag) }

// recall returns a slot with the lower bits of its generation and uses it until put,
// or returns nil.
func (s *slab[T]) recall(n uint32, gen uint16) *slot[T] {
	e := s.at(n)
	if e == nil {
		return nil
	}
	st := e.state.Load()
	if uint16(st>>32) != gen {
		return nil
	}
	return s.get(st>>32<<32 | uint64(n))
}
