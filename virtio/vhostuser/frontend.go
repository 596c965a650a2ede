package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"net"

	"vfiofs/internal/fd"
	"vfiofs/internal/unixsock"
	"vfiofs/virtio"
)

// ErrRefused says that the back-end understood a message and did not obey it.
var ErrRefused = errors.New("refused by the back-end")

// A Frontend is the VMM's side of a connection: one method per message, and rings to
// drive (GuestRing). Once REPLY_ACK is acknowledged, each method waits until the
// back-end has obeyed; before, methods without a result return at once.
//
// Methods belong to one goroutine at a time, except Close, which ends them.
// Descriptors that are passed in stay the caller's.
type Frontend struct {
	sock     *Socket
	features virtio.Features
	protocol ProtocolFeatures
}

// NewFrontend makes a Frontend of a connection, which it owns from now on.
func NewFrontend(conn *net.UnixConn) *Frontend { return &Frontend{sock: NewSocket(conn)} }

// Dial connects to the back-end that listens at path.
func Dial(path string) (*Frontend, error) {
	conn, err := unixsock.Dial(context.Background(), path)
	if err != nil {
		return nil, err
	}
	return NewFrontend(conn), nil
}

// Close ends the connection.
func (f *Frontend) Close() error { return f.sock.Close() }

// Send sends a message as it is, whatever it says.
func (f *Frontend) Send(m *Message) error { return f.sock.Send(context.Background(), m) }

// Reply waits for the reply to a message and returns its payload, which is valid until
// the next one.
func (f *Frontend) Reply(code Code) ([]byte, error) {
	m, err := f.sock.Recv(context.Background())
	if err != nil {
		return nil, fmt.Errorf("vhost-user %s: reply: %w", code, err)
	}
	defer m.Close()
	if m.Code != code || m.Flags != FlagVersion1|FlagReply {
		return nil, &PeerError{Code: code, Reason: fmt.Sprintf("reply is a %s with flags %#x", m.Code, uint32(m.Flags))}
	}
	return m.Payload, nil
}

// tell sends a message that has no reply of its own.
func (f *Frontend) tell(code Code, payload []byte, files ...*fd.FD) error {
	m := &Message{Code: code, Flags: FlagVersion1, Payload: payload, Files: files}
	wait := f.protocol&ProtocolReplyAck != 0
	if wait {
		m.Flags |= FlagNeedReply
	}
	if err := f.Send(m); err != nil {
		return err
	}
	if !wait {
		return nil
	}
	reply, err := f.Reply(code)
	if err != nil {
		return err
	}
	switch v, err := DecodeU64(reply); {
	case err != nil:
		return &PeerError{Code: code, Reason: err.Error()}
	case v != 0:
		return fmt.Errorf("vhost-user %s: %w", code, ErrRefused)
	}
	return nil
}

// ask sends a message that has a reply of its own and returns the reply's payload.
func (f *Frontend) ask(code Code, payload []byte, files ...*fd.FD) ([]byte, error) {
	if err := f.Send(&Message{Code: code, Flags: FlagVersion1, Payload: payload, Files: files}); err != nil {
		return nil, err
	}
	return f.Reply(code)
}

// askU64 is ask for a reply of one number.
func (f *Frontend) askU64(code Code) (uint64, error) {
	reply, err := f.ask(code, nil)
	if err != nil {
		return 0, err
	}
	v, err := DecodeU64(reply)
	if err != nil {
		return 0, &PeerError{Code: code, Reason: err.Error()}
	}
	return v, nil
}

// Negotiate does what a VMM does first: it acknowledges those of the wanted features
// that the back-end offers, and becomes its owner.
func (f *Frontend) Negotiate(features virtio.Features, protocol ProtocolFeatures) error {
	offered, err := f.Features()
	if err != nil {
		return err
	}
	features &= offered
	if features&FeatureProtocolFeatures != 0 {
		offered, err := f.ProtocolFeatures()
		if err != nil {
			return err
		}
		if err := f.SetProtocolFeatures(protocol & offered); err != nil {
			return err
		}
	}
	if err := f.SetOwner(); err != nil {
		return err
	}
	return f.SetFeatures(features)
}

// Features is GET_FEATURES.
func (f *Frontend) Features() (virtio.Features, error) {
	v, err := f.askU64(GetFeatures)
	return virtio.Features(v), err
}

// SetFeatures is SET_FEATURES.
func (f *Frontend) SetFeatures(v virtio.Features) error {
	err := f.tell(SetFeatures, AppendU64(nil, uint64(v)))
	if err == nil {
		f.features = v
	}
	return err
}

// ProtocolFeatures is GET_PROTOCOL_FEATURES.
func (f *Frontend) ProtocolFeatures() (ProtocolFeatures, error) {
	v, err := f.askU64(GetProtocolFeatures)
	return ProtocolFeatures(v), err
}

// SetProtocolFeatures is SET_PROTOCOL_FEATURES. It doesn't wait.
func (f *Frontend) SetProtocolFeatures(v ProtocolFeatures) error {
	f.protocol = 0
	err := f.tell(SetProtocolFeatures, AppendU64(nil, uint64(v)))
	f.protocol = v
	return err
}

// SetOwner is SET_OWNER.
func (f *Frontend) SetOwner() error { return f.tell(SetOwner, nil) }

// ResetOwner is RESET_OWNER.
func (f *Frontend) ResetOwner() error { return f.tell(ResetOwner, nil) }

// ResetDevice is RESET_DEVICE.
func (f *Frontend) ResetDevice() error { return f.tell(ResetDevice, nil) }

// QueueNum is GET_QUEUE_NUM.
func (f *Frontend) QueueNum() (uint64, error) { return f.askU64(GetQueueNum) }

// MaxMemSlots is GET_MAX_MEM_SLOTS.
func (f *Frontend) MaxMemSlots() (uint64, error) { return f.askU64(GetMaxMemSlots) }

// SetMemTable is SET_MEM_TABLE, with one file per region.
func (f *Frontend) SetMemTable(regions []Region, files []*fd.FD) error {
	return f.tell(SetMemTable, AppendMemTable(nil, regions), files...)
}

// AddMemReg is ADD_MEM_REG.
func (f *Frontend) AddMemReg(r Region, file *fd.FD) error {
	return f.tell(AddMemReg, AppendMemReg(nil, r), file)
}

// RemMemReg is REM_MEM_REG.
func (f *Frontend) RemMemReg(r Region) error { return f.tell(RemMemReg, AppendMemReg(nil, r)) }

// SetLogBase is SET_LOG_BASE: the dirty bitmap is part of file.
func (f *Frontend) SetLogBase(l LogArea, file *fd.FD) error {
	_, err := f.ask(SetLogBase, l.Append(nil), file)
	return err
}

// SetLogFD is SET_LOG_FD.
func (f *Frontend) SetLogFD(event *fd.FD) error { return f.tell(SetLogFD, nil, event) }

// SetBackendReqFD is SET_BACKEND_REQ_FD.
func (f *Frontend) SetBackendReqFD(socket *fd.FD) error {
	return f.tell(SetBackendReqFD, nil, socket)
}

// SetVringNum is SET_VRING_NUM.
func (f *Frontend) SetVringNum(ring, size int) error {
	return f.tell(SetVringNum, VringState{uint32(ring), uint32(size)}.Append(nil))
}

// SetVringAddr is SET_VRING_ADDR.
func (f *Frontend) SetVringAddr(a VringAddr) error { return f.tell(SetVringAddr, a.Append(nil)) }

// SetVringBase is SET_VRING_BASE.
func (f *Frontend) SetVringBase(ring int, next uint16) error {
	return f.tell(SetVringBase, VringState{uint32(ring), uint32(next)}.Append(nil))
}

// VringBase is GET_VRING_BASE: it stops the ring.
func (f *Frontend) VringBase(ring int) (next uint16, err error) {
	reply, err := f.ask(GetVringBase, VringState{Index: uint32(ring)}.Append(nil))
	if err != nil {
		return 0, err
	}
	s, err := DecodeVringState(reply)
	if err != nil || s.Index != uint32(ring) || s.Num > 0xffff {
		return 0, &PeerError{Code: GetVringBase, Reason: fmt.Sprintf("reply %x to a question about ring %d", reply, ring)}
	}
	return uint16(s.Num), nil
}

// SetVringKick is SET_VRING_KICK. A nil event asks for polling.
func (f *Frontend) SetVringKick(ring int, event *fd.FD) error {
	return f.setVringFile(SetVringKick, ring, event)
}

// SetVringCall is SET_VRING_CALL. A nil event asks for silence.
func (f *Frontend) SetVringCall(ring int, event *fd.FD) error {
	return f.setVringFile(SetVringCall, ring, event)
}

// SetVringErr is SET_VRING_ERR. A nil event asks for silence.
func (f *Frontend) SetVringErr(ring int, event *fd.FD) error {
	return f.setVringFile(SetVringErr, ring, event)
}

// setVringFile gives an eventfd to a ring.
func (f *Frontend) setVringFile(code Code, ring int, event *fd.FD) error {
	file := VringFile{Index: uint8(ring), NoFD: event == nil}
	if event == nil {
		return f.tell(code, file.Append(nil))
	}
	return f.tell(code, file.Append(nil), event)
}

// SetVringEnable is SET_VRING_ENABLE.
func (f *Frontend) SetVringEnable(ring int, on bool) error {
	s := VringState{Index: uint32(ring)}
	if on {
		s.Num = 1
	}
	return f.tell(SetVringEnable, s.Append(nil))
}

// Config is GET_CONFIG: size bytes at offset off of configuration space.
func (f *Frontend) Config(off, size int) ([]byte, error) {
	c := Config{Offset: uint32(off), Size: uint32(size), Data: make([]byte, size)}
	reply, err := f.ask(GetConfig, c.Append(nil))
	if err != nil {
		return nil, err
	}
	if len(reply) == 0 {
		return nil, fmt.Errorf("vhost-user %s: %w", GetConfig, ErrRefused)
	}
	got, err := DecodeConfig(reply)
	if err != nil || got.Offset != c.Offset || got.Size != c.Size || len(got.Data) != size {
		return nil, &PeerError{Code: GetConfig, Reason: fmt.Sprintf("reply %x to a question about %d bytes at %d", reply, size, off)}
	}
	return append([]byte(nil), got.Data...), nil
}

// SetConfig is SET_CONFIG: it writes data to offset off of configuration space.
func (f *Frontend) SetConfig(off int, data []byte) error {
	return f.tell(SetConfig, Config{Offset: uint32(off), Size: uint32(len(data)), Data: data}.Append(nil))
}

// Sync waits until the back-end has dealt with all messages sent before.
func (f *Frontend) Sync() error {
	_, err := f.Features()
	return err
}
