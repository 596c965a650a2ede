package passthrough

import (
	"container/list"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// Locks of the guest are locks of the host, so that they exclude the host's own
// processes and other guests (fs-device.md D.3, lk_in).
//
//	POSIX: node, owner ──► one descriptor, made for the owner's first lock ──► OFD locks
//	flock: handle      ──► its own descriptor                              ──► flock
//
// A POSIX lock of the host belongs to a process, and all guest processes are one here.
// So each guest owner gets an open file description per file, and OFD locks
// (fcntl(2)) on it: closing it drops them all. What an owner holds is kept here as
// well (lockspan.go), to know when its descriptor is not needed any more, and which
// guest process to name in the answer of GETLK.
//
// The host does not look for deadlocks among OFD locks: EDEADLK never comes.

// Limits of what a guest may lock; beyond them there is ENOLCK. Descriptors of owners
// count in the budget of all descriptors, too.
const (
	maxNodeOwners = 1024  // owners of POSIX locks on one file
	maxOwners     = 4096  // in all
	maxSpans      = 8192  // locks of one owner on one file
	maxLocks      = 65536 // in all
)

// locks is the table of files that have locks, or somebody who waits for one.
type locks struct {
	fs     *FS
	owners atomic.Int64
	spans  atomic.Int64
	queues atomic.Int64 // files with somebody who waits

	mu    sync.Mutex
	nodes map[fuse.NodeID]*lockNode
	waits map[fuse.WaitID]*lockWait
}

// A lockNode is the locks of one file. mu guards all but users, and is held while the
// host is asked, which does not block but on file systems that are remote.
type lockNode struct {
	locks *locks
	id    fuse.NodeID
	users int // who holds it just now; guarded by locks.mu

	mu     sync.Mutex
	owners map[uint64]*lockOwner
	flocks map[fuse.Handle]fuse.LockType
	// spare is a descriptor without a lock, -1 if there is none: it tries the locks of
	// owners that have no descriptor, and becomes that of the one that succeeds.
	spare    int
	spareCan access

	queue list.List // of *lockWait, the oldest first
	timer *time.Timer
	delay time.Duration // until the queue is looked at again
	again bool          // something was unlocked since the queue was looked at
}

// A lockOwner holds POSIX locks on one file.
type lockOwner struct {
	fd     int
	can    access
	pid    uint32
	handle fuse.Handle // through which it set its last lock
	spans  spans
}

// enter returns the lockNode of a file and keeps it until leave. Without make it
// returns nil if nothing is locked.
func (l *locks) enter(id fuse.NodeID, make bool) *lockNode {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[id]
	if n == nil {
		if !make {
			return nil
		}
		n = &lockNode{
			locks: l, id: id, spare: -1,
			owners: map[uint64]*lockOwner{}, flocks: map[fuse.Handle]fuse.LockType{},
		}
		l.nodes[id] = n
	}
	n.users++
	return n
}

// leave gives n up; when nobody uses it and nothing is locked it goes away.
func (l *locks) leave(n *lockNode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.users--; n.users > 0 || len(n.owners)+len(n.flocks)+n.queue.Len() > 0 {
		return
	}
	n.closeSpare()
	delete(l.nodes, n.id)
}

// A lockTry is a lock that is asked for: lk through handle, whose descriptor is fd.
type lockTry struct {
	lk     fuse.Lock
	handle fuse.Handle
	fd     int
	can    access // of fd
}

func tryOf(lk *fuse.Lock, h fuse.Handle, f *handle) lockTry {
	x := lockTry{lk: *lk, handle: h, fd: f.fd}
	switch f.flags & unix.O_ACCMODE {
	case unix.O_RDONLY:
		x.can = canRead
	case unix.O_WRONLY:
		x.can = canWrite
	default:
		x.can = canRead | canWrite
	}
	return x
}

// An access is what a descriptor is open for; a lock to read needs one that can read,
// a lock to write one that can write.
type access int

const (
	canRead access = 1 << iota
	canWrite
)

// needs returns what the lock needs.
func (x *lockTry) needs() access {
	if x.lk.Type == fuse.LockWrite {
		return canWrite
	}
	return canRead
}

// GetLock implements fuse.FileSystem.
func (fs *FS) GetLock(c *fuse.Context, node fuse.NodeID, h fuse.Handle, lk *fuse.Lock) error {
	f := fs.handles.get(h, node)
	if f == nil {
		return syscall.EBADF
	}
	defer fs.handles.put(f)
	if fs.slowLocks(c) {
		return fuse.ErrWouldBlock
	}
	n := fs.locks.enter(node, true)
	defer fs.locks.leave(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	fd := f.v.fd // has no OFD locks of its own
	if o := n.owners[lk.Owner]; o != nil {
		fd = o.fd
	}
	fl := hostLock(lk)
	if e := fcntlLock(fd, unix.F_OFD_GETLK, &fl); e != 0 {
		return fs.errno(e)
	}
	if fl.Type == unix.F_UNLCK {
		lk.Type = fuse.LockNone
		return nil
	}
	lk.Type, lk.Start, lk.End = fuse.LockType(fl.Type), uint64(fl.Start), math.MaxInt64
	if fl.Len > 0 {
		lk.End = uint64(fl.Start + fl.Len - 1)
	}
	lk.PID = n.holder(lk)
	return nil
}

// holder returns which guest process has lk, 0 if it is somebody else's.
func (n *lockNode) holder(lk *fuse.Lock) uint32 {
	for id, o := range n.owners {
		if id != lk.Owner && o.spans.has(lk) {
			return o.pid
		}
	}
	return 0
}

// slowLocks reports whether the host may keep a thread that must not block waiting for
// a lock that nobody has.
func (fs *FS) slowLocks(c *fuse.Context) bool { return !c.MayBlock && fs.host.inline == inlineNever }

// SetLock implements fuse.FileSystem.
func (fs *FS) SetLock(c *fuse.Context, node fuse.NodeID, h fuse.Handle, lk *fuse.Lock, w *fuse.Wait) error {
	f := fs.handles.get(h, node)
	if f == nil {
		return syscall.EBADF
	}
	defer fs.handles.put(f)
	f.v.plain.Store(false) // a lock of flock(2) ends when the descriptor is closed
	slow := fs.slowLocks(c)
	if slow && w == nil {
		return fuse.ErrWouldBlock
	}
	n := fs.locks.enter(node, true)
	defer fs.locks.leave(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	if f.v.unlocked.Load() {
		return syscall.EBADF
	}
	e := syscall.EAGAIN // slow: the sweep tries at once
	if !slow {
		x := tryOf(lk, h, &f.v)
		e = n.try(&x)
	}
	if e != unix.EAGAIN || w == nil {
		return fs.errno(e)
	}
	n.park(fs.handles.get(h, node), h, lk, w)
	if slow {
		n.wake()
	}
	return fuse.ErrParked
}

// try sets or drops a lock. The error is EAGAIN if another one is in the way.
func (n *lockNode) try(x *lockTry) syscall.Errno {
	if x.lk.Flock {
		return n.tryFlock(x)
	}
	o := n.owners[x.lk.Owner]
	switch {
	case x.lk.Type != fuse.LockNone && x.needs()&^x.can != 0:
		return unix.EBADF // as fcntl(2) has it
	case o != nil:
		return n.change(o, x)
	case x.lk.Type == fuse.LockNone:
		return 0
	}
	l := n.locks
	if len(n.owners) >= maxNodeOwners || l.owners.Load() >= maxOwners || l.spans.Load() >= maxLocks {
		return unix.ENOLCK
	}
	if e := n.openSpare(x); e != 0 {
		return e
	}
	fl := hostLock(&x.lk)
	if e := fcntlLock(n.spare, unix.F_OFD_SETLK, &fl); e != 0 {
		return e
	}
	o = &lockOwner{fd: n.spare, can: n.spareCan, pid: x.lk.PID, handle: x.handle}
	n.spare = -1
	n.owners[x.lk.Owner] = o
	l.owners.Add(1)
	l.spans.Add(int64(o.spans.set(&x.lk)))
	return 0
}

// change sets or drops a lock of an owner that has some.
func (n *lockNode) change(o *lockOwner, x *lockTry) syscall.Errno {
	l := n.locks
	more := x.lk.Type != fuse.LockNone || o.spans.hole(&x.lk)
	if more && (len(o.spans) >= maxSpans || l.spans.Load() >= maxLocks) {
		return unix.ENOLCK
	}
	if x.lk.Type == fuse.LockWrite && o.can&canWrite == 0 {
		if e := n.promote(o, x); e != 0 {
			return e
		}
	}
	fl := hostLock(&x.lk)
	if e := fcntlLock(o.fd, unix.F_OFD_SETLK, &fl); e != 0 {
		return e
	}
	l.spans.Add(int64(o.spans.set(&x.lk)))
	if x.lk.Type != fuse.LockNone {
		o.handle, o.pid = x.handle, x.lk.PID
	}
	if len(o.spans) == 0 {
		n.drop(x.lk.Owner, o)
	}
	n.wake() // also when a lock was set: it may be a lesser one than before
	return 0
}

// tryFlock is try for locks of flock(2). A change from one kind to the other drops the
// lock first, here as on the host.
func (n *lockNode) tryFlock(x *lockTry) syscall.Errno {
	how := unix.LOCK_UN
	switch x.lk.Type {
	case fuse.LockRead:
		how = unix.LOCK_SH
	case fuse.LockWrite:
		how = unix.LOCK_EX
	}
	_, had := n.flocks[x.handle]
	_, e := call(unix.SYS_FLOCK, uintptr(x.fd), uintptr(how|unix.LOCK_NB), 0, 0)
	if had {
		delete(n.flocks, x.handle)
		n.wake()
	}
	if e == 0 && how != unix.LOCK_UN {
		n.flocks[x.handle] = x.lk.Type
	}
	return e
}

// drop ends an owner and all its locks.
func (n *lockNode) drop(id uint64, o *lockOwner) {
	unix.Close(o.fd)
	l := n.locks
	l.fs.budget.give()
	l.spans.Add(-int64(len(o.spans)))
	l.owners.Add(-1)
	delete(n.owners, id)
}

// promote gives an owner whose descriptor can only read one that can write, too. All
// its locks are to read, so that both may have them for a moment.
func (n *lockNode) promote(o *lockOwner, x *lockTry) syscall.Errno {
	if e := n.openSpare(x); e != 0 {
		return e
	}
	for _, s := range o.spans {
		fl := hostLock(&fuse.Lock{Start: s.start, End: s.end, Type: s.typ})
		if e := fcntlLock(n.spare, unix.F_OFD_SETLK, &fl); e != 0 {
			n.closeSpare()
			return e
		}
	}
	o.fd, n.spare = n.spare, o.fd
	o.can = n.spareCan
	n.closeSpare()
	return 0
}

// openSpare makes a spare descriptor that can take the lock. Like the guest's own, it
// is not open for writing without need: that would keep the host from executing the
// file (ETXTBSY), and copy it on an overlay.
func (n *lockNode) openSpare(x *lockTry) syscall.Errno {
	if n.spare >= 0 {
		if x.needs()&^n.spareCan == 0 {
			return 0
		}
		n.closeSpare()
	}
	fs := n.locks.fs
	if !fs.budget.take() {
		return unix.ENOLCK
	}
	can := x.can
	if can == canWrite {
		can |= canRead // for locks through other handles
	}
	fd, e := fs.openAgain(x.fd, can)
	if e == unix.EACCES && can != x.can {
		can = x.can
		fd, e = fs.openAgain(x.fd, can)
	}
	if e != 0 {
		fs.budget.give()
		return e
	}
	n.spare, n.spareCan = fd, can
	return 0
}

// openAgain is reopen for goroutines that belong to no thread.
func (fs *FS) openAgain(fd int, can access) (int, syscall.Errno) {
	var num [12]byte
	num[len(strconv.AppendInt(num[:0], int64(fd), 10))] = 0
	flags := unix.O_RDWR
	switch can {
	case canRead:
		flags = unix.O_RDONLY
	case canWrite:
		flags = unix.O_WRONLY
	}
	return openat(fs.proc.Int(), &num[0], flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

func (n *lockNode) closeSpare() {
	if n.spare >= 0 {
		unix.Close(n.spare)
		n.locks.fs.budget.give()
		n.spare = -1
	}
}

// DropLocks implements fuse.FileSystem.
func (fs *FS) DropLocks(c *fuse.Context, node fuse.NodeID, owner uint64) error {
	return fs.dropLocks(c, node, func(n *lockNode) {
		if o := n.owners[owner]; o != nil {
			n.drop(owner, o)
		}
	})
}

// DropHandleLocks implements fuse.FileSystem. It ends the guest's OFD locks, for which
// no FLUSH comes. An owner that went on to lock through another handle is none of
// those: its locks through this one ended with FLUSH. Who asks for a lock through the
// handle at the same time has it by now, and it is dropped, or does not get it.
func (fs *FS) DropHandleLocks(c *fuse.Context, node fuse.NodeID, h fuse.Handle) error {
	if f := fs.handles.get(h, node); f != nil {
		f.v.unlocked.Store(true)
		fs.handles.put(f)
	}
	return fs.dropLocks(c, node, func(n *lockNode) {
		n.endWaits(unix.EBADF, func(w *lockWait) bool { return w.handle == h })
		for id, o := range n.owners {
			if o.handle == h {
				n.drop(id, o)
			}
		}
		if _, ok := n.flocks[h]; ok {
			delete(n.flocks, h)
			if f := fs.handles.get(h, node); f != nil {
				_, _ = call(unix.SYS_FLOCK, uintptr(f.v.fd), unix.LOCK_UN, 0, 0) // closing would do it too, later
				fs.handles.put(f)
			}
		}
	})
}

func (fs *FS) dropLocks(c *fuse.Context, node fuse.NodeID, drop func(*lockNode)) error {
	n := fs.locks.enter(node, false)
	if n == nil {
		return nil
	}
	defer fs.locks.leave(n)
	if fs.slowLocks(c) {
		return fuse.ErrWouldBlock
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	drop(n)
	n.wake()
	return nil
}

// init makes an empty table.
func (l *locks) init(fs *FS) {
	l.fs = fs
	l.nodes, l.waits = map[fuse.NodeID]*lockNode{}, map[fuse.WaitID]*lockWait{}
}

// dropAll ends all locks and waits, and lets no sweep find anything after it. Locks of
// flock(2) go with their handles.
func (l *locks) dropAll() {
	for _, n := range l.all() {
		n.mu.Lock()
		n.endWaits(unix.ENOLCK, func(*lockWait) bool { return true })
		for id, o := range n.owners {
			n.drop(id, o)
		}
		clear(n.flocks)
		n.mu.Unlock()
		l.leave(n)
	}
}

// all enters every lockNode.
func (l *locks) all() []*lockNode {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []*lockNode
	for _, n := range l.nodes {
		n.users++
		list = append(list, n)
	}
	return list
}

// hostLock describes a POSIX lock to the host.
func hostLock(lk *fuse.Lock) unix.Flock_t {
	fl := unix.Flock_t{Type: int16(lk.Type), Whence: unix.SEEK_SET, Start: int64(lk.Start)}
	if lk.End < math.MaxInt64 {
		fl.Len = int64(lk.End-lk.Start) + 1 // else 0: to the end
	}
	return fl
}

func fcntlLock(fd, cmd int, fl *unix.Flock_t) syscall.Errno {
	for {
		err := unix.FcntlFlock(uintptr(fd), cmd, fl)
		switch e, _ := err.(syscall.Errno); e {
		case unix.EINTR:
		case unix.EACCES: // another name for EAGAIN (fcntl(2))
			return unix.EAGAIN
		default:
			return e
		}
	}
}
