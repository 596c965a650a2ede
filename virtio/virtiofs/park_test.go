package virtiofs_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/internal/testkit"
)

// A lockRig is a guest with a file in whose locks the test has a part.
type lockRig struct {
	*guest
	c    *fusetest.Client
	f    fuse.CreateOut
	path string
	sent map[sentTo]int // place
}

type sentTo struct {
	ring int
	head uint16
}

func newLockRig(t *testing.T, o guestOptions) *lockRig {
	t.Helper()
	g, dir := newShare(t, o)
	r := &lockRig{guest: g, c: g.client(), path: filepath.Join(dir, "f"), sent: map[sentTo]int{}}
	var err error
	r.f, err = r.c.Create(fuse.RootID, "f", syscall.O_RDWR, 0o600)
	testkit.Check(t, err)
	return r
}

const lockSlot = 128 // bytes of a SETLKW and of its reply

// wait sends a SETLKW of owner through ring, with its memory at place i.
func (r *lockRig) wait(ring, i int, owner uint64) (unique uint64) {
	r.t.Helper()
	m := r.c.Message(fuse.OpSetLkW, r.f.Entry.Node, fuse.LkIn{Handle: r.f.Open.Handle, Owner: owner, End: 9, Type: fuse.LockWrite})
	at := dataAt + slot + i*2*lockSlot
	r.sent[sentTo{ring, r.put(ring, m, at, at+lockSlot, 16)}] = i
	return uniqueOf(m)
}

// answer returns which request of ring is answered next, and how.
func (r *lockRig) answer(ring int) (i int, e syscall.Errno) {
	r.t.Helper()
	head, n, err := r.reply(ring)
	testkit.Check(r.t, err)
	i, ok := r.sent[sentTo{ring, head}]
	if !ok || n != 16 {
		r.t.Fatalf("reply to head %d of %d bytes; want one of the locks, 16", head, n)
	}
	delete(r.sent, sentTo{ring, head})
	at := dataAt + slot + i*2*lockSlot + lockSlot
	return i, syscall.Errno(-int32(binary.LittleEndian.Uint32(r.mem.Mem[at+4:])))
}

func (r *lockRig) wantAnswer(ring, i int, e syscall.Errno) {
	r.t.Helper()
	if got, errno := r.answer(ring); got != i || errno != e {
		r.t.Fatalf("answer to request %d, errno %d; want %d, %d", got, errno, i, e)
	}
}

func (r *lockRig) submit(ring int) {
	r.t.Helper()
	testkit.Check(r.t, r.rings[ring].Submit())
}

// taken makes sure that ring has taken all requests so far.
func (r *lockRig) taken(ring int) {
	r.t.Helper()
	_, err := fusetest.NewClient(r.transport(ring)).GetAttr(fuse.RootID, 0)
	testkit.Check(r.t, err)
}

// hostLock takes the whole file on the host; the result releases it.
func (r *lockRig) hostLock() (release func()) {
	r.t.Helper()
	f, err := os.OpenFile(r.path, os.O_RDWR, 0)
	testkit.Check(r.t, err)
	testkit.Check(r.t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	return func() { f.Close() }
}

func TestParkUntilUnlocked(t *testing.T) {
	r := newLockRig(t, guestOptions{queues: 2})
	lk := fuse.Lock{Owner: 1, End: 9, Type: fuse.LockWrite}
	testkit.Check(t, r.c.SetLock(r.f.Entry.Node, r.f.Open.Handle, lk, true))
	for i := range 3 {
		r.wait(2, i, uint64(10+i))
		r.submit(2)
	}
	r.taken(2)
	lk.Type = fuse.LockNone
	testkit.Check(t, r.c.SetLock(r.f.Entry.Node, r.f.Open.Handle, lk, false))
	for i := range 3 { // in order of arrival
		r.wantAnswer(2, i, 0)
		testkit.Check(t, r.c.FlushOwner(r.f.Entry.Node, r.f.Open.Handle, uint64(10+i)))
	}
}

func TestParkUntilHostUnlocks(t *testing.T) {
	r := newLockRig(t, guestOptions{})
	release := r.hostLock()
	r.wait(1, 0, 1)
	r.submit(1)
	release()
	r.wantAnswer(1, 0, 0)
}

// INTERRUPT comes through the hiprio ring, here before and after its request.
func TestParkInterrupted(t *testing.T) {
	r := newLockRig(t, guestOptions{queues: 2})
	release := r.hostLock()
	defer release()
	r.c.Transport = r.transport(0)
	early := r.wait(2, 0, 1)
	testkit.Check(t, r.c.Interrupt(early))
	r.submit(2)
	r.wantAnswer(2, 0, syscall.EINTR)

	late := r.wait(2, 1, 1)
	r.submit(2)
	testkit.Check(t, r.c.Interrupt(late+1))
	testkit.Check(t, r.c.Interrupt(late))
	r.wantAnswer(2, 1, syscall.EINTR)
}

// Stopping a ring ends the waits of that ring, and of no other.
func TestParkStopped(t *testing.T) {
	r := newLockRig(t, guestOptions{queues: 2})
	release := r.hostLock()
	for i := range 3 {
		r.wait(1, i, uint64(i))
	}
	r.submit(1)
	r.wait(2, 3, 3)
	r.submit(2)
	r.taken(1)
	r.taken(2)
	base, err := r.front.VringBase(1)
	testkit.Check(t, err)
	for range 3 {
		if i, e := r.answer(1); e != syscall.ENOLCK || i == 3 {
			t.Errorf("answer to request %d, errno %d; want 0 to 2, ENOLCK", i, e)
		}
	}
	testkit.Check(t, r.front.StartRing(r.rings[1], base))
	r.taken(1)
	release()
	r.wantAnswer(2, 3, 0)
}

// A client that goes away leaves no lock behind.
func TestParkDisconnect(t *testing.T) {
	r := newLockRig(t, guestOptions{})
	lk := fuse.Lock{Owner: 1, End: 9, Type: fuse.LockWrite}
	testkit.Check(t, r.c.SetLock(r.f.Entry.Node, r.f.Open.Handle, lk, false))
	r.wait(1, 0, 2)
	r.submit(1)
	r.front.Close()
	testkit.Check(t, testkit.Receive(t, r.ended))
	r.ended <- nil
	r.hostLock()()
}

// Not more than a quarter of a ring waits: the rest is for those who unlock.
func TestParkLimit(t *testing.T) {
	const size = 128
	r := newLockRig(t, guestOptions{size: size})
	release := r.hostLock()
	for i := range size / 4 {
		r.wait(1, i, uint64(i))
	}
	r.submit(1)
	r.taken(1)
	r.wait(1, size, 99)
	r.submit(1)
	r.wantAnswer(1, size, syscall.ENOLCK)
	release()
	r.wantAnswer(1, 0, 0)
	testkit.Check(t, r.c.FlushOwner(r.f.Entry.Node, r.f.Open.Handle, 0))
	r.wantAnswer(1, 1, 0)
}

// Ten thousand waits cost no threads and next to no time.
func TestParkMany(t *testing.T) {
	const n = 10_000
	r := newLockRig(t, guestOptions{queues: 3, size: 16384})
	release := r.hostLock()
	threads, cpu := usage(t)
	for i := range n {
		r.wait(1+i%3, i, uint64(i))
	}
	for ring := 1; ring <= 3; ring++ {
		r.submit(ring)
		r.taken(ring)
	}
	more, busy := usage(t)
	if more -= threads; more > 4 {
		t.Errorf("%d requests that wait have started %d threads; want none", n, more)
	}
	t.Logf("%v of CPU time to park %d requests", busy-cpu, n)

	// They are tried every 50 ms by now, or less often.
	const quiet = time.Second
	begin := time.Now()
	_, cpu = usage(t)
	for time.Since(begin) < quiet {
		_, err := unix.Poll(nil, 100)
		if err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	_, busy = usage(t)
	if used := busy - cpu; used > quiet/4 {
		t.Errorf("%d requests that wait used %v of CPU time in %v; want next to none", n, used, quiet)
	} else {
		t.Logf("%v of CPU time in %v while %d requests wait", used, quiet, n)
	}

	release()
	// One after the other, no matter which ring.
	r.c.Transport = r.transport(0)
	const through = 500
	_, cpu = usage(t)
	for range through {
		ring := 1
		for !r.rings[ring].Pending() {
			ring = ring%3 + 1
			runtime.Gosched()
		}
		i, e := r.answer(ring)
		if e != 0 {
			t.Fatalf("answer to request %d = errno %d; want 0", i, e)
		}
		testkit.Check(t, r.c.FlushOwner(r.f.Entry.Node, r.f.Open.Handle, uint64(i)))
	}
	_, busy = usage(t)
	t.Logf("%v of CPU time for each lock that is passed on", (busy-cpu)/through)
}

// usage returns the number of threads of the process, and its CPU time.
func usage(t *testing.T) (threads int, cpu time.Duration) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/task")
	testkit.Check(t, err)
	var u unix.Rusage
	testkit.Check(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return len(list), time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
