package passthrough

import (
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
)

// TestLockStorm lets guests of several servers lock, wait, give up and release at the
// same time. Every wait must be answered, and nothing may be left in the end.
func TestLockStorm(t *testing.T) {
	p := newPair(t)
	before, budget := fds(t), p.fs.budget.n.Load()
	locals := []*fusetest.Local{p.l, fusetest.NewLocal(t, p.fs, fuse.Options{})}
	_, err := locals[1].Client().Init(fusetest.AllFlags) // drops the file of p, too
	must(t, err)
	c := locals[0].Client()
	f, err := c.Lookup(fuse.RootID, "f")
	must(t, err)
	node := f.Node

	ok := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	var guests sync.WaitGroup
	for i := range 8 {
		guests.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			c := locals[i%2].Client()
			owner := uint64(i % 6) // some share one
			for range 150 {
				o, err := c.Open(node, unix.O_RDWR)
				ok(err)
				// Who waits has no lock that another one may wait for.
				for n, wait := 1+random.IntN(3), true; n > 0; n, wait = n-1, false {
					start := uint64(random.IntN(40))
					lk := fuse.Lock{
						Owner: owner, Start: start, End: start + uint64(random.IntN(20)),
						Type: fuse.LockType(random.IntN(3)), Flock: random.IntN(4) == 0,
					}
					switch err := c.SetLock(node, o.Handle, lk, wait && random.IntN(2) == 0); err {
					case nil, syscall.EAGAIN, syscall.EINTR, syscall.EBADF:
					default:
						t.Errorf("SetLock(%+v) = %v", lk, err)
					}
				}
				switch random.IntN(4) {
				case 0:
					ok(c.Interrupt(2 * uint64(random.IntN(600))))
				case 1:
					ok(c.ReleaseDir(node, o.Handle))
					continue
				default:
					ok(c.FlushOwner(node, o.Handle, owner))
				}
				ok(c.Release(node, o.Handle))
			}
		})
	}
	guests.Wait()
	must(t, c.Forget(node, 1))
	l := &p.fs.locks
	same(t, "descriptors", fds(t), before-2)
	same(t, "budget", p.fs.budget.n.Load(), budget-2)
	same(t, "owners, locks, waits and files with them",
		[5]int64{l.owners.Load(), l.spans.Load(), l.queues.Load(), int64(len(l.waits)), int64(len(l.nodes))}, [5]int64{})
}
