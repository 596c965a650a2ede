package vhostuser

import (
	"fmt"

	"vfiofs/virtio/virtq"
)

// ring returns ring index.
func (s *session) ring(index uint32) (*ring, error) {
	if uint64(index) >= uint64(len(s.rings)) {
		return nil, fmt.Errorf("ring %d of a device with %d", index, len(s.rings))
	}
	return s.rings[index], nil
}

// ringState takes a VringState and its ring out of m.
func (s *session) ringState(m *Message) (*ring, VringState, error) {
	state, err := DecodeVringState(m.Payload)
	if err != nil {
		return nil, state, err
	}
	r, err := s.ring(state.Index)
	return r, state, err
}

// setVringNum sets the size of a ring that isn't started.
func (s *session) setVringNum(m *Message) error {
	r, state, err := s.ringState(m)
	if err != nil {
		return err
	}
	n := state.Num
	if n == 0 || n > virtq.MaxSize || n&(n-1) != 0 {
		return fmt.Errorf("ring %d: size %d is not a power of two from 1 to %d", r.index, n, virtq.MaxSize)
	}
	if r.started() {
		return fmt.Errorf("ring %d: new size while started", r.index)
	}
	old := r.size
	r.size = int(n)
	if err := s.settle(r); err != nil {
		r.size = old
		return err
	}
	return nil
}

// setVringAddr places a ring that isn't started, or changes how a started one is
// logged.
func (s *session) setVringAddr(m *Message) error {
	a, err := DecodeVringAddr(m.Payload)
	if err != nil {
		return err
	}
	r, err := s.ring(a.Index)
	if err != nil {
		return err
	}
	if r.started() && (a.Desc != r.addr.Desc || a.Avail != r.addr.Avail || a.Used != r.addr.Used) {
		return fmt.Errorf("ring %d: new addresses while started", r.index)
	}
	if _, _, _, err := r.parts(s.memory, a); err != nil {
		return fmt.Errorf("ring %d: %w", r.index, err)
	}
	if a == r.addr && r.placed {
		return nil
	}
	s.pause(r)
	r.addr, r.placed = a, true
	if err := s.settle(r); err != nil {
		r.placed = false
		return err
	}
	return nil
}

// setVringBase sets the next available index of a ring that isn't started.
func (s *session) setVringBase(m *Message) error {
	r, state, err := s.ringState(m)
	switch {
	case err != nil:
		return err
	case state.Num > 0xffff:
		return fmt.Errorf("ring %d: index %d has more than 16 bits", r.index, state.Num)
	case r.started():
		return fmt.Errorf("ring %d: new index while started", r.index)
	}
	r.base = uint16(state.Num)
	return nil
}

// getVringBase stops a ring and returns its next available index.
func (s *session) getVringBase(m *Message) ([]byte, error) {
	r, state, err := s.ringState(m)
	if err != nil {
		return nil, err
	}
	s.stop(r)
	state.Num = uint32(r.base)
	return state.Append(nil), nil
}

// ringFile decodes a message that gives a ring a descriptor, and finds the ring.
func (s *session) ringFile(m *Message) (*ring, VringFile, error) {
	file, err := DecodeVringFile(m.Payload)
	if err != nil {
		return nil, file, err
	}
	r, err := s.ring(uint32(file.Index))
	return r, file, err
}

// setVringKick starts a ring, or gives a started one another kick.
func (s *session) setVringKick(m *Message) error {
	r, file, err := s.ringFile(m)
	if err != nil {
		return err
	}
	kick, err := s.link.Kick(m, file)
	if err != nil {
		return err
	}
	s.pause(r)
	r.setKick(kick)
	if err := s.settle(r); err != nil {
		r.setKick(nil)
		return err
	}
	return nil
}

// setVringBell exchanges the call or error bell of a ring, running or not.
func (s *session) setVringBell(m *Message) error {
	r, file, err := s.ringFile(m)
	if err != nil {
		return err
	}
	to, err := s.link.Bell(m, file)
	if err != nil {
		return err
	}
	b := &r.call
	if m.Code == SetVringErr {
		b = &r.err
	}
	s.warn("change of a bell", b.set(to))
	return nil
}

// setVringEnable enables or disables a ring.
func (s *session) setVringEnable(m *Message) error {
	r, state, err := s.ringState(m)
	switch {
	case err != nil:
		return err
	case state.Num > 1:
		return fmt.Errorf("ring %d: enable is %d; want 0 or 1", r.index, state.Num)
	case s.features&FeatureProtocolFeatures == 0:
		return fmt.Errorf("ring %d: enable without protocol features", r.index)
	}
	r.enabled = state.Num == 1
	if err := s.settle(r); err != nil {
		r.enabled = false
		return err
	}
	return nil
}
