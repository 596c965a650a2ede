package vfiouser

import (
	"testing"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/vfio"
)

// TestWriteEvent signals what the model has behind registers.
func TestWriteEvent(t *testing.T) {
	m := newTestModel(t)
	bell := newEvent(t)
	m.events[0] = map[int64]*fd.FD{8: bell, 12: newEvent(t)}
	dev, _ := attach(t, m)
	for _, tt := range []struct {
		region int
		off    int64
		found  bool
	}{{0, 8, true}, {0, 12, true}, {0, 9, false}, {1, 8, false}} {
		e, err := regionOf(t, dev, tt.region).(*region).WriteEvent(tt.off)
		if err != nil || (e != nil) != tt.found {
			t.Errorf("WriteEvent(%#x) of region %d = %v, %v; want one: %v", tt.off, tt.region, e, err, tt.found)
		}
		if e != nil {
			testkit.Check(t, e.Signal())
		}
		e.Close()
	}
	if got := count(t, bell); got != 1 {
		t.Errorf("eventfd was signalled %d times; want once", got)
	}
}

// TestSource returns what the model has behind vectors.
func TestSource(t *testing.T) {
	m := newTestModel(t)
	kick := newEvent(t)
	m.sources = map[int]*fd.FD{3: kick}
	dev, _ := attach(t, m)
	for _, tt := range []struct {
		kind   vfio.IRQ
		vector int
		found  bool
	}{{vfio.MSIX, 3, true}, {vfio.MSIX, 4, false}, {vfio.MSIX, 8, false}, {99, 0, false}} {
		e, err := dev.(*client).Source(tt.kind, tt.vector)
		if err != nil || (e != nil) != tt.found {
			t.Errorf("Source(%d, %d) = %v, %v; want one: %v", tt.kind, tt.vector, e, err, tt.found)
		}
		if e != nil {
			testkit.Check(t, kick.Signal())
			if got := count(t, e); got != 1 {
				t.Errorf("eventfd counts %d signals; want 1", got)
			}
		}
		e.Close()
	}
}

// TestRoomForEvents: a client gets no more descriptors than it takes, and none if their
// description doesn't fit.
func TestRoomForEvents(t *testing.T) {
	m := newTestModel(t)
	m.events[0] = map[int64]*fd.FD{}
	for i := range int64(maxFiles + 4) {
		m.events[0][4*i] = newEvent(t)
	}
	r, _ := greeted(t, m) // names no limit
	for _, tt := range []struct {
		room, need uint32
		files      int
	}{
		{16, 16 + 40*defaultFiles, 0},
		{16 + 40*defaultFiles - 1, 16 + 40*defaultFiles, 0},
		{16 + 40*defaultFiles, 16 + 40*defaultFiles, defaultFiles},
		{1 << 31, 16 + 40*defaultFiles, defaultFiles},
	} {
		ask := header{command: GetRegionIO, size: 32}.append(nil)
		r.send(appendU32s(ask, tt.room, 0, 0, 0))
		b, files := r.recv()
		need, n := u32(b, 16), int(u32(b, 28))
		if need != tt.need || n != tt.files || files != tt.files || len(b) != 32+40*n {
			t.Errorf("room for %d: %d bytes are needed, %d entries and %d descriptors in %d bytes; want %d, %d, %d",
				tt.room, need, n, files, len(b), tt.need, tt.files, tt.files)
		}
	}
}

// TestHostileEvents covers replies that no server should make, or that say nothing.
func TestHostileEvents(t *testing.T) {
	entry := func(off, size uint64, file, kind, flags uint32) []byte {
		return appendU64s(appendU32s(appendU64s(nil, off, size), file, kind, flags, 0), 0)
	}
	reply := func(argsz, region, n uint32, entries ...[]byte) []byte {
		b := appendU32s(nil, argsz, 0, region, n)
		for _, e := range entries {
			b = append(b, e...)
		}
		return b
	}
	good := entry(8, 0, 1, 0, 0)
	for _, tt := range []struct {
		name string
		b    []byte
		want int // -2: an error
	}{
		{"good", reply(56, 2, 1, good), 1},
		{"second", reply(96, 2, 2, entry(4, 0, 0, 0, 0), good), 1},
		{"longer entries", reply(112, 2, 2, append(entry(4, 0, 0, 0, 0), make([]byte, 8)...), append(good, make([]byte, 8)...)), 1},
		{"none", reply(16, 2, 0), -1},
		{"too many", reply(1000, 2, 24), -1},
		{"of one width", reply(56, 2, 1, entry(8, 2, 1, 0, 0)), -1},
		{"ioregionfd", reply(56, 2, 1, entry(8, 0, 1, 1, 0)), -1},
		{"for one value", reply(56, 2, 1, entry(8, 0, 1, 0, 1)), -1},
		{"short", reply(16, 2, 0)[:15], -2},
		{"other region", reply(56, 1, 1, good), -2},
		{"no entries", reply(16, 2, 1), -2},
		{"more entries than bytes", reply(56, 2, 1<<32-1, good), -2},
		{"no such descriptor", reply(56, 2, 1, entry(8, 0, 2, 0, 0)), -2},
		{"no such descriptor at all", reply(56, 2, 1, entry(8, 0, 1<<32-1, 0, 0)), -2},
	} {
		i, err := findIOEvent(tt.b, 2, 2, 8)
		if i != max(tt.want, -1) || (err != nil) != (tt.want == -2) {
			t.Errorf("%s: findIOEvent() = %d, %v; want %d", tt.name, i, err, tt.want)
		}
	}
}

// TestOldServer: a server that knows neither command is none to complain about.
func TestOldServer(t *testing.T) {
	dev, _, end := attachTo(t, newMemfd(t, 0x4000),
		line{reply: "0600 10000000 21000000 26000000"}, line{reply: "f000 10000000 21000000 26000000"})
	if e, err := regionOf(t, dev, 0).(*region).WriteEvent(8); e != nil || err != nil {
		t.Errorf("WriteEvent() = %v, %v; want none", e, err)
	}
	if e, err := dev.(*client).Source(vfio.MSIX, 0); e != nil || err != nil {
		t.Errorf("Source() = %v, %v; want none", e, err)
	}
	end()
}
