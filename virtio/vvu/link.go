package vvu

import (
	"context"
	"errors"
	"fmt"
	"io"

	"vfiofs/internal/fd"
	"vfiofs/vfio"
	"vfiofs/virtio/vhostuser"
)

// A link is one connection of a sibling.
type link struct {
	d      *Driver
	epoch  int  // the connection's number: the link is over when the driver has another
	up     bool // FRONTEND_UP was seen; not every device sets it
	over   bool // the peer has left
	placer placer
	buf    [rxSize]byte // the message that Recv has returned
}

// Recv is vhostuser.Link.Recv. What the peer sent before it left comes first.
func (l *link) Recv(ctx context.Context) (*vhostuser.Message, error) {
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if l.stale() {
			return nil, io.EOF
		}
		if m, err := l.next(); m != nil || err != nil {
			return m, err
		}
		if l.over {
			return nil, io.EOF
		}
		if err := l.look(); err != nil {
			return nil, err
		}
		if l.over {
			continue
		}
		if err := l.d.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// stale reports whether the link is closed or there is another since.
func (l *link) stale() bool { return l.epoch != l.d.epoch }

// look notices that the peer has left (virtio-vhost-user.md 8.3).
func (l *link) look() error {
	s, err := l.d.look()
	if err != nil {
		return err
	}
	if s.failed {
		l.over = true
		return errors.New("device needs a reset")
	}
	l.over = !s.back || l.up && !s.front
	l.up = l.up || s.front
	return nil
}

// next takes a message off the rx queue; nil if there is none. It is copied before the
// device gets the buffer back.
func (l *link) next() (*vhostuser.Message, error) {
	q := &l.d.rx
	k, n, ok := q.used()
	if !ok {
		return nil, q.ring.Err()
	}
	b := l.buf[:copy(l.buf[:n], q.buffer(k))]
	q.put(k, rxSize)
	l.d.kick(q)
	if len(b) == 0 {
		l.over = true
		return nil, io.EOF
	}
	return decode(b)
}

// decode makes a message of the bytes of one buffer (virtio-vhost-user.md 5.2).
func decode(b []byte) (*vhostuser.Message, error) {
	if len(b) < vhostuser.HeaderSize {
		return nil, fmt.Errorf("message of %d bytes is shorter than its header", len(b))
	}
	h, err := vhostuser.DecodeHeader(b[:vhostuser.HeaderSize])
	if err != nil {
		return nil, &vhostuser.PeerError{Code: h.Code, Reason: err.Error()}
	}
	payload := b[vhostuser.HeaderSize:]
	if int(h.Size) != len(payload) {
		return nil, &vhostuser.PeerError{Code: h.Code, Reason: fmt.Sprintf("payload of %d bytes in a buffer with %d", h.Size, len(payload))}
	}
	return &vhostuser.Message{Code: h.Code, Flags: h.Flags, Payload: payload}, nil
}

// Send is vhostuser.Link.Send. It waits while the device has all buffers.
func (l *link) Send(ctx context.Context, m *vhostuser.Message) error {
	size := vhostuser.HeaderSize + len(m.Payload)
	if size > txSize || len(m.Files) > 0 {
		return fmt.Errorf("send vhost-user %s: %d bytes and %d descriptors; at most %d and none can be sent", m.Code, size, len(m.Files), txSize)
	}
	q := &l.d.tx
	for {
		if l.over || l.stale() {
			return io.EOF
		}
		q.reclaim()
		if err := q.ring.Err(); err != nil {
			return err
		}
		if k, ok := q.get(); ok {
			b := vhostuser.Header{Code: m.Code, Flags: m.Flags, Size: uint32(len(m.Payload))}.Append(q.buffer(k)[:0])
			q.put(k, len(append(b, m.Payload...)))
			l.d.kick(q)
			return nil
		}
		if err := l.waitForRoom(ctx); err != nil {
			return err
		}
	}
}

// waitForRoom waits until the device may have given a tx buffer back.
func (l *link) waitForRoom(ctx context.Context) error {
	q := &l.d.tx
	defer q.ring.DisarmCalls()
	if q.ring.ArmCalls() {
		return nil
	}
	if err := l.look(); err != nil || l.over {
		return err
	}
	return l.d.wait(ctx)
}

// Map is vhostuser.Link.Map: the regions are pieces of the window, which stays mapped.
func (l *link) Map(_ *vhostuser.Message, regions []vhostuser.Region) ([]vhostuser.Mapping, error) {
	offsets, err := l.placer.place(regions)
	if err != nil {
		return nil, err
	}
	maps := make([]vhostuser.Mapping, len(regions))
	for i, off := range offsets {
		end := off + regions[i].Size
		maps[i].Mem = l.d.window[off:end:end]
	}
	return maps, nil
}

// Kick is vhostuser.Link.Kick: the eventfd of the ring's interrupt, or the one behind it
// if the device gives that away. A front-end that wants its ring to be polled gets the
// former, which is polled if it must be.
func (l *link) Kick(_ *vhostuser.Message, ring vhostuser.VringFile) (*fd.FD, error) {
	rings := l.d.vectors.rings
	if int(ring.Index) >= len(rings) {
		return nil, fmt.Errorf("ring %d of a device with %d", ring.Index, len(rings))
	}
	vector := rings[ring.Index]
	if d, ok := l.d.dev.(sourceDevice); ok && l.d.extended && l.d.vectors.alone(vector) {
		if event, err := d.Source(vfio.MSIX, vector); event != nil || err != nil {
			return event, err
		}
	}
	n, err := duplicate(l.d.events[vector])
	if err != nil {
		return nil, err
	}
	return fd.New(n, fmt.Sprintf("kick %d", ring.Index)), nil
}

// Bell is vhostuser.Link.Bell: a doorbell, or the eventfd behind it if the device gives
// that away.
func (l *link) Bell(m *vhostuser.Message, ring vhostuser.VringFile) (vhostuser.Bell, error) {
	index := int64(ring.Index)
	if m.Code == vhostuser.SetVringErr {
		if !l.d.errBells {
			return nil, nil
		}
		index += int64(l.d.maxRings)
	}
	if ring.NoFD {
		return nil, nil
	}
	off := index * l.d.spacing
	if off%2 != 0 || off+2 > l.d.doorbells.Size() {
		return nil, fmt.Errorf("doorbell %d lies at %#x of %#x bytes, or is not aligned", index, off, l.d.doorbells.Size())
	}
	if l.d.bells != nil && m.Code == vhostuser.SetVringCall {
		event, err := l.d.bells.WriteEvent(l.d.bellsAt + off)
		if err != nil {
			return nil, fmt.Errorf("eventfd of doorbell %d: %w", index, err)
		}
		if event != nil {
			return vhostuser.NewEventBell(event)
		}
	}
	return &doorbell{regs: l.d.doorbells, off: off, ring: uint16(ring.Index)}, nil
}

// PassesFiles is vhostuser.Link.PassesFiles.
func (l *link) PassesFiles() bool { return false }

// Pinnable is vhostuser.Link.Pinnable: pages of a BAR have no descriptors in the kernel.
func (l *link) Pinnable() bool { return false }

// Close ends the connection, if it isn't over. Replies of this link that are late go
// nowhere.
func (l *link) Close() error {
	if l.stale() {
		return nil
	}
	l.d.epoch++
	if !l.d.lost() {
		l.d.hangUp()
	}
	return nil
}

// A doorbell is the register behind the call of a ring.
type doorbell struct {
	regs *vfio.Registers
	off  int64
	ring uint16
}

// Notify rings. What was stored in the sibling's memory before is visible before.
func (b *doorbell) Notify() error {
	vfio.Fence()
	b.regs.Write16(b.off, b.ring)
	return nil
}

// Close does nothing: a doorbell has no end.
func (b *doorbell) Close() error { return nil }
