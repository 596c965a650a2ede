package vvu

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vfiofs/internal/testkit"
	"vfiofs/vfio"
	"vfiofs/vfio/vfiotest"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtiopci"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m)) }

func TestOpen(t *testing.T) {
	f := newFake(t, options{})
	d := f.open(Options{})
	if s := f.block.Status(); s != virtiopci.Acknowledge|virtiopci.HasDriver|virtiopci.FeaturesOK|virtiopci.DriverOK {
		t.Errorf("status is %s; want a device that runs", s)
	}
	if got := f.Listening(vfio.MSIX); got != 5 {
		t.Errorf("%d interrupts are on; want 5 of 256", got)
	}
	if got := f.block.Features(); got != f.opt.features {
		t.Errorf("features are %#x; want %#x", got, f.opt.features)
	}
	if rx, tx := f.block.Queue(rxIndex), f.block.Queue(txIndex); rx.Vector != 0 || tx.Vector != 1 || f.block.ConfigVector() != 4 {
		t.Errorf("vectors of rx, tx and configuration are %d, %d and %d; want 0, 1 and 4", rx.Vector, tx.Vector, f.block.ConfigVector())
	}
	if len(d.window) != extSize || d.rule != RuleDirect {
		t.Errorf("window has %#x bytes, rule %s; want %#x, direct", len(d.window), d.rule, extSize)
	}
	var command [2]byte
	region, err := f.Region(vfio.ConfigRegion)
	if err != nil {
		t.Fatal(err)
	}
	region.ReadAt(command[:], 4)
	if command[0] != 6 {
		t.Errorf("command is %#x; want memory and bus master on", command[0])
	}
	if !f.rx.Pending() {
		t.Error("no rx buffers at DRIVER_OK")
	}
	select {
	case <-d.Gone():
		t.Error("Gone() is closed")
	default:
	}
}

func TestClose(t *testing.T) {
	f := newFake(t, options{})
	d, err := Open(t.Context(), f.Function, Options{Rings: 2})
	if err != nil {
		t.Fatal(err)
	}
	f.accept(d)
	if err := d.Close(); err != nil {
		t.Errorf("Close() = %v; want nil", err)
	}
	if f.block.Status() != 0 || f.status != 0 || f.Listening(vfio.MSIX) != 0 || len(f.Mapped()) != 0 {
		t.Errorf("after Close: status %s, configuration %d, %d interrupts, %v mapped; want nothing", f.block.Status(), f.status, f.Listening(vfio.MSIX), f.Mapped())
	}
}

func TestShapes(t *testing.T) {
	for _, test := range []struct {
		name     string
		shape    shape
		flag     MemRule
		window   int
		rule     MemRule
		polled   bool
		errBells bool
	}{
		{"ours", ourShape, RuleAuto, extSize, RuleDirect, false, true},
		{"ours, by flag", ourShape, RuleStack, extSize, RuleStack, false, true},
		{"crosvm", crosvmShape, RuleAuto, windowSize, ruleCursor, false, false},
		{"crosvm before the BAR was split", oldCrosvm, RuleAuto, windowSize, ruleCursor, false, false},
		{"qemu", qemuShape, RuleAuto, windowSize, RuleStack, false, false},
		{"qemu, by flag", qemuShape, RuleSum, windowSize, RuleSum, false, false},
		{"first qemu", firstQEMU, RuleAuto, windowSize, RuleStack, true, false},
		{"ours, unknown rule", shape{id: 0x107d, caps: true, memory: 4, ext: true, rule: 9}, RuleAuto, extSize, ruleCursor, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t, options{shape: test.shape})
			d := f.open(Options{MemRule: test.flag})
			if len(d.window) != test.window || d.rule != test.rule || d.errBells != test.errBells || (d.notifications == nil) != test.polled {
				t.Errorf("window %#x, rule %s, error doorbells %v, notifications %v; want %#x, %s, %v, %v",
					len(d.window), d.rule, d.errBells, d.notifications != nil, test.window, test.rule, test.errBells, !test.polled)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, test := range []struct {
		name  string
		opt   options
		rings int
		want  string
	}{
		{"too few rings", options{maxRings: 1}, 2, "device has 1 rings; 2 are needed"},
		{"too few vectors", options{vectors: 1}, 2, "device has 1 MSI-X vectors; at least 2"},
		{"no VERSION_1", options{features: virtiopci.FeatureAccessPlatform}, 2, "of what is needed is missing"},
		{"no ACCESS_PLATFORM", options{shape: crosvmShape, features: virtiopci.FeatureVersion1}, 2, "iommu_platform=on"},
		{"queue size", options{queueSize: 100}, 2, "size 100 of queue 0 is not a power of two"},
		{"BAR without memory", options{shape: shape{id: 0x107d, caps: true, memory: 5, ext: true}}, 2, "map the shared memory in BAR 5"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t, test.opt)
			_, err := Open(t.Context(), f.Function, Options{Rings: test.rings})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Open = %v; want %q in it", err, test.want)
			}
			if f.Listening(vfio.MSIX) != 0 || len(f.Mapped()) != 0 || f.block.Status() != 0 {
				t.Errorf("after Open: %d interrupts, %v mapped, status %s; want nothing", f.Listening(vfio.MSIX), f.Mapped(), f.block.Status())
			}
		})
	}
}

// TestOpenWithoutAccessPlatform: a device with the extension block is a vfio-user one.
func TestOpenWithoutAccessPlatform(t *testing.T) {
	newFake(t, options{features: virtiopci.FeatureVersion1}).open(Options{})
}

func TestOpenFails(t *testing.T) {
	for _, op := range []string{"Region", "Vectors", "SetIRQs", "MapDMA", "Mmap"} {
		t.Run(op, func(t *testing.T) {
			armed := false
			f := newFake(t, options{})
			f.Close()
			regions := map[int]vfiotest.Region{
				0:                 {Size: 0x8000, Read: f.read, Write: f.write},
				2:                 {Size: 0x4000, Read: f.readBells, Write: f.writeBells},
				4:                 {Size: windowSize, Mappable: true},
				vfio.ConfigRegion: {Init: f.opt.space()},
			}
			function, err := vfiotest.New(vfiotest.Options{Regions: regions, Vectors: map[vfio.IRQ]int{vfio.MSIX: 256}, Fail: func(what string) error {
				if armed && what == op {
					return errTest
				}
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer function.Close()
			f.Function = function
			armed = true
			if _, err := Open(t.Context(), function, Options{Rings: 2}); !errors.Is(err, errTest) {
				t.Errorf("Open = %v; want %v", err, errTest)
			}
		})
	}
}

func TestPlan(t *testing.T) {
	for _, test := range []struct {
		name      string
		rings, n  int
		want      vectors
		ofDevices []int
	}{
		{"plenty", 3, 256, vectors{rx: 0, tx: 1, config: 5, rings: []int{2, 3, 4}, count: 6}, []int{0, 1, 5}},
		{"crosvm's rule", 3, 5, vectors{rx: 0, tx: 1, rings: []int{2, 3, 4}, count: 5}, []int{0, 1}},
		{"shared", 3, 4, vectors{rx: 0, tx: 1, rings: []int{2, 3, 3}, count: 4}, []int{0, 1}},
		{"three", 3, 3, vectors{rx: 0, tx: 1, rings: []int{2, 2, 2}, count: 3}, []int{0, 1}},
		{"two", 3, 2, vectors{rings: []int{1, 1, 1}, count: 2}, []int{0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := plan(test.rings, test.n)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(vectors{})); diff != "" {
				t.Errorf("plan: -want +got:\n%s", diff)
			}
			if diff := cmp.Diff(test.ofDevices, got.queues()); diff != "" {
				t.Errorf("queues: -want +got:\n%s", diff)
			}
		})
	}
}

// TestAcceptOneAfterTheOther checks that notifications and BACKEND_UP are set again for
// each connection, and that nothing of one reaches the next.
func TestAcceptOneAfterTheOther(t *testing.T) {
	f := newFake(t, options{})
	d := f.open(Options{})
	for i := range 5 {
		l := f.accept(d)
		if want := map[uint16]uint16{0: 2, 1: 3}; !cmp.Equal(f.vectors, want) {
			t.Errorf("connection %d: vectors are %v; want %v", i, f.vectors, want)
		}
		f.say(vhostuser.GetFeatures, 0, nil)
		m, err := l.Recv(t.Context())
		if err != nil || m.Code != vhostuser.GetFeatures {
			t.Fatalf("connection %d: Recv = %v, %v; want GET_FEATURES", i, m, err)
		}
		if err := l.Send(t.Context(), &vhostuser.Message{Code: m.Code, Flags: 5, Payload: vhostuser.AppendU64(nil, 7)}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(message(vhostuser.GetFeatures, 5, vhostuser.AppendU64(nil, 7)), f.await(i)); diff != "" {
			t.Errorf("connection %d: reply: -want +got:\n%s", i, diff)
		}
		f.say(vhostuser.SetOwner, 0, nil)
		f.say(vhostuser.SetFeatures, 0, vhostuser.AppendU64(nil, 0))
		if i%2 == 0 {
			// The peer leaves. What it said before comes first.
			f.config(0)
			for _, want := range []vhostuser.Code{vhostuser.SetOwner, vhostuser.SetFeatures} {
				if m, err := l.Recv(t.Context()); err != nil || m.Code != want {
					t.Fatalf("connection %d: Recv = %v, %v; want %s", i, m, err, want)
				}
			}
			for range 2 {
				if _, err := l.Recv(t.Context()); !errors.Is(err, io.EOF) {
					t.Fatalf("connection %d: Recv = %v; want EOF", i, err)
				}
			}
		}
		if err := l.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
		f.mu.Lock()
		if f.status != 0 {
			t.Errorf("connection %d: status is %d after Close; want 0", i, f.status)
		}
		clear(f.vectors) // as QEMU's prototype does
		f.mu.Unlock()
		if _, err := l.Recv(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("Recv of a closed link = %v; want EOF", err)
		}
		if err := l.Send(t.Context(), &vhostuser.Message{Code: 1, Flags: 5}); !errors.Is(err, io.EOF) {
			t.Errorf("Send of a closed link = %v; want EOF", err)
		}
		if err := l.Close(); err != nil {
			t.Errorf("second Close() = %v; want nil", err)
		}
	}
	if f.resets != 1 || f.ups != 5 {
		t.Errorf("device was reset %d times and ready %d times; want 1 and 5", f.resets, f.ups)
	}
}

// TestQuietDevice is 11.10, mirrored (i) and (ii): FRONTEND_UP never comes, and an empty
// message is the end.
func TestQuietDevice(t *testing.T) {
	f := newFake(t, options{shape: crosvmShape, quiet: true})
	d := f.open(Options{})
	go func() {
		f.until("BACKEND_UP", func() bool { return f.status&backendUp != 0 })
		f.say(vhostuser.GetFeatures, 0, nil)
		f.push(nil)
	}()
	l, err := d.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m, err := l.Recv(t.Context()); err != nil || m.Code != vhostuser.GetFeatures {
		t.Fatalf("Recv = %v, %v; want GET_FEATURES", m, err)
	}
	for range 2 {
		if _, err := l.Recv(t.Context()); !errors.Is(err, io.EOF) {
			t.Fatalf("Recv = %v; want EOF", err)
		}
	}
	if err := l.Send(t.Context(), &vhostuser.Message{Code: 1, Flags: 5}); !errors.Is(err, io.EOF) {
		t.Errorf("Send = %v; want EOF", err)
	}
	l.Close()
}

// TestFrontendDown: FRONTEND_UP goes and BACKEND_UP stays.
func TestFrontendDown(t *testing.T) {
	f := newFake(t, options{})
	d := f.open(Options{})
	l := f.accept(d)
	go f.config(backendUp)
	for {
		// The link may not have seen FRONTEND_UP yet: then its going shows nothing.
		_, err := l.Recv(withTimeout(t, 100*time.Millisecond))
		if errors.Is(err, io.EOF) {
			break
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Recv = %v; want EOF", err)
		}
		f.config(backendUp | frontendUp)
		l.Recv(withTimeout(t, 10*time.Millisecond))
		f.config(backendUp)
	}
	l.Close()
}

func withTimeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestComeAndGone: a front-end that has left before Accept saw it is not accepted.
func TestComeAndGone(t *testing.T) {
	f := newFake(t, options{})
	d := f.open(Options{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.until("BACKEND_UP", func() bool { return f.ups == 1 })
		f.config(0)
		f.until("BACKEND_UP again", func() bool { return f.ups == 2 })
		f.config(backendUp | frontendUp)
	}()
	l, err := d.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	<-done
	l.Close()
}

// TestGone is 11.10, mirrored (iv): all registers read as ones.
func TestGone(t *testing.T) {
	t.Run("while waiting", func(t *testing.T) {
		f := newFake(t, options{})
		d := f.open(Options{watch: time.Millisecond})
		go func() {
			f.until("BACKEND_UP", func() bool { return f.status&backendUp != 0 })
			f.die()
		}()
		if _, err := d.Accept(t.Context()); !errors.Is(err, ErrGone) {
			t.Errorf("Accept = %v; want ErrGone", err)
		}
		<-d.Gone()
	})
	t.Run("while connected", func(t *testing.T) {
		f := newFake(t, options{})
		d := f.open(Options{watch: time.Millisecond})
		l := f.accept(d)
		f.die()
		if _, err := l.Recv(t.Context()); !errors.Is(err, ErrGone) {
			t.Errorf("Recv = %v; want ErrGone", err)
		}
		<-d.Gone()
		l.Close()
		if _, err := d.Accept(t.Context()); !errors.Is(err, ErrGone) {
			t.Errorf("Accept = %v; want ErrGone", err)
		}
	})
	t.Run("by the device", func(t *testing.T) {
		f := newFake(t, options{})
		d := f.open(Options{watch: time.Hour})
		l := f.accept(d)
		f.Lose()
		if _, err := l.Recv(t.Context()); !errors.Is(err, ErrGone) {
			t.Errorf("Recv = %v; want ErrGone", err)
		}
		<-d.Gone()
	})
	t.Run("before", func(t *testing.T) {
		f := newFake(t, options{})
		f.die()
		if _, err := Open(t.Context(), f.Function, Options{Rings: 2}); !errors.Is(err, ErrGone) {
			t.Errorf("Open = %v; want ErrGone", err)
		}
	})
}

// TestQueueSize is 11.10, mirrored (v), and (vi): 3 vectors.
func TestQueueSize(t *testing.T) {
	f := newFake(t, options{queueSize: 128, vectors: 3})
	d := f.open(Options{Rings: 3})
	if q := f.block.Queue(rxIndex); q.Size != 128 || len(d.rx.owner) != 128 {
		t.Errorf("rx has %d descriptors, driver uses %d; want 128", q.Size, len(d.rx.owner))
	}
	l := f.accept(d)
	if want := map[uint16]uint16{0: 2, 1: 2, 2: 2}; !cmp.Equal(f.vectors, want) {
		t.Errorf("vectors are %v; want %v", f.vectors, want)
	}
	// Buffers go round.
	for i := range 300 {
		f.say(vhostuser.SetOwner, 0, nil)
		if m, err := l.Recv(t.Context()); err != nil || m.Code != vhostuser.SetOwner {
			t.Fatalf("message %d: Recv = %v, %v; want SET_OWNER", i, m, err)
		}
	}
	l.Close()
}

// TestNeedsReset: the driver starts a device anew that wants it, and goes on.
func TestNeedsReset(t *testing.T) {
	f := newFake(t, options{})
	d := f.open(Options{})
	l := f.accept(d)
	f.block.SetNeedsReset()
	f.config(backendUp | frontendUp)
	if _, err := l.Recv(t.Context()); err == nil || !strings.Contains(err.Error(), "needs a reset") {
		t.Errorf("Recv = %v; want that the device needs a reset", err)
	}
	l.Close()
	l = f.accept(d)
	if f.resets != 2 || f.block.Status()&virtiopci.NeedsReset != 0 {
		t.Errorf("device was reset %d times, status %s; want 2, without NEEDS_RESET", f.resets, f.block.Status())
	}
	f.say(vhostuser.SetOwner, 0, nil)
	if m, err := l.Recv(t.Context()); err != nil || m.Code != vhostuser.SetOwner {
		t.Errorf("Recv = %v, %v; want SET_OWNER", m, err)
	}
	l.Close()
}

// TestNeverReady: a device that always wants a reset keeps nobody busy.
func TestNeverReady(t *testing.T) {
	f := newFake(t, options{sick: true})
	d := f.open(Options{watch: 20 * time.Millisecond})
	if _, err := d.Accept(withTimeout(t, 100*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Accept = %v; want %v", err, context.DeadlineExceeded)
	}
	if f.resets > 20 {
		t.Errorf("device was reset %d times in 100 ms; want about 5", f.resets)
	}
}

// TestBrokenRing: a device that breaks its ring loses the connection and is started anew.
func TestBrokenRing(t *testing.T) {
	f := newFake(t, options{})
	d := f.open(Options{})
	l := f.accept(d)
	used := f.block.Queue(rxIndex).Used
	b, err := f.DMA(vfio.IOVA(used), 4)
	if err != nil {
		t.Fatal(err)
	}
	b[3] = 0x7f // index
	f.Trigger(vfio.MSIX, 0)
	if _, err := l.Recv(t.Context()); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Recv = %v; want that the ring is broken", err)
	}
	l.Close()
	f.accept(d).Close()
	if f.resets != 2 {
		t.Errorf("device was reset %d times; want 2", f.resets)
	}
}

// TestStaleReply: what a device still holds for one front-end never reaches the next.
func TestStaleReply(t *testing.T) {
	f := newFake(t, options{held: true})
	d := f.open(Options{})
	l := f.accept(d)
	if err := l.Send(t.Context(), &vhostuser.Message{Code: 1, Flags: 5}); err != nil {
		t.Fatal(err)
	}
	f.config(0)
	l.Close()
	l = f.accept(d)
	if f.resets != 2 || len(f.kept) != 0 {
		t.Errorf("device was reset %d times and holds %d messages; want 2, 0", f.resets, len(f.kept))
	}
	l.Close()
}

// TestLateRequests: messages that came after the end are not the next front-end's.
func TestLateRequests(t *testing.T) {
	f := newFake(t, options{})
	d := f.open(Options{})
	l := f.accept(d)
	f.say(vhostuser.SetOwner, 0, nil)
	l.Close()
	l = f.accept(d)
	f.say(vhostuser.GetFeatures, 0, nil)
	if m, err := l.Recv(t.Context()); err != nil || m.Code != vhostuser.GetFeatures {
		t.Errorf("Recv = %v, %v; want GET_FEATURES", m, err)
	}
	l.Close()
}

func TestContextEnds(t *testing.T) {
	f := newFake(t, options{held: true, queueSize: 2})
	d := f.open(Options{})
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		f.until("BACKEND_UP", func() bool { return f.ups == 1 })
		cancel(errTest)
	}()
	if _, err := d.Accept(ctx); !errors.Is(err, errTest) {
		t.Errorf("Accept = %v; want %v", err, errTest)
	}
	l := f.accept(d)
	if _, err := l.Recv(ctx); !errors.Is(err, errTest) {
		t.Errorf("Recv = %v; want %v", err, errTest)
	}
	for range 2 {
		if err := l.Send(ctx, &vhostuser.Message{Code: 1, Flags: 5}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Send(ctx, &vhostuser.Message{Code: 1, Flags: 5}); !errors.Is(err, errTest) {
		t.Errorf("Send = %v; want %v", err, errTest)
	}
}
