package passthrough

import (
	"sync"
	"sync/atomic"

	"vfiofs/fuse"
)

// The way of a node leads through its parent, but a guest may forget a directory before what
// it has found there (Linux does so with inodes that have no dentry, others as they like).
// So a directory that is forgotten stays in the table until no way leads through it, as a
// node like any other; if the guest finds it again, it is the same.
//
//	way.parent ──► join ──► kin of the parent + 1
//	other parent, no parent, the node's end ──► leave ──► kin - 1
//	                                                       │ 0, and it was forgotten
//	                                     settle ◄── lone ◄─┘
//
// leave is called with the child's shard locked and could not lock the parent's, so what it
// finds is left for settle, which everybody calls who has ended a node.

// A slot's kin is generation<<32 | kinForgotten | the number of ways that lead through the
// node. One word, so that a way may name a node that is gone.
const kinForgotten = 1 << 31

// A lone list has the nodes that might be ended.
type lone struct {
	any, busy atomic.Bool

	mu    sync.Mutex
	ids   []fuse.NodeID
	taken []fuse.NodeID // what settle works at
}

// kinOf returns the kin of node id and what it is now, or nil if the node is gone.
func (t *nodes) kinOf(id fuse.NodeID) (kin *atomic.Uint64, now uint64) {
	e := t.slab.at(uint32(id))
	if e == nil {
		return nil, 0
	}
	if now = e.kin.Load(); now>>32 != uint64(id)>>32 {
		return nil, 0
	}
	return &e.kin, now
}

// join notes that a way leads through a node.
func (t *nodes) join(id fuse.NodeID) {
	for {
		kin, now := t.kinOf(id)
		if kin == nil || kin.CompareAndSwap(now, now+1) {
			return
		}
	}
}

// leave ends what join began.
func (t *nodes) leave(id fuse.NodeID) {
	for {
		kin, now := t.kinOf(id)
		if kin == nil || now&(kinForgotten-1) == 0 {
			return
		}
		if kin.CompareAndSwap(now, now-1) {
			if (now-1)&(1<<32-1) == kinForgotten {
				t.lone.mu.Lock()
				t.lone.ids = append(t.lone.ids, id)
				t.lone.mu.Unlock()
				t.lone.any.Store(true)
			}
			return
		}
	}
}

// childless reports whether a forgotten node can go, and if not notes that it was. Its
// shard is locked.
func (e *slot[T]) childless() bool {
	for {
		now := e.kin.Load()
		if now&(kinForgotten-1) == 0 {
			return true
		}
		if e.kin.CompareAndSwap(now, now|kinForgotten) {
			return false
		}
	}
}

// settle ends the nodes that were forgotten, and have no kin any more.
func (t *nodes) settle() {
	for t.lone.any.Load() && t.lone.busy.CompareAndSwap(false, true) {
		t.lone.any.Store(false)
		t.lone.mu.Lock()
		t.lone.ids, t.lone.taken = t.lone.taken[:0], t.lone.ids
		t.lone.mu.Unlock()
		for _, id := range t.lone.taken {
			t.forget(id, 0)
		}
		t.lone.busy.Store(false)
	}
}
