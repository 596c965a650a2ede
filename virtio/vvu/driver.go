// Package vvu drives a virtio-vhost-user PCI function: the vhost-user protocol of a
// sibling VM arrives in a queue, its memory is a BAR, its bells are interrupts and
// doorbells.
//
//	sibling's VMM ──unix socket──► device (proxy)        this process
//	   messages                ──rx queue──────────────► Link.Recv ┐
//	                           ◄─tx queue──────────────── Link.Send │
//	   memory                  ──BAR─────────────────────► Link.Map ├─► vhostuser.Backend
//	   kick eventfd            ──interrupt 2+i─► eventfd ► Link.Kick│
//	   call eventfd            ◄─doorbell i────────────── Link.Bell ┘
//
// A device behind a vfio-user socket may give the eventfds themselves away: then there is
// no device on the way of kicks and calls (Link.Kick, Link.Bell).
//
// A Driver lives as long as the function does and makes one Link per connection of the
// sibling: Accept programs the notifications, says that we are ready, and waits. If the
// device is in a state that can't be trusted (a broken queue, NEEDS_RESET, messages of
// an old connection that it still has), Accept starts it anew.
//
// Every wait ends with the context or with the device. Interrupts only wake: whoever
// waits looks at the queues and the status afterwards, and once a second in any case.
//
// Ownership: a Driver borrows the vfio.Device; it owns the DMA memory of its two queues
// and the eventfds of all interrupts. A Link belongs to one session at a time, and to
// no one once the next has been accepted. Mappings are pieces of the BAR, which stays
// mapped as long as the device. There are no locks: one goroutine uses the queues, and
// all others only read registers, ring doorbells or signal.
//
// Spec: virtio-vhost-user.md; virtio 1.3, 2.7 and 4.1.
package vvu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"vfiofs/internal/fd"
	"vfiofs/vfio"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtiopci"
)

// ErrGone says that the device does not answer any more. Nothing brings it back but a
// new one.
var ErrGone = virtiopci.ErrGone

// Options adjusts a Driver. All but Rings may be zero.
type Options struct {
	Rings   int          // that the sibling's device has
	MemRule MemRule      // RuleAuto: whatever the device is known to follow
	Log     *slog.Logger // nil discards

	watch time.Duration // how often to look at the device, 0 for a second
}

// A Driver drives one function.
type Driver struct {
	*function
	dev   vfio.Device
	log   *slog.Logger
	regs  *virtiopci.Driver
	arena *vfio.Arena
	rx    queue
	tx    queue

	vectors vectors
	events  []*fd.FD   // by interrupt
	waiters []*os.File // duplicates of those that wake
	wake    chan struct{}

	epoch   int  // number of the connection
	polling bool // rings are polled

	background sync.WaitGroup
	done       chan struct{} // closed by Close, for the background
	gone       chan struct{}
	lose       func() // closes gone
}

// Open takes a function into use. dev stays the caller's, and must live longer than the
// Driver.
func Open(ctx context.Context, dev vfio.Device, opt Options) (_ *Driver, err error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.watch == 0 {
		opt.watch = time.Second
	}
	d := &Driver{
		dev: dev, log: opt.Log,
		wake: make(chan struct{}, 1), done: make(chan struct{}), gone: make(chan struct{}),
	}
	d.lose = sync.OnceFunc(func() { close(d.gone) })
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if d.function, err = locate(dev, opt.MemRule); err != nil {
		return nil, err
	}
	if opt.Rings > d.maxRings {
		return nil, fmt.Errorf("device has %d rings; %d are needed: ask for fewer request queues", d.maxRings, opt.Rings)
	}
	if err = d.measure(); err != nil {
		return nil, err
	}
	if d.regs, err = virtiopci.NewDriver(dev, d.caps); err != nil {
		return nil, err
	}
	if err = d.listen(opt.Rings); err != nil {
		return nil, err
	}
	if err = d.allocate(); err != nil {
		return nil, err
	}
	if err = d.start(ctx); err != nil {
		return nil, err
	}
	for _, v := range d.vectors.queues() {
		if err = d.waiter(v); err != nil {
			return nil, err
		}
	}
	d.background.Go(func() { d.watch(opt.watch) })
	d.log.Info("device ready", "rings", d.maxRings, "memory rule", d.rule, "window", len(d.window))
	return d, nil
}

// allocate makes the memory of both queues.
func (d *Driver) allocate() (err error) {
	rx, tx := queueMemory(rxSize), queueMemory(txSize)
	if d.arena, err = vfio.NewArena(d.dev, rx+tx); err != nil {
		return fmt.Errorf("memory for the queues: %w", err)
	}
	mem := d.arena.Mem
	d.rx = queue{index: rxIndex, mem: mem[:rx:rx], iova: d.arena.IOVA, size: rxSize, device: true}
	d.tx = queue{index: txIndex, mem: mem[rx : rx+tx], iova: d.arena.IOVA + vfio.IOVA(rx), size: txSize}
	return nil
}

// start brings the device from any state to one in which it waits for BACKEND_UP
// (virtio-vhost-user.md 8.1).
func (d *Driver) start(ctx context.Context) error {
	if err := d.regs.Reset(ctx); err != nil {
		return err
	}
	features, err := d.regs.Begin(virtiopci.FeatureVersion1, virtiopci.FeatureAccessPlatform)
	if err != nil {
		return err
	}
	// A device model of QEMU that doesn't offer the feature takes what we give it for
	// physical addresses. In vfio-user all addresses are IOVAs (virtio-vhost-user.md 9.1).
	if features&virtiopci.FeatureAccessPlatform == 0 && !d.extended {
		return errors.New("device does not offer ACCESS_PLATFORM: it would bypass the IOMMU and hit wrong memory; give it iommu_platform=on")
	}
	if err := d.regs.SetConfigVector(d.vectors.config); err != nil {
		return err
	}
	for _, q := range []struct {
		*queue
		vector int
	}{{&d.rx, d.vectors.rx}, {&d.tx, d.vectors.tx}} {
		n, err := d.regs.QueueSize(q.index)
		if err != nil {
			return err
		}
		setup, err := q.reset(n)
		if err != nil {
			return err
		}
		setup.Vector = uint16(q.vector)
		if q.notify, err = d.regs.SetQueue(q.index, setup); err != nil {
			return err
		}
	}
	d.rx.fill()
	d.tx.ring.DisarmCalls()
	d.regs.Enable(rxIndex)
	d.regs.Enable(txIndex)
	if err := d.regs.Finish(); err != nil {
		return err
	}
	d.kick(&d.rx)
	return nil
}

// kick tells the device about buffers of q, if it wants to know.
func (d *Driver) kick(q *queue) {
	if q.ring.NeedKick() {
		d.regs.Notify(q.index, q.notify)
	}
}

// Accept waits for the next connection of a sibling. The Link of the one before must be
// closed. It returns ErrGone when the device is lost, and ctx's cause when that ends.
func (d *Driver) Accept(ctx context.Context) (vhostuser.Link, error) {
	armed := false
	for {
		fresh := !armed
		if fresh {
			if err := d.arm(ctx); err != nil {
				// A device that is gone refuses everything; say that it is gone.
				if _, gone := d.look(); gone != nil {
					err = gone
				}
				return nil, err
			}
			armed = true
		}
		s, err := d.look()
		switch {
		case err != nil:
			return nil, err
		case d.rx.ring.Pending() || s.front:
			d.epoch++
			return &link{d: d, epoch: d.epoch, placer: placer{rule: d.rule, window: uint64(len(d.window))}}, nil
		case s.failed || !s.back:
			// Someone came and left, or the device wants a reset; but not without end.
			armed = false
			if !fresh {
				continue
			}
		}
		if err := d.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// arm lets the next front-end connect. Nothing of an earlier connection is left then:
// what the device had to say is dropped, and a reply that it still holds would go to
// the wrong front-end.
func (d *Driver) arm(ctx context.Context) error {
	d.tx.reclaim()
	for {
		k, _, ok := d.rx.used()
		if !ok {
			break
		}
		d.rx.put(k, rxSize)
	}
	s, err := d.look()
	if err != nil {
		return err
	}
	if s.failed || d.tx.ring.Outstanding() > 0 || d.rx.ring.Err() != nil || d.tx.ring.Err() != nil {
		d.log.Debug("device is started anew")
		if err := d.start(ctx); err != nil {
			return err
		}
	}
	d.kick(&d.rx)
	// The device may have forgotten them (virtio-vhost-user.md 7.2).
	if err := d.program(); err != nil {
		return err
	}
	status := d.config.Read32(configStatus)
	d.config.Write32(configStatus, status|backendUp)
	return nil
}

// Close ends the connection, resets the device and gives everything back. It is called
// once.
func (d *Driver) Close() error {
	close(d.done)
	var errs []error
	for _, f := range d.waiters {
		errs = append(errs, f.Close())
	}
	d.background.Wait()
	if d.regs != nil {
		d.hangUp()
		switch err := d.regs.Reset(context.Background()); {
		case errors.Is(err, ErrGone):
			d.lose()
		case err != nil:
			errs = append(errs, err)
		}
	}
	if d.events != nil {
		if err := d.dev.SetIRQs(vfio.MSIX, nil); err != nil && !d.lost() {
			errs = append(errs, fmt.Errorf("switch interrupts off: %w", err))
		}
		for _, e := range d.events {
			errs = append(errs, e.Close())
		}
	}
	if d.arena != nil {
		if err := d.arena.Close(); err != nil && !d.lost() {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// hangUp tells the device to close the connection.
func (d *Driver) hangUp() {
	if c := d.config.Read32(configStatus); c != allOnes && c&backendUp != 0 {
		d.config.Write32(configStatus, c&^backendUp)
	}
}
