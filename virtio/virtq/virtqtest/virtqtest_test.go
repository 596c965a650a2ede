package virtqtest_test

import (
	"testing"

	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtq/virtqtest"
)

// TestHostileShape checks what users of the corpus rely on.
func TestHostileShape(t *testing.T) {
	names := map[string]bool{}
	for _, c := range virtqtest.Hostile() {
		if names[c.Name] {
			t.Errorf("case %q is there twice", c.Name)
		}
		names[c.Name] = true
		r := virtqtest.NewRing(t, virtqtest.Options{Size: 16, Start: 3})
		c.Write(r)
		offered := uint16(r.Avail[2]) | uint16(r.Avail[3])<<8
		if got := offered - 3; got != 1 && !c.Broken {
			t.Errorf("case %q offers %d chains; want 1", c.Name, got)
		}
		if c.Broken && c.Err != "" {
			t.Errorf("case %q breaks both the ring and a chain", c.Name)
		}
	}
}

func TestRing(t *testing.T) {
	r := virtqtest.NewRing(t, virtqtest.Options{Size: 4, Start: 65535})
	if _, _, ok := r.TakeUsed(); ok {
		t.Error("TakeUsed() of a new ring = true; want false")
	}
	r.Sound()
	copy(r.Used[4+8*3:], []byte{2, 0, 0, 0, 7, 0, 0, 0})
	copy(r.Used[2:], []byte{0, 0})
	if id, n, ok := r.TakeUsed(); !ok || id != 2 || n != 7 {
		t.Errorf("TakeUsed() = {%d, %d}, %v; want {2, 7}", id, n, ok)
	}
	r.Reset()
	if r.UsedIdx() != 65535 || r.Desc[0] != 0 {
		t.Errorf("after Reset: used index %d, first byte %d; want 65535, 0", r.UsedIdx(), r.Desc[0])
	}
	var in, out guestmem.Vec
	in.Append(r.Reply())
	out.Append(make([]byte, 1))
	if !r.Holds(in) || r.Holds(out) {
		t.Errorf("Holds() of the Arena's and of other memory = %v, %v; want true, false", r.Holds(in), r.Holds(out))
	}
}
