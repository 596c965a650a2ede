package fuse

import (
	"errors"
	"math"
	"syscall"
)

// Handlers of locks (fs-device.md D.3; fcntl(2), flock(2)).

// A Lock is a lock on a file, or on a part of it.
type Lock struct {
	// Owner is whose lock it is: for a POSIX lock the guest process (its table of
	// files), or the open file if the guest set an OFD lock. Handle has no part in that.
	Owner      uint64
	Start, End uint64 // first and last byte; End is math.MaxInt64 for the rest of the file
	Type       LockType
	PID        uint32 // the guest process, 0 if it is not known
	// Flock makes it a lock of flock(2): owned by the handle, on the whole file.
	Flock bool
}

// takeLock reads the lock of a request, if its kind was negotiated.
func (t *Thread) takeLock(r *Request) (h Handle, err error) {
	in, _, _ := take[LkIn](r.args)
	t.lock = Lock{
		Owner: in.Owner, Start: in.Start, End: in.End, Type: in.Type, PID: in.PID,
		Flock: in.Flags&LkFlock != 0,
	}
	need := PosixLocks
	if t.lock.Flock {
		need = FlockLocks
	}
	switch {
	case t.s.flags&need == 0:
		return 0, ErrNotImplemented
	case in.Type > LockNone, in.Start > in.End, in.End > math.MaxInt64:
		return 0, syscall.EINVAL
	}
	return in.Handle, nil
}

func (t *Thread) getLock(r *Request) (int, error) {
	h, err := t.takeLock(r)
	switch {
	case err != nil:
		return 0, err
	case t.lock.Flock, t.lock.Type == LockNone:
		return 0, syscall.EINVAL
	}
	if err := t.s.fs.GetLock(&t.ctx, r.head.Node, h, &t.lock); err != nil {
		return 0, err
	}
	t.out.lock = LkOut{Start: t.lock.Start, End: t.lock.End, Type: t.lock.Type, PID: t.lock.PID}
	return put(r, &t.out.lock), nil
}

// setLock is SETLK and SETLKW. One that waits and cannot be parked is refused.
func (t *Thread) setLock(r *Request) (int, error) {
	h, err := t.takeLock(r)
	if err != nil {
		return 0, err
	}
	if r.head.Opcode == OpSetLk || t.lock.Type == LockNone {
		return 0, t.s.fs.SetLock(&t.ctx, r.head.Node, h, &t.lock, nil)
	}
	if r.Wake == nil {
		err := t.s.fs.SetLock(&t.ctx, r.head.Node, h, &t.lock, nil)
		if errors.Is(err, syscall.EAGAIN) {
			err = syscall.ENOLCK
		}
		return 0, err
	}
	w, interrupted := t.s.parking.begin(r)
	if interrupted {
		w.Answer(syscall.EINTR)
		return 0, ErrParked
	}
	t.wait = w
	err = t.s.fs.SetLock(&t.ctx, r.head.Node, h, &t.lock, &t.wait)
	if err != ErrParked {
		t.s.parking.end(w)
		return 0, err
	}
	if t.s.parking.interrupted(w) {
		t.s.fs.EndWait(w.id, syscall.EINTR)
	}
	return 0, ErrParked
}
