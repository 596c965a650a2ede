package proxy

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/virtio/virtiopci"
)

// kicks waits for the kick eventfds of the sibling's rings, and for the sibling to leave.
type kicks struct {
	epoll *fd.FD
	wake  *fd.FD // signalled when it is time to end
	sink  sink   // guarded by Device.mu
}

// Numbers of no vring.
const (
	wakeRing    = -1 // the event is that of wake
	siblingRing = -2 // that of the connection
)

func newKicks() (*kicks, error) {
	n, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	k := &kicks{epoll: fd.New(n, "proxy epoll"), sink: newSink()}
	if k.wake, err = fd.NewEvent("proxy wake-up"); err == nil {
		err = k.add(k.wake, wakeRing, 0)
	}
	if err != nil {
		return nil, errors.Join(err, k.close())
	}
	return k, nil
}

// add watches an eventfd. serial comes back with its events: some may still be on their
// way after remove.
func (k *kicks) add(event *fd.FD, ring, serial int32) error {
	return k.watch(event.Int(), unix.EPOLLIN, ring, serial)
}

// addSibling watches for the end of a connection, which ends the watch when it is closed.
func (k *kicks) addSibling(conn *net.UnixConn, serial int32) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for the end of a connection: %w", err)
	}
	return errors.Join(raw.Control(func(n uintptr) {
		err = k.watch(int(n), unix.EPOLLHUP, siblingRing, serial)
	}), err)
}

// watch adds a descriptor. It is edge-triggered, so that what can't be read in time costs
// nothing.
func (k *kicks) watch(n int, events uint32, ring, serial int32) error {
	ev := unix.EpollEvent{Events: events | unix.EPOLLET, Fd: ring, Pad: serial}
	if err := unix.EpollCtl(k.epoll.Int(), unix.EPOLL_CTL_ADD, n, &ev); err != nil {
		return fmt.Errorf("wait for descriptor %d: %w", n, err)
	}
	return nil
}

// remove ends watching an eventfd. Closing it isn't enough, because the sibling holds it
// too.
func (k *kicks) remove(event *fd.FD) {
	unix.EpollCtl(k.epoll.Int(), unix.EPOLL_CTL_DEL, event.Int(), nil)
}

// end makes watchKicks return.
func (k *kicks) end() { k.wake.Signal() }

// close gives everything back after that.
func (k *kicks) close() error { return errors.Join(k.epoll.Close(), k.wake.Close()) }

// watchKicks turns kicks into interrupts until the device ends.
func (d *Device) watchKicks() {
	var events [64]unix.EpollEvent
	for {
		n, err := unix.EpollWait(d.kicks.epoll.Int(), events[:], -1)
		if err != nil && err != unix.EINTR {
			d.log.Error("cannot wait for kicks", "err", err)
			return
		}
		for _, e := range events[:max(0, n)] {
			switch e.Fd {
			case wakeRing:
				return
			case siblingRing:
				d.hungUp(e.Pad)
			default:
				d.kicked(int(e.Fd), e.Pad)
			}
		}
	}
}

// hungUp ends a connection whose sibling has left, without waiting for its messages to be
// read: the driver may have no room for them.
func (d *Device) hungUp(serial int32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.peer; s != nil && s.serial == serial {
		d.left(s, reasonPeer)
	}
}

// kicked raises the interrupt that the driver has chosen for a vring. It looks that up
// when the kick comes, and not earlier (virtio-vhost-user.md 7.2).
func (d *Device) kicked(ring int, serial int32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.peer
	if s == nil || s.vrings[ring].kick == nil || s.vrings[ring].serial != serial {
		return
	}
	d.kicks.sink.drain(s.vrings[ring].kick)
	vector := d.vector(ring)
	if vector == virtiopci.NoVector {
		d.dropped++
	}
	d.interrupt(vector)
}

// A sink is where counters of eventfds go. It belongs to one goroutine at a time.
type sink [][]byte

func newSink() sink { return sink{make([]byte, 8)} }

// drain resets the counter of an eventfd to 0. It never waits, whatever the flags of the
// descriptor say, which are the sibling's.
func (s sink) drain(event *fd.FD) { unix.Preadv2(event.Int(), s, -1, unix.RWF_NOWAIT) }
