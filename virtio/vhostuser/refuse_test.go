package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
)

// TestH208Messages sends what is wrong with and without waiting for an answer.
func TestH208Messages(t *testing.T) {
	state := func(index, num uint32) []byte { return VringState{index, num}.Append(nil) }
	file := func(index uint8, none bool) []byte { return VringFile{index, none}.Append(nil) }
	one := Region{GPA: 0x100000, Size: 0x1000, Addr: 0x1000}
	two := Region{GPA: 0x200000, Size: 0x1000, Addr: 0x2000}
	const (
		nack  = 1 << iota // refused with an error reply if that is asked for
		alive             // and not the end without
		empty             // an empty reply in any case
	)
	for _, tt := range []struct {
		name    string
		code    Code
		payload []byte
		files   int
		want    int
	}{
		{"H208 unknown message", 99, []byte("whatever"), 0, nack | alive},
		{"H208 unknown message with files", 99, []byte("whatever"), 3, nack | alive},
		{"H208 message 0", 0, nil, 0, nack | alive},
		{"H208 SEND_RARP", SendRARP, AppendU64(nil, 0), 0, nack | alive},
		{"H208 GET_STATUS", GetStatus, nil, 0, empty},
		{"H208 SET_OWNER with payload", SetOwner, []byte{1}, 0, nack},
		{"H208 SET_OWNER with a file", SetOwner, nil, 1, nack},
		{"H208 SET_FEATURES without payload", SetFeatures, nil, 0, nack},
		{"H208 SET_PROTOCOL_FEATURES of 4 bytes", SetProtocolFeatures, make([]byte, 4), 0, nack},
		{"H208 RESET_OWNER with payload", ResetOwner, []byte{1}, 0, nack},
		{"H208 RESET_DEVICE with payload", ResetDevice, []byte{1}, 0, nack},
		{"H208 SET_VRING_NUM of 4 bytes", SetVringNum, make([]byte, 4), 0, nack},
		{"H208 SET_VRING_ENABLE of 4 bytes", SetVringEnable, make([]byte, 4), 0, nack},
		{"H208 SET_VRING_BASE of 4 bytes", SetVringBase, make([]byte, 4), 0, nack},
		{"H208 SET_VRING_ADDR of 4 bytes", SetVringAddr, make([]byte, 4), 0, nack},
		{"H208 SET_VRING_ADDR of ring 2", SetVringAddr, VringAddr{Index: 2}.Append(nil), 0, nack},
		{"H208 SET_VRING_ADDR outside memory", SetVringAddr, VringAddr{}.Append(nil), 0, nack},
		{"H208 SET_VRING_BASE of ring 2", SetVringBase, state(2, 0), 0, nack},
		{"H208 SET_VRING_NUM with a file", SetVringNum, state(1, 64), 1, nack},
		{"H208 SET_VRING_KICK of 4 bytes", SetVringKick, make([]byte, 4), 1, nack},
		{"H208 SET_VRING_KICK of ring 2", SetVringKick, file(2, false), 1, nack},
		{"H208 SET_VRING_KICK without a file", SetVringKick, file(1, false), 0, nack},
		{"H208 SET_VRING_KICK with 2 files", SetVringKick, file(1, false), 2, nack},
		{"H208 SET_VRING_KICK, none, with a file", SetVringKick, file(1, true), 1, nack},
		{"H208 SET_VRING_CALL of 4 bytes", SetVringCall, make([]byte, 4), 1, nack},
		{"H208 SET_VRING_CALL of ring 2", SetVringCall, file(2, false), 1, nack},
		{"H208 SET_VRING_CALL without a file", SetVringCall, file(1, false), 0, nack},
		{"H208 SET_VRING_ERR with 2 files", SetVringErr, file(1, false), 2, nack},
		{"H208 SET_MEM_TABLE of 4 bytes", SetMemTable, make([]byte, 4), 0, nack},
		{"H208 SET_MEM_TABLE with 1 file for 2", SetMemTable, AppendMemTable(nil, []Region{one, two}), 1, nack},
		{"H208 SET_MEM_TABLE with 2 files for 1", SetMemTable, AppendMemTable(nil, []Region{one}), 2, nack},
		{"H208 SET_MEM_TABLE of what can't be mapped", SetMemTable, AppendMemTable(nil, []Region{one}), 1, nack},
		{"H208 ADD_MEM_REG of 4 bytes", AddMemReg, make([]byte, 4), 1, nack},
		{"H208 ADD_MEM_REG without a file", AddMemReg, AppendMemReg(nil, one), 0, nack},
		{"H208 REM_MEM_REG of 4 bytes", RemMemReg, make([]byte, 4), 0, nack},
		{"H208 REM_MEM_REG with 2 files", RemMemReg, AppendMemReg(nil, one), 2, nack},
		{"H208 SET_LOG_FD without a file", SetLogFD, nil, 0, nack},
		{"H208 SET_BACKEND_REQ_FD with 2 files", SetBackendReqFD, nil, 2, nack},
		{"H208 SET_LOG_BASE of 4 bytes", SetLogBase, make([]byte, 4), 1, 0},
		{"H208 SET_LOG_BASE without a file", SetLogBase, LogArea{Size: 1}.Append(nil), 0, 0},
		{"H208 GET_VRING_BASE of 4 bytes", GetVringBase, make([]byte, 4), 0, 0},
		{"H208 GET_CONFIG of 4 bytes", GetConfig, make([]byte, 4), 0, 0},
		{"H208 GET_FEATURES with payload", GetFeatures, make([]byte, 4), 0, 0},
	} {
		event := newEvent(t, "file of a message")
		files := make([]*fd.FD, tt.files)
		for i := range files {
			files[i] = event
		}
		for _, waits := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, waits %v", tt.name, waits), func(t *testing.T) {
				r := newRig(t, allFeatures, allProtocol)
				m := &Message{Code: tt.code, Flags: FlagVersion1, Payload: tt.payload, Files: files}
				if waits {
					m.Flags |= FlagNeedReply
				}
				testkit.Check(t, r.front.Send(m))
				switch {
				case tt.want&empty != 0:
					if reply, err := r.front.Reply(tt.code); err != nil || len(reply) != 0 {
						t.Errorf("reply = %x, %v; want an empty one", reply, err)
					}
					r.alive()
				case waits && tt.want&nack != 0:
					reply, err := r.front.Reply(tt.code)
					if v, e := DecodeU64(reply); err != nil || e != nil || v == 0 {
						t.Errorf("reply = %x, %v; want a number that isn't 0", reply, err)
					}
					r.alive()
				case tt.want&alive != 0:
					r.alive()
				default:
					r.broken(tt.code)
				}
			})
		}
	}
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"H208 version 0", message(GetFeatures, 0, nil)},
		{"H208 version 3", message(GetFeatures, 3, nil)},
		{"H208 reserved flag", message(GetFeatures, 0x11, nil)},
		{"H208 reply", message(GetFeatures, FlagVersion1|FlagReply, AppendU64(nil, 0))},
		{"H208 message of 5000 bytes", message(GetFeatures, FlagVersion1, make([]byte, 5000))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRawRig(t, context.Background())
			_, err := r.front.sock.conn.Write(tt.b)
			testkit.Check(t, err)
			r.broken(GetFeatures)
		})
	}
}

// TestUnacknowledged sends messages whose protocol features weren't acknowledged.
func TestUnacknowledged(t *testing.T) {
	r := newRig(t, allFeatures, ProtocolReplyAck)
	r.refused("ResetDevice", r.front.ResetDevice())
	r.refused("AddMemReg", r.front.AddMemReg(r.mem.Region, r.mem.File))
	r.refused("RemMemReg", r.front.RemMemReg(r.mem.Region))
	r.refused("SetBackendReqFD", r.front.SetBackendReqFD(r.mem.File))
	if n, err := r.front.QueueNum(); n != 2 || err != nil {
		t.Errorf("QueueNum() = %d, %v; want 2", n, err)
	}
	if err := r.front.SetLogBase(LogArea{Size: 4096}, r.mem.File); err == nil {
		t.Error("SetLogBase succeeds without LOG_SHMFD")
	}
	r.broken(SetLogBase)
}

// TestProtocolFeaturesMasked wants bits that weren't offered to be ignored.
func TestProtocolFeaturesMasked(t *testing.T) {
	r := newRig(t, allFeatures, allProtocol)
	testkit.Check(t, r.front.SetProtocolFeatures(allProtocol))
	r.refused("SetVringNum", r.front.SetVringNum(1, 3))
	r.log.has(t, "not offered")
	testkit.Check(t, r.front.SetBackendReqFD(r.mem.File))
	testkit.Check(t, r.front.SetBackendReqFD(r.mem.File))
	r.leave()
}

// TestAnyOrder configures a ring in another order than QEMU.
func TestAnyOrder(t *testing.T) {
	steps := []func(r *rig, g *GuestRing) error{
		func(r *rig, g *GuestRing) error { return r.front.SetVringKick(1, g.Kick) },
		func(r *rig, g *GuestRing) error { return r.front.SetVringEnable(1, true) },
		func(r *rig, g *GuestRing) error { return r.front.SetVringAddr(g.Addr) },
		func(r *rig, g *GuestRing) error { return r.front.SetVringNum(1, g.Size) },
		func(r *rig, g *GuestRing) error { return r.front.SetVringCall(1, g.Call) },
	}
	for first := range steps {
		r := newRig(t, allFeatures, allProtocol)
		g := r.ring(1)
		for _, step := range slices.Concat(steps[first:], steps[:first]) {
			testkit.Check(t, step(r, g))
		}
		r.echo(g, 2)
		r.wantBase(1, 2)
	}
}

// TestRingOutOfRegion wants the whole ring to lie in one region, whichever message
// completes the configuration.
func TestRingOutOfRegion(t *testing.T) {
	r := newRig(t, allFeatures, allProtocol)
	g := r.ring(1)
	for _, part := range []*FrontAddr{&g.Addr.Desc, &g.Addr.Avail, &g.Addr.Used} {
		old := *part
		*part = r.mem.Addr + FrontAddr(r.mem.Size) - 16
		testkit.Check(t, r.front.SetVringNum(1, 64))
		r.refused("SetVringAddr at the end of memory", r.front.SetVringAddr(g.Addr))
		testkit.Check(t, r.front.SetVringNum(1, 1))
		*part = old
	}
	testkit.Check(t, r.front.SetVringKick(1, g.Kick))
	testkit.Check(t, r.front.SetVringEnable(1, true))
	// At this address the descriptor table has room for a ring of size 1.
	g2 := r.ring(0)
	g2.Addr.Desc = r.mem.Addr + FrontAddr(r.mem.Size) - 16
	testkit.Check(t, r.front.ResetOwner())
	testkit.Check(t, r.front.SetVringNum(0, 1))
	testkit.Check(t, r.front.SetVringAddr(g2.Addr))
	testkit.Check(t, r.front.SetVringNum(0, 64))
	testkit.Check(t, r.front.SetVringEnable(0, true))
	r.refused("SetVringKick of a ring out of memory", r.front.SetVringKick(0, g2.Kick))
	testkit.Check(t, r.front.SetVringAddr(g.Addr))
}

// TestStartFails wants the message that would have started a ring to be refused, and
// the ring to start once the reason is gone.
func TestStartFails(t *testing.T) {
	r := newRig(t, allFeatures, allProtocol)
	r.dev.startErr = errors.New("no thread")
	g := r.ring(1)
	r.refused("StartRing", r.front.StartRing(g, 0))
	r.dev.mu.Lock()
	r.dev.startErr = nil
	r.dev.mu.Unlock()
	testkit.Check(t, r.front.SetVringEnable(1, true))
	r.echo(g, 1)
}

// TestMemoryGone shrinks the memory behind a ring before it starts.
func TestMemoryGone(t *testing.T) {
	r := newRig(t, allFeatures, allProtocol)
	g := r.ring(1)
	testkit.Check(t, unix.Ftruncate(r.mem.File.Int(), 0))
	r.refused("StartRing without memory", r.front.StartRing(g, 0))
	r.refused("Share without memory", r.front.Share(r.mem))
	r.leave()
}

// TestOverlap refuses a memory map with overlaps and goes on with the old one.
func TestOverlap(t *testing.T) {
	r := newRig(t, allFeatures, allProtocol)
	g := r.started()
	r.refused("Share(overlap)", r.front.Share(r.mem, r.mem))
	r.refused("AddMemReg(overlap)", r.front.AddMemReg(r.mem.Region, r.mem.File))
	r.echo(g, 1)
	if n := r.dev.count(&r.dev.starts); n != 1 {
		t.Errorf("ring was started %d times; want 1: nothing has changed", n)
	}
}

// TestBrokenRing breaks a ring: its error bell rings, it rests, and the next kick gives
// it another chance.
func TestBrokenRing(t *testing.T) {
	r := newRig(t, allFeatures, allProtocol)
	g := r.started()
	broken := newEvent(t, "err")
	testkit.Check(t, r.front.SetVringErr(1, broken))
	r.echo(g, 2)
	idx := r.mem.Mem[0x4000+16*64+2:][:2]
	idx[1] = 0x70 // avail.idx jumps
	testkit.Check(t, g.Kick.Signal())
	p := []unix.PollFd{{Fd: int32(broken.Int()), Events: unix.POLLIN}}
	if n, err := unix.Poll(p, int(testkit.Patience.Milliseconds())); n != 1 || err != nil {
		t.Fatalf("error bell doesn't ring: %v", err)
	}
	starts := r.dev.count(&r.dev.starts)
	testkit.Check(t, r.front.Share(r.mem))
	testkit.Check(t, r.front.SetVringEnable(1, false))
	testkit.Check(t, r.front.SetVringEnable(1, true))
	if n := r.dev.count(&r.dev.starts); n != starts {
		t.Errorf("broken ring was started again by itself")
	}
	r.wantBase(1, 2)
	idx[1] = 0
	testkit.Check(t, r.front.SetVringErr(1, nil))
	testkit.Check(t, r.front.SetVringKick(1, g.Kick))
	r.echo(g, 2)
	r.log.has(t, "ring is broken")
}

// TestBaseAhead warns about a base that doesn't fit the used index, and goes on.
func TestBaseAhead(t *testing.T) {
	r := newRig(t, allFeatures, allProtocol)
	g := r.ring(1)
	testkit.Check(t, r.front.StartRing(g, 1000))
	r.log.has(t, "more requests in flight")
	r.wantBase(1, 1000)
}

// TestCancel ends Serve while it waits for a message, and while it can't send one.
func TestCancel(t *testing.T) {
	cause := errors.New("shutdown")
	t.Run("idle", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		r := newRawRig(t, ctx)
		r.alive()
		cancel(cause)
		if err := r.wait(); err != cause {
			t.Errorf("Serve = %v; want %v", err, cause)
		}
	})
	t.Run("sending", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		r := newRawRig(t, ctx)
		flood := make(chan struct{})
		go func() { // until nobody reads any more
			defer close(flood)
			b := message(GetFeatures, FlagVersion1, nil)
			for {
				if _, err := r.front.sock.conn.Write(b); err != nil {
					return
				}
			}
		}()
		// The flood stands still when both directions are full.
		full := func() bool {
			raw, err := r.front.sock.conn.SyscallConn()
			testkit.Check(t, err)
			var out int
			testkit.Check(t, raw.Control(func(fd uintptr) {
				p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
				out, _ = unix.Poll(p, 20)
			}))
			return out == 0
		}
		for !full() {
		}
		cancel(cause)
		if err := r.wait(); err != cause {
			t.Errorf("Serve = %v; want %v", err, cause)
		}
		<-flood
	})
}

// TestBellRace exchanges a bell that is being rung.
func TestBellRace(t *testing.T) {
	var b bell
	var ringing sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		ringing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if err := b.Notify(); err != nil {
						t.Errorf("Notify() = %v", err)
						return
					}
				}
			}
		})
	}
	for range 200 {
		e, err := fd.NewEvent("bell")
		testkit.Check(t, err)
		testkit.Check(t, b.set(&eventBell{event: e}))
	}
	testkit.Check(t, b.set(nil))
	close(stop)
	ringing.Wait()
	testkit.NoAllocs(t, 100, "Notify", func() { b.Notify() })
}
