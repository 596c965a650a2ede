package virtqtest

import (
	"encoding/binary"
	"testing"

	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtq"
)

// le is the byte order of rings.
var le = binary.LittleEndian

// Options shapes a Ring.
type Options struct {
	Size               int    // descriptors; 0 is 64
	EventIdx, Indirect bool   // negotiated features
	Start              uint16 // number of the first entry
	SkewAvail          bool   // put the available ring at an address that is 2 modulo 4
}

// A Ring is a split ring in an Arena, written without any checks.
type Ring struct {
	*Arena
	Options
	DescGPA, AvailGPA, UsedGPA guestmem.GPA
	Desc, Avail, Used          []byte // the parts, in the Arena

	// Request is what a sound chain asks: the readable bytes of Sound and of the cases.
	// It is 40 zeros unless a test puts something else, of at most 4096 bytes, here.
	Request []byte

	idx  uint16 // of the available ring
	seen uint16 // of the used ring
}

// NewRing makes memory as the constants say, and an empty ring at RingGPA.
func NewRing(t testing.TB, o Options) *Ring {
	t.Helper()
	if o.Size == 0 {
		o.Size = 64
	}
	r := &Ring{
		Arena: NewArena(t, Region{RingGPA, RegionSize}, Region{DataGPA, RegionSize},
			Region{AdjacentGPA, RegionSize}, Region{HighGPA, RegionSize}),
		Options: o,
		Request: make([]byte, 40),
	}
	l := virtq.Layout(o.Size)
	if o.SkewAvail {
		l.Avail.Off += 2
		l.Used.Off += 4
	}
	mem := r.Bytes(RingGPA, RegionSize)
	r.Desc, r.Avail, r.Used = l.Split(mem)
	r.DescGPA = RingGPA + guestmem.GPA(l.Desc.Off)
	r.AvailGPA = RingGPA + guestmem.GPA(l.Avail.Off)
	r.UsedGPA = RingGPA + guestmem.GPA(l.Used.Off)
	r.rewind()
	return r
}

// Reset clears all memory and empties the ring, for a new device to start with.
func (r *Ring) Reset() {
	r.Clear()
	r.rewind()
}

// rewind sets all indices to Start.
func (r *Ring) rewind() {
	r.idx, r.seen = r.Start, r.Start
	le.PutUint16(r.Avail[2:], r.idx)
	le.PutUint16(r.Used[2:], r.seen)
}

// Config returns what starts a device on the ring.
func (r *Ring) Config() virtq.Config {
	return virtq.Config{
		Size: r.Size, Mem: r.Table, Desc: r.Desc, Avail: r.Avail, Used: r.Used,
		NextAvail: r.Start, EventIdx: r.EventIdx, Indirect: r.Indirect,
	}
}

// DriverConfig returns what starts a virtq.Driver on the ring. The Ring itself must
// then only be used for its memory.
func (r *Ring) DriverConfig() virtq.DriverConfig {
	return virtq.DriverConfig{
		Size: r.Size, Desc: r.Desc, Avail: r.Avail, Used: r.Used,
		Start: r.Start, EventIdx: r.EventIdx, Indirect: r.Indirect,
	}
}

// PutDesc writes descriptor i of a table, the ring's own or an indirect one.
func PutDesc(table []byte, i int, addr guestmem.GPA, n uint32, flags, next uint16) {
	d := table[i*16:][:16]
	le.PutUint64(d, uint64(addr))
	le.PutUint32(d[8:], n)
	le.PutUint16(d[12:], flags)
	le.PutUint16(d[14:], next)
}

// SetDesc writes descriptor i of the ring's own table.
func (r *Ring) SetDesc(i int, addr guestmem.GPA, n uint32, flags, next uint16) {
	PutDesc(r.Desc, i, addr, n, flags, next)
}

// Offer puts head into the available ring and publishes it.
func (r *Ring) Offer(head uint16) {
	le.PutUint16(r.Avail[4+2*(int(r.idx)%r.Size):], head)
	r.Jump(1)
}

// Jump adds n to the available index without writing entries.
func (r *Ring) Jump(n uint16) {
	r.idx += n
	le.PutUint16(r.Avail[2:], r.idx)
}

// Where the cases and Sound put a request and take its reply.
const (
	RequestGPA = DataGPA
	ReplyGPA   = DataGPA + 0x1000
	ReplyRoom  = 0x1000 // bytes
)

// PutRequest writes descriptor i as readable, with Request behind it.
func (r *Ring) PutRequest(i int, flags, next uint16) {
	copy(r.Bytes(RequestGPA, len(r.Request)), r.Request)
	r.SetDesc(i, RequestGPA, uint32(len(r.Request)), flags, next)
}

// PutReply writes descriptor i as writable, with ReplyRoom bytes behind it.
func (r *Ring) PutReply(i int, flags, next uint16) {
	r.SetDesc(i, ReplyGPA, ReplyRoom, flags|virtq.DescWrite, next)
}

// Sound offers a chain that nothing is wrong with, of descriptors 0 and 1.
func (r *Ring) Sound() {
	r.PutRequest(0, virtq.DescNext, 1)
	r.PutReply(1, 0, 0)
	r.Offer(0)
}

// Reply returns the memory for the reply of Sound and of the cases.
func (r *Ring) Reply() []byte { return r.Bytes(ReplyGPA, ReplyRoom) }

// UsedIdx returns the index of the used ring.
func (r *Ring) UsedIdx() uint16 { return le.Uint16(r.Used[2:]) }

// TakeUsed returns the next used element.
func (r *Ring) TakeUsed() (id, n uint32, ok bool) {
	if r.UsedIdx() == r.seen {
		return 0, 0, false
	}
	e := r.Used[4+8*(int(r.seen)%r.Size):]
	r.seen++
	return le.Uint32(e), le.Uint32(e[4:]), true
}
