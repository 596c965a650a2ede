package virtiofs

// The life of a request, in the order of the functions below and in loop.go:
//
//	1. run       the loop's thread wakes up because a kick, a command or a finished
//	             request waits for it
//	2. drain     takes one chain after the other off a ring (virtq.Next: descriptors
//	             are copied and checked there)
//	3. serve     fuse.Thread.Serve copies the header and arguments, runs the operation
//	             with payload going straight between page cache and guest memory, and
//	             writes the reply
//	4. hand over an operation that may block goes to a worker (pool.go), which serves it
//	             and leaves it in loop.finished
//	   park      an operation that waits for a lock stays with the loop (park.go) until
//	             the file system leaves it in loop.finished; then it is served again
//	5. complete  virtq.Done publishes the used element at once
//	6. signal    the driver is called once per batch, if it wants to be
//
// Invariant: every chain taken by Next is given to Done exactly once, unless its
// ring broke.

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"vfiofs/fuse"
	"vfiofs/virtio"
	"vfiofs/virtio/virtq"
)

const (
	// signalAfter and signalWithin bound how long a completion may wait for others to
	// share its call with (performance: one call per 8 to 16 completions or 20 µs).
	signalAfter  = 8
	signalWithin = 20 * time.Microsecond
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
	since       time.Duration // when the first of them was seen to wait for others
	stopped     chan struct{} // not nil: being stopped; closed once nothing is left
	broken      bool          // not to be touched any more
}

// drain serves what waits on r and reports whether there was anything.
func (l *loop) drain(r *ring) (busy bool) {
	defer l.contain(r)
	r.Queue.Disarm()
	for range turn {
		if l.away >= maxHandedOver {
			break
		}
		req := l.spare
		ok, err := r.Queue.Next(&req.chain)
		if err != nil {
			l.fail(r, err)
			return true
		}
		if !ok {
			break
		}
		busy = true
		r.served++
		req.ring = r
		req.In, req.Out, req.Bad = req.chain.Read, req.chain.Write, req.chain.Err
		req.Wake = l.wakeFor(req)
		used, out := l.thread.Serve(&req.Request, false)
		switch out {
		case fuse.Blocks:
			l.signal(r)
			l.handOver(req)
			continue
		case fuse.Parked:
			l.park(req)
			continue
		}
		req.used = used
		l.complete(req)
		if l.due(r) {
			l.signal(r)
		}
	}
	l.signal(r)
	return busy
}

// due reports whether the completions of r have waited long enough for others to share
// their call. If no request is left they don't wait, and drain is about to signal: then
// the clock, which costs more than all else here, isn't looked at.
func (l *loop) due(r *ring) bool {
	switch {
	case r.unsignalled >= signalAfter:
		return true
	case !r.Queue.Pending():
		return false
	}
	now := l.now()
	if r.unsignalled == 1 {
		r.since = now
	}
	return now-r.since > signalWithin
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
		l.spare, l.free = l.free[n-1], l.free[:n-1]
	} else {
		l.spare = new(request)
	}
}

// takeBack completes the requests that workers have finished, and those whose wait is
// over.
func (l *loop) takeBack(finished []*request) {
	for _, req := range finished {
		r := req.ring
		r.away--
		if req.parked {
			l.unpark(req)
		} else {
			l.away--
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
