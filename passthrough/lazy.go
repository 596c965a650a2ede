package passthrough

import (
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// Most of what a guest looks up it only wants to know of: find, ls -l and git status read
// names and attributes, and open little. For that a node needs no descriptor, so it may
// begin as if it had been evicted at once: LOOKUP is a look by name, FORGET is nothing, and
// nothing has to be evicted.
//
//	           old file, seen by name          the first request that needs it
//	LOOKUP ──► no descriptor, (key, birth) ──► revive ──► descriptor ──► evict, ...
//	       └─► descriptor ──────────────────────────────────┘
//	           all others
//
// What is seen by name can be another object the next moment. That does no harm to what
// lasting says can be told from all that may come later: revive opens the name O_PATH, and
// takes nothing but the inode that was seen. The price is that of every evicted node: one
// that the host renames or removes is found again or is ESTALE.
//
// A node that is used after all takes one more system call than one that had its descriptor
// from the beginning, so there is a predictor.

// A predictor says whether the next node should begin without a descriptor. It counts the
// system calls which that has won with the last ones, or would have.
type predictor struct{ won atomic.Int32 }

// What is counted.
const (
	lazyVain = -1            // the look by name was not enough
	lazyMade = +2            // no open and close for a new node
	lazyHeld = -lazyMade - 1 // they had to be after all, and a statx
)

// lazyMost limits what the past counts: about a hundred files.
const lazyMost = 256

func (p *predictor) lazy() bool { return p.won.Load() >= 0 }

// count may lose what several threads count at once.
func (p *predictor) count(calls int32) {
	old := p.won.Load()
	if now := max(-lazyMost, min(old+calls, lazyMost)); now != old {
		p.won.CompareAndSwap(old, now)
	}
}

// glance is find without a descriptor. It reports false if it takes one to tell.
func (fs *FS) glance(t *thread, d *node, name *byte, h hint, out *fuse.Entry) (errno syscall.Errno, ok bool) {
	tab := &fs.nodes
	if !fs.optionally() || !tab.lazy.lazy() {
		return 0, false
	}
	now := time.Now() // before the look: what gets the inode's number after it is born later
	if errno = statxAt(d.fd, name, &t.stat, fs.host.statxMask); errno == unix.ENOENT {
		return errno, true
	}
	nm, born := text(name), uint64(0)
	if errno == 0 && fs.optional(&t.stat, nm) {
		born = fs.lasting(&t.stat, now)
	}
	if born != 0 {
		if !tab.clock.ran.Load() {
			tab.clock.ran.Store(true)
		}
		if id, ok := tab.claimSeen(keyOf(&t.stat), uint32(t.stat.Mode)&unix.S_IFMT, born, d.id, nm); ok {
			h.set(id)
			fs.describe(t, d, id, out)
			return 0, true
		}
	}
	tab.lazy.count(lazyVain)
	return 0, false
}

// optionally reports whether nodes may begin without a descriptor at all. A guest that
// exports the share may use inodes of whose directories it knows nothing any more; they
// would have no name. It shows by LOOKUP of ".", which also gives such an inode its
// descriptor.
func (fs *FS) optionally() bool {
	return fs.host.ready && fs.opt.FileHandles != HandlesMandatory && !fs.exported.Load()
}

// optional reports whether what statx saw under a name may begin without a descriptor, if
// its birth is lasting. Directories are the way to others.
func (fs *FS) optional(st *unix.Statx_t, name []byte) bool {
	typ := st.Mode & unix.S_IFMT
	return fs.optionally() && (typ == unix.S_IFREG || typ == unix.S_IFLNK) && st.Nlink > 0 &&
		keyOf(st).mnt == fs.rootKey.mnt && len(name) > 0 && len(name) <= maxWayName
}
