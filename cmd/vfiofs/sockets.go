package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/unixsock"
	"vfiofs/virtio/vhostuser"
)

// Permissions of the socket: our own user may connect, or the members of a group, too.
const (
	socketMode      = 0o700
	socketGroupMode = 0o770
)

// openSocket listens on the path of the command line, and keeps others from doing so.
// ctx makes room for a successor.
func (s *Serve) openSocket(ctx context.Context) (*listener, error) {
	path := s.socket()
	pid, err := lockPidFile(path)
	if err != nil {
		return nil, err
	}
	l, err := unixsock.Listen(path, socketMode)
	if err == nil {
		err = s.admit(path)
		if err != nil {
			l.Close()
		}
	}
	if err != nil {
		pid.Close()
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("%w; another process serves there: end it, or choose another path with --socket", err)
		}
		return nil, fmt.Errorf("%w; choose another path with --socket", err)
	}
	from := &listener{Listener: l, pid: pid}
	context.AfterFunc(ctx, func() { from.Close() }) // also when a request never ends
	return from, nil
}

// admit lets the group of --socket-group connect.
func (s *Serve) admit(path string) error {
	if s.SocketGroup == "" {
		return nil
	}
	gid, err := groupID(s.SocketGroup)
	if err != nil {
		return err
	}
	// In this order nobody else can connect meanwhile.
	if err := os.Lchown(path, -1, gid); err != nil {
		return fmt.Errorf("give the socket to group %s: %w", s.SocketGroup, err)
	}
	return os.Chmod(path, socketGroupMode)
}

// groupID finds a group.
func groupID(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("`--socket-group`: %w; create it, or name one of /etc/group", err)
	}
	return strconv.Atoi(g.Gid)
}

// A listener is a listening socket as a source.
type listener struct {
	*unixsock.Listener
	pid    *pidFile // nil if somebody else has bound the socket
	closed sync.Once
}

// Accept implements source.
func (l *listener) Accept(ctx context.Context) (vhostuser.Link, error) {
	conn, err := l.Listener.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return vhostuser.NewSocket(conn), nil
}

// Close implements source.
func (l *listener) Close() (err error) {
	l.closed.Do(func() {
		err = l.Listener.Close()
		if l.pid != nil {
			err = errors.Join(err, l.pid.Close())
		}
	})
	return err
}

// checkFD looks at the descriptor of --fd, which becomes ours alone, and reports whether
// it listens (fs-device.md A.6.2).
func checkFD(n int) (listens bool, err error) {
	option := func(name int) int {
		value, e := unix.GetsockoptInt(n, unix.SOL_SOCKET, name)
		if err == nil {
			err = e
		}
		return value
	}
	family, kind, accepts := option(unix.SO_DOMAIN), option(unix.SO_TYPE), option(unix.SO_ACCEPTCONN)
	if err == nil && (family != unix.AF_UNIX || kind != unix.SOCK_STREAM) {
		err = errors.New("it is a socket of another kind")
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(n), unix.F_SETFD, unix.FD_CLOEXEC)
	}
	if err != nil {
		return false, usage("`--fd %d`: %w; pass a unix stream socket that listens or is connected", n, err)
	}
	return accepts != 0, nil
}

// openFD uses the socket of --fd, which checkFD has seen.
func openFD(n int) (source, error) {
	listens, err := checkFD(n)
	if err != nil {
		return nil, err
	}
	if listens {
		l, err := unixsock.ListenFD(fd.New(n, "--fd"))
		if err != nil {
			return nil, err
		}
		return &listener{Listener: l}, nil
	}
	conn, err := unixsock.Conn(n)
	if err != nil {
		return nil, fmt.Errorf("`--fd %d`: %w", n, err)
	}
	return &connected{conn: conn}, nil
}

// connected is a connection that somebody else has made, as a source.
type connected struct {
	conn *net.UnixConn // nil once it is served
}

// Accept implements source. There is one client only.
func (c *connected) Accept(context.Context) (vhostuser.Link, error) {
	if c.conn == nil {
		return nil, io.EOF
	}
	link := vhostuser.NewSocket(c.conn)
	c.conn = nil
	return link, nil
}

// Close implements source.
func (c *connected) Close() error {
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}
