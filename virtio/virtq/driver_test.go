package virtq_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/virtio/virtq"
	"vfiofs/virtio/virtq/virtqtest"
)

// driver starts the driver side of a ring, which keeps its position.
func driver(t testing.TB, r *virtqtest.Ring) *virtq.Driver {
	t.Helper()
	d, err := virtq.NewDriver(r.DriverConfig())
	if err != nil {
		t.Fatalf("NewDriver() = %v", err)
	}
	return d
}

func TestLayout(t *testing.T) {
	for _, tt := range []struct {
		size int
		want virtq.RingLayout
	}{
		{1, virtq.RingLayout{Desc: virtq.Part{0, 16}, Avail: virtq.Part{16, 8}, Used: virtq.Part{24, 14}, Total: 38}},
		{256, virtq.RingLayout{Desc: virtq.Part{0, 4096}, Avail: virtq.Part{4096, 518}, Used: virtq.Part{4616, 2054}, Total: 6670}},
		{32768, virtq.RingLayout{Desc: virtq.Part{0, 524288}, Avail: virtq.Part{524288, 65542}, Used: virtq.Part{589832, 262150}, Total: 851982}},
	} {
		if diff := cmp.Diff(tt.want, virtq.Layout(tt.size)); diff != "" {
			t.Errorf("Layout(%d) (-want +got)\n%s", tt.size, diff)
		}
	}
}

func TestNewDriverErrors(t *testing.T) {
	r := virtqtest.NewRing(t, virtqtest.Options{})
	c := r.DriverConfig()
	c.Size = 100
	if _, err := virtq.NewDriver(c); err == nil {
		t.Error("NewDriver() with size 100 succeeded; want an error")
	}
}

func TestDriverAdd(t *testing.T) {
	seg := func(n uint32) virtq.Seg { return virtq.Seg{Addr: virtqtest.DataGPA, Len: n} }
	r, q := start(t, virtqtest.Options{Size: 4, Indirect: true})
	d := driver(t, r)
	if _, ok := d.Add(nil, nil); ok {
		t.Error("Add() of nothing = true; want false")
	}
	if _, ok := d.Add([]virtq.Seg{seg(1), seg(2), seg(3)}, []virtq.Seg{seg(4), seg(5)}); ok {
		t.Error("Add() of 5 segments to 4 descriptors = true; want false")
	}
	table := r.Bytes(virtqtest.HighGPA, 3*16)
	if _, ok := d.AddIndirect([]virtq.Seg{seg(1), seg(2)}, []virtq.Seg{seg(3), seg(4)}, table, virtqtest.HighGPA); ok {
		t.Error("AddIndirect() of 4 segments to a table of 3 = true; want false")
	}
	a, ok := d.Add([]virtq.Seg{seg(1), seg(2)}, []virtq.Seg{seg(3)})
	if !ok {
		t.Fatal("Add() of 3 segments = false")
	}
	b, ok := d.AddIndirect([]virtq.Seg{seg(4)}, []virtq.Seg{seg(5), seg(6)}, table, virtqtest.HighGPA)
	if !ok {
		t.Fatal("AddIndirect() of 3 segments = false")
	}
	if d.Free() != 0 || d.Outstanding() != 2 {
		t.Errorf("Free(), Outstanding() = %d, %d; want 0, 2", d.Free(), d.Outstanding())
	}
	if q.Pending() {
		t.Error("Pending() before Publish = true; want false")
	}
	d.Publish()
	var c [2]virtq.Chain
	for i, want := range []struct {
		head        uint16
		read, write int
	}{{a, 3, 3}, {b, 4, 11}} {
		take(t, q, &c[i])
		if c[i].Err != nil || c[i].Head != want.head || c[i].Read.Len() != want.read || c[i].Write.Len() != want.write {
			t.Errorf("chain %d: head %d, %d readable, %d writable, %v; want %v",
				i, c[i].Head, c[i].Read.Len(), c[i].Write.Len(), c[i].Err, want)
		}
	}
	q.Done(&c[1], 11)
	q.Done(&c[0], 1)
	for _, want := range []struct {
		head uint16
		n    uint32
	}{{b, 11}, {a, 1}} {
		if head, n, ok := d.Used(); !ok || head != want.head || n != want.n {
			t.Errorf("Used() = %d, %d, %v; want %d, %d", head, n, ok, want.head, want.n)
		}
	}
	if _, _, ok := d.Used(); ok || d.Err() != nil || d.Free() != 4 || d.Outstanding() != 0 {
		t.Errorf("at the end: ok %v, %v, free %d, outstanding %d; want false, nil, 4, 0", ok, d.Err(), d.Free(), d.Outstanding())
	}
}

func TestDriverNotification(t *testing.T) {
	for _, event := range []bool{false, true} {
		for _, skew := range []bool{false, true} {
			r, q := start(t, virtqtest.Options{EventIdx: event, SkewAvail: skew, Start: 65530})
			d := driver(t, r)
			var c virtq.Chain
			add := func() {
				if _, ok := d.Add(nil, []virtq.Seg{{Addr: virtqtest.DataGPA, Len: 8}}); !ok {
					t.Fatal("Add() = false")
				}
				d.Publish()
			}
			serve := func() (call bool) {
				take(t, q, &c)
				q.Done(&c, 8)
				call = q.NeedCall()
				d.Used()
				return call
			}
			if d.NeedKick() {
				t.Error("NeedKick() with nothing published = true; want false")
			}
			for i := range 12 {
				q.Arm()
				add()
				if !d.NeedKick() {
					t.Errorf("event %v: NeedKick() of armed entry %d = false; want true", event, i)
				}
				q.Disarm()
				add()
				if d.NeedKick() {
					t.Errorf("event %v: NeedKick() of disarmed entry %d = true; want false", event, i)
				}
				d.ArmCalls()
				if !serve() {
					t.Errorf("event %v: NeedCall() of armed entry %d = false; want true", event, i)
				}
				d.DisarmCalls()
				if serve() {
					t.Errorf("event %v: NeedCall() of disarmed entry %d = true; want false", event, i)
				}
			}
			if d.ArmCallsAfter(3) {
				t.Error("ArmCallsAfter() with nothing used = true; want false")
			}
			for i := 1; i <= 4; i++ {
				add()
				if got, want := serve(), !event || i == 3; got != want {
					t.Errorf("event %v: NeedCall() of entry %d = %v; want %v", event, i, got, want)
				}
			}
			add()
			take(t, q, &c)
			q.Done(&c, 8)
			if !d.ArmCalls() || !d.Pending() {
				t.Errorf("event %v: ArmCalls() with a used entry = false; want true", event)
			}
		}
	}
}

// TestDriverHostileDevice lets the device side write nonsense to the used ring.
func TestDriverHostileDevice(t *testing.T) {
	put := func(r *virtqtest.Ring, idx uint16, id, n uint32) {
		le.PutUint32(r.Used[4:], id)
		le.PutUint32(r.Used[8:], n)
		le.PutUint16(r.Used[2:], idx)
	}
	for _, tt := range []struct {
		name  string
		write func(r *virtqtest.Ring)
	}{
		{"id is size", func(r *virtqtest.Ring) { put(r, 1, 8, 0) }},
		{"id is huge", func(r *virtqtest.Ring) { put(r, 1, 0xffffffff, 0) }},
		{"id inside a chain", func(r *virtqtest.Ring) { put(r, 1, 1, 0) }},
		{"id of a free descriptor", func(r *virtqtest.Ring) { put(r, 1, 7, 0) }},
		{"length beyond the chain", func(r *virtqtest.Ring) { put(r, 1, 0, 17) }},
		{"index beyond what is out", func(r *virtqtest.Ring) { put(r, 3, 0, 16) }},
		{"index goes back", func(r *virtqtest.Ring) { put(r, 0xffff, 0, 16) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := virtqtest.NewRing(t, virtqtest.Options{Size: 8})
			d := driver(t, r)
			segs := []virtq.Seg{{Addr: virtqtest.DataGPA, Len: 16}}
			d.Add(segs, segs)
			d.Add(segs, segs)
			d.Publish()
			tt.write(r)
			head, n, ok := d.Used()
			var pe *virtq.ProtocolError
			if ok || !errors.As(d.Err(), &pe) {
				t.Fatalf("Used() = %d, %d, %v, %v; want a ProtocolError", head, n, ok, d.Err())
			}
			if d.Pending() {
				t.Error("Pending() of a broken ring = true; want false")
			}
			if _, ok := d.Add(segs, nil); ok {
				t.Error("Add() to a broken ring = true; want false")
			}
			if _, _, ok := d.Used(); ok {
				t.Error("Used() of a broken ring = true; want false")
			}
		})
	}
	t.Run("id twice", func(t *testing.T) {
		r := virtqtest.NewRing(t, virtqtest.Options{Size: 8})
		d := driver(t, r)
		segs := []virtq.Seg{{Addr: virtqtest.DataGPA, Len: 16}}
		d.Add(segs, segs)
		d.Add(segs, segs)
		d.Publish()
		put(r, 1, 0, 16)
		if _, _, ok := d.Used(); !ok {
			t.Fatalf("Used() = false, %v; want a chain", d.Err())
		}
		copy(r.Used[12:20], r.Used[4:12])
		le.PutUint16(r.Used[2:], 2)
		if _, _, ok := d.Used(); ok || d.Err() == nil {
			t.Errorf("Used() of a chain that is back = %v, %v; want an error", ok, d.Err())
		}
	})
}
