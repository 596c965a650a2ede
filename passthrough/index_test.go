package passthrough

import (
	"encoding/binary"
	"maps"
	"slices"
	"testing"
)

// FuzzIndex compares an index with a map: every pair of bytes is an operation on a
// slot, whose hash is made from few bits so that they collide.
func FuzzIndex(f *testing.F) {
	f.Add([]byte{1, 0, 2, 0, 3, 0, 1, 1, 2, 0, 2, 1})
	var many []byte
	for i := range 200 {
		many = append(many, byte(i), byte(i%3/2))
	}
	f.Add(many)
	f.Fuzz(func(t *testing.T, ops []byte) {
		var x index
		model := make(map[uint32]uint32) // slot: hash
		hash := func(slot uint32) uint32 { return slot * 0x9e3779b9 >> 28 << 3 }
		for ; len(ops) >= 2; ops = ops[2:] {
			slot := uint32(ops[0]) + 1
			h := hash(slot)
			_, there := model[slot]
			switch {
			case ops[1]%2 == 1:
				x.remove(h, slot)
				delete(model, slot)
			case !there:
				x.add(h, slot)
				model[slot] = h
			}
			if x.n != len(model) {
				t.Fatalf("n = %d; want %d", x.n, len(model))
			}
		}
		for slot := uint32(1); slot <= 256; slot++ {
			got := x.find(hash(slot), func(s uint32) bool { return s == slot })
			if _, there := model[slot]; there != (got == slot) {
				t.Errorf("find(%d) = %d; want it: %v", slot, got, there)
			}
		}
	})
}

// FuzzArena compares an arena with a map: every pair of bytes stores or frees a string.
func FuzzArena(f *testing.F) {
	f.Add([]byte{1, 10, 2, 200, 1, 0, 3, 9, 4, 255})
	var many []byte
	for i := range 250 {
		many = append(many, byte(i), 255-byte(i%20))
	}
	f.Add(many)
	f.Fuzz(func(t *testing.T, ops []byte) {
		var a arena
		at := make(map[byte]uint32)
		model := make(map[byte][]byte)
		for ; len(ops) >= 2; ops = ops[2:] {
			k, n := ops[0], 2*int(ops[1])
			if p, ok := at[k]; ok {
				a.drop(p)
				delete(at, k)
				delete(model, k)
			}
			if n == 0 {
				continue
			}
			b := slices.Repeat([]byte{k}, n)
			at[k], model[k] = a.put(b), b
			if at[k] == 0 {
				t.Fatal("put = 0, which is no place")
			}
		}
		for k := range maps.Keys(model) {
			if got := a.get(at[k]); !slices.Equal(got, model[k]) {
				t.Errorf("get(%d) = %d bytes %x; want %d", k, len(got), got[:1], len(model[k]))
			}
		}
	})
}

// TestArenaReuse: what is freed is used again.
func TestArenaReuse(t *testing.T) {
	var a arena
	var at [100]uint32
	for round := range 1000 {
		for i := range at {
			if at[i] != 0 {
				a.drop(at[i])
			}
			at[i] = a.put(binary.NativeEndian.AppendUint32(make([]byte, i*5), uint32(round)))
		}
	}
	same(t, "chunks", len(a.chunks) <= 2, true)
}

// FuzzWay sets names and handles and reads them back.
func FuzzWay(f *testing.F) {
	f.Add([]byte("name"), []byte("\x01\x00\x00\x00handle"), true)
	f.Add([]byte("name"), []byte{}, true)
	f.Add([]byte{}, []byte("\x01\x00\x00\x00h"), false)
	f.Add(make([]byte, 255), make([]byte, maxWayHandle), true)
	f.Add(make([]byte, 256), make([]byte, 4), false)
	f.Fuzz(func(t *testing.T, name, handle []byte, drop bool) {
		var h fileHandle
		handle = handle[:min(len(handle), maxWayHandle)]
		if len(handle) >= 4 {
			h.set(handle)
		}
		if got := h.appendTo(nil); len(handle) >= 4 && !slices.Equal(got, handle) {
			t.Fatalf("handle = %x; want %x", got, handle)
		}
		s := shard{table: new(nodes)}
		var e slot[node]
		s.setName(&e, 7, []byte("before"))
		s.setHandle(&e, handle)
		s.setName(&e, 8, name)
		parent := e.v.way.parent
		if len(name) == 0 || len(name) > maxWayName {
			name = []byte("before")
		}
		if got := s.name(&e.v.way); !slices.Equal(got, name) || parent < 7 {
			t.Errorf("name = %q below %d; want %q", got, parent, name)
		}
		if drop {
			s.dropName(&e, 9, name)
			same(t, "parent after another name went", e.v.way.parent, parent)
			s.dropName(&e, parent, name)
			same(t, "parent after the name went", e.v.way.parent, 0)
		}
		if got := s.handle(&e.v.way); !slices.Equal(got, handle) {
			t.Errorf("handle = %x; want %x", got, handle)
		}
		same(t, "there was a handle", s.dropWay(&e.v), len(handle) > 0)
		same(t, "text", e.v.way.text, 0)
	})
}
