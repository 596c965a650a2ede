package fuse_test

import (
	"math/rand/v2"
	"testing"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
)

// Whatever a guest offers, it gets nothing that it did not offer; TestInitFlags says what
// it does get.
func TestH052ReplyWithinOffer(t *testing.T) {
	m := fusetest.NewMem()
	m.Want = ^fuse.InitFlags(0) &^ (1 << 63)
	c := fusetest.NewLocal(t, m, fuse.Options{}).Client()
	random := rand.New(rand.NewPCG(5, 2))
	agreed := fuse.InitFlags(0)
	for i := range 2000 {
		offer := fuse.InitFlags(random.Uint64() & random.Uint64())
		if i == 0 {
			offer = 0
		}
		if _, err := c.Init(offer); err != nil {
			t.Fatalf("Init(%#x) = %v; want success", offer, err)
		}
		if extra := c.Flags &^ offer; extra != 0 {
			t.Fatalf("Init(%#x) = flags %#x; want none beside those offered, but %#x", offer, c.Flags, extra)
		}
		agreed |= c.Flags
	}
	if agreed == 0 {
		t.Error("nothing was ever agreed on; want something")
	}
}
