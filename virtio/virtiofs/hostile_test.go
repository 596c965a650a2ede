package virtiofs_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/passthrough"
	"vfiofs/virtio"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtiofs"
	"vfiofs/virtio/virtq"
	"vfiofs/virtio/virtq/virtqtest"
)

// A rig is a device on rings that are written by hand, with a directory behind it.
type rig struct {
	*virtqtest.Ring
	t    *testing.T
	dir  string
	dev  *virtiofs.Device
	kick *fd.FD
	call *fd.FD
	fail chan error
	c    *fusetest.Client // requests that are built, not sent
}

// newRig makes a device whose ring 1 is r; INIT has been done.
func newRig(t *testing.T, o virtqtest.Options) *rig {
	t.Helper()
	g := &rig{Ring: virtqtest.NewRing(t, o), t: t, dir: t.TempDir(), fail: make(chan error, 1)}
	fs, err := passthrough.New(passthrough.Options{SharedDir: g.dir})
	testkit.Check(t, err)
	t.Cleanup(func() { fs.Close() })
	server := fuse.NewServer(fs, fuse.Options{})
	g.dev, err = virtiofs.New(server, virtiofs.Options{Tag: "test", RequestQueues: 2, Workers: 2})
	testkit.Check(t, err)
	t.Cleanup(g.dev.Close)
	for _, e := range []**fd.FD{&g.kick, &g.call} {
		*e, err = fd.NewEvent("bell")
		testkit.Check(t, err)
		t.Cleanup(func() { (*e).Close() })
	}
	g.start()
	t.Cleanup(func() { g.dev.StopQueue(1) })
	g.c = fusetest.NewClient(nil)
	init := make([]byte, 64)
	binary.LittleEndian.PutUint32(init, 7)
	binary.LittleEndian.PutUint32(init[4:], 45)
	if _, n := g.ask(g.c.Message(fuse.OpInit, 0, init)); n != 80 {
		t.Fatalf("INIT: used length %d; want 80", n)
	}
	return g
}

// start hands the ring to the device, at its beginning.
func (g *rig) start() {
	g.t.Helper()
	q, err := virtq.New(g.Config())
	testkit.Check(g.t, err)
	testkit.Check(g.t, g.dev.StartQueue(1, virtio.Ring{Queue: q, Kick: g.kick.Int(), Call: signaller{g.call}, Fail: func(err error) { g.fail <- err }}))
}

// restart begins again with an idle ring and clean memory.
func (g *rig) restart() {
	g.dev.StopQueue(1)
	g.Reset()
	g.start()
}

type signaller struct{ *fd.FD }

func (s signaller) Notify() error { return s.Signal() }

// used kicks and waits for a completion.
func (g *rig) used() (id, n uint32) {
	g.t.Helper()
	testkit.Check(g.t, g.kick.Signal())
	return g.next()
}

// next waits for a completion.
func (g *rig) next() (id, n uint32) {
	g.t.Helper()
	for {
		if id, n, ok := g.TakeUsed(); ok {
			return id, n
		}
		g.wait()
	}
}

// wait waits for a call.
func (g *rig) wait() {
	g.t.Helper()
	p := []unix.PollFd{{Fd: int32(g.call.Int()), Events: unix.POLLIN}}
	if n, _ := unix.Poll(p, int(testkit.Patience.Milliseconds())); n == 0 {
		g.t.Fatal("no call in time")
	}
	g.call.Drain()
}

// ask sends a request with a reply of at most virtqtest.ReplyRoom bytes.
func (g *rig) ask(request []byte) (reply []byte, n uint32) {
	g.t.Helper()
	g.Request = request
	g.Sound()
	_, n = g.used()
	return g.Reply(), n
}

// alive checks that the ring serves a sound request.
func (g *rig) alive() {
	g.t.Helper()
	reply, n := g.ask(g.c.Message(fuse.OpGetAttr, fuse.RootID, make([]byte, 16)))
	if errno := int32(binary.LittleEndian.Uint32(reply[4:])); n != 120 || errno != 0 {
		g.t.Fatalf("GETATTR afterwards: used length %d, error %d; want 120 and 0", n, errno)
	}
}

// segs offers one chain of the given pieces and returns the used length.
func (g *rig) segs(read, write [][2]int) uint32 {
	g.t.Helper()
	all := append(read[:len(read):len(read)], write...)
	for i, s := range all {
		flags := uint16(0)
		if i >= len(read) {
			flags |= virtq.DescWrite
		}
		if i < len(all)-1 {
			flags |= virtq.DescNext
		}
		g.SetDesc(i, guestmem.GPA(s[0]), uint32(s[1]), flags, uint16(i+1))
	}
	g.Offer(0)
	_, n := g.used()
	return n
}

// TestHostile plays the whole corpus against the device: what is wrong with a chain
// costs that chain, what is wrong with a ring costs that ring (H001 to H018).
func TestHostile(t *testing.T) {
	rigs := map[bool]*rig{}
	for _, indirect := range []bool{false, true} {
		rigs[indirect] = newRig(t, virtqtest.Options{Indirect: indirect})
	}
	for _, c := range virtqtest.Hostile() {
		t.Run(c.Name, func(t *testing.T) {
			g := rigs[!c.NoIndirect]
			g.t = t
			g.restart()
			g.Request = g.c.Message(fuse.OpGetAttr, fuse.RootID, make([]byte, 16))
			c.Write(g.Ring)
			if c.Broken {
				testkit.Check(t, g.kick.Signal())
				if err := testkit.Receive(t, g.fail); err == nil {
					t.Error("Fail(nil); want an error")
				}
				g.restart()
				g.alive()
				return
			}
			_, n := g.used()
			if c.Err != "" && n != 0 && n != 16 {
				t.Errorf("used length = %d; want 0 or an error reply of 16", n)
			}
			g.alive()
		})
	}
}

func TestH011NoWritable(t *testing.T) {
	g := newRig(t, virtqtest.Options{})
	request := g.c.Message(fuse.OpMkDir, fuse.RootID, make([]byte, 8), "dir")
	copy(g.Bytes(virtqtest.RequestGPA, len(request)), request)
	for _, room := range []int{0, 15, 16} {
		t.Run(fmt.Sprintf("H011 H012 H013 %d writable bytes", room), func(t *testing.T) {
			write := [][2]int{{int(virtqtest.ReplyGPA), room}}
			want := uint32(0)
			if room == 0 {
				write = nil
			} else if room == 16 {
				want = 16
			}
			if n := g.segs([][2]int{{int(virtqtest.RequestGPA), len(request)}}, write); n != want {
				t.Errorf("used length = %d; want %d", n, want)
			}
			if room == 16 {
				if errno := int32(binary.LittleEndian.Uint32(g.Reply()[4:])); errno != -int32(unix.EIO) {
					t.Errorf("error = %d; want -EIO", errno)
				}
			}
			if err := unix.Access(g.dir+"/dir", unix.F_OK); err != unix.ENOENT {
				t.Errorf("the directory was made: access = %v; want ENOENT", err)
			}
		})
	}
	g.t = t
	g.alive()
}

func TestH018Scattered(t *testing.T) {
	g := newRig(t, virtqtest.Options{Size: 256})
	request := g.c.Message(fuse.OpGetAttr, fuse.RootID, make([]byte, 16))
	var read, write [][2]int
	for i, b := range request {
		at := int(virtqtest.RequestGPA) + 3*i
		g.Bytes(guestmem.GPA(at), 1)[0] = b
		read = append(read, [2]int{at, 1})
	}
	for i := range 120 {
		write = append(write, [2]int{int(virtqtest.ReplyGPA) + 3*i, 1})
	}
	if n := g.segs(read, write); n != 120 {
		t.Fatalf("used length = %d; want 120", n)
	}
	var reply []byte
	for _, s := range write {
		reply = append(reply, g.Bytes(guestmem.GPA(s[0]), 1)[0])
	}
	if err := fusetest.CheckReply(reply, 120); err != nil {
		t.Error(err)
	}
	var st unix.Stat_t
	testkit.Check(t, unix.Stat(g.dir, &st))
	if ino := binary.LittleEndian.Uint64(reply[32:]); ino != st.Ino {
		t.Errorf("GETATTR(root) = inode %d; want %d", ino, st.Ino)
	}
}

// TestH021Truncated takes guest memory away under a running ring.
func TestH021Truncated(t *testing.T) {
	for _, c := range []struct {
		name string
		gpa  guestmem.GPA // whose memory file is cut
	}{{"data", virtqtest.DataGPA}, {"ring", virtqtest.RingGPA}} {
		t.Run("H021 "+c.name, func(t *testing.T) {
			g := newRig(t, virtqtest.Options{})
			g.Request = g.c.Message(fuse.OpGetAttr, fuse.RootID, make([]byte, 16))
			g.Sound()
			for _, m := range g.Regions {
				if m.GPA == c.gpa {
					testkit.Check(t, unix.Ftruncate(m.FD, 0))
				}
			}
			testkit.Check(t, g.kick.Signal())
			if err := testkit.Receive(t, g.fail); err == nil {
				t.Error("Fail(nil); want an error")
			}
			g.dev.StopQueue(1)
		})
	}
}

func TestH022IdleKicks(t *testing.T) {
	g := newRig(t, virtqtest.Options{})
	before := g.UsedIdx()
	for range 100_000 {
		testkit.Check(t, g.kick.Signal())
	}
	g.alive()
	if got := g.UsedIdx(); got != before+1 {
		t.Errorf("used idx = %d after idle kicks and one request; want %d", got, before+1)
	}
}

func TestUnaligned(t *testing.T) {
	g, _ := newShare(t, guestOptions{size: 1024})
	c := g.client()
	f, err := c.Create(fuse.RootID, "file", 2, 0o644)
	testkit.Check(t, err)

	want := make([]byte, 1<<20)
	for i := range want {
		want[i] = byte(i*7 + i>>9)
	}
	// scatter lists pieces of the given sizes, each at an odd place of slot 1's half.
	scatter := func(base, total, piece, gap int) (segs []virtq.Seg) {
		for at := base; total > 0; at += piece + gap {
			n := min(piece, total)
			segs = append(segs, virtq.Seg{Addr: guestmem.GPA(at), Len: uint32(n)})
			total -= n
		}
		return segs
	}
	const headers, data, table = dataAt, dataAt + slot + 0x7ff, dataAt + 4*slot
	run := func(t *testing.T, in []byte, read, write []virtq.Seg) []byte {
		copy(g.mem.Mem[headers:], in)
		read = append([]virtq.Seg{{Addr: headers, Len: uint32(len(in))}}, read...)
		write = append([]virtq.Seg{{Addr: headers + 0x1000, Len: 16}}, write...)
		r := g.rings[1]
		if _, ok := r.AddIndirect(read, write, g.mem.Mem[table:][:16*(len(read)+len(write))], table); !ok {
			t.Fatal("ring is full")
		}
		testkit.Check(t, r.Submit())
		_, n, err := g.reply(1)
		testkit.Check(t, err)
		head := g.mem.Mem[headers+0x1000:][:16]
		if int(binary.LittleEndian.Uint32(head)) != n || binary.LittleEndian.Uint32(head[4:]) != 0 {
			t.Fatalf("reply header %x, used length %d", head, n)
		}
		return g.mem.Mem[headers+0x1000:][:n]
	}
	for _, c := range []struct {
		name       string
		piece, gap int
	}{
		{"H019 256 pages", 4096, 4096},
		{"H019 2048 pieces", 512, 64},
		{"H020 odd sizes", 1023, 1},
		{"H020 one piece", 1 << 20, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			segs := scatter(data, len(want), c.piece, c.gap)
			off := 0
			for _, s := range segs {
				off += copy(g.mem.Mem[s.Addr:][:s.Len], want[off:])
			}
			args := make([]byte, 40)
			binary.LittleEndian.PutUint64(args, uint64(f.Open.Handle))
			binary.LittleEndian.PutUint32(args[16:], uint32(len(want)))
			in := g.message(fuse.OpWrite, f.Entry.Node, args, len(want))
			reply := run(t, in, segs, []virtq.Seg{{Addr: headers + 0x1010, Len: 8}})
			if n := binary.LittleEndian.Uint32(reply[16:]); int(n) != len(want) {
				t.Fatalf("WRITE = %d; want %d", n, len(want))
			}
			for _, s := range segs {
				clear(g.mem.Mem[s.Addr:][:s.Len])
			}
			in = g.message(fuse.OpRead, f.Entry.Node, args, 0)
			run(t, in, nil, segs)
			var got []byte
			for _, s := range segs {
				got = append(got, g.mem.Mem[s.Addr:][:s.Len]...)
			}
			if !bytes.Equal(got, want) {
				t.Error("READ returned other bytes than were written")
			}
		})
	}
}

// message builds a request whose payload of extra bytes follows in other descriptors.
func (g *guest) message(op fuse.Opcode, node fuse.NodeID, args []byte, extra int) []byte {
	m := fusetest.NewClient(nil).Message(op, node, args)
	binary.LittleEndian.PutUint32(m, uint32(len(m)+extra))
	return m
}
