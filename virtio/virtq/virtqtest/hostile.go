package virtqtest

import (
	"math"

	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtq"
)

// A Case is one thing that a hostile or buggy driver does to an idle ring of at least
// 16 descriptors.
type Case struct {
	// Name starts with the number of the edge case in the specification, if it has one.
	Name string
	// Write does it. It puts at most one chain into the ring, with head 0.
	Write func(r *Ring)
	// Broken says that the ring can't be trusted afterwards. If it is false, the chain
	// comes back in the used ring and a sound one after it is served.
	Broken bool
	// Err is what is wrong with the chain. If it is empty the chain is odd, but to be
	// served as usual.
	Err virtq.ChainError
	// Readable and Writable are the bytes of the chain's sound part: so many, or Any, or
	// Request. Ring.Request is what the readable ones start with.
	Readable, Writable int
	// NoIndirect says that the case is for a ring without the indirect feature. All
	// others need it.
	NoIndirect bool
}

// Any number of bytes of a Case; and as many as Ring.Request has.
const (
	Any     = -1
	Request = -2
)

// Short names, to keep the tables below readable.
const (
	next     = virtq.DescNext
	write    = virtq.DescWrite
	indirect = virtq.DescIndirect
)

// tableGPA is where the cases put an indirect table.
const tableGPA = HighGPA

// Hostile returns the corpus.
func Hostile() []Case {
	var all []Case
	all = append(all, brokenRings()...)
	all = append(all, badChains()...)
	all = append(all, badTables()...)
	return append(all, oddChains()...)
}

// brokenRings are the cases that leave nothing to trust.
func brokenRings() []Case {
	broken := func(name string, write func(r *Ring)) Case {
		return Case{Name: name, Write: write, Broken: true}
	}
	return []Case{
		broken("H016 avail.idx jumps by size+1", func(r *Ring) { r.Jump(uint16(r.Size + 1)) }),
		broken("H016 avail.idx jumps by 65535", func(r *Ring) { r.Jump(math.MaxUint16) }),
		broken("H017 head is size", func(r *Ring) { r.Offer(uint16(r.Size)) }),
		broken("H017 head is 65535", func(r *Ring) { r.Offer(math.MaxUint16) }),
	}
}

// third is a chain with a sound request, a sound reply, and descriptor 2 as given.
func third(addr guestmem.GPA, n uint32, flags, link uint16) func(r *Ring) {
	return func(r *Ring) {
		r.PutRequest(0, next, 1)
		r.PutReply(1, next, 2)
		r.SetDesc(2, addr, n, flags, link)
		r.Offer(0)
	}
}

// only is a chain that starts with descriptor 0 as given.
func only(addr guestmem.GPA, n uint32, flags, link uint16) func(r *Ring) {
	return func(r *Ring) {
		r.SetDesc(0, addr, n, flags, link)
		r.Offer(0)
	}
}

// badChains are chains that can't be trusted, without an indirect table.
func badChains() []Case {
	// after is a case whose fault comes after a sound request and reply.
	after := func(name string, err virtq.ChainError, write func(r *Ring)) Case {
		return Case{Name: name, Write: write, Err: err, Readable: Request, Writable: ReplyRoom}
	}
	// atOnce is a case without a sound part.
	atOnce := func(name string, err virtq.ChainError, write func(r *Ring)) Case {
		return Case{Name: name, Write: write, Err: err}
	}
	return []Case{
		{Name: "H001 writable before readable", Err: virtq.ErrOrder, Writable: ReplyRoom, Write: func(r *Ring) {
			r.PutReply(0, next, 1)
			r.PutRequest(1, 0, 0)
			r.Offer(0)
		}},
		after("H001 writable between readable", virtq.ErrOrder, third(RequestGPA, 8, 0, 0)),
		{Name: "H002 loop of two descriptors", Err: virtq.ErrLong, Readable: Request, Writable: Any, Write: func(r *Ring) {
			r.PutRequest(0, next, 1)
			r.PutReply(1, next, 2)
			r.SetDesc(2, ReplyGPA, 16, next|write, 1)
			r.Offer(0)
		}},
		{Name: "H002 descriptor links to itself", Err: virtq.ErrLong, Readable: Any, Write: func(r *Ring) {
			r.PutRequest(0, next, 0)
			r.Offer(0)
		}},
		{Name: "H002 empty descriptor links to itself", Err: virtq.ErrLong, Write: only(0, 0, next, 0)},
		{Name: "H003 chain longer than the ring", Err: virtq.ErrLong, Readable: Any, Write: func(r *Ring) {
			for i := range r.Size {
				r.PutRequest(i, next, uint16((i+1)%r.Size))
			}
			r.Offer(0)
		}},
		{Name: "H004 next is size", Err: virtq.ErrNext, Readable: Request, Writable: ReplyRoom, Write: func(r *Ring) {
			r.PutRequest(0, next, 1)
			r.PutReply(1, next, uint16(r.Size))
			r.Offer(0)
		}},
		{Name: "H004 next is 65535", Err: virtq.ErrNext, Readable: Request, Write: func(r *Ring) {
			r.PutRequest(0, next, math.MaxUint16)
			r.Offer(0)
		}},
		after("H005 address outside memory", virtq.ErrAddress, third(HoleGPA, 16, write, 0)),
		after("H005 address below memory", virtq.ErrAddress, third(0, 16, write, 0)),
		atOnce("H005 first address outside memory", virtq.ErrAddress, only(HoleGPA, 40, 0, 0)),
		after("H006 address wraps", virtq.ErrAddress, third(math.MaxUint64-7, 16, write, 0)),
		after("H006 address wraps at the last byte", virtq.ErrAddress, third(math.MaxUint64, 2, write, 0)),
		after("H006 address in memory, length 4 GiB-1", virtq.ErrAddress, third(HighGPA, math.MaxUint32-ReplyRoom, write, 0)),
		after("H008 range crosses a hole", virtq.ErrAddress, third(HoleGPA-8, 16, write, 0)),
		after("H008 range covers a hole", virtq.ErrAddress, third(AdjacentGPA, 2*RegionSize, write, 0)),
		{
			Name: "H015 indirect not negotiated", Err: virtq.ErrNoIndirect, NoIndirect: true, Readable: Request, Writable: ReplyRoom,
			Write: third(tableGPA, 16, indirect, 0),
		},
	}
}

// badTables are chains with something wrong about an indirect table.
func badTables() []Case {
	after := func(name string, err virtq.ChainError, addr guestmem.GPA, n uint32, flags uint16) Case {
		return Case{Name: name, Write: third(addr, n, flags, 3), Err: err, Readable: Request, Writable: ReplyRoom}
	}
	// in is a case with a table of n entries as its only descriptor.
	in := func(name string, err virtq.ChainError, n int, put func(table []byte)) Case {
		return Case{Name: name, Err: err, Write: func(r *Ring) {
			put(r.Bytes(tableGPA, n*16))
			only(tableGPA, uint32(n*16), indirect, 0)(r)
		}}
	}
	return []Case{
		after("H014 table length 24", virtq.ErrTable, tableGPA, 24, indirect),
		after("H014 table length 0", virtq.ErrTable, tableGPA, 0, indirect),
		after("H014 table length 15", virtq.ErrTable, tableGPA, 15, indirect),
		after("H014 table of 32769 entries", virtq.ErrTable, tableGPA, 32769*16, indirect),
		after("H014 table length 4 GiB-16", virtq.ErrTable, tableGPA, math.MaxUint32-15, indirect),
		after("H014 indirect and next", virtq.ErrMixed, tableGPA, 16, indirect|next),
		after("H014 table outside memory", virtq.ErrAddress, HoleGPA, 16, indirect),
		after("H014 table crosses a hole", virtq.ErrAddress, HoleGPA-16, 32, indirect),
		after("H014 table address wraps", virtq.ErrAddress, math.MaxUint64-15, 32, indirect),
		in("H014 nested table", virtq.ErrNested, 2, func(b []byte) {
			PutDesc(b, 0, tableGPA, 32, indirect, 0)
		}),
		in("H002 loop in a table", virtq.ErrLong, 2, func(b []byte) {
			PutDesc(b, 0, 0, 0, next, 1)
			PutDesc(b, 1, 0, 0, next, 0)
		}),
		in("H004 next outside the table", virtq.ErrNext, 2, func(b []byte) {
			PutDesc(b, 0, 0, 0, next, 2)
		}),
		{Name: "sum of lengths is 4 GiB", Err: virtq.ErrLength, Readable: (2048 - 1) * 2 * RegionSize, Write: func(r *Ring) {
			b := r.Bytes(tableGPA, 2049*16)
			for i := range 2049 {
				PutDesc(b, i, DataGPA, 2*RegionSize, next, uint16(i+1))
			}
			only(tableGPA, 2049*16, indirect, 0)(r)
		}},
	}
}

// oddChains look suspicious but are to be served: the specification allows them, or
// tells devices to be lenient.
func oddChains() []Case {
	served := func(name string, write func(r *Ring)) Case {
		return Case{Name: name, Write: write, Readable: Request, Writable: ReplyRoom}
	}
	return []Case{
		served("H007 request spans adjacent regions", func(r *Ring) {
			half := len(r.Request) / 2
			at := AdjacentGPA - guestmem.GPA(half)
			copy(r.Bytes(at, half), r.Request)
			copy(r.Bytes(AdjacentGPA, len(r.Request)-half), r.Request[half:])
			r.SetDesc(0, at, uint32(len(r.Request)), next, 1)
			r.PutReply(1, 0, 0)
			r.Offer(0)
		}),
		served("H009 empty descriptors anywhere", func(r *Ring) {
			r.SetDesc(0, HoleGPA, 0, next, 1)
			r.PutRequest(1, next, 2)
			r.SetDesc(2, math.MaxUint64, 0, next|write, 3)
			r.SetDesc(3, 0, 0, next, 4)
			r.PutReply(4, 0, 0)
			r.Offer(0)
		}),
		{Name: "H010 chain of length 0", Write: only(RequestGPA, 0, 0, 0)},
		{Name: "H010 unwritten descriptor", Write: func(r *Ring) {
			clear(r.Desc[:16])
			r.Offer(0)
		}},
		served("unknown flags", func(r *Ring) {
			r.PutRequest(0, 0xfff8|next, 1)
			r.PutReply(1, 0xfff8, 0)
			r.Offer(0)
		}),
		served("table at the end of a chain, marked writable", func(r *Ring) {
			b := r.Bytes(tableGPA, 16)
			PutDesc(b, 0, ReplyGPA, ReplyRoom, write, 0)
			r.PutRequest(0, next, 1)
			r.SetDesc(1, tableGPA, 16, indirect|write, 0)
			r.Offer(0)
		}),
		served("table that spans adjacent regions", func(r *Ring) {
			r.PutRequest(0, next, 1)
			r.SetDesc(1, AdjacentGPA-16, 32, indirect, 0)
			PutDesc(r.Bytes(AdjacentGPA-16, 16), 0, ReplyGPA, 16, next|write, 1)
			PutDesc(r.Bytes(AdjacentGPA, 16), 0, ReplyGPA+16, ReplyRoom-16, write, 0)
			r.Offer(0)
		}),
		served("table within the reply", func(r *Ring) {
			PutDesc(r.Reply(), 0, ReplyGPA, ReplyRoom, write, 0)
			r.PutRequest(0, next, 1)
			r.SetDesc(1, ReplyGPA, 16, indirect, 0)
			r.Offer(0)
		}),
		{Name: "request and reply are the same memory", Readable: Request, Writable: Request, Write: func(r *Ring) {
			r.PutRequest(0, next, 1)
			r.SetDesc(1, RequestGPA, uint32(len(r.Request)), write, 0)
			r.Offer(0)
		}},
		{Name: "reply of overlapping segments", Readable: Request, Writable: 3 * 64, Write: func(r *Ring) {
			r.PutRequest(0, next, 1)
			r.SetDesc(1, ReplyGPA, 64, next|write, 2)
			r.SetDesc(2, ReplyGPA+8, 64, next|write, 3)
			r.SetDesc(3, ReplyGPA, 64, write, 0)
			r.Offer(0)
		}},
		{Name: "table of 32768 one-byte replies", Readable: Request, Writable: 32768, Write: func(r *Ring) {
			b := r.Bytes(tableGPA, 32768*16)
			for i := range 32768 {
				flags := uint16(next | write)
				if i == 32767 {
					flags = write
				}
				// Backwards, so that no two become one segment.
				PutDesc(b, i, ReplyGPA+guestmem.GPA(32767-i), 1, flags, uint16(i+1))
			}
			r.PutRequest(0, next, 1)
			r.SetDesc(1, tableGPA, 32768*16, indirect, 0)
			r.Offer(0)
		}},
	}
}
