package virtiofs

import (
	"runtime"
	"time"
)

// To be woken costs 10 to 40 µs, more than most requests take. So a loop that ran out of
// work looks at its rings for a while before it sleeps, if that is likely to be worth it:
//
//	work done ──► look ──found──► serve            then look the next time, too
//	               │ in vain
//	               ▼
//	           sleep ──► woken: idle for how long?
//	                       short: look the next time     long: don't
//
// Looking never makes sense when the driver shares our processor, or someone else needs
// it. In the first case all looks are in vain, in the second a look is interrupted; after
// that, and after a few looks in vain in a row, looking is put off for a while. We don't
// yield to find out: Linux takes a whole slice off who yields (kernel/sched/fair.c:
// yield_task_fair), and then requests wait for milliseconds. A loop without work sleeps
// after one look, and an idle device uses no processor time.

// DefaultPoll is a good limit for Options.Poll: about what waking a thread costs.
const DefaultPoll = 50 * time.Microsecond

const (
	// looksPerTick is how often a look looks between two looks at the clock.
	looksPerTick = 8
	// crowded is what a step of a look takes only if somebody else has run meanwhile.
	crowded = 20 * time.Microsecond
	// maxMisses is how many looks in a row may be in vain before they are put off.
	maxMisses = 4
	// shortPause and longPause bound how long looks are put off. It doubles each time.
	shortPause = time.Millisecond
	longPause  = 256 * time.Millisecond
)

// A poller decides how long a loop looks for work before it sleeps. Times of day are
// since the loop was made.
type poller struct {
	limit  time.Duration // the longest look; 0: never look
	eager  bool          // the next look is worth it
	misses int           // looks in vain since the last success
	pause  time.Duration // how long looks were put off the last time
	until  time.Duration // looks are put off until then
	idle   time.Duration // when work ran out
}

// newPoller returns a poller that looks no longer than limit. With one processor the
// driver can't run while we look.
func newPoller(limit time.Duration) poller {
	if runtime.NumCPU() == 1 {
		limit = 0
	}
	return poller{limit: limit}
}

// found learns from a look that was not in vain.
func (p *poller) found() { p.misses, p.pause = 0, 0 }

// missed learns from a look in vain. Somebody else needed the processor if it was
// crowded.
func (p *poller) missed(now time.Duration, crowded bool) {
	if p.misses++; p.misses < maxMisses && !crowded {
		return
	}
	p.pause = min(max(2*p.pause, shortPause), longPause)
	p.until = now + p.pause
	p.eager = false
}

// woke learns from how long the loop was idle, looking and sleeping. Waking up is part
// of that, which is why twice the limit is still short.
func (p *poller) woke(now time.Duration) {
	p.eager = now >= p.until && now-p.idle <= 2*p.limit
}

// now returns the time since the loop was made. It is half as dear as time.Now.
func (l *loop) now() time.Duration { return time.Since(l.made) }

// look waits a little for something to do, without asking for kicks, and reports whether
// there is.
func (l *loop) look() (found bool) {
	p := &l.poll
	if p.limit == 0 {
		return false
	}
	if !p.eager {
		p.idle = l.clock
		return false
	}
	p.idle = l.now()
	for now := p.idle; ; {
		for range looksPerTick {
			if l.pending() {
				p.found()
				return true
			}
		}
		last := now
		switch now = l.now(); {
		case now-last > crowded:
			p.missed(now, true)
			return l.pending()
		case now-p.idle > p.limit:
			p.missed(now, false)
			return false
		}
	}
}

// pending reports whether there is something to do.
func (l *loop) pending() bool {
	if l.noticed.Load() {
		return true
	}
	if l.away >= maxHandedOver {
		return false
	}
	for _, r := range l.rings {
		if r.ready() && l.ringPending(r) {
			return true
		}
	}
	return false
}

// ringPending reports whether requests wait on r.
func (l *loop) ringPending(r *ring) bool {
	defer l.contain(r)
	return r.Queue.Pending()
}
