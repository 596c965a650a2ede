package vfiouser

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/internal/unixsock"
	"vfiofs/vfio"
)

// patience is how long a test waits for what should happen at once.
const patience = 2 * testkit.Patience

// TestMain fails a run that leaves descriptors or goroutines behind.
func TestMain(m *testing.M) { os.Exit(testkit.MainIdle(m)) }

// newMemfd returns a file of size bytes in memory.
func newMemfd(t testing.TB, size int64) *fd.FD {
	t.Helper()
	n, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	testkit.Check(t, err)
	f := fd.New(n, "memfd")
	t.Cleanup(func() { f.Close() })
	testkit.Check(t, unix.Ftruncate(n, size))
	return f
}

// newEvent returns an eventfd.
func newEvent(t testing.TB) *fd.FD {
	t.Helper()
	e, err := fd.NewEvent("event")
	testkit.Check(t, err)
	t.Cleanup(func() { e.Close() })
	return e
}

// count returns how often an eventfd was signalled since the last time.
func count(t testing.TB, e *fd.FD) uint64 {
	t.Helper()
	var b [8]byte
	switch _, err := unix.Read(e.Int(), b[:]); err {
	case nil, unix.EAGAIN:
		return u64(b[:], 0)
	default:
		t.Fatal(err)
		return 0
	}
}

// sockets returns the two ends of a connection.
func sockets(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	a, b, err := unixsock.Pair()
	testkit.Check(t, err)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// A testModel is a function with registers that keep what is written to them. Its
// regions are those of the transcript in vfio-user.md section 12.
type testModel struct {
	mu      sync.Mutex
	infos   [vfio.NumRegions]RegionInfo
	regs    [vfio.NumRegions][]byte
	vectors [irqKinds]int
	events  [vfio.NumRegions]map[int64]*fd.FD
	sources map[int]*fd.FD
	bus     *Bus     // while attached
	calls   []string // all but reads of BARs
	onWrite func()   // called without the lock
}

func newTestModel(t testing.TB) *testModel {
	m := &testModel{vectors: [irqKinds]int{vfio.MSIX: 8, vfio.Err: 1, vfio.Req: 1}}
	m.infos[0] = RegionInfo{Size: 0x4000}
	m.infos[1] = RegionInfo{Size: 0x1000}
	m.infos[2] = RegionInfo{Size: 64 << 20, File: newMemfd(t, 64<<20)}
	m.infos[4] = RegionInfo{Size: 1 << 20, File: newMemfd(t, 1<<20), Areas: []Area{{0x10000, 0x10000}, {0x40000, 0x1000}}}
	m.infos[vfio.ConfigRegion] = RegionInfo{Size: 4096}
	for i := range m.regs {
		m.regs[i] = make([]byte, min(m.infos[i].Size, 1<<20))
	}
	return m
}

func (m *testModel) note(format string, args ...any) {
	m.calls = append(m.calls, fmt.Sprintf(format, args...))
}

// taken returns the calls since the last time.
func (m *testModel) taken() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	calls := m.calls
	m.calls = nil
	return calls
}

// attached returns the bus of the client.
func (m *testModel) attached() *Bus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bus
}

func (m *testModel) Attach(bus *Bus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("attach")
	m.bus = bus
}

func (m *testModel) Detach() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("detach")
	m.bus = nil
}

func (m *testModel) Region(i int) RegionInfo { return m.infos[i] }

func (m *testModel) Vectors(kind vfio.IRQ) int { return m.vectors[kind] }

func (m *testModel) Read(region int, p []byte, off int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(p)
	if off < int64(len(m.regs[region])) {
		copy(p, m.regs[region][off:])
	}
}

func (m *testModel) Write(region int, p []byte, off int64) {
	m.mu.Lock()
	m.note("write %d+%#x %x", region, off, p)
	if off < int64(len(m.regs[region])) {
		copy(m.regs[region][off:], p)
	}
	on := m.onWrite
	m.mu.Unlock()
	if on != nil {
		on()
	}
}

func (m *testModel) Events(region, max int) (events []Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for off, e := range m.events[region] {
		if len(events) < max {
			events = append(events, Event{off, duplicate(e)})
		}
	}
	return events
}

func (m *testModel) Source(_ vfio.IRQ, vector int) *fd.FD {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.sources[vector]; e != nil {
		return duplicate(e)
	}
	return nil
}

func duplicate(f *fd.FD) *fd.FD {
	n, err := unix.FcntlInt(uintptr(f.Int()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	return fd.New(n, "duplicate")
}

func (m *testModel) Unmap(first, last vfio.IOVA) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("unmap %#x-%#x", uint64(first), uint64(last))
}

func (m *testModel) Reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("reset")
}

// serve shows a model to the other end of the returned connection. end waits for Serve.
func serve(t testing.TB, m Model) (sock *net.UnixConn, end func() error) {
	t.Helper()
	ours, theirs := sockets(t)
	done := make(chan error, 1)
	go func() { done <- NewServer(m, Options{}).Serve(context.Background(), ours) }()
	end = sync.OnceValue(func() error {
		theirs.Close()
		select {
		case err := <-done:
			return err
		case <-time.After(patience):
			t.Error("Serve doesn't end")
			return nil
		}
	})
	t.Cleanup(func() { end() })
	return theirs, end
}

// unhex decodes hexadecimal digits with blanks between them.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	testkit.Check(t, err)
	return b
}

// A raw speaks bytes.
type raw struct {
	t    testing.TB
	sock *net.UnixConn
}

// send sends bytes and descriptors in one call.
func (r raw) send(b []byte, files ...*fd.FD) {
	r.t.Helper()
	testkit.Check(r.t, testkit.Send(r.sock, b, files...))
}

// recv returns the next message, and how many descriptors came with it.
func (r raw) recv() ([]byte, int) {
	r.t.Helper()
	r.sock.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, headerSize, maxMessage)
	var m message
	_, err := unixsock.ReadFull(r.sock, b, unixsock.Control(maxFiles), maxFiles, "reply", &m.files)
	testkit.Check(r.t, err)
	files := len(m.files)
	m.close()
	b = b[:decodeHeader(b).size]
	_, err = io.ReadFull(r.sock, b[headerSize:])
	testkit.Check(r.t, err)
	return b, files
}

// ask sends a command and returns the reply's errno and payload.
func (r raw) ask(command Command, payload []byte, files ...*fd.FD) (unix.Errno, []byte) {
	r.t.Helper()
	h := header{id: 7, command: command, size: uint32(headerSize + len(payload))}
	r.send(append(h.append(nil), payload...), files...)
	b, _ := r.recv()
	got := decodeHeader(b)
	if got.id != h.id || got.command != h.command || got.flags&^flagError != flagReply {
		r.t.Fatalf("%s: reply %x; want one to command 7", command, b[:headerSize])
	}
	return unix.Errno(got.errno), b[headerSize:]
}

// must is ask for commands that are obeyed.
func (r raw) must(command Command, payload []byte, files ...*fd.FD) []byte {
	r.t.Helper()
	errno, reply := r.ask(command, payload, files...)
	if errno != 0 {
		r.t.Fatalf("%s %x = %v; want success", command, payload, errno)
	}
	return reply
}

// greet is VERSION.
func (r raw) greet() { r.must(Version, []byte{0, 0, 0, 0}) }

// greeted returns a connection to a new server that has seen VERSION.
func greeted(t testing.TB, m Model) (raw, func() error) {
	sock, end := serve(t, m)
	r := raw{t, sock}
	r.greet()
	return r, end
}

// wantCalls compares what a model has seen, beside being attached.
func (m *testModel) wantCalls(t testing.TB, want ...string) {
	t.Helper()
	got := slices.DeleteFunc(m.taken(), func(s string) bool { return s == "attach" })
	if !slices.Equal(got, want) {
		t.Errorf("calls of the model = %q; want %q", got, want)
	}
}
