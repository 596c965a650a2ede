// Package fuse is the FUSE protocol server, version 7.45: it takes requests as
// scattered bytes, has a FileSystem carry them out, and writes the replies.
//
//	        Request{In, Out}                       FileSystem
//	ring ──► Thread.Serve ──► decode ──► handler ──► Lookup, Read, ...
//	              │          (request.go) (handlers.go)    │
//	              │             one copy of the header     │
//	              │             and arguments              │
//	              ◄── reply: payload first, header last ◄──┘
//
// The guest may send anything and change it at any time. So the header and the
// arguments are copied to private memory once and judged there against the table of
// operations (opcode.go) before anything is carried out; the payload of READ and
// WRITE is never copied, only handed on. Whatever is wrong with a request is an errno
// in its reply. A panic is a bug of ours: it is logged and answered EIO.
//
// A request that waits for a lock is parked (park.go): it occupies no thread, and is
// served once more when the file system has an answer for it.
//
// Ownership: a Request belongs to the Thread that serves it, from Serve to Serve; a
// Thread to one goroutine that is locked to its OS thread. Everything a FileSystem is
// lent in a call (names, vectors, results to fill) is valid during the call only.
// After warm-up no request allocates, unless its arguments are longer than 64 KiB.
//
// Locks: a Thread holds its mutex while operations run. INIT, DESTROY and Reset,
// which must run alone, hold Server.mu and then the mutex of every thread, in the
// order in which the threads were made. parking.mu is innermost and held for a few
// instructions. A request that takes long makes those three wait.
//
// Spec: fs-device.md C.3 to C.6, C.8, D, E.18 and E.19; linux/fuse.h 7.45.
package fuse

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Options are the settings of a Server.
type Options struct {
	// Log gets what is worth knowing, and at LevelTrace one line per request; nil means
	// nobody wants it.
	Log *slog.Logger
	// Slow says that all that touches the file system may take long, because it is on
	// another machine or in another process: then only what touches none of it is served
	// where it may not block.
	Slow bool
}

// A Server serves one FileSystem to one guest. Its methods may be called from any
// goroutine.
type Server struct {
	fs     FileSystem
	log    *slog.Logger
	traces bool // log wants one line per request
	slow   bool // see Options

	mu      sync.Mutex
	threads []*Thread

	// Written while all threads are locked, read by a thread that holds its own lock.
	live  bool // INIT succeeded, and no DESTROY or Reset came since
	flags InitFlags

	parking  parking
	panics   atomic.Uint64
	initLog  quota
	errorLog quota
}

// NewServer returns a server for fs, which waits for INIT.
func NewServer(fs FileSystem, opt Options) *Server {
	log := opt.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{fs: fs, log: log, traces: log.Enabled(context.Background(), LevelTrace), slow: opt.Slow}
}

// Panics returns the number of panics that requests caused since the start. Each of
// them is a bug.
func (s *Server) Panics() uint64 { return s.panics.Load() }

// Reset drops everything that the guest has, as on device reset: the next request
// must be INIT. It waits for requests that are being served.
func (s *Server) Reset() {
	s.stopAll()
	defer s.resumeAll()
	s.destroy()
}

// destroy ends the life of the mount. All threads are stopped.
func (s *Server) destroy() {
	s.live, s.flags = false, 0
	s.fs.Destroy()
	s.parking.reset()
}

// stopAll returns once no thread runs an operation, and keeps them from it.
func (s *Server) stopAll() {
	s.mu.Lock()
	for _, t := range s.threads {
		t.mu.Lock()
	}
}

// resumeAll undoes stopAll.
func (s *Server) resumeAll() {
	for _, t := range s.threads {
		t.mu.Unlock()
	}
	s.mu.Unlock()
}

// A Thread serves requests one after the other, on one OS thread.
type Thread struct {
	s    *Server
	mu   sync.Mutex // held while an operation runs, and from Begin to End
	busy bool       // between the two

	// Working memory of the operation that runs, kept to allocate nothing.
	ctx    Context
	groups []uint32
	create Create
	set    SetAttr
	write  WriteArgs
	lock   Lock
	wait   Wait
	entry  Entry
	opened Opened
	statfs StatFS
	dir    DirBuffer
	value  []byte // an extended attribute or a link's target
	out    replies
}

// replies are the structures that replies are made of.
type replies struct {
	head   OutHeader
	entry  EntryOut
	create CreateOut
	attr   AttrOut
	open   OpenOut
	write  WriteOut
	xattr  GetXattrOut
	lseek  LseekOut
	copied CopyFileRangeOut
	lock   LkOut
	statx  StatxOut
	ioctl  IoctlOut
	init   InitOut
}

// NewThread makes the calling goroutine, which must be locked to its OS thread, able
// to serve requests.
func (s *Server) NewThread() (*Thread, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	local, err := s.fs.AttachThread()
	if err != nil {
		return nil, fmt.Errorf("attach a thread to the file system: %w", err)
	}
	t := &Thread{s: s}
	t.ctx.Local = local
	s.threads = append(s.threads, t)
	return t, nil
}

// Close ends t. It must be called by the goroutine that made t.
func (t *Thread) Close() {
	s := t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.threads {
		if s.threads[i] == t {
			s.threads = append(s.threads[:i:i], s.threads[i+1:]...)
			s.fs.DetachThread(t.ctx.Local)
			return
		}
	}
}

// Begin says that several requests follow, and End that they are served: what would have
// to be done for each is done once. In between INIT, DESTROY and Reset of others wait.
// Without them Serve does all by itself. Both are for the goroutine that made t.
func (t *Thread) Begin() {
	t.mu.Lock()
	t.busy = true
}

// End ends what Begin began.
func (t *Thread) End() {
	t.busy = false
	t.mu.Unlock()
}

// An Outcome says where a request is after Thread.Serve.
type Outcome int

const (
	// Done: the reply is written, and the Request may be used for the next one.
	Done Outcome = iota
	// Blocks: nothing has happened yet. The operation might have to wait for a disk, and
	// was told not to: the request is to be served again where it may, by any Thread, or
	// Reset.
	Blocks
	// Parked: the request waits for somebody else. Request.Wake will be called, or was
	// already; until then nothing but Server.Cancel may touch the request.
	Parked
)

// Serve runs r and writes its reply. used is the number of bytes of the reply, which
// is also what its header says, or 0 if there is none. mayBlock says that the
// operation may wait for a disk.
//
// Guest memory that faults, with debug.SetPanicOnFault on, leaves Serve as the panic
// that it is (a runtime.Error with a method Addr): the caller knows best what that
// means for the ring. r has been Reset then. No other panic leaves Serve.
func (t *Thread) Serve(r *Request, mayBlock bool) (used int, out Outcome) {
	defer t.contain(r, &used, &out)
	if !r.decoded {
		r.decode()
	}
	var n int
	errno := r.verdict
	switch {
	case r.woken:
		errno = r.answer()
	case errno == 0:
		var err error
		if n, err = t.run(r, mayBlock); err == nil {
			break
		}
		if !mayBlock && err == ErrWouldBlock {
			return 0, Blocks
		}
		if err != ErrParked {
			errno = t.errno(r.op, err)
			break
		}
		r.woken = true
		if r.park() {
			return 0, Parked
		}
		errno = r.answer() // it came before we were here
	case r.head.Opcode == opInitSwapped:
		t.s.complain(&t.s.initLog, "big-endian guest not supported")
	}
	used = t.reply(r, n, errno)
	if t.s.traces {
		t.trace(r, used, errno)
	}
	r.Reset()
	return used, Done
}

// run carries r out and stores the payload of its reply, n bytes.
func (t *Thread) run(r *Request, mayBlock bool) (n int, err error) {
	s := t.s
	if !mayBlock && (r.op.is(slow) || s.slow && !r.op.is(quick)) {
		return 0, ErrWouldBlock
	}
	switch {
	case r.op.is(alone):
		if t.busy {
			t.mu.Unlock()
			defer t.mu.Lock()
		}
		s.stopAll()
		defer s.resumeAll()
	case !t.busy:
		t.mu.Lock()
		defer t.mu.Unlock()
	}
	if !s.live && !r.op.is(early) {
		return 0, syscall.ENOTCONN
	}
	if r.op.is(cred) && !r.hasCaller() {
		return 0, syscall.EINVAL
	}
	t.ctx.Caller = Caller{UID: r.head.UID, GID: r.head.GID, PID: r.head.PID}
	t.ctx.MayBlock = mayBlock
	return r.handler()(t, r)
}

// reply writes the header of r's reply, whose payload of n bytes is in place, and
// returns the length of the whole.
func (t *Thread) reply(r *Request, n int, errno syscall.Errno) int {
	if r.op.is(quiet) || r.space() < 0 {
		return 0
	}
	if errno != 0 {
		n = 0
	}
	if n > r.space() {
		panic("reply is longer than its space")
	}
	used := outHeaderSize + n
	t.out.head = OutHeader{Len: uint32(used), Error: -int32(errno), Unique: r.head.Unique}
	r.Out.CopyIn(bytesOf(&t.out.head), 0)
	return used
}

// errno is Errno, and a log line when err should not have come.
func (t *Thread) errno(op *operation, err error) syscall.Errno {
	e, known := errnoOf(err)
	if !known {
		t.s.complain(&t.s.errorLog, "file system failed without a usable errno", "op", op.name, "err", err)
	}
	return e
}

// contain answers a request whose operation panicked, unless guest memory did it.
func (t *Thread) contain(r *Request, used *int, out *Outcome) {
	p := recover()
	if p == nil {
		return
	}
	if _, fault := p.(interface {
		runtime.Error
		Addr() uintptr
	}); fault {
		r.Reset()
		panic(p)
	}
	if t.s.panics.Add(1) == 1 {
		t.s.log.Error("panic in a request; further ones are only counted",
			"op", r.op.name, "panic", p, "stack", string(debug.Stack()))
	}
	*used, *out = t.reply(r, 0, syscall.EIO), Done
	r.Reset()
}

// complain logs a warning, unless q has had one within this second: guests cause them.
func (s *Server) complain(q *quota, msg string, args ...any) {
	if q.take(time.Now()) {
		s.log.Warn(msg, args...)
	}
}

// A quota lets one event per second through.
type quota struct{ second atomic.Int64 }

func (q *quota) take(now time.Time) bool {
	s := now.Unix()
	return q.second.Swap(s) != s
}
