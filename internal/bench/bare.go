package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/vhostuser"
)

// A bare is the backend that isn't there: the client itself reads and writes the file,
// in one thread, at the same places and with the same memory as it has for a server. It
// shows what the kernel leaves a server to reach.
type bare struct {
	dir   string
	mem   *vhostuser.GuestMemory
	lanes []*lane
}

// direct says how a workload is done without a server.
type direct struct {
	file  string // in the shared directory
	write bool
	size  int // bytes at once
	place func() func(*lane) uint64
}

// newBare makes memory for a number of lanes.
func newBare(dir string, lanes int) (*bare, error) {
	mem, err := vhostuser.NewGuestMemory(0, lanes*laneSize)
	if err != nil {
		return nil, err
	}
	b := &bare{dir: dir, mem: mem}
	for i := range lanes {
		b.lanes = append(b.lanes, newLane(mem.Mem[i*laneSize:][:laneSize], guestmem.GPA(i*laneSize)))
	}
	return b, nil
}

func (b *bare) close() error { return b.mem.Close() }

// ready prepares a case that has a direct way.
func (b *bare) ready(w workload, c Case) (stream, error) {
	flags := os.O_RDONLY
	if w.direct.write {
		flags = os.O_RDWR
	}
	f, err := os.OpenFile(filepath.Join(b.dir, w.direct.file), flags, 0)
	if err != nil {
		return nil, err
	}
	l := &bareLoop{file: f, fd: int(f.Fd()), write: w.direct.write, size: w.direct.size, place: w.direct.place()}
	l.lanes = b.lanes[:c.Depth*c.Queues]
	lineUp(l.lanes)
	for _, ln := range l.lanes {
		var v guestmem.Vec
		for rest, i := l.size, 0; rest > 0; rest, i = rest-pageSize, i+1 {
			v.Append(ln.pages[i].mem[:min(rest, pageSize)])
		}
		l.memory = append(l.memory, v)
	}
	return l, nil
}

// A bareLoop reads or writes one piece after the other; the lanes take turns.
type bareLoop struct {
	file   *os.File
	fd     int
	write  bool
	size   int
	place  func(*lane) uint64
	lanes  []*lane
	memory []guestmem.Vec // of each lane
	turn   int            // the lane that comes next
	counts
}

// run allocates nothing. An operation takes from the end of the one before to its own.
func (l *bareLoop) run(d time.Duration) (*counts, error) {
	l.counts.start(d)
	clock := time.Now()
	for before := time.Duration(0); ; {
		n, errno := l.once()
		now := time.Since(clock)
		switch {
		case errno != 0:
			l.failed++
			l.errno = errno
		case n != l.size:
			return nil, fmt.Errorf("%s: moved %d of %d bytes", l.file.Name(), n, l.size)
		case now <= d || l.done == 0:
			l.count(max(d, now), now-before)
		}
		if now >= d {
			return &l.counts, nil
		}
		before = now
	}
}

// once is one operation.
func (l *bareLoop) once() (int, unix.Errno) {
	ln, memory := l.lanes[l.turn], l.memory[l.turn]
	l.turn = (l.turn + 1) % len(l.lanes)
	at := int64(l.place(ln))
	if l.write {
		return memory.Pwritev(l.fd, at, 0)
	}
	return memory.Preadv(l.fd, at, 0)
}

func (l *bareLoop) finish() error { return nil }

func (l *bareLoop) close() { l.file.Close() }
