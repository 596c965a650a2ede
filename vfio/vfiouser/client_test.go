package vfiouser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/vfio"
)

// attach shows a model to a client.
func attach(t testing.TB, m Model) (dev vfio.Device, end func() error) {
	t.Helper()
	sock, end := serve(t, m)
	dev, err := Attach(context.Background(), sock)
	testkit.Check(t, err)
	t.Cleanup(func() { dev.Close() })
	return dev, end
}

// region returns a region of dev.
func regionOf(t testing.TB, dev vfio.Device, i int) vfio.Region {
	t.Helper()
	r, err := dev.Region(i)
	testkit.Check(t, err)
	return r
}

// TestDevice drives a Model with a client: what both ends together are for.
func TestDevice(t *testing.T) {
	m := newTestModel(t)
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	testkit.Check(t, err)
	done := make(chan error, 1)
	go func() {
		sock, err := l.AcceptUnix()
		if err == nil {
			err = NewServer(m, Options{}).Serve(context.Background(), sock)
		}
		done <- err
	}()
	ctx, cancel := context.WithCancel(context.Background())
	dev, err := Dial(ctx, path)
	testkit.Check(t, err)
	cancel()
	testkit.Check(t, l.Close())

	for i, want := range map[int]int64{0: 0x4000, 1: 0x1000, 2: 64 << 20, 3: 0, 4: 1 << 20, vfio.ROMRegion: 0, vfio.ConfigRegion: 4096} {
		if got := regionOf(t, dev, i).Size(); got != want {
			t.Errorf("Region(%d).Size() = %#x; want %#x", i, got, want)
		}
	}
	for kind, want := range map[vfio.IRQ]int{vfio.INTx: 0, vfio.MSI: 0, vfio.MSIX: 8, vfio.Err: 1} {
		if got, err := dev.Vectors(kind); got != want || err != nil {
			t.Errorf("Vectors(%d) = %d, %v; want %d", kind, got, err, want)
		}
	}

	// Registers: writes of BARs are posted, and reads come after them.
	bar := regionOf(t, dev, 0)
	for _, p := range []string{"1", "23", "4567", "89abcdef", "a long one, in one message"} {
		n, err := bar.WriteAt([]byte(p), 0x40)
		got := make([]byte, len(p))
		n2, err2 := bar.ReadAt(got, 0x40)
		if n != len(p) || n2 != len(p) || err != nil || err2 != nil || string(got) != p {
			t.Errorf("WriteAt(%q) = %d, %v; ReadAt() = %d, %v, %q", p, n, err, n2, err2, got)
		}
	}
	// The ends of regions.
	config := regionOf(t, dev, vfio.ConfigRegion)
	b := make([]byte, 8)
	if n, err := config.ReadAt(b, 4092); n != 4 || err != io.EOF {
		t.Errorf("ReadAt(8 bytes, 4092) of 4096 = %d, %v; want 4, EOF", n, err)
	}
	if n, err := config.WriteAt(b, 4092); n != 4 || err != io.ErrShortWrite {
		t.Errorf("WriteAt(8 bytes, 4092) of 4096 = %d, %v; want 4, %v", n, err, io.ErrShortWrite)
	}
	if n, err := bar.WriteAt(b, 0x4000-4); n != 4 || err != io.ErrShortWrite {
		t.Errorf("WriteAt(8 bytes, end-4) of a BAR = %d, %v; want 4, %v", n, err, io.ErrShortWrite)
	}
	if n, err := bar.ReadAt(b, -1); n != 0 || !errors.Is(err, unix.EINVAL) {
		t.Errorf("ReadAt(-1) = %d, %v; want 0, EINVAL", n, err)
	}
	if n, err := regionOf(t, dev, 3).ReadAt(b, 0); n != 0 || err != io.EOF {
		t.Errorf("ReadAt() of no region = %d, %v; want 0, EOF", n, err)
	}
	// More than one message.
	long := make([]byte, maxTransfer+100)
	if n, err := regionOf(t, dev, 2).ReadAt(long, 8); n != len(long) || err != nil {
		t.Errorf("ReadAt(%d bytes) = %d, %v", len(long), n, err)
	}

	// Memory of the device: a BAR, and none where a mapping couldn't begin.
	mem, err := regionOf(t, dev, 2).Mmap()
	testkit.Check(t, err)
	again, err := regionOf(t, dev, 2).Mmap()
	if err != nil || len(mem) != 64<<20 || &again[0] != &mem[0] {
		t.Errorf("Mmap() = %d bytes, then %v; want %d, and the same again", len(mem), err, 64<<20)
	}
	copy(mem[0x1000:], "shared")
	if _, err := unix.Pread(m.infos[2].File.Int(), b[:6], 0x1000); err != nil || string(b[:6]) != "shared" {
		t.Errorf("file of BAR 2 = %q, %v; want what was stored", b[:6], err)
	}
	for _, i := range []int{0, 4, vfio.ConfigRegion} {
		if _, err := regionOf(t, dev, i).Mmap(); !errors.Is(err, vfio.ErrNotMappable) {
			t.Errorf("Mmap() of region %d = %v; want %v", i, err, vfio.ErrNotMappable)
		}
	}

	// Memory of the driver, through a Table and through a View.
	bus := m.attached()
	ram := newMemfd(t, 1<<20)
	arena, err := unix.Mmap(ram.Int(), 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	testkit.Check(t, err)
	defer unix.Munmap(arena)
	testkit.Check(t, dev.MapDMA(0x100000, arena[0x1000:0x3000], ram, 0x1000))
	testkit.Check(t, dev.MapDMA(0x102000, arena[0x8000:0x9000], ram, 0x8000))
	copy(arena[0x2ffe:], "he")
	copy(arena[0x8000:], "llo")
	view, unmap, err := bus.View(0x101ffe, 5)
	testkit.Check(t, err)
	if string(view) != "hello" {
		t.Errorf("View() = %q; want hello", view)
	}
	copy(view, "HE")
	testkit.Check(t, unmap())
	if got := at(bus, 0x101ffe, 2); got != 'H' || arena[0x2ffe] != 'H' {
		t.Errorf("after a store: Table has %c, arena has %c; want H", got, arena[0x2ffe])
	}
	testkit.Check(t, dev.UnmapDMA(0x100000, 0x3000))
	if got := at(bus, 0x101ffe, 2); got != -1 {
		t.Errorf("after UnmapDMA: Table has %d; want -1", got)
	}

	// Interrupts, more than fit into a message.
	events := make([]*fd.FD, 8)
	for i := range events {
		events[i] = newEvent(t)
	}
	testkit.Check(t, dev.SetIRQs(vfio.MSIX, events))
	raise := func() {
		for i := range 8 {
			bus.Trigger(vfio.MSIX, i)
		}
	}
	raise()
	testkit.Check(t, dev.SetIRQs(vfio.MSIX, events[:3]))
	raise()
	testkit.Check(t, dev.SetIRQs(vfio.MSIX, nil))
	raise()
	for i, e := range events {
		want := uint64(1)
		if i < 3 {
			want = 2
		}
		if got := count(t, e); got != want {
			t.Errorf("%d interrupts of vector %d; want %d", got, i, want)
		}
	}

	m.taken()
	testkit.Check(t, dev.Reset())
	m.wantCalls(t, "reset")
	testkit.Check(t, dev.Close())
	testkit.Check(t, dev.Close())
	select {
	case <-dev.Gone():
	default:
		t.Error("Gone() is open after Close")
	}
	testkit.Check(t, <-done)
	m.wantCalls(t, "detach")
	if _, err := bar.ReadAt(b, 0); err == nil {
		t.Error("ReadAt() after Close succeeds")
	}
	if _, err := bar.WriteAt(b, 0); err == nil {
		t.Error("WriteAt() after Close succeeds")
	}
}

// TestArguments is what a driver can do wrong.
func TestArguments(t *testing.T) {
	m := newTestModel(t)
	dev, _ := attach(t, m)
	mem := make([]byte, 0x2000)
	testkit.Check(t, dev.MapDMA(0x1000, mem, nil, 0))
	for _, tt := range []struct {
		name string
		err  error
		want error
	}{
		{"region", func() error { _, err := dev.Region(9); return err }(), unix.EINVAL},
		{"region below 0", func() error { _, err := dev.Region(-1); return err }(), unix.EINVAL},
		{"vectors", func() error { _, err := dev.Vectors(5); return err }(), unix.EINVAL},
		{"too many eventfds", dev.SetIRQs(vfio.MSIX, make([]*fd.FD, 9)), unix.EINVAL},
		{"interrupts", dev.SetIRQs(-1, nil), unix.EINVAL},
		{"no memory", dev.MapDMA(0, nil, nil, 0), unix.EINVAL},
		{"address not on a page", dev.MapDMA(0x10010, mem, nil, 0), unix.EINVAL},
		{"size not in pages", dev.MapDMA(0x10000, mem[1:], nil, 0), unix.EINVAL},
		{"offset not on a page", dev.MapDMA(0x10000, mem, nil, 1), unix.EINVAL},
		{"offset below 0", dev.MapDMA(0x10000, mem, nil, -0x1000), unix.EINVAL},
		{"interrupt window", dev.MapDMA(0xfeeff000, mem, nil, 0), unix.EINVAL},
		{"into the interrupt window", dev.MapDMA(0xfedff000, mem, nil, 0), unix.EINVAL},
		{"end of the address space", dev.MapDMA(0xffff_ffff_ffff_e000, mem, nil, 0), unix.EINVAL},
		{"overlap at the end", dev.MapDMA(0x2000, mem, nil, 0), unix.EEXIST},
		{"overlap at the start", dev.MapDMA(0, mem, nil, 0), unix.EEXIST},
		{"no size", dev.UnmapDMA(0x1000, 0), unix.EINVAL},
		{"a part", dev.UnmapDMA(0x1000, 0x1000), unix.EINVAL},
		{"nothing", dev.UnmapDMA(0x10000, 0x1000), unix.ENOENT},
	} {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: %v; want %v", tt.name, tt.err, tt.want)
		}
	}
	testkit.Check(t, dev.SetIRQs(vfio.INTx, nil))
	testkit.Check(t, dev.UnmapDMA(0, 0x10000))
	testkit.Check(t, dev.MapDMA(0x2000, mem, nil, 0))
	for _, r := range dev.Ranges() {
		if r.First%vfio.IOVA(dev.PageSize()) != 0 || (r.Last+1)%vfio.IOVA(dev.PageSize()) != 0 || r.Last+1 == 0 {
			t.Errorf("range %+v isn't in pages", r)
		}
	}
}

// TestDialFails names the path and the cause.
func TestDialFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	if _, err := Dial(context.Background(), path); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), path) {
		t.Errorf("Dial(nothing) = %v; want ENOENT and the path", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	testkit.Check(t, err)
	defer l.Close()
	ctx, cancel := context.WithCancelCause(context.Background())
	reason := errors.New("enough")
	go func() {
		sock, err := l.AcceptUnix()
		if err == nil {
			io.ReadFull(sock, make([]byte, headerSize))
			cancel(reason)
			io.Copy(io.Discard, sock)
			sock.Close()
		}
	}()
	if _, err := Dial(ctx, path); !errors.Is(err, reason) {
		t.Errorf("Dial(silent server) = %v; want %v", err, reason)
	}
}

// TestCloseEndsWaiting closes a Device while a read waits for a server that doesn't
// answer.
func TestCloseEndsWaiting(t *testing.T) {
	file := newMemfd(t, 0x2000)
	dev, r, end := attachTo(t, file)
	end()
	done := make(chan error, 1)
	bar := regionOf(t, dev, 0)
	go func() { _, err := bar.ReadAt(make([]byte, 4), 0); done <- err }()
	r.recv()
	testkit.Check(t, dev.Close())
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "gone") {
			t.Errorf("ReadAt() = %v; want an error", err)
		}
	case <-time.After(patience):
		t.Fatal("ReadAt doesn't end")
	}
}

// TestServerLeaves wants everything to fail, and Gone to say so; mapped memory stays.
func TestServerLeaves(t *testing.T) {
	file := pages(t, 3)
	dev, r, end := attachTo(t, file)
	end()
	mem, err := regionOf(t, dev, 1).Mmap()
	if err != nil || len(mem) != 0x2000 {
		t.Fatalf("Mmap() = %d bytes, %v; want the area of 0x2000", len(mem), err)
	}
	testkit.Check(t, r.sock.Close())
	select {
	case <-dev.Gone():
	case <-time.After(patience):
		t.Fatal("Gone() stays open")
	}
	for name, err := range map[string]error{
		"Reset":    dev.Reset(),
		"SetIRQs":  dev.SetIRQs(vfio.MSIX, []*fd.FD{file}),
		"MapDMA":   dev.MapDMA(0, make([]byte, 4096), file, 0),
		"ReadAt":   func() error { _, err := regionOf(t, dev, 0).ReadAt(make([]byte, 4), 0); return err }(),
		"WriteAt":  func() error { _, err := regionOf(t, dev, 0).WriteAt(make([]byte, 4), 0); return err }(),
		"WriteAt7": func() error { _, err := regionOf(t, dev, 7).WriteAt(make([]byte, 4), 0); return err }(),
	} {
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s = %v; want an error about EOF", name, err)
		}
	}
	if mem[4096] != 3 {
		t.Errorf("mapped byte = %d; want 3", mem[4096])
	}
	testkit.Check(t, dev.Close())
	if _, err := regionOf(t, dev, 1).Mmap(); err == nil {
		t.Error("Mmap() after Close succeeds")
	}
}

// TestServerRefuses wants errnos to come through.
func TestServerRefuses(t *testing.T) {
	file := newMemfd(t, 0x1000) // too short for the area of BAR 1
	no := func(command string) line { return line{reply: command + "10000000 21000000 16000000"} }
	with := func(l line, files int) line { l.files = files; return l }
	dev, _, end := attachTo(t, file,
		no("0900"), no("0a00"), no("0d00"),
		with(no("0200"), 1), line{reply: "0200 10000000 01000000 00000000", files: 1}, // again
		no("0300"),
		with(no("0800"), 1), line{reply: "0800 10000000 01000000 00000000"}, // off
	)
	mem := make([]byte, 4096)
	read := func() error { _, err := regionOf(t, dev, 0).ReadAt(mem[:4], 0); return err }
	write := func() error { _, err := regionOf(t, dev, 7).WriteAt(mem[:4], 0); return err }
	dma := func() error { return dev.MapDMA(0, mem, file, 0) }
	for _, tt := range []struct {
		name string
		do   func() error
		want error
	}{
		{"ReadAt", read, unix.EINVAL},
		{"WriteAt", write, unix.EINVAL},
		{"Reset", dev.Reset, unix.EINVAL},
		{"MapDMA", dma, unix.EINVAL},
		{"MapDMA again", dma, nil},
		{"UnmapDMA", func() error { return dev.UnmapDMA(0, 4096) }, unix.EINVAL},
		{"SetIRQs", func() error { return dev.SetIRQs(vfio.MSIX, []*fd.FD{file}) }, unix.EINVAL},
		{"Mmap of a file that is too short", func() error { _, err := regionOf(t, dev, 1).Mmap(); return err }, vfio.ErrNotMappable},
	} {
		if err := tt.do(); !errors.Is(err, tt.want) {
			t.Errorf("%s = %v; want %v", tt.name, err, tt.want)
		}
	}
	end()
}

// TestServeDMA has the server reach memory by messages: across mappings, and only
// where there are any.
func TestServeDMA(t *testing.T) {
	mapOK := line{reply: "0200 10000000 01000000 00000000"}
	dev, r, end := attachTo(t, newMemfd(t, 0x2000), mapOK, mapOK, mapOK)
	a, b, c := make([]byte, 0x1000), make([]byte, 0x1000), make([]byte, 0x1000)
	copy(a[0xffe:], "ab")
	copy(b, "cd")
	testkit.Check(t, dev.MapDMA(0x2000, b, nil, 0))
	testkit.Check(t, dev.MapDMA(0x1000, a, nil, 0))
	testkit.Check(t, dev.MapDMA(0x4000, c, nil, 0))
	end()
	for _, tt := range []struct {
		name    string
		command Command
		address uint64
		count   uint64
		data    string
		errno   unix.Errno
		want    string
	}{
		{"across mappings", DMARead, 0x1ffe, 4, "", 0, "abcd"},
		{"write across mappings", DMAWrite, 0x1ffe, 4, "wxyz", 0, ""},
		{"what was written", DMARead, 0x1ffe, 4, "", 0, "wxyz"},
		{"nothing", DMARead, 0x9000, 0, "", 0, ""},
		{"before", DMARead, 0xfff, 2, "", unix.ENODEV, ""},
		{"into a hole", DMAWrite, 0x2fff, 2, "no", unix.ENODEV, ""},
		{"what it left", DMARead, 0x2ffe, 2, "", 0, "\x00\x00"},
		{"across a hole", DMARead, 0x2000, 0x2001, "", unix.ENODEV, ""},
		{"behind", DMARead, 0x5000, 1, "", unix.ENODEV, ""},
		{"wraps", DMARead, 1<<64 - 1, 2, "", unix.ENODEV, ""},
		{"wraps into memory", DMARead, 1<<64 - 1, 0x3000, "", unix.ENODEV, ""},
		{"too much", DMARead, 0x1000, maxTransfer + 1, "", unix.E2BIG, ""},
		{"read with data", DMARead, 0x1000, 1, "x", unix.EINVAL, ""},
		{"less data", DMAWrite, 0x1000, 2, "x", unix.EINVAL, ""},
		{"unknown command", GetInfo, 0, 0, "", unix.ENOSYS, ""},
	} {
		errno, reply := r.ask(tt.command, append(dmaAccess{tt.address, tt.count}.append(nil), tt.data...))
		if errno != tt.errno {
			t.Errorf("%s: %s = %v; want %v", tt.name, tt.command, errno, tt.errno)
		}
		if errno == 0 && (len(reply) < 16 || string(reply[16:]) != tt.want) {
			t.Errorf("%s: %s = %q; want %q", tt.name, tt.command, reply, tt.want)
		}
	}
	// Nothing is said about what nobody waits for.
	for _, c := range []Command{DMARead, GetInfo} {
		h := header{command: c, size: headerSize + accessSize, flags: flagNoReply}
		r.send(append(h.append(nil), dmaAccess{0x1000, 1}.append(nil)...))
	}
	if errno, _ := r.ask(DMARead, dmaAccess{0x1000, 1}.append(nil)); errno != 0 {
		t.Errorf("DMA_READ = %v; want success", errno)
	}
}

// TestManyUsers uses regions from many goroutines, and posts in between.
func TestManyUsers(t *testing.T) {
	m := newTestModel(t)
	dev, _ := attach(t, m)
	bar := regionOf(t, dev, 0)
	var wg sync.WaitGroup
	for g := range int64(4) {
		wg.Go(func() {
			for i := range 100 {
				want := []byte{byte(g), byte(i), 3, 4}
				got := make([]byte, 4)
				_, err := bar.WriteAt(want, 8*g)
				_, err2 := bar.ReadAt(got, 8*g)
				if err != nil || err2 != nil || !bytes.Equal(got, want) {
					t.Errorf("goroutine %d, round %d: %v, %v, %x; want %x", g, i, err, err2, got, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestHostileServer plays servers that lie. Attach, or the call, fails; nothing is left
// open.
func TestHostileServer(t *testing.T) {
	file := newMemfd(t, 0x4000)
	good := func() []line { return hello(t, file) }
	infoReply := func(flags, index, capOff, size, offset string, caps string) string {
		n := 48 + len(strings.ReplaceAll(caps, " ", ""))/2
		return fmt.Sprintf("0500 %02x000000 01000000 00000000 20000000 %s %s %s %s %s %s", n, flags, index, capOff, size, offset, caps)
	}
	version := func(payload string) string {
		return fmt.Sprintf("0100 %02x000000 01000000 00000000 %x", 16+len(payload), payload)
	}
	sparse := func(areas string) string { return "01000100 00000000" + areas }
	for _, tt := range []struct {
		name  string
		at    int // index in hello
		reply string
		want  string // in the error; "": success
	}{
		{"other command", 0, "0200 10000000 01000000 00000000", "not sent"},
		{"version 1.0", 0, version("\x01\x00\x00\x00"), "version 1.0"},
		{"version 0.1", 0, version("\x00\x00\x01\x00"), "version 0.1"},
		{"no version", 0, version("\x00"), "payload"},
		{"no JSON", 0, version("\x00\x00\x00\x00{\x00"), "capabilities"},
		{"tiny accesses", 0, version("\x00\x00\x00\x00" + `{"capabilities":{"max_data_xfer_size":7}}` + "\x00"), "7 bytes"},
		{"error 0", 0, "0100 10000000 21000000 00000000", "error 0"},
		{"error 5000", 0, "0100 10000000 21000000 88130000", "error 5000"},
		{"type 3", 0, "0100 10000000 03000000 00000000", "flags"},
		{"size 3", 0, "0100 03000000 01000000 00000000", "message size"},
		{"not PCI", 1, "0400 20000000 01000000 00000000 10000000 01000000 09000000 05000000", "not a PCI function"},
		{"short information", 1, "0400 1f000000 01000000 00000000 10000000 01000000 09000000 050000", "payload"},
		{"other region", 2, infoReply("03000000", "01000000", "00000000", "0040000000000000", "0000000000000000", ""), "region 1"},
		{"region too large", 2, infoReply("03000000", "00000000", "00000000", "0000000000000080", "0000000000000000", ""), "0x8000000000000000 bytes"},
		{"short region", 2, "0500 10000000 01000000 00000000", "payload"},
		{"argsz 0", 2, "0500 30000000 01000000 00000000 00000000 03000000 00000000 00000000 0040000000000000 0000000000000000", "argsz"},
		{"argsz huge", 2, "0500 30000000 01000000 00000000 ffffffff 03000000 00000000 00000000 0040000000000000 0000000000000000", "described in"},
		{"capability in the header", 2, infoReply("0f000000", "00000000", "10000000", "0040000000000000", "0000000000000000", ""), "capability"},
		{"capability behind the end", 2, infoReply("0f000000", "00000000", "20000000", "0040000000000000", "0000000000000000", ""), "capability"},
		{"capability far behind the end", 2, infoReply("0f000000", "00000000", "fcffffff", "0040000000000000", "0000000000000000", ""), "capability"},
		{"capability that names itself", 2, infoReply("0f000000", "00000000", "20000000", "0040000000000000", "0000000000000000", "02000100 20000000"), "capability"},
		{"capability cut off", 2, infoReply("0f000000", "00000000", "20000000", "0040000000000000", "0000000000000000", sparse("")), "cut off"},
		{"too many areas", 2, infoReply("0f000000", "00000000", "20000000", "0040000000000000", "0000000000000000", sparse("ffffffff 00000000")), "areas"},
		{"area outside", 2, infoReply("0f000000", "00000000", "20000000", "0040000000000000", "0000000000000000",
			sparse("01000000 00000000 0000000000000000 0140000000000000")), "area"},
		{"file offset wraps", 2, infoReply("07000000", "00000000", "00000000", "0040000000000000", "00c0ffffffffff7f", ""), "area"},
		{"area that doesn't begin at 0", 2, infoReply("0f000000", "00000000", "20000000", "0040000000000000", "0000000000000000",
			sparse("01000000 00000000 0010000000000000 0110000000000000")), ""},
		{"unknown capability first", 2, infoReply("0f000000", "00000000", "20000000", "0040000000000000", "0000000000000000",
			"09000100 28000000"+sparse("01000000 00000000 0000000000000000 0010000000000000")), ""},
		{"too many vectors", 11, "0700 20000000 01000000 00000000 10000000 01000000 00000000 ffffffff", "interrupts"},
		{"other kind", 11, "0700 20000000 01000000 00000000 10000000 01000000 01000000 01000000", "interrupts"},
		{"refused with EPERM", 11, "0700 10000000 21000000 01000000", "not permitted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ours, theirs := sockets(t)
			lines := good()
			lines[tt.at].reply, lines[tt.at].give = tt.reply, []*fd.FD{file, file}
			if tt.want != "" {
				lines = lines[:tt.at+1]
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				script(t, raw{t, theirs}, lines)
			}()
			dev, err := Attach(context.Background(), ours)
			if err == nil {
				defer dev.Close()
			}
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("Attach() = %v; want success", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("Attach() = %v; want an error about %q", err, tt.want)
			}
			<-done
		})
	}
	for _, tt := range []struct{ name, reply string }{
		{"fewer bytes", "0900 22000000 01000000 00000000 0000000000000000 00000000 02000000 0000"},
		{"other count", "0900 24000000 01000000 00000000 0000000000000000 00000000 05000000 00000000"},
		{"no payload", "0900 10000000 01000000 00000000"},
	} {
		dev, _, end := attachTo(t, file, line{reply: tt.reply})
		_, err := regionOf(t, dev, 0).ReadAt(make([]byte, 4), 0)
		if _, ok := errors.AsType[*PeerError](err); !ok {
			t.Errorf("%s: ReadAt() = %v; want a PeerError", tt.name, err)
		}
		end()
		// The connection is of no use any more, and says why.
		if _, ok := errors.AsType[*PeerError](dev.Reset()); !ok {
			t.Errorf("%s: Reset() = %v; want a PeerError", tt.name, dev.Reset())
		}
		testkit.Check(t, dev.Close())
	}
}

// TestNoAllocations covers what happens for each doorbell and interrupt.
func TestNoAllocations(t *testing.T) {
	m := newTestModel(t)
	m.vectors[vfio.MSIX] = 1
	dev, _ := attach(t, quiet{m})
	bar := regionOf(t, dev, 0)
	event := newEvent(t)
	testkit.Check(t, dev.SetIRQs(vfio.MSIX, []*fd.FD{event}))
	b := make([]byte, 4)
	bus := m.attached()
	testkit.NoAllocs(t, 200, "a write, read and interrupt", func() {
		bar.WriteAt(b, 8)
		bar.ReadAt(b, 8)
		bus.Trigger(vfio.MSIX, 0)
		event.Drain()
	})
}

// A quiet model doesn't note accesses.
type quiet struct{ *testModel }

func (quiet) Write(int, []byte, int64) {}

func BenchmarkDoorbell(b *testing.B) {
	dev, _ := attach(b, quiet{newTestModel(b)})
	bar := regionOf(b, dev, 0)
	p := make([]byte, 4)
	for b.Loop() {
		bar.WriteAt(p, 8)
	}
	bar.ReadAt(p, 8)
}

func BenchmarkRead(b *testing.B) {
	dev, _ := attach(b, quiet{newTestModel(b)})
	bar := regionOf(b, dev, 0)
	p := make([]byte, 4)
	for b.Loop() {
		bar.ReadAt(p, 8)
	}
}
