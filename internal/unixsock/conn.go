package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
)

// Dial connects to whoever listens at path.
func Dial(ctx context.Context, path string) (*net.UnixConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, Cause(err))
	}
	return conn.(*net.UnixConn), nil
}

// Pair returns the two ends of a new connection within this process.
func Pair() (a, b *net.UnixConn, err error) {
	n, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	a, err = Conn(n[0])
	b, err2 := Conn(n[1])
	if err := errors.Join(err, err2); err != nil {
		for _, c := range []*net.UnixConn{a, b} {
			if c != nil {
				c.Close()
			}
		}
		return nil, nil, err
	}
	return a, b, nil
}

// Conn makes a connection of a connected unix stream socket, which it owns.
func Conn(n int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(n), "socket")
	defer f.Close()
	c, err := net.FileConn(f) // of a duplicate
	if err != nil {
		return nil, fmt.Errorf("use a socket: %w", err)
	}
	return c.(*net.UnixConn), nil
}

// Control returns room for the descriptors of one ReadFull.
func Control(maxFiles int) []byte { return make([]byte, unix.CmsgSpace(maxFiles*4)) }

// ReadFull fills b from conn and adds the descriptors that come along to files, which
// the caller owns, on errors too. A message never has more than maxFiles; control is
// Control(maxFiles), and name is what the descriptors are called. n is how much of b
// was filled.
func ReadFull(conn *net.UnixConn, b, control []byte, maxFiles int, name string, files *[]*fd.FD) (n int, err error) {
	for n < len(b) {
		got, ctl, flags, _, err := conn.ReadMsgUnix(b[n:], control)
		if err != nil {
			return n, err
		}
		if err := addFiles(control[:ctl], name, files); err != nil {
			return n, err
		}
		if flags&unix.MSG_CTRUNC != 0 || len(*files) > maxFiles {
			return n, fmt.Errorf("more than %d descriptors in one message", maxFiles)
		}
		if got == 0 {
			return n, io.EOF
		}
		n += got
	}
	return n, nil
}

// addFiles takes the descriptors out of the control part of received bytes.
func addFiles(control []byte, name string, files *[]*fd.FD) error {
	if len(control) == 0 {
		return nil
	}
	parts, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return fmt.Errorf("control message: %w", err)
	}
	for i := range parts {
		fds, err := unix.ParseUnixRights(&parts[i])
		if err != nil {
			continue // not descriptors
		}
		for _, n := range fds {
			*files = append(*files, fd.New(n, name))
		}
	}
	return nil
}

// Inside turns the end of the stream into the end of a stream inside a message.
func Inside(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Ended reports whether err, met before the first byte of a message, means that the
// peer has left.
func Ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) }
