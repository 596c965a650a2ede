package vfiouser

import (
	"context"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/internal/unixsock"
	"vfiofs/vfio"
)

// A tape is fuzz input: messages. Each is command, flags, errno, number and kind of
// descriptors, length of payload, payload. An errno of 255 sends the payload instead
// of a message.
type tape []byte

// byte takes one byte off the tape.
func (s *tape) byte() byte {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return b
}

// bytes takes up to n bytes off the tape.
func (s *tape) bytes(n int) []byte {
	n = min(n, len(*s))
	b := (*s)[:n]
	*s = (*s)[n:]
	return b
}

// step adds a message to a tape.
func step(s []byte, command Command, flags, errno, files byte, payload []byte) []byte {
	s = append(s, byte(command), flags, errno, files, byte(len(payload)), byte(len(payload)>>8))
	return append(s, payload...)
}

// next takes a message off the tape. id is that of the last command.
func (s *tape) next(id uint16) (b []byte, files int, event bool) {
	h := header{id: id, command: Command(s.byte()), flags: uint32(s.byte()), errno: uint32(s.byte())}
	kind := s.byte()
	payload := s.bytes(int(s.byte()) | int(s.byte())<<8)
	h.size = uint32(headerSize + len(payload))
	if b = append(h.append(nil), payload...); h.errno == 255 {
		b = payload
	}
	return b, int(kind&0x1f) % (maxFiles + 2), kind&0x20 != 0
}

// fuzzEvent in the number of files makes them eventfds.
const fuzzEvent = 0x20

// put sends bytes with n copies of a descriptor.
func put(sock *net.UnixConn, b []byte, n int, f *fd.FD) error {
	if len(b) == 0 {
		return nil
	}
	return testkit.Send(sock, b, slices.Repeat([]*fd.FD{f}, n)...)
}

// A user is a Model that uses its bus at every opportunity.
type user struct {
	*testModel
	touched byte
}

func (u *user) use() {
	b := u.attached()
	for i := range 8 {
		b.Trigger(vfio.MSIX, i)
	}
	for iova := uint64(0); iova < 0x8000; iova += 0x800 {
		if mem, ok := b.Snapshot().Slice(0, 16); ok {
			u.touched += mem[0]
			mem[1]++
		}
	}
	for _, n := range []int{16, 0x1000, 0x3000} {
		if mem, unmap, err := b.View(0x1000, n); err == nil {
			u.touched += mem[0] + mem[n-1]
			mem[n/2]++
			unmap()
		}
	}
}

func (u *user) Write(region int, p []byte, off int64) {
	u.testModel.Write(region, p, off)
	u.use()
}

func (u *user) Unmap(first, last vfio.IOVA) {
	if first > last {
		panic("unmap of nothing")
	}
	u.use()
}

func (u *user) Detach() {
	u.use()
	u.testModel.Detach()
}

// noneOpen reports the descriptors that a test has left behind.
func noneOpen(t *testing.T) {
	for _, name := range fd.Open() {
		t.Errorf("%s is left open", name)
	}
}

// FuzzServerMessages sends whatever a client can, with whatever descriptors. Serve ends
// when the client leaves, nothing is left open, and a Model that uses all it is given
// never faults.
func FuzzServerMessages(f *testing.F) {
	msix := func(flags, start, count uint32) []byte {
		return irqSet{flags: flags, index: uint32(vfio.MSIX), start: start, count: count}.append(nil)
	}
	hello := step(nil, Version, 0, 0, 0, []byte("\x00\x00\x00\x00{}\x00"))
	setup := step(hello, DMAMap, 0, 0, 1, mapped(0, 0x4000, 0))
	setup = step(setup, DMAMap, 0, 0, 1, mapped(0x1000, 0x1000, 0x5000))
	setup = step(setup, SetIRQs, 0, 0, 4|fuzzEvent, msix(irqEvents|irqTrigger, 0, 4))
	doorbell := step(nil, RegionWrite, flagNoReply, 0, 0, append(access{8, 0, 4}.append(nil), 1, 2, 3, 4))
	for _, more := range [][]byte{
		nil,
		doorbell,
		step(nil, DMAMap, 0, 0, 1, mapped(1<<64-0x2000, 0x2000, 0x1000)),
		step(nil, DMAUnmap, 0, 0, 0, unmapped(0x1800, 0x1000)),
		step(nil, DMAUnmap, 0, 0, 0, dmaRange{flags: dmaAll}.appendUnmap(nil)),
		step(nil, SetIRQs, 0, 0, 0, msix(irqNone|irqMask, 0, 8)),
		step(nil, SetIRQs, 0, 0, 0, append(msix(irqBool|irqTrigger, 0, 2), 1, 1)),
		step(nil, SetIRQs, 0, 0, 0, msix(irqNone|irqTrigger, 0, 0)),
		step(nil, GetRegionInfo, 0, 0, 0, regionInfo{argsz: 0x50, index: 4}.append(nil, false)),
		step(nil, GetIRQInfo, 0, 0, 0, irqInfo{index: 2}.append(nil)),
		step(nil, GetInfo, 0, 0, 0, deviceInfo{}.append(nil)),
		step(nil, RegionRead, 0, 0, 0, access{0, vfio.ConfigRegion, 4096}.append(nil)),
		step(nil, WriteMulti, 0, 0, 0, append(appendU64s(nil, 1), append(access{8, 0, 4}.append(nil), 1, 2, 3, 4, 5, 6, 7, 8)...)),
		step(nil, Reset, 0, 0, 0, nil),
		step(nil, DMARead, flagReply, 0, 3, make([]byte, 20)),
		step(nil, 0, 0, 255, 2, []byte{1, 0, 0}),
	} {
		f.Add(append(append(append([]byte(nil), setup...), more...), doorbell...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<14 {
			return
		}
		t.Cleanup(func() { noneOpen(t) })
		m := &user{testModel: newTestModel(t)}
		memory, event := newMemfd(t, 0x10000), newEvent(t)
		sock, end := serve(t, m)
		go io.Copy(io.Discard, sock)
		for s := tape(b); len(s) > 0; {
			msg, n, isEvent := s.next(0)
			file := memory
			if isEvent {
				file = event
			}
			if put(sock, msg, n, file) != nil {
				break
			}
		}
		sock.CloseWrite()
		end()
	})
}

// FuzzClientReplies has a server answer each command with whatever it likes, and send
// commands of its own. A driver that uses all of a Device gets errors, and Close ends.
func FuzzClientReplies(f *testing.F) {
	const ok = flagReply
	info := func(size uint64, flags uint32, areas ...area) []byte {
		r := regionInfo{argsz: regionInfoSize, flags: flags, size: size, areas: areas}
		r.argsz = r.length()
		return r.append(nil, true)
	}
	good := step(nil, Version, ok, 0, 0, []byte("\x00\x00\x00\x00"+`{"capabilities":{"max_msg_fds":4}}`+"\x00"))
	good = step(good, GetInfo, ok, 0, 0, deviceInfo{infoReset | infoPCI, 1, 1}.append(nil))
	mappable := step(good, GetRegionInfo, ok, 0, 1, info(0x1000, 7))
	mappable = step(mappable, GetIRQInfo, ok, 0, 0, irqInfo{irqEventfd, 0, 3}.append(nil))
	f.Add(append([]byte(nil), mappable...))
	entry := appendU64s(appendU32s(appendU64s(nil, 8, 0), 0, ioEventfd, 0, 0), 0)
	events := step(mappable, GetRegionIO, ok, 0, 1, append(appendU32s(nil, 56, 0, 0, 1), entry...))
	f.Add(step(events, IRQSource, ok, 0, 1, irqInfo{}.append(nil)))
	mappable = step(mappable, GetRegionIO, ok, 0, 0, appendU32s(nil, 16, 0, 0, 0))
	rest := step(mappable, RegionRead, ok, 0, 0, append(access{0, 0, 4}.append(nil), 1, 2, 3, 4))
	rest = step(rest, RegionWrite, ok, 0, 0, access{0, 0, 16}.append(nil))
	rest = step(rest, DMAMap, ok, 0, 0, nil)
	f.Add(step(rest, DMAMap, ok|flagError, 22, 0, nil))
	f.Add(step(rest, DMARead, 0, 0, 0, dmaAccess{0x1000, 16}.append(nil)))
	f.Add(step(rest, DMAWrite, 0, 0, 2, append(dmaAccess{0x1ff0, 4}.append(nil), 1, 2, 3, 4)))
	f.Add(step(rest, SetIRQs, ok, 0, 0, nil))
	f.Add(step(good, GetRegionInfo, ok, 0, 1, info(0x1000, 7, area{0, 0x800}, area{0x800, 0x10})))
	f.Add(step(good, GetRegionInfo, ok, 0, 1, info(0x100000, 7)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<14 {
			return
		}
		t.Cleanup(func() { noneOpen(t) })
		file := newMemfd(t, 0x4000)
		ours, theirs := sockets(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer theirs.Close()
			play(theirs, file, tape(b))
		}()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		dev, err := Attach(ctx, ours)
		if err == nil {
			drive(dev, file)
			dev.Close()
		}
		if ctx.Err() != nil {
			t.Error("Attach doesn't end")
		}
		<-done
	})
}

// play answers each command with the next messages of a tape, up to a reply, until it
// ends or the client leaves. Once a message had another size than it said, the client
// sees other messages than were sent, so nothing is waited for any more.
func play(sock *net.UnixConn, file *fd.FD, s tape) {
	c := &conn{sock: sock, control: unixsock.Control(maxFiles)}
	var m message
	cut := false
	sock.SetDeadline(time.Now().Add(patience))
	for len(s) > 0 && c.recv(&m) == nil {
		m.close()
		if m.flags&(flagNoReply|flagReply) != 0 {
			continue
		}
		for len(s) > 0 {
			msg, n, _ := s.next(m.id)
			if put(sock, msg, n, file) != nil {
				return
			}
			cut = cut || len(msg) < headerSize || int(decodeHeader(msg).size) != len(msg)
			if !cut && decodeHeader(msg).flags&flagReply != 0 {
				break
			}
		}
	}
}

// drive uses all of a Device.
func drive(dev vfio.Device, file *fd.FD) {
	b := make([]byte, 16)
	for i := range vfio.NumRegions {
		r, err := dev.Region(i)
		if err != nil || r.Size() == 0 {
			continue
		}
		if mem, err := r.Mmap(); err == nil {
			mem[0]++
			mem[len(mem)-1]++
		}
		if e, err := r.(*region).WriteEvent(8); err == nil {
			e.Close()
		}
		r.ReadAt(b[:4], 0)
		r.WriteAt(b[:4], 0)
		r.WriteAt(b, 0)
	}
	mem := make([]byte, 0x1000)
	if dev.MapDMA(0x1000, mem, file, 0) == nil {
		dev.MapDMA(0x2000, mem, nil, 0)
		dev.UnmapDMA(0x1000, 0x1000)
	}
	for kind := range vfio.IRQ(irqKinds) {
		if e, err := dev.(*client).Source(kind, 0); err == nil {
			e.Close()
		}
		if n, _ := dev.Vectors(kind); n > 0 {
			dev.SetIRQs(kind, []*fd.FD{file, file, file, file, file, file}[:min(n, 6)])
			dev.SetIRQs(kind, nil)
		}
	}
	dev.Reset()
}
