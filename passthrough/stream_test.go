package passthrough

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// eachFS runs a test in a directory of the file system for temporary files, and in one
// of a tmpfs if that is another.
func eachFS(t *testing.T, f func(t *testing.T, g *guest, magic int64)) {
	var st unix.Statfs_t
	must(t, unix.Statfs(t.TempDir(), &st))
	first := int64(st.Type)
	t.Run("temporary", func(t *testing.T) { f(t, newGuest(t), first) })
	if dir := onTmpfs(t); dir != "" && first != unix.TMPFS_MAGIC {
		t.Run("tmpfs", func(t *testing.T) {
			f(t, newGuest(t, func(o *Options) fuse.InitFlags { o.SharedDir = dir; return 0 }), unix.TMPFS_MAGIC)
		})
	}
}

// onTmpfs makes a directory in memory; "" means that there is no place for it.
func onTmpfs(t *testing.T) (dir string) {
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) != nil || st.Type != unix.TMPFS_MAGIC {
		return ""
	}
	dir, err := os.MkdirTemp("/dev/shm", "vfiofs-test-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// fill makes n empty files.
func (g *guest) fill(prefix string, n int) {
	g.Helper()
	for i := range n {
		must(g, unix.Mknod(g.path(fmt.Sprint(prefix, i)), unix.S_IFREG|0o644, 0))
	}
}

// TestH131HugeDirectory reads 10^5 entries, or 10^6 with VFIOFS_MOUNT=1; fewer where
// they take long to make.
func TestH131HugeDirectory(t *testing.T) {
	n := 100_000
	if os.Getenv("VFIOFS_MOUNT") == "1" {
		n = 1_000_000
	}
	eachFS(t, func(t *testing.T, g *guest, magic int64) {
		if magic != unix.TMPFS_MAGIC {
			n /= 50
		}
		g.fill("file-", n)
		h := g.opendir(fuse.RootID)
		for _, size := range []int{4096, 1 << 20} {
			seen := make([]bool, n)
			count, wide := 0, false
			for off := uint64(0); ; {
				list, err := g.readdir(fuse.RootID, h, off, size, false)
				must(t, err)
				if len(list) == 0 {
					break
				}
				for _, x := range list {
					off = x.off
					wide = wide || off > 1<<32
					if isDots([]byte(x.name)) {
						continue
					}
					var i int
					fmt.Sscanf(x.name, "file-%d", &i)
					if seen[i] {
						t.Fatalf("%s came twice", x.name)
					}
					seen[i] = true
					count++
				}
			}
			same(t, "entries", count, n)
			if magic == unix.EXT4_SUPER_MAGIC && !wide {
				t.Error("no cookie of ext4 is larger than 2^32; want all 64 bits")
			}
		}
	})
}

// TestH133SeekAnywhere goes back to every cookie, in any order.
func TestH133SeekAnywhere(t *testing.T) {
	eachFS(t, func(t *testing.T, g *guest, _ int64) {
		g.fill("f", 500)
		h := g.opendir(fuse.RootID)
		all := g.readAll(fuse.RootID, h, 1000, false)
		same(t, "entries", len(all), 502)
		for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(all)) {
			list, err := g.readdir(fuse.RootID, h, all[i].off, 300, i%2 == 0)
			must(t, err)
			if i == len(all)-1 {
				same(t, "entries after the last", len(list), 0)
				continue
			}
			same(t, "entry after a cookie", list[0].name, all[i+1].name)
		}
	})
}

// TestRemoveWhileReading is rm -r: what was read is deleted before the next read.
func TestRemoveWhileReading(t *testing.T) {
	eachFS(t, func(t *testing.T, g *guest, _ int64) {
		const n = 1000
		g.fill("f", n)
		h := g.opendir(fuse.RootID)
		seen := make(map[string]bool)
		for off := uint64(0); ; {
			list, err := g.readdir(fuse.RootID, h, off, 1000, false)
			must(t, err)
			if len(list) == 0 {
				break
			}
			for _, x := range list {
				off = x.off
				if isDots([]byte(x.name)) {
					continue
				}
				if seen[x.name] {
					t.Fatalf("%s came twice", x.name)
				}
				seen[x.name] = true
				must(t, g.fs.Unlink(g.c, fuse.RootID, []byte(x.name)))
			}
		}
		same(t, "entries", len(seen), n)
		list, err := os.ReadDir(g.dir)
		must(t, err)
		same(t, "entries left", len(list), 0)
	})
}

// TestChangeWhileReading: an entry that exists all the time comes exactly once, whatever
// happens to the others meanwhile.
func TestChangeWhileReading(t *testing.T) {
	eachFS(t, func(t *testing.T, g *guest, _ int64) {
		const n = 700
		for i := range n {
			must(t, unix.Mknod(g.path(fmt.Sprint("stays", i)), unix.S_IFREG|0o644, 0))
			must(t, unix.Mknod(g.path(fmt.Sprint("goes", i)), unix.S_IFREG|0o644, 0))
		}
		done := make(chan struct{})
		var host sync.WaitGroup
		host.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				os.Remove(g.path(fmt.Sprint("goes", i%n)))
				os.Rename(g.path(fmt.Sprint("comes", i%7)), g.path(fmt.Sprint("came", i%11)))
				unix.Mknod(g.path(fmt.Sprint("comes", i%7)), unix.S_IFREG|0o644, 0)
				unix.Mknod(g.path(fmt.Sprint("goes", (i+n/2)%n)), unix.S_IFREG|0o644, 0)
			}
		})
		defer host.Wait()
		defer close(done)
		h := g.opendir(fuse.RootID)
		for round := range 6 {
			seen := make(map[string]int)
			for _, x := range g.readAll(fuse.RootID, h, []int{700, 4096, 100_000}[round%3], round%2 == 0) {
				seen[x.name]++
				if x.node != 0 {
					g.forget(x.node, 1)
				}
			}
			stay := 0
			for name, k := range seen {
				if !strings.HasPrefix(name, "stays") {
					continue
				}
				stay++
				if k != 1 {
					t.Errorf("round %d: %s came %d times; want once", round, name, k)
				}
			}
			same(t, "entries that stay", stay, n)
		}
	})
}

func TestH137RemovedWhileReading(t *testing.T) {
	eachFS(t, func(t *testing.T, g *guest, _ int64) {
		g.mkdir("d", 0o755)
		g.fill("d/f", 100)
		n := g.find("d").Node
		h := g.opendir(n)
		list, err := g.readdir(n, h, 0, 500, false)
		must(t, err)
		must(t, os.RemoveAll(g.path("d")))
		for _, off := range []uint64{list[len(list)-1].off, list[0].off, 0} {
			list, err := g.readdir(n, h, off, 500, true)
			must(t, err)
			for _, x := range list {
				if !isDots([]byte(x.name)) || x.node != 0 {
					t.Errorf("entry of a removed directory = %+v; want none", x)
				}
			}
		}
	})
}

// TestNewHandleOldCookie: a cookie means the same to another handle, as NFS servers
// need it, and after the directory was evicted.
func TestNewHandleOldCookie(t *testing.T) {
	eachFS(t, func(t *testing.T, g *guest, _ int64) {
		g.mkdir("d", 0o755)
		g.fill("d/f", 300)
		n := g.find("d").Node
		h := g.opendir(n)
		all := g.readAll(n, h, 4096, false)
		must(t, g.release(n, h))
		g.isEvicted(n)
		h = g.opendir(n)
		for _, i := range []int{200, 7, 299} {
			list, err := g.readdir(n, h, all[i].off, 300, false)
			must(t, err)
			same(t, "entry after a cookie", list[0].name, all[i+1].name)
		}
	})
}

// TestRewindFromTheEnd: a descriptor that was read nowhere but at its end is rewound.
func TestRewindFromTheEnd(t *testing.T) {
	eachFS(t, func(t *testing.T, g *guest, _ int64) {
		g.fill("f", 40)
		h := g.opendir(fuse.RootID)
		all := g.readAll(fuse.RootID, h, 4096, false)
		h = g.opendir(fuse.RootID)
		list, err := g.readdir(fuse.RootID, h, all[len(all)-1].off, 4096, false)
		must(t, err)
		same(t, "entries at the end", len(list), 0)
		same(t, "entries", len(g.readAll(fuse.RootID, h, 4096, false)), 42)
	})
}

// FuzzReadDir asks for any size at any cookie: whatever the host makes of the cookie,
// the reply is whole entries that fit, and the next listing is right.
func FuzzReadDir(f *testing.F) {
	f.Add(uint64(0), uint16(4096), true)
	f.Add(uint64(1), uint16(31), false)
	f.Add(^uint64(0), uint16(512), false)
	f.Add(uint64(1)<<63, uint16(200), true)
	f.Add(uint64(1)<<63-1, uint16(65535), true)
	g := newGuest(f)
	g.fill("some-name", 40)
	f.Fuzz(func(t *testing.T, off uint64, size uint16, plus bool) {
		g := g.thread(t)
		h := g.opendir(fuse.RootID)
		defer g.release(fuse.RootID, h)
		for range 2 { // the second time the position may not be known
			list, err := g.readdir(fuse.RootID, h, off, int(size), plus)
			sum := 0
			for _, x := range list {
				if x.node != 0 {
					g.forget(x.node, 1)
				}
				sum += (24 + len(x.name) + 7) &^ 7
				if plus {
					sum += 128
				}
			}
			if sum > int(size) || err != nil && len(list) > 0 {
				t.Errorf("ReadDir(%#x, %d bytes) = %d bytes, %v", off, size, sum, err)
			}
		}
		same(t, "entries", len(g.readAll(fuse.RootID, h, 4096, false)), 42)
	})
}
