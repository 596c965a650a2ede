package bench

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/fsclient"
)

const (
	// disarmEvery is how often a client that polls repeats that it wants no calls: with
	// event indices, that holds for 32768 completions.
	disarmEvery = 8192
	// lookEvery is how often a client that polls looks at the clock while nothing comes.
	lookEvery = 1 << 14
)

// An engine drives the lanes of one case at one backend. It is the guest's processor:
// one thread for all rings.
type engine struct {
	s     *session
	lanes []*lane
	rings []*fsclient.Ring // hiprio and the request rings in use
	added []bool           // by ring: something was submitted since the last Publish
	plan  *plan
	event bool // sleep until called, rather than poll

	epoll *fd.FD
	waits [8]unix.EpollEvent
	calls int // completions since the last Disarm

	clock time.Time     // times are since here
	until time.Duration // no operation is begun after this
	live  int           // lanes with a request in flight
	counts
}

// counts is what one run of an engine has counted.
type counts struct {
	done   int // operations
	failed int // operations that ended in an errno which isn't right
	errno  unix.Errno
	took   time.Duration
	times  histogram
}

// start begins to count anew, for a run of length d.
func (c *counts) start(d time.Duration) {
	c.done, c.failed, c.errno, c.took = 0, 0, 0, d
	c.times.reset()
}

// count counts an operation of a run that has taken took.
func (c *counts) count(took, operation time.Duration) {
	c.done++
	c.took = took
	c.times.add(operation)
}

// newEngine makes an engine for a case. Close it after use.
func newEngine(s *session, c Case, p *plan) (*engine, error) {
	lanes, err := s.start(c.Depth, c.Queues, p)
	if err != nil {
		return nil, err
	}
	e := &engine{
		s: s, lanes: lanes, rings: s.rings[:1+c.Queues], added: make([]bool, 1+c.Queues),
		plan: p, event: c.Client == Event,
	}
	n, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	e.epoll = fd.New(n, "client epoll")
	watch := func(n int, events uint32) {
		if err == nil {
			err = unix.EpollCtl(e.epoll.Int(), unix.EPOLL_CTL_ADD, n, &unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(n)})
		}
	}
	for _, r := range e.rings {
		watch(r.Call(), unix.EPOLLIN)
	}
	watch(s.client.HangUp(), unix.EPOLLRDHUP)
	if err != nil {
		e.close()
		return nil, fmt.Errorf("wait for calls: %w", err)
	}
	return e, nil
}

func (e *engine) close() { e.epoll.Close() }

// finish ends the plan.
func (e *engine) finish() error {
	if e.plan.finish == nil {
		return nil
	}
	return e.plan.finish()
}

// run drives the lanes for a while and counts.
func (e *engine) run(d time.Duration) (*counts, error) { return &e.counts, e.drive(d) }

// drive is run. Operations that are in hand at the end are completed, but not counted,
// unless none was complete before. The calling goroutine is locked to its thread, and
// nothing is allocated.
func (e *engine) drive(d time.Duration) error {
	e.counts.start(d)
	for _, r := range e.rings {
		r.Disarm()
	}
	e.calls = 0
	e.clock, e.until, e.live = time.Now(), d, 0
	for _, ln := range e.lanes {
		if err := e.begin(ln, 0); err != nil {
			return err
		}
	}
	if err := e.publish(); err != nil {
		return err
	}
	for idle := 0; e.live > 0; {
		busy, err := e.reap()
		if err != nil {
			return err
		}
		switch {
		case busy:
			idle = 0
			if err := e.publish(); err != nil {
				return err
			}
		case e.event:
			if err := e.sleep(); err != nil {
				return err
			}
		default:
			if idle++; idle%lookEvery == 0 {
				if err := e.look(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// begin starts the next operation of ln.
func (e *engine) begin(ln *lane, now time.Duration) error {
	if e.plan.begin != nil {
		ln.steps = e.plan.begin(ln)
	}
	ln.started = now
	e.live++
	return e.submit(ln)
}

// submit puts the request of ln's step into its ring.
func (e *engine) submit(ln *lane) error {
	ln.steps[ln.step].fill(ln)
	i := ln.ring
	if len(ln.chain.Write) == 0 {
		i = 0
	}
	e.added[i] = true
	if e.rings[i].SubmitChain(&ln.slot, &ln.chain) {
		return nil
	}
	return firstError(e.rings[i].Err(), errors.New("the ring is full: lower the depth"))
}

// publish shows the backend what was submitted.
func (e *engine) publish() error {
	for i, r := range e.rings {
		if e.added[i] {
			e.added[i] = false
			if err := r.Publish(); err != nil {
				return err
			}
		}
	}
	return nil
}

// reap takes all that is complete, and submits what comes next.
func (e *engine) reap() (busy bool, err error) {
	var now time.Duration
	for _, r := range e.rings {
		for {
			slot, n, ok := r.Reap()
			if !ok {
				if err := r.Err(); err != nil {
					return false, err
				}
				break
			}
			if !busy {
				busy, now = true, time.Since(e.clock)
			}
			if err := e.completed(e.s.lanes[slot.ID], n, now); err != nil {
				return false, err
			}
		}
	}
	if e.calls >= disarmEvery && !e.event {
		e.calls = 0
		for _, r := range e.rings {
			r.Disarm()
		}
	}
	return busy, nil
}

// completed takes a reply of n bytes to ln's request.
func (e *engine) completed(ln *lane, n int, now time.Duration) error {
	e.calls++
	if err := ln.finish(n); err != nil {
		return err
	}
	done, failed, err := ln.judge()
	switch {
	case err != nil:
		return err
	case failed:
		e.failed++
		e.errno = unix.Errno(ln.errno)
	case !done:
		return e.submit(ln)
	case now <= e.until || e.done == 0:
		e.count(max(e.until, now), now-ln.started)
	}
	e.live--
	ln.count++
	if now < e.until {
		return e.begin(ln, now)
	}
	return nil
}

// sleep waits for a call, unless something is complete already.
func (e *engine) sleep() error {
	pending := false
	for _, r := range e.rings {
		if r.Arm() {
			pending = true
		}
	}
	if pending {
		return nil
	}
	n, err := unix.EpollWait(e.epoll.Int(), e.waits[:], int(patience/time.Millisecond))
	switch {
	case err == unix.EINTR:
		return nil
	case err != nil:
		return fmt.Errorf("wait for calls: %w", err)
	case n == 0:
		return e.stuck()
	}
	for _, w := range e.waits[:n] {
		if int(w.Fd) == e.s.client.HangUp() {
			return fsclient.ErrGone
		}
	}
	return nil
}

// look is what a client that polls does while it finds nothing.
func (e *engine) look() error {
	if e.s.client.Gone() {
		return fsclient.ErrGone
	}
	now := time.Since(e.clock)
	for _, ln := range e.lanes {
		if now-ln.started > patience && now-e.until > patience {
			return e.stuck()
		}
	}
	runtime.Gosched()
	return nil
}

func (e *engine) stuck() error {
	return fmt.Errorf("no answer in %v to %d requests: %w", patience, e.live, os.ErrDeadlineExceeded)
}
