package vfiouser

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/vfio"
)

// qemuVersion is the text of QEMU's VERSION (vfio-user.md 3.1).
const qemuVersion = `{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}`

// TestGoldenServer plays what QEMU 11.1.3 sends, in the order of vfio-user.md section
// 12, and compares the replies.
func TestGoldenServer(t *testing.T) {
	m := newTestModel(t)
	sock, end := serve(t, m)
	r := raw{t, sock}
	ram, event := newMemfd(t, 512<<20), newEvent(t)
	ok := func(id string) string { return id + "10000000 01000000 00000000" }
	multi := fmt.Sprintf("%x", bytes.Repeat(unhex(t, "0400000000000000 00000000 04000000 6011000000000000"), 200))
	for _, tt := range []struct {
		name, request string
		files         []*fd.FD
		reply         string // "": none
		replyFiles    int
	}{
		{
			"VERSION", "00000100 d6000000 00000000 00000000 0000 0000" + fmt.Sprintf("%x", qemuVersion) + "00", nil,
			"00000100 6a000000 01000000 00000000 0000 0000" +
				fmt.Sprintf("%x", `{"capabilities":{"max_data_xfer_size":1048576,"max_msg_fds":8,"write_multiple":true}}`) + "00", 0,
		},
		{
			"DMA_MAP of RAM", "01000200 30000000 00000000 00000000 20000000 03000000 0000000000000000 0000000000000000 0000002000000000",
			[]*fd.FD{ram},
			ok("01000200"), 0,
		},
		{
			"DMA_MAP of the BIOS", "02000200 30000000 00000000 00000000 20000000 01000000 0000000000000000 0000fcff00000000 0000040000000000",
			nil, ok("02000200"), 0,
		},
		{
			"GET_INFO", "03000400 20000000 00000000 00000000 10000000 00000000 00000000 00000000", nil,
			"03000400 20000000 01000000 00000000 10000000 03000000 09000000 05000000", 0,
		},
		{
			"GET_REGION_INFO of BAR 0", "04000500 30000000 00000000 00000000 20000000 00000000 00000000 00000000 0000000000000000 0000000000000000", nil,
			"04000500 30000000 01000000 00000000 20000000 03000000 00000000 00000000 0040000000000000 0000000000000000", 0,
		},
		{
			"GET_REGION_INFO of BAR 2", "06000500 30000000 00000000 00000000 20000000 00000000 02000000 00000000 0000000000000000 0000000000000000", nil,
			"06000500 30000000 01000000 00000000 20000000 07000000 02000000 00000000 0000000400000000 0000000000000000", 1,
		},
		{
			"GET_REGION_INFO of BAR 3", "07000500 30000000 00000000 00000000 20000000 00000000 03000000 00000000 0000000000000000 0000000000000000", nil,
			"07000500 30000000 01000000 00000000 20000000 00000000 03000000 00000000 0000000000000000 0000000000000000", 0,
		},
		{
			"GET_REGION_INFO of BAR 4", "08000500 30000000 00000000 00000000 20000000 00000000 04000000 00000000 0000000000000000 0000000000000000", nil,
			"08000500 30000000 01000000 00000000 50000000 07000000 04000000 00000000 0000100000000000 0000000000000000", 0,
		},
		{
			"GET_REGION_INFO of BAR 4 with room", "09000500 30000000 00000000 00000000 50000000 00000000 04000000 00000000 0000000000000000 0000000000000000", nil,
			`09000500 60000000 01000000 00000000 50000000 0f000000 04000000 20000000 0000100000000000 0000000000000000
			01000100 00000000 02000000 00000000 0000010000000000 0000010000000000 0000040000000000 0010000000000000`, 1,
		},
		{
			"GET_IRQ_INFO", "0c000700 20000000 00000000 00000000 10000000 00000000 03000000 00000000", nil,
			"0c000700 20000000 01000000 00000000 10000000 01000000 03000000 01000000", 0,
		},
		{
			"REGION_READ of configuration space", "0d000900 20000000 00000000 00000000 0000000000000000 07000000 00100000", nil,
			"0d000900 20100000 01000000 00000000 0000000000000000 07000000 00100000" + strings.Repeat("00", 4096), 0,
		},
		{
			"REGION_WRITE of the ROM BAR", "0f000a00 24000000 00000000 00000000 3000000000000000 07000000 04000000 00f8ffff", nil,
			"0f000a00 20000000 01000000 00000000 3000000000000000 07000000 04000000", 0,
		},
		{
			"SET_IRQS of the error notifier", "1b000800 24000000 00000000 00000000 14000000 24000000 03000000 00000000 01000000",
			[]*fd.FD{event},
			ok("1b000800"), 0,
		},
		{"DEVICE_RESET", "1e000d00 10000000 00000000 00000000", nil, ok("1e000d00"), 0},
		{
			"DMA_UNMAP", "26000300 28000000 00000000 00000000 18000000 00000000 0000000000000000 0000002000000000", nil,
			"26000300 28000000 01000000 00000000 18000000 00000000 0000000000000000 0000002000000000", 0,
		},
		{
			"SET_IRQS takes a vector back", "01020800 24000000 00000000 00000000 14000000 24000000 02000000 00000000 01000000",
			nil, ok("01020800"), 0,
		},
		{"posted REGION_WRITE", "90010a00 24000000 10000000 00000000 1000000000000000 00000000 04000000 00003412", nil, "", 0},
		{"REGION_WRITE_MULTI", "20130f00 d8120000 10000000 00000000 c800000000000000" + multi, nil, "", 0},
		{
			"DMA_UNMAP of everything", "424e0300 28000000 00000000 00000000 18000000 02000000 0000000000000000 0000000000000000", nil,
			"424e0300 28000000 01000000 00000000 18000000 02000000 0000000000000000 0000000000000000", 0,
		},
		{
			"GET_REGION_IO_FDS", "1d000600 20000000 00000000 00000000 10000000 00000000 00000000 00000000", nil,
			"1d000600 20000000 01000000 00000000 10000000 00000000 00000000 00000000", 0,
		},
		{"command 20", "1e001400 10000000 00000000 00000000", nil, "1e001400 10000000 21000000 26000000", 0},
	} {
		r.send(unhex(t, tt.request), tt.files...)
		if tt.reply == "" {
			continue
		}
		got, files := r.recv()
		if want := unhex(t, tt.reply); !bytes.Equal(got, want) || files != tt.replyFiles {
			t.Errorf("%s: reply with %d files; want %d (-want +got)\n%s", tt.name, files, tt.replyFiles,
				cmp.Diff(fmt.Sprintf("% x", want), fmt.Sprintf("% x", got)))
		}
	}
	if err := end(); err != nil {
		t.Errorf("Serve = %v; want nil", err)
	}
	want := []string{"attach", "write 7+0x30 00f8ffff", "reset", "unmap 0x0-0x1fffffff", "write 0+0x10 00003412"}
	for range 200 {
		want = append(want, "write 0+0x4 60110000")
	}
	want = append(want, "unmap 0x0-0xffffffffffffffff", "detach")
	if diff := cmp.Diff(want, m.taken()); diff != "" {
		t.Errorf("calls of the model (-want +got)\n%s", diff)
	}
}

// A line of a script is a command that a client should send, and the reply.
type line struct {
	want  string // the command without its id; "": not compared
	files int    // that should come with it
	reply string // without the id
	give  []*fd.FD
}

// script plays a server: it expects commands and sends replies, until the client
// leaves.
func script(t *testing.T, r raw, lines []line) {
	t.Helper()
	for _, l := range lines {
		got, files := r.recv()
		if want := unhex(t, l.want); l.want != "" && !bytes.Equal(got[2:], want) || files != l.files {
			t.Errorf("command % x with %d files; want % x with %d", got[2:], files, want, l.files)
		}
		if l.reply != "" {
			r.send(append(got[:2:2], unhex(t, l.reply)...), l.give...)
		}
	}
}

// hello is how a server of a function with a BAR 0 of 16 KiB, a BAR 1 of 64 KiB with
// an area of 8 KiB, and 8 MSI-X vectors introduces itself. VERSION is libvfio-user's
// (vfio-user.md 3.3), with a twin socket.
func hello(t *testing.T, file *fd.FD) []line {
	text := `{ "capabilities": { "max_msg_fds": 8, "max_data_xfer_size": 1048576, "migration": { "pgsize": 4096 }, "twin_socket": { "supported": true, "fd_index": 0 } } }`
	region := func(argsz, index string) string {
		return "0500 30000000 00000000 00000000" + argsz + "00000000" + index + "00000000 0000000000000000 0000000000000000"
	}
	info := func(argsz, flags, index, size string) string {
		return "0500 30000000 01000000 00000000" + argsz + flags + index + "00000000" + size + "0000000000000000"
	}
	irq := func(index, count string) line {
		return line{
			want:  "0700 20000000 00000000 00000000 10000000 00000000" + index + "00000000",
			reply: "0700 20000000 01000000 00000000 10000000 01000000" + index + count,
		}
	}
	return []line{
		{
			want: "0100 6c000000 00000000 00000000 0000 0000" +
				fmt.Sprintf("%x", `{"capabilities":{"max_data_xfer_size":1048576,"max_msg_fds":16,"write_multiple":false}}`) + "00",
			reply: fmt.Sprintf("0100 %02x000000 01000000 00000000 0000 0000 %x 00", 20+len(text)+1, text),
			give:  []*fd.FD{file},
		},
		{
			want:  "0400 20000000 00000000 00000000 10000000 00000000 00000000 00000000",
			reply: "0400 20000000 01000000 00000000 10000000 03000000 08000000 04000000",
		},
		{want: region("20000000", "00000000"), reply: info("20000000", "03000000", "00000000", "0040000000000000")},
		{want: region("20000000", "01000000"), reply: info("40000000", "07000000", "01000000", "0000010000000000")},
		{want: region("40000000", "01000000"), reply: `0500 50000000 01000000 00000000 40000000 0f000000 01000000 20000000 0000010000000000 0010000000000000
			01000100 00000000 01000000 00000000 0000000000000000 0020000000000000`, give: []*fd.FD{file}},
		{want: region("20000000", "02000000"), reply: info("20000000", "00000000", "02000000", "0000000000000000")},
		{want: region("20000000", "03000000"), reply: info("20000000", "00000000", "03000000", "0000000000000000")},
		{want: region("20000000", "04000000"), reply: info("20000000", "00000000", "04000000", "0000000000000000")},
		{want: region("20000000", "05000000"), reply: info("20000000", "00000000", "05000000", "0000000000000000")},
		{want: region("20000000", "06000000"), reply: info("20000000", "00000000", "06000000", "0000000000000000")},
		{want: region("20000000", "07000000"), reply: info("20000000", "03000000", "07000000", "0010000000000000")},
		irq("00000000", "01000000"),
		{want: "0700 20000000 00000000 00000000 10000000 00000000 01000000 00000000", reply: "0700 10000000 21000000 16000000"},
		irq("02000000", "08000000"),
		irq("03000000", "01000000"),
	}
}

// attachTo attaches to a server that plays hello and then lines. end waits for it.
func attachTo(t *testing.T, file *fd.FD, lines ...line) (dev vfio.Device, r raw, end func()) {
	t.Helper()
	ours, theirs := sockets(t)
	r = raw{t, theirs}
	done := make(chan struct{})
	go func() {
		defer close(done)
		script(t, r, append(hello(t, file), lines...))
	}()
	dev, err := Attach(context.Background(), ours)
	testkit.Check(t, err)
	t.Cleanup(func() { dev.Close() })
	return dev, r, func() { <-done }
}

// TestGoldenClient compares what the client sends with vfio-user.md section 12.
func TestGoldenClient(t *testing.T) {
	file, event := newMemfd(t, 1<<20), newEvent(t)
	dev, r, end := attachTo(t, file,
		line{ // read of 4 bytes
			want:  "0900 20000000 00000000 00000000 1000000000000000 00000000 04000000",
			reply: "0900 24000000 01000000 00000000 1000000000000000 00000000 04000000 78563412",
		},
		line{want: "0a00 24000000 10000000 00000000 1000000000000000 00000000 04000000 00003412"}, // posted
		line{ // configuration space waits
			want:  "0a00 22000000 00000000 00000000 0400000000000000 07000000 02000000 0600",
			reply: "0a00 20000000 01000000 00000000 0400000000000000 07000000 02000000",
		},
		line{
			want:  "0200 30000000 00000000 00000000 20000000 03000000 0000000000000000 0000100000000000 0000100000000000",
			files: 1, reply: "0200 10000000 01000000 00000000",
		},
		line{
			want: "0800 24000000 00000000 00000000 14000000 24000000 02000000 00000000 02000000", files: 2,
			reply: "0800 10000000 01000000 00000000",
		},
		line{ // one vector less
			want: "0800 24000000 00000000 00000000 14000000 24000000 02000000 00000000 01000000", files: 1,
			reply: "0800 10000000 01000000 00000000",
		},
		line{
			want:  "0800 24000000 00000000 00000000 14000000 24000000 02000000 01000000 01000000",
			reply: "0800 10000000 01000000 00000000",
		},
		line{
			want:  "0800 24000000 00000000 00000000 14000000 21000000 02000000 00000000 00000000",
			reply: "0800 10000000 01000000 00000000",
		},
		line{want: "0d00 10000000 00000000 00000000", reply: "0d00 10000000 01000000 00000000"},
		line{
			want:  "0300 28000000 00000000 00000000 18000000 00000000 0000100000000000 0000100000000000",
			reply: "0300 28000000 01000000 00000000 18000000 00000000 0000100000000000 0000100000000000",
		},
	)
	bar, err := dev.Region(0)
	testkit.Check(t, err)
	b := make([]byte, 4)
	if n, err := bar.ReadAt(b, 0x10); n != 4 || err != nil || u32(b, 0) != 0x12345678 {
		t.Errorf("ReadAt(0x10) = %d, %v, %x; want 4, nil, 78563412", n, err, b)
	}
	if n, err := bar.WriteAt([]byte{0, 0, 0x34, 0x12}, 0x10); n != 4 || err != nil {
		t.Errorf("WriteAt(0x10) = %d, %v; want 4, nil", n, err)
	}
	config, err := dev.Region(vfio.ConfigRegion)
	testkit.Check(t, err)
	if n, err := config.WriteAt([]byte{6, 0}, 4); n != 2 || err != nil {
		t.Errorf("WriteAt(4) of configuration space = %d, %v; want 2, nil", n, err)
	}
	mem := make([]byte, 1<<20)
	testkit.Check(t, dev.MapDMA(0x100000, mem, file, 0))
	testkit.Check(t, dev.SetIRQs(vfio.MSIX, []*fd.FD{event, event}))
	testkit.Check(t, dev.SetIRQs(vfio.MSIX, []*fd.FD{event}))
	testkit.Check(t, dev.SetIRQs(vfio.MSIX, nil))
	testkit.Check(t, dev.SetIRQs(vfio.MSIX, nil)) // says nothing
	testkit.Check(t, dev.Reset())
	testkit.Check(t, dev.UnmapDMA(0x100000, 1<<20))
	end()

	// DMA commands, as QEMU answers them.
	testkit.Check(t, sendAndMap(dev, r, mem))
	for _, tt := range []struct{ name, command, reply string }{
		{
			"DMA_READ", "01000b00 20000000 00000000 00000000 0000341200000000 4000000000000000",
			"01000b00 60000000 01000000 00000000 0000341200000000 4000000000000000" + strings.Repeat("5a", 64),
		},
		{
			"DMA_WRITE", "02000c00 40000000 00000000 00000000 0030341200000000 2000000000000000" + strings.Repeat("77", 32),
			"02000c00 20000000 01000000 00000000 0030341200000000 2000000000000000",
		},
		{
			"DMA_READ of what isn't mapped", "03000b00 20000000 00000000 00000000 0000000000000000 4000000000000000",
			"03000b00 10000000 21000000 13000000",
		},
	} {
		r.send(unhex(t, tt.command))
		got, _ := r.recv()
		if want := unhex(t, tt.reply); !bytes.Equal(got, want) {
			t.Errorf("%s: reply % x; want % x", tt.name, got, want)
		}
	}
	if want := bytes.Repeat([]byte{0x77}, 32); !bytes.Equal(mem[0x3000:0x3020], want) {
		t.Errorf("memory after DMA_WRITE = %x; want %x", mem[0x3000:0x3020], want)
	}
}

// sendAndMap maps mem at 0x12340000 without a file, filled with 5a.
func sendAndMap(dev vfio.Device, r raw, mem []byte) error {
	for i := range mem {
		mem[i] = 0x5a
	}
	done := make(chan error, 1)
	go func() { done <- dev.MapDMA(0x12340000, mem[:0x4000], nil, 0) }()
	got, _ := r.recv()
	r.send(append(got[:2:2], unhex(r.t, "0200 10000000 01000000 00000000")...))
	return <-done
}
