package virtiofs_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/testkit"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtq/virtqtest"
)

// TestH216RandomRequests gives the device random FUSE bytes in sound chains: each is
// completed, and the ring goes on. The fuzz targets of virtq and fuse go on from here.
func TestH216RandomRequests(t *testing.T) {
	g := newRig(t, virtqtest.Options{})
	random := rand.New(rand.NewPCG(216, 2))
	for i := range 3000 {
		body := make([]byte, random.IntN(200))
		for j := range body {
			body[j] = byte(random.Uint32() & random.Uint32())
		}
		op := fuse.Opcode(random.IntN(60))
		if op == fuse.OpDestroy || op == fuse.OpInit {
			op = fuse.OpLookup
		}
		request := g.c.Message(op, fuse.NodeID(random.IntN(4)), body)
		if random.IntN(4) == 0 {
			binary.LittleEndian.PutUint32(request, random.Uint32())
		}
		reply, n := g.ask(request)
		if n != 0 && (n < 16 || binary.LittleEndian.Uint32(reply) != n) {
			t.Fatalf("request %d (%v): used length %d, reply says %d", i, op, n, binary.LittleEndian.Uint32(reply))
		}
	}
	g.alive()
}

// TestH216RandomChains has descriptors that say anything. A ring that breaks is started
// again.
func TestH216RandomChains(t *testing.T) {
	for _, indirect := range []bool{false, true} {
		g := newRig(t, virtqtest.Options{Indirect: indirect})
		random := rand.New(rand.NewPCG(216, 3))
		for range 1500 {
			g.restart()
			g.Request = g.c.Message(fuse.OpGetAttr, fuse.RootID, make([]byte, 16))
			g.Sound() // so that a part of what follows makes sense
			for range random.IntN(4) {
				addr := guestmem.GPA(random.Uint64N(1 << 20))
				g.SetDesc(random.IntN(4), addr, uint32(random.IntN(1<<13)), uint16(random.IntN(8)), uint16(random.IntN(8)))
			}
			testkit.Check(t, g.kick.Signal())
			for done := false; !done; {
				select {
				case <-g.fail:
					done = true
				default:
					_, _, done = g.TakeUsed()
					if !done {
						done = g.failedOrCalled()
					}
				}
			}
		}
		g.restart()
		g.alive()
	}
}

// failedOrCalled waits for a call, or for the end of the ring, which it reports.
func (g *rig) failedOrCalled() (failed bool) {
	g.t.Helper()
	for end := time.Now().Add(testkit.Patience); time.Now().Before(end); {
		select {
		case <-g.fail:
			return true
		default:
		}
		p := []unix.PollFd{{Fd: int32(g.call.Int()), Events: unix.POLLIN}}
		if n, _ := unix.Poll(p, 10); n > 0 {
			g.call.Drain()
			return false
		}
	}
	g.t.Fatal("neither a call nor the end of the ring")
	return false
}
