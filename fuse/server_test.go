package fuse_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/virtio/guestmem"
)

// A stub is a file system of which a test supplies what it needs.
type stub struct {
	fuse.Unimplemented
	lookup  func(c *fuse.Context, parent fuse.NodeID, name []byte, out *fuse.Entry) error
	read    func(c *fuse.Context, dst guestmem.Vec) (int, error)
	write   func(c *fuse.Context, src guestmem.Vec) (int, error)
	fsync   func(c *fuse.Context) error
	destroy func()
	attach  func() (any, error)
}

func (s *stub) Destroy() {
	if s.destroy != nil {
		s.destroy()
	}
}

func (s *stub) AttachThread() (any, error) {
	if s.attach != nil {
		return s.attach()
	}
	return nil, nil
}

func (s *stub) Lookup(c *fuse.Context, parent fuse.NodeID, name []byte, out *fuse.Entry) error {
	return s.lookup(c, parent, name, out)
}

func (s *stub) Read(c *fuse.Context, _ fuse.NodeID, _ fuse.Handle, dst guestmem.Vec, _ uint64) (int, error) {
	return s.read(c, dst)
}

func (s *stub) Write(c *fuse.Context, _ fuse.NodeID, _ fuse.Handle, src guestmem.Vec, _ uint64, _ *fuse.WriteArgs) (int, error) {
	return s.write(c, src)
}

func (s *stub) Fsync(c *fuse.Context, _ fuse.NodeID, _ fuse.Handle, _ bool) error { return s.fsync(c) }

// thread returns a thread of a server for fs, after INIT.
func thread(t testing.TB, fs fuse.FileSystem, opt fuse.Options) (*fuse.Server, *fuse.Thread) {
	t.Helper()
	s := fuse.NewServer(fs, opt)
	th, err := s.NewThread()
	if err != nil {
		t.Fatalf("NewThread() = %v; want success", err)
	}
	t.Cleanup(th.Close)
	c := fusetest.NewClient(nil)
	r, _ := request(c.Message(fuse.OpInit, 0, fuse.InitIn{Major: 7, Minor: 45, Flags: 1<<32 - 1, Flags2: 1<<32 - 1}), 80)
	if used, how := th.Serve(r, true); used != 80 || how != fuse.Done {
		t.Fatalf("Serve(INIT) = %d, %v; want 80, done", used, how)
	}
	return s, th
}

// request returns a request in contiguous memory, and the memory of its reply.
func request(in []byte, outSize int) (*fuse.Request, []byte) {
	r, out := new(fuse.Request), make([]byte, outSize)
	r.In.Append(in)
	r.Out.Append(out)
	return r, out
}

func TestGoldenLookup(t *testing.T) {
	in := []byte{
		44, 0, 0, 0, // len
		1, 0, 0, 0, // opcode: LOOKUP
		8, 7, 6, 5, 4, 3, 2, 1, // unique
		1, 0, 0, 0, 0, 0, 0, 0, // nodeid
		0xe8, 3, 0, 0, // uid: 1000
		0xe9, 3, 0, 0, // gid: 1001
		0xea, 3, 0, 0, // pid: 1002
		0, 0, // total_extlen
		0, 0, // padding
		'f', 'o', 'o', 0,
	}
	want := []byte{
		144, 0, 0, 0, // len
		0, 0, 0, 0, // error
		8, 7, 6, 5, 4, 3, 2, 1, // unique
		2, 1, 0, 0, 0, 0, 0, 0, // nodeid
		3, 0, 0, 0, 0, 0, 0, 0, // generation
		1, 0, 0, 0, 0, 0, 0, 0, // entry_valid
		0, 0, 0, 0, 0, 0, 0, 0, // attr_valid
		0, 0, 0, 0, // entry_valid_nsec
		0x80, 0x96, 0x98, 0, // attr_valid_nsec: 10^7
		4, 0, 0, 0, 0, 0, 0, 0, // ino
		5, 0, 0, 0, 0, 0, 0, 0, // size
		6, 0, 0, 0, 0, 0, 0, 0, // blocks
		7, 0, 0, 0, 0, 0, 0, 0, // atime
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // mtime: -1
		8, 0, 0, 0, 0, 0, 0, 0, // ctime
		9, 0, 0, 0, // atimensec
		10, 0, 0, 0, // mtimensec
		11, 0, 0, 0, // ctimensec
		0xa4, 0x81, 0, 0, // mode: 0100644
		12, 0, 0, 0, // nlink
		13, 0, 0, 0, // uid
		14, 0, 0, 0, // gid
		15, 0, 0, 0, // rdev
		0, 16, 0, 0, // blksize
		1, 0, 0, 0, // flags: SUBMOUNT
	}
	fs := &stub{lookup: func(c *fuse.Context, parent fuse.NodeID, name []byte, out *fuse.Entry) error {
		if parent != 1 || string(name) != "foo" || c.UID != 1000 || c.GID != 1001 || c.PID != 1002 || c.Groups != nil {
			t.Errorf("Lookup(%+v, %d, %q); want uid 1000, gid 1001, pid 1002, node 1, foo", c.Caller, parent, name)
		}
		*out = fuse.Entry{
			Node: 0x102, Generation: 3, EntryValid: time.Second, AttrValid: 10 * time.Millisecond,
			Attr: fuse.Attr{
				Ino: 4, Size: 5, Blocks: 6, Atime: 7, Mtime: -1, Ctime: 8, AtimeNsec: 9, MtimeNsec: 10, CtimeNsec: 11,
				Mode: 0o100644, Nlink: 12, UID: 13, GID: 14, Rdev: 15, Blksize: 4096, Flags: fuse.AttrSubmount,
			},
		}
		return nil
	}}
	_, th := thread(t, fs, fuse.Options{})
	r, out := request(in, 150)
	if used, how := th.Serve(r, false); used != 144 || how != fuse.Done {
		t.Errorf("Serve() = %d, %v; want 144, done", used, how)
	}
	if !bytes.Equal(out[:144], want) {
		t.Errorf("reply = %v; want %v", out[:144], want)
	}
	if !bytes.Equal(out[144:], make([]byte, 6)) {
		t.Errorf("bytes after the reply = %v; want them untouched", out[144:])
	}
}

func TestNegativeEntry(t *testing.T) {
	fs := &stub{lookup: func(_ *fuse.Context, _ fuse.NodeID, _ []byte, out *fuse.Entry) error {
		out.EntryValid = 5 * time.Second
		return nil
	}}
	_, th := thread(t, fs, fuse.Options{})
	r, out := request(fusetest.NewClient(nil).Message(fuse.OpLookup, 1, "missing"), 144)
	used, _ := th.Serve(r, false)
	if node, valid := binary.LittleEndian.Uint64(out[16:]), binary.LittleEndian.Uint64(out[32:]); used != 144 || node != 0 || valid != 5 {
		t.Errorf("reply has %d bytes, node %d, valid for %d s; want 144, 0, 5", used, node, valid)
	}
}

// Every operation, with arguments that succeed, that fail, and that are cut short,
// gives a reply whose length is told consistently. The transport checks that.
func TestH027UsedLength(t *testing.T) {
	for _, cut := range []int{0, 1, 13} {
		c := fusetest.NewClient(direct(t, fusetest.NewMem(), cut))
		init := func() {
			if _, err := c.Init(fusetest.AllFlags); err != nil {
				t.Fatalf("Init() = %v; want success", err)
			}
		}
		init()
		f, err := c.Create(fuse.RootID, "f", syscall.O_RDWR, 0o600)
		wantErr(t, err, 0, "Create()")
		for op := fuse.Opcode(0); op < 60; op++ {
			for _, body := range [][]byte{
				nil, make([]byte, 8), make([]byte, 88), []byte("f\x00g\x00"), []byte("x\x00"),
				fusetest.Pack(make([]byte, 8), "f", "g"), fusetest.Pack(make([]byte, 16), "x", "f"),
				fusetest.Pack(f.Open.Handle, make([]byte, 8), uint32(64), make([]byte, 200)),
				fusetest.Pack(uint32(7), uint32(45), make([]byte, 56)),
			} {
				for _, node := range []fuse.NodeID{0, fuse.RootID, f.Entry.Node} {
					for _, outSize := range []int{0, 15, 16, 17, 24, 96, 160, 400} {
						in := c.Message(op, node, body)
						if _, err := c.Transport(in, outSize); err != nil {
							t.Fatalf("%v with %d bytes of arguments in %d bytes: %v", op, len(body), outSize, err)
						}
					}
				}
			}
			if op == fuse.OpDestroy || op == fuse.OpInit {
				init()
			}
		}
	}
}

func TestBadChain(t *testing.T) {
	_, th := thread(t, &stub{}, fuse.Options{})
	in := fusetest.NewClient(nil).Message(fuse.OpLookup, 1, "x")
	for _, test := range []struct {
		name       string
		in         []byte
		outSize    int
		wantUsed   int
		wantUnique uint64
	}{
		{"header is there", in, 16, 16, 2},
		{"no header", in[:30], 16, 16, 0},
		{"nowhere to write", in, 15, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, out := request(test.in, test.outSize)
			r.Bad = errors.New("loop")
			used, how := th.Serve(r, false)
			if used != test.wantUsed || how != fuse.Done {
				t.Fatalf("Serve() = %d, %v; want %d, done", used, how, test.wantUsed)
			}
			if used == 0 {
				return
			}
			if e, u := int32(binary.LittleEndian.Uint32(out[4:])), binary.LittleEndian.Uint64(out[8:]); e != -int32(syscall.EIO) || u != test.wantUnique {
				t.Errorf("reply has error %d, unique %d; want -EIO, %d", e, u, test.wantUnique)
			}
		})
	}
}

// What may not block is served again, from the private copy of the first time.
func TestWouldBlock(t *testing.T) {
	var names []string
	fs := &stub{
		lookup: func(c *fuse.Context, _ fuse.NodeID, name []byte, out *fuse.Entry) error {
			names = append(names, string(name))
			if !c.MayBlock {
				return fuse.ErrWouldBlock
			}
			out.Node = 5
			return nil
		},
		fsync: func(c *fuse.Context) error {
			if !c.MayBlock {
				t.Error("Fsync() was called where it may not block")
			}
			return nil
		},
	}
	s, th := thread(t, fs, fuse.Options{})
	other, err := s.NewThread()
	wantErr(t, err, 0, "NewThread()")
	defer other.Close()
	c := fusetest.NewClient(nil)

	in := c.Message(fuse.OpLookup, 1, "name")
	r, out := request(in, 144)
	if used, how := th.Serve(r, false); used != 0 || how != fuse.Blocks {
		t.Errorf("Serve(mayBlock false) = %d, %v; want 0, blocks", used, how)
	}
	if !bytes.Equal(out, make([]byte, 144)) {
		t.Error("reply was written before the request was done")
	}
	clear(in) // the guest changes its mind
	if used, how := other.Serve(r, true); used != 144 || how != fuse.Done {
		t.Errorf("Serve(mayBlock true) = %d, %v; want 144, done", used, how)
	}
	if got := strings.Join(names, " "); got != "name name" {
		t.Errorf("names = %q; want the same twice", got)
	}
	if got := binary.LittleEndian.Uint64(out[8:]); got != 2 {
		t.Errorf("unique = %d; want 2", got)
	}

	r, _ = request(c.Message(fuse.OpFsync, 1, fuse.FsyncIn{}), 16)
	if used, how := th.Serve(r, false); used != 0 || how != fuse.Blocks {
		t.Errorf("Serve(FSYNC, mayBlock false) = %d, %v; want 0, blocks", used, how)
	}
	if used, how := th.Serve(r, true); used != 16 || how != fuse.Done {
		t.Errorf("Serve(FSYNC, mayBlock true) = %d, %v; want 16, done", used, how)
	}

	// A request that is dropped half-way leaves nothing behind for the next.
	r, _ = request(c.Message(fuse.OpFsync, 1, fuse.FsyncIn{}), 16)
	th.Serve(r, false)
	r.Reset()
	r.In.Reset()
	r.In.Append(c.Message(fuse.OpLookup, 1, "next"))
	r.Out.Append(make([]byte, 128))
	th.Serve(r, true)
	if got := names[len(names)-1]; got != "next" {
		t.Errorf("after Reset Lookup(%q); want next", got)
	}

	// A file system that can't make up its mind is answered all the same.
	fs.fsync = func(*fuse.Context) error { return fuse.ErrWouldBlock }
	r, out = request(c.Message(fuse.OpFsync, 1, fuse.FsyncIn{}), 16)
	if used, how := th.Serve(r, true); used != 16 || how != fuse.Done || int32(binary.LittleEndian.Uint32(out[4:])) != -int32(syscall.EIO) {
		t.Errorf("Serve() = %d, %v with error %d; want 16, done, -EIO", used, how, int32(binary.LittleEndian.Uint32(out[4:])))
	}
}

// On a slow file system only what touches none of it is served where it may not block.
func TestSlow(t *testing.T) {
	fs := &stub{lookup: func(*fuse.Context, fuse.NodeID, []byte, *fuse.Entry) error { return nil }}
	_, th := thread(t, fs, fuse.Options{Slow: true})
	c := fusetest.NewClient(nil)
	for _, test := range []struct {
		in   []byte
		want fuse.Outcome
	}{
		{c.Message(fuse.OpLookup, 1, "name"), fuse.Blocks},
		{c.Message(fuse.OpGetAttr, 1, fuse.GetAttrIn{}), fuse.Blocks},
		{c.Message(fuse.OpForget, 1, fuse.ForgetIn{}), fuse.Done},
		{c.Message(fuse.OpInterrupt, 0, fuse.InterruptIn{}), fuse.Done},
		{c.Message(fuse.Opcode(4000), 1), fuse.Done},
	} {
		r, _ := request(test.in, 256)
		if _, how := th.Serve(r, false); how != test.want {
			t.Errorf("Serve(opcode %d) = %v; want %v", test.in[4], how, test.want)
		}
		if test.want == fuse.Blocks {
			if _, how := th.Serve(r, true); how != fuse.Done {
				t.Errorf("Serve(opcode %d, mayBlock) = %v; want done", test.in[4], how)
			}
		}
	}
}

func TestPanicIsContained(t *testing.T) {
	var text bytes.Buffer
	fs := &stub{
		lookup: func(_ *fuse.Context, _ fuse.NodeID, name []byte, _ *fuse.Entry) error {
			if string(name) == "nil" {
				var p *int
				*p = 1
			}
			panic("bug")
		},
		read: func(_ *fuse.Context, dst guestmem.Vec) (int, error) { return dst.Len() + 1, nil },
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	s, th := thread(t, fs, fuse.Options{Log: slog.New(slog.NewTextHandler(&text, nil))})
	c := fusetest.NewClient(nil)
	for i, in := range [][]byte{
		c.Message(fuse.OpLookup, 1, "x"),
		c.Message(fuse.OpLookup, 1, "nil"),
		c.Message(fuse.OpRead, 1, fuse.ReadIn{Size: 1 << 20}), // more than there is room
	} {
		r, out := request(in, 200)
		used, how := th.Serve(r, false)
		if used != 16 || how != fuse.Done || int32(binary.LittleEndian.Uint32(out[4:])) != -int32(syscall.EIO) {
			t.Errorf("request %d: Serve() = %d, %v; want 16, done and EIO", i, used, how)
		}
		if got := s.Panics(); got != uint64(i+1) {
			t.Errorf("Panics() = %d; want %d", got, i+1)
		}
	}
	if got := strings.Count(text.String(), "panic in a request"); got != 1 || !strings.Contains(text.String(), "TestPanicIsContained") {
		t.Errorf("log has %d panics; want 1, with a stack", got)
	}
	s.Reset() // would hang if a lock were still held
}

// Guest memory that faults is none of the server's business.
func TestMemoryFault(t *testing.T) {
	mem, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	wantErr(t, err, 0, "mmap")
	defer unix.Munmap(mem)
	wantErr(t, unix.Mprotect(mem[4096:], unix.PROT_NONE), 0, "mprotect")

	s, th := thread(t, &stub{lookup: func(_ *fuse.Context, _ fuse.NodeID, _ []byte, out *fuse.Entry) error { return nil }}, fuse.Options{})
	in := fusetest.NewClient(nil).Message(fuse.OpLookup, 1, "x")
	for _, test := range []struct {
		name    string
		in, out []byte
	}{
		{"request", mem[4096:4200], make([]byte, 200)},
		{"arguments", mem[4096-40 : 4200], make([]byte, 200)},
		{"reply", in, mem[4096:]},
		{"end of the reply", in, mem[4096-100 : 4200]},
	} {
		t.Run(test.name, func(t *testing.T) {
			debug.SetPanicOnFault(true) // for this goroutine
			copy(mem[4096-40:4096], in[:40])
			var r fuse.Request
			r.In.Append(test.in)
			r.Out.Append(test.out)
			defer func() {
				fault, ok := recover().(interface{ Addr() uintptr })
				if !ok || fault.Addr() == 0 {
					t.Errorf("Serve() panicked with %v; want a fault with an address", fault)
				}
				if got := s.Panics(); got != 0 {
					t.Errorf("Panics() = %d; want 0", got)
				}
				s.Reset() // would hang if a lock were still held
			}()
			th.Serve(&r, true)
			t.Error("Serve() returned; want a panic")
		})
		// Reset wants another INIT.
		r, _ := request(fusetest.NewClient(nil).Message(fuse.OpInit, 0, fuse.InitIn{Major: 7, Minor: 45}), 80)
		th.Serve(r, true)
	}
}

// INIT, DESTROY and Reset run alone.
func TestAlone(t *testing.T) {
	var running, destroyed atomic.Int32
	entered := make(chan struct{})
	leave := make(chan struct{})
	fs := &stub{
		lookup: func(*fuse.Context, fuse.NodeID, []byte, *fuse.Entry) error {
			running.Add(1)
			entered <- struct{}{}
			<-leave
			running.Add(-1)
			return syscall.ENOENT
		},
		destroy: func() {
			if n := running.Load(); n != 0 {
				t.Errorf("Destroy() while %d operations run; want 0", n)
			}
			destroyed.Add(1)
		},
	}
	s, th := thread(t, fs, fuse.Options{})
	c := fusetest.NewClient(nil)
	destroy, _ := request(c.Message(fuse.OpDestroy, 0), 16)
	init, _ := request(c.Message(fuse.OpInit, 0, fuse.InitIn{Major: 7, Minor: 45}), 80)
	for i, end := range []func(){
		s.Reset,
		func() { th.Serve(destroy, true) },
		func() { th.Serve(init, true) },
	} {
		th.Serve(init, true)
		before := destroyed.Load()
		var wg sync.WaitGroup
		for range 2 {
			in := c.Message(fuse.OpLookup, 1, "x")
			wg.Go(func() {
				busy, err := s.NewThread()
				if err != nil {
					t.Error(err)
					return
				}
				defer busy.Close()
				r, _ := request(in, 144)
				busy.Serve(r, true)
			})
		}
		<-entered
		<-entered
		ended := make(chan struct{})
		go func() { end(); close(ended) }()
		leave <- struct{}{}
		select {
		case <-ended:
			t.Errorf("case %d ended while an operation ran", i)
		case leave <- struct{}{}:
		}
		<-ended
		wg.Wait()
		if got := destroyed.Load() - before; got != 1 {
			t.Errorf("case %d: Destroy() was called %d times; want 1", i, got)
		}
	}
}

func TestAttachThread(t *testing.T) {
	fail := errors.New("no thread")
	var fs stub
	fs.attach = func() (any, error) { return nil, fail }
	s := fuse.NewServer(&fs, fuse.Options{})
	if _, err := s.NewThread(); !errors.Is(err, fail) {
		t.Errorf("NewThread() = %v; want %v", err, fail)
	}
	fs.attach = func() (any, error) { return "mine", nil }
	fs.lookup = func(c *fuse.Context, _ fuse.NodeID, _ []byte, _ *fuse.Entry) error {
		if c.Local != "mine" {
			t.Errorf("Context.Local = %v; want mine", c.Local)
		}
		return syscall.ENOENT
	}
	_, th := thread(t, &fs, fuse.Options{})
	r, _ := request(fusetest.NewClient(nil).Message(fuse.OpLookup, 1, "x"), 144)
	th.Serve(r, false)
	th.Close()
	th.Close() // does nothing
}

func TestTrace(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: fuse.LevelTrace}))
	c := fusetest.NewLocal(t, fusetest.NewMem(), fuse.Options{Log: log}).Client()
	_, err := c.Init(fusetest.AllFlags)
	wantErr(t, err, 0, "Init()")
	f, err := c.Create(fuse.RootID, "new\nline", syscall.O_RDWR, 0o600)
	wantErr(t, err, 0, "Create()")
	_, err = c.Write(f.Entry.Node, f.Open.Handle, 4096, []byte("12345"))
	wantErr(t, err, 0, "Write()")
	wantErr(t, c.Rename(fuse.RootID, "a", fuse.RootID, "b"), syscall.ENOENT, "Rename()")
	_, _ = c.Transport([]byte("short"), 16)
	lines := strings.Split(strings.TrimSpace(text.String()), "\n")
	for i, want := range [][]string{
		{"op=INIT", "used=80"},
		{"op=CREATE", `name="new\nline"`, "flags=2", "used=160"},
		{"op=WRITE", "fh=1", "offset=4096", "size=5", "used=24"},
		{"op=RENAME", "name=a", "name2=b", "used=16", `err="no such file or directory"`},
		{"op=UNKNOWN", "used=16"},
	} {
		for _, w := range want {
			if i >= len(lines) || !strings.Contains(lines[i], w) {
				t.Errorf("line %d of %q lacks %q", i, lines, w)
			}
		}
	}
	if len(lines) != 5 {
		t.Errorf("%d lines; want 5", len(lines))
	}
}

func TestUnknownErrorIsLogged(t *testing.T) {
	var text bytes.Buffer
	fs := &stub{lookup: func(*fuse.Context, fuse.NodeID, []byte, *fuse.Entry) error { return context.Canceled }}
	_, th := thread(t, fs, fuse.Options{Log: slog.New(slog.NewTextHandler(&text, nil))})
	r, out := request(fusetest.NewClient(nil).Message(fuse.OpLookup, 1, "x"), 144)
	th.Serve(r, false)
	if got := int32(binary.LittleEndian.Uint32(out[4:])); got != -int32(syscall.EIO) {
		t.Errorf("error = %d; want -EIO", got)
	}
	if !strings.Contains(text.String(), "op=LOOKUP err=\"context canceled\"") {
		t.Errorf("log = %q; want the error", text.String())
	}
}
