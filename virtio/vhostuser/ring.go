package vhostuser

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"vfiofs/internal/fd"
	"vfiofs/virtio/virtq"
)

// Alignment in bytes of the parts of a ring (virtio 1.3, 2.7).
const (
	descAlign  = 16
	availAlign = 2
	usedAlign  = 4
)

// A ring is what the front-end has said about one virtqueue. It is started from the
// first kick with a full configuration until GET_VRING_BASE or a reset, and runs
// while it is also enabled and sound.
type ring struct {
	index int
	log   *slog.Logger

	size    int       // descriptors; 0 before SET_VRING_NUM
	addr    VringAddr // where its parts are
	placed  bool      // addr is set
	base    uint16    // next available index, while the ring isn't running
	enabled bool      // by SET_VRING_ENABLE
	kick    *fd.FD    // nil while stopped

	call, err bell
	failed    atomic.Bool // set by the device, from its own thread

	queue *virtq.Queue // not nil while the device runs the ring
}

// started reports whether the ring has everything it needs but, perhaps, permission
// to run.
func (r *ring) started() bool { return r.kick != nil && r.size > 0 && r.placed }

// parts returns the ring's memory. Room for the event indices is demanded whether
// they are used or not, as virtio 1.3, 2.7 does.
func (r *ring) parts(m *memory, a VringAddr) (desc, avail, used []byte, err error) {
	if desc, err = m.at(a.Desc, 16*r.size); err != nil {
		return nil, nil, nil, fmt.Errorf("descriptor table: %w", err)
	}
	if avail, err = m.at(a.Avail, 6+2*r.size); err != nil {
		return nil, nil, nil, fmt.Errorf("available ring: %w", err)
	}
	if used, err = m.at(a.Used, 6+8*r.size); err != nil {
		return nil, nil, nil, fmt.Errorf("used ring: %w", err)
	}
	return desc, avail, used, nil
}

// fail is virtio.Ring.Fail.
func (r *ring) fail(cause error) {
	r.failed.Store(true)
	r.log.Warn("ring is broken", "ring", r.index, "err", cause)
	if err := r.err.Notify(); err != nil {
		r.log.Warn("broken ring could not be reported", "ring", r.index, "err", err)
	}
}

// setKick gives the ring a new kick, or none, and another chance if it was broken.
func (r *ring) setKick(kick *fd.FD) {
	r.kick.Close()
	r.kick = kick
	r.failed.Store(false)
}

// forget drops all that the front-end has said about the ring.
func (r *ring) forget() error {
	r.setKick(nil)
	r.size, r.placed, r.addr, r.base, r.enabled = 0, false, VringAddr{}, 0, false
	return errors.Join(r.call.set(nil), r.err.set(nil))
}

// A bell is what a device holds for as long as its ring runs, while the front-end
// exchanges the Bell behind it. Its lock is held for one Notify at most, and a Notify
// never blocks. A ring may run before it has its bell (fs-device.md B.6), so a Notify in
// silence is made up for.
type bell struct {
	mu     sync.Mutex
	to     Bell // nil: silence
	missed bool // somebody rang in silence
}

// Notify rings the current bell.
func (b *bell) Notify() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.to == nil {
		b.missed = true
		return nil
	}
	return b.to.Notify()
}

// set exchanges the bell and closes the old one.
func (b *bell) set(to Bell) (err error) {
	b.mu.Lock()
	old := b.to
	b.to = to
	if b.missed && to != nil {
		err = to.Notify()
	}
	b.missed = false
	b.mu.Unlock()
	if old != nil {
		err = errors.Join(err, old.Close())
	}
	return err
}
