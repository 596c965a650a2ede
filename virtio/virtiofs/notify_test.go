package virtiofs_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/internal/testkit"
	"vfiofs/virtio"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtiofs"
	"vfiofs/virtio/virtq"
)

// A crowd sends the same cheap request again and again, up to room at a time.
type crowd struct {
	g    *guest
	r    *vhostuser.GuestRing
	room int // descriptors that it takes at most
	done int

	read, write [1]virtq.Seg
}

// newCrowd sends to a ring, without a mount: the device answers with an errno.
func newCrowd(g *guest, ring, room int) *crowd {
	c := &crowd{g: g, r: g.rings[ring], room: min(room, g.rings[ring].Size)}
	c.send(request{fusetest.NewClient(nil).Message(fuse.OpStatFS, fuse.RootID), 16})
	return c
}

// A request is its bytes, and the room that its reply gets.
type request struct {
	in  []byte
	out int
}

// send chooses what is sent from now on. No request is in flight.
func (c *crowd) send(r request) {
	copy(c.g.mem.Mem[dataAt:], r.in)
	c.read[0] = virtq.Seg{Addr: dataAt, Len: uint32(len(r.in))}
	c.write[0] = virtq.Seg{Addr: dataAt + slot/2, Len: uint32(r.out)}
}

// add adds up to n requests, without telling the device. All replies go to one place.
// Rings of one descriptor need an indirect table.
func (c *crowd) add(n int) {
	read, write := c.read[:], c.write[:]
	for ; n > 0 && c.r.Free() > c.r.Size-c.room; n-- {
		ok := false
		if c.r.Size == 1 {
			_, ok = c.r.AddIndirect(read, write, c.g.mem.Mem[dataAt+tableAt:][:32], dataAt+tableAt)
		} else {
			_, ok = c.r.Add(read, write)
		}
		if !ok {
			return
		}
	}
}

// tableAt is where a slot has room for a table, behind its request.
const tableAt = 64 << 10

// reap takes all replies that are there.
func (c *crowd) reap() (n int) {
	for {
		if _, _, ok := c.r.Used(); !ok {
			break
		}
		n++
	}
	if err := c.r.Err(); err != nil {
		c.g.t.Fatal(err)
	}
	c.done += n
	return n
}

// submit shows the device what was added.
func (c *crowd) submit() {
	if err := c.r.Submit(); err != nil {
		c.g.t.Fatal(err)
	}
}

// poll looks for replies until there is one.
func (c *crowd) poll() {
	c.r.DisarmCalls()
	begin := time.Now()
	for i := 1; c.reap() == 0; i++ {
		if i%(1<<16) == 0 && time.Since(begin) > testkit.Patience {
			c.g.t.Fatalf("no reply in time to %d requests, to a driver that polls", c.r.Outstanding())
		}
	}
}

// wait sleeps until there is a reply.
func (c *crowd) wait() {
	if !c.r.Wait(testkit.Patience) {
		c.g.t.Fatalf("no reply in time to %d requests, to a driver that sleeps", c.r.Outstanding())
	}
	c.reap()
}

// pass lets time pass without giving the processor up.
func pass(d time.Duration) {
	for start := time.Now(); time.Since(start) < d; {
	}
}

// interleave does n requests in a random way.
func (c *crowd) interleave(n int, random *rand.Rand) {
	for c.done < n {
		if random.IntN(4) > 0 {
			c.add(1 + random.IntN(8))
		}
		switch random.IntN(8) {
		case 0: // the kick comes late
			c.r.Publish()
			pass(time.Duration(random.IntN(30)) * time.Microsecond)
			if c.r.NeedKick() {
				testkit.Check(c.g.t, c.r.Kick.Signal())
			}
		default:
			c.submit()
		}
		switch random.IntN(24) {
		case 0: // long enough for the device to fall asleep, or nearly
			pass(time.Duration(random.IntN(80)) * time.Microsecond)
		case 1:
			c.reap()
		case 2, 3, 4:
			if c.r.Outstanding() > 0 {
				c.wait()
			}
		case 5, 6, 7:
			if c.r.Outstanding() > 0 {
				c.poll()
			}
		case 8: // arm, but look again before sleeping
			if !c.r.ArmCalls() {
				pass(time.Duration(random.IntN(10)) * time.Microsecond)
			}
			c.reap()
		}
	}
	for c.r.Outstanding() > 0 {
		c.wait()
	}
}

// modes are all ways to tell each other of requests and replies.
func modes(t *testing.T, f func(t *testing.T, o guestOptions)) {
	for _, event := range []bool{true, false} {
		for _, poll := range []time.Duration{0, virtiofs.DefaultPoll} {
			t.Run(fmt.Sprintf("EVENT_IDX %v, poll %v", event, poll), func(t *testing.T) {
				o := guestOptions{poll: poll, features: allFeatures}
				if !event {
					o.features &^= virtio.FeatureEventIdx
				}
				f(t, o)
			})
		}
	}
}

var interleavings = flag.Int("interleavings", 50_000, "how many TestNotifications tries")

// TestNotifications loses no wake-up in many random interleavings of a driver and the
// device. A change of what they tell each other is worth a million.
func TestNotifications(t *testing.T) {
	n := *interleavings / 4 // for each mode
	modes(t, func(t *testing.T, o guestOptions) {
		for _, size := range []int{128, 4} {
			o.size = size
			c := newCrowd(newGuest(t, fusetest.NewMem(), o), 1, size)
			c.interleave(n/2, rand.New(rand.NewPCG(1, uint64(size))))
		}
	})
}

// TestRingSizes fills rings of extreme sizes again and again.
func TestRingSizes(t *testing.T) {
	modes(t, func(t *testing.T, o guestOptions) {
		for _, size := range []int{1, virtq.MaxSize} {
			o.size, o.exact = size, true
			c := newCrowd(newGuest(t, fusetest.NewMem(), o), 1, size)
			for range 3 {
				c.add(size)
				if c.r.Free() > 0 {
					t.Fatalf("size %d: %d descriptors are still free", size, c.r.Free())
				}
				c.submit()
				for c.r.Outstanding() > 0 {
					c.wait()
				}
			}
			c.interleave(c.done+3000, rand.New(rand.NewPCG(2, 2)))
		}
	})
}

// TestSlowReader leaves replies in the ring until nothing more fits. What is there is
// served at once all the same, and another ring isn't held up.
func TestSlowReader(t *testing.T) {
	modes(t, func(t *testing.T, o guestOptions) {
		o.queues = 2
		g := newGuest(t, fusetest.NewMem(), o)
		slow, other := newCrowd(g, 1, 128), newCrowd(g, 2, 128)
		slow.add(1000)
		slow.submit()
		full := slow.r.Outstanding()
		other.interleave(1000, rand.New(rand.NewPCG(3, 3)))
		for slow.done < full {
			slow.wait()
		}
	})
}

// TestKicker kicks without end, with and without requests. The ring is served, the
// hiprio ring on the same thread is, and so is another ring.
func TestKicker(t *testing.T) {
	modes(t, func(t *testing.T, o guestOptions) {
		o.queues = 2
		g := newGuest(t, fusetest.NewMem(), o)
		var stop atomic.Bool
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for !stop.Load() {
				for _, r := range g.rings[:2] {
					r.Kick.Signal()
				}
			}
		}()
		defer func() { stop.Store(true); <-ended }()
		for ring := range 3 {
			newCrowd(g, ring, 128).interleave(2000, rand.New(rand.NewPCG(4, 4)))
		}
	})
}

// TestLyingUsedEvent changes used_event all the time. Calls are then the driver's own
// loss, but the device goes on.
func TestLyingUsedEvent(t *testing.T) {
	for _, poll := range []time.Duration{0, virtiofs.DefaultPoll} {
		g := newGuest(t, fusetest.NewMem(), guestOptions{poll: poll})
		c := newCrowd(g, 1, 128)
		random := rand.New(rand.NewPCG(5, 5))
		for c.done < 50_000 {
			c.add(1 + random.IntN(8))
			c.r.ArmCallsAfter(1 + random.IntN(1<<15))
			c.submit()
			c.reap()
		}
		for c.r.Outstanding() > 0 {
			c.poll()
		}
	}
}

// TestIdle: a device that has nothing to do uses no processor time, however busy it has
// been before.
func TestIdle(t *testing.T) {
	g := newGuest(t, fusetest.NewMem(), guestOptions{queues: 2, poll: virtiofs.DefaultPoll})
	c := newCrowd(g, 1, 1)
	for c.done < 10_000 {
		c.add(1)
		c.submit()
		c.poll()
	}
	const idle = 300 * time.Millisecond
	before := processTime(t)
	<-time.After(idle)
	if used := processTime(t) - before; used > idle/5 {
		t.Errorf("%v of %v were used while there was nothing to do", used, idle)
	}
}

// processTime is what this process has used of processors.
func processTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	testkit.Check(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
