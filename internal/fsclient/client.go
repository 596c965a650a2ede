// Package fsclient is the driver's side of a virtio-fs device: it connects to any
// vhost-user-fs backend, as a virtual machine would, and passes FUSE requests through
// its rings.
//
//	caller: Slot.In ─► Ring.Submit ─► Ring.Publish ─► kick ─► ┌─────────┐
//	                      memory shared with the backend      │ backend │
//	caller: Slot.Out ◄─ Ring.Reap ◄─ Ring.Wait ◄──── call ◄── └─────────┘
//
// One memfd holds the rings and the slots. A slot is room for one request and its
// reply, laid out as a Linux guest would: payload starts on a page. Between connecting
// and closing nothing allocates.
//
// Ownership: the Client owns the connection, the memory and the eventfds until Close.
// A slot is the caller's, but belongs to the backend from Submit to Reap. A Ring
// belongs to one goroutine at a time; different rings share nothing. There are no
// locks.
//
// The backend is trusted with the contents of the slots, which it writes, and with
// nothing else: a ring that it breaks ends with an error (virtq.Driver).
//
// Spec: virtio 1.3, 5.11; vhost-user; fs-device.md B.
package fsclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/unixsock"
	"vfiofs/virtio"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtq"
)

// Defaults of Options.
const (
	DefaultRingSize = 256
	DefaultSlots    = 64
	DefaultData     = 1 << 20
)

const (
	// setupTime is how long a backend may take to be set up.
	setupTime = 10 * time.Second
	// maxRings bounds the rings of one device: hiprio and 63 request rings
	// (fs-device.md B.1).
	maxRings = 64

	tagSize    = 36 // virtio 1.3, 5.11.4: tag[36], le32 num_request_queues
	configSize = 40
)

// ErrGone says that the backend has closed the connection: it ended or crashed.
var ErrGone = errors.New("the backend has closed the connection")

// Options say how much of a device to use. The zero Options are ready for use.
type Options struct {
	// Queues is the largest number of request rings; 0 means as many as the backend has.
	Queues int
	// RingSize is the number of descriptors of each ring, a power of two. 0 means
	// DefaultRingSize.
	RingSize int
	// Slots is the number of slots of all rings together. 0 means DefaultSlots per
	// request ring.
	Slots int
	// Data is the number of payload bytes that a slot has room for in each direction,
	// a multiple of the page size. 0 means DefaultData.
	Data int
	// Without are features that are not acknowledged though the backend offers them.
	Without virtio.Features
	// Room is the number of bytes of shared memory for the caller's own layout, see
	// Client.Room.
	Room int
	// Memory is what to use as shared memory instead of an anonymous file, or nil. It is
	// the Client's from then on, on errors too.
	Memory *vhostuser.GuestMemory
}

// A Client is one connection to a backend.
type Client struct {
	front *vhostuser.Frontend
	hup   *fd.FD // the socket, to see it hang up
	mem   *vhostuser.GuestMemory
	rings []*Ring
	slots []*Slot
	room  int // offset in mem of the caller's own memory

	features virtio.Features
	tag      string
}

// Dial connects to the backend that listens at path. ctx ends the attempt, and nothing
// once Dial has returned.
func Dial(ctx context.Context, path string, o Options) (*Client, error) {
	conn, err := unixsock.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	c, err := Connect(conn, o)
	if !stop() {
		if err == nil {
			c.Close()
		}
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("set up the backend at %s: %w", path, err)
	}
	return c, nil
}

// Connect sets a backend up over conn, which it owns from now on, on errors too.
func Connect(conn *net.UnixConn, o Options) (_ *Client, err error) {
	if o.RingSize == 0 {
		o.RingSize = DefaultRingSize
	}
	if o.Data == 0 {
		o.Data = DefaultData
	}
	c := &Client{front: vhostuser.NewFrontend(conn), mem: o.Memory}
	defer func() {
		if err == nil {
			return
		}
		c.Close()
		if t := net.Error(nil); errors.As(err, &t) && t.Timeout() {
			err = fmt.Errorf("no answer in %v: is it busy with another client? (%w)", setupTime, err)
		}
	}()
	if c.hup, err = duplicate(conn); err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(setupTime)); err != nil {
		return nil, err
	}
	queues, err := c.negotiate(o)
	if err != nil {
		return nil, err
	}
	if err := c.layOut(queues, o); err != nil {
		return nil, err
	}
	if err := c.start(); err != nil {
		return nil, err
	}
	return c, conn.SetDeadline(time.Time{})
}

// duplicate returns a descriptor of the socket under conn.
func duplicate(conn *net.UnixConn) (*fd.FD, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var n int
	var dupErr error
	if err := raw.Control(func(s uintptr) {
		n, dupErr = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, fmt.Errorf("duplicate the connection: %w", dupErr)
	}
	return fd.New(n, "backend connection"), nil
}

// negotiate agrees on features and returns the number of request rings to use.
func (c *Client) negotiate(o Options) (queues int, err error) {
	f := c.front
	offered, err := f.Features()
	if err != nil {
		return 0, err
	}
	if offered&virtio.FeatureVersion1 == 0 {
		return 0, fmt.Errorf("features %#x lack VIRTIO_F_VERSION_1: legacy devices are not supported", uint64(offered))
	}
	c.features = offered &^ o.Without & (virtio.FeatureVersion1 | virtio.FeatureEventIdx |
		virtio.FeatureIndirectDesc | vhostuser.FeatureProtocolFeatures)
	var protocol vhostuser.ProtocolFeatures
	if c.features&vhostuser.FeatureProtocolFeatures != 0 {
		if protocol, err = f.ProtocolFeatures(); err != nil {
			return 0, err
		}
		protocol &= vhostuser.ProtocolMQ | vhostuser.ProtocolConfig | vhostuser.ProtocolReplyAck
		if err := f.SetProtocolFeatures(protocol); err != nil {
			return 0, err
		}
	}
	if err := f.SetOwner(); err != nil {
		return 0, err
	}
	if err := f.SetFeatures(c.features); err != nil {
		return 0, err
	}
	return c.countQueues(protocol, o.Queues)
}

// countQueues returns how many request rings to use: what the backend has, at most
// limit unless that is 0.
func (c *Client) countQueues(protocol vhostuser.ProtocolFeatures, limit int) (int, error) {
	queues := 1
	if protocol&vhostuser.ProtocolMQ != 0 {
		n, err := c.front.QueueNum()
		if err != nil {
			return 0, err
		}
		if n < 2 {
			return 0, fmt.Errorf("%d queues; a virtio-fs device has at least 2", n)
		}
		queues = int(min(n, maxRings)) - 1
	}
	if protocol&vhostuser.ProtocolConfig != 0 {
		b, err := c.front.Config(0, configSize)
		if err != nil {
			return 0, err
		}
		tag, _, _ := bytes.Cut(b[:tagSize], []byte{0})
		c.tag = string(tag)
		n := binary.LittleEndian.Uint32(b[tagSize:])
		if n == 0 {
			return 0, errors.New("configuration space says 0 request queues; want at least 1")
		}
		queues = int(min(uint32(queues), n))
	}
	if limit > 0 {
		queues = min(queues, limit)
	}
	return queues, nil
}

// layOut makes the memory and divides it into rings and slots.
func (c *Client) layOut(queues int, o Options) (err error) {
	if o.Slots == 0 {
		o.Slots = DefaultSlots * queues
	}
	page := unix.Getpagesize()
	ringSpace := (virtq.Layout(o.RingSize).Total + page - 1) &^ (page - 1)
	slotSpace := 2 * (page + o.Data)
	rings := 1 + queues
	c.room = rings*ringSpace + o.Slots*slotSpace
	switch size := c.room + o.Room; {
	case c.mem == nil:
		if c.mem, err = vhostuser.NewGuestMemory(0, size); err != nil {
			return err
		}
	case len(c.mem.Mem) < size:
		return fmt.Errorf("the memory has %d bytes; rings, slots and room need %d", len(c.mem.Mem), size)
	}
	for i := range rings {
		q, err := c.front.NewRing(c.mem, i*ringSpace, i, o.RingSize)
		if err != nil {
			return err
		}
		c.rings = append(c.rings, &Ring{
			q: q, hup: c.hup, slots: make([]*Slot, o.RingSize),
			indirect: c.features&virtio.FeatureIndirectDesc != 0,
		})
	}
	for i := range o.Slots {
		c.slots = append(c.slots, newSlot(c.mem, rings*ringSpace+i*slotSpace, page, o.Data))
	}
	return nil
}

// start shares the memory and starts all rings.
func (c *Client) start() error {
	if err := c.front.Share(c.mem); err != nil {
		return err
	}
	for _, r := range c.rings {
		if err := c.front.StartRing(r.q, 0); err != nil {
			return err
		}
	}
	// Without REPLY_ACK nothing was answered so far: a backend that hung up shows here.
	return c.front.Sync()
}

// Tag returns the device's tag, or "" if the backend doesn't tell.
func (c *Client) Tag() string { return c.tag }

// Features returns the features that were agreed on.
func (c *Client) Features() virtio.Features { return c.features }

// Rings returns the number of rings: the hiprio ring, which is ring 0, and the request
// rings.
func (c *Client) Rings() int { return len(c.rings) }

// Ring returns ring i of Rings.
func (c *Client) Ring(i int) *Ring { return c.rings[i] }

// Slots returns all slots. They may be used with any ring.
func (c *Client) Slots() []*Slot { return c.slots }

// HangUp returns a descriptor that reports POLLRDHUP when the backend is gone.
func (c *Client) HangUp() int { return c.hup.Int() }

// Gone reports whether the backend is gone.
func (c *Client) Gone() bool {
	p := []unix.PollFd{{Fd: int32(c.hup.Int()), Events: unix.POLLRDHUP}}
	n, _ := unix.Poll(p, 0)
	return n > 0
}

// Close ends the connection. Nothing may be in use any more.
func (c *Client) Close() error {
	err := c.front.Close()
	for _, r := range c.rings {
		err = errors.Join(err, r.q.Close())
	}
	if c.mem != nil {
		err = errors.Join(err, c.mem.Close())
	}
	return errors.Join(err, c.hup.Close())
}
