package vhostuser

import (
	"context"
	"errors"
	"io"

	"vfiofs/internal/fd"
	"vfiofs/virtio"
)

// A Link is what differs between a unix socket and a virtio-vhost-user PCI function:
// how messages travel, how guest memory is reached and how bells are rung. The
// session calls all methods from one goroutine; bells are rung from any.
//
// An error of Map, Kick or Bell refuses the message; one that is ErrUnsupported
// refuses it without ending the session. An error of Recv or Send ends the session.
type Link interface {
	// Recv returns the next message: io.EOF when the peer left between messages, and
	// ctx's error once ctx is done. The message's payload is valid until the next Recv.
	Recv(ctx context.Context) (*Message, error)
	// Send sends a message that carries no files. It returns io.EOF when the peer is gone.
	Send(ctx context.Context, m *Message) error
	// Map makes the regions of m addressable, all or none, in their order. They are
	// mapped as one because a BAR has a layout rule over all regions of a SET_MEM_TABLE.
	// Each mapping ends on its own, which ADD_MEM_REG and REM_MEM_REG need.
	Map(m *Message, regions []Region) ([]Mapping, error)
	// Kick returns the kick of a ring from a SET_VRING_KICK: an eventfd on either
	// transport (the peer's, or the one that VFIO signals for an MSI-X vector), so that
	// it can sit in a ring thread's epoll set. The caller closes it.
	Kick(m *Message, ring VringFile) (*fd.FD, error)
	// Bell returns the bell of a ring from a SET_VRING_CALL or SET_VRING_ERR (m.Code
	// tells which), or nil if the front-end wants none. The caller closes it.
	Bell(m *Message, ring VringFile) (Bell, error)
	// PassesFiles reports whether messages can carry descriptors. Without them dirty
	// logging, single memory regions and requests of our own are not offered.
	PassesFiles() bool
	// Pinnable reports whether the kernel can take references to mapped pages (true for
	// memory files, false for a BAR), which O_DIRECT needs.
	Pinnable() bool
	io.Closer
}

// A Mapping is one region's memory. Unmap may be nil; otherwise it is called once,
// after the last use of Mem.
type Mapping struct {
	Mem   []byte
	Unmap func() error
}

// A Bell is a Notifier with an end. Notify never blocks.
type Bell interface {
	virtio.Notifier
	io.Closer
}

// ErrUnsupported marks requests that are well-formed but ask for something optional
// that is not offered.
var ErrUnsupported = errors.New("not supported")

// A PeerError says that the peer broke the protocol. The connection is of no use any
// more; the next one may be.
type PeerError struct {
	Code   Code
	Reason string
}

// Error names the message and what is wrong with it.
func (e *PeerError) Error() string { return "vhost-user " + e.Code.String() + ": " + e.Reason }

// A Message is one vhost-user message. Whoever receives it owns its files.
type Message struct {
	Code    Code
	Flags   Flags
	Payload []byte
	Files   []*fd.FD
}

// take returns file i and leaves it to the caller to close.
func (m *Message) take(i int) *fd.FD {
	f := m.Files[i]
	m.Files[i] = nil
	return f
}

// Close closes the files that nobody took.
func (m *Message) Close() {
	for _, f := range m.Files {
		f.Close()
	}
	m.Files = nil
}
