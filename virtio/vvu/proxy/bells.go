package proxy

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
)

// doorbell is a write to doorbell n: call of a vring, err of a vring, or log
// (virtio-vhost-user.md 7.1). Without an eventfd behind it, it means nothing.
func (d *Device) doorbell(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.peer
	if s == nil {
		return
	}
	switch vrings := len(s.vrings); {
	case n < vrings:
		d.ringer.ring(s.vrings[n].call)
	case n < 2*vrings:
		d.ringer.ring(s.vrings[n-vrings].err)
	case n == 2*vrings:
		d.ringer.ring(s.log)
	}
}

// patience is how long an eventfd may hold up a register access.
const patience = 20 * time.Millisecond

// A ringer adds 1 to eventfds of a sibling. That may block: whether it does is up to the
// flags of the descriptor, which are the sibling's to change at any time, and to the
// counter, which the sibling can fill up. A timer takes the counter back then, which is
// the sibling's loss.
type ringer struct {
	timer *time.Timer

	mu    sync.Mutex // guards event; whoever closes it does so after ring
	event *fd.FD     // being rung, or nil
}

// newRinger returns a ringer at rest.
func newRinger() *ringer {
	r := new(ringer)
	r.mu.Lock() // timer is set before rescue can look at it
	defer r.mu.Unlock()
	r.timer = time.AfterFunc(patience, r.rescue)
	r.timer.Stop()
	return r
}

// ring adds 1 to an eventfd, if there is one. A counter that is full already wakes who
// waits for it.
func (r *ringer) ring(event *fd.FD) {
	if event == nil {
		return
	}
	r.set(event)
	r.timer.Reset(patience)
	event.Signal()
	r.timer.Stop()
	r.set(nil)
}

func (r *ringer) set(event *fd.FD) {
	r.mu.Lock()
	r.event = event
	r.mu.Unlock()
}

// rescue makes room in the counter, and comes back until ring has got through.
func (r *ringer) rescue() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.event == nil {
		return
	}
	if !writable(r.event) {
		newSink().drain(r.event)
	}
	r.timer.Reset(time.Millisecond)
}

// writable reports whether a write to an eventfd would pass without waiting.
func writable(event *fd.FD) bool {
	p := []unix.PollFd{{Fd: int32(event.Int()), Events: unix.POLLOUT}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1
}
