// Package devfuse mounts a virtio-fs device on this host: what the kernel asks through
// /dev/fuse goes into the rings of a vhost-user-fs backend, and its replies come back.
// The backend sees what a virtual machine with this host's kernel would send.
//
//	            read              Submit             ┌─────────┐
//	/dev/fuse ───────► slot.In ───────────► ring 1 ──┤         │
//	 (a clone ◄─────── slot.Out ◄────────── ring 1 ──┤ backend │
//	 per ring)  writev             Reap              │         │
//	            FORGET, INTERRUPT ────────► hiprio ──┘─────────┘
//
// One locked OS thread per request ring (a loop) reads requests from its own clone of
// /dev/fuse into a slot, which is memory that the backend shares, and writes replies
// straight from there: payload is never copied in user space. A reply has to go to the
// clone that its request came from (linux fs/fuse/dev.c: fuse_dev_do_write), which is
// the loop's.
//
// Ownership: a Session owns the descriptors of /dev/fuse and the mount, and borrows the
// fsclient.Client. A slot, and what is noted about its request, belongs to a loop, to
// its ring from Submit to Reap, or to hiprio.
//
// Locks: hiprio.mu guards the hiprio ring, which all loops use; it is held for a few
// instructions, and nothing is locked inside it.
//
// The backend is not trusted: a reply's header is copied and checked, and the kernel
// gets the copy. Its payload the kernel checks itself.
//
// Where a mount here differs from one in a guest, beside what init.go translates:
// /dev/fuse sends BATCH_FORGET and INTERRUPT, which virtio-fs never does, no SYNCFS, and
// RELEASE without waiting for it; mount points inside the share are plain directories;
// and when it ends it sends no DESTROY: Session does.
//
// Spec: linux/fuse.h 7.45; fs-device.md C.4, D.1, D.5, D.8.
package devfuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/fd"
	"vfiofs/internal/fsclient"
)

// What a Session needs of its Client. A ring has descriptors for all slots of a loop,
// so it is never full. Each wait for a lock holds a slot: with all of them waiting a
// loop reads nothing more, like a guest whose ring is full. Memory that was never
// touched costs nothing.
const (
	slotsPerLoop = 512
	hiprioSlots  = 64
	ringSize     = 4 * slotsPerLoop // a slot takes at most 4 descriptors
	maxWrite     = 1 << 20          // bytes of payload in one request
	// data is maxWrite and a page for what comes with it: the arguments of IOCTL.
	data = maxWrite + 4096
)

const (
	// initTime is how long the backend may take to answer INIT.
	initTime = 10 * time.Second
	// drainTime is how long files may stay open and requests may take when the mount
	// is told to end.
	drainTime = 2 * time.Second
)

// errUnmounted says that the kernel has ended the connection.
var errUnmounted = errors.New("unmounted")

// ClientOptions are the options of the Client that Mount takes, with as many request
// rings as the backend has but at most queues, unless that is 0.
func ClientOptions(queues int) fsclient.Options {
	if queues == 0 {
		queues = min(runtime.NumCPU(), 8)
	}
	return fsclient.Options{
		Queues: queues, RingSize: ringSize, Slots: queues*slotsPerLoop + hiprioSlots, Data: data,
	}
}

// Options of Mount.
type Options struct {
	// Source is what the mount table shows as the device.
	Source string
	// ReadOnly mounts read-only.
	ReadOnly bool
	// Trusted honours set-user-id programs and device nodes of the share.
	Trusted bool
	// NoInterrupt keeps INTERRUPT from the backend, as virtio-fs does: then a signal
	// does not end the wait for a lock.
	NoInterrupt bool
	// Log may be nil.
	Log *slog.Logger
}

// A Session is one mount.
type Session struct {
	client   *fsclient.Client
	place    place
	hiprio   *hiprio
	loops    []*loop
	stop     *fd.FD    // wakes all loops to make them end
	requests []request // by slot
	mute     bool      // Options.NoInterrupt
	log      *slog.Logger
}

// Mount mounts the device of client, made with ClientOptions, on the directory dir. It
// returns when both sides have agreed on INIT; Serve has to follow.
func Mount(client *fsclient.Client, dir string, o Options) (_ *Session, err error) {
	s := newSession(client, o)
	dev, err := openDevice()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
			dev.Close() // which ends the connection, and with it what hangs on it
			err = errors.Join(err, s.place.detach())
		}
	}()
	if s.place, err = mount(dev, dir, o); err != nil {
		return nil, err
	}
	if err := s.agree(dev); err != nil {
		return nil, fmt.Errorf("mount on %s: %w", s.place.dir, err)
	}
	if err := s.open(dev, clone); err != nil {
		return nil, err
	}
	return s, nil
}

// newSession makes a Session without a connection to the kernel.
func newSession(client *fsclient.Client, o Options) *Session {
	s := &Session{client: client, mute: o.NoInterrupt, log: o.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.requests = make([]request, len(client.Slots()))
	for i, slot := range client.Slots() {
		slot.ID = i
	}
	return s
}

// open makes a loop for each request ring: the first uses dev, the others clones of it,
// and each owns what it uses.
func (s *Session) open(dev *fd.FD, clone func(dev *fd.FD) (*fd.FD, error)) (err error) {
	slots := s.client.Slots()
	s.hiprio = &hiprio{ring: s.client.Ring(0), spare: slots[:hiprioSlots:hiprioSlots]}
	slots = slots[hiprioSlots:]
	if s.stop, err = fd.NewEvent("end of the mount"); err != nil {
		return err
	}
	for i := range s.client.Rings() - 1 {
		own := dev
		if i > 0 {
			if own, err = clone(dev); err != nil {
				return err
			}
		}
		l, err := newLoop(s, own, s.client.Ring(1+i), slots[i*slotsPerLoop:][:slotsPerLoop:slotsPerLoop])
		if err != nil {
			return errors.Join(err, own.Close())
		}
		s.loops = append(s.loops, l)
	}
	return nil
}

// close ends the connection to the kernel: whoever waits for a reply gets an error.
func (s *Session) close() {
	for _, l := range s.loops {
		l.dev.Close()
		l.epoll.Close()
	}
	s.stop.Close()
}

// Serve serves the mount until somebody unmounts it or ctx ends, and leaves nothing
// mounted. The error is nil in both cases; it is fsclient.ErrGone if the backend left.
func (s *Session) Serve(ctx context.Context) error {
	ended := make(chan error, len(s.loops))
	for _, l := range s.loops {
		go func() {
			runtime.LockOSThread() // for good: the thread ends with the loop
			ended <- l.run()
		}()
	}

	// Unmounting waits for replies, so it is done beside the loops.
	detached := make(chan error, 1)
	detaching := false
	var late <-chan time.Time
	var result error
	for running := len(s.loops); running > 0; {
		select {
		case err := <-ended:
			running--
			if result == nil {
				result = err
			}
			s.stop.Signal()
		case <-ctx.Done():
			ctx = context.WithoutCancel(ctx)
			detaching = true
			go func() { detached <- s.place.detach() }()
			late = time.After(drainTime)
		case <-late:
			s.log.Warn("the mount is still in use; ending it all the same", "dir", s.place.dir)
			s.stop.Signal()
		}
	}
	s.close()
	if errors.Is(result, errUnmounted) {
		result = nil
	}
	if result == nil {
		s.destroy()
	}
	if detaching {
		return errors.Join(result, <-detached)
	}
	return errors.Join(result, s.place.detach())
}

// destroy ends the mount for the backend as a guest does: it waits for what is still
// on its way, then sends DESTROY (linux fs/fuse/virtio_fs.c: virtio_fs_conn_destroy). A
// backend that is too slow misses it, and sees the connection end.
func (s *Session) destroy() {
	end := time.Now().Add(drainTime)
	var slot *fsclient.Slot
	for i := range s.client.Rings() {
		ring := s.client.Ring(i)
		for ring.Outstanding() > 0 {
			done, _, ok := ring.Reap()
			if ok {
				slot = done
			} else if ring.Wait(time.Until(end)) != nil {
				s.log.Warn("the backend still works on requests; ending without DESTROY")
				return
			}
		}
	}
	if slot == nil {
		slot = s.loops[0].free[0]
	}
	putHeader(slot.In, fuse.OpDestroy)
	ring := s.client.Ring(1)
	if !ring.Submit(slot, inHeaderSize, fsclient.OutHead) || ring.Publish() != nil || ring.Wait(time.Until(end)) != nil {
		s.log.Warn("the backend did not answer DESTROY")
	}
}

// A place is where a mount is.
type place struct {
	dir string // absolute
	id  uint64 // of the mount (statx, STATX_MNT_ID)
}

// detach unmounts lazily, if the mount is still there.
func (p place) detach() error {
	id, err := mountID(p.dir)
	if err != nil || id != p.id {
		return nil // somebody has unmounted it
	}
	if err := unix.Unmount(p.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL {
		return fmt.Errorf("unmount %s: %w (try: umount -l %s)", p.dir, err, p.dir)
	}
	return nil
}
