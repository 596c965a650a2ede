package passthrough

import (
	"bytes"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/testkit"
	"vfiofs/virtio/guestmem"
)

// direct makes a guest with a file that is open with O_DIRECT on the host.
func direct(t *testing.T, flags uint32) (*guest, fuse.NodeID, fuse.Handle, *handle) {
	t.Helper()
	g := newGuest(t, func(o *Options) fuse.InitFlags { o.AllowDirectIO = true; return 0 })
	e, o, err := g.create("f", fuse.Create{Mode: 0o644, Flags: unix.O_RDWR | unix.O_DIRECT | flags})
	if err != nil {
		unable(t, "needs O_DIRECT: "+err.Error())
	}
	s := g.fs.handles.get(o.Handle, e.Node)
	t.Cleanup(func() { g.fs.handles.put(s); g.fs.DetachThread(g.c.Local) })
	return g, e.Node, o.Handle, &s.v
}

// whole makes memory of b itself.
func whole(b []byte) guestmem.Vec {
	var v guestmem.Vec
	v.Append(b)
	return v
}

// TestBounce moves data between a file with O_DIRECT and memory that O_DIRECT could not
// use: it isn't aligned.
func TestBounce(t *testing.T) {
	g, n, h, state := direct(t, 0)
	state.bounced.Store(true)
	const size = 2*bounceSize + 4096
	data := make([]byte, size+1)[1:]
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	for off := 0; off < size; {
		done, err := g.fs.Write(g.c, n, h, whole(data[off:]), uint64(off), &fuse.WriteArgs{})
		must(t, err)
		off += done
	}
	got := make([]byte, size+1)[1:]
	done, err := g.fs.Read(g.c, n, h, whole(got), 0)
	must(t, err)
	same(t, "bytes read", done, size)
	same(t, "data is what was written", bytes.Equal(got, data), true)

	// To the end of the file, and not further.
	clear(got)
	done, err = g.fs.Read(g.c, n, h, whole(got[:8192]), size-4096)
	must(t, err)
	same(t, "bytes read at the end", done, 4096)
	same(t, "data at the end", bytes.Equal(got[:4096], data[size-4096:]), true)
	same(t, "data behind the end", bytes.Equal(got[4096:8192], make([]byte, 4096)), true)

	// Errors are the file's.
	if _, err := g.fs.Read(g.c, n, h, whole(got[:8192]), 1); err != nil {
		want(t, "unaligned Read", err, unix.EINVAL)
	}
	v := whole(got)
	testkit.NoAllocs(t, 10, "Read", func() {
		if _, err := g.fs.Read(g.c, n, h, v, 0); err != nil {
			t.Fatal(err)
		}
	})
}

// TestBounceAppends: appending stays appending.
func TestBounceAppends(t *testing.T) {
	g, n, h, state := direct(t, unix.O_APPEND)
	state.bounced.Store(true)
	block := bytes.Repeat([]byte{5}, 4096)
	for range 2 {
		done, err := g.fs.Write(g.c, n, h, whole(block), 0, &fuse.WriteArgs{OpenFlags: unix.O_APPEND})
		must(t, err)
		same(t, "bytes written", done, len(block))
	}
	same(t, "size", len(g.read(n, h, 0, 3*4096)), 2*4096)
}

// TestBounceBegins: the first EFAULT of a file with O_DIRECT makes it bounce. The memory
// of this test can't be used at all, so that the fault follows.
func TestBounceBegins(t *testing.T) {
	mem, err := unix.Mmap(-1, 0, 4096, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(t, err)
	defer unix.Munmap(mem)
	for _, test := range []struct {
		name string
		do   func(g *guest, n fuse.NodeID, h fuse.Handle) error
	}{
		{"Read", func(g *guest, n fuse.NodeID, h fuse.Handle) error {
			_, err := g.fs.Read(g.c, n, h, whole(mem), 0)
			return err
		}},
		{"Write", func(g *guest, n fuse.NodeID, h fuse.Handle) error {
			_, err := g.fs.Write(g.c, n, h, whole(mem), 0, &fuse.WriteArgs{})
			return err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g, n, h, state := direct(t, 0)
			state.bounced.Store(true)
			g.write(n, h, 0, string(make([]byte, 4096)))
			state.bounced.Store(false)
			defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
			defer func() {
				if p := recover(); p == nil {
					t.Error("no fault of the memory itself")
				}
				same(t, "bounces", state.bounced.Load(), true)
			}()
			same(t, "bounces before", state.bounced.Load(), false)
			t.Errorf("%s into bad memory = %v; want a fault", test.name, test.do(g, n, h))
		})
		t.Run(test.name+" without O_DIRECT", func(t *testing.T) {
			g := newGuest(t)
			n, h := g.made("f", unix.O_RDWR)
			g.write(n, h, 0, "x")
			want(t, test.name, test.do(g, n, h), unix.EFAULT)
		})
	}
}

// TestDirectWriteOut: pages of the guest's cache are written to the end of the file,
// which need not be the end of a block, though the handle has O_DIRECT.
func TestDirectWriteOut(t *testing.T) {
	g, n, h, _ := direct(t, 0)
	data := bytes.Repeat([]byte("page"), 1251)
	done, err := g.fs.Write(g.c, n, h, whole(data), 0, &fuse.WriteArgs{Flags: fuse.WriteCache})
	must(t, err)
	same(t, "bytes written", done, len(data))
	same(t, "content", g.content("f"), string(data))
}
