package vvu

import (
	"errors"
	"testing"

	"vfiofs/internal/fd"
	"vfiofs/vfio"
	"vfiofs/virtio/vhostuser"
)

// A generous device gives the eventfds behind doorbells and interrupts away.
type generous struct {
	vfio.Device
	events  map[int64]*fd.FD
	sources map[int]*fd.FD
	err     error
}

// share returns another descriptor of e, which may be nil.
func (g *generous) share(e *fd.FD) (*fd.FD, error) {
	if e == nil || g.err != nil {
		return nil, g.err
	}
	n, err := duplicate(e)
	return fd.New(n, "shared"), err
}

func (g *generous) Source(_ vfio.IRQ, vector int) (*fd.FD, error) { return g.share(g.sources[vector]) }

func (g *generous) Region(i int) (vfio.Region, error) {
	r, err := g.Device.Region(i)
	return generousRegion{r, g}, err
}

type generousRegion struct {
	vfio.Region
	g *generous
}

func (r generousRegion) WriteEvent(off int64) (*fd.FD, error) { return r.g.share(r.g.events[off]) }

// TestGivenEventfds uses the eventfds that a device gives away, and registers and
// interrupts where it doesn't.
func TestGivenEventfds(t *testing.T) {
	f := newFake(t, options{})
	call, kick := newTestEvent(t), newTestEvent(t)
	g := &generous{Device: f.Function, events: map[int64]*fd.FD{4: call}, sources: map[int]*fd.FD{3: kick}}
	d, err := Open(t.Context(), g, Options{Rings: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l := f.accept(d)
	defer l.Close()
	for ring := range uint8(2) {
		bell, err := l.Bell(&vhostuser.Message{Code: vhostuser.SetVringCall}, vhostuser.VringFile{Index: ring})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(bell.Notify(), bell.Close()); err != nil {
			t.Error(err)
		}
		k, err := l.Kick(nil, vhostuser.VringFile{Index: ring})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		kick.Drain()
		if ring == 0 {
			f.Trigger(2, 2)
		} else {
			kick.Signal()
		}
		if !readable(k.Int()) {
			t.Errorf("kick of ring %d isn't seen", ring)
		}
	}
	if !readable(call.Int()) || len(f.bells) != 1 || f.bells[0] != 0 {
		t.Errorf("call was signalled: %v, doorbells %v; want true, 0 alone", readable(call.Int()), f.bells)
	}
	g.err = errors.New("gone")
	if _, err := l.Bell(&vhostuser.Message{Code: vhostuser.SetVringCall}, vhostuser.VringFile{Index: 1}); !errors.Is(err, g.err) {
		t.Errorf("Bell = %v; want %v", err, g.err)
	}
	if _, err := l.Kick(nil, vhostuser.VringFile{Index: 1}); !errors.Is(err, g.err) {
		t.Errorf("Kick = %v; want %v", err, g.err)
	}
}

// TestSharedVector: an interrupt that stands for more than one ring is waited for, whatever
// is behind it.
func TestSharedVector(t *testing.T) {
	v, err := plan(3, 4)
	if err != nil {
		t.Fatal(err)
	}
	for vector, want := range []bool{false, false, true, false} {
		if got := v.alone(vector); got != want {
			t.Errorf("alone(%d) = %v with rings at %v; want %v", vector, got, v.rings, want)
		}
	}
}

func newTestEvent(t *testing.T) *fd.FD {
	t.Helper()
	e, err := fd.NewEvent("event")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}
