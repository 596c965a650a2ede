package vfiouser

import (
	"errors"
	"fmt"
	"syscall"

	"vfiofs/internal/fd"
	"vfiofs/vfio"
)

// An interrupt that says no more than that somebody has signalled an eventfd costs the
// server a wake-up and some system calls. The client may wait for the eventfd itself:
//
//	somebody ── write ──► eventfd ──► server ── write ──► eventfd of the vector ──► client
//	somebody ── write ──► eventfd ────────────────────────────────────────────────► client
//
// No command of the protocol can say so. IRQSource is one of our own: servers that don't
// know it refuse it.

// source is IRQ_SOURCE: an irqInfo whose count is the vector. The reply is the request,
// with the eventfd if there is one.
func (s *session) source(m *message) error {
	ask, err := decodeIRQInfo(m.payload)
	if err != nil {
		return err
	}
	if ask.index >= uint32(irqKinds) || uint64(ask.count) >= uint64(len(s.bus.irqs.kinds[ask.index])) {
		return fmt.Errorf("vector %d of kind %d", ask.count, ask.index)
	}
	if event := s.model.Source(vfio.IRQ(ask.index), int(ask.count)); event != nil {
		s.reply.files, s.reply.owned = append(s.reply.files, event), true
	}
	s.reply.payload = append(s.reply.payload, m.payload...)
	return nil
}

// Source returns the eventfd that stands behind a vector, or nil if the server names none
// now. The caller waits for it instead of the vector, without reading it, and closes it.
func (c *client) Source(kind vfio.IRQ, n int) (event *fd.FD, err error) {
	ask := irqInfo{index: uint32(kind), count: uint32(n)}
	err = c.ask(IRQSource, ask.append(nil), func(m *message) error {
		if _, err := decodeIRQInfo(m.payload); err != nil {
			return err
		}
		if len(m.files) > 0 {
			event = m.take(0)
		}
		return nil
	})
	if _, refused := errors.AsType[syscall.Errno](err); refused {
		return nil, nil
	}
	return event, err
}
