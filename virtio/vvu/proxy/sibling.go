package proxy

import (
	"errors"
	"io"
	"net"
	"time"

	"vfiofs/internal/fd"
	"vfiofs/virtio/vhostuser"
)

// acceptPause is the wait after an accept that has failed.
const acceptPause = time.Second

// maxWarnings is how many refusals of one sibling are logged.
const maxWarnings = 16

// A sibling is one connection to a front-end and what came over it. All but sock is
// guarded by Device.mu.
type sibling struct {
	conn    *net.UnixConn
	sock    *vhostuser.Socket  // over conn
	serial  int32              // of the watch for the end of conn
	ack     bool               // REPLY_ACK was negotiated
	owed    int                // replies that the driver has yet to send
	nack    *vhostuser.Message // for transmit to send
	vrings  []vring
	log     *fd.FD // SET_LOG_FD, or nil
	memory  []vhostuser.Region
	refused int  // requests that were refused
	deaf    bool // a request of the driver's own was dropped, and logged
}

// A vring is what the sibling has given for one ring of its own.
type vring struct {
	kick, call, err *fd.FD
	serial          int32 // of kick
	given           bool  // kick is the driver's to wait for, not ours
	stopped         bool  // by GET_VRING_BASE, and no call was given since
}

// end closes all that the sibling has given. It never waits.
func (s *sibling) end(k *kicks) {
	for i := range s.vrings {
		v := &s.vrings[i]
		v.setKick(k, nil)
		v.call.Close()
		v.err.Close()
	}
	s.log.Close()
	s.sock.Close()
}

// setKick exchanges the kick, which is watched by k.
func (v *vring) setKick(k *kicks, event *fd.FD) {
	if v.kick != nil {
		k.remove(v.kick)
		v.kick.Close()
	}
	v.kick, v.given = event, false
}

// serveSiblings serves one sibling after the other. A sibling that connects before the
// driver wants one is kept waiting, unread, as are those in the listener's backlog.
func (d *Device) serveSiblings() {
	for {
		conn, err := d.opt.Listener.Accept(d.ctx)
		switch {
		case d.ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return
		case err != nil:
			d.log.Error("cannot accept a sibling; trying again", "err", err)
			d.pause()
			continue
		}
		s := &sibling{conn: conn, sock: vhostuser.NewSocket(conn), vrings: make([]vring, d.opt.Queues)}
		if !d.wait(s) {
			conn.Close()
			return
		}
		why := d.relayAll(s)
		d.mu.Lock()
		d.left(s, why)
		d.mu.Unlock()
	}
}

// pause waits for acceptPause or the end of the device.
func (d *Device) pause() {
	select {
	case <-d.ctx.Done():
	case <-time.After(acceptPause):
	}
}

// wait connects s once the driver wants a sibling, and returns false once there will be
// none any more.
func (d *Device) wait(s *sibling) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.peer != s {
		switch {
		case d.closed:
			return false
		case d.state == stateWait:
			d.connect(s)
			if d.peer == s {
				d.log.Info("sibling connected")
			}
		default:
			d.changed.Wait()
		}
	}
	return true
}

// relayAll relays messages until the connection ends, and says why it did.
func (d *Device) relayAll(s *sibling) reason {
	for {
		m, err := s.sock.Recv(d.ctx)
		if err == nil {
			err = d.relay(s, m)
			m.Close()
		}
		var refused *refusal
		switch {
		case err == nil:
		case errors.Is(err, errEnded), errors.Is(err, io.EOF):
			return reasonPeer
		case errors.As(err, &refused):
			d.log.Warn("sibling dropped", "err", err)
			return refused.reason
		case errors.As(err, new(*vhostuser.PeerError)):
			d.log.Warn("sibling dropped", "err", err)
			return reasonProtocol
		default:
			d.mu.Lock()
			ended := d.peer != s
			d.mu.Unlock()
			if !ended {
				d.log.Warn("sibling lost", "err", err)
			}
			return reasonPeer
		}
	}
}

// errEnded says that the connection has ended while something was waited for.
var errEnded = errors.New("connection has ended")

// A refusal is a request that is not relayed. If the sibling waits for an
// acknowledgement it gets a negative one, else the connection ends for reason.
type refusal struct {
	error
	reason reason
}

// relay does what the proxy has to do for m, and hands m to the driver.
func (d *Device) relay(s *sibling, m *vhostuser.Message) error {
	d.log.Debug("message from sibling", "message", m.Code, "flags", uint32(m.Flags), "size", len(m.Payload), "files", len(m.Files))
	r, err := d.parse(m)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		err = d.hand(s, r)
	}
	var refused *refusal
	if errors.As(err, &refused) && s.ack && m.Flags&vhostuser.FlagNeedReply != 0 {
		if s.refused++; s.refused <= maxWarnings {
			d.log.Warn("message from sibling refused", "err", err)
		}
		return d.nack(s, m.Code)
	}
	return err
}

// hand acts on r and puts it into the receive ring, where it first waits for room.
func (d *Device) hand(s *sibling, r request) error {
	if err := d.waitRoom(s); err != nil {
		return err
	}
	if call, ok := s.missingCall(d.opt.Profile, r); ok {
		if !d.deliver(encode(call)) {
			return errEnded
		}
		if err := d.waitRoom(s); err != nil {
			return err
		}
	}
	if err := d.act(s, r); err != nil {
		return err
	}
	if hasReply(r.Code) || s.ack && r.Flags&vhostuser.FlagNeedReply != 0 {
		s.owed++
	}
	if !d.deliver(encode(r.Message)) {
		return errEnded
	}
	return nil
}

// waitRoom waits until there is a buffer in the receive ring.
func (d *Device) waitRoom(s *sibling) error {
	for d.peer == s {
		if d.pending(d.rx) {
			return nil
		}
		if d.peer == s {
			d.changed.Wait()
		}
	}
	return errEnded
}

// nack answers a request in the driver's place, after all that the driver owes: replies
// have no other order than that of their requests.
func (d *Device) nack(s *sibling, code vhostuser.Code) error {
	nack := &vhostuser.Message{
		Code: code, Flags: vhostuser.FlagVersion1 | vhostuser.FlagReply,
		Payload: vhostuser.AppendU64(nil, 1),
	}
	for d.peer == s && s.owed > 0 {
		d.changed.Wait()
	}
	s.nack = nack
	d.changed.Broadcast()
	for d.peer == s && s.nack != nil {
		d.changed.Wait()
	}
	if d.peer != s {
		return errEnded
	}
	return nil
}

// encode returns a message as it travels through the rings.
func encode(m *vhostuser.Message) []byte {
	h := vhostuser.Header{Code: m.Code, Flags: m.Flags, Size: uint32(len(m.Payload))}
	return append(h.Append(nil), m.Payload...)
}
