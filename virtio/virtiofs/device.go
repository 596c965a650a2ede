// Package virtiofs is the virtio file system device: it takes FUSE requests off
// virtqueues, has them served, and gives the replies back.
//
//	ring 0 (hiprio) ──┐
//	ring 1 ───────────┴─► loop 0 ─┐ inline      ┌─────────────┐
//	ring 2 ─────────────► loop 1 ─┼────────────►│ fuse.Server │
//	ring n ─────────────► loop ...┘             └─────────────┘
//	                        │  ▲ finished             ▲
//	                may block▼  │                     │
//	                      workers ────────────────────┘
//
// One locked OS thread per request ring (a loop) runs requests inline and in
// order of arrival. With more rings than processors several share one: threads that take
// turns on a processor are slower than one. What would wait for a disk leaves for a worker,
// as do some large reads, and comes back through the loop, which alone touches the ring.
// What waits for a lock is parked: it has no thread at all until the file system wakes it.
// serve.go tells the life of one request.
//
// Ownership: a ring, its memory and its bells are lent by the transport from
// StartQueue to StopQueue; StopQueue returns when no request of the ring is left
// anywhere. A request belongs to its loop, or to the worker it was handed to.
//
// Locks: loop.mu guards what other threads leave for a loop (commands, finished
// requests) and is held for a few instructions only; no lock is taken inside it.
//
// Spec: virtio 1.3, 5.11; fs-device.md B.5, C.
package virtiofs

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"vfiofs/fuse"
	"vfiofs/virtio"
)

// Limits of the device.
const (
	MaxTag           = 36 // bytes of a tag (virtio 1.3, 5.11.4)
	MaxRequestQueues = 63 // request rings beside the hiprio ring (fs-device.md B.1)
	configSize       = 40 // tag[36], le32 num_request_queues
	hiprio           = 0  // index of the high priority ring
)

// Options say what the device is like.
type Options struct {
	// Tag is the name the guest mounts, at most 36 bytes; with "" the front-end
	// supplies configuration space itself.
	Tag string
	// RequestQueues is the number of request rings, 1 to 63.
	RequestQueues int
	// Workers is the number of threads for operations that may block, at least 1.
	// They start when first needed.
	Workers int
	// Poll is how long a ring's thread may look for requests before it sleeps, see
	// poll.go; 0 means never. DefaultPoll is a good value.
	Poll time.Duration
	// Log may be nil.
	Log *slog.Logger
}

// CheckTag says whether tag can be a device's name.
func CheckTag(tag string) error {
	switch {
	case tag == "":
		return fmt.Errorf("the tag may not be empty or longer than %d bytes (encoded as UTF-8)", MaxTag)
	case len(tag) > MaxTag:
		return fmt.Errorf("fs tag is too long: %d (max supported: %d)", len(tag), MaxTag)
	case strings.ContainsAny(tag, "\x00\n"):
		return fmt.Errorf("fs tag %q may not hold a NUL or a newline: guests cut or refuse it", tag)
	}
	return nil
}

// A Device is one virtio-fs device; it implements virtio.Device.
type Device struct {
	server *fuse.Server
	log    *slog.Logger
	config []byte
	queues int
	loops  []*loop // see loop
	pool   *pool
}

var _ virtio.Device = (*Device)(nil)

// New makes a device that has its requests served by server. Close it after use.
func New(server *fuse.Server, opt Options) (*Device, error) {
	if opt.Tag != "" {
		if err := CheckTag(opt.Tag); err != nil {
			return nil, err
		}
	}
	if opt.RequestQueues < 1 || opt.RequestQueues > MaxRequestQueues {
		return nil, fmt.Errorf("number of request queues is %d; it must be 1 to %d", opt.RequestQueues, MaxRequestQueues)
	}
	if opt.Workers < 1 {
		return nil, fmt.Errorf("number of workers is %d; it must be at least 1", opt.Workers)
	}
	log := opt.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	workers, err := newPool(server, opt.Workers, log)
	if err != nil {
		return nil, err
	}
	d := &Device{server: server, log: log, queues: 1 + opt.RequestQueues, pool: workers}
	if opt.Tag != "" {
		d.config = make([]byte, configSize)
		copy(d.config[:MaxTag], opt.Tag)
		binary.LittleEndian.PutUint32(d.config[MaxTag:], uint32(opt.RequestQueues))
	}
	for i := range min(opt.RequestQueues, runtime.NumCPU()) {
		l, err := newLoop(i, server, d.pool, opt.Poll, log)
		if err != nil {
			d.Close()
			return nil, err
		}
		d.loops = append(d.loops, l)
	}
	return d, nil
}

// Queues returns the number of rings: the hiprio ring and the request rings.
func (d *Device) Queues() int { return d.queues }

// Features returns none: the notification queue is not offered.
func (d *Device) Features() virtio.Features { return 0 }

// ConfigSize returns 40, or 0 without a tag.
func (d *Device) ConfigSize() int { return len(d.config) }

// ReadConfig copies configuration space from offset off on, zeros past its end.
func (d *Device) ReadConfig(p []byte, off int) {
	n := 0
	if off >= 0 && off < len(d.config) {
		n = copy(p, d.config[off:])
	}
	clear(p[n:])
}

// StartQueue begins to serve ring n.
func (d *Device) StartQueue(n int, r virtio.Ring) error {
	if n < 0 || n >= d.queues {
		return fmt.Errorf("ring %d does not exist; the device has %d", n, d.queues)
	}
	return d.loop(n).start(n, r)
}

// StopQueue ends service of ring n: requests in hand are finished first.
func (d *Device) StopQueue(n int) {
	if n >= 0 && n < d.queues {
		d.loop(n).stop(n)
	}
}

// loop returns the loop that serves ring n.
func (d *Device) loop(n int) *loop {
	if n == hiprio {
		return d.loops[0]
	}
	return d.loops[(n-1)%len(d.loops)]
}

// Reset drops the mount: nodes, handles and what INIT negotiated.
func (d *Device) Reset() { d.server.Reset() }

// Close ends the device's threads. All rings must have been stopped.
func (d *Device) Close() {
	for _, l := range d.loops {
		l.close()
	}
	d.pool.close()
}
