package virtq

import (
	"fmt"
	"math"
	"sync/atomic"

	"vfiofs/virtio/guestmem"
)

// A Seg is a piece of memory that a Driver gives to the device.
type Seg struct {
	Addr guestmem.GPA // or whatever the device calls an address
	Len  uint32       // bytes
}

// DriverConfig describes a ring to NewDriver.
type DriverConfig struct {
	// Size is the number of descriptors: a power of two, 1 to MaxSize.
	Size int
	// Desc, Avail and Used are the parts of the ring, as in Config. Borrowed.
	Desc, Avail, Used []byte
	// EventIdx and Indirect are negotiated features, as in Config.
	EventIdx, Indirect bool
	// Start is the number of the first available and used entry. It is 0 except for a
	// ring that is taken over.
	Start uint16
	// Index is the number of the ring in its device, for messages.
	Index int
}

// A Driver is the driver side of a ring. The device isn't trusted: nothing it writes
// makes a Driver touch memory outside the ring, lose a descriptor or return a head
// that it hasn't got.
type Driver struct {
	desc     []byte
	avail    []byte
	used     []byte
	size     int
	mask     uint16
	index    int
	eventIdx bool
	indirect bool

	availIdx   *uint32 // the word that holds the available ring's idx
	availShift uint    // where in it
	usedIdx    *uint32 // flags and idx of the used ring
	availFlags *uint16
	usedEvent  *uint16 // nil without eventIdx
	availEvent *uint16 // nil without eventIdx

	next      uint16 // number of the next available entry
	published uint16 // available idx
	unkicked  int    // entries published since the last NeedKick
	last      uint16 // number of the next used entry
	flags     uint16 // of the available ring
	entry0    uint16 // ring[0] of the available ring

	chains []driverChain // by head: what the device may say about it
	links  []uint16      // by descriptor: the one after it in its chain or the free list
	free   uint16        // first free descriptor, if nfree > 0
	nfree  int
	busy   int // chains with the device
	err    error
}

// A driverChain is a chain that the device has.
type driverChain struct {
	descs int    // length, 0 if the device hasn't got it
	tail  uint16 // last descriptor
	room  uint64 // writable bytes
}

// NewDriver sets up the driver side of a ring, before the device starts it: it writes
// all of the ring's memory.
func NewDriver(c DriverConfig) (*Driver, error) {
	if err := checkParts(c.Size, c.EventIdx, &c.Desc, &c.Avail, &c.Used); err != nil {
		return nil, fmt.Errorf("ring %d: %w", c.Index, err)
	}
	d := &Driver{
		desc: c.Desc, avail: c.Avail, used: c.Used, size: c.Size, mask: uint16(c.Size - 1),
		index: c.Index, eventIdx: c.EventIdx, indirect: c.Indirect,
		next: c.Start, published: c.Start, last: c.Start,
		chains: make([]driverChain, c.Size), links: make([]uint16, c.Size), nfree: c.Size,
	}
	for i := range d.links {
		d.links[i] = uint16(i + 1)
	}
	clear(c.Desc)
	clear(c.Avail)
	clear(c.Used)
	d.availIdx, d.availShift = word(c.Avail, 2)
	d.availFlags = half(c.Avail, 0)
	d.usedIdx, _ = word(c.Used, 0)
	if c.EventIdx {
		d.usedEvent = half(c.Avail, len(c.Avail)-eventSize)
		d.availEvent = half(c.Used, len(c.Used)-eventSize)
		store16(d.availEvent, c.Start)
	}
	atomic.StoreUint32(d.usedIdx, uint32(c.Start)<<16)
	d.store()
	d.ArmCalls()
	return d, nil
}

// Add makes a chain of the ring's own descriptors and puts it into the available ring;
// the device sees it after Publish. ok is false if it doesn't fit now or is empty. The
// head names the chain until Used returns it.
func (d *Driver) Add(read, write []Seg) (head uint16, ok bool) {
	n := len(read) + len(write)
	if n == 0 || n > d.nfree || d.err != nil {
		return 0, false
	}
	head = d.free
	i, tail := head, head
	for k := range n {
		s, flags := segAt(read, write, k)
		next := d.links[i]
		if k == n-1 {
			tail = i
		} else {
			flags |= DescNext
		}
		putDesc(d.desc[int(i)*descSize:], s, flags, next)
		i = next
	}
	d.take(head, tail, n, room(write))
	return head, true
}

// AddIndirect is Add with the descriptors in a table of their own, which takes one
// descriptor of the ring. The table lies at addr, holds 16 bytes per Seg, and belongs
// to the device until Used returns the head. It is written here.
func (d *Driver) AddIndirect(read, write []Seg, table []byte, addr guestmem.GPA) (head uint16, ok bool) {
	n := len(read) + len(write)
	if !d.indirect || n == 0 || n > maxIndirect || len(table) < n*descSize || d.nfree == 0 || d.err != nil {
		return 0, false
	}
	for k := range n {
		s, flags := segAt(read, write, k)
		if k < n-1 {
			flags |= DescNext
		}
		putDesc(table[k*descSize:], s, flags, uint16(k+1))
	}
	head = d.free
	putDesc(d.desc[int(head)*descSize:], Seg{addr, uint32(n * descSize)}, DescIndirect, 0)
	d.take(head, head, 1, room(write))
	return head, true
}

// segAt returns segment k of a chain and the flags of its descriptor.
func segAt(read, write []Seg, k int) (Seg, uint16) {
	if k < len(read) {
		return read[k], 0
	}
	return write[k-len(read)], DescWrite
}

// room returns the number of bytes in segs.
func room(segs []Seg) uint64 {
	n := uint64(0)
	for _, s := range segs {
		n += uint64(s.Len)
	}
	return n
}

// putDesc stores a descriptor.
func putDesc(b []byte, s Seg, flags, next uint16) {
	le.PutUint64(b, uint64(s.Addr))
	le.PutUint64(b[8:], uint64(s.Len)|uint64(flags)<<32|uint64(next)<<48)
}

// take moves n descriptors from the free list to the available ring.
func (d *Driver) take(head, tail uint16, n int, room uint64) {
	d.free = d.links[tail]
	d.nfree -= n
	d.busy++
	d.chains[head] = driverChain{n, tail, room}
	slot := d.next & d.mask
	if slot == 0 {
		d.entry0 = head
	}
	le.PutUint16(d.avail[ringHeader+int(slot)*availElem:], head)
	d.next++
}

// Publish makes all added chains available to the device.
func (d *Driver) Publish() {
	d.unkicked += int(d.next - d.published)
	d.published = d.next
	d.store()
}

// store stores the available idx and whatever shares its word: flags, or entry 0 of a
// ring that is only 2-aligned.
func (d *Driver) store() {
	if d.availShift == 0 {
		atomic.StoreUint32(d.availIdx, uint32(d.published)|uint32(d.entry0)<<16)
		store16(d.availFlags, d.flags)
		return
	}
	atomic.StoreUint32(d.availIdx, uint32(d.flags)|uint32(d.published)<<16)
}

// NeedKick reports whether the device wants a kick for what was published since the
// last NeedKick.
func (d *Driver) NeedKick() bool {
	n := d.unkicked
	if n == 0 {
		return false
	}
	d.unkicked = 0
	fence()
	if !d.eventIdx {
		return atomic.LoadUint32(d.usedIdx)&flagNoNotify == 0
	}
	return n > math.MaxUint16 || crossed(load16(d.availEvent), d.published, uint16(n))
}

// Used takes one completed chain: n bytes of its writable part were written. ok is
// false if there is none, or if the device broke the ring: see Err.
func (d *Driver) Used() (head uint16, n uint32, ok bool) {
	if d.err != nil {
		return 0, 0, false
	}
	count := d.load() - d.last
	if count == 0 {
		return 0, 0, false
	}
	if int(count) > d.busy {
		return d.fail("used index %d ahead with %d chains out", count, d.busy)
	}
	elem := le.Uint64(d.used[ringHeader+int(d.last&d.mask)*usedElem:])
	id, n := uint32(elem), uint32(elem>>32)
	if uint64(id) >= uint64(d.size) || d.chains[id].descs == 0 {
		return d.fail("used id %d isn't with the device", id)
	}
	c := &d.chains[id]
	if uint64(n) > c.room {
		return d.fail("%d bytes written to the %d of chain %d", n, c.room, id)
	}
	head = uint16(id)
	d.links[c.tail] = d.free
	d.free = head
	d.nfree += c.descs
	d.busy--
	*c = driverChain{}
	d.last++
	return head, n, true
}

// load loads the used idx; what the device wrote before it is visible after.
func (d *Driver) load() uint16 { return uint16(atomic.LoadUint32(d.usedIdx) >> 16) }

// fail breaks the ring.
func (d *Driver) fail(format string, args ...any) (uint16, uint32, bool) {
	d.err = &ProtocolError{Ring: d.index, Reason: fmt.Sprintf(format, args...)}
	return 0, 0, false
}

// Err returns why the ring is broken, a *ProtocolError, or nil.
func (d *Driver) Err() error { return d.err }

// ArmCalls asks for a call for the next completion, and then looks whether one is
// there: if pending is true the call may not come.
func (d *Driver) ArmCalls() (pending bool) { return d.ArmCallsAfter(1) }

// ArmCallsAfter is ArmCalls for the n-th completion from now, n >= 1. Without event
// indices it is the same as ArmCalls. pending is as in ArmCalls.
func (d *Driver) ArmCallsAfter(n int) (pending bool) {
	if d.eventIdx {
		store16(d.usedEvent, d.last+uint16(n)-1)
	} else if d.flags != 0 {
		d.flags = 0
		d.store()
	}
	fence()
	return d.Pending()
}

// DisarmCalls asks the device not to call. With event indices, that holds for half of
// all indices to come.
func (d *Driver) DisarmCalls() {
	if d.eventIdx {
		store16(d.usedEvent, d.last+1<<15)
	} else if d.flags == 0 {
		d.flags = flagNoNotify
		d.store()
	}
}

// Pending reports whether Used has something to return or to complain about.
func (d *Driver) Pending() bool { return d.err == nil && d.load() != d.last }

// Free returns the number of free descriptors.
func (d *Driver) Free() int { return d.nfree }

// Outstanding returns the number of chains that the device has.
func (d *Driver) Outstanding() int { return d.busy }
