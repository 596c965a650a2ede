package virtiofs

import (
	"testing"
	"time"
)

// helperOf returns a helper where there are other processors, or none.
func helperOf(others bool) helper {
	h := newHelper()
	h.others = func() bool { return others }
	return h
}

// serves lets a helper count n large requests that take so long each.
func (h *helper) serves(now *time.Duration, n int, alone, helped time.Duration) {
	for range n {
		*now += alone
		if h.helps {
			*now += helped - alone
			h.lent++
		}
		if h.left--; h.left == 0 {
			h.next(*now)
		}
	}
}

func TestHelper(t *testing.T) {
	for _, c := range []struct {
		name          string
		alone, helped time.Duration
		helps         bool
		most          int // trials in a million requests
	}{
		{"faster", 100, 80, true, 1_000_000 / won},
		{"hardly faster", 100, 96, false, 10 + 1_000_000/(lost<<doublings)},
		{"slower", 100, 200, false, 10 + 1_000_000/(lost<<doublings)},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, now := helperOf(true), time.Duration(0)
			trials := 0
			h.serves(&now, 2*trial+1, c.alone, c.helped)
			for range 1_000_000 {
				was := h.phase
				h.serves(&now, 1, c.alone, c.helped)
				if h.phase == phaseRest && h.helps != c.helps {
					t.Fatalf("helps: %v after the trial; want %v", h.helps, c.helps)
				}
				if was == phaseRest && h.phase != was {
					trials++
				}
			}
			if trials == 0 || trials > c.most {
				t.Errorf("%d trials; want 1 to %d", trials, c.most)
			}
		})
	}
	t.Run("others come and go", func(t *testing.T) {
		h, now := helperOf(true), time.Duration(0)
		h.serves(&now, 1_000_000, 100, 200)
		h.serves(&now, lost<<doublings+2*trial, 100, 60)
		if !h.helps {
			t.Error("no help though it is faster now")
		}
		h.serves(&now, won+2*trial, 100, 200)
		if h.helps || h.left > 4*lost {
			t.Errorf("helps: %v, and the next trial is %d requests away; want none and soon", h.helps, h.left)
		}
	})
	t.Run("one processor", func(t *testing.T) {
		h, now := helperOf(false), time.Duration(0)
		for range 10 * won {
			h.serves(&now, 1, 100, 60)
			if h.phase != phaseRest || h.helps {
				t.Fatalf("phase %d, helps: %v; want no trial", h.phase, h.helps)
			}
		}
		h.others = func() bool { return true }
		if h.serves(&now, lost+2*trial, 100, 60); !h.helps {
			t.Error("no help though there are more processors now")
		}
		h.others = func() bool { return false }
		if h.serves(&now, won, 100, 60); h.helps {
			t.Error("help though there is one processor now")
		}
	})
	t.Run("nothing to lend", func(t *testing.T) {
		h, now := helperOf(true), time.Duration(0)
		for range 1_000_000 {
			h.serves(&now, 1, 100, 100)
			h.lent = 0 // one request at a time
		}
		if h.helps || h.vain > 0 {
			t.Errorf("helps: %v after %d trials in vain; want none, which says nothing", h.helps, h.vain)
		}
		h.serves(&now, lost+2*trial, 100, 60)
		if !h.helps {
			t.Error("no help though it is faster now")
		}
	})
}
