package passthrough

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A clock knows the nodes that have a descriptor, and chooses the next one to lose it:
// its hand goes round, takes away the mark of those that were used since it last came
// by, and stops at the first without a mark.
type clock struct {
	soft int64        // how many descriptors nodes shall have together
	open atomic.Int64 // how many they have
	ran  atomic.Bool  // a node may have no descriptor

	mu    sync.Mutex
	slots []uint32
	hand  int
}

// maxOpenNodes is the most descriptors that nodes have, unless they could not be found
// again.
const maxOpenNodes = 3072

func (c *clock) init(limit int64) { c.soft = max(1, min(limit*3/4, maxOpenNodes)) }

func (c *clock) add(e *slot[node]) {
	c.mu.Lock()
	e.v.place = uint32(len(c.slots))
	c.slots = append(c.slots, e.n)
	c.mu.Unlock()
	c.open.Add(1)
}

func (c *clock) remove(t *nodes, n *node) {
	c.mu.Lock()
	last := len(c.slots) - 1
	c.slots[n.place] = c.slots[last]
	t.slab.at(c.slots[n.place]).v.place = n.place
	c.slots = c.slots[:last]
	c.mu.Unlock()
	c.open.Add(-1)
}

// A need is how badly a descriptor is needed.
type need int

const (
	needSoft need = iota // nodes that were used lately are spared
	needHard             // those that can be found again are not
	needAll              // only what the guest itself made impossible to find is spared
)

// next finds a node to evict in at most *steps steps, and uses it. It returns nil if
// there is none.
func (c *clock) next(t *nodes, steps *int, how need) *slot[node] {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; *steps > 0 && len(c.slots) > 0; *steps-- {
		if c.hand >= len(c.slots) {
			c.hand = 0
		}
		e := t.slab.at(c.slots[c.hand])
		c.hand++
		st := e.state.Load()
		switch {
		case st&slotLive == 0 || st&slotUses != 0:
		case st&slotFixed != 0 && (how != needAll || st&slotUnnamed != 0):
		case st&slotRecent != 0 && how == needSoft:
			e.state.CompareAndSwap(st, st&^slotRecent)
		case e.state.CompareAndSwap(st, st&^slotRecent+1):
			return e
		}
	}
	return nil
}

// room makes room for the descriptor of one more node, in the clock if that is
// possible and in the budget in any case. To evict one node, a directory above may have
// to be revived: that has room always, or else full would be full for ever.
func (fs *FS) room(t *thread) syscall.Errno {
	const steps = 256 // of the hand; the next time it goes on from there
	if t.evicting {
		fs.budget.n.Add(1)
		return 0
	}
	c := &fs.nodes.clock
	for i := 0; i < 8 && c.open.Load() >= c.soft; i++ {
		if !fs.evict(t, steps, needSoft) {
			break
		}
	}
	return fs.reserve(t)
}

// reserve takes one descriptor from the budget. If there is none, a spare is closed, or a
// node evicted. What the host has removed is the last to go: a guest that still uses it is
// told ESTALE, but no guest is told ENFILE because it knows it. All nodes may be in use by
// other threads, but hardly several times in a row.
func (fs *FS) reserve(t *thread) syscall.Errno {
	for failed := 0; !fs.budget.take(); {
		if fs.spares.shed() {
			continue
		}
		steps := int(fs.nodes.clock.open.Load())
		if !fs.evict(t, steps, needHard) && !fs.evict(t, steps, needAll) {
			if failed++; failed == 8 {
				return unix.ENFILE
			}
		}
	}
	return 0
}

// evict closes the descriptor of one node, and reports whether it could.
func (fs *FS) evict(t *thread, steps int, how need) bool {
	tab := &fs.nodes
	tab.clock.ran.Store(true)
	t.evicting = true
	defer func() { t.evicting = false }()
	for {
		e := tab.clock.next(tab, &steps, how)
		if e == nil {
			return false
		}
		errno := syscall.Errno(0)
		if e.state.Load()&slotFixed == 0 {
			errno = fs.findable(t, e)
		}
		ok := errno == 0 && fs.shut(e)
		if lost(errno) {
			e.state.Or(slotFixed)
		}
		tab.put(e)
		if ok {
			return true
		}
	}
}

// shut closes the descriptor of a node that only the caller uses.
func (fs *FS) shut(e *slot[node]) bool {
	tab := &fs.nodes
	s, _ := tab.shard(e.v.key)
	s.mu.Lock()
	st := e.state.Load()
	// The mark shows that somebody came and went meanwhile, who may have made findable's
	// answer wrong.
	if st&slotUses != 1 || st&(slotLive|slotRecent) != slotLive || !e.state.CompareAndSwap(st, st&^slotOpen) {
		s.mu.Unlock()
		return false
	}
	tab.clock.remove(tab, &e.v)
	fd := e.v.fd
	e.v.fd = -1
	s.mu.Unlock()
	unix.Close(fd)
	fs.budget.give()
	fs.spares.drop(e.n)
	return true
}

// findable says whether an open node can be found again when it has no descriptor, and
// prepares for that. What has no link is found by nobody. A file handle is the best
// way; else the last name must lead to the inode now, and there must be something to
// tell it from others. The error is a lost one if it will not pass.
func (fs *FS) findable(t *thread, e *slot[node]) syscall.Errno {
	n := &e.v
	if errno := statx(n.fd, &t.probe, unix.STATX_NLINK|unix.STATX_BTIME); errno != 0 {
		return errno
	}
	if t.probe.Nlink == 0 {
		return unix.ENOENT
	}
	born := fs.lasting(&t.probe, time.Now())
	s, _ := fs.nodes.shard(n.key)
	s.mu.Lock()
	n.way.born = born
	witness, handle := n.way.witness, len(s.handle(&n.way)) > 0
	s.mu.Unlock()
	if witness == 0 {
		if witness = fs.witness(t, n.fd, nil); witness == 0 {
			return unix.ENOENT
		}
		handle = t.handle.size > 0 && fs.retainMount(t, n)
		s.mu.Lock()
		n.way.witness = witness
		if handle {
			var b [maxWayHandle]byte
			s.setHandle(e, t.handle.appendTo(b[:0]))
		}
		s.mu.Unlock()
	}
	if handle {
		return 0
	}
	d, path, errno := fs.wayPath(t, e)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.put(d)
	errno = statxAt(d.v.fd, path, &t.probe, fs.host.statxMask)
	if errno == 0 && keyOf(&t.probe) != n.key {
		errno = unix.ESTALE
	}
	return errno
}

// witness returns a number that tells an inode from a later one with the same number:
// from its file handle, which has the generation, or else the time at which it was
// born. 0 means that there is neither. The inode is that of a descriptor, or of a name
// below it if that is not nil. The file handle is left in the thread, with size 0 if
// there is none.
func (fs *FS) witness(t *thread, fd int, name *byte) uint64 {
	if nameToHandle(fd, name, &t.handle) == 0 {
		var b [maxWayHandle]byte
		return maphash.Bytes(fs.hints.seed, t.handle.appendTo(b[:0])) | 1
	}
	t.handle.size = 0
	if statxAt(fd, name, &t.probe, unix.STATX_BTIME) != 0 {
		return 0
	}
	return birth(&t.probe)
}

// birth returns the time at which an inode was born as one number, or 0 if the host does
// not know it.
func birth(st *unix.Statx_t) uint64 {
	if st.Mask&unix.STATX_BTIME == 0 {
		return 0
	}
	return uint64(st.Btime.Sec)<<31 ^ uint64(st.Btime.Nsec)<<1 | 1
}

// lasting returns the birth of what statx saw if that is enough to tell it from whatever
// gets its number after now, when it must exist: it is so old that a later one is born at
// another time. It is 0 otherwise. The device must be the root's, which stays: that of a
// btrfs subvolume that is deleted may come back with a snapshot, whose inodes have numbers
// and births of the original's (linux fs/super.c, get_anon_bdev).
func (fs *FS) lasting(st *unix.Statx_t, now time.Time) uint64 {
	if unix.Mkdev(st.Dev_major, st.Dev_minor) != fs.rootKey.dev || now.Unix()-st.Btime.Sec < fs.nodes.old {
		return 0
	}
	return birth(st)
}
