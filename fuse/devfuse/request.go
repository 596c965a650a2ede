package devfuse

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"vfiofs/fuse"
	"vfiofs/internal/fsclient"
)

// le is the byte order of requests, on the hosts that this runs on.
var le = binary.LittleEndian

const (
	inHeaderSize = 40  // struct fuse_in_header
	maxErrno     = 511 // the largest that the kernel takes (linux fs/fuse/dev.c: fuse_dev_do_write)
)

// A request is what the kernel said about the request in a slot. It is noted before
// the backend gets the slot, which it may change.
type request struct {
	op     fuse.Opcode
	unique uint64
	head   [fsclient.OutHead]byte // of its reply
	parts  [2][]byte              // of its reply: head and payload
}

// parse reads the header of a request.
func parse(in []byte) (request, error) {
	if len(in) < inHeaderSize || int(le.Uint32(in)) != len(in) {
		return request{}, fmt.Errorf("%s: the kernel's request has %d bytes and says otherwise", devicePath, len(in))
	}
	return request{op: fuse.Opcode(le.Uint32(in[4:])), unique: le.Uint64(in[8:])}, nil
}

// putHeader makes a request without arguments.
func putHeader(in []byte, op fuse.Opcode) {
	clear(in[:inHeaderSize])
	le.PutUint32(in, inHeaderSize)
	le.PutUint32(in[4:], uint32(op))
	le.PutUint64(in[8:], 1<<62)
}

// quiet reports whether the request has no reply.
func (r *request) quiet() bool {
	return r.op == fuse.OpForget || r.op == fuse.OpBatchForget || r.op == fuse.OpInterrupt
}

// check judges the header of the reply, n bytes long altogether, that was copied to
// r.head. It returns the errno in it; ok is false if the kernel would not take it, or
// would take it for another request's or for a notification.
func (r *request) check(n int) (errno syscall.Errno, ok bool) {
	h := r.head[:]
	if n < len(h) || int(le.Uint32(h)) != n || le.Uint64(h[8:]) != r.unique {
		return 0, false
	}
	e := -int32(le.Uint32(h[4:]))
	if e < 0 || e > maxErrno || (e != 0 && n != len(h)) {
		return 0, false
	}
	return syscall.Errno(e), true
}

// fail makes the header of the reply one that says EIO.
func (r *request) fail() {
	h := r.head[:]
	errno := -int32(syscall.EIO)
	le.PutUint32(h, uint32(len(h)))
	le.PutUint32(h[4:], uint32(errno))
	le.PutUint64(h[8:], r.unique)
}
