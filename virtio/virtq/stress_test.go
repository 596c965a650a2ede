package virtq_test

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"vfiofs/virtio/virtq"
	"vfiofs/virtio/virtq/virtqtest"
)

// A bell wakes one goroutine that spins on it: rings are counted, as by an eventfd.
type bell struct {
	n    atomic.Uint32
	_    [60]byte // a cache line of its own
	stop atomic.Bool
}

// wait returns when the bell was rung since the last wait, or false when it stopped.
func (b *bell) wait() bool {
	for spins := 0; ; spins++ {
		if b.n.Load() != 0 {
			b.n.Store(0)
			return true
		}
		if b.stop.Load() {
			return false
		}
		if spins%64 == 63 {
			runtime.Gosched()
		}
	}
}

// TestLostWakeups runs both sides of a ring against each other. Each side sleeps as
// soon as it has nothing to do, and is woken only when the other side is told to, so
// one lost kick or call stops the test for good. Without fence, on amd64, the mode with
// event indices fails within seconds; flags are stored by sync/atomic, which is a fence
// there but not on arm64.
func TestLostWakeups(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("needs two CPUs to run both sides at the same time")
	}
	for _, mode := range []struct {
		name  string
		event bool
	}{{"flags", false}, {"event index", true}} {
		t.Run(mode.name, func(t *testing.T) { stress(t, mode.event) })
	}
}

// stress makes round trips until the time is up.
func stress(t *testing.T, event bool) {
	r, q := start(t, virtqtest.Options{Size: 8, EventIdx: event})
	d := driver(t, r)
	var kick, call bell
	trips, done := 1_000_000, make(chan error, 1)
	if testing.Short() {
		trips = 50_000
	}
	go func() {
		done <- device(q, &kick, &call)
		call.stop.Store(true)
	}()
	watchdog := time.AfterFunc(30*time.Second, func() {
		kick.stop.Store(true)
		call.stop.Store(true)
	})
	defer watchdog.Stop()
	segs := []virtq.Seg{{Addr: virtqtest.DataGPA, Len: 16}}
	deadline := time.Now().Add(2 * time.Second)
	back := 0
	// Also on failure: the memory goes away when the test ends.
	defer func() {
		kick.stop.Store(true)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for sent := 0; back < trips; {
		for d.Free() > 0 && sent < trips {
			d.Add(nil, segs)
			d.Publish()
			sent++
			if d.NeedKick() {
				kick.n.Store(1)
			}
			// One to four chains are out, so that both sides sleep often.
			if sent&3 == sent>>5&3 {
				break
			}
		}
		d.DisarmCalls()
		before := back
		for {
			if _, _, ok := d.Used(); ok {
				back++
				continue
			}
			if d.Err() != nil {
				t.Fatal(d.Err())
			}
			if back > before || d.ArmCalls() {
				break
			}
			if !call.wait() {
				t.Fatalf("lost wake-up after %d round trips: %d used, %d available, next %d", back, r.UsedIdx(), sent, q.NextAvail())
			}
		}
		if back%1024 == 0 && time.Now().After(deadline) {
			trips = sent // as many as a slow machine makes in the time
		}
	}
	t.Logf("%d round trips", back)
}

// device serves the ring until the kick bell stops.
func device(q *virtq.Queue, kick, call *bell) error {
	var c virtq.Chain
	for {
		q.Disarm()
		for {
			ok, err := q.Next(&c)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			q.Done(&c, 16)
			if q.NeedCall() {
				call.n.Store(1)
			}
		}
		if q.Arm() {
			continue
		}
		if !kick.wait() {
			return nil
		}
	}
}
