package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/internal/unixsock"
	"vfiofs/passthrough"
	"vfiofs/vfio"
	"vfiofs/vfio/vfiouser"
	"vfiofs/virtio"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtiofs"
	"vfiofs/virtio/virtq"
	"vfiofs/virtio/vvu"
	"vfiofs/virtio/vvu/proxy"
)

// Where a guest keeps things in its memory.
const (
	ringSpace = 0x10_000 // bytes per ring, from address 0
	dataAt    = 0x10_0000
	replyAt   = 0x30_0000
	guestSize = 0x80_0000
)

const allFeatures = virtio.FeatureIndirectDesc | virtio.FeatureEventIdx | virtio.FeatureVersion1 | vhostuser.FeatureProtocolFeatures

// A listener hands out siblings.
type listener chan *net.UnixConn

func (l listener) Accept(ctx context.Context) (*net.UnixConn, error) {
	select {
	case s := <-l:
		return s, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// A chain is everything between a sibling's VMM and a file system, in this process:
// proxy, vfio-user server and client, driver, vhost-user back-end, device.
type chain struct {
	memory   *proxy.Memory
	siblings listener
	devices  chan virtio.Device // for the next sibling
	served   chan error
	model    *model
	server   *vfiouser.Server
	log      *slog.Logger
}

// A model is a proxy that counts what is relayed. It can be told to give no eventfds away,
// as if its client were the VMM of a device VM, which doesn't ask.
type model struct {
	*proxy.Device
	relayed bool
	bells   atomic.Int64 // doorbells that were written
}

func (m *model) Write(region int, p []byte, off int64) {
	if region == 2 && off < 0x2000 {
		m.bells.Add(1)
	}
	m.Device.Write(region, p, off)
}

func (m *model) Events(region, max int) []vfiouser.Event {
	if m.relayed {
		return nil
	}
	return m.Device.Events(region, max)
}

func (m *model) Source(kind vfio.IRQ, vector int) *fd.FD {
	if m.relayed {
		return nil
	}
	return m.Device.Source(kind, vector)
}

// newChain starts everything but the file system.
func newChain(t *testing.T, relayed bool) *chain {
	t.Helper()
	log := slog.New(slog.NewTextHandler(testLog{t}, nil))
	c := &chain{siblings: make(listener, 4), devices: make(chan virtio.Device, 4), served: make(chan error, 64), log: log}
	var err error
	c.memory, err = proxy.NewMemory(guestSize)
	testkit.Check(t, err)
	t.Cleanup(func() { c.memory.Close() })
	device, err := proxy.New(proxy.Options{Listener: c.siblings, Memory: c.memory, Log: log})
	testkit.Check(t, err)
	t.Cleanup(func() { testkit.Check(t, device.Close()) })
	c.model = &model{Device: device, relayed: relayed}
	c.server = vfiouser.NewServer(c.model, vfiouser.Options{})
	return c
}

// attach starts a device VM: a vfio-user client, a driver, and a back-end that serves one
// sibling after the other. kill ends it without a word to the function.
func (c *chain) attach(t *testing.T) (kill func()) {
	t.Helper()
	server, client := socketPair(t)
	ended := make(chan error, 1)
	go func() { ended <- c.server.Serve(context.Background(), server) }()
	function, err := vfiouser.Attach(t.Context(), client)
	testkit.Check(t, err)
	driver, err := vvu.Open(t.Context(), function, vvu.Options{Rings: 2, Log: c.log})
	testkit.Check(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.serve(ctx, driver) }()

	end := sync.OnceFunc(func() {
		stop()
		<-done
		driver.Close()
		function.Close()
		testkit.Receive(t, ended)
	})
	t.Cleanup(end)
	return func() {
		server.Close()
		end()
	}
}

// serve serves one sibling after the other.
func (c *chain) serve(ctx context.Context, driver *vvu.Driver) error {
	for {
		link, err := driver.Accept(ctx)
		if err != nil {
			return err
		}
		var dev virtio.Device
		select {
		case dev = <-c.devices:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		c.served <- vhostuser.NewBackend(dev, vhostuser.Options{}).Serve(ctx, link)
	}
}

// A sibling is a VM: front-end, memory and rings.
type sibling struct {
	t     *testing.T
	front *vhostuser.Frontend
	mem   *vhostuser.GuestMemory
	rings []*vhostuser.GuestRing
}

// boot connects a sibling that mounts an empty directory.
func (c *chain) boot(t *testing.T) *sibling {
	t.Helper()
	fs, err := passthrough.New(passthrough.Options{SharedDir: t.TempDir(), XAttr: true, AnnounceSubmounts: true})
	testkit.Check(t, err)
	t.Cleanup(func() { fs.Close() })
	dev, err := virtiofs.New(fuse.NewServer(fs, fuse.Options{}), virtiofs.Options{RequestQueues: 1, Workers: 2})
	testkit.Check(t, err)
	t.Cleanup(dev.Close)
	c.devices <- dev

	back, front := socketPair(t)
	c.siblings <- back
	s := &sibling{t: t, front: vhostuser.NewFrontend(front)}
	testkit.Check(t, s.front.Negotiate(allFeatures, ^vhostuser.ProtocolFeatures(0)))
	s.mem = ram(t, c.memory)
	testkit.Check(t, s.front.Share(s.mem))
	for i := range 2 {
		r, err := s.front.NewRing(s.mem, i*ringSpace, i, 128)
		testkit.Check(t, err)
		t.Cleanup(func() { r.Close() })
		testkit.Check(t, s.front.StartRing(r, 0))
		s.rings = append(s.rings, r)
	}
	return s
}

// ram opens the memory file as a sibling's VMM does.
func ram(t *testing.T, m *proxy.Memory) *vhostuser.GuestMemory {
	t.Helper()
	n, err := unix.Open(m.Path(), unix.O_RDWR|unix.O_CLOEXEC, 0)
	testkit.Check(t, err)
	file := fd.New(n, "sibling's memory")
	mem, err := unix.Mmap(n, 0, int(m.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	testkit.Check(t, err)
	clear(mem)
	g := &vhostuser.GuestMemory{
		Region: vhostuser.Region{Size: uint64(m.Size()), Addr: 0x7f00_0000_0000},
		Mem:    mem, File: file,
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// transport carries requests through the request ring.
func (s *sibling) transport(in []byte, outSize int) ([]byte, error) {
	copy(s.mem.Mem[dataAt:], in)
	clear(s.mem.Mem[replyAt:][:outSize])
	var write []virtq.Seg
	if outSize > 0 {
		write = []virtq.Seg{{Addr: replyAt, Len: uint32(outSize)}}
	}
	r := s.rings[1]
	head, ok := r.Add([]virtq.Seg{{Addr: guestmem.GPA(dataAt), Len: uint32(len(in))}}, write)
	if !ok {
		return nil, errors.New("ring is full")
	}
	if err := r.Submit(); err != nil {
		return nil, err
	}
	for {
		if got, n, ok := r.Used(); ok {
			if got != head || int(n) > outSize {
				return nil, fmt.Errorf("completed head %d with %d bytes; want %d with at most %d", got, n, head, outSize)
			}
			return bytes.Clone(s.mem.Mem[replyAt:][:n]), nil
		}
		if err := r.Err(); err != nil {
			return nil, err
		}
		if !r.Wait(testkit.Patience) {
			return nil, errors.New("no reply in time")
		}
	}
}

// TestEndToEnd runs the conformance suite over all layers, with a new sibling for each
// test and without a VM: with eventfds that are given away, and with the proxy between.
func TestEndToEnd(t *testing.T) {
	t.Run("given", func(t *testing.T) { testEndToEnd(t, false) })
	t.Run("relayed", func(t *testing.T) { testEndToEnd(t, true) })
}

func testEndToEnd(t *testing.T, relayed bool) {
	c := newChain(t, relayed)
	c.attach(t)
	fusetest.Run(t, func(t *testing.T) *fusetest.Client {
		s := c.boot(t)
		t.Cleanup(func() {
			s.front.Close()
			if err := testkit.Receive(t, c.served); err != nil {
				t.Errorf("back-end ended with %v", err)
			}
		})
		return fusetest.NewClient(s.transport)
	})
	if n := c.model.bells.Load(); (n > 0) != relayed {
		t.Errorf("%d doorbells were written; want some: %v", n, relayed)
	}
}

// TestRestart kills what serves, again and again. The sibling notices, and the next one is
// served; the proxy stays.
func TestRestart(t *testing.T) {
	c := newChain(t, false)
	for range 10 {
		kill := c.attach(t)
		s := c.boot(t)
		client := fusetest.NewClient(s.transport)
		_, err := client.Init(fusetest.AllFlags)
		testkit.Check(t, err)
		_, err = client.MkDir(fuse.RootID, "d", 0o755)
		testkit.Check(t, err)
		kill()
		if err := s.front.Sync(); err == nil {
			t.Error("the sibling's connection outlives the driver")
		}
		testkit.Receive(t, c.served)
		s.front.Close()
	}
}

// A testLog writes log lines to a test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

// socketPair returns two connected sockets.
func socketPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	a, b, err := unixsock.Pair()
	testkit.Check(t, err)
	return a, b
}
