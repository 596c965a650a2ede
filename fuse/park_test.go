package fuse_test

import (
	"encoding/binary"
	"syscall"
	"testing"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
)

// A waiter is a stub whose locks are always held by somebody else.
type waiter struct {
	stub
	setLock func(w *fuse.Wait) error
	waits   []fuse.Wait
	ended   []syscall.Errno
}

func (*waiter) Offer() (want, need fuse.InitFlags) { return fuse.PosixLocks | fuse.FlockLocks, 0 }

func (f *waiter) SetLock(_ *fuse.Context, _ fuse.NodeID, _ fuse.Handle, _ *fuse.Lock, w *fuse.Wait) error {
	switch {
	case w == nil:
		return syscall.EAGAIN
	case f.setLock != nil:
		return f.setLock(w)
	}
	f.waits = append(f.waits, *w)
	return fuse.ErrParked
}

func (f *waiter) EndWait(id fuse.WaitID, e syscall.Errno) {
	f.ended = append(f.ended, e)
	for i := range f.waits {
		if f.waits[i].ID() == id {
			f.waits[i].Answer(e)
		}
	}
}

// A sleeper is a SETLKW request and what becomes of it.
type sleeper struct {
	*fuse.Request
	out    []byte
	unique uint64
	woken  int
}

func newSleeper(c *fusetest.Client) *sleeper {
	in := c.Message(fuse.OpSetLkW, 1, fuse.LkIn{Handle: 1, End: 9, Type: fuse.LockWrite})
	s := &sleeper{unique: binary.LittleEndian.Uint64(in[8:])}
	s.Request, s.out = request(in, 16)
	s.Wake = func() { s.woken++ }
	return s
}

// serve serves s and checks where it is then; with done also what it was answered.
func (s *sleeper) serve(t *testing.T, th *fuse.Thread, want fuse.Outcome, errno syscall.Errno) {
	t.Helper()
	_, how := th.Serve(s.Request, false)
	if how != want {
		t.Fatalf("Serve() = outcome %d; want %d", how, want)
	}
	if got := -int32(binary.LittleEndian.Uint32(s.out[4:])); how == fuse.Done && got != int32(errno) {
		t.Errorf("answer = errno %d; want %d", got, int32(errno))
	}
}

func interrupt(t *testing.T, c *fusetest.Client, th *fuse.Thread, unique uint64) {
	t.Helper()
	r, _ := request(c.Message(fuse.OpInterrupt, 0, fuse.InterruptIn{Unique: unique}), 0)
	if used, how := th.Serve(r, false); used != 0 || how != fuse.Done {
		t.Fatalf("Serve(INTERRUPT) = %d, %d; want 0, done", used, how)
	}
}

func TestParkedAndAnswered(t *testing.T) {
	for _, e := range []syscall.Errno{0, syscall.EBADF, syscall.EMFILE} {
		fs := new(waiter)
		_, th := thread(t, fs, fuse.Options{})
		s := newSleeper(fusetest.NewClient(nil))
		s.serve(t, th, fuse.Parked, 0)
		for range 2 { // the second one does nothing
			fs.waits[0].Answer(e)
		}
		if s.woken != 1 {
			t.Errorf("Wake was called %d times; want once", s.woken)
		}
		if e == syscall.EMFILE {
			e = syscall.ENFILE
		}
		s.serve(t, th, fuse.Done, e)
		fs.waits[0].Answer(syscall.EIO) // of a request that may be another by now
		s.serve(t, th, fuse.Parked, 0)
	}
}

func TestAnsweredBeforeParked(t *testing.T) {
	fs := new(waiter)
	fs.setLock = func(w *fuse.Wait) error {
		w.Answer(0)
		return fuse.ErrParked
	}
	_, th := thread(t, fs, fuse.Options{})
	s := newSleeper(fusetest.NewClient(nil))
	s.serve(t, th, fuse.Done, 0)
	if s.woken != 0 {
		t.Error("Wake was called for a request that was not parked")
	}
}

func TestWaitRefused(t *testing.T) {
	fs := new(waiter)
	_, th := thread(t, fs, fuse.Options{})
	s := newSleeper(fusetest.NewClient(nil))
	s.Wake = nil
	s.serve(t, th, fuse.Done, syscall.ENOLCK)

	fs.setLock = func(*fuse.Wait) error { return syscall.EBADF }
	s = newSleeper(fusetest.NewClient(nil))
	s.serve(t, th, fuse.Done, syscall.EBADF)
}

func TestInterrupt(t *testing.T) {
	fs := new(waiter)
	server, th := thread(t, fs, fuse.Options{})
	c := fusetest.NewClient(nil)

	t.Run("while parked", func(t *testing.T) {
		s := newSleeper(c)
		s.serve(t, th, fuse.Parked, 0)
		interrupt(t, c, th, s.unique)
		s.serve(t, th, fuse.Done, syscall.EINTR)
	})
	t.Run("before the request", func(t *testing.T) {
		s := newSleeper(c)
		interrupt(t, c, th, s.unique)
		s.serve(t, th, fuse.Done, syscall.EINTR)
	})
	t.Run("before the file system parks it", func(t *testing.T) {
		s := newSleeper(c)
		fs.setLock = func(w *fuse.Wait) error {
			interrupt2(t, c, server, s.unique) // finds nothing yet
			fs.waits = append(fs.waits, *w)
			return fuse.ErrParked
		}
		defer func() { fs.setLock = nil }()
		s.serve(t, th, fuse.Done, syscall.EINTR)
	})
	t.Run("of something else, and too late", func(t *testing.T) {
		fs.ended = nil
		s := newSleeper(c)
		for i := range 100 { // more than are remembered
			interrupt(t, c, th, 1<<40+uint64(i))
		}
		s.serve(t, th, fuse.Parked, 0)
		interrupt(t, c, th, s.unique+1)
		if len(fs.ended) != 0 || s.woken != 0 {
			t.Fatalf("an INTERRUPT of another request ended the wait: %v", fs.ended)
		}
		fs.waits[len(fs.waits)-1].Answer(0)
		interrupt(t, c, th, s.unique)
		s.serve(t, th, fuse.Done, 0)
	})
}

// interrupt2 is interrupt while another thread serves something.
func interrupt2(t *testing.T, c *fusetest.Client, s *fuse.Server, unique uint64) {
	t.Helper()
	other, err := s.NewThread()
	wantErr(t, err, 0, "NewThread()")
	defer other.Close()
	interrupt(t, c, other, unique)
}

func TestCancel(t *testing.T) {
	fs := new(waiter)
	server, th := thread(t, fs, fuse.Options{})
	s := newSleeper(fusetest.NewClient(nil))
	s.serve(t, th, fuse.Parked, 0)
	server.Cancel(s.Request)
	if s.woken != 1 {
		t.Fatalf("Wake was called %d times; want once", s.woken)
	}
	s.serve(t, th, fuse.Done, syscall.ENOLCK)
}

// H188: locks that were not negotiated are the guest's own business.
func TestH188LocksNotNegotiated(t *testing.T) {
	m := fusetest.NewMem()
	m.Want = 0
	c := fusetest.NewLocal(t, m, fuse.Options{}).Client()
	_, err := c.Init(fusetest.AllFlags)
	wantErr(t, err, 0, "Init()")
	for _, flock := range []bool{false, true} {
		lk := fuse.Lock{End: 1, Flock: flock}
		_, err := c.GetLock(fuse.RootID, 1, lk)
		wantErr(t, err, syscall.ENOSYS, "GetLock()")
		wantErr(t, c.SetLock(fuse.RootID, 1, lk, false), syscall.ENOSYS, "SetLock()")
		wantErr(t, c.SetLock(fuse.RootID, 1, lk, true), syscall.ENOSYS, "SetLock(wait)")
	}
	alive(t, c)
}

// A whole wait, through a server that runs: the lock passes from one owner to the next.
func TestWaitForLock(t *testing.T) {
	l := fusetest.NewLocal(t, fusetest.NewMem(), fuse.Options{})
	c := l.Client()
	_, err := c.Init(fusetest.AllFlags)
	wantErr(t, err, 0, "Init()")
	f, err := c.Create(fuse.RootID, "f", syscall.O_RDWR, 0o600)
	wantErr(t, err, 0, "Create()")
	lock := func(owner uint64, typ fuse.LockType) fuse.Lock { return fuse.Lock{Owner: owner, End: 9, Type: typ} }
	wantErr(t, c.SetLock(f.Entry.Node, f.Open.Handle, lock(1, fuse.LockWrite), true), 0, "SetLock(1)")
	done := make(chan error)
	go func() { done <- l.Client().SetLock(f.Entry.Node, f.Open.Handle, lock(2, fuse.LockWrite), true) }()
	wantErr(t, c.SetLock(f.Entry.Node, f.Open.Handle, lock(1, fuse.LockNone), false), 0, "SetLock(1, unlock)")
	wantErr(t, <-done, 0, "SetLock(2)")
	wantErr(t, c.SetLock(f.Entry.Node, f.Open.Handle, lock(1, fuse.LockRead), false), syscall.EAGAIN, "SetLock(1) again")

	go func() { done <- l.Client().SetLock(f.Entry.Node, f.Open.Handle, lock(3, fuse.LockWrite), true) }()
	wantErr(t, c.Destroy(), 0, "Destroy()")
	if err := <-done; err == nil {
		t.Error("SetLock(3) = success after DESTROY; want an error")
	}
}
