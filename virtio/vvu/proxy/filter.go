package proxy

import (
	"fmt"

	"vfiofs/internal/fd"
	"vfiofs/virtio/vhostuser"
)

// maxPayload is the longest payload that is relayed: drivers are known to post receive
// buffers of 1024 bytes (virtio-vhost-user.md 5.2).
const maxPayload = 1024 - vhostuser.HeaderSize

// Protocol features that work without descriptors (virtio-vhost-user.md 6.3).
const relayedProtocol = vhostuser.ProtocolMQ |
	1<<2 | // VHOST_USER_PROTOCOL_F_RARP
	vhostuser.ProtocolReplyAck |
	1<<4 | // VHOST_USER_PROTOCOL_F_NET_MTU
	1<<6 | // VHOST_USER_PROTOCOL_F_CROSS_ENDIAN
	vhostuser.ProtocolConfig |
	vhostuser.ProtocolResetDevice |
	1<<16 // VHOST_USER_PROTOCOL_F_STATUS

// Features that a front-end must not see: dirty logging can't work, and IOVAs would need
// requests of the driver's own (virtio-vhost-user.md 6.3).
const hiddenFeatures = vhostuser.FeatureLogAll | 1<<33 // VIRTIO_F_ACCESS_PLATFORM

// A request is a message of the sibling's that has been looked at.
type request struct {
	*vhostuser.Message
	vring   vhostuser.VringFile // SET_VRING_KICK, _CALL and _ERR
	memory  []vhostuser.Region  // SET_MEM_TABLE, as it came
	regions []vhostuser.Region  // the same for the driver
}

// parse checks what can be checked without knowing the connection. The error is a
// *refusal if the message is of a kind that could be refused, else the end.
func (d *Device) parse(m *vhostuser.Message) (r request, err error) {
	r.Message = m
	switch {
	case m.Flags&vhostuser.FlagReply != 0:
		return r, broken(m, "reply where a request belongs")
	case len(m.Payload) > maxPayload:
		return r, broken(m, "payload of %d bytes; at most %d can be relayed", len(m.Payload), maxPayload)
	}
	switch m.Code {
	case vhostuser.GetFeatures, vhostuser.SetFeatures, vhostuser.SetOwner, vhostuser.ResetOwner,
		vhostuser.SetVringNum, vhostuser.SetVringAddr, vhostuser.SetVringBase, vhostuser.GetVringBase,
		vhostuser.GetProtocolFeatures, vhostuser.SetProtocolFeatures, vhostuser.GetQueueNum,
		vhostuser.SetVringEnable, vhostuser.SendRARP, vhostuser.SetMTU, vhostuser.SetVringEndian,
		vhostuser.GetConfig, vhostuser.SetConfig, vhostuser.ResetDevice,
		vhostuser.SetStatus, vhostuser.GetStatus:
		return r, wantFiles(m, 0)
	case vhostuser.SetMemTable:
		r.memory, r.regions, err = d.table(m)
		return r, err
	case vhostuser.SetLogFD:
		if err := wantFiles(m, 1); err != nil {
			return r, err
		}
		return r, d.wantEvents(m)
	case vhostuser.SetVringKick, vhostuser.SetVringCall, vhostuser.SetVringErr:
		r.vring, err = d.vringFile(m)
		return r, err
	}
	if m.Code == 0 || m.Code > lastCode {
		return r, broken(m, "unknown message")
	}
	return r, refuse(reasonProtocol, m, "not offered")
}

// lastCode is the highest code that a front-end is known to send.
const lastCode = 45

// vringFile decodes SET_VRING_KICK, _CALL or _ERR.
func (d *Device) vringFile(m *vhostuser.Message) (f vhostuser.VringFile, err error) {
	if f, err = vhostuser.DecodeVringFile(m.Payload); err != nil {
		return f, broken(m, "%v", err)
	}
	want := 1
	if f.NoFD {
		want = 0
	}
	if err := wantFiles(m, want); err != nil {
		return f, err
	}
	if int(f.Index) >= d.opt.Queues {
		return f, refuse(reasonProtocol, m, "ring %d of %d", f.Index, d.opt.Queues)
	}
	return f, d.wantEvents(m)
}

// wantFiles reports an error unless m carries n descriptors.
func wantFiles(m *vhostuser.Message, n int) error {
	if len(m.Files) != n {
		return broken(m, "%d descriptors; want %d", len(m.Files), n)
	}
	return nil
}

// wantEvents reports an error unless all descriptors of m are eventfds: no other kind is
// known not to block those who poll it.
func (d *Device) wantEvents(m *vhostuser.Message) error {
	for _, f := range m.Files {
		name, err := f.Target(d.opt.Memory.names)
		if err != nil {
			return fmt.Errorf("find out what %s is: %w", f, err)
		}
		if name != "anon_inode:[eventfd]" {
			return refuse(reasonProtocol, m, "%s is not an eventfd", name)
		}
	}
	return nil
}

// broken says that a message breaks the protocol.
func broken(m *vhostuser.Message, format string, args ...any) error {
	return &vhostuser.PeerError{Code: m.Code, Reason: fmt.Sprintf(format, args...)}
}

// refuse says why a message is not relayed.
func refuse(why reason, m *vhostuser.Message, format string, args ...any) error {
	return &refusal{fmt.Errorf("vhost-user %s: "+format, append([]any{m.Code}, args...)...), why}
}

// act does what r asks of the proxy, and makes of it what the driver may see.
func (d *Device) act(s *sibling, r request) error {
	switch r.Code {
	case vhostuser.SetMemTable:
		s.memory = r.memory
		r.Payload = vhostuser.AppendMemTable(nil, r.regions)
	case vhostuser.SetProtocolFeatures:
		v, err := vhostuser.DecodeU64(r.Payload)
		if err != nil {
			return broken(r.Message, "%v", err)
		}
		v &= uint64(relayedProtocol)
		s.ack = v&uint64(vhostuser.ProtocolReplyAck) != 0
		r.Payload = vhostuser.AppendU64(nil, v)
	case vhostuser.SetVringAddr:
		if d.opt.Rule == Linear {
			return s.translate(r.Message)
		}
	case vhostuser.SetVringKick:
		return d.setKick(&s.vrings[r.vring.Index], r)
	case vhostuser.SetVringCall:
		v := &s.vrings[r.vring.Index]
		exchange(&v.call, r.Message)
		v.stopped = false
	case vhostuser.SetVringErr:
		exchange(&s.vrings[r.vring.Index].err, r.Message)
	case vhostuser.SetLogFD:
		exchange(&s.log, r.Message)
	}
	return nil
}

// setKick exchanges the kick of a vring and begins to watch it.
func (d *Device) setKick(v *vring, r request) error {
	kick := takeFile(r.Message)
	d.serial++
	v.serial = d.serial
	v.setKick(d.kicks, nil)
	if kick == nil {
		return nil
	}
	if err := d.kicks.add(kick, int32(r.vring.Index), v.serial); err != nil {
		kick.Close()
		return refuse(reasonProtocol, r.Message, "%v", err)
	}
	v.kick = kick
	return nil
}

// exchange replaces an eventfd by the one that came with m, or none.
func exchange(event **fd.FD, m *vhostuser.Message) {
	(*event).Close()
	*event = takeFile(m)
}

// takeFile takes the descriptor that m carries, or nil.
func takeFile(m *vhostuser.Message) *fd.FD {
	if len(m.Files) == 0 {
		return nil
	}
	f := m.Files[0]
	m.Files[0] = nil
	return f
}

// missingCall returns a SET_VRING_CALL to be put before m. Front-ends restart a ring with
// its kick, and give a new call later. crosvm's driver has dropped the old one with
// GET_VRING_BASE, and would never ring (virtio-vhost-user.md 8.2).
func (s *sibling) missingCall(p Profile, r request) (*vhostuser.Message, bool) {
	if r.Code != vhostuser.SetVringKick || p != Crosvm {
		return nil, false
	}
	v := &s.vrings[r.vring.Index]
	if !v.stopped || v.call == nil {
		return nil, false
	}
	v.stopped = false
	return &vhostuser.Message{
		Code: vhostuser.SetVringCall, Flags: vhostuser.FlagVersion1,
		Payload: vhostuser.VringFile{Index: r.vring.Index}.Append(nil),
	}, true
}

// hasReply reports whether the driver answers a relayed request whatever its flags say.
func hasReply(c vhostuser.Code) bool {
	switch c {
	case vhostuser.GetFeatures, vhostuser.GetVringBase, vhostuser.GetProtocolFeatures,
		vhostuser.GetQueueNum, vhostuser.GetConfig, vhostuser.GetStatus:
		return true
	}
	return false
}

// filterReply checks a message of the driver's and makes of it what the sibling may see,
// in place. It is nil if there is nothing to send.
func (d *Device) filterReply(s *sibling, b []byte) (*vhostuser.Message, error) {
	if len(b) < vhostuser.HeaderSize {
		return nil, fmt.Errorf("message of %d bytes has no header", len(b))
	}
	h, err := vhostuser.DecodeHeader(b[:vhostuser.HeaderSize])
	payload := b[vhostuser.HeaderSize:]
	switch {
	case err != nil:
		return nil, err
	case int(h.Size) != len(payload):
		return nil, fmt.Errorf("vhost-user %s: payload of %d bytes in a message with %d", h.Code, h.Size, len(payload))
	case h.Flags&vhostuser.FlagReply == 0:
		if !s.deaf {
			d.log.Warn("request of the driver dropped: there is no channel for it", "message", uint32(h.Code))
		}
		s.deaf = true
		return nil, nil
	}
	s.owed = max(0, s.owed-1)
	m := &vhostuser.Message{Code: h.Code, Flags: vhostuser.FlagVersion1 | vhostuser.FlagReply, Payload: payload}
	switch h.Code {
	case vhostuser.GetFeatures:
		edit(m, func(v uint64) uint64 { return v &^ uint64(hiddenFeatures) })
	case vhostuser.GetProtocolFeatures:
		edit(m, func(v uint64) uint64 { return v & uint64(relayedProtocol) })
	case vhostuser.GetQueueNum:
		edit(m, func(v uint64) uint64 { return min(v, uint64(d.opt.Queues)) })
	case vhostuser.GetVringBase:
		state, err := vhostuser.DecodeVringState(payload)
		if err == nil && int64(state.Index) < int64(len(s.vrings)) {
			v := &s.vrings[state.Index]
			v.setKick(d.kicks, nil)
			v.stopped = true
		}
	}
	return m, nil
}

// edit changes the number that m carries.
func edit(m *vhostuser.Message, f func(uint64) uint64) {
	if v, err := vhostuser.DecodeU64(m.Payload); err == nil {
		m.Payload = vhostuser.AppendU64(m.Payload[:0], f(v))
	}
}
