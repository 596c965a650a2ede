package virtiofs_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/internal/testkit"
	"vfiofs/passthrough"
	"vfiofs/virtio"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtiofs"
	"vfiofs/virtio/virtq"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m)) }

// Where a guest keeps things in its memory.
const (
	ringSpace = 0x10_000 // bytes per ring, from address 0
	bigSpace  = 0x70_000 // the same for rings of more than 1024 entries, four at most
	dataAt    = 0x20_0000
	slot      = 0x40_0000 // bytes per request: half to read, half to write
	slots     = 12
)

// A guest is a front-end and a driver, connected to a device over a socket pair: all
// of the product but the listener and a real kernel.
type guest struct {
	t      testing.TB
	front  *vhostuser.Frontend
	mem    *vhostuser.GuestMemory
	rings  []*vhostuser.GuestRing
	server *fuse.Server
	ended  chan error
}

type guestOptions struct {
	queues, workers, size int
	features              virtio.Features
	poll                  time.Duration
	exact                 bool // size is not raised to what tests need
	log                   *slog.Logger
}

const allFeatures = virtio.FeatureIndirectDesc | virtio.FeatureEventIdx | virtio.FeatureVersion1 | vhostuser.FeatureProtocolFeatures

// newGuest serves fs and starts all rings.
func newGuest(t testing.TB, fs fuse.FileSystem, o guestOptions) *guest {
	t.Helper()
	if o.features == 0 {
		o.features = allFeatures
	}
	server := fuse.NewServer(fs, fuse.Options{Log: o.log})
	dev, err := virtiofs.New(server, virtiofs.Options{
		Tag: "test", RequestQueues: max(o.queues, 1), Workers: max(o.workers, 2), Poll: o.poll, Log: o.log,
	})
	testkit.Check(t, err)
	t.Cleanup(dev.Close)

	back, front, err := vhostuser.Pair()
	testkit.Check(t, err)
	g := &guest{t: t, front: front, server: server, ended: make(chan error, 1)}
	go func() {
		g.ended <- vhostuser.NewBackend(dev, vhostuser.Options{Log: o.log}).Serve(context.Background(), back)
	}()
	t.Cleanup(func() {
		g.front.Close()
		if err := testkit.Receive(t, g.ended); err != nil {
			t.Errorf("Serve() = %v; want nil", err)
		}
	})

	testkit.Check(t, g.front.Negotiate(o.features, ^vhostuser.ProtocolFeatures(0)))
	g.mem, err = vhostuser.NewGuestMemory(0, dataAt+slots*slot)
	testkit.Check(t, err)
	t.Cleanup(func() { g.mem.Close() })
	testkit.Check(t, g.front.Share(g.mem))
	space := ringSpace
	if o.size > 1024 {
		space = bigSpace
	}
	for i := range dev.Queues() {
		size := max(o.size, 128)
		if o.exact {
			size = o.size
		}
		r, err := g.front.NewRing(g.mem, i*space, i, size)
		testkit.Check(t, err)
		t.Cleanup(func() { r.Close() })
		testkit.Check(t, g.front.StartRing(r, 0))
		g.rings = append(g.rings, r)
	}
	return g
}

// newShare is newGuest for an empty directory of the host.
func newShare(t testing.TB, o guestOptions) (g *guest, dir string) {
	t.Helper()
	dir = t.TempDir()
	fs, err := passthrough.New(passthrough.Options{
		SharedDir: dir, XAttr: true, AnnounceSubmounts: true, PosixLocks: true, Flock: true, Log: o.log,
	})
	testkit.Check(t, err)
	t.Cleanup(func() { fs.Close() })
	return newGuest(t, fs, o), dir
}

// add puts a request into ring, with its bytes in slot i, without telling the device.
func (g *guest) add(ring, i int, in []byte, outSize int) (head uint16) {
	g.t.Helper()
	at := dataAt + i*slot
	return g.put(ring, in, at, at+slot/2, outSize)
}

// put is add with the request's bytes and its reply's at given addresses.
func (g *guest) put(ring int, in []byte, at, out, outSize int) (head uint16) {
	g.t.Helper()
	copy(g.mem.Mem[at:], in)
	clear(g.mem.Mem[out:][:outSize])
	var write []virtq.Seg
	if outSize > 0 {
		write = []virtq.Seg{{Addr: guestmem.GPA(out), Len: uint32(outSize)}}
	}
	head, ok := g.rings[ring].Add([]virtq.Seg{{Addr: guestmem.GPA(at), Len: uint32(len(in))}}, write)
	if !ok {
		g.t.Fatalf("ring %d is full", ring)
	}
	return head
}

// reply waits for the next completion of ring.
func (g *guest) reply(ring int) (head uint16, n int, err error) {
	r := g.rings[ring]
	for {
		if head, n, ok := r.Used(); ok {
			return head, int(n), nil
		}
		if err := r.Err(); err != nil {
			return 0, 0, err
		}
		if !r.Wait(testkit.Patience) {
			return 0, 0, fmt.Errorf("ring %d: no reply in time", ring)
		}
	}
}

// transport carries requests of a client through ring.
func (g *guest) transport(ring int) fusetest.Transport {
	return func(in []byte, outSize int) ([]byte, error) {
		head := g.add(ring, 0, in, outSize)
		if err := g.rings[ring].Submit(); err != nil {
			return nil, err
		}
		got, n, err := g.reply(ring)
		switch {
		case err != nil:
			return nil, err
		case got != head:
			return nil, fmt.Errorf("completed head %d; want %d", got, head)
		case n > outSize:
			return nil, fmt.Errorf("used length %d; want at most %d", n, outSize)
		}
		return bytes.Clone(g.out(0)[:n]), nil
	}
}

// out is the memory for the reply to the request in slot i.
func (g *guest) out(i int) []byte { return g.mem.Mem[dataAt+i*slot+slot/2:][: slot/2 : slot/2] }

// client returns a client on ring 1 that has done INIT.
func (g *guest) client() *fusetest.Client {
	g.t.Helper()
	c := fusetest.NewClient(g.transport(1))
	_, err := c.Init(fusetest.AllFlags)
	testkit.Check(g.t, err)
	return c
}
