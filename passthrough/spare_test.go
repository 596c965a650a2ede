package passthrough

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/testkit"
)

// isOpen returns how many descriptors of the process read or write a file of the share,
// which may be unlinked by now. Those of nodes do neither.
func (g *guest) isOpen(name string) (n int) {
	g.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(g, err)
	for _, x := range list {
		k, _ := strconv.Atoi(x.Name())
		flags, err := unix.FcntlInt(uintptr(k), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_PATH != 0 {
			continue
		}
		to, _ := os.Readlink(filepath.Join("/proc/self/fd", x.Name()))
		if strings.TrimSuffix(to, " (deleted)") == g.path(name) {
			n++
		}
	}
	return n
}

// descriptorOf returns the descriptor of a handle.
func (g *guest) descriptorOf(n fuse.NodeID, h fuse.Handle) int {
	g.Helper()
	e := g.fs.handles.get(h, n)
	if e == nil {
		g.Fatalf("handle %d does not exist", h)
	}
	defer g.fs.handles.put(e)
	return e.v.fd
}

// quietGuest returns a guest with files "f" and "g", of which f was opened for reading
// and released.
func quietGuest(t *testing.T, edit ...func(*Options) fuse.InitFlags) (g *guest, f fuse.NodeID) {
	t.Helper()
	g = newGuest(t, edit...)
	if !g.fs.host.quiet {
		unable(t, "needs temporary files on a local file system")
	}
	g.file("f", "data", 0o644)
	g.file("g", "other", 0o644)
	f = g.find("f").Node
	must(t, g.release(f, g.open(f, unix.O_RDONLY)))
	return g, f
}

func TestSpareIsTaken(t *testing.T) {
	g, n := quietGuest(t)
	same(t, "descriptors of a released file", g.isOpen("f"), 1)
	budget := g.fs.budget.n.Load()
	h := g.open(n, unix.O_RDONLY)
	same(t, "descriptors", g.isOpen("f"), 1)
	same(t, "data", g.read(n, h, 0, 10), "data")
	e := g.fs.handles.get(h, n)
	e.v.read.Store(uint32(inlinePlain)) // as on tmpfs
	g.fs.handles.put(e)
	must(t, g.release(n, h))
	for range 3 {
		h2 := g.open(n, unix.O_RDONLY)
		if h2 == h {
			t.Fatalf("Open = handle %d again; want a new one", h)
		}
		same(t, "data again", g.read(n, h2, 0, 10), "data")
		_, err := g.readErr(n, h, 0, 1)
		want(t, "Read by the old handle", err, unix.EBADF)
		want(t, "Release of the old handle", g.release(n, h), unix.EBADF)
		must(t, g.release(n, h2))
	}
	h = g.open(n, unix.O_RDONLY)
	e = g.fs.handles.get(h, n)
	same(t, "how it is read", inline(e.v.read.Load()), inlinePlain)
	g.fs.handles.put(e)
	must(t, g.release(n, h))
	same(t, "descriptors in the end", g.isOpen("f"), 1)
	same(t, "budget", g.fs.budget.n.Load(), budget)
}

// What belongs to the open file description passes to nobody, and nobody gets less than
// he asked for.
func TestSpareOfPlainFilesOnly(t *testing.T) {
	g, _ := quietGuest(t, func(o *Options) fuse.InitFlags {
		o.PreserveNoatime = true
		return 0
	})
	g.fs.Init(0)
	n, m := g.find("f").Node, g.find("g").Node
	for _, flags := range []uint32{
		unix.O_RDWR, unix.O_WRONLY, unix.O_RDONLY | unix.O_NONBLOCK, unix.O_RDONLY | unix.O_SYNC,
		unix.O_RDONLY | unix.O_NOATIME, unix.O_RDONLY | unix.O_TRUNC,
	} {
		must(t, g.release(n, g.open(n, flags)))
		same(t, fmt.Sprintf("descriptors after RELEASE of flags %#x", flags), g.isOpen("f"), 0)

		must(t, g.release(m, g.open(m, unix.O_RDONLY)))
		g.open(m, flags)
		same(t, fmt.Sprintf("descriptors after OPEN with flags %#x", flags), g.isOpen("g"), 2)
		g.fs.Init(0)
		n, m = g.find("f").Node, g.find("g").Node
	}
	_, err := g.openErr(n, unix.O_RDONLY|unix.O_DIRECTORY)
	want(t, "Open with O_DIRECTORY", err, unix.ENOTDIR)
	h := g.open(fuse.RootID, unix.O_RDONLY) // which is a directory
	must(t, g.release(fuse.RootID, h))
	// As the caller, and maybe open for writing (createLabelled).
	n, h = g.made("new", unix.O_RDONLY)
	must(t, g.release(n, h))
	same(t, "descriptors of a file that CREATE made", g.isOpen("new"), 0)
	same(t, "spares", g.fs.spares.shed(), false)
}

func TestSpareOfOrdinaryMountsOnly(t *testing.T) {
	for magic, want := range map[int64]bool{
		unix.EXT4_SUPER_MAGIC: true, unix.TMPFS_MAGIC: true,
		unix.NFS_SUPER_MAGIC: false, unix.FUSE_SUPER_MAGIC: false, unix.PROC_SUPER_MAGIC: false, 0: false,
	} {
		same(t, fmt.Sprintf("quiet(%#x)", magic), quiet(magic), want)
	}
	g, _ := quietGuest(t)
	g.mkdir("a", 0o755)
	g.mkdir("b", 0o755)
	g.file("a/f", "x", 0o644)
	g.bind("a", "b")
	n := g.find("b/f").Node
	must(t, g.release(n, g.open(n, unix.O_RDONLY)))
	same(t, "descriptors of a file of another mount", g.isOpen("b/f"), 0)
	g.fs.host.quiet = false
	n = g.find("g").Node
	must(t, g.release(n, g.open(n, unix.O_RDONLY)))
	same(t, "descriptors of a file that is not quiet", g.isOpen("g"), 0)
}

// A lock ends with its handle, and neither the next handle nor the host meets it.
func TestSpareWithoutLocks(t *testing.T) {
	g, n := quietGuest(t, locking)
	host, err := os.Open(g.path("f"))
	must(t, err)
	defer host.Close()
	for what, lock := range map[string]func(fuse.Handle) error{
		"flock": func(h fuse.Handle) error {
			return g.fs.SetLock(g.c, n, h, &fuse.Lock{Flock: true, Type: fuse.LockRead}, nil)
		},
		"fcntl": func(h fuse.Handle) error { return g.lock(n, h, 1, fuse.LockRead, 0, eof) },
	} {
		h := g.open(n, unix.O_RDONLY)
		must(t, lock(h))
		must(t, g.fs.DropHandleLocks(g.c, n, h))
		must(t, g.release(n, h))
		same(t, "descriptors after "+what, g.isOpen("f"), 1) // host
	}
	h := g.open(n, unix.O_RDONLY)
	must(t, g.fs.SetLock(g.c, n, h, &fuse.Lock{Flock: true, Type: fuse.LockWrite}, nil))
	must(t, g.release(n, h)) // a guest that has not negotiated locks
	want(t, "host's flock", unix.Flock(int(host.Fd()), unix.LOCK_EX|unix.LOCK_NB), 0)

	// A handle that was only asked for others' locks is as good as new.
	h = g.open(n, unix.O_RDONLY)
	must(t, g.fs.GetLock(g.c, n, h, &fuse.Lock{Owner: 1, Type: fuse.LockRead, End: eof}))
	must(t, g.fs.DropHandleLocks(g.c, n, h))
	must(t, g.release(n, h))
	same(t, "descriptors after GETLK", g.isOpen("f"), 2)
}

func TestSpareOfTwoHandles(t *testing.T) {
	g, n := quietGuest(t)
	a, b := g.open(n, unix.O_RDONLY), g.open(n, unix.O_RDONLY)
	same(t, "descriptors of two handles", g.isOpen("f"), 2)
	if g.descriptorOf(n, a) == g.descriptorOf(n, b) {
		t.Fatal("two handles have one descriptor")
	}
	must(t, g.release(n, a))
	same(t, "data by the other", g.read(n, b, 0, 10), "data")
	must(t, g.release(n, b))
	same(t, "spares of one file", g.isOpen("f"), 1)
}

// TestSpareEnds: each of these closes the spare of f.
func TestSpareEnds(t *testing.T) {
	for what, f := range map[string]func(g *guest, n fuse.NodeID){
		"two sweeps": func(g *guest, _ fuse.NodeID) {
			g.fs.spares.sweep()
			same(g, "descriptors after one sweep", g.isOpen("f"), 1)
			g.fs.spares.sweep()
		},
		"FORGET":         func(g *guest, n fuse.NodeID) { g.forget(n, 1) },
		"UNLINK":         func(g *guest, _ fuse.NodeID) { must(g, g.fs.Unlink(g.c, fuse.RootID, []byte("f"))) },
		"RENAME over it": func(g *guest, _ fuse.NodeID) { must(g, g.rename("g", "f", 0)) },
		"SETXATTR": func(g *guest, n fuse.NodeID) {
			must(g, g.fs.SetXattr(g.c, n, []byte("user.a"), []byte("x"), 0, false))
		},
		"SETATTR": func(g *guest, n fuse.NodeID) {
			_, err := g.setattr(n, fuse.SetAttr{Valid: fuse.SetAttrMode, Mode: 0o600})
			must(g, err)
		},
		"REMOVEXATTR": func(g *guest, n fuse.NodeID) {
			must(g, unix.Setxattr(g.path("f"), "user.a", []byte("x"), 0))
			must(g, g.fs.RemoveXattr(g.c, n, []byte("user.a")))
		},
		"eviction": func(g *guest, n fuse.NodeID) { g.isEvicted(n) },
		"another file in its place": func(g *guest, n fuse.NodeID) {
			g.fs.spares.shed()
			g.fs.spares.table = g.fs.spares.table[:1] // the place of all
			must(g, g.release(n, g.open(n, unix.O_RDONLY)))
			m := g.find("g").Node
			must(g, g.release(m, g.open(m, unix.O_RDONLY)))
			same(g, "descriptors of the other", g.isOpen("g"), 1)
		},
		"a guest without descriptors": func(g *guest, n fuse.NodeID) {
			g.fs.budget.limit = g.fs.budget.n.Load()
			g.find("g")
			same(g, "f is evicted", g.evicted(n), false)
		},
		"LOOKUP without descriptors": func(g *guest, _ fuse.NodeID) {
			defer exhaust(g)()
			g.find("g")
		},
		"OPEN without descriptors": func(g *guest, _ fuse.NodeID) {
			m := g.find("g").Node
			defer exhaust(g)()
			g.open(m, unix.O_RDWR)
		},
		"revival without descriptors": func(g *guest, n fuse.NodeID) {
			m := g.find("g").Node
			g.isEvicted(m)
			must(g, g.release(n, g.open(n, unix.O_RDONLY)))
			defer exhaust(g)()
			must(g, g.use(m))
		},
		"INIT":  func(g *guest, _ fuse.NodeID) { g.fs.Init(0) },
		"close": func(g *guest, _ fuse.NodeID) { must(g, g.fs.Close()) },
	} {
		t.Run(what, func(t *testing.T) {
			g, n := quietGuest(t)
			same(t, "descriptors of a released file", g.isOpen("f"), 1)
			f(g, n)
			same(t, "descriptors of f", g.isOpen("f"), 0)
			g.fs.Destroy()
			same(t, "budget", g.fs.budget.n.Load(), 0)
		})
	}
}

// exhaust leaves the process no descriptor until the returned function is called.
func exhaust(g *guest) func() {
	g.Helper()
	var old unix.Rlimit
	must(g, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	top := 0
	list, err := os.ReadDir("/proc/self/fd")
	must(g, err)
	for _, x := range list {
		k, _ := strconv.Atoi(x.Name())
		top = max(top, k)
	}
	var fill []int
	for last := 0; last <= top; { // no number below is free
		last, err = unix.Dup(0)
		must(g, err)
		fill = append(fill, last)
		if last > top {
			must(g, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(last) + 1, Max: old.Max}))
		}
	}
	return func() {
		must(g, unix.Setrlimit(unix.RLIMIT_NOFILE, &old))
		for _, k := range fill {
			unix.Close(k)
		}
	}
}

// What nothing else holds is free on the host as soon as the guest forgets it.
func TestSpareOfUnlinked(t *testing.T) {
	g, n := quietGuest(t)
	h := g.open(n, unix.O_RDONLY)
	must(t, g.fs.Unlink(g.c, fuse.RootID, []byte("f")))
	same(t, "data", g.read(n, h, 0, 10), "data")
	must(t, g.release(n, h))
	same(t, "data once more", g.read(n, g.open(n, unix.O_RDONLY), 0, 10), "data")
	g.forget(n, 1)
	same(t, "descriptors of an open file", g.isOpen("f"), 1)
	g.fs.handles.drop()
	same(t, "descriptors", g.isOpen("f"), 0)
}

// TestSparesStop: the timer ends spares, and then itself.
func TestSparesStop(t *testing.T) {
	g, n := quietGuest(t)
	g.fs.spares.shed()
	g.fs.spares.sweep()
	same(t, "a sweep to come without spares", g.fs.spares.armed.Load(), false)
	g.fs.spares.period = time.Millisecond
	for range 3 {
		must(t, g.release(n, g.open(n, unix.O_RDONLY)))
		end := time.Now().Add(testkit.Patience)
		for (g.isOpen("f") > 0 || g.fs.spares.armed.Load()) && time.Now().Before(end) {
			runtime.Gosched()
		}
		same(t, "descriptors", g.isOpen("f"), 0)
		same(t, "a sweep to come", g.fs.spares.armed.Load(), false)
	}
}

// The table is a small part of what the guest may have.
func TestSparesOfALimit(t *testing.T) {
	for limit, n := range map[int64]int{1: 1, 20: 1, 351: 21, 4096: 256, 1 << 20: maxSpares} {
		var s spares
		s.init(new(budget), limit)
		same(t, fmt.Sprint("spares at limit ", limit), len(s.table), n)
	}
	g := newGuest(t, func(o *Options) fuse.InitFlags { o.MaxFDs = 64; return 0 })
	for i := range 20 {
		name := fmt.Sprint(i)
		g.file(name, name, 0o644)
		n := g.find(name).Node
		must(t, g.release(n, g.open(n, unix.O_RDONLY)))
	}
	nodes, places := g.fs.nodes.clock.open.Load(), int64(len(g.fs.spares.table))
	if n := g.fs.budget.n.Load(); n > nodes+places {
		t.Errorf("budget = %d; want at most %d nodes and %d spares", n, nodes, places)
	}
}

// TestSpareStorm lets threads open, read, release, forget and replace files that share
// places in the table, while spares end for other reasons.
func TestSpareStorm(t *testing.T) {
	g, n := quietGuest(t, locking)
	g.forget(n, 1)
	g.fs.spares.table = g.fs.spares.table[:2]
	const files, rounds = 5, 400
	before := fds(t)
	done := make(chan struct{})
	var others, wg sync.WaitGroup
	others.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			g.fs.spares.sweep()
			g.fs.spares.shed()
		}
	})
	for w := range 4 {
		wg.Go(func() {
			g := g.thread(t)
			for i := range rounds {
				name := fmt.Sprint("file", (i/3+w)%files)
				if i%7 == 0 { // replaced, by a file with the same content
					tmp := fmt.Sprint("tmp", w)
					os.WriteFile(g.path(tmp), []byte(name), 0o644)
					if err := g.rename(tmp, name, 0); err != nil {
						t.Errorf("Rename(%s) = %v; want success", tmp, err)
					}
				}
				e, err := g.lookup(fuse.RootID, name)
				if err == unix.ENOENT {
					continue
				}
				o, err2 := g.openErr(e.Node, unix.O_RDONLY)
				if err != nil || err2 != nil {
					t.Errorf("Lookup, Open(%s) = %v, %v; want success", name, err, err2)
					return
				}
				if i%5 == 0 {
					lk := fuse.Lock{Flock: true, Type: fuse.LockRead}
					if err := g.fs.SetLock(g.c, e.Node, o.Handle, &lk, nil); err != nil {
						t.Errorf("SetLock(%s) = %v; want success", name, err)
					}
				}
				if s, err := g.readErr(e.Node, o.Handle, 0, 100); s != name || err != nil {
					t.Errorf("Read of %s = %q, %v", name, s, err)
				}
				if i%11 == 0 {
					g.fs.Unlink(g.c, fuse.RootID, []byte(name)) // another thread may be faster
				}
				if i%2 == 0 {
					g.forget(e.Node, 1)
				}
				g.fs.DropHandleLocks(g.c, e.Node, o.Handle)
				if err := g.release(e.Node, o.Handle); err != nil {
					t.Errorf("Release(%s) = %v; want success", name, err)
				}
				if _, err := g.readErr(e.Node, o.Handle, 0, 1); err != unix.EBADF {
					t.Errorf("Read after Release = %v; want EBADF", err)
				}
				if i%2 == 1 {
					g.forget(e.Node, 1)
				}
			}
		})
	}
	wg.Wait()
	close(done)
	others.Wait()
	same(t, "descriptors", fds(t), before)
	same(t, "budget", g.fs.budget.n.Load(), 0)
}
