package fuse

import (
	"bytes"
	"sync/atomic"
	"syscall"

	"vfiofs/virtio/guestmem"
)

const (
	inHeaderSize  = 40
	outHeaderSize = 16
	writeSize     = 40 // WriteIn; the payload of WRITE follows

	// maxRequest bounds InHeader.Len (fs-device.md C.3.4).
	maxRequest = inHeaderSize + writeSize + maxWrite + 4096

	// headCopy is what is copied at first: the header and most operations' arguments.
	headCopy = inHeaderSize + writeSize

	// A request's private copy starts with smallCopy bytes of room, and one that grew
	// beyond keepCopy is given up after the request.
	smallCopy = 512
	keepCopy  = 64 << 10
)

// A Request is one request on its way through a Server. The transport fills in the
// exported fields and calls Thread.Serve until it says that the request is done; then
// the Request may be used for the next one. The zero Request is ready for use.
type Request struct {
	// In and Out are the readable and writable bytes of the chain. They alias guest
	// memory, must not overlap, and stay valid until the request is done.
	In, Out guestmem.Vec
	// Bad says that the chain was malformed: the request isn't run but answered EIO if
	// In and Out hold a header each (fs-device.md C.2, "request error").
	Bad error
	// Wake is called, once and from any goroutine, when a parked request has its answer
	// and is to be served again, by any Thread. It must not block. A request without Wake
	// is never parked: its lock is refused with ENOLCK instead.
	Wake func()

	// The rest is what decode found out, from private memory only.
	decoded bool
	op      *operation
	head    InHeader
	verdict syscall.Errno // not 0: why the request is not run
	args    []byte        // arguments after the header, as far as they were copied
	names   [2][]byte     // strings after the fixed arguments, without NUL
	rest    []byte        // what follows the strings
	copy    []byte        // storage of the above

	woken bool          // was parked: wait has the answer by the time of the next Serve
	wait  atomic.Uint64 // see park.go
}

// Reset forgets a request that will not be served to its end.
func (r *Request) Reset() {
	r.decoded, r.woken = false, false
	r.op = nil
	r.args, r.rest, r.names = nil, nil, [2][]byte{}
	if cap(r.copy) > keepCopy {
		r.copy = nil
	}
}

// decode copies header and arguments out of guest memory and judges them, as far as
// that takes neither the state of the server nor the file system. Nothing of the
// request is read from guest memory after this, except the payload of WRITE.
func (r *Request) decode() {
	r.op = lookUp(opUnknown)
	r.head = InHeader{}
	r.verdict = r.check()
	r.decoded = true
}

// check is the order of tests of fs-device.md C.3.
func (r *Request) check() syscall.Errno {
	if r.In.Len() < inHeaderSize {
		return syscall.EIO
	}
	r.copy = r.room(headCopy)
	copied := r.In.CopyOut(r.copy[:min(headCopy, r.In.Len())], 0)
	r.head, _, _ = take[InHeader](r.copy)
	r.op = lookUp(r.head.Opcode)

	size := int(r.head.Len)
	switch {
	case r.Bad != nil:
		return syscall.EIO
	case r.head.Opcode == opInitSwapped:
		return syscall.EPROTO
	case size > maxRequest:
		return syscall.ENOMEM
	case size < inHeaderSize, size > r.In.Len():
		return syscall.EIO
	case size-inHeaderSize < r.op.body:
		return syscall.EINVAL
	case r.Out.Len() < outHeaderSize+r.op.reply && !r.op.is(quiet):
		return syscall.EIO
	}

	if !r.op.is(tail) && r.op.names == 0 {
		size = inHeaderSize + r.op.body
	}
	r.copy = r.room(size)
	r.args = r.copy[inHeaderSize:]
	if size > copied {
		r.In.CopyOut(r.copy[copied:], copied)
	}
	r.rest = r.args[r.op.body:]
	for i := range r.op.names {
		var ok bool
		if r.names[i], r.rest, ok = cutString(r.rest); !ok {
			return syscall.EINVAL
		}
	}
	return 0
}

// room returns the private copy with a length of n bytes; what it had is kept.
func (r *Request) room(n int) []byte {
	if cap(r.copy) >= n {
		return r.copy[:n]
	}
	grown := make([]byte, n, max(n, smallCopy, min(2*cap(r.copy), keepCopy)))
	copy(grown, r.copy)
	return grown
}

// payload returns the data of a WRITE, in guest memory.
func (r *Request) payload() guestmem.Vec {
	return r.In.Slice(inHeaderSize+writeSize, int(r.head.Len)-inHeaderSize-writeSize)
}

// space returns the number of bytes a reply may have after its header.
func (r *Request) space() int { return r.Out.Len() - outHeaderSize }

// put stores a wire structure after the reply's header and returns its size.
func put[T any](r *Request, v *T) int { return r.put(bytesOf(v)) }

func (r *Request) put(b []byte) int { return r.Out.CopyIn(b, outHeaderSize) }

// cutString splits b after its first NUL, which belongs to neither part.
func cutString(b []byte) (s, rest []byte, ok bool) {
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return nil, nil, false
	}
	return b[:i], b[i+1:], true
}
