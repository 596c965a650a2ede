package passthrough

import (
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// A handle is an open file or directory (fs-device.md E.2).
type handle struct {
	node  fuse.NodeID // whose it is
	fd    int
	flags int           // O_* of fd
	dir   bool          // of a directory
	read  atomic.Uint32 // an inline

	bounced  atomic.Bool // transfers go through the thread's bounce buffer
	unlocked atomic.Bool // its locks were dropped for good, because it is being released
	plain    atomic.Bool // of its descriptor

	mu   sync.Mutex // guards the position of a directory's descriptor, and what follows
	pos  int64      // cookie at the position, any 64 bits
	lost bool       // pos is not known
	list reading    // of a directory
}

// A descriptor is what a handle is made of.
type descriptor struct {
	fd, flags int // O_* of fd
	dir       bool
	read      inline
	plain     bool // there is nothing to it but that it reads a file: see spare.go
}

// An inline says how a file's data may be read on a thread that must not block.
type inline uint32

const (
	inlineNowait inline = iota // with RWF_NOWAIT
	inlinePlain                // like any other: the data is in memory
	inlineNever                // not at all
)

// handles is the table of open files.
type handles struct {
	slab slab[handle]
}

func (fs *FS) initHandles() {
	fs.handles.slab.end = func(h *handle) {
		if h.plain.Load() {
			fs.spares.put(uint32(h.node), h.fd, inline(h.read.Load()))
		} else {
			unix.Close(h.fd)
			fs.budget.give()
		}
		fs.nodes.put(fs.nodes.slab.at(uint32(h.node)))
	}
}

// addHandle makes a handle of node id, which it uses until it is released: the node
// keeps its descriptor so long, if it has it. addHandle owns d from here on.
func (fs *FS) addHandle(t *thread, id fuse.NodeID, d descriptor) (fuse.Handle, syscall.Errno) {
	n := fs.nodes.get(id)
	if n == nil { // a guest that forgets what it opens
		unix.Close(d.fd)
		return 0, unix.EBADF
	}
	if errno := fs.reserve(t); errno != 0 {
		fs.nodes.put(n)
		unix.Close(d.fd)
		return 0, errno
	}
	e, h := fs.handles.slab.alloc()
	if e == nil {
		fs.budget.give()
		fs.nodes.put(n)
		unix.Close(d.fd)
		return 0, unix.ENFILE
	}
	v := &e.v
	v.node, v.fd, v.flags, v.dir, v.pos, v.lost, v.list = id, d.fd, d.flags, d.dir, 0, false, reading{}
	v.bounced.Store(false)
	v.unlocked.Store(false)
	v.plain.Store(d.plain)
	if d.flags&unix.O_DIRECT != 0 {
		d.read = inlineNever // RWF_NOWAIT does not keep it from waiting for the disk
	}
	v.read.Store(uint32(d.read))
	fs.handles.slab.publish(e, 0)
	return fuse.Handle(h), 0
}

// get finds handle h of node id and keeps its descriptor open until put, or returns
// nil. That h is another node's shows no different from that it does not exist.
func (t *handles) get(h fuse.Handle, id fuse.NodeID) *slot[handle] {
	e := t.slab.get(uint64(h))
	if e != nil && e.v.node != id {
		t.put(e)
		return nil
	}
	return e
}

func (t *handles) put(e *slot[handle]) { t.slab.put(e) }

// drop closes everything.
func (t *handles) drop() {
	for n := range t.slab.used() {
		if e := t.slab.pin(n); e != nil {
			t.slab.kill(e)
			t.put(e)
		}
	}
}

// Release implements fuse.FileSystem.
func (fs *FS) Release(_ *fuse.Context, node fuse.NodeID, h fuse.Handle) error {
	e := fs.handles.get(h, node)
	if e == nil {
		return syscall.EBADF
	}
	defer fs.handles.put(e)
	if !fs.handles.slab.kill(e) {
		return syscall.EBADF
	}
	return nil
}

// ReleaseDir implements fuse.FileSystem.
func (fs *FS) ReleaseDir(c *fuse.Context, node fuse.NodeID, h fuse.Handle) error {
	return fs.Release(c, node, h)
}
