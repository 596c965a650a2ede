package virtiofs

import (
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/fd"
)

// A job is one request on its way through the workers, and the loop it belongs to.
type job struct {
	req  *request
	loop *loop
}

// A pool is the threads on which operations may block, shared by all loops. The first
// starts at once, to show that it can; the others when they are needed.
//
// Jobs wait in a queue with a lock and not in a channel: between threads that are locked
// to their goroutines, a channel goes through Go's scheduler twice, and takes several
// times as long as to wake a thread. The eventfd is a semaphore; it counts the workers
// that are to wake up.
type pool struct {
	server *fuse.Server
	log    *slog.Logger
	wake   *fd.FD
	wg     sync.WaitGroup

	mu     sync.Mutex
	left   int   // workers that may still be started
	jobs   []job // those from first on wait
	first  int
	asleep int // workers that wait for wake, or will in a moment, and were not woken yet
	ended  bool
}

// newPool makes a pool of up to n workers.
func newPool(server *fuse.Server, n int, log *slog.Logger) (*pool, error) {
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_SEMAPHORE)
	if err != nil {
		return nil, fmt.Errorf("eventfd of the workers: %w", err)
	}
	p := &pool{server: server, log: log, wake: fd.New(event, "workers' wake-up"), left: n - 1}
	if err := p.start(); err != nil {
		p.close()
		return nil, fmt.Errorf("start a worker thread: %w", err)
	}
	return p, nil
}

// start starts a worker, and waits until it works.
func (p *pool) start() error {
	ready := make(chan error)
	p.wg.Go(func() { p.work(ready) })
	return <-ready
}

// startMore starts a worker because all others are busy.
func (p *pool) startMore() {
	ready := make(chan error, 1)
	p.wg.Go(func() {
		p.work(ready)
		if err := <-ready; err != nil {
			p.log.Error("cannot start a worker thread; the others go on", "err", err)
		}
	})
}

// submit queues j. It does not block; loops bound what they have handed over.
func (p *pool) submit(j job) {
	p.mu.Lock()
	if len(p.jobs) == cap(p.jobs) && p.first > len(p.jobs)/2 { // use the room of those that were taken
		p.jobs, p.first = p.jobs[:copy(p.jobs, p.jobs[p.first:])], 0
	}
	p.jobs = append(p.jobs, j)
	wake, more := p.asleep > 0, false
	switch {
	case wake:
		p.asleep--
	case p.left > 0:
		p.left--
		more = true
	}
	p.mu.Unlock()
	switch {
	case wake:
		p.wake.Signal()
	case more:
		p.startMore()
	}
}

// next waits for a job; ok is false when there will be none.
func (p *pool) next() (j job, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.first == len(p.jobs) {
		if p.ended {
			return job{}, false
		}
		p.asleep++
		p.mu.Unlock()
		p.sleep()
		p.mu.Lock()
	}
	j = p.jobs[p.first]
	p.first++
	return j, true
}

// sleep waits until this worker, or another in its place, is woken.
func (p *pool) sleep() {
	var b [8]byte
	for {
		if _, err := unix.Read(p.wake.Int(), b[:]); err != unix.EINTR {
			return
		}
	}
}

// close ends the workers. No loop may submit any more.
func (p *pool) close() {
	p.mu.Lock()
	p.ended = true
	for ; p.asleep > 0; p.asleep-- {
		p.wake.Signal()
	}
	p.mu.Unlock()
	p.wg.Wait()
	p.wake.Close()
}

// work is one worker: a locked thread, because requests may change its credentials.
func (p *pool) work(ready chan<- error) {
	runtime.LockOSThread()
	debug.SetPanicOnFault(true)
	thread, err := p.server.NewThread()
	ready <- err
	if err != nil {
		return
	}
	defer thread.Close()
	for {
		j, ok := p.next()
		if !ok {
			return
		}
		p.serve(thread, j)
		j.loop.finish(j.req)
	}
}

// serve runs one request to its end. When guest memory has vanished there is nobody
// to answer; the loop will find the ring broken by itself.
func (p *pool) serve(thread *fuse.Thread, j job) {
	j.req.used = 0
	defer func() {
		if e := recover(); e != nil {
			p.log.Error("request was lost", "panic", e, "stack", string(debug.Stack()))
		}
	}()
	j.req.Wake = nil // nothing is parked from here: SETLKW has been served by the loop
	j.req.used, _ = thread.Serve(&j.req.Request, true)
}
