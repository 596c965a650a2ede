package vvu

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/virtio/vhostuser"
)

func TestRecvOfBadMessages(t *testing.T) {
	long := make([]byte, 1013)
	for _, test := range []struct {
		name string
		b    []byte
		want string
	}{
		{"shorter than a header", make([]byte, 11), "message of 11 bytes is shorter than its header"},
		{"version 0", message(1, 0, nil), "version is not 1"},
		{"version 2", message(1, 2, nil), "version is not 1"},
		{"reserved flag", message(1, 0x11, nil), "reserved bits"},
		{"payload longer than said", append(message(1, 1, long), 0), "payload of 1013 bytes in a buffer with 1014"},
		{"payload shorter than said", message(1, 1, long)[:12+1012], "payload of 1013 bytes in a buffer with 1012"},
		{"payload of 4 GiB", append(vhostuser.Header{Code: 1, Flags: 1, Size: 0xffff_ffff}.Append(nil), 0), "longer than 4096"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t, options{})
			l := f.accept(f.open(Options{}))
			defer l.Close()
			f.push(test.b)
			if _, err := l.Recv(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Recv = %v; want %q in it", err, test.want)
			}
		})
	}
}

// TestRecvLargest: a message may fill a buffer.
func TestRecvLargest(t *testing.T) {
	f := newFake(t, options{})
	l := f.accept(f.open(Options{}))
	defer l.Close()
	payload := bytes.Repeat([]byte{7}, rxSize-vhostuser.HeaderSize)
	f.say(vhostuser.SetConfig, vhostuser.FlagNeedReply, payload)
	m, err := l.Recv(t.Context())
	if err != nil || m.Code != vhostuser.SetConfig || m.Flags != 9 || !bytes.Equal(m.Payload, payload) || m.Files != nil {
		t.Errorf("Recv = %v, %v; want SET_CONFIG with %d bytes", m, err, len(payload))
	}
}

func TestSendRefuses(t *testing.T) {
	f := newFake(t, options{})
	l := f.accept(f.open(Options{}))
	defer l.Close()
	for what, m := range map[string]*vhostuser.Message{
		"long":       {Code: 1, Flags: 5, Payload: make([]byte, txSize-vhostuser.HeaderSize+1)},
		"with files": {Code: 1, Flags: 5, Files: []*fd.FD{nil}},
	} {
		if err := l.Send(t.Context(), m); err == nil {
			t.Errorf("Send of a message %s = nil; want an error", what)
		}
	}
	if err := l.Send(t.Context(), &vhostuser.Message{Code: 1, Flags: 5, Payload: make([]byte, txSize-vhostuser.HeaderSize)}); err != nil {
		t.Errorf("Send of the longest message = %v; want nil", err)
	}
}

// TestSendWaits is 11.10, mirrored (viii) and (ix): the device keeps all buffers for a
// while and completes them in the wrong order; nothing is lost or comes twice.
func TestSendWaits(t *testing.T) {
	f := newFake(t, options{held: true, queueSize: 4})
	d := f.open(Options{})
	l := f.accept(d)
	defer l.Close()
	const total = 10
	var want [][]byte
	for i := range total {
		want = append(want, message(vhostuser.Code(i), 5, vhostuser.AppendU64(nil, uint64(i))))
	}
	done := make(chan error, 1)
	go func() {
		for i := range total {
			err := l.Send(t.Context(), &vhostuser.Message{Code: vhostuser.Code(i), Flags: 5, Payload: vhostuser.AppendU64(nil, uint64(i))})
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	f.await(3)
	select {
	case err := <-done:
		t.Fatalf("Send returned %v although the device has all buffers", err)
	case <-time.After(20 * time.Millisecond):
	}
	f.release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.await(total - 1)
	if diff := cmp.Diff(want, f.sent); diff != "" {
		t.Errorf("messages: -want +got:\n%s", diff)
	}
}

// TestSendEnds: a Send that waits ends with the connection, and with the device.
func TestSendEnds(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(*fake)
		want string
	}{
		{"peer leaves", func(f *fake) { f.config(0) }, "EOF"},
		{"device dies", func(f *fake) { f.die() }, "device is gone"},
		{"device fails", func(f *fake) { f.block.SetNeedsReset(); f.config(3) }, "device needs a reset"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t, options{held: true, queueSize: 1})
			d := f.open(Options{watch: 5 * time.Millisecond})
			l := f.accept(d)
			defer l.Close()
			m := &vhostuser.Message{Code: 1, Flags: 5}
			if err := l.Send(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(10*time.Millisecond, func() { test.end(f) })
			if err := l.Send(t.Context(), m); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Send = %v; want %q in it", err, test.want)
			}
		})
	}
}

func TestMap(t *testing.T) {
	f := newFake(t, options{})
	l := f.accept(f.open(Options{}))
	defer l.Close()
	regions := []vhostuser.Region{
		{Size: 0x1000, Offset: 0x2000},
		{GPA: 0x1000, Addr: 0x1000, Size: 0x3000, Offset: 0x5000},
	}
	maps, err := l.Map(nil, regions)
	if err != nil {
		t.Fatal(err)
	}
	window := f.Mem(4)
	for i, r := range regions {
		if maps[i].Unmap != nil || len(maps[i].Mem) != int(r.Size) || cap(maps[i].Mem) != int(r.Size) || &maps[i].Mem[0] != &window[r.Offset] {
			t.Errorf("region %d has %d bytes; want %d at %#x of the window", i, len(maps[i].Mem), r.Size, r.Offset)
		}
	}
	regions[1].Offset = extSize - 0x1000
	if _, err := l.Map(nil, regions); err == nil {
		t.Error("Map past the end of the memory = nil; want an error")
	}
	if l.PassesFiles() || l.Pinnable() {
		t.Errorf("PassesFiles() = %v, Pinnable() = %v; want false", l.PassesFiles(), l.Pinnable())
	}
}

// TestMapWithinTheBAR: the window starts inside of BAR 2.
func TestMapWithinTheBAR(t *testing.T) {
	f := newFake(t, options{shape: qemuShape})
	l := f.accept(f.open(Options{}))
	defer l.Close()
	maps, err := l.Map(nil, []vhostuser.Region{{Size: 0x1000, Offset: 0x1000}})
	if err != nil {
		t.Fatal(err)
	}
	if &maps[0].Mem[0] != &f.Mem(2)[0x4000] {
		t.Error("region isn't at 0x4000 of BAR 2")
	}
}

func TestBells(t *testing.T) {
	call := &vhostuser.Message{Code: vhostuser.SetVringCall}
	broken := &vhostuser.Message{Code: vhostuser.SetVringErr}
	for _, test := range []struct {
		name  string
		shape shape
		m     *vhostuser.Message
		ring  vhostuser.VringFile
		want  []int64 // doorbells that are rung; nil: there is no bell
	}{
		{"call", ourShape, call, vhostuser.VringFile{Index: 1}, []int64{4}},
		{"no call", ourShape, call, vhostuser.VringFile{Index: 1, NoFD: true}, nil},
		{"error", ourShape, broken, vhostuser.VringFile{Index: 1}, []int64{0x404}},
		{"no error", ourShape, broken, vhostuser.VringFile{Index: 1, NoFD: true}, nil},
		{"error of a device without", crosvmShape, broken, vhostuser.VringFile{Index: 1}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t, options{shape: test.shape})
			l := f.accept(f.open(Options{}))
			defer l.Close()
			bell, err := l.Bell(test.m, test.ring)
			if err != nil {
				t.Fatal(err)
			}
			if bell == nil || test.want == nil {
				if (bell == nil) != (test.want == nil) {
					t.Errorf("Bell = %v; want none: %v", bell, test.want == nil)
				}
				return
			}
			if err := errors.Join(bell.Notify(), bell.Close()); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(test.want, f.bells); diff != "" {
				t.Errorf("doorbells: -want +got:\n%s", diff)
			}
		})
	}
}

// TestBellInMemory rings a doorbell of the oldest layout, which is 2 bytes wide.
func TestBellInMemory(t *testing.T) {
	f := newFake(t, options{shape: firstQEMU})
	l := f.accept(f.open(Options{}))
	defer l.Close()
	bell, err := l.Bell(&vhostuser.Message{Code: vhostuser.SetVringCall}, vhostuser.VringFile{Index: 1})
	if err != nil {
		t.Fatal(err)
	}
	bell.Notify()
	if got := f.Mem(2)[:4]; !bytes.Equal(got, []byte{0, 0, 1, 0}) {
		t.Errorf("doorbells hold %v; want 1 at offset 2", got)
	}
	if _, err := l.Bell(&vhostuser.Message{Code: vhostuser.SetVringCall}, vhostuser.VringFile{Index: 255}); err != nil {
		t.Errorf("Bell 255 = %v; want nil", err)
	}
}

func TestBellOutside(t *testing.T) {
	f := newFake(t, options{})
	d := f.open(Options{})
	d.spacing = 0x1000
	l := f.accept(d)
	defer l.Close()
	call := &vhostuser.Message{Code: vhostuser.SetVringCall}
	if _, err := l.Bell(call, vhostuser.VringFile{Index: 2}); err == nil || !strings.Contains(err.Error(), "doorbell 2 lies at 0x2000 of 0x2000") {
		t.Errorf("Bell = %v; want that it is outside", err)
	}
	d.spacing = 3
	if _, err := l.Bell(call, vhostuser.VringFile{Index: 1}); err == nil {
		t.Error("Bell at an odd offset = nil; want an error")
	}
}

func TestKicks(t *testing.T) {
	f := newFake(t, options{})
	l := f.accept(f.open(Options{}))
	defer l.Close()
	var kicks []*fd.FD
	for i := range uint8(2) {
		for _, noFD := range []bool{false, true} {
			k, err := l.Kick(nil, vhostuser.VringFile{Index: i, NoFD: noFD})
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			kicks = append(kicks, k)
		}
	}
	f.Trigger(2, 3)
	var got []bool
	for _, k := range kicks {
		got = append(got, readable(k.Int()))
	}
	if want := []bool{false, false, true, true}; !slices.Equal(got, want) {
		t.Errorf("kicks are %v after interrupt 3; want %v", got, want)
	}
	if _, err := l.Kick(nil, vhostuser.VringFile{Index: 2}); err == nil {
		t.Error("Kick of ring 2 of 2 = nil; want an error")
	}
}

// TestPolledRings: without interrupts for them, rings are woken from time to time.
func TestPolledRings(t *testing.T) {
	for name, opt := range map[string]options{
		"device takes no vector":    {noVector: true},
		"no notification registers": {shape: firstQEMU, vectors: 3},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, opt)
			l := f.accept(f.open(Options{}))
			defer l.Close()
			k, err := l.Kick(nil, vhostuser.VringFile{Index: 1, NoFD: true})
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			for range 3 {
				p := []unix.PollFd{{Fd: int32(k.Int()), Events: unix.POLLIN}}
				if n, err := unix.Poll(p, 10_000); n != 1 {
					t.Fatalf("ring isn't polled: %v", err)
				}
				k.Drain()
			}
		})
	}
}

// FuzzRxMessages gives the driver whatever bytes a device may put into its buffers.
func FuzzRxMessages(f *testing.F) {
	f.Add([]byte{})
	f.Add(message(vhostuser.GetFeatures, 1, nil))
	f.Add(message(vhostuser.SetMemTable, 9, vhostuser.AppendMemTable(nil, []vhostuser.Region{{Size: 0x1000}})))
	f.Add(message(99, 5, make([]byte, 40)))
	f.Add(make([]byte, 13))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			return
		}
		if got := message(m.Code, m.Flags, m.Payload); !bytes.Equal(got, b) {
			t.Errorf("decode(%x) encodes to %x", b, got)
		}
		regions, err := vhostuser.DecodeMemTable(m.Payload)
		if err != nil {
			return
		}
		for rule := RuleDirect; rule <= ruleCursor; rule++ {
			p := placer{rule: rule, window: 1 << 32}
			for range 3 {
				offsets, err := p.place(regions)
				if err != nil {
					break
				}
				for i, off := range offsets {
					if off > p.window || regions[i].Size > p.window-off {
						t.Errorf("rule %s places %#x bytes at %#x of %#x", rule, regions[i].Size, off, p.window)
					}
				}
			}
		}
	})
}
