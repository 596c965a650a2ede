package vvu

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/vfio"
	"vfiofs/virtio/virtiopci"
)

// pollTime is how often a ring that has no interrupt is looked at.
const pollTime = time.Millisecond

// vectors say which interrupt stands for what.
type vectors struct {
	rx, tx, config int
	rings          []int // by ring, virtiopci.NoVector for one that is polled
	count          int   // that are used
}

// queues returns the interrupts of the device's own queues and its status.
func (v *vectors) queues() []int {
	all := []int{v.rx, v.tx, v.config}
	slices.Sort(all)
	return slices.Compact(all)
}

// plan distributes n interrupts: each its own, as far as they go
// (virtio-vhost-user.md 2.3). Rings can share one, since a ring that has nothing to do
// doesn't mind being woken, but not with the queues, whose interrupts are drained.
func plan(rings, n int) (vectors, error) {
	if n < 2 {
		return vectors{}, fmt.Errorf("device has %d MSI-X vectors; at least 2 are needed", n)
	}
	v := vectors{rings: make([]int, rings), count: min(n, rings+3)}
	first := 1
	if n > 2 {
		v.tx, first = 1, 2
	}
	last := v.count - 1
	if n >= rings+3 {
		v.config = last
		last--
	}
	for i := range v.rings {
		v.rings[i] = min(first+i, last)
	}
	return v, nil
}

// alone reports whether an interrupt stands for the kicks of one ring and nothing else.
func (v *vectors) alone(vector int) bool {
	n := 0
	for _, at := range v.rings {
		if at == vector {
			n++
		}
	}
	return n == 1 && !slices.Contains(v.queues(), vector)
}

// listen has all interrupts signal eventfds.
func (d *Driver) listen(rings int) error {
	n, err := d.dev.Vectors(vfio.MSIX)
	if err != nil {
		return fmt.Errorf("interrupts: %w", err)
	}
	if d.vectors, err = plan(rings, n); err != nil {
		return err
	}
	for i := range d.vectors.count {
		e, err := fd.NewEvent(fmt.Sprintf("interrupt %d", i))
		if err != nil {
			return err
		}
		d.events = append(d.events, e)
	}
	if err := d.dev.SetIRQs(vfio.MSIX, d.events); err != nil {
		return fmt.Errorf("switch %d interrupts on: %w", len(d.events), err)
	}
	return nil
}

// program tells the device which interrupt stands for the kicks of each ring. A ring
// for which it has none is polled from then on.
func (d *Driver) program() error {
	polled := d.notifications == nil
	for i, vector := range d.vectors.rings {
		if d.notifications == nil {
			break
		}
		d.notifications.Write16(notifySelect, uint16(i))
		if got := d.notifications.Read16(notifySelect); int(got) != i {
			return fmt.Errorf("device refuses to select ring %d: it reads %d", i, got)
		}
		d.notifications.Write16(notifyVector, uint16(vector))
		switch got := d.notifications.Read16(notifyVector); {
		case got == virtiopci.NoVector:
			polled = true
		case int(got) != vector:
			return fmt.Errorf("device refuses vector %d for ring %d: it reads %#x", vector, i, got)
		}
	}
	if polled && !d.polling {
		d.log.Warn("device has no interrupt for some rings: all are polled", "every", pollTime)
		d.polling = true
		d.background.Go(d.poll)
	}
	return nil
}

// poll signals the interrupts of all rings from time to time.
func (d *Driver) poll() {
	t := time.NewTicker(pollTime)
	defer t.Stop()
	for {
		select {
		case <-d.done:
			return
		case <-t.C:
		}
		for _, v := range d.vectors.rings {
			if err := d.events[v].Signal(); err != nil {
				d.log.Warn("ring can't be polled", "err", err)
			}
		}
	}
}

// waiter wakes whoever waits for the device when an interrupt has come.
func (d *Driver) waiter(vector int) error {
	n, err := duplicate(d.events[vector])
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(n), d.events[vector].String())
	d.waiters = append(d.waiters, f)
	d.background.Go(func() {
		var count [8]byte
		for {
			if _, err := f.Read(count[:]); err != nil {
				return // closed
			}
			d.poke()
		}
	})
	return nil
}

// duplicate makes another descriptor of an eventfd.
func duplicate(e *fd.FD) (int, error) {
	n, err := unix.FcntlInt(uintptr(e.Int()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("duplicate %s: %w", e, err)
	}
	return n, nil
}

// poke makes wait return, now or when it is called next.
func (d *Driver) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// wait waits until there is a reason to look at the queues and the status.
func (d *Driver) wait(ctx context.Context) error {
	select {
	case <-d.wake:
		return nil
	case <-d.gone:
		return ErrGone
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
