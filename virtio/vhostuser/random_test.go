package vhostuser

import (
	"math/rand/v2"
	"testing"

	"vfiofs/internal/fd"
)

// TestH216RandomMessages is a piece of what FuzzMessages does for as long as one lets it:
// random messages with random descriptors, after a set-up that is sound.
func TestH216RandomMessages(t *testing.T) {
	random := rand.New(rand.NewPCG(216, 1))
	for range 150 {
		const need = FlagVersion1 | FlagNeedReply
		s := step(nil, SetProtocolFeatures, FlagVersion1, 0, 0, AppendU64(nil, 0xa62b))
		s = step(s, SetFeatures, need, 0, 0, AppendU64(nil, 0x174000000))
		s = step(s, SetMemTable, need, 1, kindMemory, AppendMemTable(nil, []Region{{GPA: 0x1000, Size: 0x10000, Addr: 0x7000_0000}}))
		for range 1 + random.IntN(12) {
			payload := make([]byte, random.IntN(48))
			for i := range payload {
				if random.IntN(3) == 0 {
					payload[i] = byte(random.Uint32())
				}
			}
			s = step(s, Code(random.IntN(48)), need, byte(random.IntN(4)), byte(random.IntN(3)), payload)
		}
		play(t, script(s))
	}
	for _, name := range fd.Open() {
		t.Errorf("%s is left open", name)
	}
}
