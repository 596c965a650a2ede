package devfuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/internal/fd"
	"vfiofs/internal/fsclient"
	"vfiofs/internal/testkit"
	"vfiofs/internal/unixsock"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtiofs"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m)) }

// counted is a file system that knows how it ended.
type counted struct {
	*fusetest.Mem
	destroyed atomic.Int32
}

func (c *counted) Destroy() { c.destroyed.Add(1); c.Mem.Destroy() }

// A rig is a Session between a backend in this process and a packet socket that plays
// the kernel: like /dev/fuse it keeps the bounds of what is written.
type rig struct {
	*Session
	t      testing.TB
	fs     *counted
	kernel *fd.FD
	client *fusetest.Client
	stopBE func()
	log    lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newRig(t testing.TB, queues int, o Options) *rig {
	t.Helper()
	r := &rig{t: t, fs: &counted{Mem: fusetest.NewMem()}}
	dev, err := virtiofs.New(fuse.NewServer(r.fs, fuse.Options{}), virtiofs.Options{RequestQueues: queues, Workers: 1})
	testkit.Check(t, err)
	back, front, err := unixsock.Pair()
	testkit.Check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- vhostuser.NewBackend(dev, vhostuser.Options{}).Serve(ctx, vhostuser.NewSocket(back))
	}()
	r.stopBE = sync.OnceFunc(func() { cancel(); <-ended; dev.Close() })
	t.Cleanup(r.stopBE)
	client, err := fsclient.Connect(front, ClientOptions(queues))
	testkit.Check(t, err)
	t.Cleanup(func() { testkit.Check(t, client.Close()) })

	var pair [2]int
	pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	testkit.Check(t, err)
	r.kernel = fd.New(pair[0], "kernel")
	end := fd.New(pair[1], "device")
	t.Cleanup(func() { r.kernel.Close() })
	o.Log = slog.New(slog.NewTextHandler(&r.log, nil))
	r.Session = newSession(client, o)
	r.client = fusetest.NewClient(r.transport)

	r.write(r.client.Message(fuse.OpInit, 0, fuse.InitIn{Major: 7, Minor: 45, Flags: uint32(linuxOffer & 0xffffffff)}))
	testkit.Check(t, r.agree(end))
	if out, err := r.read(); err != nil || len(out) != fsclient.OutHead+initOutSize {
		t.Fatalf("answer to INIT = %d bytes, %v; want %d", len(out), err, fsclient.OutHead+initOutSize)
	}
	testkit.Check(t, r.open(end, func(dev *fd.FD) (*fd.FD, error) {
		n, err := unix.FcntlInt(uintptr(dev.Int()), unix.F_DUPFD_CLOEXEC, 0)
		return fd.New(n, "clone"), err
	}))
	return r
}

// write is a request of the kernel.
func (r *rig) write(in []byte) {
	r.t.Helper()
	_, err := unix.Write(r.kernel.Int(), in)
	testkit.Check(r.t, err)
}

// read waits for what is written to the kernel.
func (r *rig) read() ([]byte, error) {
	p := []unix.PollFd{{Fd: int32(r.kernel.Int()), Events: unix.POLLIN}}
	if n, err := unix.Poll(p, int(testkit.Patience.Milliseconds())); n != 1 {
		return nil, fmt.Errorf("no reply in time (%v)", err)
	}
	b := make([]byte, 1<<17)
	n, err := unix.Read(r.kernel.Int(), b)
	return b[:max(n, 0)], err
}

func (r *rig) transport(in []byte, outSize int) ([]byte, error) {
	r.write(in)
	if outSize == 0 {
		return nil, nil
	}
	return r.read()
}

// serve runs the session; the result ends it and returns what Serve does.
func (r *rig) serve() (end func() error, ended chan error) {
	ended = make(chan error, 1)
	go func() { ended <- r.Serve(r.t.Context()) }()
	return func() error {
		r.stop.Signal()
		return <-ended
	}, ended
}

func TestSession(t *testing.T) {
	r := newRig(t, 2, Options{})
	end, _ := r.serve()
	created, err := r.client.Create(1, "file", uint32(os.O_RDWR), 0o644)
	testkit.Check(t, err)
	node, handle := created.Entry.Node, created.Open.Handle
	text := []byte(strings.Repeat("payload ", 5000))
	if n, err := r.client.Write(node, handle, 0, text); err != nil || n != len(text) {
		t.Fatalf("Write() = %d, %v; want %d", n, err, len(text))
	}
	for _, size := range []int{10, len(text), len(text) + 1} {
		want := text[:min(size, len(text))]
		if got, err := r.client.Read(node, handle, 0, size); err != nil || string(got) != string(want) {
			t.Fatalf("Read() of %d = %d bytes, %v; want %d", size, len(got), err, len(want))
		}
	}
	if _, err := r.client.Lookup(1, "none"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("Lookup() = %v; want %v", err, syscall.ENOENT)
	}
	r.write(r.client.Message(fuse.OpInterrupt, 0, uint64(12)))
	testkit.Check(t, r.client.Release(node, handle))
	testkit.Check(t, r.client.BatchForget(fuse.ForgetOne{Node: node, Lookups: 1}))
	for i := range 3 * hiprioSlots {
		testkit.Check(t, r.client.Forget(fuse.NodeID(1000+i), 1))
	}
	_, err = r.client.StatFS(1)
	testkit.Check(t, err)
	testkit.Check(t, end())
	if n := r.fs.destroyed.Load(); n != 1 {
		t.Errorf("the file system saw %d DESTROY; want 1", n)
	}
	if log := r.log.String(); log != "" {
		t.Errorf("log:\n%s\nwant nothing", log)
	}
}

func TestBackendLeaves(t *testing.T) {
	r := newRig(t, 2, Options{})
	_, ended := r.serve()
	_, err := r.client.StatFS(1)
	testkit.Check(t, err)
	r.stopBE()
	if err := <-ended; !errors.Is(err, fsclient.ErrGone) {
		t.Errorf("Serve() = %v; want %v", err, fsclient.ErrGone)
	}
}

func TestKernelTalksNonsense(t *testing.T) {
	r := newRig(t, 1, Options{})
	_, ended := r.serve()
	r.write([]byte("nonsense"))
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "8 bytes") {
		t.Errorf("Serve() = %v; want an error about 8 bytes", err)
	}
}

// TestHiprioIsSlow sends FORGET while the backend has all slots of the hiprio ring.
func TestHiprioIsSlow(t *testing.T) {
	r := newRig(t, 1, Options{NoInterrupt: true})
	l := r.loops[0]
	r.hiprio.spare = nil
	free := len(l.free)
	r.write(r.client.Message(fuse.OpForget, 5, fuse.ForgetIn{Lookups: 1}))
	r.write(r.client.Message(fuse.OpInterrupt, 0, uint64(12))) // goes nowhere
	_, err := l.take()
	testkit.Check(t, err)
	if got := free - len(l.free); got != 1 {
		t.Fatalf("%d slots are with the request ring; want 1", got)
	}
	testkit.Check(t, l.ring.Wait(testkit.Patience))
	_, err = l.give()
	testkit.Check(t, err)
	if len(l.free) != free {
		t.Errorf("%d slots are free after FORGET; want %d", len(l.free), free)
	}
	r.close()
}

func TestMalformedReply(t *testing.T) {
	r := newRig(t, 1, Options{})
	l := r.loops[0]
	slot := l.free[0]
	r.requests[slot.ID] = request{op: fuse.OpGetAttr, unique: 7}
	for name, h := range map[string][fsclient.OutHead]byte{
		"a notification":  head(32, 3, 0),
		"another request": head(32, 0, 9),
	} {
		copy(slot.Out, h[:])
		testkit.Check(t, l.reply(slot, 32))
		out, err := r.read()
		want := head(16, int32(syscall.EIO), 7)
		if err != nil || string(out) != string(want[:]) {
			t.Errorf("%s: the kernel got %x, %v; want EIO", name, out, err)
		}
	}
	if log := r.log.String(); !strings.Contains(log, "GETATTR") {
		t.Errorf("log:\n%s\nwant the operation", log)
	}
	r.close()
}

func TestNoAllocation(t *testing.T) {
	r := newRig(t, 1, Options{})
	l := r.loops[0]
	in, out := message(4000), make([]byte, 100)
	testkit.NoAllocs(t, 100, "a request", func() {
		r.write(in)
		_, err := l.take()
		testkit.Check(t, err)
		testkit.Check(t, l.ring.Wait(testkit.Patience))
		_, err = l.give()
		testkit.Check(t, err)
		if n, err := unix.Read(r.kernel.Int(), out); n != fsclient.OutHead {
			t.Fatalf("reply of %d bytes, %v; want %d", n, err, fsclient.OutHead)
		}
	})
	r.close()
}
