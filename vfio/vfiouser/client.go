package vfiouser

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/unixsock"
	"vfiofs/vfio"
)

// Dial attaches to the function that a server shows at path. ctx ends the attempt; the
// Device lives on without it.
func Dial(ctx context.Context, path string) (vfio.Device, error) {
	conn, err := unixsock.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	dev, err := Attach(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("attach to %s: %w", path, err)
	}
	return dev, nil
}

// Attach is Dial over a connection, which it owns from now on.
func Attach(ctx context.Context, sock *net.UnixConn) (vfio.Device, error) {
	c := &client{
		conn:    newConn(sock),
		answers: make(chan struct{}, 1),
		gone:    make(chan struct{}),
		peer:    capabilities{MaxTransfer: defaultTransfer, MaxFiles: 1},
	}
	go c.receive()
	stop := context.AfterFunc(ctx, c.conn.expire)
	err := c.attach()
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// A client is a vfio.Device behind a socket.
type client struct {
	conn  *conn
	gone  chan struct{}             // closed when receive ends
	err   error                     // why; set before
	fault atomic.Pointer[PeerError] // what broken found

	// What the server said while attaching.
	peer    capabilities
	info    deviceInfo
	regions [vfio.NumRegions]*region
	vectors [irqKinds]int

	// calls is held for the length of one command with its reply.
	calls  sync.Mutex
	nextID uint16
	reply  message // of the last command
	closed bool
	active [irqKinds]int // vectors that have an eventfd at the server

	// waiting is what receive knows about the command of calls.
	waiting struct {
		sync.Mutex
		now     bool
		id      uint16
		command Command
	}
	answers chan struct{} // reply is there

	// dma is the memory that the server may reach.
	dma struct {
		sync.Mutex
		maps []dmaMemory
		data []byte // of DMA_READ
	}
}

// attach learns what the function is.
func (c *client) attach() error {
	ours := version{majorVersion, minorVersion, capabilities{MaxTransfer: maxTransfer, MaxFiles: maxFiles}}
	err := c.ask(Version, ours.append(nil), func(m *message) error {
		v, err := decodeVersion(m.payload)
		switch {
		case err != nil:
			return err
		case v.major != majorVersion || v.minor > minorVersion:
			return fmt.Errorf("version %d.%d; want %d.%d", v.major, v.minor, majorVersion, minorVersion)
		case v.capabilities.MaxTransfer < minTransfer:
			return fmt.Errorf("accesses have at most %d bytes; want at least %d", v.capabilities.MaxTransfer, minTransfer)
		}
		c.peer = v.capabilities
		return nil
	})
	if err != nil {
		return err
	}
	return c.learn()
}

// minTransfer is the widest register access in bytes.
const minTransfer = 8

// learn asks for the function's regions and interrupts.
func (c *client) learn() error {
	err := c.ask(GetInfo, deviceInfo{}.append(nil), func(m *message) (err error) {
		c.info, err = decodeDeviceInfo(m.payload)
		if err == nil && c.info.flags&infoPCI == 0 {
			err = errors.New("not a PCI function")
		}
		return err
	})
	if err != nil {
		return err
	}
	for i := range c.regions {
		c.regions[i] = &region{client: c, index: uint32(i)}
		if i < int(min(c.info.regions, vfio.NumRegions)) {
			if err := c.regions[i].learn(); err != nil {
				return fmt.Errorf("region %d: %w", i, err)
			}
		}
	}
	for i := range min(uint32(irqKinds), c.info.irqs) {
		err := c.ask(GetIRQInfo, irqInfo{index: i}.append(nil), func(m *message) error {
			info, err := decodeIRQInfo(m.payload)
			if err == nil && (info.index != i || info.count > maxVectors) {
				err = fmt.Errorf("%d interrupts of kind %d", info.count, info.index)
			}
			if info.flags&irqEventfd != 0 {
				c.vectors[i] = int(info.count)
			}
			return err
		})
		// A server may not know the kinds that a function doesn't have.
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return nil
}

// maxVectors is the largest MSI-X table (PCI 3.0, 6.8.2).
const maxVectors = 2048

// ask sends a command and hands the reply to use. An error of use is the server's and
// ends the connection.
func (c *client) ask(command Command, payload []byte, use func(m *message) error, files ...*fd.FD) error {
	c.calls.Lock()
	defer c.calls.Unlock()
	return c.askLocked(command, payload, nil, use, files...)
}

// tell is ask for a command whose reply says nothing.
func (c *client) tell(command Command, payload []byte, files ...*fd.FD) error {
	return c.ask(command, payload, nil, files...)
}

// askLocked is ask with data behind the payload. The caller holds calls.
func (c *client) askLocked(command Command, payload, data []byte, use func(m *message) error, files ...*fd.FD) error {
	m, err := c.call(command, payload, data, files...)
	if err != nil {
		return err
	}
	defer m.close()
	if use == nil {
		return nil
	}
	if err := use(m); err != nil {
		return c.broken(command, err.Error())
	}
	return nil
}

// broken ends the connection to a server that makes no sense.
func (c *client) broken(command Command, reason string) error {
	err := &PeerError{command, reason}
	c.fault.CompareAndSwap(nil, err)
	c.conn.expire()
	return err
}

// call sends a command and waits for the reply, which is valid until the next one. The
// caller holds calls, and closes the reply.
func (c *client) call(command Command, payload, data []byte, files ...*fd.FD) (*message, error) {
	select {
	case <-c.gone:
		return nil, c.lost()
	default:
	}
	id := c.nextID
	c.nextID++
	c.expect(true, id, command)
	if err := c.conn.send(header{id: id, command: command}, payload, data, files...); err != nil {
		// Half a message may be on its way: nothing sensible can follow.
		c.conn.expire()
		<-c.gone
		return nil, c.lost()
	}
	select {
	case <-c.answers:
	case <-c.gone:
		return nil, c.lost()
	}
	if c.reply.flags&flagError != 0 {
		c.reply.close()
		return nil, fmt.Errorf("vfio-user %s: %w", command, syscall.Errno(c.reply.errno))
	}
	return &c.reply, nil
}

// expect tells receive about the command that is under way.
func (c *client) expect(now bool, id uint16, command Command) {
	c.waiting.Lock()
	defer c.waiting.Unlock()
	c.waiting.now, c.waiting.id, c.waiting.command = now, id, command
}

// lost says that the server is gone, and why.
func (c *client) lost() error { return fmt.Errorf("vfio-user server is gone: %w", c.err) }

// receive deals with what the server sends, until nothing more can come.
func (c *client) receive() {
	defer close(c.gone)
	c.err = c.receiveAll()
	if fault := c.fault.Load(); fault != nil {
		c.err = fault
	}
	c.conn.expire()
}

// receiveAll deals with replies, and with commands of the server's.
func (c *client) receiveAll() error {
	var m message
	for {
		if err := c.conn.recv(&m); err != nil {
			return err
		}
		deal := c.serve
		if m.flags&typeMask == flagReply {
			deal = c.accept
		}
		err := deal(&m)
		m.close()
		if err != nil {
			return err
		}
	}
}

// accept hands a reply to the command that waits for it.
func (c *client) accept(m *message) error {
	c.waiting.Lock()
	defer c.waiting.Unlock()
	switch {
	case !c.waiting.now || c.waiting.id != m.id || c.waiting.command != m.command:
		return &PeerError{m.command, fmt.Sprintf("reply %d to a command that was not sent", m.id)}
	case m.flags&flagError != 0 && (m.errno == 0 || m.errno > maxErrno):
		return &PeerError{m.command, fmt.Sprintf("error %d", m.errno)}
	}
	c.waiting.now = false
	c.reply.header = m.header
	c.reply.payload = append(c.reply.payload[:0], m.payload...)
	c.reply.files, m.files = append(c.reply.files[:0], m.files...), m.files[:0]
	c.answers <- struct{}{}
	return nil
}

// maxErrno is the largest errno of Linux (linux/err.h: MAX_ERRNO).
const maxErrno = 4095

// Gone is vfio.Device.Gone.
func (c *client) Gone() <-chan struct{} { return c.gone }

// Close leaves the server, and ends what waits for it.
func (c *client) Close() error {
	errs := []error{c.conn.close()}
	<-c.gone
	c.calls.Lock()
	defer c.calls.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	c.reply.close()
	for _, r := range c.regions {
		if r != nil {
			errs = append(errs, r.close())
		}
	}
	c.dma.Lock()
	defer c.dma.Unlock()
	c.dma.maps = nil
	return errors.Join(errs...)
}
