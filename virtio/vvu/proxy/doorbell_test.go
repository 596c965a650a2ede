package proxy

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/virtio/vhostuser"
)

// vring sends SET_VRING_KICK, _CALL or _ERR, and waits until the driver has it.
func (s *script) vring(p *peer, code vhostuser.Code, ring uint8, e *fd.FD) {
	s.t.Helper()
	m := message(code, 1, vhostuser.VringFile{Index: ring, NoFD: e == nil}.Append(nil))
	if e == nil {
		p.send(m)
	} else {
		p.send(m, e)
	}
	s.expectMessage(m)
}

// TestDoorbells is virtio-vhost-user.md 11.9.
func TestDoorbells(t *testing.T) {
	s, p := connected(t, Options{})
	call, other, err, log := event(t, 0), event(t, unix.EFD_NONBLOCK), event(t, unix.EFD_NONBLOCK), event(t, 0)
	s.w16(2, 4, 1) // nobody is there yet

	s.vring(p, vhostuser.SetVringCall, 1, call)
	s.vring(p, vhostuser.SetVringErr, 1, err)
	p.send(message(vhostuser.SetLogFD, 1, nil), log)
	s.receive()
	s.w8(2, 4, 1)
	want(t, "call after a write of 1 byte", counter(t, call), 1)
	s.w16(2, 4, 1)
	s.w32(2, 4, 0xdeadbeef)
	s.w16(2, 6, 0) // not a multiple of 4: the same doorbell
	want(t, "call after three writes", counter(t, call), 3)
	want(t, "doorbell read", s.r32(2, 4), 0)

	s.w16(2, 0x404, 1)
	want(t, "err", counter(t, err), 1)
	s.w16(2, 0x800, 1)
	want(t, "log", counter(t, log), 1)
	for _, off := range []int64{0, 8, 0x400, 0x408, 0x804, 0x1ffc} {
		s.w16(2, off, 1)
	}
	want(t, "call after other doorbells", counter(t, call), 0)

	s.vring(p, vhostuser.SetVringCall, 1, other)
	s.w8(2, 4, 1)
	want(t, "old call", counter(t, call), 0)
	want(t, "new call", counter(t, other), 1)

	get := message(vhostuser.GetVringBase, 1, vhostuser.VringState{Index: 1}.Append(nil))
	p.send(get)
	s.expectMessage(get)
	s.reply(vhostuser.GetVringBase, vhostuser.VringState{Index: 1, Num: 0x55}.Append(nil))
	p.expect(message(vhostuser.GetVringBase, 5, vhostuser.VringState{Index: 1, Num: 0x55}.Append(nil)))
	s.w8(2, 4, 1)
	want(t, "call after GET_VRING_BASE", counter(t, other), 1)

	s.vring(p, vhostuser.SetVringCall, 1, nil)
	s.w8(2, 4, 1)
	want(t, "call after NOFD", counter(t, other), 0)

	s.vring(p, vhostuser.SetVringCall, 1, other)
	p.Close()
	s.waitState(stateReady)
	s.w8(2, 4, 1)
	want(t, "call after disconnect", counter(t, other), 0)
}

// TestFullDoorbell rings eventfds whose counter is full.
func TestFullDoorbell(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flags int
	}{{"blocking", 0}, {"non-blocking", unix.EFD_NONBLOCK}} {
		t.Run(tt.name, func(t *testing.T) {
			s, p := connected(t, Options{})
			call := event(t, tt.flags)
			full := []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
			_, err := unix.Write(call.Int(), full)
			testkit.Check(t, err)
			s.vring(p, vhostuser.SetVringCall, 0, call)
			begin := time.Now()
			s.w16(2, 0, 0)
			if took := time.Since(begin); took > time.Second {
				t.Errorf("doorbell took %v; want at most about %v", took, patience)
			}
			if counter(t, call) == 0 {
				t.Error("counter = 0; want a signal for the sibling to read")
			}
		})
	}
}

// TestKicks turns kicks into the vectors that are set when they come.
func TestKicks(t *testing.T) {
	for _, flags := range []int{0, unix.EFD_NONBLOCK} {
		s, p := connected(t, Options{})
		kick := event(t, flags)
		s.vring(p, vhostuser.SetVringKick, 1, kick)
		fires := func(vector int) {
			t.Helper()
			before := s.bus.count(vector)
			testkit.Check(t, kick.Signal())
			s.wait("interrupt for a kick", func() bool { return s.bus.count(vector) > before })
			if got := counter(t, kick); got != 0 {
				t.Errorf("counter after the interrupt = %d; want 0", got)
			}
		}
		fires(3)
		fires(3)
		s.w32(2, notificationOff, 7<<16|1)
		fires(7)
		s.w32(2, notificationOff, 9<<16|1)
		fires(9)

		// Without a vector, kicks are taken and dropped.
		s.w32(2, notificationOff, 0xffff<<16|1)
		testkit.Check(t, kick.Signal())
		s.eventually("kick dropped", func() bool {
			s.dev.mu.Lock()
			defer s.dev.mu.Unlock()
			return s.dev.dropped == 1
		})
		s.w32(2, notificationOff, 9<<16|1)

		// A new kick takes the place of the old.
		second := event(t, flags)
		s.vring(p, vhostuser.SetVringKick, 1, second)
		before := s.bus.count(9)
		testkit.Check(t, kick.Signal())
		testkit.Check(t, second.Signal())
		s.wait("interrupt for the second kick", func() bool { return s.bus.count(9) > before })
		want(t, "counter of the old kick", counter(t, kick), 1)

		// GET_VRING_BASE ends it.
		p.send(message(vhostuser.GetVringBase, 1, vhostuser.VringState{Index: 1}.Append(nil)))
		s.receive()
		s.reply(vhostuser.GetVringBase, vhostuser.VringState{Index: 1}.Append(nil))
		p.expect(message(vhostuser.GetVringBase, 5, vhostuser.VringState{Index: 1}.Append(nil)))
		testkit.Check(t, second.Signal())
		want(t, "counter after GET_VRING_BASE", counter(t, second), 1)

		// A kick that came early is not lost.
		testkit.Check(t, second.Signal())
		before = s.bus.count(9)
		s.vring(p, vhostuser.SetVringKick, 1, second)
		s.wait("interrupt for an early kick", func() bool { return s.bus.count(9) > before })
	}
}

// TestKickAllocates nothing, and neither does a doorbell.
func TestKickAllocates(t *testing.T) {
	s, p := connected(t, Options{})
	kick, call := event(t, unix.EFD_NONBLOCK), event(t, unix.EFD_NONBLOCK)
	s.vring(p, vhostuser.SetVringKick, 0, kick)
	s.vring(p, vhostuser.SetVringCall, 0, call)
	s.w32(2, notificationOff, 0xffff<<16)
	serial := s.dev.peer.vrings[0].serial
	testkit.NoAllocs(t, 100, "a kick", func() { s.dev.kicked(0, serial) })
	one := []byte{1, 0}
	testkit.NoAllocs(t, 100, "a doorbell", func() { s.dev.Write(2, one, 0) })
}
