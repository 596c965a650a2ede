package vfiouser

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/unixsock"
)

// Limits of ours and of peers that name none (vfio-user.md 1.2 and 3.2).
const (
	maxTransfer = 1 << 20            // bytes in one access
	maxMessage  = maxTransfer + 4096 // bytes in one message
	maxFiles    = 16                 // descriptors that can be received at once

	defaultTransfer = 1 << 20
	defaultFiles    = 8
)

// A PeerError says that the peer broke the protocol. The connection is of no use any
// more; the next one may be.
type PeerError struct {
	Command Command
	Reason  string
}

// Error names the command and what is wrong with it.
func (e *PeerError) Error() string { return "vfio-user " + e.Command.String() + ": " + e.Reason }

// A message is one command or reply. Whoever receives it owns its files.
type message struct {
	header
	payload []byte // valid until the next recv
	files   []*fd.FD
}

// take returns file i and leaves it to the caller to close.
func (m *message) take(i int) *fd.FD {
	f := m.files[i]
	m.files[i] = nil
	return f
}

// close closes the files that nobody took.
func (m *message) close() {
	for _, f := range m.files {
		f.Close()
	}
	clear(m.files)
	m.files = m.files[:0]
}

// A conn sends and receives messages. One goroutine receives; any may send.
type conn struct {
	sock    *net.UnixConn
	header  [headerSize]byte
	in      []byte // payloads; grows to what the peer sends, up to maxMessage
	control []byte // room for the descriptors of one recvmsg

	sending sync.Mutex
	out     []byte // the message that is being sent
}

// newConn makes a conn of a socket, which it owns from now on.
func newConn(sock *net.UnixConn) *conn {
	return &conn{sock: sock, control: unixsock.Control(maxFiles)}
}

// close ends the connection, and what waits for it.
func (c *conn) close() error {
	if err := c.sock.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close vfio-user connection: %w", err)
	}
	return nil
}

// expire ends all sending and receiving.
func (c *conn) expire() { c.sock.SetDeadline(time.Unix(1, 0)) }

// recv reads one message into m. It returns io.EOF when the peer left between
// messages. On an error m holds no files.
func (c *conn) recv(m *message) error {
	err := c.recvInto(m)
	if err != nil {
		m.close()
	}
	return err
}

// recvInto is recv, and leaves it to the caller to close files on errors.
//
// Both kinds of peers attach descriptors to the first byte of a message. Reading the
// payload without room for any lets the kernel drop those that come in the middle.
func (c *conn) recvInto(m *message) error {
	n, err := c.recvHeader(m)
	if n == 0 && unixsock.Ended(err) {
		return io.EOF
	}
	if err != nil {
		return fmt.Errorf("vfio-user header after %d bytes: %w", n, unixsock.Inside(err))
	}
	m.header = decodeHeader(c.header[:])
	if m.size < headerSize || m.size > maxMessage {
		return &PeerError{m.command, fmt.Sprintf("message size is %d; want %d to %d", m.size, headerSize, maxMessage)}
	}
	c.in = slices.Grow(c.in[:0], int(m.size-headerSize))
	m.payload = c.in[:m.size-headerSize]
	if n, err := io.ReadFull(c.sock, m.payload); err != nil {
		return fmt.Errorf("vfio-user %s payload after %d of %d bytes: %w", m.command, n, len(m.payload), unixsock.Inside(err))
	}
	return nil
}

// recvHeader reads a header and the descriptors that come along.
func (c *conn) recvHeader(m *message) (int, error) {
	return unixsock.ReadFull(c.sock, c.header[:], c.control, maxFiles, "vfio-user descriptor", &m.files)
}

// send sends one message, whose payload is that of two parts. Files stay the
// caller's.
func (c *conn) send(h header, payload, data []byte, files ...*fd.FD) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	h.size = uint32(headerSize + len(payload) + len(data))
	c.out = h.append(c.out[:0])
	c.out = append(c.out, payload...)
	c.out = append(c.out, data...)
	err := c.write(c.out, files)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
		return io.EOF
	}
	return fmt.Errorf("send vfio-user %s: %w", h.command, err)
}

// write sends b, with files in the same call as its first byte.
func (c *conn) write(b []byte, files []*fd.FD) error {
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = f.Int()
		}
		n, _, err := c.sock.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	if len(b) == 0 {
		return nil
	}
	_, err := c.sock.Write(b)
	return err
}

// refuse answers a command with an error.
func (c *conn) refuse(m *message, errno syscall.Errno) error {
	return c.send(header{id: m.id, command: m.command, flags: flagReply | flagError, errno: uint32(errno)}, nil, nil)
}

// errnoOf returns what a refusal says about err: the errno in it, or EINVAL.
func errnoOf(err error) syscall.Errno {
	if errno, ok := errors.AsType[syscall.Errno](err); ok && errno != 0 {
		return errno
	}
	return unix.EINVAL
}
