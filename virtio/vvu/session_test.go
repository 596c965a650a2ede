package vvu

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/virtio"
	"vfiofs/virtio/vhostuser"
)

// An idle is a device with two rings that does nothing.
type idle struct{ started chan virtio.Ring }

func (idle) Queues() int                             { return 2 }
func (idle) Features() virtio.Features               { return 0 }
func (idle) ReadConfig([]byte, int)                  {}
func (idle) ConfigSize() int                         { return 40 }
func (d idle) StartQueue(_ int, r virtio.Ring) error { d.started <- r; return nil }
func (idle) StopQueue(int)                           {}
func (idle) Reset()                                  {}

// TestSession runs the back-end over a Link: the messages of QEMU as front-end, without
// descriptors (virtio-vhost-user.md 8.2, 6.2).
func TestSession(t *testing.T) {
	f := newFake(t, options{})
	l := f.accept(f.open(Options{}))
	dev := idle{make(chan virtio.Ring, 1)}
	done := make(chan error, 1)
	go func() { done <- vhostuser.NewBackend(dev, vhostuser.Options{}).Serve(t.Context(), l) }()

	replies := 0
	ask := func(code vhostuser.Code, flags vhostuser.Flags, payload []byte) []byte {
		t.Helper()
		f.say(code, flags, payload)
		b := f.await(replies)
		replies++
		m, err := decode(b)
		if err != nil || m.Code != code || m.Flags != vhostuser.FlagVersion1|vhostuser.FlagReply {
			t.Fatalf("reply to %s = %v, %v", code, m, err)
		}
		return m.Payload
	}
	u64 := func(v uint64) []byte { return vhostuser.AppendU64(nil, v) }
	state := func(ring, n uint32) []byte { return vhostuser.VringState{Index: ring, Num: n}.Append(nil) }
	const ack = vhostuser.FlagNeedReply

	// Nothing is offered that needs descriptors, nor dirty logging (26), nor an IOMMU (33).
	if diff := cmp.Diff(u64(0x1_7000_0000), ask(vhostuser.GetFeatures, 0, nil)); diff != "" {
		t.Errorf("features: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff(u64(0x2209), ask(vhostuser.GetProtocolFeatures, 0, nil)); diff != "" {
		t.Errorf("protocol features: -want +got:\n%s", diff)
	}
	f.say(vhostuser.SetProtocolFeatures, 0, u64(0x9))
	ask(vhostuser.SetOwner, ack, nil)
	ask(vhostuser.SetOwner, ack, nil)
	for _, code := range []vhostuser.Code{vhostuser.SetVringCall, vhostuser.SetVringErr} {
		if diff := cmp.Diff(u64(0), ask(code, ack, u64(1))); diff != "" {
			t.Errorf("%s: -want +got:\n%s", code, diff)
		}
	}
	f.say(vhostuser.SetLogFD, 0, nil)
	f.say(vhostuser.SetFeatures, 0, u64(0x1_6000_0000))
	for _, test := range []struct {
		name    string
		payload []byte
		want    uint64
	}{
		{"memory that is there", vhostuser.AppendMemTable(nil, []vhostuser.Region{{Size: extSize, Addr: 1 << 40}}), 0},
		{"memory that isn't", vhostuser.AppendMemTable(nil, []vhostuser.Region{{Size: extSize + 4096, Addr: 1 << 40}}), 1},
		{"no memory", vhostuser.AppendMemTable(nil, nil), 1},
	} {
		if diff := cmp.Diff(u64(test.want), ask(vhostuser.SetMemTable, ack, test.payload)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", test.name, diff)
		}
	}
	f.say(vhostuser.SetVringNum, 0, state(1, 4))
	f.say(vhostuser.SetVringBase, 0, state(1, 0x55))
	f.say(vhostuser.SetVringAddr, 0, vhostuser.VringAddr{Index: 1, Desc: 1 << 40, Avail: 1<<40 + 0x1000, Used: 1<<40 + 0x2000}.Append(nil))
	f.say(vhostuser.SetVringKick, 0, u64(1))
	ask(vhostuser.SetVringEnable, ack, state(1, 1))
	ring := <-dev.started

	// Bells, in both directions.
	f.Trigger(2, 3)
	if !readable(ring.Kick) {
		t.Error("ring isn't kicked by interrupt 3")
	}
	if err := ring.Call.Notify(); err != nil {
		t.Error(err)
	}
	ring.Fail(errTest)
	f.until("doorbells", func() bool { return cmp.Equal(f.bells, []int64{4, 0x404}) })

	// The call outlives the ring: KICK comes before the next CALL.
	if diff := cmp.Diff(state(1, 0x55), ask(vhostuser.GetVringBase, 0, state(1, 0))); diff != "" {
		t.Errorf("GET_VRING_BASE: -want +got:\n%s", diff)
	}
	f.say(vhostuser.SetVringKick, 0, u64(1|1<<8)) // a kick that the ring is to do without
	ask(vhostuser.SetVringEnable, ack, state(1, 1))
	ring = <-dev.started
	if err := ring.Call.Notify(); err != nil {
		t.Error(err)
	}
	f.until("doorbell", func() bool { return len(f.bells) == 3 })

	f.config(0)
	if err := <-done; err != nil {
		t.Errorf("Serve = %v; want nil", err)
	}
}

// TestSessionEnds: requests that would need descriptors end a session that can't say no.
func TestSessionEnds(t *testing.T) {
	for _, code := range []vhostuser.Code{vhostuser.SetLogBase, vhostuser.SetFeatures} {
		f := newFake(t, options{})
		l := f.accept(f.open(Options{}))
		f.say(code, 0, vhostuser.LogArea{Size: 4096}.Append(nil))
		err := vhostuser.NewBackend(idle{}, vhostuser.Options{}).Serve(t.Context(), l)
		if _, ok := err.(*vhostuser.PeerError); !ok {
			t.Errorf("Serve after %s = %v; want a PeerError", code, err)
		}
		if f.status != 0 {
			t.Errorf("status is %d after %s; want 0: the connection closed", f.status, code)
		}
	}
}
