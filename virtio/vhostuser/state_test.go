package vhostuser

import (
	"context"
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/virtio"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtq"
)

func gpaOf(off int) guestmem.GPA { return guestmem.GPA(off) }

// wantBase stops ring index and wants its next available index.
func (r *rig) wantBase(index int, want uint16) {
	r.t.Helper()
	got, err := r.front.VringBase(index)
	if err != nil || got != want {
		r.t.Errorf("VringBase(%d) = %d, %v; want %d", index, got, err, want)
	}
}

func TestH200GetVringBase(t *testing.T) {
	t.Run("H200 after n requests", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		g := r.started()
		r.echo(g, 5)
		r.wantBase(1, 5)
		r.wantBase(1, 5)
		testkit.Check(t, r.front.SetVringKick(1, g.Kick)) // goes on at 5
		r.echo(g, 3)
		r.wantBase(1, 8)
		r.leave()
	})
	t.Run("H200 wraps at 65536", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		g := r.ring(1)
		l := virtq.Layout(g.Size)
		desc, avail, used := l.Split(r.mem.Mem[0x4000:])
		var err error
		g.Driver, err = virtq.NewDriver(virtq.DriverConfig{
			Index: 1, Size: g.Size, Desc: desc, Avail: avail, Used: used,
			EventIdx: true, Indirect: true, Start: 65533,
		})
		testkit.Check(t, err)
		testkit.Check(t, r.front.StartRing(g, 65533))
		r.echo(g, 5)
		r.wantBase(1, 2)
	})
	t.Run("H200 never started", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		testkit.Check(t, r.front.SetVringBase(0, 77))
		r.wantBase(0, 77)
		r.wantBase(0, 77)
	})
	t.Run("H200 no such ring", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		if _, err := r.front.VringBase(2); err == nil {
			t.Error("VringBase(2) of 2 rings succeeds")
		}
		r.broken(GetVringBase)
	})
}

func TestH201StopDrains(t *testing.T) {
	r := newRig(t, allFeatures, allProtocol)
	r.dev.hold = true
	g := r.started()
	r.submit(g, 8)
	r.dev.await(t, "8 requests", func() bool { return r.dev.held == 8 })

	reminder := r.log.draining()
	var base uint16
	stopped := testkit.Async(func() (err error) { base, err = r.front.VringBase(1); return err })
	r.dev.await(t, "the stop", func() bool { return r.dev.stopping == 1 })
	<-reminder
	r.add(g, 8) // published while stopping: stays for the next start
	g.Publish()
	select {
	case err := <-stopped:
		t.Fatalf("VringBase answers with requests in flight: %v", err)
	default:
	}
	r.dev.setHold(false)
	testkit.Check(t, testkit.Receive(t, stopped))
	if n := r.dev.count(&r.dev.echoed); n != 8 || base != 8 {
		t.Errorf("stopped with %d completions at %d; want 8 at 8", n, base)
	}
	r.used(g, 8)

	testkit.Check(t, r.front.StartRing(g, base))
	r.used(g, 1) // no kick was sent
	r.echo(g, 2)
	r.wantBase(1, 11)
	if n := r.dev.count(&r.dev.echoed); n != 11 {
		t.Errorf("device saw %d requests; want 11: none lost, none twice", n)
	}
}

func TestH202CallSwap(t *testing.T) {
	r := newRig(t, FeatureProtocolFeatures|virtio.FeatureVersion1, allProtocol)
	g := r.started()
	a, b := g.Call, newEvent(t, "call b")
	one := func(wantA, wantB bool) {
		t.Helper()
		events(t, a)
		done := r.dev.count(&r.dev.echoed)
		g.ArmCalls()
		r.submit(g, 1)
		r.dev.await(t, "the request", func() bool { return r.dev.echoed == done+1 })
		g.Used()
		if gotA, gotB := events(t, a) > 0, events(t, b) > 0; gotA != wantA || gotB != wantB {
			t.Errorf("calls on a, b = %v, %v; want %v, %v", gotA, gotB, wantA, wantB)
		}
	}
	one(true, false)
	testkit.Check(t, r.front.SetVringCall(1, b))
	one(false, true)
	testkit.Check(t, r.front.SetVringCall(1, nil))
	one(false, false)
	testkit.Check(t, r.front.SetVringCall(1, a))
	one(true, false)
	if n := r.dev.count(&r.dev.starts); n != 1 {
		t.Errorf("ring was started %d times; want 1: a new call doesn't stop it", n)
	}
}

// Without protocol features a ring runs as soon as it has its kick, which comes before
// its call. Who was served in between is told when the call comes.
func TestCallAfterStart(t *testing.T) {
	r := newRig(t, virtio.FeatureVersion1, 0)
	g := r.ring(1)
	testkit.Check(t, r.front.SetVringNum(1, g.Size))
	testkit.Check(t, r.front.SetVringBase(1, 0))
	testkit.Check(t, r.front.SetVringAddr(g.Addr))
	testkit.Check(t, r.front.SetVringKick(1, g.Kick))
	g.ArmCalls()
	r.submit(g, 1)
	r.dev.await(t, "the request", func() bool { return r.dev.echoed == 1 })
	testkit.Check(t, r.front.SetVringCall(1, g.Call))
	r.alive() // its message comes after the call
	if events(t, g.Call) == 0 {
		t.Error("the driver was not called")
	}
}

func TestH203KickSwap(t *testing.T) {
	r := newRig(t, allFeatures, allProtocol)
	g := r.started()
	r.echo(g, 1)
	old := g.Kick
	g.Kick = newEvent(t, "kick b")
	testkit.Check(t, r.front.SetVringKick(1, g.Kick))
	r.echo(g, 2)
	r.refused("H203 SetVringKick(none)", r.front.SetVringKick(1, nil))
	r.echo(g, 2)
	testkit.Check(t, old.Close())
	r.wantBase(1, 5)

	t.Run("H203 polling without REPLY_ACK", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol&^ProtocolReplyAck)
		testkit.Check(t, r.front.SetVringKick(1, nil))
		r.alive()
	})
	t.Run("H203 kick that can't be waited for", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		g := r.started()
		r.refused("SetVringKick(file)", r.front.SetVringKick(1, r.mem.File))
		testkit.Check(t, r.front.SetVringKick(1, g.Kick))
		r.echo(g, 1)
	})
}

func TestH204Disabled(t *testing.T) {
	r := newRig(t, allFeatures, allProtocol)
	g := r.started()
	testkit.Check(t, r.front.SetVringEnable(1, false))
	if n := r.dev.count(&r.dev.stopping); n != 1 {
		t.Fatalf("disabling stopped %d rings; want 1", n)
	}
	r.submit(g, 3)
	events(t, g.Kick) // somebody else ate the kick
	r.alive()
	if g.Pending() {
		t.Error("H204 disabled ring was served")
	}
	testkit.Check(t, r.front.SetVringEnable(1, true))
	r.used(g, 3)
	r.refused("SetVringEnable(2)", r.front.tell(SetVringEnable, VringState{1, 2}.Append(nil)))
	r.echo(g, 1)
}

func TestH205NoProtocolFeatures(t *testing.T) {
	r := newRig(t, allFeatures&^FeatureProtocolFeatures, 0)
	g := r.started()
	r.echo(g, 3)
	r.wantBase(1, 3)
	testkit.Check(t, r.front.SetVringEnable(1, true)) // needs protocol features
	r.broken(SetVringEnable)
}

func TestH206MemoryChange(t *testing.T) {
	t.Run("H206 new table with requests in flight", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		r.dev.hold = true
		g := r.started()
		r.submit(g, 4)
		r.dev.await(t, "4 requests", func() bool { return r.dev.held == 4 })
		// The new map has the same rings (same file), and other memory for data.
		rings := r.mem.Region
		rings.Size = dataArea
		other, err := NewGuestMemory(r.mem.GPA+dataArea, 1<<20)
		testkit.Check(t, err)
		defer other.Close()
		changed := testkit.Async(func() error {
			return r.front.SetMemTable([]Region{rings, other.Region}, []*fd.FD{r.mem.File, other.File})
		})
		r.dev.await(t, "the stop", func() bool { return r.dev.stopping == 1 })
		r.dev.setHold(false)
		testkit.Check(t, testkit.Receive(t, changed))
		r.used(g, 4)
		if got := string(r.mem.Mem[dataArea+0x800:][:9]); got != "request 0" {
			t.Errorf("request in flight wrote %q to old memory; want %q", got, "request 0")
		}
		copy(other.Mem, "other 0")
		seg := func(o int) []virtq.Seg { return []virtq.Seg{{Addr: other.GPA + gpaOf(o), Len: 64}} }
		g.Add(seg(0), seg(0x800))
		testkit.Check(t, g.Submit())
		r.used(g, 1)
		if got := string(other.Mem[0x800:][:7]); got != "other 0" {
			t.Errorf("next request wrote %q to new memory; want %q", got, "other 0")
		}
	})
	t.Run("H206 removing a region waits", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		extra, err := NewGuestMemory(0x10000000, 0x10000)
		testkit.Check(t, err)
		defer extra.Close()
		testkit.Check(t, r.front.AddMemReg(extra.Region, extra.File))
		r.refused("AddMemReg again", r.front.AddMemReg(extra.Region, extra.File))
		r.dev.hold = true
		g := r.started()
		copy(extra.Mem, "extra")
		seg := func(o int) []virtq.Seg { return []virtq.Seg{{Addr: extra.GPA + gpaOf(o), Len: 64}} }
		g.Add(seg(0), seg(0x800))
		testkit.Check(t, g.Submit())
		r.dev.await(t, "the request", func() bool { return r.dev.held == 1 })
		removed := testkit.Async(func() error { return r.front.RemMemReg(extra.Region) })
		r.dev.await(t, "the stop", func() bool { return r.dev.stopping == 1 })
		r.dev.setHold(false)
		testkit.Check(t, testkit.Receive(t, removed))
		r.used(g, 1)
		if got := string(extra.Mem[0x800:][:5]); got != "extra" {
			t.Errorf("request in flight wrote %q; want %q", got, "extra")
		}
		r.refused("RemMemReg again", r.front.RemMemReg(extra.Region))
		r.echo(g, 1)
	})
	t.Run("H206 ring without memory rests", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		g := r.started()
		r.echo(g, 1)
		testkit.Check(t, r.front.RemMemReg(r.mem.Region))
		r.submit(g, 2)
		r.alive()
		if g.Pending() {
			t.Error("ring outside memory was served")
		}
		testkit.Check(t, r.front.AddMemReg(r.mem.Region, r.mem.File))
		r.used(g, 2)
		if n, err := r.front.MaxMemSlots(); n != 509 || err != nil {
			t.Errorf("MaxMemSlots() = %d, %v; want 509", n, err)
		}
	})
}

func TestH207VringNum(t *testing.T) {
	r := newRig(t, allFeatures, allProtocol)
	for _, n := range []int{3, 0, 65536, 1 << 31} {
		r.refused("H207 SetVringNum", r.front.SetVringNum(1, n))
	}
	testkit.Check(t, r.front.SetVringNum(1, 32768))
	r.refused("H207 SetVringNum(ring 2)", r.front.SetVringNum(2, 64))
	r.started()
	r.refused("SetVringNum while started", r.front.SetVringNum(1, 32))
	r.refused("SetVringBase while started", r.front.SetVringBase(1, 1))
	r.refused("SetVringBase(1<<16)", r.front.tell(SetVringBase, VringState{0, 1 << 16}.Append(nil)))
}

func TestH209FeaturesAtNextStart(t *testing.T) {
	r := newRig(t, allFeatures, allProtocol)
	g := r.started()
	bad := func() int {
		t.Helper()
		table := r.mem.Mem[dataArea+0x3000:]
		seg := []virtq.Seg{{Addr: r.mem.GPA + dataArea, Len: 64}}
		if _, ok := g.AddIndirect(seg, seg, table, r.mem.GPA+dataArea+0x3000); !ok {
			t.Fatal("no room for an indirect chain")
		}
		testkit.Check(t, g.Submit())
		if !g.Wait(testkit.Patience) {
			t.Fatal("completion doesn't come")
		}
		g.Used()
		return r.dev.count(&r.dev.bad)
	}
	if n := bad(); n != 0 {
		t.Errorf("%d bad chains; want 0", n)
	}
	testkit.Check(t, r.front.SetFeatures(r.front.features&^virtio.FeatureIndirectDesc))
	if n := bad(); n != 0 {
		t.Errorf("H209 %d bad chains before the next start; want 0", n)
	}
	base, err := r.front.VringBase(1)
	testkit.Check(t, err)
	testkit.Check(t, r.front.StartRing(g, base))
	if n := bad(); n != 1 {
		t.Errorf("H209 %d bad chains after the next start; want 1", n)
	}

	r.refused("SetFeatures(unknown)", r.front.SetFeatures(1<<60))
	testkit.Check(t, r.front.Send(&Message{Code: SetFeatures, Flags: FlagVersion1, Payload: AppendU64(nil, 1<<60)}))
	r.broken(SetFeatures)
}

func TestH210Config(t *testing.T) {
	r := newRig(t, allFeatures, allProtocol)
	got, err := r.front.Config(0, 40)
	if err != nil || string(got) != string(r.dev.config) {
		t.Errorf("Config(0, 40) = %q, %v; want %q", got, err, r.dev.config)
	}
	got, err = r.front.Config(0, 60)
	if err != nil || string(got) != string(r.dev.config)+string(make([]byte, 20)) {
		t.Errorf("Config(0, 60) = %q, %v; want 40 bytes and 20 zeros", got, err)
	}
	got, err = r.front.Config(36, 4)
	if err != nil || string(got) != "\x01\x00\x00\x00" {
		t.Errorf("Config(36, 4) = %q, %v; want 1", got, err)
	}
	for _, at := range [][2]int{{300, 4}, {0, 0}, {0, 257}, {255, 2}, {0xffffffff, 1}} {
		_, err := r.front.Config(at[0], at[1])
		r.refused("H210 Config out of reach", err)
	}
	r.refused("H210 SetConfig", r.front.SetConfig(0, []byte("x")))

	t.Run("H210 without the feature", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol&^ProtocolConfig)
		_, err := r.front.Config(0, 40)
		r.refused("Config", err)
	})
}

func TestH211Inflight(t *testing.T) {
	r := newRig(t, allFeatures, allProtocol)
	reply, err := r.front.ask(GetInflightFD, make([]byte, 24))
	if err != nil || len(reply) != 0 {
		t.Errorf("GET_INFLIGHT_FD = %x, %v; want an empty reply", reply, err)
	}
	r.refused("H211 SET_INFLIGHT_FD", r.front.tell(SetInflightFD, make([]byte, 24), r.mem.File))
}

func TestH212KickFlags(t *testing.T) {
	for _, flags := range []int{0, unix.EFD_NONBLOCK} {
		r := newRig(t, allFeatures, allProtocol)
		g := r.ring(1)
		n, err := unix.Eventfd(0, unix.EFD_CLOEXEC|flags)
		testkit.Check(t, err)
		testkit.Check(t, g.Kick.Close())
		g.Kick = fd.New(n, "kick")
		before, err := unix.FcntlInt(uintptr(n), unix.F_GETFL, 0)
		testkit.Check(t, err)
		testkit.Check(t, r.front.StartRing(g, 0))
		r.echo(g, 2)
		r.wantBase(1, 2)
		if after, err := unix.FcntlInt(uintptr(n), unix.F_GETFL, 0); err != nil || after != before {
			t.Errorf("H212 flags of the kick = %#x, %v; want %#x", after, err, before)
		}
	}
}

func TestH213Resets(t *testing.T) {
	t.Run("H213 RESET_OWNER", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		g := r.started()
		r.echo(g, 3)
		testkit.Check(t, r.front.ResetOwner())
		r.submit(g, 1)
		r.alive()
		if g.Pending() {
			t.Error("ring was served after RESET_OWNER")
		}
		r.wantBase(1, 3)
		g2, err := r.front.NewRing(r.mem, 0x8000, 1, 64)
		testkit.Check(t, err)
		defer g2.Close()
		testkit.Check(t, r.front.Negotiate(allFeatures, allProtocol))
		testkit.Check(t, r.front.Share(r.mem))
		testkit.Check(t, r.front.StartRing(g2, 0))
		r.echo(g2, 2)
		if n := r.dev.count(&r.dev.resets); n != 0 {
			t.Errorf("%d device resets; want 0", n)
		}
	})
	t.Run("H213 RESET_DEVICE", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		g := r.started()
		r.echo(g, 3)
		testkit.Check(t, r.front.ResetDevice())
		if n := r.dev.count(&r.dev.resets); n != 1 {
			t.Errorf("%d device resets; want 1", n)
		}
		r.wantBase(1, 0)
		testkit.Check(t, r.front.Negotiate(allFeatures, allProtocol))
		g2, err := r.front.NewRing(r.mem, 0x8000, 1, 64)
		testkit.Check(t, err)
		defer g2.Close()
		testkit.Check(t, r.front.StartRing(g2, 0))
		r.echo(g2, 2)
		r.leave()
		if n := r.dev.count(&r.dev.resets); n != 2 {
			t.Errorf("%d device resets after the end; want 2", n)
		}
	})
}

func TestH214Disconnect(t *testing.T) {
	t.Run("H214 with requests in flight", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		r.dev.hold = true
		g := r.started()
		r.submit(g, 2)
		r.dev.await(t, "2 requests", func() bool { return r.dev.held == 2 })
		testkit.Check(t, r.front.Close())
		r.dev.await(t, "the stop", func() bool { return r.dev.stopping == 1 })
		select {
		case <-r.done:
			t.Fatal("Serve returns with requests in flight")
		default:
		}
		r.dev.setHold(false)
		if err := r.wait(); err != nil {
			t.Errorf("Serve = %v; want nil", err)
		}
		r.used(g, 2)
		if n := r.dev.count(&r.dev.resets); n != 1 {
			t.Errorf("%d device resets; want 1", n)
		}
	})
	t.Run("H214 while waiting for a stop", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		r.dev.hold = true
		g := r.started()
		r.submit(g, 2)
		r.dev.await(t, "2 requests", func() bool { return r.dev.held == 2 })
		testkit.Check(t, r.front.Send(&Message{Code: GetVringBase, Flags: FlagVersion1, Payload: VringState{Index: 1}.Append(nil)}))
		r.dev.await(t, "the stop", func() bool { return r.dev.stopping == 1 })
		testkit.Check(t, r.front.Close())
		r.dev.setHold(false)
		if err := r.wait(); err != nil {
			t.Errorf("Serve = %v; want nil", err)
		}
	})
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"H214 inside a header", []byte{1, 0, 0, 0, 1}},
		{"H214 before a payload", Header{SetFeatures, FlagVersion1, 8}.Append(nil)},
		{"H214 inside a payload", append(Header{SetFeatures, FlagVersion1, 8}.Append(nil), 1, 2, 3)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRawRig(t, context.Background())
			_, err := r.front.sock.conn.Write(tt.b)
			testkit.Check(t, err)
			testkit.Check(t, r.front.Close())
			if err := r.wait(); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("Serve = %v; want %v", err, io.ErrUnexpectedEOF)
			}
		})
	}
}

func TestH215DirtyLog(t *testing.T) {
	r := newRig(t, allFeatures&^FeatureLogAll, allProtocol)
	g := r.started()
	r.echo(g, 2)
	bitmap, err := NewGuestMemory(0, 0x2000)
	testkit.Check(t, err)
	defer bitmap.Close()
	area := LogArea{Size: 0x1000, Offset: 0x1000}
	testkit.Check(t, r.front.SetLogBase(area, bitmap.File))
	event := newEvent(t, "log event")
	testkit.Check(t, r.front.SetLogFD(event))
	page := func(off int) bool {
		p := (int(r.mem.GPA) + off) / 4096
		return bitmap.Mem[0x1000+p/8]&(1<<(p%8)) != 0
	}
	marked := func(name string, want map[int]bool) {
		t.Helper()
		for off := 0; off < len(r.mem.Mem); off += 4096 {
			if got := page(off); got != want[off] {
				t.Errorf("%s: page at %#x is dirty = %v; want %v", name, off, got, want[off])
			}
		}
		clear(bitmap.Mem)
	}
	r.echo(g, 1)
	marked("H215 log that isn't acknowledged", nil)

	offered, err := r.front.Features()
	testkit.Check(t, err)
	testkit.Check(t, r.front.SetFeatures(offered))
	r.echo(g, 2)
	marked("H215 without the ring", map[int]bool{dataArea: true, dataArea + 0x1000: true})

	g.Addr.Flags = VringLog
	testkit.Check(t, r.front.SetVringAddr(g.Addr))
	marked("H215 ring start", map[int]bool{0x4000: true})
	r.submit(g, 3)
	for i := range 3 {
		if !g.Wait(testkit.Patience) {
			t.Fatal("completion doesn't come")
		}
		if !page(0x4000) || !page(dataArea+i*0x1000) {
			t.Errorf("H215 completion %d is visible before its bits", i)
		}
		g.Used()
	}
	marked("H215 with the ring", map[int]bool{0x4000: true, dataArea: true, dataArea + 0x1000: true, dataArea + 0x2000: true})

	testkit.Check(t, r.front.SetFeatures(offered&^FeatureLogAll))
	clear(bitmap.Mem)
	r.echo(g, 2)
	marked("H215 log ended", nil)
	moved := g.Addr
	moved.Used += 0x1000
	r.refused("SetVringAddr elsewhere while started", r.front.SetVringAddr(moved))
	testkit.Check(t, r.front.ResetDevice())
	r.leave()
}
