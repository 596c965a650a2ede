package passthrough

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/testkit"
)

// lister is a guest to whom every ctime is old, and a directory with n names of many
// lengths.
func lister(t *testing.T, n int) (*guest, fuse.NodeID) {
	g := newGuest(t)
	if !g.fs.host.ready {
		unable(t, "no listings are kept of this file system: set TMPDIR to ext4, xfs, btrfs or tmpfs")
	}
	g.fs.nodes.old = 0
	g.mkdir("d", 0o755)
	for i := range n {
		g.file(fmt.Sprint("d/", i, strings.Repeat("x", i%23)), "", 0o644)
	}
	return g, g.find("d").Node
}

// list lists a directory with a handle of its own.
func (g *guest) list(node fuse.NodeID, size int, plus bool) []dirent {
	g.Helper()
	h := g.opendir(node)
	defer g.release(node, h)
	list := g.readAll(node, h, size, plus)
	if plus {
		for _, x := range list {
			g.fs.Forget(g.c, x.node, 1)
		}
	}
	return list
}

// keep lists a directory until its listing is kept.
func (g *guest) keep(node fuse.NodeID) {
	g.Helper()
	for range 2 {
		g.list(node, 4096, false)
	}
	same(g, "state of the listing", g.place(node).state, listingWhole)
}

func (g *guest) place(id fuse.NodeID) *listing {
	return g.fs.place(&g.fs.nodes.slab.at(uint32(id)).v)
}

// change calls f when what it changes gets another ctime than a directory has.
func (g *guest) change(name string, f func()) {
	g.Helper()
	before := g.host(name).Ctim
	for ticked := false; !ticked; {
		g.file("clock", "", 0o644)
		now := g.host("clock").Ctim
		ticked = now.Nano() > before.Nano()
		must(g, os.Remove(g.path("clock")))
	}
	f()
	if g.host(name).Ctim == before {
		g.Fatalf("the ctime of %q is still %v", name, before)
	}
}

// fromHost reports whether a handle takes its records from the host.
func (g *guest) fromHost(node fuse.NodeID, h fuse.Handle) bool {
	e := g.fs.handles.get(h, node)
	defer g.fs.handles.put(e)
	return e.v.pos != 0
}

func TestListing(t *testing.T) {
	const n = 300
	for _, size := range []int{300, 4096, 1 << 20} {
		for _, plus := range []bool{false, true} {
			t.Run(fmt.Sprint(size, plus), func(t *testing.T) {
				g, d := lister(t, n)
				first := g.list(d, size, plus)
				same(t, "entries", len(first), n+2)
				same(t, "state after the first listing", g.place(d).state, listingNoted)
				g.list(d, size, plus)
				same(t, "state after the second", g.place(d).state, listingWhole)
				h := g.opendir(d)
				for i, x := range g.readAll(d, h, size, plus) {
					x.node = first[i].node
					same(t, "entry of the third", x, first[i])
				}
				same(t, "third from the host", g.fromHost(d, h), false)
			})
		}
	}
}

func TestListingChanges(t *testing.T) {
	g, d := lister(t, 3)
	made := 0
	for _, c := range []struct {
		what string
		f    func()
	}{
		{"made by the host", func() { made++; g.file(fmt.Sprint("d/new", made), "", 0o644) }},
		{"made by the guest", func() {
			made++
			_, err := g.mkdirat(d, fmt.Sprint("new", made), 0o755)
			must(t, err)
		}},
		{"renamed", func() {
			made++
			must(t, os.Rename(g.path(fmt.Sprint("d/new", made-1)), g.path(fmt.Sprint("d/new", made))))
		}},
		{"exchanged with a directory's", func() {
			g.mkdir("other", 0o755)
			must(t, unix.Renameat2(unix.AT_FDCWD, g.path(fmt.Sprint("d/new", made)), unix.AT_FDCWD, g.path("other"), unix.RENAME_EXCHANGE))
		}},
		{"removed", func() { must(t, os.Remove(g.path(fmt.Sprint("d/new", made)))) }},
	} {
		g.keep(d)
		g.change("d", c.f)
		want := map[string]uint64{}
		host, err := os.ReadDir(g.path("d"))
		must(t, err)
		for _, x := range host {
			want[x.Name()] = g.host("d/" + x.Name()).Ino
		}
		for i := range 3 {
			got := names(g.list(d, 4096, false))
			same(t, fmt.Sprintf("names in listing %d after one was %s", i, c.what), len(got), len(want))
			for name, ino := range want {
				same(t, "inode of "+name, got[name].ino, ino)
			}
		}
	}
}

// TestListingRewind lists with one handle, and what changes meanwhile.
func TestListingRewind(t *testing.T) {
	g, d := lister(t, 10)
	g.keep(d)
	h := g.opendir(d)
	same(t, "entries", len(g.readAll(d, h, 4096, false)), 12)
	g.change("d", func() {
		g.file("d/new", "", 0o644)
		must(t, os.Remove(g.path("d/0")))
	})
	list := names(g.readAll(d, h, 4096, false))
	_, there := list["new"]
	_, gone := list["0"]
	same(t, "the new name is there", there, true)
	same(t, "the old one is", gone, false)
}

// TestListingYoung: two changes in one tick of the clock have the same ctime.
func TestListingYoung(t *testing.T) {
	g, d := lister(t, 3)
	g.fs.nodes.old = oldAge
	g.change("d", func() { g.file("d/new", "", 0o644); g.file("d/newer", "", 0o644) })
	for range 3 {
		g.list(d, 4096, false)
	}
	if time.Since(time.Unix(g.host("d").Ctim.Sec, 0)) < oldAge*time.Second {
		same(t, "state of the listing", g.place(d).state, listingNone)
	}
}

func TestListingAges(t *testing.T) {
	g, d := lister(t, 3)
	g.keep(d)
	g.place(d).began = time.Now().Add(-listingAge)
	h := g.opendir(d)
	g.readAll(d, h, 4096, false)
	same(t, "an old listing is read anew", g.fromHost(d, h), true)
	same(t, "state after that", g.place(d).state, listingWhole)
}

func TestListingSeek(t *testing.T) {
	g, d := lister(t, 100)
	all := g.list(d, 4096, false)
	g.keep(d)
	h := g.opendir(d)
	_, err := g.readdir(d, h, 0, 4096, false)
	must(t, err)
	for _, i := range []int{50, 3, 99, 0, 100, 101} {
		list, err := g.readdir(d, h, all[i].off, 300, false)
		must(t, err)
		if i+1 == len(all) {
			same(t, "entries after the last", len(list), 0)
			continue
		}
		same(t, "entry after a cookie", list[0].name, all[i+1].name)
	}
	same(t, "any of that from the host", g.fromHost(d, h), false)
	for _, cookie := range []uint64{1, 1 << 62, ^uint64(0)} {
		mine, err := g.readdir(d, h, cookie, 300, false)
		hosts, err2 := g.readdir(d, g.opendir(d), cookie, 300, false) // knows no listing
		same(t, fmt.Sprintf("error at cookie %#x", cookie), fmt.Sprint(err), fmt.Sprint(err2))
		same(t, fmt.Sprintf("entries at cookie %#x", cookie), fmt.Sprint(mine), fmt.Sprint(hosts))
	}
}

// TestListingTaken has another directory take the place of a listing that is being read or
// gathered.
func TestListingTaken(t *testing.T) {
	const n = 100
	for _, kept := range []bool{true, false} {
		g, d := lister(t, n)
		if g.list(d, 4096, false); kept {
			g.keep(d)
		}
		h := g.opendir(d)
		list, err := g.readdir(d, h, 0, 300, false)
		must(t, err)
		l := g.place(d)
		l.mu.Lock()
		l.set(12345, unix.Timespec{}, listingWhole)
		l.mu.Unlock()
		for {
			more, err := g.readdir(d, h, list[len(list)-1].off, 300, false)
			must(t, err)
			if len(more) == 0 {
				break
			}
			list = append(list, more...)
		}
		same(t, "names", len(names(list)), n)
		same(t, "records in the other's listing", len(l.recs), 0)
	}
}

func TestListingLong(t *testing.T) {
	const n = 700
	g, d := lister(t, 0)
	for i := range n {
		must(t, unix.Mknod(g.path(fmt.Sprint("d/", i, strings.Repeat("x", 240))), unix.S_IFREG|0o644, 0))
	}
	for range 4 {
		same(t, "names", len(names(g.list(d, 1<<20, false))), n)
	}
	same(t, "state of the listing", g.place(d).state, listingUnfit)
}

func TestListingRemoved(t *testing.T) {
	g, d := lister(t, 0)
	g.keep(d)
	h := g.opendir(d)
	g.change("d", func() {
		must(t, os.Remove(g.path("d")))
		g.mkdir("d", 0o755)
	})
	same(t, "entries of a directory that is gone", len(g.readAll(d, h, 4096, false)), 0)
}

func TestListingForgottenByGuest(t *testing.T) {
	g, d := lister(t, 3)
	g.keep(d)
	l := g.place(d)
	g.fs.Destroy()
	same(t, "records after DESTROY", cap(l.recs), 0)
}

// TestListingTogether has many handles of one directory read while it changes.
func TestListingTogether(t *testing.T) {
	const n = 60
	g, d := lister(t, n)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			g := g.thread(t)
			for range 200 {
				list := names(g.list(d, 300, false))
				delete(list, "now and then")
				if len(list) != n {
					t.Errorf("%d names; want %d", len(list), n)
				}
			}
		})
	}
	for range 200 {
		g.file("d/now and then", "", 0o644)
		must(t, os.Remove(g.path("d/now and then")))
	}
	wg.Wait()
}

func TestAmbiguous(t *testing.T) {
	rec := func(next int64) []byte {
		b := make([]byte, 24)
		b[8], b[16], b[19] = byte(next), 24, 'x'
		return b
	}
	for _, c := range []struct {
		cookies []int64
		want    bool
	}{{nil, false}, {[]int64{1, 2, 3}, false}, {[]int64{1, 1}, true}, {[]int64{9}, true}} {
		var recs []byte
		for _, next := range c.cookies {
			recs = append(recs, rec(next)...)
		}
		same(t, fmt.Sprint("ambiguous ", c.cookies), ambiguous(recs, 9), c.want)
	}
}

func TestListingNoAllocs(t *testing.T) {
	g, d := lister(t, 100)
	g.keep(d)
	h := g.opendir(d)
	var b fuse.DirBuffer
	b.Reset(1 << 20)
	testkit.NoAllocs(t, 100, "to list a directory that is kept", func() {
		b.Reset(1 << 20)
		must(t, g.fs.ReadDir(g.c, d, h, 0, false, &b))
	})
}
