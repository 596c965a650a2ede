package virtq

import (
	"math"

	"vfiofs/virtio/guestmem"
)

// A Chain is one request of the driver: a readable and a writable part. The caller of
// Next owns it and uses it again and again, so that its storage grows once.
//
// Read and Write alias guest memory: the guest may change the bytes at any time.
// Addresses and lengths were copied and checked, and don't change. Both are invalid
// after Done.
type Chain struct {
	// Head is the descriptor that the chain starts with, and its name in the used ring.
	Head uint16
	// Read holds the request, Write takes the reply.
	Read, Write guestmem.Vec
	// Err, a ChainError, is set if the chain can't be trusted. Read and Write then hold
	// the sound part before the fault. The chain must go to Done like any other.
	Err error
	// Dirty is set by the device if it may have written to more of Write than the n
	// bytes it gives to Done.
	Dirty bool

	written []span // what Write consists of, for the dirty log
}

// A span is a piece of guest memory.
type span struct {
	addr guestmem.GPA
	n    uint32
}

// reset empties c and keeps its storage.
func (c *Chain) reset(head uint16) {
	c.Head, c.Err, c.Dirty = head, nil, false
	c.Read.Reset()
	c.Write.Reset()
	c.written = c.written[:0]
}

// mark logs the first n bytes of the writable part.
func (c *Chain) mark(log *guestmem.Log, n uint64) {
	for _, s := range c.written {
		if n == 0 {
			return
		}
		m := min(n, uint64(s.n))
		log.Mark(s.addr, m)
		n -= m
	}
}

// walk fills c from the descriptors that start at c.Head. Every descriptor is copied
// once and only the copy is looked at.
//
// A step is either a piece of the request or, as the last of the ring's own table,
// the move into an indirect table; neither table allows more steps than it has
// entries, so the walk ends.
func (q *Queue) walk(c *Chain) error {
	table, steps, indirect := q.desc, q.size, false
	for i := int(c.Head); ; {
		if steps--; steps < 0 {
			return ErrLong
		}
		d := table[i*descSize:][:descSize]
		addr, rest := guestmem.GPA(le.Uint64(d)), le.Uint64(d[8:])
		n, flags, next := uint32(rest), uint16(rest>>32), int(rest>>48)

		if flags&DescIndirect != 0 {
			switch {
			case !q.indirect:
				return ErrNoIndirect
			case indirect:
				return ErrNested
			case flags&DescNext != 0:
				return ErrMixed
			case n == 0 || n%descSize != 0 || n/descSize > maxIndirect:
				return ErrTable
			}
			if table = q.table(addr, n); table == nil {
				return ErrAddress
			}
			i, steps, indirect = 0, len(table)/descSize, true
			continue
		}

		if n != 0 {
			if err := q.piece(c, addr, n, flags&DescWrite != 0); err != nil {
				return err
			}
		}
		if flags&DescNext == 0 {
			return nil
		}
		if i = next; i >= len(table)/descSize {
			return ErrNext
		}
	}
}

// piece adds n > 0 bytes of guest memory to c.
func (q *Queue) piece(c *Chain, addr guestmem.GPA, n uint32, write bool) error {
	v := &c.Read
	if write {
		v = &c.Write
	} else if c.Write.Len() != 0 {
		return ErrOrder
	}
	if uint64(v.Len())+uint64(n) > math.MaxUint32 {
		return ErrLength
	}
	if !q.mem.Append(v, addr, uint64(n)) {
		return ErrAddress
	}
	if write {
		c.written = append(c.written, span{addr, n})
	}
	return nil
}

// table returns an indirect table, or nil if it lies outside guest memory. A table
// that spans regions is copied to memory of the Queue's own.
func (q *Queue) table(addr guestmem.GPA, n uint32) []byte {
	if b, ok := q.mem.Slice(addr, uint64(n)); ok {
		return b
	}
	q.spill.Reset()
	if !q.mem.Append(&q.spill, addr, uint64(n)) {
		return nil
	}
	if uint32(cap(q.copied)) < n {
		q.copied = make([]byte, n)
	}
	b := q.copied[:n]
	q.spill.CopyOut(b, 0)
	return b
}
