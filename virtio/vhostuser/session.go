package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"vfiofs/internal/fd"
	"vfiofs/virtio"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtq"
)

// A session is the state of one connection.
type session struct {
	dev  virtio.Device
	link Link
	log  *slog.Logger

	offered         virtio.Features
	protocolOffered ProtocolFeatures
	drainNotice     time.Duration

	features virtio.Features  // acknowledged
	protocol ProtocolFeatures // acknowledged
	rings    []*ring
	memory   *memory
	dirty    dirtyLog
	requests *fd.FD // where requests of ours would go (SET_BACKEND_REQ_FD)
}

// A dirtyLog is what SET_LOG_BASE and SET_LOG_FD have given.
type dirtyLog struct {
	mapping Mapping
	log     *guestmem.Log // nil before SET_LOG_BASE
	event   *fd.FD        // kept open for the front-end, which may wait on it
}

// newSession returns the state before the first message.
func newSession(b *Backend, link Link) *session {
	s := &session{
		dev: b.dev, link: link, log: b.log, drainNotice: b.drainNotice,
		offered: b.features(link), protocolOffered: b.protocolFeatures(link),
		rings: make([]*ring, b.dev.Queues()), memory: new(memory),
	}
	for i := range s.rings {
		s.rings[i] = &ring{index: i, log: b.log}
	}
	return s
}

// run answers messages until there are no more.
func (s *session) run(ctx context.Context) error {
	for {
		m, err := s.link.Recv(ctx)
		if err != nil {
			return err
		}
		err = s.answer(ctx, m)
		m.Close()
		if err != nil {
			return err
		}
	}
}

// end gives back everything that the session owns.
func (s *session) end() error {
	for _, r := range s.rings {
		s.pause(r)
	}
	s.dev.Reset()
	errs := []error{s.memory.unmap(), s.dirty.set(Mapping{}), s.dirty.event.Close(), s.requests.Close()}
	for _, r := range s.rings {
		errs = append(errs, r.forget())
	}
	return errors.Join(append(errs, s.link.Close())...)
}

// set exchanges the bitmap. No running ring uses the old one.
func (d *dirtyLog) set(to Mapping) error {
	err := unmapAll([]Mapping{d.mapping})
	d.mapping, d.log = to, nil
	if to.Mem != nil {
		d.log = guestmem.NewLog(to.Mem)
	}
	return err
}

// wanted reports whether the device should run ring r (vhost-user, "Ring states").
func (s *session) wanted(r *ring) bool {
	enabled := r.enabled || s.features&FeatureProtocolFeatures == 0
	return r.started() && enabled && !r.failed.Load()
}

// settle makes the device run ring r if it should, and not if it shouldn't.
func (s *session) settle(r *ring) error {
	switch want := s.wanted(r); {
	case want && r.queue == nil:
		if err := s.start(r); err != nil {
			return fmt.Errorf("start ring %d: %w", r.index, err)
		}
	case !want:
		s.pause(r)
	}
	return nil
}

// settleAll settles all rings after a change of what they depend on. A ring that
// can't be started is left alone until something else changes.
func (s *session) settleAll() {
	for _, r := range s.rings {
		if err := s.settle(r); err != nil {
			s.log.Warn("ring not started", "err", err)
		}
	}
}

// start hands ring r to the device. It touches memory that the front-end may have
// shrunk: the fault is its error, not our end.
func (s *session) start(r *ring) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			fault, ok := p.(interface{ Addr() uintptr })
			if !ok {
				panic(p)
			}
			err = fmt.Errorf("memory at %#x is gone", fault.Addr())
		}
	}()
	desc, avail, used, err := r.parts(s.memory, r.addr)
	if err != nil {
		return err
	}
	log, usedLog := s.logFor(r)
	q, err := virtq.New(virtq.Config{
		Index: r.index, Size: r.size, Mem: s.memory.table,
		Desc: desc, Avail: avail, Used: used, NextAvail: r.base,
		EventIdx: s.features&virtio.FeatureEventIdx != 0,
		Indirect: s.features&virtio.FeatureIndirectDesc != 0,
		Log:      log, UsedLog: usedLog,
	})
	if err != nil {
		return err
	}
	if ahead := r.base - q.NextUsed(); int(ahead) > r.size {
		s.log.Warn("ring starts with more requests in flight than it holds", "ring", r.index, "avail", r.base, "used", q.NextUsed(), "size", r.size)
	}
	if err := s.dev.StartQueue(r.index, virtio.Ring{Queue: q, Kick: r.kick.Int(), Call: &r.call, Fail: r.fail}); err != nil {
		return err
	}
	r.queue = q
	s.log.Debug("ring started", "ring", r.index, "size", r.size, "base", r.base)
	return nil
}

// logFor returns where ring r logs its writes (vhost-user, "Migration").
func (s *session) logFor(r *ring) (*guestmem.Log, guestmem.GPA) {
	switch {
	case s.features&FeatureLogAll == 0:
		return nil, virtq.NoUsedLog
	case r.addr.Flags&VringLog == 0:
		return s.dirty.log, virtq.NoUsedLog
	}
	return s.dirty.log, r.addr.Log
}

// pause takes ring r back from the device, if it has it. When pause returns, all
// requests are completed and base is the first one that wasn't taken.
func (s *session) pause(r *ring) {
	if r.queue == nil {
		return
	}
	done := make(chan struct{})
	var reminder sync.WaitGroup
	reminder.Go(func() { s.remind(r.index, done) })
	s.dev.StopQueue(r.index)
	close(done)
	reminder.Wait()
	r.base = r.queue.NextAvail()
	r.queue = nil
	s.log.Debug("ring stopped", "ring", r.index, "base", r.base)
}

// remind says from time to time that ring n is still draining, until done is closed.
func (s *session) remind(n int, done <-chan struct{}) {
	t := time.NewTicker(s.drainNotice)
	defer t.Stop()
	for waited := s.drainNotice; ; waited += s.drainNotice {
		select {
		case <-done:
			return
		case <-t.C:
			s.log.Warn("ring is still draining", "ring", n, "after", waited)
		}
	}
}

// pauseAll takes all rings back, for a change of what they depend on; settleAll
// restarts them.
func (s *session) pauseAll() {
	for _, r := range s.rings {
		s.pause(r)
	}
}

// stop ends ring r: it starts again with a new kick (vhost-user, GET_VRING_BASE).
func (s *session) stop(r *ring) {
	s.pause(r)
	r.setKick(nil)
}
