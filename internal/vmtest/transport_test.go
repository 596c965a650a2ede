package vmtest_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/internal/vmtest"
	"vfiofs/virtio"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtq"
)

// BenchmarkTransport sends the same streams of requests to vfiofs over its two
// transports, with this process as the guest and without any VM:
//
//	socket:  benchmark ◄─ vhost-user ─► vfiofs --socket
//	vvu:     benchmark ◄─ vhost-user ─► vfiofs proxy ◄─ vfio-user ─► vfiofs --vfio
//
// "x1" waits for each reply, "x16" keeps 16 requests in the ring. Run it with
//
//	go test -run='^$' -bench=Transport ./internal/vmtest
func BenchmarkTransport(b *testing.B) {
	program := build(b)
	for _, transport := range []struct {
		name    string
		connect func(b *testing.B, program, dir string) *guest
	}{{"socket", overSocket}, {"vvu", overFunction}} {
		dir := b.TempDir()
		testkit.Check(b, os.WriteFile(filepath.Join(dir, "file"), make([]byte, fileSize), 0o644))
		b.Run(transport.name, func(b *testing.B) {
			g := transport.connect(b, program, dir)
			for _, stream := range g.streams(b) {
				b.Run(stream.name, func(b *testing.B) { g.run(b, stream) })
			}
		})
	}
}

// Where the guest keeps things in its memory.
const (
	guestSize = 64 << 20
	ringSpace = 0x10_000 // bytes per ring, from address 0
	slotsAt   = 1 << 20  // a slot for each request in flight
	slotSize  = 2 << 20
	replyOff  = 1 << 20 // of the reply in its slot; the request is at its start
	fileSize  = 16 << 20
)

// A guest is the driver of a virtio-fs device.
type guest struct {
	front  *vhostuser.Frontend
	mem    *vhostuser.GuestMemory
	ring   *vhostuser.GuestRing
	client *fusetest.Client
}

// overSocket connects a guest to "vfiofs --socket".
func overSocket(b *testing.B, program, dir string) *guest {
	socket := filepath.Join(socketDir(b), "s")
	d, err := vmtest.Serve(vmtest.Server{Name: "vfiofs", Command: func(o vmtest.ServeOptions) []string {
		return []string{program, "--socket", o.Socket, "--tag", "bench", "--shared-dir", dir, "--num-request-queues", "1"}
	}}, vmtest.ServeOptions{Socket: socket})
	testkit.Check(b, err)
	stopAtEnd(b, d)
	mem, err := vhostuser.NewGuestMemory(0, guestSize)
	testkit.Check(b, err)
	return connect(b, socket, mem)
}

// overFunction connects a guest to "vfiofs --vfio" behind a proxy.
func overFunction(b *testing.B, program, dir string) *guest {
	at := socketDir(b)
	p, err := vmtest.StartProxy(program, at, fmt.Sprint(guestSize))
	testkit.Check(b, err)
	stopAtEnd(b, p.Daemon)
	server := exec.Command(program, "--vfio", filepath.Join(at, "device.sock"), "--tag", "bench", "--shared-dir", dir, "--num-request-queues", "1")
	server.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	server.Stderr = os.Stderr
	testkit.Check(b, server.Start())
	b.Cleanup(func() {
		testkit.Check(b, server.Process.Signal(unix.SIGTERM))
		if err := server.Wait(); err != nil {
			b.Errorf("vfiofs --vfio: %v", err)
		}
	})
	n, err := unix.Open(p.Memory(), unix.O_RDWR|unix.O_CLOEXEC, 0)
	testkit.Check(b, err)
	bytes, err := unix.Mmap(n, 0, guestSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	testkit.Check(b, err)
	return connect(b, p.Options.Socket, &vhostuser.GuestMemory{
		Region: vhostuser.Region{Size: guestSize, Addr: 0x7f00_0000_0000},
		Mem:    bytes, File: fd.New(n, "memory of the sibling"),
	})
}

func socketDir(b *testing.B) string {
	dir, err := os.MkdirTemp("", "bench-") // b.TempDir is too long for a socket's path
	testkit.Check(b, err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// connect does what QEMU and the guest's driver do.
func connect(b *testing.B, socket string, mem *vhostuser.GuestMemory) *guest {
	front, err := vhostuser.Dial(socket)
	testkit.Check(b, err)
	g := &guest{front: front, mem: mem}
	b.Cleanup(func() {
		g.front.Close()
		g.mem.Close()
	})
	testkit.Check(b, front.Negotiate(virtio.FeatureIndirectDesc|virtio.FeatureEventIdx|virtio.FeatureVersion1|vhostuser.FeatureProtocolFeatures, ^vhostuser.ProtocolFeatures(0)))
	testkit.Check(b, front.Share(mem))
	for i := range 2 {
		r, err := front.NewRing(mem, i*ringSpace, i, 128)
		testkit.Check(b, err)
		b.Cleanup(func() { r.Close() })
		testkit.Check(b, front.StartRing(r, 0))
		g.ring = r
	}
	g.client = fusetest.NewClient(func(in []byte, outSize int) ([]byte, error) {
		copy(g.slot(0), in)
		if _, ok := g.add(0, len(in), outSize); !ok {
			return nil, fmt.Errorf("ring is full")
		}
		if err := g.ring.Submit(); err != nil {
			return nil, err
		}
		_, n, err := g.completed()
		return append([]byte(nil), g.slot(0)[replyOff:][:n]...), err
	})
	_, err = g.client.Init(fusetest.AllFlags)
	testkit.Check(b, err)
	return g
}

func (g *guest) slot(i int) []byte { return g.mem.Mem[slotsAt+i*slotSize:][:slotSize] }

// add puts the request in slot i into the ring.
func (g *guest) add(i, in, out int) (head uint16, ok bool) {
	at := guestmem.GPA(slotsAt + i*slotSize)
	return g.ring.Add([]virtq.Seg{{Addr: at, Len: uint32(in)}}, []virtq.Seg{{Addr: at + replyOff, Len: uint32(out)}})
}

// completed waits for the next reply.
func (g *guest) completed() (head uint16, n uint32, err error) {
	for {
		if head, n, ok := g.ring.Used(); ok {
			return head, n, nil
		}
		if err := g.ring.Err(); err != nil {
			return 0, 0, err
		}
		if !g.ring.Wait(10 * time.Second) {
			return 0, 0, fmt.Errorf("no reply in time")
		}
	}
}

// A stream is one request, many times.
type stream struct {
	name  string
	depth int // requests in flight
	bytes int // of payload in each
	in    []byte
	out   int
}

func (g *guest) streams(b *testing.B) []stream {
	entry, err := g.client.Lookup(fuse.RootID, "file")
	testkit.Check(b, err)
	file, err := g.client.Open(entry.Node, unix.O_RDWR)
	testkit.Check(b, err)
	read := func(size int) []byte {
		return g.client.Message(fuse.OpRead, entry.Node, fuse.ReadIn{Handle: file.Handle, Size: uint32(size)})
	}
	write := func(size int) []byte {
		return g.client.Message(fuse.OpWrite, entry.Node, fuse.WriteIn{Handle: file.Handle, Size: uint32(size)}, make([]byte, size))
	}
	attr := g.client.Message(fuse.OpGetAttr, entry.Node, fuse.GetAttrIn{})
	const header, attrSize, writeSize = 16, 104, 8
	return []stream{
		{"GetAttr/x1", 1, 0, attr, header + attrSize},
		{"GetAttr/x16", 16, 0, attr, header + attrSize},
		{"Read4K/x1", 1, 4 << 10, read(4 << 10), header + 4<<10},
		{"Read4K/x16", 16, 4 << 10, read(4 << 10), header + 4<<10},
		{"Read1M/x1", 1, 1<<20 - 4096, read(1<<20 - 4096), header + 1<<20 - 4096},
		{"Read1M/x16", 16, 1<<20 - 4096, read(1<<20 - 4096), header + 1<<20 - 4096},
		{"Write64K/x1", 1, 64 << 10, write(64 << 10), header + writeSize},
		{"Write64K/x16", 16, 64 << 10, write(64 << 10), header + writeSize},
	}
}

// run sends b.N requests and checks the length of each reply.
func (g *guest) run(b *testing.B, s stream) {
	slots := map[uint16]int{} // by head
	for i := range s.depth {
		copy(g.slot(i), s.in)
	}
	b.SetBytes(int64(s.bytes))
	b.ResetTimer()
	sent := 0
	send := func(slot int) {
		if sent == b.N {
			return
		}
		head, ok := g.add(slot, len(s.in), s.out)
		if !ok {
			b.Fatal("ring is full")
		}
		slots[head] = slot
		sent++
	}
	for i := range s.depth {
		send(i)
	}
	testkit.Check(b, g.ring.Submit())
	for done := 0; done < b.N; {
		head, n, err := g.completed()
		for ok := true; ok; head, n, ok = g.ring.Used() {
			testkit.Check(b, err)
			if int(n) != s.out {
				b.Fatalf("reply has %d bytes; want %d: %x", n, s.out, g.slot(slots[head])[replyOff:][:16])
			}
			done++
			send(slots[head])
		}
		testkit.Check(b, g.ring.Submit())
	}
}
