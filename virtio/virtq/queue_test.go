package virtq_test

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/internal/testkit"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtq"
	"vfiofs/virtio/virtq/virtqtest"
)

var le = binary.LittleEndian

// start makes a ring and its device side.
func start(t testing.TB, o virtqtest.Options) (*virtqtest.Ring, *virtq.Queue) {
	t.Helper()
	r := virtqtest.NewRing(t, o)
	return r, open(t, r.Config())
}

// open starts a device side.
func open(t testing.TB, c virtq.Config) *virtq.Queue {
	t.Helper()
	q, err := virtq.New(c)
	if err != nil {
		t.Fatalf("New() = %v", err)
	}
	return q
}

// take takes a chain that has to be there.
func take(t testing.TB, q *virtq.Queue, c *virtq.Chain) {
	t.Helper()
	if ok, err := q.Next(c); !ok || err != nil {
		t.Fatalf("Next() = %v, %v; want a chain", ok, err)
	}
}

// serveSound checks that the ring serves a sound chain.
func serveSound(t testing.TB, r *virtqtest.Ring, q *virtq.Queue) {
	t.Helper()
	r.Sound()
	var c virtq.Chain
	take(t, q, &c)
	if c.Err != nil || c.Read.Len() != len(r.Request) || c.Write.Len() != virtqtest.ReplyRoom {
		t.Fatalf("sound chain: %d readable, %d writable, %v; want %d, %d, nil",
			c.Read.Len(), c.Write.Len(), c.Err, len(r.Request), virtqtest.ReplyRoom)
	}
	c.Write.CopyIn([]byte("reply"), 0)
	q.Done(&c, 5)
	if id, n, ok := r.TakeUsed(); !ok || id != 0 || n != 5 {
		t.Fatalf("used element = {%d, %d}, %v; want {0, 5}", id, n, ok)
	}
	if got := string(r.Reply()[:5]); got != "reply" {
		t.Fatalf("reply = %q; want \"reply\"", got)
	}
}

func TestHostile(t *testing.T) {
	for _, c := range virtqtest.Hostile() {
		t.Run(c.Name, func(t *testing.T) {
			r, q := start(t, virtqtest.Options{Indirect: !c.NoIndirect})
			r.Request = []byte("forty bytes, the size of a FUSE header.")
			serveSound(t, r, q)
			c.Write(r)
			var chain virtq.Chain
			ok, err := q.Next(&chain)
			if c.Broken {
				checkBroken(t, q, ok, err)
				return
			}
			if !ok || err != nil {
				t.Fatalf("Next() = %v, %v; want a chain", ok, err)
			}
			checkChain(t, r, c, &chain)
			q.Done(&chain, 0)
			if id, n, ok := r.TakeUsed(); !ok || id != 0 || n != 0 {
				t.Errorf("used element = {%d, %d}, %v; want {0, 0}", id, n, ok)
			}
			serveSound(t, r, q)
		})
	}
}

// checkChain compares a chain with what its case says.
func checkChain(t *testing.T, r *virtqtest.Ring, c virtqtest.Case, chain *virtq.Chain) {
	t.Helper()
	var want error
	if c.Err != "" {
		want = c.Err
	}
	if chain.Err != want {
		t.Errorf("chain error = %v; want %v", chain.Err, want)
	}
	for _, part := range []struct {
		name string
		v    guestmem.Vec
		want int
	}{{"readable", chain.Read, c.Readable}, {"writable", chain.Write, c.Writable}} {
		if part.want == virtqtest.Request {
			part.want = len(r.Request)
		}
		if got := part.v.Len(); part.want != virtqtest.Any && got != part.want {
			t.Errorf("%d %s bytes; want %d", got, part.name, part.want)
		}
		if !r.Holds(part.v) {
			t.Errorf("%s part reaches outside guest memory", part.name)
		}
	}
	if c.Readable == virtqtest.Request {
		got := make([]byte, len(r.Request))
		chain.Read.CopyOut(got, 0)
		if !cmp.Equal(got, r.Request) {
			t.Errorf("request = %q; want %q", got, r.Request)
		}
	}
}

// checkBroken checks that a ring is broken for good.
func checkBroken(t *testing.T, q *virtq.Queue, ok bool, err error) {
	t.Helper()
	next := q.NextAvail()
	for range 2 {
		var pe *virtq.ProtocolError
		if ok || !errors.As(err, &pe) || pe.Ring != q.Index() {
			t.Fatalf("Next() = %v, %v; want a ProtocolError of ring %d", ok, err, q.Index())
		}
		if q.Pending() || q.Arm() {
			t.Error("broken ring is pending; want not")
		}
		ok, err = q.Next(new(virtq.Chain))
	}
	if got := q.NextAvail(); got != next {
		t.Errorf("NextAvail() = %d; want %d as before", got, next)
	}
}

func TestNewErrors(t *testing.T) {
	r := virtqtest.NewRing(t, virtqtest.Options{Size: 8, EventIdx: true})
	for _, tt := range []struct {
		name  string
		spoil func(c *virtq.Config)
		want  string
	}{
		{"H207 size 0", func(c *virtq.Config) { c.Size = 0 }, "power of two"},
		{"H207 size 3", func(c *virtq.Config) { c.Size = 3 }, "power of two"},
		{"H207 size 65536", func(c *virtq.Config) { c.Size = 65536 }, "power of two"},
		{"negative size", func(c *virtq.Config) { c.Size = math.MinInt }, "power of two"},
		{"no descriptors", func(c *virtq.Config) { c.Desc = nil }, "descriptor table: 0 bytes"},
		{"short available ring", func(c *virtq.Config) { c.Avail = c.Avail[:21] }, "available ring: 21 bytes"},
		{"short used ring", func(c *virtq.Config) { c.Used = c.Used[:68] }, "used ring: 68 bytes"},
		{"skewed descriptors", func(c *virtq.Config) { c.Desc = r.Regions[0].Mem[8:] }, "not aligned to 16"},
		{"skewed available ring", func(c *virtq.Config) { c.Avail = r.Regions[0].Mem[1:] }, "not aligned to 2"},
		{"skewed used ring", func(c *virtq.Config) { c.Used = r.Regions[0].Mem[2:] }, "not aligned to 4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := r.Config()
			c.Index = 5
			tt.spoil(&c)
			_, err := virtq.New(c)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "ring 5") {
				t.Errorf("New() = %v; want an error with %q and the ring", err, tt.want)
			}
		})
	}
	t.Run("without event indices", func(t *testing.T) {
		c := r.Config()
		c.EventIdx, c.Avail, c.Used = false, c.Avail[:20], c.Used[:68]
		if _, err := virtq.New(c); err != nil {
			t.Errorf("New() = %v; want success", err)
		}
	})
}

// TestSizes runs every ring size with both positions of the available ring over the
// wrap of all indices.
func TestSizes(t *testing.T) {
	for size := 1; size <= virtq.MaxSize; size *= 2 {
		for _, skew := range []bool{false, true} {
			for _, event := range []bool{false, true} {
				r, q := start(t, virtqtest.Options{Size: size, EventIdx: event, SkewAvail: skew, Start: 65533})
				for range 8 {
					r.PutReply(0, 0, 0)
					r.Offer(0)
					var c virtq.Chain
					take(t, q, &c)
					q.Done(&c, 7)
					if id, n, ok := r.TakeUsed(); !ok || id != 0 || n != 7 {
						t.Fatalf("size %d, skew %v: used element = {%d, %d}, %v; want {0, 7}", size, skew, id, n, ok)
					}
				}
				if got := q.NextAvail(); got != 5 {
					t.Errorf("size %d, skew %v: NextAvail() = %d; want 5", size, skew, got)
				}
			}
		}
	}
}

func TestOutOfOrder(t *testing.T) {
	r, q := start(t, virtqtest.Options{Size: 4})
	for i := range 4 {
		r.PutReply(i, 0, 0)
		r.Offer(uint16(i))
	}
	var c [4]virtq.Chain
	for i := range c {
		take(t, q, &c[i])
	}
	if got := q.Outstanding(); got != 4 {
		t.Errorf("Outstanding() = %d; want 4", got)
	}
	if q.Pending() {
		t.Error("Pending() = true with all chains taken; want false")
	}
	for _, i := range []int{2, 0, 3, 1} {
		q.Done(&c[i], i)
		if id, n, ok := r.TakeUsed(); !ok || id != uint32(i) || n != uint32(i) {
			t.Errorf("used element = {%d, %d}, %v; want {%d, %d}", id, n, ok, i, i)
		}
	}
	if got := q.Outstanding(); got != 0 {
		t.Errorf("Outstanding() = %d; want 0", got)
	}
}

func TestHeadTwice(t *testing.T) {
	r, q := start(t, virtqtest.Options{Size: 4})
	r.Sound()
	r.Offer(0)
	var c virtq.Chain
	take(t, q, &c)
	ok, err := q.Next(new(virtq.Chain))
	checkBroken(t, q, ok, err)
	// What the device has can still be completed, once.
	q.Done(&c, 16)
	if id, n, ok := r.TakeUsed(); !ok || id != 0 || n != 16 {
		t.Errorf("used element = {%d, %d}, %v; want {0, 16}", id, n, ok)
	}
	defer func() {
		if recover() == nil {
			t.Error("Done of a completed chain returned; want a panic")
		}
		if got := r.UsedIdx(); got != 1 {
			t.Errorf("used index = %d; want 1", got)
		}
	}()
	q.Done(&c, 16)
}

// TestDescriptorsCopied changes everything that a chain was built from.
func TestDescriptorsCopied(t *testing.T) {
	r, q := start(t, virtqtest.Options{})
	r.Request = []byte("request")
	r.Sound()
	var c virtq.Chain
	take(t, q, &c)
	for i := range r.Desc {
		r.Desc[i] = 0xff
	}
	if !r.Holds(c.Read) || !r.Holds(c.Write) || c.Read.Len() != 7 || c.Write.Len() != virtqtest.ReplyRoom {
		t.Errorf("chain changed with its descriptors: %d readable, %d writable", c.Read.Len(), c.Write.Len())
	}
}

func TestIndirect(t *testing.T) {
	t.Run("H014 table of 64 entries", func(t *testing.T) {
		r, q := start(t, virtqtest.Options{Size: 16, Indirect: true})
		table := r.Bytes(virtqtest.HighGPA, 64*16)
		for i := range 64 {
			flags := uint16(virtq.DescNext)
			if i >= 40 {
				flags |= virtq.DescWrite
			}
			// The last entry comes first, and the links go backwards.
			if i == 63 {
				flags = virtq.DescWrite
			}
			at := (64 - i) % 64
			virtqtest.PutDesc(table, at, virtqtest.DataGPA+guestmem.GPA(i*2), 1, flags, uint16(63-i))
		}
		r.SetDesc(3, virtqtest.HighGPA, 64*16, virtq.DescIndirect, 0)
		r.Offer(3)
		var c virtq.Chain
		take(t, q, &c)
		if c.Err != nil || c.Read.Len() != 40 || c.Write.Len() != 24 {
			t.Errorf("chain: %d readable, %d writable, %v; want 40, 24, nil", c.Read.Len(), c.Write.Len(), c.Err)
		}
	})
	t.Run("H018 one-byte descriptors", func(t *testing.T) {
		r, q := start(t, virtqtest.Options{Size: 64})
		mem := r.Bytes(virtqtest.DataGPA, 256)
		for i := range 56 {
			flags := uint16(virtq.DescNext)
			if i >= 40 {
				flags |= virtq.DescWrite
			}
			if i == 55 {
				flags = virtq.DescWrite
			}
			mem[2*i] = byte(i)
			r.SetDesc(i, virtqtest.DataGPA+guestmem.GPA(2*i), 1, flags, uint16(i+1))
		}
		r.Offer(0)
		var c virtq.Chain
		take(t, q, &c)
		header := make([]byte, 40)
		c.Read.CopyOut(header, 0)
		for i, b := range header {
			if b != byte(i) {
				t.Errorf("byte %d of the request = %d; want %d", i, b, i)
			}
		}
		c.Write.CopyIn([]byte("0123456789abcdef"), 0)
		for i := range 16 {
			if got, want := mem[2*(40+i)], "0123456789abcdef"[i]; got != want {
				t.Errorf("byte %d of the reply = %q; want %q", i, got, want)
			}
		}
	})
}

func TestH028IndexWrap(t *testing.T) {
	r, q := start(t, virtqtest.Options{Size: 8, EventIdx: true})
	d := driver(t, r)
	var c virtq.Chain
	var calls int
	for i := range 300_000 {
		if _, ok := d.Add(nil, []virtq.Seg{{Addr: virtqtest.DataGPA, Len: 16}}); !ok {
			t.Fatalf("Add() of request %d = false", i)
		}
		d.Publish()
		take(t, q, &c)
		q.Done(&c, i%16)
		if q.NeedCall() {
			calls++
		}
		if _, n, ok := d.Used(); !ok || int(n) != i%16 {
			t.Fatalf("Used() of request %d = %d bytes, %v, %v; want %d", i, n, ok, d.Err(), i%16)
		}
		if d.ArmCalls() {
			t.Fatalf("ArmCalls() after request %d = true; want false", i)
		}
	}
	if calls != 300_000 {
		t.Errorf("%d calls; want 300000", calls)
	}
}

func TestNextUsed(t *testing.T) {
	r := virtqtest.NewRing(t, virtqtest.Options{Start: 9})
	le.PutUint16(r.Used[2:], 77)
	c := r.Config()
	c.NextAvail = 9
	q := open(t, c)
	if got := q.NextUsed(); got != 77 {
		t.Errorf("NextUsed() = %d; want 77, the index in the ring", got)
	}
	if q.Size() != 64 || q.Index() != 0 {
		t.Errorf("Size(), Index() = %d, %d; want 64, 0", q.Size(), q.Index())
	}
}

// TestNoAllocations takes and completes large chains of both kinds.
// Ahead counts what waits, and believes nothing of it.
func TestAhead(t *testing.T) {
	r, q := start(t, virtqtest.Options{Indirect: true})
	d := driver(t, r)
	read := []virtq.Seg{{Addr: virtqtest.DataGPA, Len: 40}, {Addr: virtqtest.DataGPA + 64, Len: 40}}
	if got := q.Ahead(8); got != 0 {
		t.Errorf("Ahead(8) of an empty ring = %d; want 0", got)
	}
	d.Add(read, nil)
	d.AddIndirect(read, nil, r.Bytes(virtqtest.HighGPA, 4096), virtqtest.HighGPA)
	d.Publish()
	if got := q.Ahead(8); got != 2 {
		t.Errorf("Ahead(8) = %d; want 2", got)
	}
	if got := q.Ahead(1); got != 1 {
		t.Errorf("Ahead(1) = %d; want 1", got)
	}
	// Heads, tables and an index that lead nowhere.
	for i := range r.Desc {
		r.Desc[i] = 0xff
	}
	for i := range r.Avail {
		r.Avail[i] = 0xff
	}
	if got := q.Ahead(8); got != 8 {
		t.Errorf("Ahead(8) of a ring full of ones = %d; want 8", got)
	}
	var c virtq.Chain
	if ok, err := q.Next(&c); ok || err == nil {
		t.Errorf("Next() = %v, %v; want an error", ok, err)
	}
}

func TestNoAllocations(t *testing.T) {
	r, q := start(t, virtqtest.Options{EventIdx: true, Indirect: true})
	d := driver(t, r)
	read := []virtq.Seg{{Addr: virtqtest.DataGPA, Len: 40}, {Addr: virtqtest.DataGPA + 64, Len: 40}}
	var write []virtq.Seg
	for i := range 16 {
		write = append(write, virtq.Seg{Addr: virtqtest.AdjacentGPA + guestmem.GPA(i*8192), Len: 4096})
	}
	table := r.Bytes(virtqtest.HighGPA, 4096)
	q.SetLog(guestmem.NewLog(make([]byte, 4096)), r.UsedGPA)
	var c virtq.Chain
	testkit.NoAllocs(t, 100, "a round", func() {
		d.Add(read, write)
		d.AddIndirect(read, write, table, virtqtest.HighGPA)
		d.Publish()
		d.NeedKick()
		q.Disarm()
		for {
			if ok, _ := q.Next(&c); !ok {
				break
			}
			q.Done(&c, 100)
		}
		q.NeedCall()
		q.Arm()
		for _, _, ok := d.Used(); ok; _, _, ok = d.Used() {
		}
		d.ArmCalls()
	})
	if q.NextAvail() < 200 {
		t.Errorf("only %d chains were taken; want 2 per round", q.NextAvail())
	}
}
