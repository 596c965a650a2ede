package proxy

import (
	"vfiofs/virtio/vhostuser"
)

// transmit sends what the driver, or the proxy in its place, has to say to siblings. It
// is the only one to send, so that messages stay whole and in order.
func (d *Device) transmit() {
	buf := new([vhostuser.HeaderSize + vhostuser.MaxPayload]byte)
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.closed {
		s, m := d.outgoing(buf)
		if m == nil {
			continue
		}
		d.mu.Unlock()
		err := s.sock.Send(d.ctx, m)
		d.mu.Lock()
		if err != nil {
			d.left(s, reasonPeer)
		}
	}
}

// outgoing waits until there may be a message to send, and returns it if there is one.
func (d *Device) outgoing(buf *[vhostuser.HeaderSize + vhostuser.MaxPayload]byte) (*sibling, *vhostuser.Message) {
	s := d.peer
	if s != nil && s.nack != nil {
		m := s.nack
		s.nack = nil
		d.changed.Broadcast()
		return s, m
	}
	switch {
	case !d.pending(d.tx):
		d.changed.Wait()
		return nil, nil
	case s == nil:
		d.discard()
		return nil, nil
	}
	b, ok := d.collect(buf)
	if !ok {
		return nil, nil
	}
	m, err := d.filterReply(s, b)
	if err != nil {
		d.fail(err)
		return nil, nil
	}
	d.changed.Broadcast() // a reply may be what a refusal waits for
	return s, m
}
