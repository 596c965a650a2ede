// Package virtq is the split virtqueue: the device side (Queue), and the driver side
// (Driver) for rings that we drive ourselves.
//
//	 available ring (driver writes)           descriptors (driver writes)
//	┌───────┬─────┬───────────┬────────────┐   ┌───────────────────────┐
//	│ flags │ idx │ head ...  │ used_event │   │ addr  len  flags next │ ...
//	└───────┴──┬──┴────┬──────┴────────────┘   └───┬───────────────────┘
//	           │       └── names the first of ──►  └──► guest memory or
//	           ▼                                        one table more
//	       Next ──► Chain ──► the device ──► Done
//	                                          │
//	┌───────┬─────┬───────────────┬───────────▼─┐
//	│ flags │ idx │ head bytes ...│ avail_event │  used ring (device writes)
//	└───────┴─────┴───────────────┴─────────────┘
//	 flags, *_event: whether, or at which entry, the other side wants to be told
//
// A request takes ten steps:
//
//  1. The driver fills descriptors: readable first, then writable.
//  2. It puts the first one's number, the head, into the available ring.
//  3. It publishes the available idx: the request is ours.
//  4. It kicks, unless flags or avail_event say that we look anyway.
//  5. Next loads idx; more new entries than the ring holds break the ring.
//  6. Next takes a head and copies each descriptor of its chain once into a Chain.
//  7. The device serves the Chain; chains may be finished in any order.
//  8. Done writes {head, bytes} into the used ring and publishes the used idx.
//  9. NeedCall, once or for several together, says whether flags or used_event ask for a call.
//  10. Arm, before sleeping, asks for kicks and looks once more for new entries.
//
// Flags and idx are one 32-bit word that one side owns, so it is loaded and stored as
// one. Steps 9 and 10 and their mirror images in Driver need a full fence between the
// store before them and the load after them.
//
// Nothing that the other side writes is trusted: a bad index or head breaks the ring
// (ProtocolError), anything else wrong in a chain is an error of that chain alone
// (ChainError). Ring memory is borrowed and stays mapped until the ring is stopped.
// There are no locks: a Queue and a Driver belong to one goroutine at a time. Only
// SetLog may be called by another.
//
// Spec: virtio 1.3, 2.7 (split virtqueues); vhost-user, "Migration" (dirty log).
package virtq

import (
	"fmt"
	"math"
	"sync/atomic"

	"vfiofs/virtio/guestmem"
)

// NoUsedLog is the Config.UsedLog of a ring whose used ring isn't logged.
const NoUsedLog = guestmem.GPA(math.MaxUint64)

// Config describes a ring to New.
type Config struct {
	// Index is the number of the ring in its device, for messages.
	Index int
	// Size is the number of descriptors: a power of two, 1 to MaxSize.
	Size int
	// Mem is where the addresses of descriptors lead.
	Mem *guestmem.Table
	// Desc, Avail and Used are the mapped parts of the ring, aligned to 16, 2 and 4
	// bytes. The event indices are needed only with EventIdx. Borrowed.
	Desc, Avail, Used []byte
	// NextAvail is the number of the first available entry to take.
	NextAvail uint16
	// EventIdx and Indirect are negotiated features: VIRTIO_RING_F_EVENT_IDX and
	// VIRTIO_RING_F_INDIRECT_DESC.
	EventIdx, Indirect bool
	// Log and UsedLog are as in SetLog.
	Log     *guestmem.Log
	UsedLog guestmem.GPA
}

// A Queue is the device side of a running ring.
type Queue struct {
	mem      *guestmem.Table
	desc     []byte
	avail    []byte
	used     []byte
	size     int
	mask     uint16
	indirect bool
	eventIdx bool

	availIdx   *uint32 // the word that holds the available ring's idx
	availShift uint    // where in it
	usedIdx    *uint32 // flags and idx of the used ring
	availFlags *uint16
	usedEvent  *uint16 // nil without eventIdx
	availEvent *uint16 // nil without eventIdx

	next   uint16 // number of the first available entry not yet taken
	seen   uint16 // available idx when last looked at: next to seen may be taken
	done   uint16 // used idx
	flags  uint16 // of the used ring
	uncall int    // completions since the last NeedCall
	first  bool   // no completion was looked at by NeedCall yet

	taken       []uint64 // bit h: the chain with head h is with the device
	outstanding int

	log    atomic.Pointer[ringLog]
	spill  guestmem.Vec // see table
	copied []byte       // see table
	index  int
	err    error // why the ring is broken
}

// A ringLog is where a ring logs what it writes.
type ringLog struct {
	log  *guestmem.Log
	used guestmem.GPA
}

// New starts the device side of a ring. It takes the used idx from the ring, asks for
// kicks, and arranges for the first completion to call the driver. Entries may be
// available already: look before waiting for a kick.
func New(c Config) (*Queue, error) {
	if err := checkParts(c.Size, c.EventIdx, &c.Desc, &c.Avail, &c.Used); err != nil {
		return nil, fmt.Errorf("ring %d: %w", c.Index, err)
	}
	q := &Queue{
		mem: c.Mem, desc: c.Desc, avail: c.Avail, used: c.Used,
		size: c.Size, mask: uint16(c.Size - 1), index: c.Index,
		indirect: c.Indirect, eventIdx: c.EventIdx,
		next: c.NextAvail, seen: c.NextAvail, first: c.EventIdx,
		taken: make([]uint64, (c.Size+63)/64),
	}
	q.availIdx, q.availShift = word(c.Avail, 2)
	q.availFlags = half(c.Avail, 0)
	q.usedIdx, _ = word(c.Used, 0)
	if c.EventIdx {
		q.usedEvent = half(c.Avail, len(c.Avail)-eventSize)
		q.availEvent = half(c.Used, len(c.Used)-eventSize)
	}
	q.SetLog(c.Log, c.UsedLog)
	q.done = uint16(atomic.LoadUint32(q.usedIdx) >> 16)
	q.publish()
	q.Arm()
	return q, nil
}

// SetLog starts, changes or (with a nil log) ends dirty logging: from the next Done
// on, the ring marks in log what it writes to guest memory, including chains that
// were taken before. usedLog is the address under which writes to the used ring are
// logged, or NoUsedLog. SetLog may be called from any goroutine; the old log may be
// in use until the current call of the Queue's goroutine returns.
func (q *Queue) SetLog(log *guestmem.Log, usedLog guestmem.GPA) {
	if log == nil {
		q.log.Store(nil)
		return
	}
	q.log.Store(&ringLog{log, usedLog})
}

// SetMemory makes addresses of descriptors lead to another Table, from the next Next
// on. It belongs to the Queue's goroutine. Chains that were taken before keep what they
// have.
func (q *Queue) SetMemory(mem *guestmem.Table) { q.mem = mem }

// Next takes one chain off the available ring into c.
//
// Next doesn't block; ok is false when the ring is empty. A chain with c.Err set is
// taken like any other. An error, always a *ProtocolError, means that the ring can't
// be trusted any more and is returned from then on; chains that are still with the
// device may be completed.
func (q *Queue) Next(c *Chain) (ok bool, err error) {
	if q.next == q.seen && !q.look() {
		return false, q.err
	}
	head := le.Uint16(q.avail[ringHeader+int(q.next&q.mask)*availElem:])
	if int(head) >= q.size {
		return false, q.fail("head %d in a ring of size %d", head, q.size)
	}
	bit := uint64(1) << (head % 64)
	if q.taken[head/64]&bit != 0 {
		return false, q.fail("head %d made available while the device has it", head)
	}
	c.reset(head)
	c.Err = q.walk(c)
	// Only now, in case that reading the descriptors faults.
	q.taken[head/64] |= bit
	q.outstanding++
	q.next++
	return true, nil
}

// Ahead starts to bring the descriptors of the next n chains near the processor, and
// returns how many chains there are, at most n. What it reads of them is only used to know
// what to bring, and read again by Next.
func (q *Queue) Ahead(n int) int {
	n = min(n, q.Waiting())
	for i := range uint16(n) {
		if d := q.peek(q.next + i); d != nil {
			guestmem.PrefetchLine(d)
		}
	}
	if !q.indirect {
		return n
	}
	for i := range uint16(n) {
		if d := q.peek(q.next + i); d != nil && le.Uint16(d[12:])&DescIndirect != 0 {
			if table, ok := q.mem.Slice(guestmem.GPA(le.Uint64(d)), descSize); ok {
				guestmem.PrefetchLine(table)
			}
		}
	}
	return n
}

// peek returns the descriptor that available entry i names, or nil.
func (q *Queue) peek(i uint16) []byte {
	head := int(le.Uint16(q.avail[ringHeader+int(i&q.mask)*availElem:]))
	if head >= q.size {
		return nil
	}
	return q.desc[head*descSize:][:descSize]
}

// look loads the available idx and reports whether there are entries to take.
func (q *Queue) look() bool {
	if q.err != nil {
		return false
	}
	idx := q.load()
	if n := idx - q.next; int(n) > q.size {
		q.fail("available index jumps by %d in a ring of size %d", n, q.size)
		return false
	}
	q.seen = idx
	return idx != q.next
}

// load loads the available idx; what the driver wrote before it is visible after.
func (q *Queue) load() uint16 { return uint16(atomic.LoadUint32(q.availIdx) >> q.availShift) }

// fail breaks the ring: nothing more is taken.
func (q *Queue) fail(format string, args ...any) error {
	q.seen = q.next
	q.err = &ProtocolError{Ring: q.index, Reason: fmt.Sprintf(format, args...)}
	return q.err
}

// Done returns chain c to the driver, with n bytes written to the start of c.Write.
// The driver may see it at once; NeedCall says whether to tell it. c may then be used
// for Next again.
func (q *Queue) Done(c *Chain, n int) {
	bit := uint64(1) << (c.Head % 64)
	if q.taken[c.Head/64]&bit == 0 {
		panic("virtq: chain completed twice")
	}
	q.taken[c.Head/64] &^= bit
	q.outstanding--

	off := ringHeader + int(q.done&q.mask)*usedElem
	le.PutUint64(q.used[off:], uint64(c.Head)|uint64(uint32(n))<<32)
	if l := q.log.Load(); l != nil {
		dirty := uint64(n)
		if c.Dirty {
			dirty = uint64(c.Write.Len())
		}
		c.mark(l.log, dirty)
		l.mark(off, usedElem)
	}
	q.done++
	q.uncall++
	q.publish()
}

// publish stores flags and idx of the used ring; what was written and logged before
// is visible to a driver that sees them. The two themselves are logged after the
// store: a bit that is fetched before it would be lost with the store.
func (q *Queue) publish() {
	storeRelease(q.usedIdx, uint32(q.flags)|uint32(q.done)<<16)
	if l := q.log.Load(); l != nil {
		l.mark(0, ringHeader)
	}
}

// mark logs n bytes at off of the used ring.
func (l *ringLog) mark(off int, n uint64) {
	if addr := l.used + guestmem.GPA(off); addr >= l.used {
		l.log.Mark(addr, n)
	}
}

// NeedCall reports whether the driver wants a call for what was completed since the
// last NeedCall (virtio 1.3, 2.7.7.2 and 2.7.10).
func (q *Queue) NeedCall() bool {
	n := q.uncall
	if n == 0 {
		return false
	}
	q.uncall = 0
	fence()
	if !q.eventIdx {
		return load16(q.availFlags)&flagNoNotify == 0
	}
	if q.first {
		q.first = false
		return true
	}
	return n > math.MaxUint16 || crossed(load16(q.usedEvent), q.done, uint16(n))
}

// crossed reports whether the last n entries before idx include entry event
// (virtio 1.3, 2.7.7.2; linux/virtio_ring.h: vring_need_event).
func crossed(event, idx, n uint16) bool { return idx-event-1 < n }

// Arm asks the driver for a kick when it makes more buffers available, and then looks
// whether some are: if pending is true the kick may not come, so don't sleep.
func (q *Queue) Arm() (pending bool) {
	if q.err != nil {
		return false
	}
	if q.eventIdx {
		store16(q.availEvent, q.next)
		if l := q.log.Load(); l != nil {
			l.mark(len(q.used)-eventSize, eventSize)
		}
	} else {
		q.setFlags(0)
	}
	fence()
	return q.Pending()
}

// Disarm asks the driver not to kick. With event indices there is nothing to do: the
// one that Arm stored is left behind by the first entry after it.
func (q *Queue) Disarm() {
	if !q.eventIdx {
		q.setFlags(flagNoNotify)
	}
}

// setFlags stores the flags of the used ring.
func (q *Queue) setFlags(flags uint16) {
	if q.flags != flags {
		q.flags = flags
		q.publish()
	}
}

// Pending reports whether Next has something to take or to complain about. It is one
// load, cheap enough to poll with.
func (q *Queue) Pending() bool { return q.err == nil && q.load() != q.next }

// Waiting returns the number of entries that Next has to take. A driver may lie about it.
func (q *Queue) Waiting() int { return int(q.load() - q.next) }

// NextAvail returns the number of the first available entry that wasn't taken.
func (q *Queue) NextAvail() uint16 { return q.next }

// NextUsed returns the number of the used entry that the next Done writes.
func (q *Queue) NextUsed() uint16 { return q.done }

// Size returns the number of descriptors.
func (q *Queue) Size() int { return q.size }

// Index returns the number of the ring in its device.
func (q *Queue) Index() int { return q.index }

// Outstanding returns the number of chains that Next handed out and Done hasn't got
// back. It is at most Size.
func (q *Queue) Outstanding() int { return q.outstanding }
