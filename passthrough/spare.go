package passthrough

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Programs open the same files again and again. So the descriptor of a file that was
// open for reading, and only for that, outlives its handle for a moment, as a spare of
// the node: the next OPEN takes it, and neither RELEASE nor OPEN is a system call.
//
//	RELEASE ──► put ──► spares ──► take ──► OPEN
//	                      │
//	                      └─ close: sweep, drop (its node changed or ended), shed (no
//	                         descriptors left), put (another node in the same place)
//
// To the host this is a guest that closes its files late, which any guest may be. It
// would matter if a descriptor were more than a way to read: what hangs on the open file
// description (locks, flags like O_DIRECT) makes no spare (descriptor.plain), nor does a
// file of a mount where to open one means something (quiet). What is left in it is the
// position, which nothing here uses, how far the host reads ahead, and which errors of
// writing back it has told: at worst fsync tells one again.
//
// A node has one spare at most, and no spare outlives its node: who puts one uses the
// node, and the node's end drops it. So the slot says whose it is, without its
// generation, and all about a spare is one word. There is no lock.

// maxSpares is how many spares there are at most. They count in the budget.
const maxSpares = 256

// sparePeriod is the time between two sweeps: the second that finds a spare unused
// closes it.
const sparePeriod = 500 * time.Millisecond

// A spare is fd<<32 | inline<<25 | spareIdle | slot of the node; 0 is none.
type spare uint64

const (
	spareSlot   = slabChunk*slabChunks - 1
	spareIdle   = spareSlot + 1 // a sweep has seen it
	spareInline = 25
)

func newSpare(slot uint32, fd int, read inline) spare {
	return spare(fd)<<32 | spare(read)<<spareInline | spare(slot)
}

func (w spare) slot() uint32 { return uint32(w & spareSlot) }
func (w spare) fd() int      { return int(w >> 32) }
func (w spare) read() inline { return inline(uint32(w) >> spareInline) }

// spares is the table of spares.
type spares struct {
	budget *budget
	table  []atomic.Uint64 // of spare; a node's place is its slot modulo the length
	period time.Duration
	timer  *time.Timer // of the next sweep
	armed  atomic.Bool // a sweep will look at what is put now
}

// init makes an empty table for a guest that may have so many descriptors.
func (s *spares) init(b *budget, limit int64) {
	s.budget, s.period = b, sparePeriod
	s.table = make([]atomic.Uint64, max(1, min(maxSpares, limit/16)))
	s.timer = time.AfterFunc(time.Hour, s.sweep)
	s.timer.Stop()
}

// close stops the timer. There must be no spares.
func (s *spares) close() {
	if s.timer != nil {
		s.timer.Stop()
	}
}

func (s *spares) place(slot uint32) *atomic.Uint64 { return &s.table[slot%uint32(len(s.table))] }

// put makes fd the spare of a node in use. It owns fd, and its part of the budget, from
// here on.
func (s *spares) put(slot uint32, fd int, read inline) {
	s.end(spare(s.place(slot).Swap(uint64(newSpare(slot, fd, read)))))
	s.arm()
}

// take returns the spare of a node in use, or 0. Its descriptor is the caller's from here
// on, and not in the budget any more.
func (s *spares) take(slot uint32) spare {
	for p := s.place(slot); ; {
		w := p.Load()
		if spare(w).slot() != slot {
			return 0
		}
		if p.CompareAndSwap(w, 0) {
			s.budget.give()
			return spare(w)
		}
	}
}

// drop closes the spare of a node, if it has one.
func (s *spares) drop(slot uint32) {
	if w := s.take(slot); w != 0 {
		unix.Close(w.fd())
	}
}

// shed closes any spare, and reports whether there was one.
func (s *spares) shed() bool {
	for i := range s.table {
		if s.table[i].Load() == 0 {
			continue
		}
		if w := spare(s.table[i].Swap(0)); w != 0 {
			s.end(w)
			return true
		}
	}
	return false
}

// end closes what was a spare, unless it is 0.
func (s *spares) end(w spare) {
	if w != 0 {
		unix.Close(w.fd())
		s.budget.give()
	}
}

// arm sees to it that a sweep comes.
func (s *spares) arm() {
	if !s.armed.Load() && s.armed.CompareAndSwap(false, true) {
		s.timer.Reset(s.period)
	}
}

// sweep closes the spares that the last one marked, and marks the others. It comes again
// as long as there are any.
func (s *spares) sweep() {
	for i := range s.table {
		p := &s.table[i]
		w := p.Load()
		switch {
		case w == 0:
		case w&spareIdle == 0:
			p.CompareAndSwap(w, w|spareIdle) // or somebody just used it
		case p.CompareAndSwap(w, 0):
			s.end(spare(w))
		}
	}
	s.armed.Store(false)
	for i := range s.table {
		if s.table[i].Load() != 0 {
			s.arm()
			return
		}
	}
}

// plain reports whether a descriptor of a file with these flags can be a spare, and a
// spare such a descriptor.
func (fs *FS) plain(n *node, flags int) bool {
	return flags == unix.O_RDONLY && n.typ == unix.S_IFREG && fs.host.quiet && n.key.mnt == fs.rootKey.mnt
}

// quiet reports whether a file of this type of file system may be closed late, and read
// instead of opened again. It may not where the data is fetched when the file is opened
// (close-to-open of NFS, files of configfs), or where somebody waits for the close (FUSE),
// so what is not known to be harmless is not quiet. An overlay's descriptor goes on with
// the upper file when there is one (linux fs/overlayfs/file.c).
func quiet(magic int64) bool {
	switch magic {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC,
		unix.BCACHEFS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC:
		return true
	}
	return false
}
