package virtiofs_test

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/internal/testkit"
	"vfiofs/virtio/guestmem"
)

// A gated file system keeps every SYNCFS waiting until the test lets it go; node
// numbers tell which.
type gated struct {
	*fusetest.Mem
	started chan fuse.NodeID
	release map[fuse.NodeID]chan struct{}
}

func newGated(n int) *gated {
	f := &gated{Mem: fusetest.NewMem(), started: make(chan fuse.NodeID, n), release: map[fuse.NodeID]chan struct{}{}}
	for i := range n {
		f.release[fuse.NodeID(i+1)] = make(chan struct{})
	}
	return f
}

func (f *gated) SyncFS(_ *fuse.Context, node fuse.NodeID) error {
	f.started <- node
	<-f.release[node]
	return nil
}

// uniqueOf returns what request or reply b is called.
func uniqueOf(b []byte) uint64 { return binary.LittleEndian.Uint64(b[8:]) }

// hold sends n requests that don't end by themselves, and waits until all have begun.
func hold(t *testing.T, g *guest, fs *gated, c *fusetest.Client, n int) (uniques map[uint16]uint64) {
	t.Helper()
	uniques = map[uint16]uint64{}
	for i := range n {
		m := c.Message(fuse.OpSyncFS, fuse.NodeID(i+1), make([]byte, 8))
		uniques[g.add(1, i, m, 16)] = uniqueOf(m)
	}
	testkit.Check(t, g.rings[1].Submit())
	for range n {
		testkit.Receive(t, fs.started)
	}
	return uniques
}

func TestH026OutOfOrder(t *testing.T) {
	const n = 8
	fs := newGated(n)
	g := newGuest(t, fs, guestOptions{workers: n})
	c := g.client()
	uniques := hold(t, g, fs, c, n)

	// The ring goes on while they wait.
	head := g.add(1, n, c.Message(fuse.OpGetAttr, fuse.RootID, make([]byte, 16)), 120)
	testkit.Check(t, g.rings[1].Submit())
	if got, used, err := g.reply(1); err != nil || got != head || used != 120 {
		t.Fatalf("GETATTR meanwhile = head %d, %d bytes, %v; want head %d, 120 bytes", got, used, err, head)
	}
	seen := map[uint16]bool{}
	for i := n; i > 0; i-- { // last one first
		close(fs.release[fuse.NodeID(i)])
		got, used, err := g.reply(1)
		testkit.Check(t, err)
		if seen[got] || used != 16 {
			t.Errorf("completion of head %d, %d bytes; want each once, with 16", got, used)
		}
		seen[got] = true
		if u := uniqueOf(g.out(i - 1)); u != uniques[got] {
			t.Errorf("reply in slot %d = unique %d; want %d", i-1, u, uniques[got])
		}
	}
}

func TestH201StopInFlight(t *testing.T) {
	const n = 8
	fs := newGated(n)
	g := newGuest(t, fs, guestOptions{workers: n})
	c := g.client()
	uniques := hold(t, g, fs, c, n)

	base := make(chan uint16, 1)
	failed := make(chan error, 1)
	go func() {
		next, err := g.front.VringBase(1)
		failed <- err
		base <- next
	}()
	for i := range n {
		select {
		case next := <-base:
			t.Fatalf("GET_VRING_BASE = %d with %d requests in flight; want no reply yet", next, n-i)
		default:
		}
		close(fs.release[fuse.NodeID(i+1)])
	}
	testkit.Check(t, testkit.Receive(t, failed))
	if next := testkit.Receive(t, base); next != n+1 { // INIT was one
		t.Errorf("GET_VRING_BASE = %d; want %d", next, n+1)
	}
	for range n {
		head, used, ok := g.rings[1].Used()
		if _, was := uniques[head]; !ok || !was || used != 16 {
			t.Fatalf("after the stop: head %d, %d bytes, %v; want each request completed", head, used, ok)
		}
		delete(uniques, head)
	}

	testkit.Check(t, g.front.StartRing(g.rings[1], n+1))
	if a, err := c.GetAttr(fuse.RootID, 0); err != nil || a.Attr.Ino == 0 {
		t.Errorf("GetAttr after the restart = inode %d, %v", a.Attr.Ino, err)
	}
	if n := g.rings[1].Outstanding(); n != 0 {
		t.Errorf("%d chains are lost", n)
	}
}

// TestMoreThanWorkers holds more requests than there are workers, and than a loop
// hands over: nothing is lost, and the ring goes on when they are through.
func TestMoreThanWorkers(t *testing.T) {
	const n = 200
	fs := newGated(n)
	for _, c := range fs.release {
		close(c)
	}
	g := newGuest(t, fs, guestOptions{workers: 2, size: 512})
	c := g.client()
	for i := range n {
		at := dataAt + i*512
		g.put(1, c.Message(fuse.OpSyncFS, fuse.NodeID(i+1), make([]byte, 8)), at, at+256, 16)
	}
	testkit.Check(t, g.rings[1].Submit())
	for range n {
		testkit.Receive(t, fs.started)
		if _, used, err := g.reply(1); err != nil || used != 16 {
			t.Fatalf("reply of %d bytes, %v; want 16", used, err)
		}
	}
}

func TestH028Wrap(t *testing.T) {
	const total, depth = 300_000, 64
	g := newGuest(t, fusetest.NewMem(), guestOptions{size: depth * 2})
	c := g.client()
	type sent struct {
		at     int
		unique uint64
	}
	var inFlight [2 * depth]sent // by head
	send := func(at int) {
		m := c.Message(fuse.OpGetAttr, fuse.RootID, make([]byte, 16))
		inFlight[g.put(1, m, at, at+256, 120)] = sent{at, uniqueOf(m)}
	}
	for i := range depth {
		send(dataAt + i*512)
	}
	for done := range total {
		if !g.rings[1].Pending() {
			testkit.Check(t, g.rings[1].Submit())
		}
		head, used, err := g.reply(1)
		testkit.Check(t, err)
		s := inFlight[head]
		if u := uniqueOf(g.mem.Mem[s.at+256:]); used != 120 || u != s.unique {
			t.Fatalf("request %d: %d bytes, unique %d; want 120, %d", done, used, u, s.unique)
		}
		inFlight[head] = sent{}
		send(s.at)
	}
}

// A counting file system knows how many threads have read.
type counting struct {
	*fusetest.Mem
	mu      sync.Mutex
	threads map[*fuse.Context]int
}

func (f *counting) Read(c *fuse.Context, node fuse.NodeID, h fuse.Handle, dst guestmem.Vec, off uint64) (int, error) {
	f.mu.Lock()
	f.threads[c]++
	f.mu.Unlock()
	return f.Mem.Read(c, node, h, dst, off)
}

// TestLentReads: a worker serves a part of the large reads that wait in one ring, and each
// gets its reply.
func TestLentReads(t *testing.T) {
	if runtime.NumCPU() == 1 {
		t.Log("one processor: nothing is lent")
	}
	const depth, rounds, size = 8, 100, 256 << 10
	fs := &counting{Mem: fusetest.NewMem(), threads: map[*fuse.Context]int{}}
	g := newGuest(t, fs, guestOptions{})
	c := g.client()
	made, err := c.Create(fuse.RootID, "file", unix.O_RDWR, 0o600)
	testkit.Check(t, err)
	want := make([]byte, depth)
	for i := range depth { // block i is full of i+1
		want[i] = byte(i + 1)
		for at := 0; at < size; at += size / 4 {
			block := bytes.Repeat(want[i:i+1], size/4)
			_, err := c.Write(made.Entry.Node, made.Open.Handle, uint64(i*size+at), block)
			testkit.Check(t, err)
		}
	}
	for range rounds {
		slots := map[uint16]int{}
		for i := range depth {
			in := fuse.ReadIn{Handle: made.Open.Handle, Offset: uint64(i * size), Size: size}
			slots[g.add(1, i, c.Message(fuse.OpRead, made.Entry.Node, in), 16+size)] = i
		}
		testkit.Check(t, g.rings[1].Submit())
		for range depth {
			head, n, err := g.reply(1)
			testkit.Check(t, err)
			i, ok := slots[head]
			delete(slots, head)
			if !ok || n != 16+size || bytes.Count(g.out(i)[16:n], want[i:i+1]) != size {
				t.Fatalf("completion of head %d, request %d: %d bytes; want each once, with all its data", head, i, n)
			}
		}
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if n := len(fs.threads); runtime.NumCPU() > 1 && n < 2 {
		t.Errorf("%d thread has read; want two", n)
	}
}
