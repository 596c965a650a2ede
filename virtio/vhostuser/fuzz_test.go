package vhostuser

import (
	"context"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
)

// A script is fuzz input: messages for a back-end. Each is code, flags, number and
// kind of descriptors, length of payload, payload. An empty kind sends raw bytes
// instead of a message.
type script []byte

// byte takes one byte off the script.
func (s *script) byte() byte {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return b
}

// bytes takes up to n bytes off the script.
func (s *script) bytes(n int) []byte {
	n = min(n, len(*s))
	b := (*s)[:n]
	*s = (*s)[n:]
	return b
}

// step adds a message to the script.
func step(s []byte, code Code, flags Flags, files, kind byte, payload []byte) []byte {
	s = append(s, byte(code), byte(flags), files, kind, byte(len(payload)), byte(len(payload)>>8))
	return append(s, payload...)
}

// kinds of descriptors in a script.
const (
	kindMemory = 1
	kindEvent  = 2
	kindRaw    = 255
)

// FuzzMessages is H216: whatever a front-end sends, with whatever descriptors, Serve
// ends when the front-end leaves, and leaves nothing open.
func FuzzMessages(f *testing.F) {
	const need = FlagVersion1 | FlagNeedReply
	mem := Region{GPA: 0x1000, Size: 0x10000, Addr: 0x7000_0000}
	prologue := step(nil, SetProtocolFeatures, FlagVersion1, 0, 0, AppendU64(nil, 0xa62b))
	prologue = step(prologue, SetFeatures, need, 0, 0, AppendU64(nil, 0x174000000))
	prologue = step(prologue, SetMemTable, need, 1, kindMemory, AppendMemTable(nil, []Region{mem}))
	ring := step(prologue, SetVringNum, need, 0, 0, VringState{1, 16}.Append(nil))
	ring = step(ring, SetVringBase, need, 0, 0, VringState{1, 0}.Append(nil))
	ring = step(ring, SetVringAddr, need, 0, 0, VringAddr{Index: 1, Flags: 1, Desc: 0x7000_0000, Avail: 0x7000_0100, Used: 0x7000_0200, Log: 0x1200}.Append(nil))
	ring = step(ring, SetVringKick, need, 1, kindEvent, VringFile{Index: 1}.Append(nil))
	ring = step(ring, SetVringCall, need, 1, kindEvent, VringFile{Index: 1}.Append(nil))
	ring = step(ring, SetVringErr, need, 1, kindEvent, VringFile{Index: 1}.Append(nil))
	ring = step(ring, SetVringEnable, need, 0, 0, VringState{1, 1}.Append(nil))
	for _, more := range [][]byte{
		nil,
		step(nil, GetVringBase, need, 0, 0, VringState{1, 0}.Append(nil)),
		step(nil, ResetOwner, need, 0, 0, nil),
		step(nil, ResetDevice, need, 0, 0, nil),
		step(nil, SetLogBase, need, 1, kindMemory, LogArea{Size: 64}.Append(nil)),
		step(nil, SetLogFD, need, 1, kindEvent, nil),
		step(nil, SetBackendReqFD, need, 1, kindEvent, nil),
		step(nil, RemMemReg, need, 0, 0, AppendMemReg(nil, mem)),
		step(nil, AddMemReg, need, 1, kindMemory, AppendMemReg(nil, Region{GPA: 0x20000, Size: 0x1000, Addr: 0x1000})),
		step(nil, GetConfig, need, 0, 0, Config{Offset: 36, Size: 4, Data: make([]byte, 4)}.Append(nil)),
		step(nil, SetVringKick, need, 1, kindMemory, VringFile{Index: 1}.Append(nil)),
		step(nil, 99, need, 9, kindEvent, make([]byte, 300)),
		step(nil, 0, 0, 1, kindRaw, []byte{1, 0, 0, 0, 1}),
	} {
		f.Add(append(append([]byte(nil), ring...), more...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<14 {
			return
		}
		play(t, script(b))
		for _, name := range fd.Open() {
			t.Errorf("%s is left open", name)
		}
	})
}

// play sends a script to a new back-end and waits for its end.
func play(t *testing.T, s script) {
	back, front, err := Pair()
	testkit.Check(t, err)
	memory, err := unix.MemfdCreate("fuzz", unix.MFD_CLOEXEC)
	testkit.Check(t, err)
	defer unix.Close(memory)
	testkit.Check(t, unix.Ftruncate(memory, 0x20000))
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	testkit.Check(t, err)
	defer unix.Close(event)

	dev := newEchoDevice()
	b := NewBackend(dev, Options{})
	served := make(chan error, 1)
	link := &countingLink{Socket: back}
	go func() { served <- b.Serve(context.Background(), link) }()
	for len(s) > 0 {
		code, flags, files, kind := s.byte(), s.byte(), s.byte(), s.byte()
		payload := s.bytes(int(s.byte()) | int(s.byte())<<8)
		msg := message(Code(code), Flags(flags), payload)
		if kind == kindRaw {
			msg = payload
		}
		var control []byte
		if n := int(files % 40); n > 0 {
			fds := make([]int, n)
			for i := range fds {
				fds[i] = memory
				if kind == kindEvent {
					fds[i] = event
				}
			}
			control = unix.UnixRights(fds...)
		}
		if len(msg) == 0 {
			continue
		}
		if _, _, err := front.sock.conn.WriteMsgUnix(msg, control, nil); err != nil {
			break
		}
	}
	testkit.Check(t, front.Close())
	select {
	case err := <-served:
		if err != nil && strings.Contains(err.Error(), "close ") {
			t.Errorf("Serve = %v", err)
		}
	case <-time.After(testkit.Patience):
		t.Fatal("Serve doesn't end")
	}
	if link.mapped != 0 {
		t.Errorf("%d mappings left after Serve", link.mapped)
	}
	if dev.resets == 0 || len(dev.rings) > 0 {
		t.Errorf("device after Serve: %d resets, %d rings; want a reset and none", dev.resets, len(dev.rings))
	}
}
