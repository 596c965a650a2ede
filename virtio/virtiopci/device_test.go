package virtiopci

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A device is a Block that keeps a record of its callbacks.
type device struct {
	*Block
	told []string
}

// newDevice makes a device with two queues and 256 vectors.
func newDevice() *device {
	d := new(device)
	d.Block = NewBlock(BlockConfig{
		Features: FeatureVersion1 | FeatureAccessPlatform,
		Sizes:    []int{256, 256},
		Vectors:  256,
		OnStatus: func(from, to Status) { d.told = append(d.told, fmt.Sprintf("%s to %s", from, to)) },
		OnReset:  func() { d.told = append(d.told, "reset"); d.Reset() },
		OnNotify: func(queue int) { d.told = append(d.told, fmt.Sprintf("notify %d", queue)) },
	})
	return d
}

// transcript plays "w16 16 0 ; r16 18 256": writes, and reads with what they give.
// Offsets and values are hexadecimal.
func (d *device) transcript(t *testing.T, text string) {
	t.Helper()
	for _, step := range strings.FieldsFunc(text, func(r rune) bool { return r == ';' || r == '\n' }) {
		var op string
		var off int64
		var want uint64
		if strings.TrimSpace(step) == "" {
			continue
		}
		if _, err := fmt.Sscanf(strings.TrimSpace(step), "%s %x %x", &op, &off, &want); err != nil {
			t.Fatalf("step %q: %v", step, err)
		}
		var b [8]byte
		n := map[byte]int{'8': 1, '1': 2, '3': 4, '6': 8}[op[1]]
		if op[0] == 'w' {
			binary.LittleEndian.PutUint64(b[:], want)
			d.WriteCommon(b[:n], off)
			continue
		}
		d.ReadCommon(b[:n], off)
		if got := binary.LittleEndian.Uint64(b[:]); got != want {
			t.Errorf("step %q gives %#x", strings.TrimSpace(step), got)
		}
	}
}

// TestTranscriptOfCrosvm plays virtio-vhost-user.md 11.6.
func TestTranscriptOfCrosvm(t *testing.T) {
	d := newDevice()
	d.transcript(t, `
		w8  14 00 ; r8 14 00 ; r8 14 00 ; w8 14 03
		w32 00 0 ; r32 04 0 ; w32 00 1 ; r32 04 3
		w32 08 0 ; w32 0c 0 ; w32 08 1 ; w32 0c 1
		r8  14 03 ; w8 14 0b
		w16 16 0 ; r16 18 100 ; w32 20 00100000 ; w32 24 1 ; w32 28 00101000 ; w32 2c 2 ; w32 30 00101208 ; w32 34 3 ; r16 1e 0`)
	d.WriteNotify(0)
	d.transcript(t, `w16 16 1 ; r16 18 100 ; w32 20 00200000 ; r16 1e 1`)
	d.WriteNotify(4)
	d.transcript(t, `
		w16 10 0 ; r16 10 0
		w16 16 0 ; w16 1a 0 ; r16 1a 0 ; w16 16 1 ; w16 1a 1 ; r16 1a 1
		w16 16 0 ; w16 1c 1 ; w16 16 1 ; w16 1c 1
		r8  14 0b ; w8 14 0f ; r8 14 0f`)
	want := []string{
		"reset",
		"RESET to ACKNOWLEDGE|DRIVER",
		"ACKNOWLEDGE|DRIVER to ACKNOWLEDGE|DRIVER|FEATURES_OK",
		"notify 0", "notify 1",
		"ACKNOWLEDGE|DRIVER|FEATURES_OK to ACKNOWLEDGE|DRIVER|FEATURES_OK|DRIVER_OK",
	}
	if diff := cmp.Diff(want, d.told); diff != "" {
		t.Errorf("callbacks: -want +got:\n%s", diff)
	}
	if got := d.Features(); got != FeatureVersion1 {
		t.Errorf("Features() = %#x; want %#x", got, uint64(FeatureVersion1))
	}
	q := Queue{Size: 256, Enabled: true, Desc: 0x1_0010_0000, Avail: 0x2_0010_1000, Used: 0x3_0010_1208}
	if diff := cmp.Diff(q, d.Queue(0)); diff != "" {
		t.Errorf("Queue(0): -want +got:\n%s", diff)
	}
	q = Queue{Size: 256, Vector: 1, Enabled: true, Desc: 0x20_0000}
	if diff := cmp.Diff(q, d.Queue(1)); diff != "" {
		t.Errorf("Queue(1): -want +got:\n%s", diff)
	}
	if d.ConfigVector() != 0 {
		t.Errorf("ConfigVector() = %d; want 0", d.ConfigVector())
	}
}

func TestBlockRegisters(t *testing.T) {
	for _, test := range []struct{ name, steps string }{
		{"reset values", "r32 00 0 ; r32 08 0 ; r32 0c 0 ; r16 10 ffff ; r16 12 2 ; r32 14 0 ; r16 18 100 ; r16 1a ffff ; r16 1c 0 ; r64 20 0 ; r64 28 0 ; r64 30 0"},
		{"addresses of 8 bytes", "w64 20 123456789abcdef0 ; w64 28 8 ; w64 30 10 ; r64 20 123456789abcdef0 ; r32 20 9abcdef0 ; r32 24 12345678 ; r64 28 8 ; r64 30 10"},
		{"byte by byte", "w8 16 1 ; r8 16 1 ; r16 16 1 ; w8 20 11 ; w8 23 22 ; r32 20 22000011"},
		{"several registers at once", "w32 18 00070040 ; r16 18 40 ; r16 1a 7 ; w64 10 100000005 ; r16 10 5 ; r8 14 1"},
		{"status and selector at once", "w32 14 00010003 ; r8 14 3 ; r8 15 0 ; r16 16 1"},
		{"read-only", "w32 04 ffffffff ; r32 04 0 ; w16 12 9 ; r16 12 2 ; w8 15 9 ; r8 15 0 ; w16 1e 9 ; r16 1e 0"},
		{"vectors out of range", "w16 10 100 ; r16 10 ffff ; w16 10 ff ; r16 10 ff ; w16 1a 3e7 ; r16 1a ffff ; w16 1a ffff ; r16 1a ffff"},
		{"queue sizes", "w16 18 0 ; r16 18 100 ; w16 18 60 ; r16 18 100 ; w16 18 200 ; r16 18 100 ; w16 18 1 ; r16 18 1"},
		{"a queue that is enabled", "w16 1c 1 ; r16 1c 1 ; w16 18 8 ; r16 18 100 ; w32 20 8 ; r32 20 0 ; w16 1c 0 ; r16 1c 1 ; w16 1a 3 ; r16 1a 3"},
		{"no such queue", "w16 16 2 ; r16 18 0 ; r16 1a ffff ; w16 18 8 ; w16 1c 1 ; r16 1c 0 ; r16 1e 0 ; w16 1a 1 ; r16 1a ffff ; r64 20 0"},
		{"no such feature word", "w32 00 2 ; r32 04 0 ; w32 08 2 ; w32 0c ff ; r32 0c 0 ; w32 08 0 ; r32 0c 0"},
		{"features that are not offered", "w32 08 0 ; w32 0c 1 ; w8 14 0b ; r8 14 3"},
		{"features are final", "w32 08 1 ; w32 0c 3 ; w8 14 0b ; w32 0c 1 ; r32 0c 3"},
		{"status bits stay", "w8 14 0f ; w8 14 03 ; r8 14 0f ; w8 14 00 ; r8 14 00"},
		{"reset clears all", "w8 14 0f ; w16 10 1 ; w16 1a 1 ; w16 18 8 ; w16 1c 1 ; w16 16 1 ; w8 14 0 ; r16 10 ffff ; r16 16 0 ; r16 18 100 ; r16 1a ffff ; r16 1c 0"},
		{"past the end", "r64 34 0 ; r32 38 0 ; w32 38 1"},
	} {
		t.Run(test.name, func(t *testing.T) { newDevice().transcript(t, test.steps) })
	}
}

func TestSlowReset(t *testing.T) {
	asked := 0
	b := NewBlock(BlockConfig{Sizes: []int{8}, OnReset: func() { asked++ }})
	d := &device{Block: b}
	d.transcript(t, "w8 14 3 ; w8 14 0 ; r8 14 3 ; w8 14 7 ; w8 14 0 ; r8 14 3")
	if asked != 1 {
		t.Errorf("OnReset was called %d times; want 1", asked)
	}
	b.Reset()
	d.transcript(t, "r8 14 0 ; w8 14 1 ; r8 14 1")
	if b.Status() != Acknowledge {
		t.Errorf("Status() = %s; want ACKNOWLEDGE", b.Status())
	}
}

func TestBlockWithoutCallbacks(t *testing.T) {
	b := NewBlock(BlockConfig{Sizes: []int{8}})
	(&device{Block: b}).transcript(t, "w8 14 3 ; r8 14 3 ; w8 14 0 ; r8 14 0")
	b.WriteNotify(0)
}

func TestISR(t *testing.T) {
	d := newDevice()
	d.RaiseISR(ISRQueue)
	d.RaiseISR(ISRConfig)
	p := []byte{9, 9}
	d.ReadISR(p[:1], 1)
	d.ReadISR(p[:0], 0)
	if d.ReadISR(p, 0); p[0] != ISRQueue|ISRConfig || p[1] != 0 {
		t.Errorf("ISR reads %v; want [3 0]", p)
	}
	if d.ReadISR(p, 0); p[0] != 0 {
		t.Errorf("ISR reads %d the second time; want 0", p[0])
	}
}

func TestNotifyOfQueues(t *testing.T) {
	d := newDevice()
	for _, off := range []int64{0, 1, 3, 4, 7, 8, -1, 1 << 40} {
		d.WriteNotify(off)
	}
	want := []string{"notify 0", "notify 0", "notify 0", "notify 1", "notify 1"}
	if diff := cmp.Diff(want, d.told); diff != "" {
		t.Errorf("callbacks: -want +got:\n%s", diff)
	}
}

func TestDeviceChanges(t *testing.T) {
	d := newDevice()
	d.transcript(t, "w8 14 f")
	d.SetNeedsReset()
	d.ConfigChanged()
	d.transcript(t, "r8 14 4f ; r8 15 1 ; w8 14 f ; r8 14 4f ; w8 14 0 ; r8 14 0 ; r8 15 1")
}

func FuzzBlock(f *testing.F) {
	f.Add([]byte{0x14, 1, 0x03, 0x16, 2, 1, 0, 0x20, 8, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newDevice()
		for len(b) > 2 {
			off, n := int64(b[0]), min(int(b[1]%9), len(b)-2)
			d.WriteCommon(b[2:2+n], off)
			d.WriteNotify(off)
			var p [8]byte
			d.ReadCommon(p[:n], off)
			b = b[2+n:]
		}
		for i := range 2 {
			if q := d.Queue(i); q.Size == 0 || q.Size > 256 || q.Size&(q.Size-1) != 0 || q.Vector >= 256 && q.Vector != NoVector {
				t.Errorf("Queue(%d) = %+v", i, q)
			}
		}
	})
}
