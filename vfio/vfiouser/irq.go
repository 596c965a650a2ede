package vfiouser

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/vfio"
)

// irqKinds is the number of kinds of interrupts of a PCI function.
const irqKinds = int(vfio.Req) + 1

// irqs are the interrupts of a function, on the server's side.
type irqs struct {
	mu    sync.Mutex
	kinds [irqKinds][]vector
}

// A vector is one interrupt.
type vector struct {
	event   *fd.FD // nil: the client doesn't listen
	masked  bool
	pending bool // raised while masked
}

// trigger raises one interrupt.
func (q *irqs) trigger(kind vfio.IRQ, n int) {
	if kind < 0 || int(kind) >= irqKinds {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if vectors := q.kinds[kind]; n >= 0 && n < len(vectors) {
		vectors[n].raise()
	}
}

// raise signals the eventfd, or remembers to do so.
func (v *vector) raise() {
	switch {
	case v.event == nil:
	case v.masked:
		v.pending = true
	case writable(v.event):
		// An error is the client's: it gave something that is no eventfd.
		v.event.Signal()
	}
}

// writable reports whether a write would pass without waiting. The flags of an eventfd
// are the client's; a full one has a signal to read.
func writable(f *fd.FD) bool {
	p := []unix.PollFd{{Fd: int32(f.Int()), Events: unix.POLLOUT}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&unix.POLLOUT != 0
}

// listen exchanges the eventfd, which it owns. nil: none.
func (v *vector) listen(event *fd.FD) {
	v.event.Close()
	v.event, v.pending = event, false
}

// mask holds interrupts back or lets them go on.
func (v *vector) mask(on bool) {
	v.masked = on
	if !on && v.pending {
		v.pending = false
		v.raise()
	}
}

// set is SET_IRQS. It takes the descriptors that it keeps out of m.
func (q *irqs) set(s irqSet, m *message) error {
	if s.index >= uint32(irqKinds) {
		return fmt.Errorf("interrupts of kind %d", s.index)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	vectors := q.kinds[s.index]
	if uint64(s.start)+uint64(s.count) > uint64(len(vectors)) {
		return fmt.Errorf("vectors %d to %d of %d", s.start, uint64(s.start)+uint64(s.count), len(vectors))
	}
	if err := s.check(len(m.files)); err != nil {
		return err
	}
	if s.count == 0 { // all of them off
		for i := range vectors {
			vectors[i].listen(nil)
		}
		return nil
	}
	for i := range vectors[s.start:][:s.count] {
		v := &vectors[int(s.start)+i]
		if s.flags&irqEvents != 0 {
			var event *fd.FD
			if len(m.files) > 0 {
				event = m.take(i)
			}
			v.listen(event)
			continue
		}
		if s.flags&irqBool != 0 && s.data[i] == 0 {
			continue
		}
		switch {
		case s.flags&irqTrigger != 0:
			v.raise()
		default:
			v.mask(s.flags&irqMask != 0)
		}
	}
	return nil
}

// check reports an error unless the parts of s fit together and to the number of
// descriptors that came along.
func (s *irqSet) check(files int) error {
	wantFiles, wantData := 0, 0
	switch data, action := s.flags&(irqMask-1), s.flags&^(irqMask-1); {
	case action != irqTrigger && action != irqMask && action != irqUnmask,
		data != irqNone && data != irqBool && data != irqEvents:
		return fmt.Errorf("flags %#x", s.flags)
	case s.count == 0 && (s.flags != irqNone|irqTrigger || s.start != 0):
		return fmt.Errorf("flags %#x for no vector", s.flags)
	case data == irqEvents && action != irqTrigger:
		return fmt.Errorf("masking by eventfd: %w", unix.ENOTSUP)
	case data == irqEvents && files > 0:
		wantFiles = int(s.count)
	case data == irqBool:
		wantData = int(s.count)
	}
	if len(s.data) != wantData || files != wantFiles {
		return fmt.Errorf("%d bytes of data and %d descriptors for %d vectors", len(s.data), files, s.count)
	}
	return nil
}

// reset unmasks all vectors and forgets what is pending. Eventfds stay, as at a reset
// of a real function.
func (q *irqs) reset() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, vectors := range q.kinds {
		for i := range vectors {
			vectors[i].masked, vectors[i].pending = false, false
		}
	}
}

// end closes all eventfds. Interrupts do nothing from now on.
func (q *irqs) end() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	var errs []error
	for kind, vectors := range q.kinds {
		for i := range vectors {
			errs = append(errs, vectors[i].event.Close())
		}
		q.kinds[kind] = nil
	}
	return errors.Join(errs...)
}
