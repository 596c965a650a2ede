package passthrough

import (
	"container/list"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// Waiting for locks takes no thread: a wait is an entry in the queue of its file.
//
//	park ──► queue ──► sweep: try each, the oldest first ──► answer
//	                     ▲
//	   wake: something was unlocked, by this guest
//	   timer: somebody else may have, 1 ms to 50 ms later
//
// The host would block a thread for each wait, or say nothing at all.

const (
	minSweep = time.Millisecond
	maxSweep = 50 * time.Millisecond
	// A sweep that took long is not repeated before sweepShare times as long, and longer
	// if there are other files with queues: waiting costs a twentieth of a processor at
	// most.
	sweepShare = 20
	sweepStart = 10 * time.Microsecond // what it takes beside the tries
	// hopelessMax bounds what a sweep remembers; see sweep.
	hopelessMax = 8
)

// A lockWait is a lock that is waited for.
type lockWait struct {
	lockTry
	wait  fuse.Wait
	node  *lockNode
	open  *slot[handle] // keeps lockTry.fd open
	place *list.Element // in node.queue; nil: over
}

// park adds a wait to the queue. It takes over a use of the handle.
func (n *lockNode) park(f *slot[handle], h fuse.Handle, lk *fuse.Lock, wait *fuse.Wait) {
	w := &lockWait{lockTry: tryOf(lk, h, &f.v), wait: *wait, node: n, open: f}
	w.place = n.queue.PushBack(w)
	l := n.locks
	l.mu.Lock()
	l.waits[wait.ID()] = w
	l.mu.Unlock()
	if n.queue.Len() == 1 {
		l.queues.Add(1)
		n.delay = minSweep
		n.sweepIn(0)
	}
}

// answer ends a wait.
func (n *lockNode) answer(w *lockWait, e syscall.Errno) {
	n.queue.Remove(w.place)
	w.place = nil
	l := n.locks
	if n.queue.Len() == 0 {
		l.queues.Add(-1)
	}
	l.mu.Lock()
	delete(l.waits, w.wait.ID())
	l.mu.Unlock()
	l.fs.handles.put(w.open)
	w.wait.Answer(e)
}

// endWaits answers some waits with e.
func (n *lockNode) endWaits(e syscall.Errno, which func(*lockWait) bool) {
	var next *list.Element
	for p := n.queue.Front(); p != nil; p = next {
		next = p.Next()
		if w := p.Value.(*lockWait); which(w) {
			n.answer(w, e)
		}
	}
}

// EndWait implements fuse.FileSystem.
func (fs *FS) EndWait(id fuse.WaitID, e syscall.Errno) {
	l := &fs.locks
	l.mu.Lock()
	w := l.waits[id]
	if w != nil {
		w.node.users++
	}
	l.mu.Unlock()
	if w == nil {
		return
	}
	n := w.node
	defer l.leave(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	if w.place != nil {
		n.answer(w, e)
	}
}

// wake has the queue looked at now: something may have been unlocked.
func (n *lockNode) wake() {
	if n.queue.Len() > 0 {
		n.again, n.delay = true, minSweep
		n.sweepIn(0)
	}
}

func (n *lockNode) sweepIn(d time.Duration) {
	if n.timer == nil {
		n.timer = time.AfterFunc(d, n.sweep)
		return
	}
	n.timer.Reset(d)
}

// sweep tries all waits of the queue, in order.
//
// Where many wait for one lock, most tries would be in vain: if an owner without locks
// on this file was refused, whoever else has none is refused the same lock, because
// what is in the way is neither's.
func (n *lockNode) sweep() {
	now := n.locks.enter(n.id, false)
	if now == nil {
		return
	}
	defer n.locks.leave(now)
	if now != n { // n is gone, and somebody locked the file again
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	begin := time.Now()
	n.again = false
	var hopeless []fuse.Lock
	var next *list.Element
	for p := n.queue.Front(); p != nil; p = next {
		next = p.Next()
		w := p.Value.(*lockWait)
		same := func(lk fuse.Lock) bool {
			return lk.Start == w.lk.Start && lk.End == w.lk.End && lk.Type == w.lk.Type && lk.Flock == w.lk.Flock
		}
		fresh := !n.holds(w)
		if fresh && slices.ContainsFunc(hopeless, same) {
			continue
		}
		e := n.try(&w.lockTry)
		switch {
		case e != unix.EAGAIN:
			n.answer(w, e)
		case fresh && len(hopeless) < hopelessMax:
			hopeless = append(hopeless, w.lk)
		}
	}
	switch {
	case n.queue.Len() == 0:
	case n.again:
		n.sweepIn(0)
	default:
		n.sweepIn(n.rest(time.Since(begin)))
		n.delay = min(2*n.delay, maxSweep)
	}
}

// rest returns how long after a sweep that took so long the next one begins.
func (n *lockNode) rest(took time.Duration) time.Duration {
	return max(n.delay, sweepShare*(sweepStart+took)*time.Duration(n.locks.queues.Load()))
}

// holds reports whether whoever waits in w has a lock on this file.
func (n *lockNode) holds(w *lockWait) bool {
	if w.lk.Flock {
		_, ok := n.flocks[w.handle]
		return ok
	}
	return n.owners[w.lk.Owner] != nil
}
