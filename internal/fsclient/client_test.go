package fsclient_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/internal/fsclient"
	"vfiofs/internal/testkit"
	"vfiofs/internal/unixsock"
	"vfiofs/virtio"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtiofs"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m)) }

// serve runs a backend over one end of a connection and returns the other end and what
// ends the backend.
func serve(t testing.TB, tag string, queues int) (conn *net.UnixConn, stop func()) {
	t.Helper()
	dev, err := virtiofs.New(fuse.NewServer(fusetest.NewMem(), fuse.Options{}), virtiofs.Options{
		Tag: tag, RequestQueues: queues, Workers: 1,
	})
	testkit.Check(t, err)
	back, conn, err := unixsock.Pair()
	testkit.Check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	link := vhostuser.NewSocket(back)
	go func() { ended <- vhostuser.NewBackend(dev, vhostuser.Options{}).Serve(ctx, link) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			<-ended
		}
	}
	t.Cleanup(func() { stop(); dev.Close() })
	return conn, stop
}

// connect is fsclient.Connect for a client that is closed at the end.
func connect(t testing.TB, conn *net.UnixConn, o fsclient.Options) *fsclient.Client {
	t.Helper()
	c, err := fsclient.Connect(conn, o)
	testkit.Check(t, err)
	t.Cleanup(func() { testkit.Check(t, c.Close()) })
	return c
}

// call passes one request through ring r and returns its reply.
func call(r *fsclient.Ring, s *fsclient.Slot, in []byte, out int) ([]byte, error) {
	copy(s.In, in)
	if !r.Submit(s, len(in), out) {
		return nil, errors.New("ring is full")
	}
	if err := r.Publish(); err != nil {
		return nil, err
	}
	if err := r.Wait(testkit.Patience); err != nil {
		return nil, err
	}
	got, n, ok := r.Reap()
	if !ok || got != s {
		return nil, fmt.Errorf("Reap() = %p, %d, %v; want %p (ring: %v)", got, n, ok, s, r.Err())
	}
	return append([]byte(nil), s.Out[:n]...), nil
}

// transport makes call what a fusetest.Client talks through.
func transport(r *fsclient.Ring, s *fsclient.Slot) fusetest.Transport {
	return func(in []byte, out int) ([]byte, error) { return call(r, s, in, out) }
}

func TestRequests(t *testing.T) {
	for _, test := range []struct {
		name    string
		without virtio.Features
	}{
		{"all features", 0},
		{"no event index", virtio.FeatureEventIdx},
		{"no indirect descriptors", virtio.FeatureIndirectDesc},
		{"no protocol features", vhostuser.FeatureProtocolFeatures},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, _ := serve(t, "share", 3)
			c := connect(t, conn, fsclient.Options{Queues: 2, Without: test.without})
			rings, tag := 3, "share"
			if test.without == vhostuser.FeatureProtocolFeatures {
				rings, tag = 2, ""
			}
			if c.Rings() != rings || c.Tag() != tag || c.Features()&test.without != 0 {
				t.Fatalf("connected: %d rings, tag %q, features %#x; want %d, %q, without %#x",
					c.Rings(), c.Tag(), uint64(c.Features()), rings, tag, uint64(test.without))
			}
			client := fusetest.NewClient(transport(c.Ring(1), c.Slots()[0]))
			_, err := client.Init(fusetest.AllFlags)
			testkit.Check(t, err)
			client.Transport = transport(c.Ring(rings-1), c.Slots()[5])
			created, err := client.Create(1, "file", uint32(os.O_RDWR), 0o644)
			testkit.Check(t, err)
			file, handle := created.Entry.Node, created.Open.Handle
			data := []byte(strings.Repeat("payload in two descriptors ", 1000))
			if n, err := client.Write(file, handle, 0, data); err != nil || n != len(data) {
				t.Fatalf("Write() = %d, %v; want %d", n, err, len(data))
			}
			if got, err := client.Read(file, handle, 0, len(data)+10); err != nil || string(got) != string(data) {
				t.Fatalf("Read() = %d bytes, %v; want the %d that were written", len(got), err, len(data))
			}
			client.Transport = transport(c.Ring(0), c.Slots()[0])
			testkit.Check(t, client.Forget(file, 1))
			if c.Gone() {
				t.Error("Gone() = true with a backend that serves")
			}
		})
	}
}

func TestPayloadIsOnPages(t *testing.T) {
	conn, _ := serve(t, "", 1)
	c := connect(t, conn, fsclient.Options{Slots: 3, Data: 8192})
	if len(c.Slots()) != 3 {
		t.Fatalf("%d slots; want 3", len(c.Slots()))
	}
	for i, s := range c.Slots() {
		if len(s.In) != fsclient.InHead+8192 || len(s.Out) != fsclient.OutHead+8192 {
			t.Errorf("slot %d has %d and %d bytes; want 8192 and the heads", i, len(s.In), len(s.Out))
		}
	}
}

func TestRingFull(t *testing.T) {
	conn, _ := serve(t, "", 1)
	c := connect(t, conn, fsclient.Options{RingSize: 4, Slots: 5, Data: 4096, Without: virtio.FeatureIndirectDesc})
	r := c.Ring(1)
	for i, s := range c.Slots() {
		fill(s, uint64(i))
		if ok := r.Submit(s, 40, fsclient.OutHead); ok != (i < 2) {
			t.Fatalf("Submit() of request %d of 2 descriptors in a ring of 4 = %v", i, ok)
		}
	}
	testkit.Check(t, r.Publish())
	for range 2 {
		testkit.Check(t, r.Wait(testkit.Patience))
		s, n, ok := r.Reap()
		if !ok || n != fsclient.OutHead {
			t.Fatalf("Reap() = %p, %d, %v; want a reply of %d bytes", s, n, ok, fsclient.OutHead)
		}
	}
	if n := r.Outstanding(); n != 0 {
		t.Errorf("Outstanding() = %d; want 0", n)
	}
	if err := r.Wait(0); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Wait() with nothing to wait for = %v; want %v", err, os.ErrDeadlineExceeded)
	}
}

// fill makes a request that no server knows.
func fill(s *fsclient.Slot, unique uint64) {
	binary.LittleEndian.PutUint32(s.In, 40)
	binary.LittleEndian.PutUint32(s.In[4:], 4000)
	binary.LittleEndian.PutUint64(s.In[8:], unique)
}

func TestNoAllocation(t *testing.T) {
	conn, _ := serve(t, "", 1)
	c := connect(t, conn, fsclient.Options{Slots: 1})
	r, s := c.Ring(1), c.Slots()[0]
	testkit.NoAllocs(t, 100, "a request", func() {
		fill(s, 7)
		r.Submit(s, 40, fsclient.OutHead)
		testkit.Check(t, r.Publish())
		testkit.Check(t, r.Wait(testkit.Patience))
		if _, _, ok := r.Reap(); !ok {
			t.Fatal("nothing to reap after Wait")
		}
	})
}

func TestBackendGone(t *testing.T) {
	conn, stop := serve(t, "", 1)
	c := connect(t, conn, fsclient.Options{})
	stop()
	if err := c.Ring(1).Wait(testkit.Patience); !errors.Is(err, fsclient.ErrGone) {
		t.Errorf("Wait() = %v; want %v", err, fsclient.ErrGone)
	}
	if !c.Gone() {
		t.Error("Gone() = false after the backend hung up")
	}
}

func TestDial(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	if _, err := fsclient.Dial(t.Context(), path, fsclient.Options{}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Dial() without a backend = %v; want an error that names %s", err, path)
	}
}

func TestDialIsEnded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path) // and nobody accepts
	testkit.Check(t, err)
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := fsclient.Dial(ctx, path, fsclient.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial() = %v; want %v", err, context.Canceled)
	}
}
