package fusetest

import (
	"errors"
	"math"
	"syscall"

	"vfiofs/fuse"
)

// needs skips the test when INIT did not agree on flags.
func (s *suite) needs(flags fuse.InitFlags, what string) {
	s.Helper()
	if s.c.Flags&flags != flags {
		s.Skipf("%s: not offered", what)
	}
}

// A locker is a guest process with a file open.
type locker struct {
	s     *suite
	f     fuse.CreateOut
	owner uint64
	flock bool
}

// set checks what a lock from start to end is answered.
func (l locker) set(typ fuse.LockType, start, end uint64, want syscall.Errno) {
	l.s.Helper()
	lk := fuse.Lock{Owner: l.owner, Start: start, End: end, Type: typ, PID: uint32(l.owner), Flock: l.flock}
	l.s.check(l.s.c.SetLock(l.f.Entry.Node, l.f.Open.Handle, lk, false), want, "SetLock(owner %d, type %d, %d to %d)", l.owner, typ, start, end)
}

// sees checks what keeps a lock from start to end from being set.
func (l locker) sees(typ fuse.LockType, start, end uint64, want fuse.LkOut) {
	l.s.Helper()
	lk := fuse.Lock{Owner: l.owner, Start: start, End: end, Type: typ}
	got, err := l.s.c.GetLock(l.f.Entry.Node, l.f.Open.Handle, lk)
	l.s.check(err, 0, "GetLock()")
	if want.Type == fuse.LockNone {
		got.Start, got.End, got.PID = 0, 0, 0 // say nothing
	}
	equal(l.s, "GetLock()", got, want)
}

const eof = uint64(math.MaxInt64)

func (s *suite) posixLocks() {
	s.needs(fuse.PosixLocks, "POSIX locks")
	f := s.create("f", "")
	a, b := locker{s: s, f: f, owner: 7}, locker{s: s, f: f, owner: 8}
	free := fuse.LkOut{Type: fuse.LockNone}

	a.set(fuse.LockWrite, 10, 19, 0)
	b.set(fuse.LockRead, 19, 30, syscall.EAGAIN)
	b.set(fuse.LockRead, 20, 30, 0)
	b.sees(fuse.LockRead, 0, eof, fuse.LkOut{Start: 10, End: 19, Type: fuse.LockWrite, PID: 7})
	b.sees(fuse.LockWrite, 0, 9, free)
	a.sees(fuse.LockRead, 0, eof, free)
	a.sees(fuse.LockWrite, 0, eof, fuse.LkOut{Start: 20, End: 30, Type: fuse.LockRead, PID: 8})

	a.set(fuse.LockRead, 12, 14, 0) // a lesser one, in the middle
	b.set(fuse.LockRead, 12, 14, 0)
	b.set(fuse.LockRead, 11, 14, syscall.EAGAIN)
	a.set(fuse.LockWrite, 12, 14, syscall.EAGAIN) // and back: shared by now
	a.set(fuse.LockNone, 0, 11, 0)
	b.set(fuse.LockWrite, 0, 11, 0)
	a.set(fuse.LockWrite, 31, eof, 0)
	b.set(fuse.LockWrite, eof, eof, syscall.EAGAIN)

	// A process that closes any descriptor of the file loses its locks on it.
	s.check(s.c.FlushOwner(f.Entry.Node, f.Open.Handle, a.owner), 0, "Flush()")
	b.set(fuse.LockWrite, 0, eof, 0)
	a.set(fuse.LockRead, 5, 5, syscall.EAGAIN)
	b.set(fuse.LockNone, 0, eof, 0)
	a.set(fuse.LockWrite, 0, eof, 0)

	// What was locked through a handle ends with it: OFD locks of the guest.
	h, err := s.c.Open(f.Entry.Node, syscall.O_RDWR)
	s.check(err, 0, "Open()")
	s.check(s.c.Release(f.Entry.Node, f.Open.Handle), 0, "Release()")
	b.f.Open.Handle = h.Handle
	b.set(fuse.LockWrite, 0, eof, 0)

	lk := fuse.Lock{Owner: 1, End: 5, Type: fuse.LockWrite}
	s.check(s.c.SetLock(f.Entry.Node, f.Open.Handle, lk, false), syscall.EBADF, "SetLock(released handle)")
	for name, bad := range map[string]fuse.Lock{
		"type 3":         {End: 5, Type: 3},
		"end past limit": {End: 1 << 63},
		"backwards":      {Start: 6, End: 5},
	} {
		s.check(s.c.SetLock(f.Entry.Node, h.Handle, bad, false), syscall.EINVAL, "SetLock(%s)", name)
		_, err := s.c.GetLock(f.Entry.Node, h.Handle, bad)
		s.check(err, syscall.EINVAL, "GetLock(%s)", name)
	}
}

func (s *suite) flock() {
	s.needs(fuse.FlockLocks, "flock")
	f := s.create("f", "")
	g := f
	h, err := s.c.Open(f.Entry.Node, syscall.O_RDONLY)
	s.check(err, 0, "Open()")
	g.Open.Handle = h.Handle
	// The owner means nothing: the open file has the lock.
	a, b := locker{s: s, f: f, owner: 1, flock: true}, locker{s: s, f: g, owner: 1, flock: true}
	a.set(fuse.LockWrite, 0, eof, 0)
	b.set(fuse.LockRead, 0, eof, syscall.EAGAIN)
	a.set(fuse.LockRead, 0, eof, 0)
	b.set(fuse.LockRead, 0, eof, 0)
	b.set(fuse.LockWrite, 0, eof, syscall.EAGAIN)
	a.set(fuse.LockNone, 0, eof, 0)
	b.set(fuse.LockWrite, 0, eof, 0)
	a.set(fuse.LockWrite, 0, eof, syscall.EAGAIN)
	if s.c.Flags&fuse.PosixLocks != 0 { // the two kinds do not meet
		locker{s: s, f: f, owner: 3}.set(fuse.LockWrite, 0, eof, 0)
	}
	s.check(s.c.Release(f.Entry.Node, h.Handle), 0, "Release()")
	a.set(fuse.LockWrite, 0, eof, 0)
	_, err = s.c.GetLock(f.Entry.Node, f.Open.Handle, fuse.Lock{Flock: true, End: eof})
	if !errors.Is(err, syscall.EINVAL) {
		s.Errorf("GetLock(flock) = %v; want EINVAL", err)
	}
}
