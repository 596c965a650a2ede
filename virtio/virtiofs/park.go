package virtiofs

import (
	"slices"
)

// Parked requests wait for a lock that somebody else holds: for hours, maybe. They
// keep their chain, but neither a thread nor a place among the requests that are with
// workers.
//
//	drain ──► Serve: fuse.Parked ──► park ──► loop.parked
//	                                              │ the file system calls Wake, because of an
//	takeBack ◄── loop.finished ◄── finish ◄───────┘ unlock, an INTERRUPT or cancel
//	    └──► Serve: the reply
//
// A chain that waits takes descriptors from the ring, and a guest whose ring is full
// cannot send the unlock that would end the wait. So at most a quarter of the ring's
// size may be parked (a lock takes three descriptors if the guest does not use
// indirect ones); the next lock that would have to wait is refused with ENOLCK.

// wakeFor returns what wakes req if it is parked, or nil if its ring has enough of
// those.
func (l *loop) wakeFor(req *request) func() {
	if req.ring.parked >= req.ring.Queue.Size()/4 {
		return nil
	}
	if req.wake == nil {
		req.wake = func() { l.finish(req) }
	}
	return req.wake
}

// park puts req aside. It may have been woken already; notices will see that.
func (l *loop) park(req *request) {
	req.parked, req.at = true, len(l.parked)
	l.parked = append(l.parked, req)
	req.ring.parked++
	l.part(req)
}

// unpark ends req's wait.
func (l *loop) unpark(req *request) {
	last := len(l.parked) - 1
	l.parked[last].at = req.at
	l.parked[req.at] = l.parked[last]
	l.parked = slices.Delete(l.parked, last, last+1)
	req.parked, req.woken = false, true
	req.ring.parked--
}

// cancel has all parked requests of r answered, so that the ring can be stopped.
func (l *loop) cancel(r *ring) {
	for _, req := range l.parked {
		if req.ring == r {
			l.server.Cancel(&req.Request)
		}
	}
}
