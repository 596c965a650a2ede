package virtq

import (
	"encoding/binary"
	"fmt"
)

// MaxSize is the largest number of descriptors in a ring (virtio 1.3, 2.7).
const MaxSize = 32768

// Sizes in bytes and offsets within the parts of a ring (virtio 1.3, 2.7.5 to 2.7.8).
const (
	descSize     = 16 // struct virtq_desc: addr u64, len u32, flags u16, next u16
	ringHeader   = 4  // flags u16, idx u16 of struct virtq_avail and virtq_used
	availElem    = 2  // head u16
	usedElem     = 8  // struct virtq_used_elem: id u32, len u32
	eventSize    = 2  // used_event and avail_event, after the last element
	maxIndirect  = MaxSize
	flagNoNotify = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT and VIRTQ_USED_F_NO_NOTIFY
)

// Alignment of the parts of a ring in bytes (virtio 1.3, 2.7).
const (
	descAlign  = 16
	availAlign = 2
	usedAlign  = 4
)

// Flags of a descriptor (virtio 1.3, 2.7.5).
const (
	DescNext     = 1 // VIRTQ_DESC_F_NEXT
	DescWrite    = 2 // VIRTQ_DESC_F_WRITE
	DescIndirect = 4 // VIRTQ_DESC_F_INDIRECT
)

// le is the byte order of rings (virtio 1.3, 1.4).
var le = binary.LittleEndian

// A Part is where one part of a ring lies: offset and length in bytes.
type Part struct{ Off, Len int }

// A RingLayout places the three parts of a ring in one piece of memory, each
// aligned, with room for the event indices.
type RingLayout struct {
	Desc, Avail, Used Part
	Total             int // bytes
}

// Layout returns the layout of a ring of size descriptors, for memory that is
// aligned to 16 bytes.
func Layout(size int) RingLayout {
	var l RingLayout
	l.Desc = Part{0, size * descSize}
	l.Avail = Part{l.Desc.Len, ringHeader + size*availElem + eventSize}
	l.Used = Part{align(l.Avail.Off+l.Avail.Len, usedAlign), ringHeader + size*usedElem + eventSize}
	l.Total = l.Used.Off + l.Used.Len
	return l
}

// Split cuts the parts of a ring out of b, which holds at least Total bytes.
func (l RingLayout) Split(b []byte) (desc, avail, used []byte) {
	cut := func(p Part) []byte { return b[p.Off : p.Off+p.Len : p.Off+p.Len] }
	return cut(l.Desc), cut(l.Avail), cut(l.Used)
}

// align rounds n up to a multiple of a power of two.
func align(n, to int) int { return (n + to - 1) &^ (to - 1) }

// checkParts checks the size and the memory of a ring and cuts its parts to length.
func checkParts(size int, eventIdx bool, desc, avail, used *[]byte) error {
	if size < 1 || size > MaxSize || size&(size-1) != 0 {
		return fmt.Errorf("ring size %d: not a power of two from 1 to %d", size, MaxSize)
	}
	event := 0
	if eventIdx {
		event = eventSize
	}
	for _, p := range []struct {
		name  string
		b     *[]byte
		n, to int
	}{
		{"descriptor table", desc, size * descSize, descAlign},
		{"available ring", avail, ringHeader + size*availElem + event, availAlign},
		{"used ring", used, ringHeader + size*usedElem + event, usedAlign},
	} {
		if len(*p.b) < p.n {
			return fmt.Errorf("%s: %d bytes are too few for a ring of size %d", p.name, len(*p.b), size)
		}
		if !aligned(*p.b, p.to) {
			return fmt.Errorf("%s: not aligned to %d bytes", p.name, p.to)
		}
		*p.b = (*p.b)[:p.n:p.n]
	}
	return nil
}
