package bench

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"vfiofs/fuse"
	"vfiofs/internal/fsclient"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/vhostuser"
)

const (
	ringSize = 1024             // descriptors, as most QEMU command lines ask for
	patience = 10 * time.Second // the longest that a backend may take for one request
)

// offered are the INIT flags of a Linux guest (fs-device.md D.5, linux fs/fuse/inode.c:
// fuse_new_init). Flags that would change who does what are left out, so that all
// backends do the same work: write-back, automatic mounts, kill-privilege.
const offered = fuse.AsyncRead | fuse.AtomicOTrunc | fuse.BigWrites | fuse.DontMask | fuse.HasIoctlDir |
	fuse.AutoInvalData | fuse.DoReaddirplus | fuse.ReaddirplusAuto | fuse.AsyncDIO | fuse.ParallelDirops |
	fuse.MaxPages | fuse.InitExt

// A session is a connection to a backend, with a mount.
type session struct {
	client *fsclient.Client
	rings  []*fsclient.Ring // hiprio first
	lanes  []*lane
	one    *lane         // for preparations
	live   []fuse.NodeID // files that lookUpMany has made known
}

// connect connects to the backend at a socket and mounts it. memory is what the
// connection uses as guest memory, or nil.
func connect(ctx context.Context, socket string, queues, lanes int, memory *vhostuser.GuestMemory) (*session, error) {
	c, err := fsclient.Dial(ctx, socket, fsclient.Options{
		Queues: queues, RingSize: ringSize, Slots: 1, Data: pageSize, Room: (lanes + 1) * laneSize, Memory: memory,
	})
	if err != nil {
		return nil, err
	}
	s := &session{client: c}
	for i := range c.Rings() {
		s.rings = append(s.rings, c.Ring(i))
	}
	room, at := c.Room()
	for i := range lanes + 1 {
		ln := newLane(room[i*laneSize:][:laneSize], at+guestmem.GPA(i*laneSize))
		ln.caller(os.Getuid(), os.Getgid(), os.Getpid())
		ln.slot.ID = i - 1
		s.lanes = append(s.lanes, ln)
	}
	s.one, s.lanes = s.lanes[0], s.lanes[1:]
	s.one.ring, s.one.lanes = 1, 1
	if err := s.init(); err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

// close unmounts and ends the connection.
func (s *session) close() error {
	s.one.begin(fuse.OpDestroy, 0, 0, 0)
	err := s.roundTrip(s.one)
	if s.one.length == 0 {
		err = nil // virtiofsd does not answer DESTROY (fs-device.md C.6)
	}
	return firstError(err, s.client.Close())
}

// init mounts.
func (s *session) init() error {
	ln := s.one
	a := ln.args()
	clear(a[:64])
	le.PutUint32(a, 7)
	le.PutUint32(a[4:], 45)
	le.PutUint32(a[8:], 128<<10)
	le.PutUint32(a[12:], uint32(offered))
	ln.begin(fuse.OpInit, 0, 64, 64)
	if err := s.call(ln); err != nil {
		return err
	}
	major, maxWrite := le.Uint32(ln.body()), le.Uint32(ln.body()[20:])
	if major != 7 || maxWrite < maxData {
		return fmt.Errorf("INIT was answered with version %d and writes of up to %d bytes; want version 7 and %d bytes", major, maxWrite, maxData)
	}
	return nil
}

// roundTrip carries out the request that was begun in ln, whatever the answer.
func (s *session) roundTrip(ln *lane) error {
	r := s.ringOf(ln)
	if !r.SubmitChain(&ln.slot, &ln.chain) {
		return firstError(r.Err(), fmt.Errorf("%v does not fit its ring", ln.opcode()))
	}
	if err := r.Publish(); err != nil {
		return err
	}
	for {
		if got, n, ok := r.Reap(); ok {
			if got != &ln.slot {
				return fmt.Errorf("the backend completed another request than %v", ln.opcode())
			}
			return ln.finish(n)
		}
		if err := firstError(r.Err(), r.Wait(patience)); err != nil {
			return fmt.Errorf("%v: %w", ln.opcode(), err)
		}
	}
}

// call is roundTrip, and an error if the backend had one.
func (s *session) call(ln *lane) error {
	if err := s.roundTrip(ln); err != nil {
		return err
	}
	if ln.errno != 0 {
		return fmt.Errorf("%v: %w", ln.opcode(), syscall.Errno(ln.errno))
	}
	return nil
}

// ringOf returns the ring for the request in hand: requests without reply go first.
func (s *session) ringOf(ln *lane) *fsclient.Ring {
	if len(ln.chain.Write) == 0 {
		return s.rings[0]
	}
	return s.rings[ln.ring]
}

// walk looks a path up and returns the node of its end, which gets one lookup.
func (s *session) walk(name string) (fuse.NodeID, error) {
	ln := s.one
	dir := fuse.RootID
	for _, part := range strings.Split(path.Clean(name), "/") {
		n := copy(ln.args(), part+"\x00")
		ln.begin(fuse.OpLookup, dir, n, entrySize)
		err := firstError(s.call(ln))
		if err == nil {
			err = ln.entry()
		}
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		child := ln.node
		if dir != fuse.RootID {
			if err := s.forget(dir, 1); err != nil {
				return 0, err
			}
		}
		dir = child
	}
	return dir, nil
}

// files looks up the first n of many files.
func (s *session) files(n int) ([]fuse.NodeID, error) {
	nodes := make([]fuse.NodeID, n)
	for i := range nodes {
		var err error
		if nodes[i], err = s.walk(filesDir + "/" + nameOf('f', i)); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}

// forget gives lookups of a node back.
func (s *session) forget(node fuse.NodeID, lookups uint64) error {
	le.PutUint64(s.one.args(), lookups)
	s.one.quiet(fuse.OpForget, node, 8)
	return s.roundTrip(s.one)
}

// forgetAll gives the same number of lookups of each node back.
func (s *session) forgetAll(nodes []fuse.NodeID, lookups uint64) error {
	for _, n := range nodes {
		if err := s.forget(n, lookups); err != nil {
			return err
		}
	}
	return nil
}

// open opens a file.
func (s *session) open(node fuse.NodeID, flags uint32) (fuse.Handle, error) {
	ln := s.one
	le.PutUint64(ln.args(), uint64(flags))
	ln.begin(fuse.OpOpen, node, 8, openSize)
	if err := s.call(ln); err != nil {
		return 0, err
	}
	_, err := takeHandle(ln)
	return ln.handle, err
}

// release closes a file.
func (s *session) release(node fuse.NodeID, h fuse.Handle) error {
	s.one.node, s.one.handle = node, h
	s.one.release(fuse.OpRelease)
	return s.call(s.one)
}

// listNodes lists a directory with READDIRPLUS, and returns the nodes of its entries.
// Each gets a lookup.
func (s *session) listNodes(dir fuse.NodeID) (nodes []fuse.NodeID, err error) {
	ln := s.one
	ln.node = dir
	ln.open(fuse.OpOpenDir)
	if err := s.call(ln); err != nil {
		return nil, err
	}
	if _, err := takeHandle(ln); err != nil {
		return nil, err
	}
	for offset := uint64(0); ; {
		ln.readAt(fuse.OpReadDirPlus, offset, dirRoom)
		if err := s.call(ln); err != nil {
			return nil, err
		}
		n := ln.length - outHeader
		if n == 0 {
			break
		}
		if _, offset, err = ln.entries(n, true, func(node fuse.NodeID) { nodes = append(nodes, node) }); err != nil {
			return nil, err
		}
	}
	ln.release(fuse.OpReleaseDir)
	return nodes, s.call(ln)
}

// start makes lanes ready for a case: depth in each of some request rings.
func (s *session) start(depth, queues int, p *plan) ([]*lane, error) {
	if have := len(s.rings) - 1; have < queues {
		return nil, fmt.Errorf("the backend has %d request queues; the case needs %d", have, queues)
	}
	lanes := s.lanes[:depth*queues]
	lineUp(lanes)
	for i, ln := range lanes {
		ln.ring = 1 + i%queues
		ln.steps, ln.step = p.steps, 0
	}
	return lanes, nil
}
