package vhostuser

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
)

// pair returns a Socket and the raw connection that it talks to.
func pair(t *testing.T) (*Socket, *net.UnixConn) {
	t.Helper()
	s, front, err := Pair()
	testkit.Check(t, err)
	t.Cleanup(func() { s.Close(); front.Close() })
	return s, front.sock.conn
}

// write sends bytes with n descriptors.
func write(t *testing.T, c *net.UnixConn, b []byte, n int) {
	t.Helper()
	files := slices.Repeat([]*fd.FD{newEvent(t, "sent")}, n)
	testkit.Check(t, testkit.Send(c, b, files...))
}

func TestRecv(t *testing.T) {
	payload := AppendU64(nil, 0x1122334455667788)
	whole := message(SetVringKick, FlagVersion1, payload)
	for _, tt := range []struct {
		name  string
		parts [][]byte
		files []int
		want  int
	}{
		{"in one piece", [][]byte{whole}, []int{1}, 1},
		{"files with the header", [][]byte{whole[:12], whole[12:]}, []int{2, 0}, 2},
		{"files with the payload", [][]byte{whole[:12], whole[12:]}, []int{0, 3}, 3},
		{"files with both", [][]byte{whole[:12], whole[12:]}, []int{2, 3}, 5},
		{"torn header and payload", [][]byte{whole[:5], whole[5:14], whole[14:]}, []int{0, 1, 0}, 1},
		{"as many files as possible", [][]byte{whole}, []int{MaxFiles}, MaxFiles},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, c := pair(t)
			for i, part := range tt.parts {
				write(t, c, part, tt.files[i])
			}
			m, err := s.Recv(context.Background())
			testkit.Check(t, err)
			defer m.Close()
			if m.Code != SetVringKick || !bytes.Equal(m.Payload, payload) || len(m.Files) != tt.want {
				t.Errorf("Recv() = %s, %x, %d files; want SET_VRING_KICK, %x, %d", m.Code, m.Payload, len(m.Files), payload, tt.want)
			}
			for _, f := range m.Files {
				if flags, err := unix.FcntlInt(uintptr(f.Int()), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
					t.Errorf("descriptor flags = %#x, %v; want FD_CLOEXEC", flags, err)
				}
			}
		})
	}
	for _, tt := range []struct {
		name  string
		parts [][]byte
		files []int
		want  string
	}{
		{"too many files at once", [][]byte{whole}, []int{MaxFiles + 1}, "more than 32 descriptors in one message"},
		{"too many files in all", [][]byte{whole[:12], whole[12:]}, []int{MaxFiles, 1}, "more than 32 descriptors in one message"},
		{"H208 bad version with files", [][]byte{message(SetVringKick, 2, payload)}, []int{2}, "version"},
		{"H214 end inside a message with files", [][]byte{whole[:15]}, []int{2}, "unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, c := pair(t)
			for i, part := range tt.parts {
				write(t, c, part, tt.files[i])
			}
			testkit.Check(t, c.CloseWrite())
			if m, err := s.Recv(context.Background()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Recv() = %v, %v; want an error about %q", m, err, tt.want)
			}
			for _, name := range fd.Open() {
				if strings.HasPrefix(name, "vhost-user descriptor") {
					t.Errorf("%s is left open", name)
				}
			}
		})
	}
}

// TestPeerGone wants the end of the peer to be the end of the stream, however rude.
func TestPeerGone(t *testing.T) {
	s, c := pair(t)
	testkit.Check(t, s.Send(context.Background(), &Message{Code: GetFeatures, Flags: FlagVersion1}))
	testkit.Check(t, c.Close()) // with our message unread: a reset
	if _, err := s.Recv(context.Background()); err != io.EOF {
		t.Errorf("Recv() = %v; want EOF", err)
	}
	if err := s.Send(context.Background(), &Message{Code: GetFeatures}); err != io.EOF {
		t.Errorf("Send() = %v; want EOF", err)
	}
	testkit.Check(t, s.Close())
	testkit.Check(t, s.Close())
	if err := s.Send(context.Background(), &Message{Code: GetFeatures}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send() after Close = %v; want %v", err, net.ErrClosed)
	}
}

func TestAlign(t *testing.T) {
	const huge = 2 << 20
	for _, tt := range []struct {
		name               string
		offset, size, page uint64
		start              int64
		length             int
		ok                 bool
	}{
		{"whole pages", 0x2000, 0x3000, 4096, 0x2000, 0x3000, true},
		{"part of a page", 0x2010, 0x20, 4096, 0x2000, 0x1000, true},
		{"across a border", 0x2ff0, 0x20, 4096, 0x2000, 0x2000, true},
		{"whole huge pages", huge, 2 * huge, huge, huge, 2 * huge, true},
		{"small page in a huge one", huge + 0x1000, 0x1000, huge, huge, huge, true},
		{"VGA hole on huge pages", 0xc0000, 0x7ff40000, huge, 0, 0x80000000, true},
		{"end wraps", ^uint64(0) - 0xfff, 0x2000, 4096, 0, 0, false},
		{"end is beyond mmap", 1<<63 - 0x2000, 0x2000, 4096, 0, 0, false},
		{"rounding is beyond mmap", 1<<63 - huge, huge - 1, huge, 0, 0, false},
	} {
		start, length, ok := align(tt.offset, tt.size, tt.page)
		if start != tt.start || length != tt.length || ok != tt.ok {
			t.Errorf("%s: align(%#x, %#x, %#x) = %#x, %#x, %v; want %#x, %#x, %v",
				tt.name, tt.offset, tt.size, tt.page, start, length, ok, tt.start, tt.length, tt.ok)
		}
	}
}

// tempFile returns an open file with text in it.
func tempFile(t *testing.T, text string, flags int) *fd.FD {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	testkit.Check(t, os.WriteFile(path, []byte(text), 0o600))
	n, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	testkit.Check(t, err)
	f := fd.New(n, "plain file")
	t.Cleanup(func() { f.Close() })
	return f
}

func TestMap(t *testing.T) {
	s, _ := pair(t)
	text := strings.Repeat("0123456789abcdef", 1024)
	plain := tempFile(t, text, unix.O_RDWR)
	event := newEvent(t, "event")
	good := Region{Size: 0x20, Offset: 0x1005}

	maps, err := s.Map(&Message{Files: []*fd.FD{plain, plain}}, []Region{good, {Size: 16384}})
	testkit.Check(t, err)
	if got, want := string(maps[0].Mem), text[0x1005:][:0x20]; got != want || cap(maps[0].Mem) != 0x20 {
		t.Errorf("mapped %q (capacity %d); want %q", got, cap(maps[0].Mem), want)
	}
	maps[0].Mem[0] = '!'
	if maps[1].Mem[0x1005] != '!' {
		t.Error("mappings of one file don't share their bytes")
	}
	testkit.Check(t, unmapAll(maps))

	for _, tt := range []struct {
		name    string
		files   []*fd.FD
		regions []Region
		want    string
	}{
		{"no file", nil, []Region{good}, "0 descriptors; want 1"},
		{"file too short", []*fd.FD{plain, plain}, []Region{good, {Size: 0x4000, Offset: 0x1000}}, "region 1: plain file"},
		{"file too short by a byte", []*fd.FD{plain}, []Region{{Size: 16385}}, "has 16384 bytes; the region ends at 16385"},
		{"no memory in it", []*fd.FD{event}, []Region{good}, "region 0"},
		{"read only", []*fd.FD{tempFile(t, text, unix.O_RDONLY)}, []Region{good}, "permission denied"},
		{"closed", []*fd.FD{closedFD(t)}, []Region{good}, "bad file descriptor"},
	} {
		maps, err := s.Map(&Message{Files: tt.files}, tt.regions)
		if err == nil || !strings.Contains(err.Error(), tt.want) || maps != nil {
			t.Errorf("%s: Map() = %v, %v; want an error about %q", tt.name, maps, err, tt.want)
		}
	}
}

// closedFD returns a descriptor that is closed.
func closedFD(t *testing.T) *fd.FD {
	e := newEvent(t, "closed")
	e.Close()
	return e
}

// TestMapHuge maps a small part of a huge page, which only works if offset and length
// are widened to huge pages. A machine without free huge pages refuses the mapping
// itself; that refusal still proves the widening, since a misaligned request gets
// EINVAL.
func TestMapHuge(t *testing.T) {
	n, err := unix.MemfdCreate("huge", unix.MFD_CLOEXEC|unix.MFD_HUGETLB)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
		t.Skipf("kernel without hugetlbfs: %v (the arithmetic is tested by TestAlign)", err)
	}
	testkit.Check(t, err)
	f := fd.New(n, "huge file")
	defer f.Close()
	page, err := pageSize(f)
	testkit.Check(t, err)
	if page < 64<<10 {
		t.Fatalf("pageSize() = %d; want a huge page", page)
	}
	testkit.Check(t, unix.Ftruncate(n, int64(2*page)))
	m, err := mapFile(f, Region{Size: 0x1000, Offset: page + 0x3000})
	switch {
	case errors.Is(err, unix.ENOMEM):
		// No huge pages are reserved here.
	case err != nil:
		t.Errorf("mapFile() = %v", err)
	default:
		testkit.Check(t, m.Unmap())
	}
}

// TestEventBell rings an eventfd whose counter is full: it must neither block nor fail.
func TestEventBell(t *testing.T) {
	for _, flags := range []int{0, unix.EFD_NONBLOCK} {
		n, err := unix.Eventfd(0, unix.EFD_CLOEXEC|flags)
		testkit.Check(t, err)
		s := new(Socket)
		b, err := s.Bell(&Message{Code: SetVringCall, Files: []*fd.FD{fd.New(n, "call")}}, VringFile{})
		testkit.Check(t, err)
		testkit.Check(t, b.Notify())
		var got [8]byte
		if _, err := unix.Read(n, got[:]); err != nil || got[0] != 1 {
			t.Errorf("counter after Notify = %d, %v; want 1", got[0], err)
		}
		_, err = unix.Write(n, AppendU64(nil, 1<<64-2))
		testkit.Check(t, err)
		if err := b.Notify(); err != nil {
			t.Errorf("Notify() with a full counter = %v; want nil", err)
		}
		testkit.NoAllocs(t, 100, "Notify", func() { b.Notify() })
		testkit.Check(t, b.Close())
		if err := b.Notify(); err == nil && flags != 0 {
			t.Error("Notify() after Close succeeds")
		}
	}
}

func TestMemory(t *testing.T) {
	mk := func(gpa, addr, size uint64) slot {
		return slot{Region{GPA: gpaOf(int(gpa)), Addr: FrontAddr(addr), Size: size}, Mapping{Mem: make([]byte, size)}}
	}
	a, b := mk(0x1000, 0x50000, 0x1000), mk(0x2000, 0x51000, 0x2000)
	m, err := newMemory([]slot{a, b})
	testkit.Check(t, err)
	for _, tt := range []struct {
		name string
		addr FrontAddr
		n    int
		in   *slot
		off  int
	}{
		{"first byte", 0x50000, 1, &a, 0},
		{"all of a region", 0x50000, 0x1000, &a, 0},
		{"across regions", 0x50ff0, 0x20, nil, 0},
		{"last bytes", 0x52ff0, 0x10, &b, 0x1ff0},
		{"behind the end", 0x53000, 1, nil, 0},
		{"out of the end", 0x52ff0, 0x11, nil, 0},
		{"below", 0x4ffff, 1, nil, 0},
		{"top of the address space", 1<<64 - 1, 16, nil, 0},
	} {
		got, err := m.at(tt.addr, tt.n)
		if tt.in == nil {
			if err == nil {
				t.Errorf("%s: at(%#x, %d) succeeds", tt.name, uint64(tt.addr), tt.n)
			}
			continue
		}
		if err != nil || len(got) != tt.n || &got[0] != &tt.in.Mem[tt.off] {
			t.Errorf("%s: at(%#x, %d) = %d bytes, %v; want %d at %#x", tt.name, uint64(tt.addr), tt.n, len(got), err, tt.n, tt.off)
		}
	}
	for _, tt := range []struct {
		name string
		s    slot
	}{
		{"same front-end address", mk(0x100000, 0x50fff, 1)},
		{"same guest address", mk(0x1fff, 0x90000, 1)},
		{"around in the front-end", mk(0x100000, 0x40000, 0x20000)},
	} {
		if _, err := m.with(tt.s); err == nil {
			t.Errorf("%s: with() succeeds", tt.name)
		}
	}
	for _, r := range []Region{{GPA: 0x1000, Addr: 0x50000, Size: 0x800}, {GPA: 0x1000, Addr: 0x51000, Size: 0x1000}, {GPA: 0x2000, Addr: 0x50000, Size: 0x1000}} {
		if _, _, err := m.without(r); err == nil {
			t.Errorf("without(%+v) succeeds", r)
		}
	}
	rest, left, err := m.without(Region{GPA: 0x1000, Addr: 0x50000, Size: 0x1000, Offset: 77})
	testkit.Check(t, err)
	if len(rest.slots) != 1 || &left.Mem[0] != &a.Mem[0] || len(m.slots) != 2 {
		t.Errorf("without() leaves %d regions of %d", len(rest.slots), len(m.slots))
	}
	full := make([]slot, maxMemSlots+1)
	for i := range full {
		full[i] = mk(uint64(i+1)<<12, uint64(i+1)<<12, 1)
	}
	if _, err := newMemory(full); err == nil {
		t.Error("newMemory() of 510 regions succeeds")
	}
	if _, err := newMemory(full[1:]); err != nil {
		t.Errorf("newMemory() of 509 regions = %v", err)
	}
}
