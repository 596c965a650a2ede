package passthrough

import (
	"errors"
	"math"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

func TestH110Read(t *testing.T) {
	g := newGuest(t)
	g.file("f", "0123456789", 0o644)
	n := g.find("f").Node
	h := g.open(n, 0)
	for _, x := range []struct {
		name string
		off  uint64
		size int
		want string
		err  syscall.Errno
	}{
		{"H110 more than there is", 0, 2 << 20, "0123456789", 0},
		{"H110 middle", 3, 4, "3456", 0},
		{"H110 nothing", 0, 0, "", 0},
		{"H110 at the end", 10, 10, "", 0},
		{"H110 past the end", 1 << 40, 10, "", 0},
		{"H110 last offset", math.MaxInt64, 10, "", 0},
		{"H110 offset 2^63", 1 << 63, 10, "", unix.EINVAL},
		{"H110 offset -1", math.MaxUint64, 10, "", unix.EINVAL},
	} {
		t.Run(x.name, func(t *testing.T) {
			g := g.thread(t)
			for _, g.c.MayBlock = range []bool{true, false} {
				got, err := g.readErr(n, h, x.off, x.size)
				want(t, "Read", err, x.err)
				same(t, "data", got, x.want)
			}
		})
	}
	_, err := g.readErr(fuse.RootID, g.opendir(fuse.RootID), 0, 10)
	want(t, "Read of a directory", err, unix.EISDIR)
}

func TestH111AccessMode(t *testing.T) {
	g := newGuest(t)
	n, h := g.made("f", unix.O_WRONLY)
	_, err := g.readErr(n, h, 0, 1)
	want(t, "Read of a write-only handle", err, unix.EBADF)
	_, err = g.writeErr(n, g.open(n, unix.O_RDONLY), 0, "x", fuse.WriteArgs{})
	want(t, "Write to a read-only handle", err, unix.EBADF)
}

func TestH112FileSize(t *testing.T) {
	g := newGuest(t)
	n, h := g.made("f", unix.O_RDWR)
	_, err := g.writeErr(n, h, math.MaxInt64, "xx", fuse.WriteArgs{})
	if !errors.Is(err, unix.EFBIG) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOVERFLOW) {
		t.Errorf("Write at 2^63-1 = %v; want EFBIG, EINVAL or EOVERFLOW", err)
	}
	_, err = g.writeErr(n, h, 1<<63, "x", fuse.WriteArgs{})
	want(t, "Write at 2^63", err, unix.EINVAL)
	k, err := g.writeErr(n, h, 0, "", fuse.WriteArgs{})
	if k != 0 || err != nil {
		t.Errorf("H114 Write of nothing = %d, %v; want 0", k, err)
	}

	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &old))
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 16, Max: old.Max}))
	defer unix.Setrlimit(unix.RLIMIT_FSIZE, &old)
	k, err = g.writeErr(n, h, 1<<16-3, "abcdef", fuse.WriteArgs{})
	if k != 3 || err != nil {
		t.Errorf("Write across the limit = %d, %v; want 3", k, err)
	}
	_, err = g.writeErr(n, h, 1<<16, "x", fuse.WriteArgs{})
	want(t, "Write past the limit", err, unix.EFBIG)
	_, err = g.setattr(n, fuse.SetAttr{Valid: fuse.SetAttrSize, Size: 1 << 17})
	want(t, "H162 SetAttr past the limit", err, unix.EFBIG)
}

// mount puts a tmpfs on a directory below the shared one.
func (g *guest) tmpfs(name, data string) {
	g.Helper()
	needRoot(g)
	g.mkdir(name, 0o755)
	if err := unix.Mount("tmpfs", g.path(name), "tmpfs", 0, data); err != nil {
		unable(g, "needs mount(2): "+err.Error())
	}
	g.Cleanup(func() { unix.Unmount(g.path(name), unix.MNT_DETACH) })
}

func TestH113Full(t *testing.T) {
	g := newGuest(t)
	g.tmpfs("d", "size=64k")
	var e fuse.Entry
	var o fuse.Opened
	must(t, g.fs.Create(g.c, g.find("d").Node, []byte("f"), &fuse.Create{Mode: 0o644, Flags: unix.O_RDWR}, &e, &o))
	k, err := g.writeErr(e.Node, o.Handle, 0, strings.Repeat("x", 128<<10), fuse.WriteArgs{})
	must(t, err)
	if k == 0 || k > 64<<10 {
		t.Fatalf("Write = %d; want part", k)
	}
	_, err = g.writeErr(e.Node, o.Handle, uint64(k), strings.Repeat("x", 64<<10), fuse.WriteArgs{})
	want(t, "Write to a full file system", err, unix.ENOSPC)
	t.Run("reads of memory may be inline", func(t *testing.T) {
		g := g.thread(t)
		g.c.MayBlock = false
		same(t, "data", g.read(e.Node, o.Handle, 1, 3), "xxx")
	})
	t.Run("RWF_NOWAIT unknown", func(t *testing.T) {
		g := g.thread(t)
		h := g.fs.handles.get(o.Handle, e.Node)
		defer g.fs.handles.put(h)
		same(t, "inline of tmpfs", h.v.noNowait(&local(g.c).statfs), inlinePlain)
		g.c.MayBlock = false
		same(t, "data", g.read(e.Node, o.Handle, 1, 3), "xxx")
		n, o := g.made("f", unix.O_RDWR)
		h2 := g.fs.handles.get(o, n)
		defer g.fs.handles.put(h2)
		if h2.v.noNowait(&local(g.c).statfs) == inlinePlain {
			t.Skip("the tests run on a tmpfs")
		}
		_, err := g.readErr(n, o, 0, 3)
		same(t, "Read", err, error(fuse.ErrWouldBlock))
	})
}

func TestColdReadWouldBlock(t *testing.T) {
	const size = 4 << 20
	g := newGuest(t)
	n, h := g.made("f", unix.O_RDWR)
	g.write(n, h, 0, strings.Repeat("x", size))
	must(t, g.fs.Fsync(g.c, n, h, false))
	e := g.fs.handles.get(h, n)
	defer g.fs.handles.put(e)
	// The second half leaves the page cache, so that a read starts well.
	if err := unix.Fadvise(e.v.fd, size/2, 0, unix.FADV_DONTNEED); err != nil {
		unable(t, "needs FADV_DONTNEED: "+err.Error())
	}
	g.c.MayBlock = false
	_, err := g.readErr(n, h, 0, size)
	switch {
	case err == fuse.ErrWouldBlock:
	case err == nil:
		t.Skip("the file system of the test keeps or has everything in memory")
	default:
		t.Fatalf("Read = %v; want ErrWouldBlock", err)
	}
	g.c.MayBlock = true
	same(t, "bytes read where it may block", len(g.read(n, h, 0, size)), size)
}

func TestSyncWriteWouldBlock(t *testing.T) {
	g := newGuest(t)
	n, h := g.made("f", unix.O_RDWR|unix.O_SYNC)
	g.c.MayBlock = false
	_, err := g.writeErr(n, h, 0, "x", fuse.WriteArgs{})
	same(t, "Write", err, error(fuse.ErrWouldBlock))
	same(t, "size", g.host("f").Size, 0)
}

func TestH115UnlinkedOpen(t *testing.T) {
	g := newGuest(t)
	n, h := g.made("f", unix.O_RDWR)
	must(t, g.fs.Unlink(g.c, fuse.RootID, []byte("f")))
	g.write(n, h, 0, "data")
	same(t, "data", g.read(n, h, 0, 10), "data")
	same(t, "nlink", g.attr(n).Nlink, 0)
	_, err := g.setattr(n, fuse.SetAttr{Valid: fuse.SetAttrMode | fuse.SetAttrSize, Mode: 0o600, Size: 2})
	must(t, err)
	a, err := g.setattr(n, fuse.SetAttr{Valid: fuse.SetAttrHandle | fuse.SetAttrSize | fuse.SetAttrMode, Handle: h, Size: 1, Mode: 0o640})
	must(t, err)
	same(t, "size", a.Size, 1)
	same(t, "mode", a.Mode, unix.S_IFREG|0o640)
	must(t, g.fs.Fsync(g.c, n, h, true))
}

func TestH116UnlinkedKnown(t *testing.T) {
	g := newGuest(t)
	g.file("f", "data", 0o644)
	n := g.find("f").Node
	must(t, g.fs.Unlink(g.c, fuse.RootID, []byte("f")))
	g.attr(n)
	h := g.open(n, unix.O_RDONLY)
	same(t, "data", g.read(n, h, 0, 10), "data")
	g.forget(n, 1)
	_, err := g.openErr(n, 0)
	want(t, "Open after Forget", err, unix.EBADF)
	same(t, "data by the handle", g.read(n, h, 0, 10), "data")
}

func TestH117CopyFileRange(t *testing.T) {
	g := newGuest(t)
	g.file("a", strings.Repeat("0123456789", 1000), 0o644)
	a := g.find("a").Node
	ha := g.open(a, unix.O_RDWR)
	b, hb := g.made("b", unix.O_RDWR)
	cp := func(from, to fuse.FileRange, n, flags uint64) (uint64, error) {
		return g.fs.CopyFileRange(g.c, from, to, n, flags)
	}
	src, dst := fuse.FileRange{Node: a, Handle: ha, Offset: 5}, fuse.FileRange{Node: b, Handle: hb}
	n, err := cp(src, dst, 1<<40, 0)
	must(t, err)
	same(t, "bytes copied", n, 9995)
	same(t, "data", g.read(b, hb, 0, 6), "567890")
	n, err = cp(src, dst, 0, 0)
	must(t, err)
	same(t, "bytes copied", n, 0)
	_, err = cp(src, dst, 1, 1)
	want(t, "flags 1", err, unix.EINVAL)
	_, err = cp(src, fuse.FileRange{Node: a, Handle: ha, Offset: 6}, 100, 0)
	want(t, "overlap", err, unix.EINVAL)
	src.Offset = 1 << 63
	_, err = cp(src, dst, 1, 0)
	want(t, "offset 2^63", err, unix.EINVAL)
}

func TestH118Lseek(t *testing.T) {
	g := newGuest(t)
	n, h := g.made("f", unix.O_RDWR)
	g.write(n, h, 1<<20, "data")
	seek := func(off uint64, whence uint32) (uint64, error) { return g.fs.Lseek(g.c, n, h, off, whence) }
	at, err := seek(0, unix.SEEK_DATA)
	must(t, err)
	same(t, "first data", at, 1<<20)
	at, err = seek(0, unix.SEEK_HOLE)
	must(t, err)
	same(t, "first hole", at, 0)
	at, err = seek(1<<20, unix.SEEK_HOLE)
	must(t, err)
	same(t, "hole at the end", at, 1<<20+4)
	_, err = seek(1<<21, unix.SEEK_DATA)
	want(t, "past the end", err, unix.ENXIO)
	for _, whence := range []uint32{unix.SEEK_SET, unix.SEEK_CUR, unix.SEEK_END, 5, math.MaxUint32} {
		_, err = seek(0, whence)
		want(t, "whence", err, unix.EINVAL)
	}
	_, err = seek(1<<63, unix.SEEK_DATA)
	want(t, "offset 2^63", err, unix.ENXIO) // as lseek(2) of the host
	_, err = g.fs.Lseek(g.c, fuse.RootID, g.opendir(fuse.RootID), 0, unix.SEEK_DATA)
	want(t, "directory", err, unix.EINVAL)
}

func TestH119Fallocate(t *testing.T) {
	g := newGuest(t)
	n, h := g.made("f", unix.O_RDWR)
	alloc := func(off, size uint64, mode uint32) error { return g.fs.Fallocate(g.c, n, h, off, size, mode) }
	must(t, alloc(0, 1<<16, 0))
	same(t, "size", g.host("f").Size, 1<<16)
	must(t, alloc(1<<16, 1<<16, unix.FALLOC_FL_KEEP_SIZE))
	same(t, "size", g.host("f").Size, 1<<16)
	g.write(n, h, 0, "data")
	if err := alloc(0, 4096, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE); err == nil {
		same(t, "data after punching", g.read(n, h, 0, 4), "\x00\x00\x00\x00")
	} else {
		want(t, "punch", err, unix.EOPNOTSUPP)
	}
	want(t, "mode 0x8000", alloc(0, 1, 0x8000), unix.EOPNOTSUPP)
	want(t, "length 0", alloc(0, 0, 0), unix.EINVAL)
	want(t, "offset 2^63", alloc(1<<63, 1, 0), unix.EINVAL)
	want(t, "overflow", alloc(math.MaxInt64, 1, 0), unix.EFBIG)
}

func TestH121Sync(t *testing.T) {
	g := newGuest(t)
	n, h := g.made("f", unix.O_RDWR)
	must(t, g.fs.Fsync(g.c, n, h, true))
	must(t, g.fs.Flush(g.c, n, h))
	must(t, g.fs.Flush(g.c, n, g.open(n, unix.O_RDONLY)))
	d := g.opendir(fuse.RootID)
	must(t, g.fs.FsyncDir(g.c, fuse.RootID, d, false))
	must(t, g.fs.ReleaseDir(g.c, fuse.RootID, d))
	want(t, "FsyncDir", g.fs.FsyncDir(g.c, fuse.RootID, d, false), unix.EBADF)
	must(t, g.fs.SyncFS(g.c, fuse.RootID))
	must(t, g.fs.SyncFS(g.c, n))
	must(t, unix.Mkfifo(g.path("fifo"), 0o600))
	must(t, g.fs.SyncFS(g.c, g.find("fifo").Node))
	want(t, "SyncFS of nothing", g.fs.SyncFS(g.c, 99), unix.EBADF)
}

func TestH122ReadDuringRelease(t *testing.T) {
	g := newGuest(t)
	g.file("a", "aaaa", 0o644)
	g.file("b", "bbbb", 0o644)
	a, b := g.find("a").Node, g.find("b").Node
	for range 200 {
		h := g.open(a, 0)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				g := g.thread(t)
				for range 20 {
					if s, err := g.readErr(a, h, 0, 4); err != syscall.EBADF && (err != nil || s != "aaaa") {
						t.Errorf("Read = %q, %v; want aaaa or EBADF", s, err)
					}
				}
			})
		}
		wg.Go(func() {
			g := g.thread(t)
			g.release(a, h)
			for range 5 {
				g.open(b, 0) // would get a number that was closed too early
			}
		})
		wg.Wait()
		if t.Failed() {
			return
		}
	}
	g.fs.Destroy()
	if _, err := os.Stat(g.dir); err != nil {
		t.Fatal(err)
	}
}
