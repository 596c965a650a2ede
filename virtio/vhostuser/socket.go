package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/unixsock"
)

// A Socket is a Link over a unix stream socket: descriptors travel with the messages
// (SCM_RIGHTS), memory is mapped from them and bells are eventfds. Close may be
// called from any goroutine and ends a Recv or Send.
type Socket struct {
	conn    *net.UnixConn
	header  [HeaderSize]byte
	payload [MaxPayload]byte
	control []byte // room for the descriptors of one recvmsg
}

// NewSocket makes a Link of a connection, which it owns from now on.
func NewSocket(conn *net.UnixConn) *Socket {
	return &Socket{conn: conn, control: unixsock.Control(MaxFiles)}
}

// Pair returns the two ends of a new connection within this process.
func Pair() (*Socket, *Frontend, error) {
	back, front, err := unixsock.Pair()
	if err != nil {
		return nil, nil, err
	}
	return NewSocket(back), NewFrontend(front), nil
}

// Recv is Link.Recv.
func (s *Socket) Recv(ctx context.Context) (*Message, error) {
	defer s.endWith(ctx)()
	m := new(Message)
	err := s.recv(m)
	if err == nil {
		return m, nil
	}
	m.Close()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, err
}

// recv reads one message. Descriptors belong to the message whose bytes they came
// with, header or payload.
func (s *Socket) recv(m *Message) error {
	n, err := s.fill(m, s.header[:])
	if n == 0 && unixsock.Ended(err) {
		return io.EOF
	}
	if err != nil {
		return fmt.Errorf("vhost-user header after %d bytes: %w", n, unixsock.Inside(err))
	}
	h, err := DecodeHeader(s.header[:])
	if err != nil {
		return &PeerError{Code: h.Code, Reason: err.Error()}
	}
	m.Code, m.Flags, m.Payload = h.Code, h.Flags, s.payload[:h.Size]
	if n, err = s.fill(m, m.Payload); err != nil {
		return fmt.Errorf("vhost-user %s payload after %d of %d bytes: %w", h.Code, n, h.Size, unixsock.Inside(err))
	}
	return nil
}

// fill reads len(b) bytes and adds the descriptors that come along to m.
func (s *Socket) fill(m *Message, b []byte) (int, error) {
	return unixsock.ReadFull(s.conn, b, s.control, MaxFiles, "vhost-user descriptor", &m.Files)
}

// Send is Link.Send. It may also carry files; they stay the caller's.
func (s *Socket) Send(ctx context.Context, m *Message) error {
	defer s.endWith(ctx)()
	b := Header{Code: m.Code, Flags: m.Flags, Size: uint32(len(m.Payload))}.Append(nil)
	b = append(b, m.Payload...)
	var control []byte
	if len(m.Files) > 0 {
		fds := make([]int, len(m.Files))
		for i, f := range m.Files {
			fds[i] = f.Int()
		}
		control = unix.UnixRights(fds...)
	}
	n, _, err := s.conn.WriteMsgUnix(b, control, nil)
	if err == nil && n < len(b) {
		_, err = s.conn.Write(b[n:])
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
		return io.EOF
	}
	return fmt.Errorf("send vhost-user %s: %w", m.Code, err)
}

// endWith makes the end of ctx end reads and writes. The result is called when they
// are over.
func (s *Socket) endWith(ctx context.Context) (done func() bool) {
	return context.AfterFunc(ctx, func() { s.conn.SetDeadline(time.Unix(1, 0)) })
}

// Kick is Link.Kick: the eventfd that came with the message.
func (s *Socket) Kick(m *Message, ring VringFile) (*fd.FD, error) {
	if err := m.wantFiles(ring); err != nil {
		return nil, err
	}
	if ring.NoFD {
		return nil, fmt.Errorf("ring %d without a kick: polling is %w", ring.Index, ErrUnsupported)
	}
	return m.take(0), nil
}

// Bell is Link.Bell: the eventfd that came with the message.
func (s *Socket) Bell(m *Message, ring VringFile) (Bell, error) {
	if err := m.wantFiles(ring); err != nil {
		return nil, err
	}
	if ring.NoFD {
		return nil, nil
	}
	return NewEventBell(m.take(0))
}

// wantFiles reports an error unless m carries one descriptor, or none with NoFD.
func (m *Message) wantFiles(ring VringFile) error {
	want := 1
	if ring.NoFD {
		want = 0
	}
	return m.wantCount(want)
}

// wantCount reports an error unless m carries n descriptors.
func (m *Message) wantCount(n int) error {
	if len(m.Files) != n {
		return fmt.Errorf("%d descriptors; want %d", len(m.Files), n)
	}
	return nil
}

// PassesFiles is Link.PassesFiles.
func (s *Socket) PassesFiles() bool { return true }

// Pinnable is Link.Pinnable.
func (s *Socket) Pinnable() bool { return true }

// Close ends the connection.
func (s *Socket) Close() error {
	if err := s.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close vhost-user connection: %w", err)
	}
	return nil
}

// NewEventBell returns a Bell that adds 1 to an eventfd of a peer, which it owns.
func NewEventBell(event *fd.FD) (Bell, error) {
	flags, err := unix.FcntlInt(uintptr(event.Int()), unix.F_GETFL, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("flags of %s: %w", event, err), event.Close())
	}
	return &eventBell{event: event, mayBlock: flags&unix.O_NONBLOCK == 0}, nil
}

// An eventBell rings by adding 1 to an eventfd.
type eventBell struct {
	event *fd.FD
	// mayBlock says that the peer made the eventfd blocking. Its flags are the peer's, so
	// a write must be known to pass.
	mayBlock bool
}

// Notify adds 1, or does nothing if the counter is full: the peer has a signal to
// read then.
func (b *eventBell) Notify() error {
	if b.mayBlock && !b.writable() {
		return nil
	}
	return b.event.Signal()
}

// writable reports whether a write would pass without waiting.
func (b *eventBell) writable() bool {
	p := []unix.PollFd{{Fd: int32(b.event.Int()), Events: unix.POLLOUT}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1
}

// Close closes the eventfd.
func (b *eventBell) Close() error { return b.event.Close() }
