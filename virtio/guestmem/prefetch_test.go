package guestmem

import "testing"

// TestPrefetch: bringing memory near changes nothing of it, and takes any.
func TestPrefetch(t *testing.T) {
	mem := numbered(256, 1)
	var in, out, none Vec
	in.Append(mem[:40])
	out.Append(mem[40:])
	for _, v := range [][2]*Vec{{&in, &out}, {&in, &none}, {&none, &out}, {&none, &none}} {
		Prefetch(v[0], v[1])
	}
	PrefetchLine(mem[255:])
	PrefetchLine(nil)
	for i, b := range mem {
		if b != byte(i+1) {
			t.Fatalf("byte %d = %#x; want %#x", i, b, byte(i+1))
		}
	}
}
