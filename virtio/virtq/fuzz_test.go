package virtq_test

import (
	"errors"
	"math"
	"testing"

	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtq"
	"vfiofs/virtio/virtq/virtqtest"
)

// The tables of FuzzChain: the ring's own and two indirect ones, the second of which
// spans regions. Each has so many entries.
const fuzzEntries = 16

const (
	fuzzTable    = virtqtest.HighGPA
	fuzzSpanning = virtqtest.AdjacentGPA - 8*16
)

// fuzzAddrs are the addresses that a byte of fuzz input chooses from.
var fuzzAddrs = [...]guestmem.GPA{
	0, virtqtest.RingGPA, virtqtest.DataGPA, virtqtest.AdjacentGPA - 8, virtqtest.AdjacentGPA,
	virtqtest.HoleGPA - 8, virtqtest.HoleGPA, virtqtest.HighGPA + 0x1000, virtqtest.HighGPA + virtqtest.RegionSize - 1,
	math.MaxUint64 - 7, math.MaxUint64, fuzzTable, fuzzSpanning, fuzzTable + 16,
}

// fuzzLens are the lengths.
var fuzzLens = [...]uint32{
	0, 1, 7, 8, 9, 15, 16, 24, 32, 40, fuzzEntries * 16, 4096, 4097,
	virtqtest.RegionSize, 2 * virtqtest.RegionSize, math.MaxInt32, math.MaxUint32 - 15, math.MaxUint32,
}

// descBytes is what one descriptor takes of the fuzz input: address, length, flags, next.
const descBytes = 4

// A fuzzDesc is a descriptor as the test wrote it.
type fuzzDesc struct {
	addr        guestmem.GPA
	n           uint32
	flags, next uint16
}

// fuzzDescs decodes n descriptors from the front of in; missing ones are zero.
func fuzzDescs(in []byte, n int) ([]fuzzDesc, []byte) {
	descs := make([]fuzzDesc, n)
	for i := range descs {
		if len(in) < descBytes {
			break
		}
		descs[i] = fuzzDesc{
			fuzzAddrs[int(in[0])%len(fuzzAddrs)], fuzzLens[int(in[1])%len(fuzzLens)],
			uint16(in[2]), uint16(in[3] % (fuzzEntries + 2)),
		}
		in = in[descBytes:]
	}
	return descs, in
}

// FuzzChain lets Next walk random tables and compares the outcome with expect. The
// ring has to go on after each.
func FuzzChain(f *testing.F) {
	f.Add(true, []byte{2, 9, 1, 1, 4, 11, 2, 0})
	f.Add(false, []byte{11, 10, 4, 0})
	r := virtqtest.NewRing(f, virtqtest.Options{Size: fuzzEntries})
	f.Fuzz(func(t *testing.T, indirect bool, in []byte) {
		r.Indirect = indirect
		clear(r.Used)
		clear(r.Avail)
		le.PutUint16(r.Avail[4:], 0)
		le.PutUint16(r.Avail[2:], 1)
		ring, in := fuzzDescs(in, fuzzEntries)
		table, in := fuzzDescs(in, fuzzEntries)
		spanning, _ := fuzzDescs(in, fuzzEntries)
		for i := range fuzzEntries {
			put := func(b []byte, d fuzzDesc) { virtqtest.PutDesc(b, 0, d.addr, d.n, d.flags, d.next) }
			put(r.Desc[i*16:], ring[i])
			put(r.Bytes(fuzzTable+guestmem.GPA(i*16), 16), table[i])
			put(r.Bytes(fuzzSpanning+guestmem.GPA(i*16), 16), spanning[i])
		}
		q := open(t, r.Config())
		var c virtq.Chain
		take(t, q, &c)
		if !r.Holds(c.Read) || !r.Holds(c.Write) {
			t.Fatal("chain reaches outside guest memory")
		}
		tables := map[guestmem.GPA][]fuzzDesc{fuzzTable: table, fuzzTable + 16: table[1:], fuzzSpanning: spanning}
		if read, write, ok, known := expect(r, indirect, ring, tables); known {
			if ok != (c.Err == nil) || read != c.Read.Len() || write != c.Write.Len() {
				t.Errorf("chain: %d readable, %d writable, %v; want %d, %d, success %v",
					c.Read.Len(), c.Write.Len(), c.Err, read, write, ok)
			}
		}
		q.Done(&c, 1)
		if got := r.UsedIdx(); got != 1 {
			t.Fatalf("used index = %d; want 1", got)
		}
		r.SetDesc(0, virtqtest.DataGPA, 9, 0, 0)
		le.PutUint16(r.Avail[6:], 0)
		le.PutUint16(r.Avail[2:], 2)
		take(t, q, &c)
		if c.Err != nil || c.Read.Len() != 9 {
			t.Fatalf("sound chain after it: %d readable, %v; want 9, nil", c.Read.Len(), c.Err)
		}
	})
}

// expect is the walk once more, written differently: it first lists the descriptors
// and then applies one rule after the other. known is false if the table isn't one
// that the test wrote.
func expect(r *virtqtest.Ring, indirect bool, table []fuzzDesc, tables map[guestmem.GPA][]fuzzDesc) (read, write int, ok, known bool) {
	var list []fuzzDesc
	i, steps, nested := 0, 0, false
	ok = true
	for ok {
		if i >= len(table) || steps == len(table) {
			ok = false
			break
		}
		d := table[i]
		steps++
		if d.flags&virtq.DescIndirect == 0 {
			list = append(list, d)
			if d.flags&virtq.DescNext == 0 {
				break
			}
			i = int(d.next)
			continue
		}
		if !indirect || nested || d.flags&virtq.DescNext != 0 || d.n == 0 || d.n%16 != 0 || d.n > 32768*16 || !inMemory(r, d.addr, d.n) {
			ok = false
			break
		}
		if table = tables[d.addr]; int(d.n/16) > len(table) {
			return 0, 0, false, false
		}
		table = table[:d.n/16]
		i, steps, nested = 0, 0, true
	}
	for _, d := range list {
		w := d.flags&virtq.DescWrite != 0
		switch {
		case d.n == 0:
		case !w && write > 0, !inMemory(r, d.addr, d.n):
			return read, write, false, true
		case w && write+int(d.n) > math.MaxUint32, !w && read+int(d.n) > math.MaxUint32:
			return read, write, false, true
		case w:
			write += int(d.n)
		default:
			read += int(d.n)
		}
	}
	return read, write, ok, true
}

// inMemory reports whether a range lies in the Ring's memory as its constants say.
func inMemory(r *virtqtest.Ring, addr guestmem.GPA, n uint32) bool {
	for _, span := range [][2]guestmem.GPA{
		{virtqtest.RingGPA, virtqtest.RingGPA + virtqtest.RegionSize},
		{virtqtest.DataGPA, virtqtest.HoleGPA},
		{virtqtest.HighGPA, virtqtest.HighGPA + virtqtest.RegionSize},
	} {
		if addr >= span[0] && addr < span[1] {
			return uint64(n) <= uint64(span[1]-addr)
		}
	}
	return false
}

// FuzzCalls lets a driver, a device and something that scribbles over the ring act in
// any order. Without scribbling nothing may go wrong; with it, no chain is handed out
// twice and both sides fail only with a ProtocolError.
func FuzzCalls(f *testing.F) {
	f.Add(false, []byte{0, 1, 6, 7, 8, 2, 3})
	f.Add(true, []byte{0x40, 1, 6, 6, 11, 0x41, 6, 7, 7, 12, 2})
	rings := [2]*virtqtest.Ring{}
	for i := range rings {
		rings[i] = virtqtest.NewRing(f, virtqtest.Options{Size: 8, EventIdx: i == 1, SkewAvail: i == 1, Indirect: true, Start: 65530})
	}
	f.Fuzz(func(t *testing.T, event bool, ops []byte) {
		r := rings[0]
		if event {
			r = rings[1]
		}
		newCalls(t, r).run(ops)
	})
}

// calls is the state of one run of FuzzCalls.
type calls struct {
	t        *testing.T
	r        *virtqtest.Ring
	d        *virtq.Driver
	q        *virtq.Queue
	held     []*virtq.Chain // with the device
	used     int            // chains completed
	back     int            // chains that the driver got back
	added    int
	scribble bool
}

// newCalls starts both sides of a ring.
func newCalls(t *testing.T, r *virtqtest.Ring) *calls {
	d := driver(t, r)
	return &calls{t: t, r: r, d: d, q: open(t, r.Config())}
}

// run does one thing per byte of ops: its low 4 bits say what, the others how much.
func (c *calls) run(ops []byte) {
	segs := []virtq.Seg{{Addr: virtqtest.DataGPA, Len: 8}, {Addr: virtqtest.AdjacentGPA - 4, Len: 8}}
	for _, op := range ops {
		much := int(op >> 4)
		switch op % 16 {
		case 0:
			if _, ok := c.d.Add(segs[:much%3], segs[:1]); ok {
				c.added++
			}
		case 1:
			c.d.Publish()
		case 2:
			c.driverUsed()
		case 3:
			c.d.ArmCallsAfter(1 + much)
		case 4:
			c.d.DisarmCalls()
		case 5:
			c.d.NeedKick()
		case 6:
			c.deviceNext()
		case 7:
			c.deviceDone(much)
		case 8:
			c.q.NeedCall()
		case 9:
			if got := c.q.Arm(); got != c.q.Pending() {
				c.t.Fatalf("Arm() = %v; want what Pending says", got)
			}
		case 10:
			c.q.Disarm()
		case 11:
			table := c.r.Bytes(virtqtest.HighGPA+guestmem.GPA(much*64), 64)
			if _, ok := c.d.AddIndirect(segs[:1], segs, table, virtqtest.HighGPA+guestmem.GPA(much*64)); ok {
				c.added++
			}
		default:
			part := [][]byte{c.r.Desc, c.r.Avail, c.r.Used, c.r.Avail[:4]}[op%16-12]
			part[much*7%len(part)] ^= op | 1
			c.scribble = true
		}
		if got := c.q.Outstanding(); got != len(c.held) || got > c.q.Size() {
			c.t.Fatalf("Outstanding() = %d; want %d, at most %d", got, len(c.held), c.q.Size())
		}
	}
	if c.scribble {
		return
	}
	c.d.Publish()
	for c.q.Pending() {
		c.deviceNext()
	}
	for len(c.held) > 0 {
		c.deviceDone(0)
	}
	for c.d.Pending() {
		c.driverUsed()
	}
	if c.back != c.added || c.d.Free() != c.q.Size() {
		c.t.Fatalf("%d of %d chains came back, %d descriptors free; want all", c.back, c.added, c.d.Free())
	}
}

// deviceNext takes a chain.
func (c *calls) deviceNext() {
	chain := new(virtq.Chain)
	ok, err := c.q.Next(chain)
	var pe *virtq.ProtocolError
	if err != nil && (ok || !c.scribble || !errors.As(err, &pe)) {
		c.t.Fatalf("Next() = %v, %v, scribbled %v", ok, err, c.scribble)
	}
	if !ok {
		return
	}
	for _, h := range c.held {
		if h.Head == chain.Head {
			c.t.Fatalf("head %d handed out twice", chain.Head)
		}
	}
	if chain.Err != nil && !c.scribble {
		c.t.Fatalf("chain error %v without scribbling", chain.Err)
	}
	if !c.r.Holds(chain.Read) || !c.r.Holds(chain.Write) {
		c.t.Fatal("chain reaches outside guest memory")
	}
	c.held = append(c.held, chain)
}

// deviceDone completes one of the chains that the device has.
func (c *calls) deviceDone(i int) {
	if len(c.held) == 0 {
		return
	}
	i %= len(c.held)
	c.q.Done(c.held[i], min(8, c.held[i].Write.Len()))
	c.held = append(c.held[:i], c.held[i+1:]...)
	c.used++
}

// driverUsed takes a completed chain.
func (c *calls) driverUsed() {
	head, _, ok := c.d.Used()
	if err := c.d.Err(); err != nil && !c.scribble {
		c.t.Fatalf("driver side: %v without scribbling", err)
	}
	if !ok {
		return
	}
	if int(head) >= c.q.Size() {
		c.t.Fatalf("Used() = head %d; want below %d", head, c.q.Size())
	}
	if c.back++; c.back > c.added || (!c.scribble && c.back > c.used) {
		c.t.Fatalf("%d chains came back of %d added, %d completed", c.back, c.added, c.used)
	}
}
