package passthrough

import (
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Programs list the same directories again and again, and to read one from its start is
// dear where names are kept by hash: ext4 hashes and sorts all of them each time. So the
// records of a directory that was listed twice without a change in between are kept:
//
//	first listing ──► begin: its ctime is noted
//	second ─────────► begin: the same ──► gather, to the end
//	third ──────────► begin: the same ──► recall instead of getdents
//
// Whatever changes the names of a directory changes its ctime, which nobody can set. Two
// changes may fall into one tick of the clock, so only a ctime that is older than any tick
// (oldAge) says something: a later change makes another one. A guest that begins to list is
// told what the host would have told it at that moment. A listing is read anew after
// listingAge nevertheless, for the time of access.
//
// Cookies are the host's, so a handle can go on with its descriptor at any point. Nodes
// share places; whoever does not find the listing any more that it began with, does that.

const (
	// maxListings is how many directories are kept, and maxListing how many bytes of the
	// records of one: about 4000 names.
	maxListings = 32
	maxListing  = 128 << 10
	// listingAge is how long a listing may be used.
	listingAge = time.Minute
)

// A listing is a place for the records of one directory.
type listing struct {
	mu     sync.Mutex
	node   uint64 // id of the directory's
	ctime  unix.Timespec
	state  listingState
	serial uint32    // another one after each change of the three above
	began  time.Time // when recs were
	recs   []byte    // as getdents gave them, from the start
	last   int       // where in recs those of the last getdents begin
	next   int64     // the cookie after recs
}

type listingState int

const (
	listingNone     listingState = iota
	listingNoted                 // the directory was listed once
	listingGathered              // a handle adds to recs
	listingWhole                 // recs is all there is
	listingUnfit                 // there is too much, two names have one cookie, or it is sealed
)

// A reading is where a handle stands in a listing.
type reading struct {
	serial   uint32 // of the listing; 0: none
	last, at int    // where in its records those of the last recall are
	cookie   int64  // that at at
}

type listings [maxListings]listing

// set says what is known of a directory from now on.
func (l *listing) set(node uint64, ctime unix.Timespec, state listingState) {
	l.node, l.ctime, l.state = node, ctime, state
	if l.serial++; l.serial == 0 {
		l.serial++
	}
	l.recs, l.last, l.next = l.recs[:0], 0, 0
}

// place returns where the listing of n is, if it is.
func (fs *FS) place(n *node) *listing { return &fs.listings[uint32(n.id)%maxListings] }

// begin decides where a handle of n, which now lists from the start, gets its records
// from. h.mu is locked.
func (fs *FS) begin(t *thread, n *node, h *handle) {
	h.list = reading{}
	if fstat(h.fd, &t.brief) != 0 {
		return
	}
	now, ctime, l := time.Now(), t.brief.Ctim, fs.place(n)
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.node == uint64(n.id) && l.ctime == ctime && l.state != listingNone
	switch {
	case known && l.state == listingWhole && now.Sub(l.began) < listingAge:
	case known && l.state == listingUnfit:
		return
	case known && fs.sealed(t, h):
		l.set(l.node, ctime, listingUnfit)
		return
	case known:
		l.set(l.node, ctime, listingGathered) // who gathered until now does no more
		l.began = now
	case now.Unix()-ctime.Sec >= fs.nodes.old:
		l.set(uint64(n.id), ctime, listingNoted)
		return
	default:
		return
	}
	h.list.serial = l.serial
}

// sealed reports whether the names of a directory are encrypted: to whom they are shown
// depends on who has given the host their key, and leaves no trace in the ctime.
func (fs *FS) sealed(t *thread, h *handle) bool {
	e := statx(h.fd, &t.stat, unix.STATX_BASIC_STATS)
	return e != 0 || t.stat.Attributes&unix.STATX_ATTR_ENCRYPTED != 0
}

// recall copies records after a cookie into buf, and reports whether h's listing has them.
func (l *listing) recall(h *handle, buf []byte, cookie int64) (size int, ok bool) {
	r := &h.list
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.serial != r.serial || l.state != listingWhole {
		return 0, false
	}
	at := r.at
	if cookie != r.cookie { // not all of the last ones was used, or the guest seeks
		if at, ok = after(l.recs, r.last, cookie); !ok {
			at, ok = after(l.recs, 0, cookie)
		}
		if !ok {
			return 0, false
		}
	}
	r.last, r.cookie = at, cookie
	for left := l.recs[at:]; len(left) > 0; {
		next, n := follow(left)
		if size+n > len(buf) {
			break
		}
		size += n
		left, r.cookie = left[n:], next
	}
	r.at = at + copy(buf[:size], l.recs[at:])
	return size, true
}

// gather adds to h's listing what the host gave after a cookie; nothing is the end.
func (l *listing) gather(h *handle, recs []byte, cookie int64, e syscall.Errno) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.serial != h.list.serial || l.state != listingGathered {
		return
	}
	all, known := len(l.recs), true
	if cookie != l.next {
		all, known = after(l.recs, l.last, cookie)
	}
	switch {
	case e != 0 || !known:
		l.state = listingNone
	case all+len(recs) > maxListing, ambiguous(recs, cookie):
		l.state = listingUnfit
	case len(recs) == 0:
		l.state = listingWhole
	default:
		l.last = all
		l.recs, l.next = append(l.recs[:all], recs...), h.pos
	}
}

// ambiguous reports whether a cookie is not that of one record only, where those begin that
// follow cookie. Names with the same hash have the same (linux fs/ext4/dir.c).
func ambiguous(recs []byte, cookie int64) bool {
	for len(recs) > 0 {
		next, n := follow(recs)
		if next == cookie {
			return true
		}
		recs, cookie = recs[n:], next
	}
	return false
}

// after returns where in records what follows a cookie begins, if that is not before from.
func after(recs []byte, from int, cookie int64) (at int, ok bool) {
	if at = from; at == 0 && cookie == 0 {
		return 0, true
	}
	for at < len(recs) {
		next, n := follow(recs[at:])
		if at += n; next == cookie {
			return at, true
		}
	}
	return 0, false
}

// drop forgets all listings.
func (ls *listings) drop() {
	for i := range ls {
		l := &ls[i]
		l.mu.Lock()
		l.set(0, unix.Timespec{}, listingNone)
		l.recs = nil
		l.mu.Unlock()
	}
}
