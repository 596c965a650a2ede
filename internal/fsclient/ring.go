package fsclient

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtq"
)

// What comes before the payload in a request and a reply (linux/fuse.h).
const (
	InHead  = 80 // fuse_in_header and fuse_write_in
	OutHead = 16 // fuse_out_header
)

// maxSegs is the number of descriptors of a chain: head and payload, in and out.
const maxSegs = 4

// A Slot is shared memory for one request and its reply. Payload, that is In[InHead:]
// and Out[OutHead:], begins on a page.
type Slot struct {
	In  []byte // the request: written by the caller, read by the backend
	Out []byte // the reply: the other way round
	ID  int    // the caller's own

	in, out guestmem.GPA
	table   []byte // of indirect descriptors
	tableAt guestmem.GPA
}

// newSlot cuts a slot out of mem at offset off: a page with the table and the head of
// In, data bytes, a page with the head of Out, data bytes.
func newSlot(mem *vhostuser.GuestMemory, off, page, data int) *Slot {
	cut := func(from, n int) ([]byte, guestmem.GPA) {
		return mem.Mem[from : from+n : from+n], mem.GPA + guestmem.GPA(from)
	}
	s := new(Slot)
	s.table, s.tableAt = cut(off, maxSegs*16)
	s.In, s.in = cut(off+page-InHead, InHead+data)
	s.Out, s.out = cut(off+page+data+page-OutHead, OutHead+data)
	return s
}

// A Ring is one ring of the device. Its methods belong to one goroutine at a time and
// allocate nothing.
type Ring struct {
	q        *vhostuser.GuestRing
	hup      *fd.FD
	slots    []*Slot // by head: those that the backend has
	indirect bool
	read     [2]virtq.Seg
	write    [2]virtq.Seg
}

// Submit puts the request in the first in bytes of s.In into the ring, with out bytes
// of s.Out for the reply; 0 if it has none. The backend sees it after Publish. It
// reports false if the ring is full: Reap first.
func (r *Ring) Submit(s *Slot, in, out int) bool {
	read := split(&r.read, s.in, in, InHead)
	write := split(&r.write, s.out, out, OutHead)
	var head uint16
	var ok bool
	if r.indirect && len(read)+len(write) > 1 {
		head, ok = r.q.AddIndirect(read, write, s.table, s.tableAt)
	} else {
		head, ok = r.q.Add(read, write)
	}
	if ok {
		r.slots[head] = s
	}
	return ok
}

// split describes n bytes at addr: a head and, if there are more, payload.
func split(segs *[2]virtq.Seg, addr guestmem.GPA, n, head int) []virtq.Seg {
	switch {
	case n == 0:
		return nil
	case n <= head:
		segs[0] = virtq.Seg{Addr: addr, Len: uint32(n)}
		return segs[:1]
	}
	segs[0] = virtq.Seg{Addr: addr, Len: uint32(head)}
	segs[1] = virtq.Seg{Addr: addr + guestmem.GPA(head), Len: uint32(n - head)}
	return segs[:]
}

// Publish shows the backend what was submitted, and kicks it if it wants to be.
func (r *Ring) Publish() error {
	if !r.Show() {
		return nil
	}
	return r.Kick()
}

// Show is Publish without the system call: it reports whether a Kick has to follow,
// which may be done from another goroutine, without the lock that guards the ring.
func (r *Ring) Show() (kick bool) {
	r.q.Publish()
	return r.q.NeedKick()
}

// Kick kicks the backend.
func (r *Ring) Kick() error { return r.q.Kick.Signal() }

// Reap takes one completed request: n bytes of its reply were written. ok is false if
// there is none, or if the backend broke the ring, see Err.
func (r *Ring) Reap() (s *Slot, n int, ok bool) {
	head, written, ok := r.q.Used()
	if !ok {
		return nil, 0, false
	}
	s, r.slots[head] = r.slots[head], nil
	return s, int(written), true
}

// Err returns how the backend broke the ring, or nil.
func (r *Ring) Err() error { return r.q.Err() }

// Outstanding returns the number of requests that the backend has.
func (r *Ring) Outstanding() int { return r.q.Outstanding() }

// Pending reports whether Reap has something to return or to complain about. A client
// that polls calls Disarm once and then this.
func (r *Ring) Pending() bool { return r.q.Pending() }

// Arm asks for a call at the next completion. If pending is true there is one already
// and the call may not come.
func (r *Ring) Arm() (pending bool) { return r.q.ArmCalls() }

// Disarm asks for no calls. With VIRTIO_RING_F_EVENT_IDX that holds for the next 32768
// completions.
func (r *Ring) Disarm() { r.q.DisarmCalls() }

// Call returns the eventfd of calls, for epoll: arm, look, wait. Edge-triggered it need
// not be read.
func (r *Ring) Call() int { return r.q.Call.Int() }

// Wait waits for a completion. The error is ErrGone when the backend is gone and
// nothing is left to reap, and os.ErrDeadlineExceeded after the timeout; a negative
// timeout is none.
func (r *Ring) Wait(timeout time.Duration) error {
	end := time.Now().Add(timeout)
	for !r.Arm() {
		if err := r.Err(); err != nil {
			return err
		}
		left := -1
		if timeout >= 0 {
			d := time.Until(end)
			if d <= 0 {
				return os.ErrDeadlineExceeded
			}
			left = int(d.Milliseconds()) + 1
		}
		p := [2]unix.PollFd{
			{Fd: int32(r.q.Call.Int()), Events: unix.POLLIN},
			{Fd: int32(r.hup.Int()), Events: unix.POLLRDHUP},
		}
		if _, err := unix.Poll(p[:], left); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for ring %d: %w", r.q.Index, err)
		}
		r.q.Call.Drain()
		if p[1].Revents != 0 && !r.Pending() {
			return ErrGone
		}
	}
	return nil
}
