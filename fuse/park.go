package fuse

import (
	"errors"
	"sync"
	"syscall"
)

// Requests that wait for a lock.
//
//	SETLKW ──► SetLock(…, w) ──► ErrParked ──► Outcome Parked: the transport keeps it
//	              ┌──────────────────┘
//	w kept by the file system ──► w.Answer ──► Request.Wake ──► Serve: the reply
//	                                 ▲
//	INTERRUPT, Server.Cancel ──► EndWait
//
// A wait is over when it is answered, which the file system does exactly once: with
// the lock, or because EndWait told it to give up. Answer may come before Serve has
// said that the request is parked; the two meet at Request.wait, which says for which
// wait (its upper 48 bits) the request stands how (the lower 4) and with which errno.

// ErrParked is returned by SetLock when it keeps a Wait that it will answer later.
var ErrParked = errors.New("operation waits for a lock")

// A WaitID names a wait. It is never 0, and not used again.
type WaitID uint64

// A Wait is the duty to answer one request later.
type Wait struct {
	id     WaitID
	unique uint64
	r      *Request
	wake   func()
	p      *parking
}

// ID returns w's name, for EndWait.
func (w *Wait) ID() WaitID { return w.id }

// States of a wait, in the lower bits of Request.wait.
const (
	waitRunning = iota
	waitAnswered
	waitParked

	waitStates = 4 // bits
	waitErrnos = 12
	waitIDs    = waitStates + waitErrnos
)

func waitWord(id WaitID, e syscall.Errno, state uint64) uint64 {
	return uint64(id)<<waitIDs | uint64(e)<<waitStates | state
}

// Answer ends the wait, with errno e or 0 for success. It may be called from any
// goroutine; all but the first call do nothing.
func (w *Wait) Answer(e syscall.Errno) {
	if e != 0 && e != syscall.EINTR {
		e, _ = errnoOf(e)
	}
	w.p.end(*w)
	answered := waitWord(w.id, e, waitAnswered)
	if w.r.wait.CompareAndSwap(waitWord(w.id, 0, waitRunning), answered) {
		return // Serve will see it
	}
	if w.r.wait.CompareAndSwap(waitWord(w.id, 0, waitParked), answered) {
		w.wake()
	}
}

// park leaves r to its wait, unless that is over. If so, r belongs to nobody until
// Wake.
func (r *Request) park() bool {
	id := WaitID(r.wait.Load() >> waitIDs)
	return r.wait.CompareAndSwap(waitWord(id, 0, waitRunning), waitWord(id, 0, waitParked))
}

// answer returns how r's wait ended.
func (r *Request) answer() syscall.Errno {
	return syscall.Errno(r.wait.Load() >> waitStates & (1<<waitErrnos - 1))
}

// A parking knows the waits of a server by the uniques of their requests.
//
// INTERRUPT has no reply over virtio, and comes on another ring than the request that
// it means, so it may come first. The last few that meant nothing are kept for that;
// a unique is not used twice by Linux, so one that came too late does no harm.
type parking struct {
	mu    sync.Mutex
	last  WaitID
	waits map[uint64]standing
	early [64]uint64 // uniques
	next  int        // in early
}

// A standing is one wait as the guest knows it.
type standing struct {
	id          WaitID
	interrupted bool
}

// begin makes a wait of r. interrupted says that the guest has given it up already.
func (p *parking) begin(r *Request) (w Wait, interrupted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	w = Wait{id: p.last, unique: r.head.Unique, r: r, wake: r.Wake, p: p}
	r.wait.Store(waitWord(w.id, 0, waitRunning))
	for i, u := range p.early {
		if u == w.unique && u != 0 {
			p.early[i] = 0
			return w, true
		}
	}
	if p.waits == nil {
		p.waits = make(map[uint64]standing)
	}
	// A guest that uses a unique twice can interrupt only the last request of that name.
	p.waits[w.unique] = standing{id: w.id}
	return w, false
}

// end forgets a wait.
func (p *parking) end(w Wait) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waits[w.unique].id == w.id {
		delete(p.waits, w.unique)
	}
}

// interrupted reports whether an INTERRUPT for w came while the file system had not
// parked it yet, and so did not find it.
func (p *parking) interrupted(w Wait) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.waits[w.unique]
	return s.id == w.id && s.interrupted
}

// interrupt returns the wait that the request of that unique is in, or 0.
func (p *parking) interrupt(unique uint64) WaitID {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := p.waits[unique]; ok {
		p.waits[unique] = standing{s.id, true}
		return s.id
	}
	p.early[p.next] = unique
	p.next = (p.next + 1) % len(p.early)
	return 0
}

// reset forgets the interrupts of an earlier life of the mount.
func (p *parking) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.early = [len(p.early)]uint64{}
}

// interrupt is INTERRUPT. Only requests that are parked can be interrupted; all others
// end by themselves (fs-device.md C.4.2).
func (t *Thread) interrupt(r *Request) (int, error) {
	in, _, _ := take[InterruptIn](r.args)
	if id := t.s.parking.interrupt(in.Unique); id != 0 {
		t.s.fs.EndWait(id, syscall.EINTR)
	}
	return 0, nil
}

// Cancel has a parked request answered soon, because its ring is being stopped. The
// guest is told ENOLCK, "a remote locking protocol failed" in fcntl(2): EINTR would
// become ERESTARTSYS there (linux fs/fuse/file.c, fuse_setlk), and without a signal
// that restarts the call, programs would see that number, which no manual page knows.
func (s *Server) Cancel(r *Request) {
	s.fs.EndWait(WaitID(r.wait.Load()>>waitIDs), syscall.ENOLCK)
}
