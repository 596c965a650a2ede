package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/internal/unixsock"
	"vfiofs/vfio"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/vhostuser"
)

// Memory of the device VM, as its driver's IOVAs.
const (
	ramBase = 0x100000
	ramSize = 0x200000
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m)) }

// A fakeBus is a device VM: memory, and vectors that count.
type fakeBus struct {
	ram []byte

	mu    sync.Mutex
	table *guestmem.Table
	fired map[int]int
	total int
	news  chan struct{} // closed at the next interrupt
}

func newFakeBus(t testing.TB) *fakeBus {
	ram, err := unix.Mmap(-1, 0, ramSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	testkit.Check(t, err)
	t.Cleanup(func() { unix.Munmap(ram) })
	b := &fakeBus{ram: ram, fired: map[int]int{}, news: make(chan struct{})}
	b.remap(t, guestmem.Region{GPA: ramBase, Mem: ram})
	return b
}

// remap changes what the device can reach.
func (b *fakeBus) remap(t testing.TB, regions ...guestmem.Region) {
	table, err := guestmem.NewTable(regions)
	testkit.Check(t, err)
	b.mu.Lock()
	b.table = table
	b.mu.Unlock()
}

func (b *fakeBus) Snapshot() *guestmem.Table {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.table
}

func (b *fakeBus) View(iova vfio.IOVA, n int) ([]byte, func() error, error) {
	mem, ok := b.Snapshot().Slice(guestmem.GPA(iova), uint64(n))
	if !ok {
		return nil, nil, errors.New("not mapped")
	}
	return mem, func() error { return nil }, nil
}

func (b *fakeBus) Trigger(kind vfio.IRQ, vector int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if kind != vfio.MSIX {
		panic("interrupt that isn't MSI-X")
	}
	b.fired[vector]++
	b.total++
	close(b.news)
	b.news = make(chan struct{})
}

// count returns how often a vector has fired.
func (b *fakeBus) count(vector int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fired[vector]
}

// A rig is a Device in a test.
type rig struct {
	t      testing.TB
	dev    *Device
	bus    *fakeBus
	memory *Memory
	queue  chan *net.UnixConn // siblings that have connected
	log    *bytes.Buffer
	logMu  *sync.Mutex
}

// Accept is Listener's.
func (r *rig) Accept(ctx context.Context) (*net.UnixConn, error) {
	select {
	case s := <-r.queue:
		return s, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Write takes log lines.
func (r *rig) Write(p []byte) (int, error) {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	return r.log.Write(p)
}

// logged returns what was logged.
func (r *rig) logged() string {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	return r.log.String()
}

// newRig returns a Device with a client.
func newRig(t testing.TB, opt Options) *rig {
	t.Helper()
	r := &rig{t: t, bus: newFakeBus(t), queue: make(chan *net.UnixConn, 16), log: new(bytes.Buffer), logMu: new(sync.Mutex)}
	if opt.Memory == nil {
		m, err := NewMemory(1 << 20)
		testkit.Check(t, err)
		t.Cleanup(func() { m.Close() })
		opt.Memory = m
	}
	r.memory = opt.Memory
	opt.Listener = r
	opt.Log = slog.New(slog.NewTextHandler(r, nil))
	dev, err := New(opt)
	testkit.Check(t, err)
	r.dev = dev
	t.Cleanup(func() {
		testkit.Check(t, dev.Close())
		close(r.queue)
		for s := range r.queue {
			s.Close()
		}
		if t.Failed() {
			t.Logf("log:\n%s", r.logged())
		}
	})
	dev.attach(r.bus)
	r.w16(vfio.ConfigRegion, 4, 6) // memory, bus master
	return r
}

// Register accesses.

func (r *rig) read(region int, off int64, n int) []byte {
	p := make([]byte, n)
	r.dev.Read(region, p, off)
	return p
}

func (r *rig) r8(region int, off int64) uint8 { return r.read(region, off, 1)[0] }
func (r *rig) r16(region int, off int64) uint16 {
	return binary.LittleEndian.Uint16(r.read(region, off, 2))
}

func (r *rig) r32(region int, off int64) uint32 {
	return binary.LittleEndian.Uint32(r.read(region, off, 4))
}

func (r *rig) w8(region int, off int64, v uint8) { r.dev.Write(region, []byte{v}, off) }
func (r *rig) w16(region int, off int64, v uint16) {
	r.dev.Write(region, binary.LittleEndian.AppendUint16(nil, v), off)
}

func (r *rig) w32(region int, off int64, v uint32) {
	r.dev.Write(region, binary.LittleEndian.AppendUint32(nil, v), off)
}

// wait waits until ok holds, which is looked at after every interrupt.
func (r *rig) wait(what string, ok func() bool) {
	r.t.Helper()
	end := time.After(testkit.Patience)
	for {
		r.bus.mu.Lock()
		news := r.bus.news
		r.bus.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-news:
		case <-end:
			r.t.Fatalf("%s: didn't happen in time\nlog:\n%s", what, r.logged())
		}
	}
}

// eventually waits until ok holds for what no interrupt tells.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(testkit.Patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			r.t.Fatalf("%s: didn't happen in time\nlog:\n%s", what, r.logged())
		}
	}
}

// state returns the state of the device.
func (r *rig) state() state {
	r.dev.mu.Lock()
	defer r.dev.mu.Unlock()
	return r.dev.state
}

// waitState waits for a state.
func (r *rig) waitState(want state) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("state %d", want), func() bool { return r.state() == want })
}

// A peer is a sibling's front-end, by its socket.
type peer struct {
	t    testing.TB
	conn *net.UnixConn
	*vhostuser.Frontend
}

// connect connects a sibling.
func (r *rig) connect() *peer {
	r.t.Helper()
	back, front := socketPair(r.t)
	r.queue <- back
	p := &peer{r.t, front, vhostuser.NewFrontend(front)}
	r.t.Cleanup(func() { p.Close() })
	return p
}

// socketPair returns two connected sockets.
func socketPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	a, b, err := unixsock.Pair()
	testkit.Check(t, err)
	return a, b
}

// send sends raw bytes with descriptors.
func (p *peer) send(b []byte, files ...*fd.FD) {
	p.t.Helper()
	testkit.Check(p.t, testkit.Send(p.conn, b, files...))
}

// expect reads raw bytes.
func (p *peer) expect(want []byte) {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(testkit.Patience))
	got := make([]byte, len(want))
	for n := 0; n < len(got); {
		m, err := p.conn.Read(got[n:])
		if err != nil {
			p.t.Fatalf("read = %x, then %v; want %x", got[:n], err, want)
		}
		n += m
	}
	if !bytes.Equal(got, want) {
		p.t.Fatalf("sibling got %x; want %x", got, want)
	}
}

// expectEnd reads until the connection ends, and reports an error if anything comes.
func (p *peer) expectEnd() {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(testkit.Patience))
	var b [64]byte
	n, err := p.conn.Read(b[:])
	if n > 0 || errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		p.t.Fatalf("sibling got %x, %v; want the end of the connection", b[:n], err)
	}
}

// event makes an eventfd that is closed with the test.
func event(t testing.TB, flags int) *fd.FD {
	t.Helper()
	n, err := unix.Eventfd(0, unix.EFD_CLOEXEC|flags)
	testkit.Check(t, err)
	e := fd.New(n, "test event")
	t.Cleanup(func() { e.Close() })
	return e
}

// counter returns the counter of an eventfd, which it resets.
func counter(t testing.TB, e *fd.FD) uint64 {
	t.Helper()
	var b [8]byte
	n, err := unix.Preadv2(e.Int(), [][]byte{b[:]}, -1, unix.RWF_NOWAIT)
	if err == unix.EAGAIN {
		return 0
	}
	if err != nil || n != 8 {
		t.Fatalf("read of an eventfd = %d, %v", n, err)
	}
	return binary.LittleEndian.Uint64(b[:])
}

// hex decodes a dump: bytes in hexadecimal, and "00*8" for eight zeros.
func hex(t testing.TB, dump string) []byte {
	t.Helper()
	var b []byte
	for _, f := range bytes.Fields([]byte(dump)) {
		var v, n int
		if bytes.Contains(f, []byte("*")) {
			if _, err := fmt.Sscanf(string(f), "%x*%d", &v, &n); err != nil {
				t.Fatalf("dump %q: %v", f, err)
			}
		} else {
			n = 1
			if _, err := fmt.Sscanf(string(f), "%x", &v); err != nil {
				t.Fatalf("dump %q: %v", f, err)
			}
		}
		b = append(b, bytes.Repeat([]byte{byte(v)}, n)...)
	}
	return b
}
