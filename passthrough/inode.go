package passthrough

import (
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// A node is an inode that the guest knows (fs-device.md E.1). All but count is
// constant while the slot is live.
type node struct {
	id    fuse.NodeID
	key   key
	fd    int    // O_PATH
	typ   uint32 // S_IFMT bits
	count uint64 // lookups the guest has not forgotten; guarded by the key's shard
}

// A key identifies an inode of the host as long as a descriptor keeps it.
type key struct {
	dev, ino, mnt uint64
}

// keyOf reads a key out of what statx said.
func keyOf(st *unix.Statx_t) key {
	k := key{dev: unix.Mkdev(st.Dev_major, st.Dev_minor), ino: st.Ino}
	if st.Mask&(unix.STATX_MNT_ID|unix.STATX_MNT_ID_UNIQUE) != 0 {
		k.mnt = st.Mnt_id
	}
	return k
}

// nodes is the inode table.
type nodes struct {
	slab   slab[node]
	budget *budget
	shards [nodeShards]shard
}

const nodeShards = 64

// A shard of the identity map. The root is in none: no lookup may find it, as guests
// take node 1 under a name for an error (fs-device.md D.7.2).
type shard struct {
	mu    sync.Mutex
	slots map[key]uint32
	_     [48]byte // a cache line of its own
}

// shard spreads keys by Fibonacci hashing.
func (t *nodes) shard(k key) *shard {
	h := (k.ino ^ k.dev<<32 ^ k.mnt<<20) * 0x9e3779b97f4a7c15
	return &t.shards[h>>(64-6)]
}

// init makes an empty table around the root. root stays the caller's.
func (t *nodes) init(b *budget, root int, k key) {
	t.budget = b
	t.slab.end = func(n *node) {
		unix.Close(n.fd)
		t.budget.give()
	}
	for i := range t.shards {
		t.shards[i].slots = make(map[key]uint32)
	}
	e, id := t.slab.alloc() // the first slot is 1
	e.v = node{id: fuse.NodeID(id), key: k, fd: root, typ: unix.S_IFDIR, count: 2}
	t.slab.publish(e)
}

// hold finds the node of a request and keeps its descriptor open until put.
func (fs *FS) hold(_ *thread, id fuse.NodeID) (*slot[node], syscall.Errno) {
	e := fs.nodes.get(id)
	if e == nil {
		return nil, unix.EBADF
	}
	return e, 0
}

// get finds a node and keeps it until put, or returns nil.
func (t *nodes) get(id fuse.NodeID) *slot[node] { return t.slab.get(uint64(id)) }

func (t *nodes) put(e *slot[node]) { t.slab.put(e) }

// claim counts one lookup of the inode that fd refers to, which becomes a node if it
// was none. It owns fd from here on.
func (t *nodes) claim(k key, fd int, typ uint32) (fuse.NodeID, syscall.Errno) {
	s := t.shard(k)
	s.mu.Lock()
	if n, ok := s.slots[k]; ok {
		e := t.slab.at(n)
		e.v.count++
		id := e.v.id
		s.mu.Unlock()
		unix.Close(fd)
		return id, 0
	}
	id, e := t.insert(s, k, fd, typ)
	s.mu.Unlock()
	if e != 0 {
		unix.Close(fd)
	}
	return id, e
}

func (t *nodes) insert(s *shard, k key, fd int, typ uint32) (fuse.NodeID, syscall.Errno) {
	if !t.budget.take() {
		return 0, unix.ENFILE
	}
	e, id := t.slab.alloc()
	if e == nil {
		t.budget.give()
		return 0, unix.ENFILE
	}
	e.v = node{id: fuse.NodeID(id), key: k, fd: fd, typ: typ, count: 1}
	s.slots[k] = e.n
	t.slab.publish(e)
	return fuse.NodeID(id), 0
}

// forget takes n lookups back. A node without lookups is gone, except the root.
func (t *nodes) forget(id fuse.NodeID, n uint64) {
	if e := t.get(id); e != nil {
		t.forgetSlot(e, n)
		t.put(e)
	}
}

// forgetSlot is forget for a slot in use.
func (t *nodes) forgetSlot(e *slot[node], n uint64) {
	if e.v.id == fuse.RootID {
		return
	}
	s := t.shard(e.v.key)
	s.mu.Lock()
	e.v.count -= min(n, e.v.count)
	if e.v.count == 0 && t.slab.kill(e) {
		delete(s.slots, e.v.key)
	}
	s.mu.Unlock()
}

// drop forgets everything.
func (t *nodes) drop() {
	for n := range t.slab.used() {
		if e := t.slab.pin(n); e != nil {
			t.forgetSlot(e, ^uint64(0))
			t.put(e)
		}
	}
}
