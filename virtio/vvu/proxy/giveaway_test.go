package proxy

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/vfio"
	"vfiofs/virtio/vhostuser"
)

// TestEvents gives the calls of a sibling away.
func TestEvents(t *testing.T) {
	r := newRig(t, Options{})
	if got := r.dev.Events(doorbellBAR, 8); got != nil {
		t.Errorf("%d events without a sibling", len(got))
	}
	s, p := connected(t, Options{})
	calls := []*fd.FD{event(t, 0), event(t, unix.EFD_NONBLOCK)}
	s.vring(p, vhostuser.SetVringCall, 0, calls[0])
	s.vring(p, vhostuser.SetVringCall, 3, calls[1])
	s.vring(p, vhostuser.SetVringErr, 3, event(t, 0))
	for _, tt := range []struct {
		region, max int
		want        []int64
	}{{doorbellBAR, 8, []int64{0, 12}}, {doorbellBAR, 1, []int64{0}}, {doorbellBAR, 0, nil}, {0, 8, nil}, {memoryBAR, 8, nil}} {
		var got []int64
		for i, e := range s.dev.Events(tt.region, tt.max) {
			testkit.Check(t, e.File.Signal())
			testkit.Check(t, e.File.Close())
			want(t, "signals of a call", counter(t, calls[i]), 1)
			got = append(got, e.Offset)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("Events(%d, %d) are at %v; want %v", tt.region, tt.max, got, tt.want)
		}
	}
	s.vring(p, vhostuser.SetVringCall, 0, nil)
	s.vring(p, vhostuser.SetVringCall, 3, nil)
	want(t, "events without calls", len(s.dev.Events(doorbellBAR, 8)), 0)
}

// TestSource gives kicks away, and takes them back.
func TestSource(t *testing.T) {
	s, p := connected(t, Options{})
	source := func(kind vfio.IRQ, vector int) bool {
		t.Helper()
		e := s.dev.Source(kind, vector)
		e.Close()
		return e != nil
	}
	want(t, "source without a kick", source(vfio.MSIX, 3), false)
	kick, other, second := event(t, unix.EFD_NONBLOCK), event(t, 0), event(t, unix.EFD_NONBLOCK)
	s.vring(p, vhostuser.SetVringKick, 1, kick)
	s.vring(p, vhostuser.SetVringKick, 2, other)
	want(t, "source of another kind", source(vfio.Err, 3), false)
	want(t, "source of another vector", source(vfio.MSIX, 7), false)
	s.w32(2, notificationOff, 4<<16|2)
	s.w32(2, notificationOff, 4<<16|1)
	want(t, "source of two kicks", source(vfio.MSIX, 4), false)
	s.w32(2, notificationOff, 3<<16|1)

	// relayed kicks ring 2, and waits until the proxy has looked at all kicks before.
	relayed := func(vector int) {
		t.Helper()
		before := s.bus.count(vector)
		testkit.Check(t, other.Signal())
		s.wait("interrupt for a kick", func() bool { return s.bus.count(vector) > before })
	}
	serial := s.dev.peer.vrings[1].serial
	want(t, "source of a kick", source(vfio.MSIX, 3), true)
	want(t, "the same again", source(vfio.MSIX, 3), true)
	testkit.Check(t, kick.Signal())
	s.dev.kicked(1, serial) // was on its way
	relayed(4)
	want(t, "interrupts of a kick that was given", s.bus.count(3), 0)
	want(t, "its counter", counter(t, kick), 1)

	// Another vector: the kick comes by here again, also the one that nobody has read.
	testkit.Check(t, kick.Signal())
	s.w32(2, notificationOff, 7<<16|1)
	s.wait("interrupt for a kick that was taken back", func() bool { return s.bus.count(7) > 0 })

	// Another kick does too, until the driver asks.
	want(t, "source", source(vfio.MSIX, 7), true)
	s.vring(p, vhostuser.SetVringKick, 1, second)
	before := s.bus.count(7)
	testkit.Check(t, second.Signal())
	s.wait("interrupt for the second kick", func() bool { return s.bus.count(7) > before })
	want(t, "source of the second kick", source(vfio.MSIX, 7), true)

	// Whatever was given, the sibling can leave.
	p.Close()
	s.waitState(stateReady)
	want(t, "source without a sibling", source(vfio.MSIX, 7), false)
	s.w32(2, notificationOff, 9<<16|1)
}
