package virtq_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/internal/testkit"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtq"
	"vfiofs/virtio/virtq/virtqtest"
)

// complete serves n sound chains.
func complete(t testing.TB, r *virtqtest.Ring, q *virtq.Queue, n int) {
	t.Helper()
	for range n {
		serveSound(t, r, q)
	}
}

// setUsedEvent writes the driver's event index.
func setUsedEvent(r *virtqtest.Ring, idx uint16) { le.PutUint16(r.Avail[len(r.Avail)-2:], idx) }

// availEvent reads the device's event index.
func availEvent(r *virtqtest.Ring) uint16 { return le.Uint16(r.Used[len(r.Used)-2:]) }

func TestNeedCall(t *testing.T) {
	want := func(t *testing.T, q *virtq.Queue, when string, want bool) {
		t.Helper()
		if got := q.NeedCall(); got != want {
			t.Errorf("NeedCall() %s = %v; want %v", when, got, want)
		}
	}
	t.Run("H025 NO_INTERRUPT without event indices", func(t *testing.T) {
		r, q := start(t, virtqtest.Options{})
		le.PutUint16(r.Avail, 1)
		complete(t, r, q, 3)
		want(t, q, "with NO_INTERRUPT", false)
		le.PutUint16(r.Avail, 0)
		want(t, q, "with nothing completed since", false)
		complete(t, r, q, 1)
		want(t, q, "without NO_INTERRUPT", true)
		want(t, q, "a second time", false)
	})
	t.Run("H025 skewed available ring", func(t *testing.T) {
		r, q := start(t, virtqtest.Options{SkewAvail: true})
		le.PutUint16(r.Avail, 1)
		complete(t, r, q, 1)
		want(t, q, "with NO_INTERRUPT", false)
	})
	t.Run("H023 used_event in the future", func(t *testing.T) {
		r, q := start(t, virtqtest.Options{EventIdx: true, Start: 65530})
		complete(t, r, q, 1)
		want(t, q, "for the first completion", true)
		setUsedEvent(r, 3) // the tenth completion: 65539
		for i := 2; i <= 20; i++ {
			complete(t, r, q, 1)
			if got, want := q.NeedCall(), i == 10; got != want {
				t.Errorf("NeedCall() after completion %d = %v; want %v", i, got, want)
			}
		}
	})
	t.Run("H023 used_event within a batch", func(t *testing.T) {
		r, q := start(t, virtqtest.Options{EventIdx: true})
		complete(t, r, q, 1)
		want(t, q, "for the first completion", true)
		for event := uint16(0); event < 6; event++ {
			r, q = start(t, virtqtest.Options{EventIdx: true})
			complete(t, r, q, 1)
			q.NeedCall()
			setUsedEvent(r, event)
			complete(t, r, q, 4) // entries 1 to 4
			if got, want := q.NeedCall(), event >= 1 && event <= 4; got != want {
				t.Errorf("NeedCall() after entries 1 to 4 with used_event %d = %v; want %v", event, got, want)
			}
		}
	})
	t.Run("H024 first completion after a restart", func(t *testing.T) {
		for _, event := range []uint16{0, 41, 42, 43, 65535} {
			r := virtqtest.NewRing(t, virtqtest.Options{EventIdx: true, Start: 42})
			setUsedEvent(r, event)
			q := open(t, r.Config())
			want(t, q, "before any completion", false)
			complete(t, r, q, 1)
			want(t, q, "for the first completion", true)
		}
	})
	t.Run("batch of more than all indices", func(t *testing.T) {
		r, q := start(t, virtqtest.Options{EventIdx: true})
		complete(t, r, q, 1)
		q.NeedCall()
		setUsedEvent(r, 5)
		complete(t, r, q, 65536+2)
		want(t, q, "after 65538 completions", true)
	})
}

func TestArm(t *testing.T) {
	t.Run("flags", func(t *testing.T) {
		r, q := start(t, virtqtest.Options{})
		if got := le.Uint16(r.Used); got != 0 {
			t.Errorf("used flags at the start = %d; want 0", got)
		}
		q.Disarm()
		if got := le.Uint16(r.Used); got != 1 {
			t.Errorf("used flags after Disarm = %d; want 1", got)
		}
		serveSound(t, r, q)
		if got := le.Uint16(r.Used); got != 1 {
			t.Errorf("used flags after Done = %d; want 1 still", got)
		}
		if q.Arm() {
			t.Error("Arm() of an empty ring = true; want false")
		}
		if got := le.Uint16(r.Used); got != 0 {
			t.Errorf("used flags after Arm = %d; want 0", got)
		}
		r.Sound()
		if !q.Arm() || !q.Pending() {
			t.Error("Arm() with a chain waiting = false; want true")
		}
	})
	t.Run("stale NO_NOTIFY", func(t *testing.T) {
		r := virtqtest.NewRing(t, virtqtest.Options{})
		le.PutUint16(r.Used, 1)
		open(t, r.Config())
		if got := le.Uint16(r.Used); got != 0 {
			t.Errorf("used flags after New = %d; want 0", got)
		}
	})
	t.Run("event index", func(t *testing.T) {
		r, q := start(t, virtqtest.Options{EventIdx: true, Start: 65535})
		if got := availEvent(r); got != 65535 {
			t.Errorf("avail_event at the start = %d; want 65535", got)
		}
		q.Disarm()
		serveSound(t, r, q)
		if got := availEvent(r); got != 65535 {
			t.Errorf("avail_event while draining = %d; want 65535, left behind", got)
		}
		if q.Arm() {
			t.Error("Arm() of an empty ring = true; want false")
		}
		if got := availEvent(r); got != 0 {
			t.Errorf("avail_event after Arm = %d; want 0", got)
		}
		if got := le.Uint16(r.Used); got != 0 {
			t.Errorf("used flags = %d; want 0", got)
		}
	})
}

func TestH022IdleKicks(t *testing.T) {
	r, q := start(t, virtqtest.Options{EventIdx: true})
	var c virtq.Chain
	testkit.NoAllocs(t, 1, "a storm of idle kicks", func() {
		for range 100_000 {
			if ok, err := q.Next(&c); ok || err != nil {
				t.Fatalf("Next() of an empty ring = %v, %v; want false, nil", ok, err)
			}
			if q.NeedCall() || q.Arm() {
				t.Fatal("an empty ring wants a call or another look")
			}
		}
	})
	if r.UsedIdx() != 0 || q.NextAvail() != 0 || q.Outstanding() != 0 {
		t.Errorf("after idle kicks: used %d, next %d, outstanding %d; want zeros",
			r.UsedIdx(), q.NextAvail(), q.Outstanding())
	}
	serveSound(t, r, q)
}

// dirtyPages returns the pages whose bits are set.
func dirtyPages(bits []byte) []int {
	var pages []int
	for p := range len(bits) * 8 {
		if bits[p/8]>>(p%8)&1 != 0 {
			pages = append(pages, p)
		}
	}
	return pages
}

func TestH215DirtyLog(t *testing.T) {
	const data = int(virtqtest.DataGPA >> 12)
	used := 0x900 // a page where nothing else is
	for _, tt := range []struct {
		name    string
		usedLog guestmem.GPA
		n       int
		dirty   bool
		want    []int
	}{
		{"nothing written", guestmem.GPA(used) << 12, 0, false, []int{used}},
		{"first byte", guestmem.GPA(used) << 12, 1, false, []int{data + 2, used}},
		{"two pages", guestmem.GPA(used) << 12, 4097, false, []int{data + 2, data + 4, used}},
		{"everything may be dirty", guestmem.GPA(used) << 12, 16, true, []int{data + 2, data + 4, data + 5, used}},
		{"used ring not logged", virtq.NoUsedLog, 1, false, []int{data + 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, q := start(t, virtqtest.Options{})
			r.PutRequest(0, virtq.DescNext, 1)
			r.SetDesc(1, virtqtest.DataGPA+0x2000, 4096, virtq.DescWrite|virtq.DescNext, 2)
			r.SetDesc(2, virtqtest.DataGPA+0x4000, 4097, virtq.DescWrite, 0)
			r.Offer(0)
			var c virtq.Chain
			take(t, q, &c)
			// The log comes while the chain is with the device: it counts all the same.
			bits := make([]byte, 0x1000/8)
			q.SetLog(guestmem.NewLog(bits), tt.usedLog)
			c.Dirty = tt.dirty
			q.Done(&c, tt.n)
			if diff := cmp.Diff(tt.want, dirtyPages(bits)); diff != "" {
				t.Errorf("dirty pages (-want +got)\n%s", diff)
			}
			r.TakeUsed()
			clear(bits)
			q.SetLog(nil, 0)
			serveSound(t, r, q)
			if got := dirtyPages(bits); got != nil {
				t.Errorf("dirty pages after the log ended: %v; want none", got)
			}
		})
	}
	t.Run("start, flags and event index", func(t *testing.T) {
		r := virtqtest.NewRing(t, virtqtest.Options{Size: 1024, EventIdx: true})
		bits := make([]byte, 0x1000/8)
		c := r.Config()
		c.Log, c.UsedLog = guestmem.NewLog(bits), guestmem.GPA(used)<<12
		open(t, c)
		// The event index lies 8196 bytes from the start of the used ring.
		if diff := cmp.Diff([]int{used, used + 2}, dirtyPages(bits)); diff != "" {
			t.Errorf("dirty pages (-want +got)\n%s", diff)
		}
	})
}
