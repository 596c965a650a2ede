package virtiofs_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/internal/testkit"
	"vfiofs/virtio/virtiofs"
)

// run sends b.N requests, depth of them in flight.
func (c *crowd) run(b *testing.B, depth int) {
	b.ReportAllocs()
	c.done = 0
	b.ResetTimer()
	for c.done < b.N {
		c.add(min(depth-c.r.Outstanding(), b.N-c.done-c.r.Outstanding()))
		c.submit()
		c.poll()
	}
}

// hot returns a share, and requests of the operations that guests send most, for it.
func hot(t testing.TB, poll time.Duration) (g *guest, requests map[string]request) {
	t.Helper()
	g, dir := newShare(t, guestOptions{poll: poll})
	testkit.Check(t, os.WriteFile(filepath.Join(dir, "file"), make([]byte, 1<<20), 0o600))
	c := g.client()
	entry, err := c.Lookup(fuse.RootID, "file")
	testkit.Check(t, err)
	opened, err := c.Open(entry.Node, unix.O_RDWR)
	testkit.Check(t, err)
	return g, map[string]request{
		"null":      {c.Message(fuse.Opcode(4000), fuse.RootID), 16},
		"STATFS":    {c.Message(fuse.OpStatFS, fuse.RootID), 96},
		"GETATTR":   {c.Message(fuse.OpGetAttr, entry.Node, fuse.GetAttrIn{}), 120},
		"LOOKUP":    {c.Message(fuse.OpLookup, fuse.RootID, "file"), 144},
		"miss":      {c.Message(fuse.OpLookup, fuse.RootID, "nothing"), 144},
		"READ 4K":   {c.Message(fuse.OpRead, entry.Node, fuse.ReadIn{Handle: opened.Handle, Size: 4096}), 16 + 4096},
		"READ 256K": {c.Message(fuse.OpRead, entry.Node, fuse.ReadIn{Handle: opened.Handle, Size: 256 << 10}), 16 + 256<<10},
		"WRITE 4K":  {c.Message(fuse.OpWrite, entry.Node, fuse.WriteIn{Handle: opened.Handle, Size: 4096}, make([]byte, 4096)), 24},
	}
}

// TestAllocations: once warm, no request allocates, neither in the device nor in the file
// system. CI relies on it.
func TestAllocations(t *testing.T) {
	for _, poll := range []time.Duration{0, virtiofs.DefaultPoll} {
		g, requests := hot(t, poll)
		c := newCrowd(g, 1, 128)
		for name, r := range requests {
			c.send(r)
			batch := func() {
				c.add(8)
				c.submit()
				for c.r.Outstanding() > 0 {
					c.wait() // NoAllocs leaves one P, which polling would keep
				}
			}
			batch()
			testkit.NoAllocs(t, 100, fmt.Sprintf("%s, poll %v: a batch of 8", name, poll), batch)
		}
	}
}

// BenchmarkRequests passes each of the hot requests through a ring, with 32 in flight.
func BenchmarkRequests(b *testing.B) {
	g, requests := hot(b, virtiofs.DefaultPoll)
	c := newCrowd(g, 1, 128)
	for _, name := range slices.Sorted(maps.Keys(requests)) {
		b.Run(name, func(b *testing.B) {
			c.send(requests[name])
			c.run(b, 32)
		})
	}
}

// BenchmarkRing passes requests through a ring and back, with 32 in flight.
func BenchmarkRing(b *testing.B) {
	for _, poll := range []time.Duration{0, virtiofs.DefaultPoll} {
		for _, depth := range []int{1, 32} {
			b.Run(fmt.Sprintf("poll=%v/depth=%d", poll, depth), func(b *testing.B) {
				c := newCrowd(newGuest(b, fusetest.NewMem(), guestOptions{poll: poll}), 1, 128)
				c.run(b, depth)
			})
		}
	}
}

// BenchmarkWorkers passes requests that may block to workers and back.
func BenchmarkWorkers(b *testing.B) {
	for _, poll := range []time.Duration{0, virtiofs.DefaultPoll} {
		for _, depth := range []int{1, 8} {
			b.Run(fmt.Sprintf("poll=%v/depth=%d", poll, depth), func(b *testing.B) {
				g := newGuest(b, fusetest.NewMem(), guestOptions{poll: poll, workers: 4})
				c := newCrowd(g, 1, 128)
				c.send(request{g.client().Message(fuse.OpSyncFS, fuse.RootID, make([]byte, 8)), 16})
				c.run(b, depth)
			})
		}
	}
}
