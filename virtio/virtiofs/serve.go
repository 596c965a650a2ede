package virtiofs

// The life of a request, in the order of the functions below and in loop.go:
//
//	1. run       the loop's thread wakes up because a kick, a command or a finished
//	             request waits for it
//	2. take      takes a few chains off a ring (virtq.Next: descriptors are copied and
//	             checked there)
//	3. serve     fuse.Thread.Serve copies the header and arguments, runs the operation
//	             with payload going straight between page cache and guest memory, and
//	             writes the reply
//	4. hand over an operation that may block goes to a worker (pool.go), which serves it
//	             and leaves it in loop.finished; a large one may leave, too (help.go)
//	   park      an operation that waits for a lock stays with the loop (park.go) until
//	             the file system leaves it in loop.finished; then it is served again
//	5. complete  virtq.Done publishes the used element at once
//	6. signal    the driver is called if it wants to be, see signalAfter
//
// Invariant: every chain taken by Next is given to Done exactly once, unless its
// ring broke.

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	"vfiofs/fuse"
	"vfiofs/virtio"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtq"
)

const (
	// signalAfter is how many completions share a call, as long as so many requests wait
	// that the driver has to wait anyway. The completion of one of the last requests is
	// told at once: a driver that sleeps meanwhile could have given us the next.
	signalAfter = 8
	// batch is how many requests are taken off a ring at once.
	batch = 8
	// turn is how many requests one ring gets before the loop looks elsewhere.
	turn = 64
	// maxHandedOver bounds the requests of one loop that are with workers; the ring
	// waits when it is reached.
	maxHandedOver = 128
)

// A request is one chain and what the FUSE server knows of it.
type request struct {
	fuse.Request
	chain virtq.Chain
	ring  *ring
	place int // where in the batch it was taken with
	used  int // bytes of the reply

	wake   func() // see park.go
	parked bool   // waits for a lock, in the loop's list of those
	woken  bool   // waited, and is to be served again
	at     int    // where in that list
}

// A ring is one virtqueue in a loop's care. Everything but the loop's thread keeps
// its hands off.
type ring struct {
	virtio.Ring
	n           int
	served      uint64        // requests taken
	away        int           // requests that are with workers or parked
	parked      int           // of them, those that wait for a lock
	unsignalled int           // completions since the driver was last asked whether it wants a call
	stopped     chan struct{} // not nil: being stopped; closed once nothing is left
	broken      bool          // not to be touched any more
}

// drain serves what waits on r and reports whether there was anything.
func (l *loop) drain(r *ring) (busy bool) {
	defer l.contain(r)
	r.Queue.Disarm()
	for left := turn; left > 0 && l.away < maxHandedOver; {
		n, err := l.take(r)
		l.serveBatch(r, n)
		if err != nil {
			l.fail(r, err)
		}
		if n == 0 || err != nil {
			return busy || err != nil
		}
		busy = true
		left -= n
		l.breathe()
	}
	return busy
}

// take fills batch with the next n requests of r. What the driver has written is still
// with its processor; to take several requests at once has the waiting for it overlap.
func (l *loop) take(r *ring) (n int, err error) {
	if r.Queue.Ahead(batch) == 0 {
		return 0, nil
	}
	for ; n < len(l.batch); n++ {
		req := l.batch[n]
		ok, err := r.Queue.Next(&req.chain)
		if !ok {
			return n, err
		}
		guestmem.Prefetch(&req.chain.Read, &req.chain.Write)
		req.ring, req.place = r, n
		req.In, req.Out, req.Bad = req.chain.Read, req.chain.Write, req.chain.Err
		r.served++
	}
	return n, nil
}

// serveBatch serves the n requests of r that take took.
func (l *loop) serveBatch(r *ring, n int) {
	l.thread.Begin()
	defer l.thread.End()
	rest := n + r.Queue.Waiting()
	for _, req := range l.batch[:n] {
		rest--
		if l.lend(req, rest) {
			continue
		}
		l.serve(req)
		if l.helper.req != nil && l.noticed.Load() {
			l.collect()
		}
		if rest < signalAfter || r.unsignalled >= signalAfter {
			l.signal(r)
		}
	}
}

// serve carries req out, or sees to it that somebody does.
func (l *loop) serve(req *request) {
	req.Wake = l.wakeFor(req)
	used, out := l.thread.Serve(&req.Request, false)
	switch out {
	case fuse.Done:
		req.used = used
		l.complete(req)
	case fuse.Blocks:
		l.handOver(req)
	case fuse.Parked:
		l.park(req)
	}
}

// handOver gives req to the workers.
func (l *loop) handOver(req *request) {
	l.away++
	l.part(req)
	l.pool.submit(job{req, l})
}

// part counts req, which is spare no longer, as away, and finds the loop another
// request to fill.
func (l *loop) part(req *request) {
	req.ring.away++
	if n := len(l.free); n > 0 {
		l.batch[req.place], l.free = l.free[n-1], l.free[:n-1]
	} else {
		l.batch[req.place] = new(request)
	}
}

// takeBack completes a request that a worker has finished, or whose wait is over.
func (l *loop) takeBack(req *request) {
	r := req.ring
	r.away--
	if req.parked {
		l.unpark(req)
	} else {
		l.away--
	}
	if req == l.helper.req {
		l.helper.req = nil
	}
	if !r.broken {
		l.completeAway(req)
	}
	req.Reset()
	req.ring, req.woken = nil, false
	if len(l.free) < maxHandedOver {
		l.free = append(l.free, req)
	}
}

func (l *loop) completeAway(req *request) {
	defer l.contain(req.ring)
	if req.woken {
		req.used, _ = l.thread.Serve(&req.Request, false)
	}
	l.complete(req)
	l.signal(req.ring)
}

// complete returns req's chain to the driver.
func (l *loop) complete(req *request) {
	r := req.ring
	// An error reply is 16 bytes long, but payload may have been written before.
	req.chain.Dirty = req.used <= errorReply
	r.Queue.Done(&req.chain, req.used)
	r.unsignalled++
}

// errorReply is the length of a reply without payload: fuse_out_header.
const errorReply = 16

// signal calls the driver if completions since the last signal make it want that.
func (l *loop) signal(r *ring) {
	if r.unsignalled == 0 {
		return
	}
	r.unsignalled = 0
	if !r.Queue.NeedCall() {
		return
	}
	if err := r.Call.Notify(); err != nil {
		l.warn("cannot call the driver", r, err)
	}
}

// contain ends a panic: guest memory that vanished under us, or a bug of ours,
// costs the ring and nothing else.
func (l *loop) contain(r *ring) {
	switch p := recover().(type) {
	case nil:
	case interface {
		runtime.Error
		Addr() uintptr
	}:
		l.fail(r, fmt.Errorf("guest memory is gone at address %#x: was its file truncated?", p.Addr()))
	default:
		l.log.Error("panic while serving a ring", "ring", r.n, "panic", p, "stack", string(debug.Stack()))
		l.fail(r, errPanic)
	}
}

var errPanic = errors.New("internal error, see the log")

// fail declares r broken: it is left alone until it is stopped. The transport logs it.
func (l *loop) fail(r *ring, err error) {
	r.broken = true
	r.Fail(err)
}

func (l *loop) warn(msg string, r *ring, err error) {
	l.log.Warn(msg, "ring", r.n, "err", err)
}
