package passthrough

import (
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// A node is an inode that the guest knows (fs-device.md E.1).
type node struct {
	id  fuse.NodeID // constant, like key and typ
	key key
	typ uint32 // S_IFMT bits

	place uint32 // in the clock, while slotOpen; guarded by clock.mu
	fd    int    // O_PATH; constant while slotOpen and in use
	way   way    // back to it; guarded by the key's shard, like count
	count uint64 // lookups the guest has not forgotten
}

// The bits of a node's slot that are the slab's user's.
const (
	slotOpen    = slotUser      // fd is open; otherwise it was evicted, or never was (lazy.go)
	slotFixed   = slotUser << 1 // it would not be found again, so it should not be evicted
	slotUnnamed = slotUser << 2 // the guest took a name from it: then it must not be
	slotUnheld  = slotUser << 3 // no request has needed fd yet, and the node could begin without
)

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

// hash spreads keys by Fibonacci hashing.
func (k key) hash() uint64 {
	return (k.ino ^ k.dev<<32 ^ k.mnt<<20) * 0x9e3779b97f4a7c15
}

// nodes is the inode table.
type nodes struct {
	slab   slab[node]
	clock  clock
	mounts mounts
	lazy   predictor
	lone   lone
	shards [nodeShards]shard
	old    int64 // see oldAge
}

// oldAge is the age in seconds from which on an inode is known by its birth: what is made
// with its number after its eviction is born later by more than the tick of any clock.
const oldAge = 2

const nodeShards = 64

// A shard is a part of the identity map. The root is in none: no lookup may find it,
// as guests take node 1 under a name for an error (fs-device.md D.7.2).
type shard struct {
	table *nodes

	mu    sync.Mutex
	index index // by key
	arena arena // of the ways of its nodes
}

// shard returns the part that is responsible for k, and k's hash in its index.
func (t *nodes) shard(k key) (*shard, uint32) {
	h := k.hash()
	return &t.shards[h>>(64-6)], uint32(h >> 26)
}

// initNodes makes an empty table around the root. root stays the caller's.
func (fs *FS) initNodes(root int, k key) {
	t := &fs.nodes
	for i := range t.shards {
		t.shards[i].table = t
	}
	t.slab.end = fs.endNode
	t.old = oldAge
	t.clock.init(fs.budget.limit)
	e, id := t.slab.alloc() // the first slot is 1
	e.v = node{id: fuse.NodeID(id), key: k, fd: root, typ: unix.S_IFDIR, count: 2}
	t.slab.publish(e, slotOpen)
}

// endNode releases what a node had.
func (fs *FS) endNode(n *node) {
	t := &fs.nodes
	fs.spares.drop(uint32(n.id))
	s, _ := t.shard(n.key)
	s.mu.Lock()
	held := s.dropWay(n)
	s.mu.Unlock()
	if held {
		t.mounts.release(n.key.mnt)
	}
	if n.fd >= 0 {
		t.clock.remove(t, n)
		unix.Close(n.fd)
		fs.budget.give()
	}
	t.settle()
}

// hold finds the node of a request and keeps its descriptor open until put. One that
// has none gets it now.
func (fs *FS) hold(t *thread, id fuse.NodeID) (*slot[node], syscall.Errno) {
	e := fs.nodes.get(id)
	if e == nil {
		return nil, unix.EBADF
	}
	if e.state.Load()&(slotOpen|slotUnheld) != slotOpen {
		if errno := fs.ensureOpen(t, e); errno != 0 {
			fs.nodes.put(e)
			return nil, errno
		}
	}
	return e, 0
}

// ensureOpen sees to it that a node in use has its descriptor.
func (fs *FS) ensureOpen(t *thread, e *slot[node]) syscall.Errno {
	if e.state.Load()&slotUnheld != 0 && e.state.And(^uint64(slotUnheld))&slotUnheld != 0 {
		fs.nodes.lazy.count(lazyHeld)
	}
	if e.open() {
		return 0
	}
	return fs.revive(t, e)
}

// get finds a node and keeps it until put, or returns nil. Its descriptor may be
// closed.
func (t *nodes) get(id fuse.NodeID) *slot[node] { return t.slab.get(uint64(id)) }

func (t *nodes) put(e *slot[node]) { t.slab.put(e) }

// find returns the slot of the inode with a key, which is in s, or nil. s is locked.
func (t *nodes) find(s *shard, h uint32, k key) *slot[node] {
	n := s.index.find(h, func(n uint32) bool { return t.slab.at(n).v.key == k })
	if n == 0 {
		return nil
	}
	return t.slab.at(n)
}

// claim counts one lookup of the inode that fd refers to, which becomes a node if it
// was none; the thread has its attributes. parent and name are where it was found; without
// a name it was not. claim owns fd from here on.
//
// Everything is decided at once, under the lock of the shard; what the decision needs
// and takes a system call is got first, and then all is looked at again.
func (fs *FS) claim(t *thread, fd int, parent fuse.NodeID, name []byte) (fuse.NodeID, syscall.Errno) {
	tab, k, typ := &fs.nodes, keyOf(&t.stat), uint32(t.stat.Mode)&unix.S_IFMT
	born, bits := fs.lasting(&t.stat, time.Now()), uint64(slotOpen)
	if fs.optional(&t.stat, name) && born != 0 {
		bits |= slotUnheld
	}
	s, h := tab.shard(k)
	room, seen, witness := false, false, uint64(0)
	for {
		s.mu.Lock()
		e := tab.find(s, h, k)
		switch {
		case e != nil && e.open():
			// Its own descriptor keeps the inode, so that it must be the same.
			tab.count(e)
			s.setName(e, parent, name)
			id := e.v.id
			s.mu.Unlock()
			unix.Close(fd)
			if room {
				fs.budget.give()
			}
			return id, 0
		case !room:
			s.mu.Unlock()
			if errno := fs.room(t); errno != 0 {
				unix.Close(fd)
				return 0, errno
			}
			room = true
			continue
		case e == nil:
			e, id := tab.slab.alloc()
			if e == nil {
				s.mu.Unlock()
				unix.Close(fd)
				fs.budget.give()
				return 0, unix.ENFILE
			}
			e.v = node{id: fuse.NodeID(id), key: k, fd: fd, typ: typ, count: 1, way: way{born: born}}
			s.index.add(h, e.n)
			tab.slab.publish(e, bits)
			s.setName(e, parent, name)
			tab.clock.add(e)
			s.mu.Unlock()
			if bits&slotUnheld != 0 {
				tab.lazy.count(lazyMade)
			}
			return fuse.NodeID(id), 0
		case born != 0 && born == e.v.way.born:
			// The same inode, whatever the witness.
		case !seen:
			s.mu.Unlock()
			witness, seen = fs.witness(t, fd, nil), true
			continue
		case witness == 0 || witness != e.v.way.witness: // a new inode with the number of one that is gone
			s.index.remove(h, e.n)
			s.mu.Unlock()
			continue
		}
		tab.count(e)
		s.setName(e, parent, name)
		tab.install(e, fd)
		id := e.v.id
		s.mu.Unlock()
		return id, 0
	}
}

// claimSeen is claim for what statx saw under a name, without a descriptor. born tells the
// inode from every later one with its key, and so does that of a node in the table. It
// reports false if it takes a descriptor to say which node it is.
func (t *nodes) claimSeen(k key, typ uint32, born uint64, parent fuse.NodeID, name []byte) (fuse.NodeID, bool) {
	s, h := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := t.find(s, h, k)
	if e == nil {
		var id uint64
		if e, id = t.slab.alloc(); e == nil {
			return 0, false
		}
		e.v = node{id: fuse.NodeID(id), key: k, fd: -1, typ: typ, way: way{born: born}}
		s.index.add(h, e.n)
		t.slab.publish(e, slotUnheld)
		t.lazy.count(lazyMade)
	} else if e.v.way.born != born {
		return 0, false
	}
	t.count(e)
	s.setName(e, parent, name)
	return e.v.id, true
}

// open reports whether a node has its descriptor. It keeps it while it is in use or its
// shard is locked.
func (e *slot[node]) open() bool { return e.state.Load()&slotOpen != 0 }

// install gives a descriptor to a node that has none. Its shard is locked.
func (t *nodes) install(e *slot[node], fd int) {
	e.v.fd = fd
	e.state.Or(slotOpen)
	t.clock.add(e)
}

// count counts one lookup. The node's shard is locked.
func (t *nodes) count(e *slot[node]) {
	if e.v.count++; e.v.count == 1 {
		e.kin.And(^uint64(kinForgotten))
	}
}

// countAgain counts one more lookup of a node in use, that was just seen under a name.
// It reports false if the node is forgotten by now.
func (t *nodes) countAgain(e *slot[node], parent fuse.NodeID, name []byte) bool {
	s, _ := t.shard(e.v.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.state.Load()&slotLive == 0 {
		return false
	}
	t.count(e)
	if e.state.Load()&(slotOpen|slotFixed) != slotOpen { // it may need a name that is true
		s.setName(e, parent, name)
	}
	return true
}

// forget takes n lookups back. A node without lookups is gone, except the root and
// directories through which ways lead (kin.go).
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
	s, h := t.shard(e.v.key)
	s.mu.Lock()
	e.v.count -= min(n, e.v.count)
	if e.v.count == 0 && e.childless() && t.slab.kill(e) {
		s.index.remove(h, e.n)
	}
	s.mu.Unlock()
}

// drop forgets everything.
func (t *nodes) drop() {
	for n := range t.slab.used() {
		e := t.slab.pin(n)
		if e == nil {
			continue
		}
		e.kin.And(^uint64(kinForgotten<<1 - 1)) // its kin go, too
		t.forgetSlot(e, ^uint64(0))
		t.put(e)
	}
}
