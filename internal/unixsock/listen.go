// Package unixsock is what the protocols over unix stream sockets share: listening
// without leaving stale sockets behind, and receiving descriptors.
//
//	Listen ─► Listener.Accept ─► connection ◄─ Dial
//	                                 │ ReadFull: bytes and the descriptors that came along
//
// A Listener owns its socket's path; whoever receives descriptors owns them. The
// package follows unix(7) and no specification of its own.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
)

// A Listener waits for peers on a unix stream socket.
type Listener struct {
	l      *net.UnixListener
	path   string      // "" if the path is somebody else's
	bound  os.FileInfo // what we made at path
	closed sync.Once
}

// Listen binds a socket at path with the given permission bits. A socket that is
// there already is removed if nobody is bound to it any more; anything else at path is
// an error.
//
// Listen changes the umask of the whole process while it binds, so that the socket
// never has more permissions than mode. Call it before other goroutines create files.
func Listen(path string, mode fs.FileMode) (*Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	addr := path
	if strings.HasPrefix(addr, "@") {
		addr = "./" + addr // not in the abstract name space
	}
	old := unix.Umask(int(^mode.Perm()) & 0o777)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: addr, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, Cause(err))
	}
	l.SetUnlinkOnClose(false)
	bound, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, Cause(err)), l.Close())
	}
	return &Listener{l: l, path: path, bound: bound}, nil
}

// ListenFD makes a Listener of a listening socket that somebody else has bound. It
// closes f; the socket's path stays where it is.
func ListenFD(f *fd.FD) (*Listener, error) {
	defer f.Close()
	dup, err := unix.FcntlInt(uintptr(f.Int()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", f, err)
	}
	file := os.NewFile(uintptr(dup), f.String())
	defer file.Close()
	any, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", f, Cause(err))
	}
	l, ok := any.(*net.UnixListener)
	if !ok {
		any.Close()
		return nil, fmt.Errorf("listen on %s: not a unix socket", f)
	}
	return &Listener{l: l}, nil
}

// Accept waits for the next peer: ctx's cause once ctx is done, and net.ErrClosed
// after Close. Calls must not overlap.
func (l *Listener) Accept(ctx context.Context) (*net.UnixConn, error) {
	if err := l.l.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { l.l.SetDeadline(time.Unix(1, 0)) })()
	conn, err := l.l.AcceptUnix()
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, fmt.Errorf("accept on %s: %w", l.l.Addr(), Cause(err))
}

// File returns a duplicate of the listening socket, for a child process.
func (l *Listener) File() (*os.File, error) { return l.l.File() }

// Close stops listening and removes the socket that Listen has made, unless another
// has taken its place.
func (l *Listener) Close() (err error) {
	l.closed.Do(func() {
		err = l.l.Close()
		if l.path == "" {
			return
		}
		if now, e := os.Lstat(l.path); e == nil && os.SameFile(now, l.bound) {
			err = errors.Join(err, os.Remove(l.path))
		}
	})
	return err
}

// Cause strips what net puts around an error: the operation and the address, which
// our messages name already.
func Cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if sys, ok := errors.AsType[*os.SyscallError](err); ok {
		err = sys.Err
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	return err
}

// removeStale removes a socket at path that nobody is bound to.
//
// A live one is told from a stale one by connecting a datagram socket (unix(7)): a
// stream socket refuses it with EPROTOTYPE, without having its connection counted
// among those it waits for. A path that nobody is bound to gives ECONNREFUSED.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return Cause(err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("exists and is not a socket")
	}
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("probe socket: %w", err)
	}
	probe := fd.New(n, "probe socket")
	defer probe.Close()
	switch err := unix.Connect(n, &unix.SockaddrUnix{Name: path}); err {
	case unix.ECONNREFUSED:
		return Cause(os.Remove(path))
	case nil, unix.EPROTOTYPE:
		return unix.EADDRINUSE
	default:
		return fmt.Errorf("probe socket: %w", err)
	}
}
