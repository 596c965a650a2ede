package fusetest

import (
	"math"
	"slices"
	"syscall"

	"vfiofs/fuse"
)

// A memLock is a lock that is held, or one that is waited for.
type memLock struct {
	fuse.Lock
	node   fuse.NodeID
	handle fuse.Handle // through which it was set
	wait   fuse.Wait   // of one that is waited for
}

// conflicts reports whether a and b exclude each other.
func (a *memLock) conflicts(b *memLock) bool {
	if a.node != b.node || a.Flock != b.Flock || a.same(b) || a.End < b.Start || b.End < a.Start {
		return false
	}
	return a.Type == fuse.LockWrite || b.Type == fuse.LockWrite
}

// same reports whether a and b have the same owner.
func (a *memLock) same(b *memLock) bool {
	if a.Flock {
		return a.handle == b.handle
	}
	return a.Owner == b.Owner
}

// conflict returns a lock that keeps lk from being set.
func (m *Mem) conflict(lk *memLock) *memLock {
	for i := range m.locks {
		if m.locks[i].conflicts(lk) {
			return &m.locks[i]
		}
	}
	return nil
}

// setLock replaces what the owner of lk has in its range.
func (m *Mem) setLock(lk memLock) {
	var kept []memLock
	for _, old := range m.locks {
		if old.node != lk.node || old.Flock != lk.Flock || !old.same(&lk) || old.End < lk.Start || lk.End < old.Start {
			kept = append(kept, old)
			continue
		}
		if left := old; left.Start < lk.Start {
			left.End = lk.Start - 1
			kept = append(kept, left)
		}
		if right := old; right.End > lk.End {
			right.Start = lk.End + 1
			kept = append(kept, right)
		}
	}
	if lk.Type != fuse.LockNone {
		kept = append(kept, lk)
	}
	m.locks = kept
	m.grant()
}

// grant answers all waits that need wait no longer, the oldest first.
func (m *Mem) grant() {
	for i := range m.waits {
		if w := m.waits[i]; m.conflict(&w) == nil {
			m.waits = slices.Delete(m.waits, i, i+1)
			w.wait.Answer(0)
			m.setLock(w)
			return
		}
	}
}

func (m *Mem) lock(id fuse.NodeID, h fuse.Handle, lk *fuse.Lock) (memLock, error) {
	_, err := m.handle(id, h)
	l := memLock{Lock: *lk, node: id, handle: h}
	if l.Flock {
		l.Start, l.End = 0, math.MaxInt64
	}
	return l, err
}

// GetLock looks for a conflict.
func (m *Mem) GetLock(_ *fuse.Context, id fuse.NodeID, h fuse.Handle, lk *fuse.Lock) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, err := m.lock(id, h, lk)
	if err != nil {
		return err
	}
	if c := m.conflict(&l); c != nil {
		*lk = c.Lock
	} else {
		lk.Type = fuse.LockNone
	}
	return nil
}

// SetLock sets or drops a lock, or waits.
func (m *Mem) SetLock(_ *fuse.Context, id fuse.NodeID, h fuse.Handle, lk *fuse.Lock, w *fuse.Wait) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, err := m.lock(id, h, lk)
	switch {
	case err != nil:
		return err
	case l.Type == fuse.LockNone || m.conflict(&l) == nil:
		m.setLock(l)
		return nil
	case w == nil:
		return syscall.EAGAIN
	}
	l.wait = *w
	m.waits = append(m.waits, l)
	return fuse.ErrParked
}

// EndWait gives up a wait.
func (m *Mem) EndWait(id fuse.WaitID, e syscall.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.endWaits(e, func(l memLock) bool { return l.wait.ID() == id })
}

func (m *Mem) endWaits(e syscall.Errno, which func(memLock) bool) {
	m.waits = slices.DeleteFunc(m.waits, func(l memLock) bool {
		gone := which(l)
		if gone {
			l.wait.Answer(e)
		}
		return gone
	})
}

// DropLocks drops an owner's POSIX locks.
func (m *Mem) DropLocks(_ *fuse.Context, id fuse.NodeID, owner uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.locks = slices.DeleteFunc(m.locks, func(l memLock) bool { return l.node == id && !l.Flock && l.Owner == owner })
	m.grant()
	return nil
}

// DropHandleLocks drops what was locked through a handle.
func (m *Mem) DropHandleLocks(_ *fuse.Context, _ fuse.NodeID, h fuse.Handle) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	through := func(l memLock) bool { return l.handle == h }
	m.endWaits(syscall.EBADF, through)
	m.locks = slices.DeleteFunc(m.locks, through)
	m.grant()
	return nil
}
