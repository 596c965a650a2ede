package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"vfiofs/fuse"
	"vfiofs/internal/fsclient"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtq"
)

// Sizes in a lane's memory, in bytes.
const (
	inHeader  = 40
	outHeader = 16
	pageSize  = 4096
	maxData   = 1 << 20 // most payload of one request
	tableSize = 2 * pageSize
	// A lane is a page for the request, one for the reply, room for the descriptor table,
	// and pages for payload, of which every second is used: see newLane.
	laneSize = 2*pageSize + tableSize + 2*maxData
)

// le is the byte order of requests.
var le = binary.LittleEndian

// A lane is one request at a time: the steps of an operation one after the other, and
// then the next operation. Its memory is guest memory.
type lane struct {
	id     int // among the lanes of the case
	lanes  int // how many there are
	ring   int // the request ring it uses
	random *rand.Rand

	in, out     []byte // the request; the reply without payload
	inAt, outAt guestmem.GPA
	pages       []page // payload

	slot  fsclient.Slot  // names the lane while a ring has its request
	chain fsclient.Chain // the request in hand

	steps   []step
	step    int
	count   int   // operations begun
	errno   int32 // of the reply in hand
	length  int   // of the reply in hand, header included
	unique  uint64
	started time.Duration

	// What a step leaves for the next ones.
	node   fuse.NodeID
	handle fuse.Handle
	offset uint64
	index  int // of the file in use
}

// A page is a piece of payload.
type page struct {
	mem []byte
	at  guestmem.GPA
}

// A step is one request of an operation. fill writes it, check looks at the reply.
type step struct {
	fill  func(*lane)
	check func(*lane) (again bool, err error) // may be nil
	errno syscall.Errno                       // the right answer
}

// newLane makes a lane in mem, laneSize bytes at address at. Payload goes to every
// second page, so that no two are neighbours: in a guest that has run for a while they
// aren't either, and a server can't merge their descriptors.
func newLane(mem []byte, at guestmem.GPA) *lane {
	ln := &lane{
		in: mem[:pageSize], inAt: at,
		out: mem[pageSize : 2*pageSize], outAt: at + pageSize,
		chain: fsclient.Chain{
			Read:  make([]virtq.Seg, 0, 2+maxData/pageSize),
			Write: make([]virtq.Seg, 0, 2+maxData/pageSize),
			Table: mem[2*pageSize : 2*pageSize+tableSize], TableAt: at + 2*pageSize,
		},
	}
	for off := 2*pageSize + tableSize; off < laneSize; off += 2 * pageSize {
		ln.pages = append(ln.pages, page{mem[off : off+pageSize], at + guestmem.GPA(off)})
	}
	return ln
}

// lineUp numbers the lanes of a case. Each chooses at random as it did in any other case
// and at any other backend.
func lineUp(lanes []*lane) {
	for i, ln := range lanes {
		ln.id, ln.lanes, ln.count = i, len(lanes), 0
		ln.random = rand.New(rand.NewPCG(1, uint64(i)))
	}
}

// begin starts a request with args bytes of arguments and room for a reply of reply
// bytes beside the headers. Header and arguments have a descriptor each, as with Linux.
func (ln *lane) begin(op fuse.Opcode, node fuse.NodeID, args, reply int) {
	ln.quiet(op, node, args)
	ln.chain.Write = append(ln.chain.Write, virtq.Seg{Addr: ln.outAt, Len: outHeader})
	if reply > 0 {
		ln.chain.Write = append(ln.chain.Write, virtq.Seg{Addr: ln.outAt + outHeader, Len: uint32(reply)})
	}
}

// quiet is begin for a request that has no reply.
func (ln *lane) quiet(op fuse.Opcode, node fuse.NodeID, args int) {
	ln.unique += 2
	le.PutUint32(ln.in, uint32(inHeader+args))
	le.PutUint32(ln.in[4:], uint32(op))
	le.PutUint64(ln.in[8:], ln.unique)
	le.PutUint64(ln.in[16:], uint64(node))
	ln.chain.Read = append(ln.chain.Read[:0], virtq.Seg{Addr: ln.inAt, Len: inHeader})
	if args > 0 {
		ln.chain.Read = append(ln.chain.Read, virtq.Seg{Addr: ln.inAt + inHeader, Len: uint32(args)})
	}
	ln.chain.Write = ln.chain.Write[:0]
}

// args is where the arguments of the request in hand go.
func (ln *lane) args() []byte { return ln.in[inHeader:] }

// body is what the reply in hand holds behind its header.
func (ln *lane) body() []byte { return ln.out[outHeader:] }

// send adds n bytes of payload to the request, and take to the room for the reply.
func (ln *lane) send(n int) {
	le.PutUint32(ln.in, le.Uint32(ln.in)+uint32(n))
	ln.chain.Read = ln.payload(ln.chain.Read, n)
}

func (ln *lane) take(n int) { ln.chain.Write = ln.payload(ln.chain.Write, n) }

func (ln *lane) payload(segs []virtq.Seg, n int) []virtq.Seg {
	for i := 0; n > 0; i++ {
		m := min(n, pageSize)
		segs = append(segs, virtq.Seg{Addr: ln.pages[i].at, Len: uint32(m)})
		n -= m
	}
	return segs
}

// caller sets who asks.
func (ln *lane) caller(uid, gid, pid int) {
	le.PutUint32(ln.in[24:], uint32(uid))
	le.PutUint32(ln.in[28:], uint32(gid))
	le.PutUint32(ln.in[32:], uint32(pid))
}

// name writes a name with six digits and a NUL at the start of b, and returns its
// length.
func name(b []byte, prefix byte, n int) int {
	b[0] = prefix
	for i := nameLen - 1; i > 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	b[nameLen] = 0
	return nameLen + 1
}

// nameLen is the length of such a name without its NUL.
const nameLen = 7

// nameOf is name as a string.
func nameOf(prefix byte, n int) string { return fmt.Sprintf("%c%06d", prefix, n) }

// next returns a number from 0 to n-1 that no other lane gets at the same time.
func (ln *lane) next(n int) int { return (ln.id + ln.count*ln.lanes) % n }

// finish checks the frame of a reply of n bytes to the request in hand. An error means
// that the backend can't be measured.
func (ln *lane) finish(n int) error {
	ln.length, ln.errno = n, 0
	if len(ln.chain.Write) == 0 {
		if n != 0 {
			return fmt.Errorf("%v was answered with %d bytes; it has no reply", ln.opcode(), n)
		}
		return nil
	}
	if n < outHeader {
		return fmt.Errorf("%v was answered with %d bytes; a reply has %d at least", ln.opcode(), n, outHeader)
	}
	size, errno, unique := le.Uint32(ln.out), int32(le.Uint32(ln.out[4:])), le.Uint64(ln.out[8:])
	if int(size) != n || unique != ln.unique || errno > 0 || errno < -4095 {
		return fmt.Errorf("%v was answered with %d bytes, by a header that says length %d, error %d, unique %d; want unique %d",
			ln.opcode(), n, size, errno, unique, ln.unique)
	}
	ln.errno = -errno
	return nil
}

// opcode returns that of the request in hand.
func (ln *lane) opcode() fuse.Opcode { return fuse.Opcode(le.Uint32(ln.in[4:])) }

// judge looks at the reply that finish has taken, and moves to the next step. done is
// set when the operation is complete; failed when the answer was the wrong errno, which
// ends the operation too.
func (ln *lane) judge() (done, failed bool, err error) {
	s := &ln.steps[ln.step]
	if syscall.Errno(ln.errno) != s.errno {
		ln.step = 0
		return false, true, nil
	}
	if s.check != nil {
		again, err := s.check(ln)
		if err != nil {
			return false, false, fmt.Errorf("%v: %w", ln.opcode(), err)
		}
		if again {
			return false, false, nil
		}
	}
	if ln.step++; ln.step < len(ln.steps) {
		return false, false, nil
	}
	ln.step = 0
	return true, false, nil
}
