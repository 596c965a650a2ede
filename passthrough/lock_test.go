package passthrough

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
)

// locking serves a share with locks.
func locking(o *Options) fuse.InitFlags {
	o.PosixLocks, o.Flock = true, true
	return fuse.PosixLocks | fuse.FlockLocks
}

func (g *guest) lock(node fuse.NodeID, h fuse.Handle, owner uint64, typ fuse.LockType, start, end uint64) error {
	return g.fs.SetLock(g.c, node, h, &fuse.Lock{Owner: owner, Type: typ, Start: start, End: end, PID: uint32(owner)}, nil)
}

const eof = math.MaxInt64

// lockOnHost sets or tests a POSIX lock of this process, as any program of the host.
func lockOnHost(t testing.TB, path string, cmd int, fl unix.Flock_t) (unix.Flock_t, error) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	err = unix.FcntlFlock(f.Fd(), cmd, &fl)
	return fl, err
}

func TestLocksExcludeTheHost(t *testing.T) {
	g := newGuest(t, locking)
	node, h := g.made("f", unix.O_RDWR)
	want(t, "lock", g.lock(node, h, 1, fuse.LockWrite, 10, 19), 0)
	_, err := lockOnHost(t, g.path("f"), unix.F_SETLK, unix.Flock_t{Type: unix.F_RDLCK, Start: 19, Len: 1})
	want(t, "host's lock", err, unix.EAGAIN)
	fl, err := lockOnHost(t, g.path("f"), unix.F_GETLK, unix.Flock_t{Type: unix.F_RDLCK})
	must(t, err)
	same(t, "lock that the host sees", fmt.Sprint(fl.Type, fl.Start, fl.Len), fmt.Sprint(unix.F_WRLCK, 10, 10))

	_, err = lockOnHost(t, g.path("f"), unix.F_SETLK, unix.Flock_t{Type: unix.F_WRLCK, Start: 100})
	must(t, err)
	want(t, "lock of what the host has", g.lock(node, h, 1, fuse.LockRead, 50, eof), unix.EAGAIN)
	lk := fuse.Lock{Owner: 1, Type: fuse.LockRead, Start: 50, End: 300}
	must(t, g.fs.GetLock(g.c, node, h, &lk))
	same(t, "lock that the guest sees", lk, fuse.Lock{Owner: 1, Type: fuse.LockWrite, Start: 100, End: eof})
}

func TestFlockExcludesTheHost(t *testing.T) {
	g := newGuest(t, locking)
	node, h := g.made("f", unix.O_RDWR)
	flock := func(typ fuse.LockType) error {
		return g.fs.SetLock(g.c, node, h, &fuse.Lock{Flock: true, Type: typ}, nil)
	}
	host, err := os.Open(g.path("f"))
	must(t, err)
	defer host.Close()
	want(t, "flock", flock(fuse.LockWrite), 0)
	want(t, "host's flock", unix.Flock(int(host.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
	want(t, "lesser flock", flock(fuse.LockRead), 0)
	want(t, "host's flock", unix.Flock(int(host.Fd()), unix.LOCK_SH|unix.LOCK_NB), 0)
	want(t, "greater flock", flock(fuse.LockWrite), unix.EAGAIN)
	want(t, "end of the host's flock", unix.Flock(int(host.Fd()), unix.LOCK_UN), 0)
	want(t, "flock", flock(fuse.LockWrite), 0)
	must(t, g.fs.DropHandleLocks(g.c, node, h))
	want(t, "host's flock", unix.Flock(int(host.Fd()), unix.LOCK_EX|unix.LOCK_NB), 0)
}

// Two shares of one directory are two guests.
func TestLocksExcludeAnotherGuest(t *testing.T) {
	g := newGuest(t, locking)
	node, h := g.made("f", unix.O_RDWR)
	other := newGuest(t, locking, func(o *Options) fuse.InitFlags { o.SharedDir = g.dir; return 0 })
	e, err := other.lookup(fuse.RootID, "f")
	must(t, err)
	oh := other.open(e.Node, unix.O_RDWR)
	must(t, g.lock(node, h, 1, fuse.LockWrite, 0, eof))
	want(t, "lock of another guest", other.lock(e.Node, oh, 1, fuse.LockWrite, 5, 5), unix.EAGAIN)
	g.fs.Destroy() // the guest died
	must(t, other.lock(e.Node, oh, 1, fuse.LockWrite, 5, 5))
}

// An owner costs one descriptor while it holds a lock, and none after.
func TestLockDescriptors(t *testing.T) {
	g := newGuest(t, locking)
	node, h := g.made("f", unix.O_RDWR)
	before, budget := fds(t), g.fs.budget.n.Load()
	for owner := range uint64(10) {
		must(t, g.lock(node, h, owner, fuse.LockRead, 0, 5))
		must(t, g.lock(node, h, owner, fuse.LockRead, 10, 15))
	}
	same(t, "descriptors of ten owners", fds(t)-before, 10)
	same(t, "descriptors in the budget", g.fs.budget.n.Load()-budget, 10)
	for owner := range uint64(5) {
		must(t, g.lock(node, h, owner, fuse.LockNone, 0, 5))
		must(t, g.lock(node, h, owner, fuse.LockNone, 8, eof))
	}
	same(t, "descriptors after half has unlocked", fds(t)-before, 5)
	must(t, g.fs.DropLocks(g.c, node, 5))
	must(t, g.fs.DropHandleLocks(g.c, node, h))
	same(t, "descriptors after the handle has gone", fds(t)-before, 0)
	same(t, "budget afterwards", g.fs.budget.n.Load(), budget)
	same(t, "locks that are left", g.fs.locks.spans.Load()+g.fs.locks.owners.Load(), 0)
	same(t, "files with locks", len(g.fs.locks.nodes), 0)
}

func TestLockLimits(t *testing.T) {
	g := newGuest(t, locking)
	node, h := g.made("f", unix.O_RDWR)
	for owner := range uint64(maxNodeOwners) {
		must(t, g.lock(node, h, owner, fuse.LockRead, 0, 5))
	}
	want(t, "one owner too many", g.lock(node, h, maxNodeOwners, fuse.LockRead, 0, 5), unix.ENOLCK)
	must(t, g.fs.DropHandleLocks(g.c, node, h))
	h = g.open(node, unix.O_RDWR)
	for i := range uint64(maxSpans) {
		must(t, g.lock(node, h, 1, fuse.LockRead, 2*i, 2*i))
	}
	want(t, "one lock too many", g.lock(node, h, 1, fuse.LockRead, 1<<40, 1<<40), unix.ENOLCK)
	must(t, g.lock(node, h, 1, fuse.LockNone, 0, 1000))

	// A lock with holes is many locks.
	must(t, g.lock(node, h, 1, fuse.LockRead, 0, eof))
	for i := range uint64(maxSpans - 1) {
		must(t, g.lock(node, h, 1, fuse.LockNone, 2*i+1, 2*i+1))
	}
	want(t, "one hole too many", g.lock(node, h, 1, fuse.LockNone, 1<<40, 1<<40), unix.ENOLCK)
	must(t, g.lock(node, h, 1, fuse.LockNone, 0, 1000))
	must(t, g.lock(node, h, 1, fuse.LockNone, 1<<40, 1<<40))

	g.fs.budget.limit = g.fs.budget.n.Load()
	want(t, "lock without a descriptor to spare", g.lock(node, h, 2, fuse.LockRead, 0, 5), unix.ENOLCK)
}

// A lock needs no more access than the guest's own descriptor has, and a lock to read
// does not open the file for writing: then the host could not execute it.
func TestLockAccess(t *testing.T) {
	g := newGuest(t, locking)
	node, h := g.made("f", unix.O_RDWR)
	r := g.open(node, unix.O_RDONLY)
	must(t, os.WriteFile(g.path("f"), []byte("#!/bin/true\n"), 0o755))
	must(t, os.Chmod(g.path("f"), 0o755))
	must(t, g.release(node, h))
	must(t, g.lock(node, r, 1, fuse.LockRead, 0, 5))
	want(t, "lock to write through a handle that cannot", g.lock(node, r, 1, fuse.LockWrite, 0, 5), unix.EBADF)
	must(t, exec.Command(g.path("f")).Run())

	// The same owner goes on to write, and keeps what it has meanwhile.
	w := g.open(node, unix.O_WRONLY)
	must(t, g.lock(node, w, 1, fuse.LockWrite, 3, 9))
	want(t, "lock to read through a handle that cannot", g.lock(node, w, 2, fuse.LockRead, 0, 0), unix.EBADF)
	want(t, "other owner's lock", g.lock(node, w, 2, fuse.LockWrite, 0, 0), unix.EAGAIN)
	want(t, "other owner's lock", g.lock(node, r, 2, fuse.LockRead, 9, 9), unix.EAGAIN)
	must(t, g.lock(node, r, 2, fuse.LockRead, 0, 2))
	must(t, g.lock(node, w, 3, fuse.LockWrite, 100, 200))
	must(t, g.lock(node, r, 3, fuse.LockRead, 100, 200))
}

// TestSpans compares the list of what is locked with one entry per byte.
func TestSpans(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const size = 24
	var s spans
	var model [size]fuse.LockType
	for i := range model {
		model[i] = fuse.LockNone
	}
	total := 0
	for i := range 20_000 {
		lk := fuse.Lock{Start: rng.Uint64N(size), Type: fuse.LockType(rng.IntN(3))}
		lk.End = lk.Start + rng.Uint64N(size-lk.Start)
		for at := lk.Start; at <= lk.End; at++ {
			model[at] = lk.Type
		}
		total += s.set(&lk)
		got := strings.Repeat("2", size)
		for j, x := range s {
			if j > 0 && (x.start <= s[j-1].end || x.start == s[j-1].end+1 && x.typ == s[j-1].typ) {
				t.Fatalf("step %d: spans %v aren't apart", i, s)
			}
			n := int(x.end - x.start + 1)
			got = got[:x.start] + strings.Repeat(fmt.Sprint(x.typ), n) + got[x.end+1:]
		}
		expected := strings.Trim(strings.ReplaceAll(fmt.Sprint(model), " ", ""), "[]")
		if got != expected || total != len(s) {
			t.Fatalf("step %d, %v: spans %v are %s, count %d; want %s, %d", i, lk, s, got, len(s), expected, total)
		}
	}
}

// A pair is two clients of one server with a file; waits run on goroutines.
type pair struct {
	testing.TB
	fs   *FS
	l    *fusetest.Local
	node fuse.NodeID
	h    fuse.Handle
}

func newPair(t *testing.T) *pair {
	t.Helper()
	fs, err := New(Options{SharedDir: t.TempDir(), PosixLocks: true, Flock: true})
	must(t, err)
	t.Cleanup(func() { fs.Close() })
	l := fusetest.NewLocal(t, fs, fuse.Options{})
	c := l.Client()
	_, err = c.Init(fusetest.AllFlags)
	must(t, err)
	f, err := c.Create(fuse.RootID, "f", unix.O_RDWR, 0o600)
	must(t, err)
	return &pair{TB: t, fs: fs, l: l, node: f.Entry.Node, h: f.Open.Handle}
}

func (p *pair) lock(lk fuse.Lock, wait bool) error {
	return p.l.Client().SetLock(p.node, p.h, lk, wait)
}

// parked waits until n requests wait for locks.
func (p *pair) parked(n int) {
	p.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); runtime.Gosched() {
		p.fs.locks.mu.Lock()
		have := len(p.fs.locks.waits)
		p.fs.locks.mu.Unlock()
		if have == n {
			return
		}
	}
	p.Fatalf("%d requests do not wait for locks", n)
}

// Waits are granted in order of arrival where they exclude each other, and at once
// where they don't.
func TestLockWaits(t *testing.T) {
	p := newPair(t)
	write := func(owner, start, end uint64) fuse.Lock {
		return fuse.Lock{Owner: owner, Start: start, End: end, Type: fuse.LockWrite}
	}
	must(t, p.lock(write(1, 0, 100), false))
	order := make(chan uint64, 10)
	for i := uint64(2); i <= 6; i++ {
		go func() {
			if err := p.lock(write(i, 0, 9), true); err != nil {
				p.Errorf("lock of owner %d = %v", i, err)
			}
			order <- i
		}()
		p.parked(int(i) - 1)
	}
	go func() {
		if err := p.lock(write(7, 50, 59), true); err != nil {
			p.Errorf("lock of owner 7 = %v", err)
		}
		order <- 7
	}()
	p.parked(6)
	// What the last one waits for is free first.
	must(t, p.lock(fuse.Lock{Owner: 1, Start: 50, End: 100, Type: fuse.LockNone}, false))
	same(t, "first grant", <-order, 7)
	must(t, p.lock(fuse.Lock{Owner: 1, Start: 0, End: 100, Type: fuse.LockNone}, false))
	for i := uint64(2); i <= 6; i++ {
		same(t, "next grant", <-order, i)
		p.parked(6 - int(i))
		must(t, p.l.Client().FlushOwner(p.node, p.h, i))
	}
}

// Who waits for a greater lock than it has is not held up by others in vain.
func TestLockWaitOfHolder(t *testing.T) {
	p := newPair(t)
	lock := func(owner uint64, typ fuse.LockType) fuse.Lock {
		return fuse.Lock{Owner: owner, End: 9, Type: typ}
	}
	must(t, p.lock(lock(1, fuse.LockRead), false))
	must(t, p.lock(lock(2, fuse.LockRead), false))
	done := make(chan error, 2)
	go func() { done <- p.lock(lock(3, fuse.LockWrite), true) }()
	p.parked(1)
	go func() { done <- p.lock(lock(1, fuse.LockWrite), true) }()
	p.parked(2)
	must(t, p.lock(lock(2, fuse.LockNone), false))
	must(t, <-done) // owner 1: only its own lock was in the way
	p.parked(1)
	must(t, p.lock(lock(1, fuse.LockRead), false))
	must(t, p.lock(lock(1, fuse.LockNone), false))
	must(t, <-done)
}

func TestFlockWaits(t *testing.T) {
	p := newPair(t)
	o, err := p.l.Client().Open(p.node, unix.O_RDONLY)
	must(t, err)
	must(t, p.lock(fuse.Lock{Flock: true, Type: fuse.LockWrite}, false))
	done := make(chan error)
	go func() {
		done <- p.l.Client().SetLock(p.node, o.Handle, fuse.Lock{Flock: true, Type: fuse.LockRead}, true)
	}()
	p.parked(1)
	must(t, p.lock(fuse.Lock{Flock: true, Type: fuse.LockRead}, false))
	must(t, <-done)
	want(t, "flock", p.lock(fuse.Lock{Flock: true, Type: fuse.LockWrite}, false), unix.EAGAIN)
	must(t, p.lock(fuse.Lock{Flock: true, Type: fuse.LockNone}, false))

	// A handle that is released does not wait any longer.
	go func() { done <- p.lock(fuse.Lock{Flock: true, Type: fuse.LockWrite}, true) }()
	p.parked(1)
	must(t, p.l.Client().Release(p.node, p.h))
	want(t, "wait of a released handle", <-done, unix.EBADF)
}

func TestLockInterrupted(t *testing.T) {
	p := newPair(t)
	must(t, p.lock(fuse.Lock{Owner: 1, End: 9, Type: fuse.LockWrite}, false))
	done := make(chan error)
	go func() { done <- p.lock(fuse.Lock{Owner: 2, End: 9, Type: fuse.LockWrite}, true) }()
	p.parked(1)
	const first = 2 // unique of a client's first request
	must(t, p.l.Client().Interrupt(first+2))
	must(t, p.l.Client().Interrupt(first))
	want(t, "interrupted wait", <-done, syscall.EINTR)
	p.fs.EndWait(1<<40, syscall.EINTR) // there is no such wait
	p.parked(0)
}

// Reset ends all waits.
func TestLockWaitsEndWithTheMount(t *testing.T) {
	p := newPair(t)
	must(t, p.lock(fuse.Lock{Owner: 1, End: 9, Type: fuse.LockWrite}, false))
	done := make(chan error)
	go func() { done <- p.lock(fuse.Lock{Owner: 2, End: 9, Type: fuse.LockWrite}, true) }()
	p.parked(1)
	p.l.Server.Reset()
	want(t, "wait after a reset", <-done, syscall.ENOLCK)
	p.parked(0)
	p.fs.locks.mu.Lock()
	defer p.fs.locks.mu.Unlock()
	same(t, "owners of locks", p.fs.locks.owners.Load(), 0)
	same(t, "files with waits", p.fs.locks.queues.Load(), 0)
}

// However many files have somebody who waits, looking after them takes the same share of
// a processor.
func TestLockWaitsShare(t *testing.T) {
	l := new(locks)
	n := lockNode{locks: l, delay: maxSweep}
	for _, x := range []struct {
		queues     int64
		took, rest time.Duration
	}{
		{1, 0, maxSweep},
		{1, time.Second, 20 * (time.Second + sweepStart)},
		{1000, 0, 20_000 * sweepStart},
		{1000, 90 * time.Microsecond, 20_000 * (90*time.Microsecond + sweepStart)},
	} {
		l.queues.Store(x.queues)
		same(t, fmt.Sprint("rest with ", x.queues, " queues after ", x.took), n.rest(x.took), x.rest)
	}
}

// On a remote file system no lock is asked for where that might block.
func TestLockRemote(t *testing.T) {
	p := newPair(t)
	p.fs.host.inline = inlineNever
	must(t, p.lock(fuse.Lock{Owner: 1, End: 9, Type: fuse.LockWrite}, false))
	lk, err := p.l.Client().GetLock(p.node, p.h, fuse.Lock{Owner: 2, End: 9, Type: fuse.LockWrite})
	must(t, err)
	same(t, "lock", lk.Type, fuse.LockWrite)
	done := make(chan error)
	go func() { done <- p.lock(fuse.Lock{Owner: 2, End: 9, Type: fuse.LockWrite}, true) }()
	p.parked(1)
	must(t, p.l.Client().FlushOwner(p.node, p.h, 1))
	must(t, <-done)
	must(t, p.lock(fuse.Lock{Owner: 2, Start: 20, End: 29, Type: fuse.LockWrite}, true))
}

// A guest that releases a file's handle as a directory's leaves no lock behind.
func TestLockReleasedAsDir(t *testing.T) {
	p := newPair(t)
	must(t, p.lock(fuse.Lock{Flock: true, Type: fuse.LockWrite}, false))
	must(t, p.lock(fuse.Lock{Owner: 1, End: 9, Type: fuse.LockWrite}, false))
	must(t, p.l.Client().ReleaseDir(p.node, p.h))
	p.fs.locks.mu.Lock()
	defer p.fs.locks.mu.Unlock()
	same(t, "files with locks", len(p.fs.locks.nodes), 0)
}

// A handle that is being released by another thread gets no lock that nobody would drop.
func TestLockWhileReleased(t *testing.T) {
	g := newGuest(t, locking)
	node, h := g.made("f", unix.O_RDWR)
	for _, flock := range []bool{true, false} {
		must(t, g.fs.DropHandleLocks(g.c, node, h)) // and Release follows
		lk := fuse.Lock{Owner: 1, End: 9, Type: fuse.LockWrite, Flock: flock}
		want(t, "lock", g.fs.SetLock(g.c, node, h, &lk, nil), unix.EBADF)
	}
	must(t, g.release(node, h))
	same(t, "files with locks", len(g.fs.locks.nodes), 0)
	same(t, "budget of owners", g.fs.locks.owners.Load(), 0)
}
