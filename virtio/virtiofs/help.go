package virtiofs

import (
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// A ring has one thread, and copying a megabyte keeps it busy for 50 to 100 µs. When more
// requests wait behind a large one, a worker can serve that meanwhile:
//
//	take ──► large, others wait ──lend──► worker ──finish──► takeBack
//	     └─► the next one, inline
//
// Whether that is faster depends on who else needs the other processors, first of all the
// guest, so it is tried: a few requests alone, as many with help, and then a long time the
// way that took less. Nothing is tried when we may use one processor only. One request of a
// loop is lent at a time. Only what the device writes counts as large: writes to one file
// take turns in the host's kernel anyway.

const (
	// large is how many bytes of reply are worth waking a worker.
	large = 256 << 10
	// trial is how many large requests are served to find out how long they take.
	trial = 64
	// won is how many large requests are served after a trial that showed a gain, and lost
	// after one in vain. Each further one in vain doubles that, so many times at most: the
	// first may be chance, and the guest may be less busy in a second.
	won       = 4 << 10
	lost      = 512
	doublings = 2
	// few is how many requests have to be lent for a trial to mean anything.
	few = trial / 8
	// gain is the percentage of the time that has to be saved.
	gain = 5
)

// A helper decides whether a worker helps a loop.
type helper struct {
	others func() bool // there are other processors than ours
	req    *request    // what is lent; nil: nothing

	helps bool          // lend now
	phase phase         // what goes on
	left  int           // large requests until it ends
	vain  int           // the last trials that were in vain
	lent  int           // requests of phaseHelped that were lent
	began time.Duration // when the trial did
	alone time.Duration // how long phaseAlone took
}

type phase int

const (
	phaseRest phase = iota
	phaseAlone
	phaseHelped
)

func newHelper() helper { return helper{others: otherProcessors, left: 1} }

// otherProcessors reports whether there are more processors than one for us. Go counted
// them when we started; whoever pins a server does that later.
func otherProcessors() bool {
	if runtime.NumCPU() == 1 {
		return false
	}
	var set unix.CPUSet
	err := unix.SchedGetaffinity(os.Getpid(), &set)
	return err != nil || set.Count() > 1
}

// next begins the next phase, now.
func (h *helper) next(now time.Duration) {
	switch h.phase {
	case phaseRest:
		if h.helps = false; !h.others() {
			h.left = lost
			return
		}
		h.phase, h.left = phaseAlone, trial
	case phaseAlone:
		h.alone = now - h.began
		h.phase, h.left, h.helps, h.lent = phaseHelped, trial, true, 0
	case phaseHelped:
		h.helps = h.lent >= few && now-h.began < h.alone*(100-gain)/100
		switch h.phase = phaseRest; {
		case h.helps:
			h.left, h.vain = won, 0
		case h.lent < few:
			h.left = lost
		default:
			h.left = lost << min(h.vain, doublings)
			h.vain++
		}
	}
	h.began = now
}

// lend gives req, behind which others wait, to a worker if that helps, and reports whether
// it has.
func (l *loop) lend(req *request, others int) bool {
	h := &l.helper
	if req.Out.Len() < large {
		return false
	}
	if h.left--; h.left == 0 {
		h.next(l.now())
	}
	if !h.helps || h.req != nil || others == 0 || l.away >= maxHandedOver {
		return false
	}
	h.req = req
	h.lent++
	l.handOver(req)
	return true
}
