package vfiouser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/vfio"
)

// TestVersion is vfio-user.md section 3. A client of another version gets an answer
// and is left.
func TestVersion(t *testing.T) {
	for _, tt := range []struct {
		name, payload string
		want          unix.Errno
	}{
		{"QEMU", "\x00\x00\x00\x00" + qemuVersion + "\x00", 0},
		{"no JSON", "\x00\x00\x00\x00", 0},
		{"only NUL", "\x00\x00\x00\x00\x00", 0},
		{"empty JSON", "\x00\x00\x00\x00{}\x00", 0},
		{"no NUL", "\x00\x00\x00\x00{}", 0},
		{"no capabilities", "\x00\x00\x00\x00" + `{"capabilities":{}}` + "\x00", 0},
		{"newer minor", "\x00\x00\x02\x00{}\x00", 0},
		{"major", "\x01\x00\x00\x00{}\x00", unix.EINVAL},
		{"short", "\x00\x00\x00", unix.EINVAL},
		{"no JSON at all", "\x00\x00\x00\x00nonsense\x00", unix.EINVAL},
		{"number for a truth", "\x00\x00\x00\x00" + `{"capabilities":{"write_multiple":1}}` + "\x00", unix.EINVAL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newTestModel(t)
			sock, end := serve(t, m)
			r := raw{t, sock}
			errno, reply := r.ask(Version, []byte(tt.payload))
			if errno != tt.want {
				t.Errorf("VERSION = %v; want %v", errno, tt.want)
			}
			if errno == 0 && (len(reply)+headerSize > 214 || !bytes.HasPrefix(reply, []byte{0, 0, 0, 0, '{'}) || reply[len(reply)-1] != 0) {
				t.Errorf("VERSION: reply %q; want 0.0 and JSON, and at most 214 bytes", reply)
			}
			if err := end(); (err != nil) != (tt.want != 0) {
				t.Errorf("Serve = %v; want an error: %v", err, tt.want != 0)
			}
		})
	}
}

// TestProtocol is what ends a connection.
func TestProtocol(t *testing.T) {
	hello := header{command: Version, size: 20}.append(nil)
	hello = append(hello, 0, 0, 0, 0)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	event := newEvent(t)
	many := make([]*fd.FD, maxFiles+1)
	for i := range many {
		many[i] = event
	}
	for _, tt := range []struct {
		name  string
		bytes []byte
		files []*fd.FD
		want  string // in Serve's error
	}{
		{"not VERSION first", header{command: Reset, size: 16}.append(nil), nil, "before VERSION"},
		{"reply", join(hello, header{command: DMARead, size: 16, flags: flagReply}.append(nil)), nil, "reply to a command"},
		{"neither command nor reply", join(hello, header{command: Reset, size: 16, flags: 2}.append(nil)), nil, "reply to a command"},
		{"size below that of the header", join(hello, header{command: Reset, size: 15}.append(nil)), nil, "message size is 15"},
		{"size above the limit", join(hello, header{command: Reset, size: maxMessage + 1}.append(nil)), nil, "message size"},
		{"VERSION with a file", hello, many[:1], "1 descriptors"},
		{"too many files", hello, many, "more than 16 descriptors"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newTestModel(t)
			sock, end := serve(t, m)
			raw{t, sock}.send(tt.bytes, tt.files...)
			testkit.Check(t, sock.CloseWrite())
			io.Copy(io.Discard, sock)
			if err := end(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Serve = %v; want an error about %q", err, tt.want)
			}
		})
	}
}

// TestTornStream ends the stream at every byte of a sequence that gives the server
// memory and an eventfd.
func TestTornStream(t *testing.T) {
	ram, event := newMemfd(t, 0x1000), newEvent(t)
	messages := []struct {
		bytes []byte
		files []*fd.FD
	}{
		{append(header{command: Version, size: 20}.append(nil), 0, 0, 0, 0), nil},
		{append(header{command: DMAMap, size: 48}.append(nil), mapped(0, 0x1000, 0)...), []*fd.FD{ram}},
		{append(header{command: SetIRQs, size: 36}.append(nil), irqSet{flags: irqEvents | irqTrigger, index: 2, count: 1}.append(nil)...), []*fd.FD{event}},
	}
	for i, msg := range messages {
		for n := range len(msg.bytes) + 1 {
			m := newTestModel(t)
			sock, end := serve(t, m)
			r := raw{t, sock}
			for _, before := range messages[:i] {
				r.send(before.bytes, before.files...)
				r.recv()
			}
			if n > 0 {
				r.send(msg.bytes[:n], msg.files...)
			}
			err := end()
			inside := n > 0 && n < len(msg.bytes)
			if inside != errors.Is(err, io.ErrUnexpectedEOF) || !inside && err != nil {
				t.Fatalf("message %d cut at %d: Serve = %v; want an unexpected EOF: %v", i, n, err, inside)
			}
			for _, name := range fd.Open() {
				if strings.HasPrefix(name, "vfio-user descriptor") {
					t.Fatalf("message %d cut at %d: %s is left open", i, n, name)
				}
			}
			for _, f := range m.infos {
				f.File.Close()
			}
		}
	}
}

// TestTornCommand sends a command byte by byte.
func TestTornCommand(t *testing.T) {
	m := newTestModel(t)
	r, _ := greeted(t, m)
	ram := pages(t, 1)
	msg := append(header{id: 9, command: DMAMap, size: 48}.append(nil), mapped(0, 0x1000, 0)...)
	r.send(msg[:1], ram)
	for _, b := range msg[1:] {
		r.send([]byte{b})
	}
	if got, _ := r.recv(); decodeHeader(got).errno != 0 || at(m.attached(), 0, 1) != 1 {
		t.Errorf("DMA_MAP in pieces: reply %x, byte at 0 = %d; want success and 1", got, at(m.attached(), 0, 1))
	}
}

func TestRefused(t *testing.T) {
	m := newTestModel(t)
	var log bytes.Buffer
	ours, theirs := sockets(t)
	done := make(chan error, 1)
	opt := Options{Log: slog.New(slog.NewTextHandler(&log, nil))}
	go func() { done <- NewServer(m, opt).Serve(context.Background(), ours) }()
	r := raw{t, theirs}
	r.greet()
	read := func(region, count uint32, off uint64) []byte {
		return access{off, region, count}.append(nil)
	}
	multi := func(n uint64, writes ...access) []byte {
		b := appendU64s(nil, n)
		for _, w := range writes {
			b = append(w.append(b), 1, 2, 3, 4, 5, 6, 7, 8)
		}
		return b
	}
	for _, tt := range []struct {
		name    string
		command Command
		payload []byte
		want    unix.Errno
	}{
		{"VERSION again", Version, []byte{0, 0, 0, 0}, unix.EINVAL},
		{"unknown", 14, nil, unix.ENOSYS},
		{"unknown, far away", 60000, nil, unix.ENOSYS},
		{"a command of the server's", DMARead, make([]byte, 16), unix.ENOSYS},
		{"GET_INFO short", GetInfo, make([]byte, 15), unix.EINVAL},
		{"GET_INFO without room", GetInfo, make([]byte, 16), unix.EINVAL},
		{"GET_REGION_INFO of region 9", GetRegionInfo, regionInfo{argsz: 32, index: 9}.append(nil, false), unix.EINVAL},
		{"GET_REGION_INFO without room", GetRegionInfo, regionInfo{argsz: 31}.append(nil, false), unix.EINVAL},
		{"GET_REGION_INFO short", GetRegionInfo, make([]byte, 31), unix.EINVAL},
		{"GET_REGION_IO_FDS short", GetRegionIO, make([]byte, 15), unix.EINVAL},
		{"GET_REGION_IO_FDS without room", GetRegionIO, appendU32s(nil, 15, 0, 0, 0), unix.EINVAL},
		{"GET_REGION_IO_FDS of region 9", GetRegionIO, appendU32s(nil, 16, 0, 9, 0), unix.EINVAL},
		{"IRQ_SOURCE short", IRQSource, make([]byte, 15), unix.EINVAL},
		{"IRQ_SOURCE of kind 5", IRQSource, irqInfo{index: 5}.append(nil), unix.EINVAL},
		{"IRQ_SOURCE of vector 8", IRQSource, irqInfo{index: 2, count: 8}.append(nil), unix.EINVAL},
		{"GET_IRQ_INFO of kind 5", GetIRQInfo, irqInfo{index: 5}.append(nil), unix.EINVAL},
		{"GET_IRQ_INFO short", GetIRQInfo, make([]byte, 15), unix.EINVAL},
		{"REGION_READ short", RegionRead, make([]byte, 15), unix.EINVAL},
		{"REGION_READ long", RegionRead, make([]byte, 17), unix.EINVAL},
		{"REGION_READ of region 9", RegionRead, read(9, 4, 0), unix.EINVAL},
		{"REGION_READ of no region", RegionRead, read(3, 4, 0), unix.EINVAL},
		{"REGION_READ behind the end", RegionRead, read(0, 4, 0x3ffd), unix.EINVAL},
		{"REGION_READ wraps", RegionRead, read(0, 4, 1<<64-2), unix.EINVAL},
		{"REGION_READ of too much", RegionRead, read(2, maxTransfer+1, 0), unix.EINVAL},
		{"REGION_WRITE short", RegionWrite, append(read(0, 4, 0), 1, 2, 3), unix.EINVAL},
		{"REGION_WRITE long", RegionWrite, append(read(0, 2, 0), 1, 2, 3), unix.EINVAL},
		{"REGION_WRITE behind the end", RegionWrite, append(read(0, 4, 0x4000), 1, 2, 3, 4), unix.EINVAL},
		{"REGION_WRITE without header", RegionWrite, make([]byte, 3), unix.EINVAL},
		{"WRITE_MULTI short", WriteMulti, make([]byte, 7), unix.EINVAL},
		{"WRITE_MULTI of less than it says", WriteMulti, multi(2, access{0, 0, 4}), unix.EINVAL},
		{"WRITE_MULTI wraps", WriteMulti, multi(1<<61, access{0, 0, 4}), unix.EINVAL},
		{"WRITE_MULTI of 9 bytes", WriteMulti, multi(1, access{0, 0, 9}), unix.EINVAL},
		{"WRITE_MULTI of region 9", WriteMulti, multi(1, access{0, 9, 8}), unix.EINVAL},
	} {
		if errno, _ := r.ask(tt.command, tt.payload); errno != tt.want {
			t.Errorf("%s: %s = %v; want %v", tt.name, tt.command, errno, tt.want)
		}
	}
	m.wantCalls(t)
	// Nobody is told about what nobody waits for.
	r.send(header{command: 99, size: 16, flags: flagNoReply}.append(nil))
	r.must(WriteMulti, multi(3, access{8, 0, 2}, access{0, 1, 8}, access{1, 0, 0}))
	m.wantCalls(t, "write 0+0x8 0102", "write 1+0x0 0102030405060708")
	testkit.Check(t, theirs.Close())
	testkit.Check(t, <-done)
	if got := strings.Count(log.String(), "refused"); got != maxWarnings {
		t.Errorf("%d warnings; want %d", got, maxWarnings)
	}
}

// TestAccessSizes wants Models to see pieces of at most 8 bytes of BARs.
func TestAccessSizes(t *testing.T) {
	m := newTestModel(t)
	r, _ := greeted(t, m)
	for _, tt := range []struct {
		region uint32
		off    uint64
		n      int
		want   []string
	}{
		{0, 0x10, 1, []string{"write 0+0x10 01"}},
		{0, 0x14, 8, []string{"write 0+0x14 0102030405060708"}},
		{0, 0x13, 0, nil},
		{0, 0x15, 12, []string{"write 0+0x15 010203", "write 0+0x18 0405060708090a0b", "write 0+0x20 0c"}},
		{vfio.ConfigRegion, 0x15, 12, []string{"write 7+0x15 0102030405060708090a0b0c"}},
	} {
		data := make([]byte, tt.n)
		for i := range data {
			data[i] = byte(i + 1)
		}
		a := access{tt.off, tt.region, uint32(tt.n)}
		if reply := r.must(RegionWrite, append(a.append(nil), data...)); !bytes.Equal(reply, a.append(nil)) {
			t.Errorf("REGION_WRITE: reply %x; want %x", reply, a.append(nil))
		}
		m.wantCalls(t, tt.want...)
		if reply := r.must(RegionRead, a.append(nil)); !bytes.Equal(reply, append(a.append(nil), data...)) {
			t.Errorf("REGION_READ: reply %x; want %x", reply[16:], data)
		}
	}
}

// TestPipelined sends many commands before it reads a reply (vfio-user.md 1.3).
func TestPipelined(t *testing.T) {
	m := newTestModel(t)
	r, _ := greeted(t, m)
	const n = 200
	ram := pages(t, n)
	for i := range uint16(n) {
		h := header{id: i, command: DMAMap, size: headerSize + dmaMapSize}
		r.send(append(h.append(nil), mapped(uint64(i)<<12, 0x1000, uint64(n-1-i)<<12)...), ram)
	}
	for i := range uint16(n) {
		got, _ := r.recv()
		if want := (header{id: i, command: DMAMap, size: headerSize, flags: flagReply}).append(nil); !bytes.Equal(got, want) {
			t.Fatalf("reply %x; want %x", got, want)
		}
	}
	for i := range n {
		if got, want := at(m.attached(), uint64(i)<<12, 0x1000), int(byte(n-i)); got != want {
			t.Fatalf("byte at page %d = %d; want %d", i, got, want)
		}
	}
}

// TestOneClient wants the second client to be sent away, and the next one to be
// served once the first has left.
func TestOneClient(t *testing.T) {
	m := newTestModel(t)
	s := NewServer(m, Options{})
	for range 2 {
		ours, theirs := sockets(t)
		done := make(chan error, 1)
		go func() { done <- s.Serve(context.Background(), ours) }()
		r := raw{t, theirs}
		r.greet()
		second, other := sockets(t)
		if err := s.Serve(context.Background(), second); !errors.Is(err, ErrBusy) {
			t.Errorf("Serve of a second client = %v; want %v", err, ErrBusy)
		}
		if n, err := other.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("Read() of the second client = %d, %v; want EOF", n, err)
		}
		r.must(GetInfo, deviceInfo{}.append(nil))
		testkit.Check(t, theirs.Close())
		testkit.Check(t, <-done)
	}
	m.wantCalls(t, "detach", "detach")
}

// TestServeEndsWithContext wants a Serve that waits for its client to be ended.
func TestServeEndsWithContext(t *testing.T) {
	m := newTestModel(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	ours, theirs := sockets(t)
	done := make(chan error, 1)
	go func() { done <- NewServer(m, Options{}).Serve(ctx, ours) }()
	raw{t, theirs}.greet()
	reason := errors.New("enough")
	cancel(reason)
	select {
	case err := <-done:
		if !errors.Is(err, reason) {
			t.Errorf("Serve = %v; want %v", err, reason)
		}
	case <-time.After(patience):
		t.Fatal("Serve doesn't end")
	}
	m.wantCalls(t, "detach")
}

// TestCommandString names what is known and numbers the rest.
func TestCommandString(t *testing.T) {
	for c, want := range map[Command]string{RegionRead: "REGION_READ", 0: "command 0", 14: "command 14", 99: "command 99", IRQSource: "IRQ_SOURCE"} {
		if got := c.String(); got != want {
			t.Errorf("Command(%d).String() = %q; want %q", c, got, want)
		}
	}
	if got, want := (&PeerError{Reset, "is late"}).Error(), "vfio-user DEVICE_RESET: is late"; got != want {
		t.Errorf("Error() = %q; want %q", got, want)
	}
	if got := fmt.Sprint(errnoOf(errors.New("x")), errnoOf(unix.EPERM)); got != fmt.Sprint(unix.EINVAL, unix.EPERM) {
		t.Errorf("errnoOf() = %s; want EINVAL and EPERM", got)
	}
}
