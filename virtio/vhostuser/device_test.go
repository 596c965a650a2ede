package vhostuser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/virtio"
	"vfiofs/virtio/virtq"
)

// TestMain fails a run that leaves descriptors or goroutines behind.
func TestMain(m *testing.M) { os.Exit(testkit.MainIdle(m)) }

// An echoDevice answers each chain with the bytes it was given, at once or, while it
// holds, when it is told to.
type echoDevice struct {
	queues   int
	config   []byte
	startErr error

	mu    sync.Mutex
	cond  *sync.Cond
	hold  bool
	rings map[int]*echoRing
	// What happened so far.
	held, echoed, resets, starts, stopping, bad int
}

// An echoRing is a ring that the device runs.
type echoRing struct {
	dev      *echoDevice
	ring     virtio.Ring
	wake     *fd.FD
	epoll    *fd.FD
	stopping bool
	held     []*virtq.Chain
	done     chan struct{}
}

func newEchoDevice() *echoDevice {
	d := &echoDevice{queues: 2, rings: map[int]*echoRing{}, config: []byte("tag")}
	d.config = append(d.config, make([]byte, 33)...)
	d.config = append(d.config, 1, 0, 0, 0)
	d.cond = sync.NewCond(&d.mu)
	return d
}

func (d *echoDevice) Queues() int               { return d.queues }
func (d *echoDevice) Features() virtio.Features { return 0 }
func (d *echoDevice) ConfigSize() int           { return len(d.config) }

func (d *echoDevice) ReadConfig(p []byte, off int) {
	clear(p)
	if off < len(d.config) {
		copy(p, d.config[off:])
	}
}

func (d *echoDevice) StartQueue(n int, r virtio.Ring) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.startErr != nil {
		return d.startErr
	}
	if d.rings[n] != nil {
		panic(fmt.Sprintf("ring %d started twice", n))
	}
	wake, err := fd.NewEvent("wake")
	if err != nil {
		return err
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return errors.Join(err, wake.Close())
	}
	e := &echoRing{dev: d, ring: r, wake: wake, epoll: fd.New(ep, "epoll"), done: make(chan struct{})}
	for _, n := range []int{r.Kick, wake.Int()} {
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, n, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(n)}); err != nil {
			return errors.Join(err, wake.Close(), e.epoll.Close())
		}
	}
	d.rings[n] = e
	d.starts++
	d.cond.Broadcast()
	go e.run()
	return nil
}

// run is the ring's thread.
func (e *echoRing) run() {
	defer close(e.done)
	defer e.wake.Close()
	defer e.epoll.Close()
	for e.step() {
		var ev [2]unix.EpollEvent
		unix.EpollWait(e.epoll.Int(), ev[:], -1)
	}
}

// step does what there is to do and reports whether to go on.
func (e *echoRing) step() bool {
	d, q := e.dev, e.ring.Queue
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.cond.Broadcast()
	for {
		for !e.stopping {
			c := new(virtq.Chain)
			ok, err := q.Next(c)
			if err != nil {
				e.ring.Fail(err)
				return false
			}
			if !ok {
				break
			}
			if c.Err != nil {
				d.bad++
			}
			e.held = append(e.held, c)
			d.held++
		}
		if !d.hold {
			for _, c := range e.held {
				b := make([]byte, min(c.Read.Len(), c.Write.Len()))
				c.Read.CopyOut(b, 0)
				q.Done(c, c.Write.CopyIn(b, 0))
				d.echoed++
				d.held--
			}
			e.held = nil
		}
		if q.NeedCall() {
			e.ring.Call.Notify()
		}
		if e.stopping {
			return len(e.held) > 0
		}
		if !q.Arm() {
			return true
		}
	}
}

func (d *echoDevice) StopQueue(n int) {
	d.mu.Lock()
	e := d.rings[n]
	if e == nil {
		d.mu.Unlock()
		return
	}
	e.stopping = true
	d.stopping++
	d.cond.Broadcast()
	d.mu.Unlock()
	e.wake.Signal()
	<-e.done
	d.mu.Lock()
	delete(d.rings, n)
	d.mu.Unlock()
}

func (d *echoDevice) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.rings) > 0 {
		panic("reset of a device with running rings")
	}
	d.resets++
	d.cond.Broadcast()
}

// setHold makes the device hold requests, or release what it holds.
func (d *echoDevice) setHold(hold bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hold = hold
	for _, e := range d.rings {
		e.wake.Signal()
	}
}

// await waits until ok, which is called with the device locked, becomes true.
func (d *echoDevice) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	timer := time.AfterFunc(testkit.Patience, d.cond.Broadcast)
	defer timer.Stop()
	end := time.Now().Add(testkit.Patience)
	d.mu.Lock()
	defer d.mu.Unlock()
	for !ok() {
		if !time.Now().Before(end) {
			t.Fatalf("waited in vain for %s: %d held, %d echoed, %d starts, %d stopping", what, d.held, d.echoed, d.starts, d.stopping)
		}
		d.cond.Wait()
	}
}

// count returns a counter of the device.
func (d *echoDevice) count(of *int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return *of
}

// A countingLink counts mappings that nobody has ended.
type countingLink struct {
	*Socket
	mapped int
}

func (l *countingLink) Map(m *Message, regions []Region) ([]Mapping, error) {
	maps, err := l.Socket.Map(m, regions)
	for i := range maps {
		l.mapped++
		unmap := maps[i].Unmap
		maps[i].Unmap = func() error {
			l.mapped--
			return unmap()
		}
	}
	return maps, err
}

// A rig is a back-end that serves a device to a front-end in this process.
type rig struct {
	t     *testing.T
	dev   *echoDevice
	front *Frontend
	mem   *GuestMemory
	link  *countingLink
	err   error
	done  chan struct{}
	log   *logBuffer
}

const (
	allFeatures = ^virtio.Features(0)
	allProtocol = ^ProtocolFeatures(0)
	dataArea    = 0x10000 // in a rig's memory, after its rings
)

// newRig starts serving. The front-end has shared its memory and negotiated features.
func newRig(t *testing.T, features virtio.Features, protocol ProtocolFeatures) *rig {
	t.Helper()
	r := newRawRig(t, context.Background())
	testkit.Check(t, r.front.Negotiate(features, protocol))
	testkit.Check(t, r.front.Share(r.mem))
	return r
}

// newRawRig starts serving to a front-end that hasn't said anything yet.
func newRawRig(t *testing.T, ctx context.Context) *rig {
	t.Helper()
	back, front, err := Pair()
	testkit.Check(t, err)
	mem, err := NewGuestMemory(0x100000, 1<<20)
	testkit.Check(t, err)
	r := &rig{t: t, dev: newEchoDevice(), front: front, mem: mem, link: &countingLink{Socket: back}, done: make(chan struct{}), log: new(logBuffer)}
	b := NewBackend(r.dev, Options{Log: slog.New(slog.NewTextHandler(r.log, nil))})
	b.drainNotice = time.Millisecond
	go func() {
		defer close(r.done)
		r.err = b.Serve(ctx, r.link)
	}()
	t.Cleanup(func() {
		r.dev.setHold(false)
		front.Close()
		r.wait()
		if n := r.link.mapped; n != 0 {
			t.Errorf("%d mappings left after Serve", n)
		}
		testkit.Check(t, mem.Close())
	})
	return r
}

// wait waits for the end of Serve and returns its result.
func (r *rig) wait() error {
	r.t.Helper()
	select {
	case <-r.done:
		return r.err
	case <-time.After(testkit.Patience):
		r.t.Fatal("Serve doesn't return")
		return nil
	}
}

// leave closes the front-end and wants Serve to end well.
func (r *rig) leave() {
	r.t.Helper()
	r.front.Close()
	if err := r.wait(); err != nil {
		r.t.Errorf("Serve = %v; want nil", err)
	}
}

// alive wants the connection to be usable.
func (r *rig) alive() {
	r.t.Helper()
	if err := r.front.Sync(); err != nil {
		r.t.Fatalf("connection is dead: %v", err)
	}
}

// broken wants Serve to end with a PeerError about code.
func (r *rig) broken(code Code) {
	r.t.Helper()
	err := r.wait()
	if pe, ok := errors.AsType[*PeerError](err); !ok || pe.Code != code {
		r.t.Errorf("Serve = %v; want a PeerError about %s", err, code)
	}
}

// ring makes ring index and closes it at the end.
func (r *rig) ring(index int) *GuestRing {
	r.t.Helper()
	g, err := r.front.NewRing(r.mem, index*0x4000, index, 64)
	testkit.Check(r.t, err)
	r.t.Cleanup(func() { testkit.Check(r.t, g.Close()) })
	return g
}

// started makes and starts ring 1.
func (r *rig) started() *GuestRing {
	r.t.Helper()
	g := r.ring(1)
	testkit.Check(r.t, r.front.StartRing(g, 0))
	return g
}

// add adds one request for 64 bytes to be echoed, number i of the data area.
func (r *rig) add(g *GuestRing, i int) (head uint16) {
	r.t.Helper()
	off := dataArea + i*0x1000
	copy(r.mem.Mem[off:], fmt.Sprintf("request %d", i))
	gpa := r.mem.GPA
	seg := func(o int) []virtq.Seg { return []virtq.Seg{{Addr: gpa + gpaOf(o), Len: 64}} }
	head, ok := g.Add(seg(off), seg(off+0x800))
	if !ok {
		r.t.Fatalf("ring is full at request %d", i)
	}
	return head
}

// submit publishes n requests and kicks in any case.
func (r *rig) submit(g *GuestRing, n int) {
	r.t.Helper()
	for i := range n {
		r.add(g, i)
	}
	g.Publish()
	testkit.Check(r.t, g.Kick.Signal())
}

// used waits for n completions.
func (r *rig) used(g *GuestRing, n int) {
	r.t.Helper()
	for i := range n {
		if !g.Wait(testkit.Patience) {
			r.t.Fatalf("completion %d of %d doesn't come", i, n)
		}
		if _, size, ok := g.Used(); !ok || size != 64 {
			r.t.Fatalf("Used() = %d, %v; want 64, true (%v)", size, ok, g.Err())
		}
	}
}

// echo makes n requests and waits for them.
func (r *rig) echo(g *GuestRing, n int) {
	r.t.Helper()
	r.submit(g, n)
	r.used(g, n)
	for i := range n {
		out := r.mem.Mem[dataArea+i*0x1000+0x800:]
		if want := fmt.Sprintf("request %d", i); !bytes.HasPrefix(out, []byte(want)) {
			r.t.Errorf("reply %d = %q; want %q", i, out[:16], want)
		}
		clear(out[:64])
	}
}

// refused wants an error reply and a connection that survives it.
func (r *rig) refused(what string, err error) {
	r.t.Helper()
	if !errors.Is(err, ErrRefused) {
		r.t.Errorf("%s = %v; want %v", what, err, ErrRefused)
	}
	r.alive()
}

// events returns the counter of an eventfd and resets it.
func events(t *testing.T, e *fd.FD) uint64 {
	t.Helper()
	var b [8]byte
	n, err := unix.Read(e.Int(), b[:])
	if err == unix.EAGAIN {
		return 0
	}
	if err != nil || n != 8 {
		t.Fatalf("read %s = %d, %v", e, n, err)
	}
	v, _ := DecodeU64(b[:])
	return v
}

// newEvent makes an eventfd that the test closes.
func newEvent(t *testing.T, name string) *fd.FD {
	t.Helper()
	e, err := fd.NewEvent(name)
	testkit.Check(t, err)
	t.Cleanup(func() { e.Close() })
	return e
}

// A logBuffer collects log lines.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(b)
	if l.more != nil && strings.Contains(l.text.String(), "still draining") {
		close(l.more)
		l.more = nil
	}
	return len(b), nil
}

// draining returns a channel that is closed by the next reminder of a drain.
func (l *logBuffer) draining() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
	l.more = make(chan struct{})
	return l.more
}

// has wants the log to mention text.
func (l *logBuffer) has(t *testing.T, text string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !strings.Contains(l.text.String(), text) {
		t.Errorf("log = %q; want %q in it", l.text.String(), text)
	}
}
