package virtiofs

import (
	"runtime"
	"testing"
	"time"
)

// A clock drives a poller: gaps are the times from the end of work to the next request.
type clock struct {
	poller
	now     time.Duration
	looked  time.Duration // in all
	looks   int
	crowded bool // somebody else needs the processor
}

// wakeUp is what it takes to wake a thread.
const wakeUp = 10 * time.Microsecond

// gap lets work run out, and come again after d.
func (c *clock) gap(d time.Duration) {
	c.idle = c.now
	if c.eager {
		c.looks++
		switch {
		case c.crowded:
			c.looked += c.limit
			c.missed(c.now+c.limit, true)
		case d <= c.limit:
			c.looked += d
			c.now += d
			c.found()
			return
		default:
			c.looked += c.limit
			c.missed(c.now+c.limit, false)
		}
	}
	c.now += d + wakeUp
	c.woke(c.now)
}

// gaps is gap n times, and returns the share of the time that went into looking.
func (c *clock) gaps(n int, d time.Duration) float64 {
	start := c.now
	c.looked, c.looks = 0, 0
	for range n {
		c.gap(d)
	}
	return float64(c.looked) / float64(c.now-start)
}

func newClock() *clock { return &clock{poller: poller{limit: DefaultPoll}} }

func TestPoller(t *testing.T) {
	t.Run("requests that come close together", func(t *testing.T) {
		c := newClock()
		c.gaps(5, 20*time.Microsecond)
		c.gaps(1000, 20*time.Microsecond)
		if c.looks != 1000 || c.misses != 0 {
			t.Errorf("%d looks, the last %d of them in vain; want 1000 and none", c.looks, c.misses)
		}
	})
	t.Run("requests that come seldom", func(t *testing.T) {
		c := newClock()
		c.gaps(100, 20*time.Microsecond)
		if share := c.gaps(1000, 10*time.Millisecond); share > 0.0001 || c.eager {
			t.Errorf("%.2g of the time went into looking; eager: %v", share, c.eager)
		}
	})
	for _, d := range []time.Duration{51, 60, 80, 90, 100, 150} {
		d *= time.Microsecond
		t.Run("requests just too late: "+d.String(), func(t *testing.T) {
			c := newClock()
			c.gaps(100, 20*time.Microsecond)
			c.gaps(1000, d)
			if share := c.gaps(100_000, d); share > 0.02 {
				t.Errorf("%.2g of the time went into looking, in vain", share)
			}
		})
	}
	t.Run("a processor that others need", func(t *testing.T) {
		c := newClock()
		c.crowded = true
		c.gaps(1000, 5*time.Microsecond)
		if share := c.gaps(100_000, 5*time.Microsecond); share > 0.01 {
			t.Errorf("%.2g of the time went into looking, in vain", share)
		}
		c.crowded = false
		c.gaps(int(longPause/(5*time.Microsecond)), 5*time.Microsecond)
		if c.gaps(1000, 5*time.Microsecond); c.looks != 1000 {
			t.Errorf("%d looks in 1000 once the processor is free again; want as many", c.looks)
		}
	})
	t.Run("off", func(t *testing.T) {
		l := &loop{poll: newPoller(0)}
		if l.look() || l.poll.limit != 0 {
			t.Error("a loop looks though it must not")
		}
	})
	if p := newPoller(time.Second); (p.limit == 0) != (runtime.NumCPU() == 1) {
		t.Errorf("limit %v with %d processors", p.limit, runtime.NumCPU())
	}
}
