package virtiofs

import (
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/fd"
	"vfiofs/virtio"
)

// A loop is one OS thread that serves one request ring or several, and the hiprio ring if
// it is loop 0. The thread lives while there is a ring to serve.
type loop struct {
	index  int
	server *fuse.Server
	pool   *pool
	log    *slog.Logger
	wake   *fd.FD // signalled when commands or finished requests wait
	epoll  *fd.FD

	mu       sync.Mutex
	commands []func()
	finished []*request
	noticed  atomic.Bool // commands or finished is not empty
	asleep   atomic.Bool // the thread sleeps, or is about to: wake it by wake

	// These are of the goroutine that calls start and stop.
	live []int         // rings that were started and not stopped
	done chan struct{} // closed when the thread has ended; nil: no thread

	// The rest is the thread's own.
	quit     bool
	thread   *fuse.Thread
	rings    []*ring // hiprio first
	batch    [batch]*request
	free     []*request
	taken    []*request // storage that is swapped with finished
	away     int        // requests of all rings that are with workers
	parked   []*request // those that wait for a lock
	poll     poller
	helper   helper
	made     time.Time     // see now
	clock    time.Duration // now, when it was last looked at
	breathed time.Duration // see breathe
	events   [4]unix.EpollEvent
}

func newLoop(index int, server *fuse.Server, pool *pool, poll time.Duration, log *slog.Logger) (*loop, error) {
	l := &loop{index: index, server: server, pool: pool, log: log, poll: newPoller(poll), helper: newHelper(), made: time.Now()}
	for i := range l.batch {
		l.batch[i] = new(request)
	}
	var err error
	if l.wake, err = fd.NewEvent("loop wake-up"); err != nil {
		return nil, err
	}
	n, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		l.close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	l.epoll = fd.New(n, "loop epoll")
	if err := l.watch(l.wake.Int()); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// watch has the thread woken when eventfd n is written. Edge-triggered, so that the
// eventfd need not be read: its flags are shared with the peer (fs-device.md B.6).
func (l *loop) watch(n int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(n)}
	if err := unix.EpollCtl(l.epoll.Int(), unix.EPOLL_CTL_ADD, n, &ev); err != nil {
		return fmt.Errorf("wait for descriptor %d: %w", n, err)
	}
	return nil
}

func (l *loop) close() {
	l.epoll.Close()
	l.wake.Close()
}

// start begins to serve ring n. Called by the transport's goroutine, as is stop.
func (l *loop) start(n int, v virtio.Ring) error {
	if slices.Contains(l.live, n) {
		return fmt.Errorf("ring %d is running already", n)
	}
	if l.done == nil {
		ready, done := make(chan error), make(chan struct{})
		go l.run(ready, done)
		if err := <-ready; err != nil {
			return err
		}
		l.done = done
	}
	var err error
	l.do(func() { err = l.add(&ring{Ring: v, n: n}) })
	if err == nil {
		l.live = append(l.live, n)
	}
	l.endIfIdle()
	return err
}

// stop returns when ring n is out of use.
func (l *loop) stop(n int) {
	i := slices.Index(l.live, n)
	if i < 0 {
		return
	}
	stopped := make(chan struct{})
	l.do(func() {
		i := slices.IndexFunc(l.rings, func(r *ring) bool { return r.n == n })
		l.rings[i].stopped = stopped
		l.cancel(l.rings[i])
	})
	<-stopped
	l.live = slices.Delete(l.live, i, i+1)
	l.endIfIdle()
}

// endIfIdle ends the thread when there is no ring left for it to serve.
func (l *loop) endIfIdle() {
	if len(l.live) > 0 {
		return
	}
	l.do(func() { l.quit = true })
	<-l.done
	l.done = nil
}

// do has the loop's thread call f between two requests, and waits for that.
func (l *loop) do(f func()) {
	called := make(chan struct{})
	l.mu.Lock()
	l.commands = append(l.commands, func() { f(); close(called) })
	l.noticed.Store(true)
	l.mu.Unlock()
	l.rouse()
	<-called
}

// finish takes a request back: a worker has served it, or its wait is over.
func (l *loop) finish(req *request) {
	l.mu.Lock()
	l.finished = append(l.finished, req)
	l.noticed.Store(true)
	l.mu.Unlock()
	l.rouse()
}

// rouse wakes the thread if it sleeps. Whoever has set noticed calls it: either the
// thread sees that before it sleeps, or we see that it is asleep.
func (l *loop) rouse() {
	if l.asleep.Load() {
		l.wake.Signal()
	}
}

// run is the thread. What requests did to its OS thread (credentials, umask) ends
// with it, because it is never unlocked.
func (l *loop) run(ready chan<- error, done chan<- struct{}) {
	defer close(done)
	runtime.LockOSThread()
	debug.SetPanicOnFault(true)
	thread, err := l.server.NewThread()
	ready <- err
	if err != nil {
		return
	}
	defer thread.Close()
	l.thread = thread
	for l.quit = false; !l.quit; {
		if l.noticed.Load() {
			l.notices()
		}
		l.reap()
		busy := false
		for _, r := range l.rings {
			if r.ready() && l.drain(r) {
				busy = true
			}
		}
		if busy || l.quit || l.look() {
			continue
		}
		l.asleep.Store(true)
		if !l.arm() {
			l.sleep()
		}
		l.asleep.Store(false)
	}
}

// breath is how long a loop runs without the Go scheduler. After 10 ms its monitor would
// interrupt the loop, and then look 50 times, every 20 µs, whether that has helped: on a
// machine whose processors are all busy each look takes ours away from us
// (go runtime/proc.go: sysmon, retake).
const breath = 8 * time.Millisecond

// breathe looks at the clock, and lets the Go scheduler have the thread if it is time.
func (l *loop) breathe() {
	if l.clock = l.now(); l.clock-l.breathed > breath {
		runtime.Gosched()
		l.clock = l.now()
		l.breathed = l.clock
	}
}

// add puts r among the rings that are served.
func (l *loop) add(r *ring) error {
	if err := l.watch(r.Kick); err != nil {
		return err
	}
	if r.n == hiprio {
		l.rings = slices.Insert(l.rings, 0, r)
	} else {
		l.rings = append(l.rings, r)
	}
	return nil
}

// ready reports whether requests may be taken off r.
func (r *ring) ready() bool { return !r.broken && r.stopped == nil }

// notices looks at what other threads have left.
func (l *loop) notices() {
	l.collect()
	l.mu.Lock()
	l.noticed.Store(len(l.finished) > 0)
	commands := l.commands
	l.commands = nil
	l.mu.Unlock()
	for _, f := range commands {
		f()
	}
}

// collect takes back the requests that other threads have left.
func (l *loop) collect() {
	l.mu.Lock()
	l.noticed.Store(len(l.commands) > 0)
	l.taken, l.finished = l.finished, l.taken[:0]
	l.mu.Unlock()
	for _, req := range l.taken {
		l.takeBack(req)
	}
	clear(l.taken)
}

// reap lets go of the rings that are being stopped and have nothing left to finish.
func (l *loop) reap() {
	for i := 0; i < len(l.rings); i++ {
		r := l.rings[i]
		if r.stopped == nil || r.away > 0 {
			continue
		}
		if err := unix.EpollCtl(l.epoll.Int(), unix.EPOLL_CTL_DEL, r.Kick, nil); err != nil {
			l.warn("cannot let go of the kick eventfd", r, err)
		}
		l.log.Debug("ring stopped", "ring", r.n, "requests", r.served)
		l.rings = slices.Delete(l.rings, i, i+1)
		i--
		close(r.stopped)
	}
}

// arm asks all drivers for kicks and reports whether that came too late: something
// waits already, so the thread must not sleep.
func (l *loop) arm() (pending bool) {
	if l.noticed.Load() {
		return true
	}
	if l.away >= maxHandedOver {
		return false // nothing can be taken before a worker is done, and that wakes us
	}
	for _, r := range l.rings {
		if r.ready() && l.armRing(r) {
			pending = true
		}
	}
	return pending
}

func (l *loop) armRing(r *ring) bool {
	defer l.contain(r)
	return r.Queue.Arm()
}

// sleep waits for a kick or a notice. It looks at the events only to have woken up.
func (l *loop) sleep() {
	if _, err := unix.EpollWait(l.epoll.Int(), l.events[:], -1); err != nil && err != unix.EINTR {
		l.log.Error("cannot wait for kicks", "loop", l.index, "err", err)
	}
	if l.poll.limit > 0 {
		l.clock = l.now()
		l.poll.woke(l.clock)
	}
}
