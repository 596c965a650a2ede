package vhostuser

import (
	"context"
	"errors"
	"fmt"

	"vfiofs/virtio"
)

// answer does what m asks for and sends what its sender waits for.
//
// A message that can't be obeyed is refused: with an error reply if the sender waits
// for one (REPLY_ACK and NEED_REPLY), else by ending the connection, since the sender
// would go on as if it had been obeyed. What is merely not supported never ends the
// connection; a sender that waits for data then gets a reply without any.
func (s *session) answer(ctx context.Context, m *Message) error {
	s.log.Debug("vhost-user message", "message", m.Code.String(), "flags", uint32(m.Flags), "size", len(m.Payload), "files", len(m.Files))
	payload, err := s.handle(m)
	waits := m.Flags&FlagNeedReply != 0 && s.protocol&ProtocolReplyAck != 0
	if err != nil {
		unsupported := errors.Is(err, ErrUnsupported)
		hasReply := m.Code.hasReply()
		if !unsupported && (hasReply || !waits) {
			return &PeerError{Code: m.Code, Reason: err.Error()}
		}
		s.log.Warn("vhost-user message refused", "message", m.Code.String(), "err", err)
		switch {
		case hasReply:
			payload = nil
		case waits:
			payload = AppendU64(nil, 1)
		default:
			return nil
		}
	} else if !m.Code.hasReply() {
		if !waits {
			return nil
		}
		payload = AppendU64(nil, 0)
	}
	return s.link.Send(ctx, &Message{Code: m.Code, Flags: FlagVersion1 | FlagReply, Payload: payload})
}

// handle does what m asks for. The payload is the reply of messages that have one of
// their own (Code.hasReply).
func (s *session) handle(m *Message) (payload []byte, err error) {
	if m.Flags&FlagReply != 0 {
		return nil, errors.New("reply where a request belongs")
	}
	if m.Code.bare() {
		if err := m.wantCount(0); err != nil {
			return nil, err
		}
	}
	switch m.Code {
	case GetFeatures:
		return AppendU64(nil, uint64(s.offered)), wantNothing(m)
	case SetFeatures:
		return nil, s.setFeatures(m)
	case GetProtocolFeatures:
		return AppendU64(nil, uint64(s.protocolOffered)), wantNothing(m)
	case SetProtocolFeatures:
		return nil, s.setProtocolFeatures(m)
	case GetQueueNum:
		return AppendU64(nil, uint64(len(s.rings))), wantNothing(m)
	case GetMaxMemSlots:
		return AppendU64(nil, maxMemSlots), wantNothing(m)
	case GetConfig:
		return s.getConfig(m)
	case SetConfig:
		return nil, fmt.Errorf("configuration space is read-only: writing is %w", ErrUnsupported)
	case SetOwner:
		return nil, wantNothing(m)
	case ResetOwner:
		return nil, s.resetOwner(m)
	case ResetDevice:
		return nil, s.resetDevice(m)
	case SetMemTable:
		return nil, s.setMemTable(m)
	case AddMemReg:
		return nil, s.addMemReg(m)
	case RemMemReg:
		return nil, s.remMemReg(m)
	case SetLogBase:
		return nil, s.setLogBase(m)
	case SetLogFD:
		return nil, s.setLogFD(m)
	case SetBackendReqFD:
		return nil, s.setBackendReqFD(m)
	case SetVringNum:
		return nil, s.setVringNum(m)
	case SetVringAddr:
		return nil, s.setVringAddr(m)
	case SetVringBase:
		return nil, s.setVringBase(m)
	case GetVringBase:
		return s.getVringBase(m)
	case SetVringKick:
		return nil, s.setVringKick(m)
	case SetVringCall, SetVringErr:
		return nil, s.setVringBell(m)
	case SetVringEnable:
		return nil, s.setVringEnable(m)
	}
	return nil, fmt.Errorf("message is %w", ErrUnsupported)
}

// wantNothing reports an error unless m is without payload.
func wantNothing(m *Message) error {
	if len(m.Payload) != 0 {
		return sizeError("payload", len(m.Payload), 0)
	}
	return nil
}

// needs reports an error unless the front-end has acknowledged p.
func (s *session) needs(p ProtocolFeatures) error {
	if s.protocol&p == 0 {
		return fmt.Errorf("message without protocol feature %#x is %w", uint64(p), ErrUnsupported)
	}
	return nil
}

// setFeatures replaces the acknowledged features. Rings notice at their next start;
// the dirty log begins and ends at once.
func (s *session) setFeatures(m *Message) error {
	v, err := DecodeU64(m.Payload)
	if err != nil {
		return err
	}
	features := virtio.Features(v)
	if unknown := features &^ s.offered; unknown != 0 {
		return fmt.Errorf("feature bits %#x were not offered", uint64(unknown))
	}
	if (features^s.features)&FeatureLogAll != 0 {
		s.pauseAll()
	}
	s.features = features
	s.settleAll()
	return nil
}

// setProtocolFeatures replaces the acknowledged protocol features.
func (s *session) setProtocolFeatures(m *Message) error {
	v, err := DecodeU64(m.Payload)
	if err != nil {
		return err
	}
	s.protocol = ProtocolFeatures(v) & s.protocolOffered
	if unknown := ProtocolFeatures(v) &^ s.protocolOffered; unknown != 0 {
		s.log.Warn("protocol features that were not offered are ignored", "bits", fmt.Sprintf("%#x", uint64(unknown)))
	}
	return nil
}

// getConfig reads configuration space. A bad range gets an empty reply (vhost-user,
// VHOST_USER_GET_CONFIG).
func (s *session) getConfig(m *Message) ([]byte, error) {
	if err := s.needs(ProtocolConfig); err != nil {
		return nil, err
	}
	c, err := DecodeConfig(m.Payload)
	if err != nil {
		return nil, err
	}
	if !c.Valid() {
		return nil, fmt.Errorf("%d bytes at offset %d of configuration space: reading them is %w", c.Size, c.Offset, ErrUnsupported)
	}
	c.Data = make([]byte, c.Size)
	s.dev.ReadConfig(c.Data, int(c.Offset))
	return c.Append(nil), nil
}

// resetOwner stops and disables all rings and keeps everything else.
func (s *session) resetOwner(m *Message) error {
	if err := wantNothing(m); err != nil {
		return err
	}
	for _, r := range s.rings {
		s.stop(r)
		r.enabled = false
	}
	return nil
}

// resetDevice forgets what the driver has set up. Connection, protocol features and
// memory map stay.
func (s *session) resetDevice(m *Message) error {
	if err := errors.Join(wantNothing(m), s.needs(ProtocolResetDevice)); err != nil {
		return err
	}
	s.pauseAll()
	for _, r := range s.rings {
		s.warn("ring bells", r.forget())
	}
	s.features = 0
	s.warn("dirty log", s.dirty.set(Mapping{}))
	s.dev.Reset()
	return nil
}

// setMemTable exchanges the whole memory map.
func (s *session) setMemTable(m *Message) error {
	regions, err := DecodeMemTable(m.Payload)
	if err != nil {
		return err
	}
	maps, err := s.link.Map(m, regions)
	if err != nil {
		return err
	}
	slots := make([]slot, len(regions))
	for i := range slots {
		slots[i] = slot{regions[i], maps[i]}
	}
	to, err := newMemory(slots)
	if err != nil {
		return errors.Join(err, unmapAll(maps))
	}
	old := s.memory
	s.use(to)
	s.warn("old memory", old.unmap())
	return nil
}

// addMemReg adds one region to the memory map.
func (s *session) addMemReg(m *Message) error {
	if err := s.needs(ProtocolConfigureMemSlots); err != nil {
		return err
	}
	region, err := DecodeMemReg(m.Payload)
	if err != nil {
		return err
	}
	maps, err := s.link.Map(m, []Region{region})
	if err != nil {
		return err
	}
	to, err := s.memory.with(slot{region, maps[0]})
	if err != nil {
		return errors.Join(err, unmapAll(maps))
	}
	s.use(to)
	return nil
}

// remMemReg takes one region out of the memory map. Old front-ends send a descriptor,
// which doesn't matter (vhost-user, VHOST_USER_REM_MEM_REG).
func (s *session) remMemReg(m *Message) error {
	if err := s.needs(ProtocolConfigureMemSlots); err != nil {
		return err
	}
	if len(m.Files) > 1 {
		return m.wantCount(0)
	}
	region, err := DecodeMemReg(m.Payload)
	if err != nil {
		return err
	}
	to, left, err := s.memory.without(region)
	if err != nil {
		return err
	}
	s.use(to)
	s.warn("old memory", unmapAll([]Mapping{left}))
	return nil
}

// use makes all rings use another memory map. Nothing uses the old one afterwards.
func (s *session) use(to *memory) {
	s.pauseAll()
	s.memory = to
	s.settleAll()
}

// warn logs the failure to give something back.
func (s *session) warn(what string, err error) {
	if err != nil {
		s.log.Warn("not released cleanly", "what", what, "err", err)
	}
}

// setLogBase exchanges the dirty log (vhost-user, "Migration").
func (s *session) setLogBase(m *Message) error {
	if s.protocol&ProtocolLogShmFD == 0 {
		return errors.New("dirty log without a shared bitmap")
	}
	area, err := DecodeLogArea(m.Payload)
	if err != nil {
		return err
	}
	maps, err := s.link.Map(m, []Region{area.region()})
	if err != nil {
		return err
	}
	s.pauseAll()
	s.warn("old dirty log", s.dirty.set(maps[0]))
	s.settleAll()
	return nil
}

// setLogFD keeps the eventfd of the dirty log. A link without descriptors has none to
// keep, and front-ends send the message all the same.
func (s *session) setLogFD(m *Message) error {
	if !s.link.PassesFiles() {
		return errors.Join(wantNothing(m), m.wantCount(0))
	}
	if err := errors.Join(wantNothing(m), m.wantCount(1)); err != nil {
		return err
	}
	s.warn("old log event", s.dirty.event.Close())
	s.dirty.event = m.take(0)
	return nil
}

// setBackendReqFD keeps the socket for requests in the other direction, of which there
// are none yet.
func (s *session) setBackendReqFD(m *Message) error {
	if err := s.needs(ProtocolBackendReq); err != nil {
		return err
	}
	if err := errors.Join(wantNothing(m), m.wantCount(1)); err != nil {
		return err
	}
	s.warn("old request socket", s.requests.Close())
	s.requests = m.take(0)
	return nil
}
