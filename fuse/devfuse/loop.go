package devfuse

import (
	"fmt"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/fd"
	"vfiofs/internal/fsclient"
)

// batch is how many requests a loop reads before it looks for replies.
const batch = 16

// A loop is one OS thread that carries the requests of one ring.
type loop struct {
	s     *Session
	dev   *fd.FD // this loop's clone of /dev/fuse
	ring  *fsclient.Ring
	free  []*fsclient.Slot
	epoll *fd.FD
	// watched says that epoll looks at dev: it does while there are free slots.
	watched bool
	events  [4]unix.EpollEvent
}

// newLoop makes a loop that owns dev once it runs.
func newLoop(s *Session, dev *fd.FD, ring *fsclient.Ring, slots []*fsclient.Slot) (*loop, error) {
	n, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	l := &loop{s: s, dev: dev, ring: ring, free: slots, epoll: fd.New(n, "mount epoll")}
	for _, w := range []struct {
		fd     int
		events uint32
	}{
		{ring.Call(), unix.EPOLLIN | unix.EPOLLET},
		{s.client.HangUp(), unix.EPOLLRDHUP},
		{s.stop.Int(), unix.EPOLLIN},
	} {
		if err := l.control(unix.EPOLL_CTL_ADD, w.fd, w.events); err != nil {
			l.epoll.Close()
			return nil, err
		}
	}
	return l, nil
}

func (l *loop) control(op, n int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(n)}
	if err := unix.EpollCtl(l.epoll.Int(), op, n, &ev); err != nil {
		return fmt.Errorf("wait for descriptor %d: %w", n, err)
	}
	return nil
}

// run is the life of the loop:
//
//  1. read requests into free slots, and put them into the ring
//  2. kick the backend, if it wants that
//  3. write the replies that have come, and take their slots back
//  4. with nothing to do: sleep until a request, a reply, or the end
//
// It ends with errUnmounted, fsclient.ErrGone, nil after Session.stop, or what is
// broken.
func (l *loop) run() error {
	for {
		taken, err := l.take()
		if err != nil {
			return err
		}
		given, err := l.give()
		if err != nil {
			return err
		}
		if taken+given > 0 || l.ring.Arm() {
			continue
		}
		if ended, err := l.sleep(); ended || err != nil {
			return err
		}
	}
}

// take reads requests and passes them on.
func (l *loop) take() (n int, err error) {
	submitted := false
	for ; n < batch && len(l.free) > 0; n++ {
		last := len(l.free) - 1
		slot := l.free[last]
		size, err := unix.Read(l.dev.Int(), slot.In[:fsclient.InHead+maxWrite])
		switch err {
		case nil:
		case unix.EAGAIN:
			return n, l.publish(submitted)
		case unix.EINTR, unix.ENOENT: // ENOENT: the request was interrupted
			continue
		case unix.ENODEV, unix.ECONNABORTED:
			return n, errUnmounted
		default:
			return n, fmt.Errorf("read %s: %w", devicePath, err)
		}
		req := &l.s.requests[slot.ID]
		if *req, err = parse(slot.In[:size]); err != nil {
			return n, err
		}
		if req.op == fuse.OpInterrupt && l.s.mute {
			continue
		}
		if req.quiet() {
			other, err := l.s.hiprio.send(slot, size)
			if err != nil {
				return n, err
			}
			if other != nil {
				l.free[last] = other
				continue
			}
			// All of hiprio is busy. A request ring takes it too (fs-device.md C.4).
		}
		if !l.ring.Submit(slot, size, req.replyRoom(slot.In[:size])) {
			return n, l.broken()
		}
		l.free = l.free[:last]
		submitted = true
	}
	return n, l.publish(submitted)
}

// publish shows the backend what was submitted, if anything was.
func (l *loop) publish(submitted bool) error {
	if !submitted {
		return nil
	}
	return l.ring.Publish()
}

// give writes replies.
func (l *loop) give() (n int, err error) {
	for {
		slot, size, ok := l.ring.Reap()
		if !ok {
			return n, l.ring.Err()
		}
		if err := l.reply(slot, size); err != nil {
			return n, err
		}
		l.free = append(l.free, slot)
		n++
	}
}

// reply answers the request in a slot with the first n bytes of its reply.
func (l *loop) reply(slot *fsclient.Slot, n int) error {
	req := &l.s.requests[slot.ID]
	if req.quiet() {
		return nil
	}
	copy(req.head[:], slot.Out)
	if _, ok := req.check(n); !ok {
		l.s.log.Warn("malformed reply; answering EIO", "opcode", req.op.String(), "bytes", n)
		req.fail()
		n = fsclient.OutHead
	}
	req.parts = [2][]byte{req.head[:], slot.Out[fsclient.OutHead:n]}
	for {
		_, err := unix.Writev(l.dev.Int(), req.parts[:])
		switch err {
		case nil, unix.ENOENT, unix.ENODEV: // nobody waits for it any more
			return nil
		case unix.EINTR:
			continue
		case unix.EINVAL:
			l.s.log.Warn("the kernel refused a reply and made it EIO", "opcode", req.op.String(), "bytes", n)
			return nil
		}
		return fmt.Errorf("write %s: %w", devicePath, err)
	}
}

// broken is the error of a ring that takes no requests.
func (l *loop) broken() error {
	if err := l.ring.Err(); err != nil {
		return err
	}
	return fmt.Errorf("a ring of %d descriptors is full", ringSize)
}

// sleep waits for something to do. ended is true when the loop has to end.
func (l *loop) sleep() (ended bool, err error) {
	if want := len(l.free) > 0; want != l.watched {
		// EPOLLEXCLUSIVE: a request wakes one loop.
		op, events := unix.EPOLL_CTL_DEL, uint32(0)
		if want {
			op, events = unix.EPOLL_CTL_ADD, unix.EPOLLIN|unix.EPOLLEXCLUSIVE
		}
		if err := l.control(op, l.dev.Int(), events); err != nil {
			return false, err
		}
		l.watched = want
	}
	n, err := unix.EpollWait(l.epoll.Int(), l.events[:], -1)
	if err == unix.EINTR {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("wait for requests: %w", err)
	}
	for _, ev := range l.events[:n] {
		switch int(ev.Fd) {
		case l.s.stop.Int():
			ended = true
		case l.s.client.HangUp():
			if _, err := l.give(); err != nil {
				return true, err
			}
			return true, fsclient.ErrGone
		}
	}
	return ended, nil
}
