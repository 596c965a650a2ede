package virtiopci

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/vfio/vfiotest"
)

// serve makes a function of a device whose registers lie in BAR 0 as in
// virtio-vhost-user.md 11.3.
func serve(t *testing.T, d *device) *vfiotest.Function {
	t.Helper()
	f, err := vfiotest.New(vfiotest.Options{Regions: map[int]vfiotest.Region{0: {
		Size: 0x8000,
		Read: func(p []byte, off int64) {
			if off < CommonSize {
				d.ReadCommon(p, off)
			}
		},
		Write: func(p []byte, off int64) {
			switch {
			case off < CommonSize:
				d.WriteCommon(p, off)
			case off >= 0x3000:
				d.WriteNotify(off - 0x3000)
			}
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// caps are the structures of serve.
func caps() Caps {
	return Caps{
		Common: &Cap{Type: CapCommon, Length: CommonSize},
		Notify: &Cap{Type: CapNotify, Offset: 0x3000, Length: 0x1000, Multiplier: 4},
	}
}

// drive returns a driver of d.
func drive(t *testing.T, d *device) (*Driver, *vfiotest.Function) {
	t.Helper()
	f := serve(t, d)
	driver, err := NewDriver(f, caps())
	if err != nil {
		t.Fatal(err)
	}
	return driver, f
}

func TestDriverSetsUpADevice(t *testing.T) {
	d := newDevice()
	driver, _ := drive(t, d)
	if err := driver.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	features, err := driver.Begin(FeatureVersion1, FeatureAccessPlatform|1<<29)
	if want := uint64(FeatureVersion1 | FeatureAccessPlatform); err != nil || features != want || d.Features() != want {
		t.Fatalf("Begin = %#x, %v, device has %#x; want %#x, nil", features, err, d.Features(), want)
	}
	if err := driver.SetConfigVector(4); err != nil || d.ConfigVector() != 4 {
		t.Errorf("SetConfigVector = %v, device has %d; want nil, 4", err, d.ConfigVector())
	}
	for i := range 2 {
		size, err := driver.QueueSize(i)
		if err != nil || size != 256 {
			t.Errorf("QueueSize(%d) = %d, %v; want 256, nil", i, size, err)
		}
		q := Queue{Size: 128, Vector: uint16(i), Desc: 1<<40 | 0x1000, Avail: 0x2000, Used: 0x3000}
		notify, err := driver.SetQueue(i, q)
		if want := int64(4 * i); err != nil || notify != want {
			t.Errorf("SetQueue(%d) = %d, %v; want %d, nil", i, notify, err, want)
		}
		driver.Enable(i)
		driver.Notify(i, notify)
		q.Enabled = true
		if diff := cmp.Diff(q, d.Queue(i)); diff != "" {
			t.Errorf("device's queue %d: -want +got:\n%s", i, diff)
		}
	}
	if err := driver.Finish(); err != nil {
		t.Fatal(err)
	}
	s, err := driver.Status()
	if want := Acknowledge | HasDriver | FeaturesOK | DriverOK; err != nil || s != want {
		t.Errorf("Status() = %s, %v; want %s", s, err, want)
	}
	if got, want := strings.Join(d.told[len(d.told)-3:], ", "), "notify 0, notify 1, "; !strings.HasPrefix(got, want) {
		t.Errorf("device was told %q; want %q", got, want)
	}
}

func TestDriverRefuses(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  BlockConfig
		do   func(*Driver) error
		want string
	}{
		{"missing feature", BlockConfig{}, func(d *Driver) error {
			_, err := d.Begin(FeatureVersion1, 0)
			return err
		}, "0x100000000 of what is needed is missing"},
		{"no such queue", BlockConfig{Sizes: []int{8}}, func(d *Driver) error {
			_, err := d.QueueSize(1)
			return err
		}, "device has 1 queues; queue 1 is needed"},
		{"queue of no size", BlockConfig{Sizes: []int{0}}, func(d *Driver) error {
			_, err := d.QueueSize(0)
			return err
		}, "size 0 of queue 0 is not a power of two"},
		{"queue of an odd size", BlockConfig{Sizes: []int{24}}, func(d *Driver) error {
			_, err := d.QueueSize(0)
			return err
		}, "size 24 of queue 0 is not a power of two"},
		{"queue size that isn't taken", BlockConfig{Sizes: []int{8}, Vectors: 1}, func(d *Driver) error {
			_, err := d.SetQueue(0, Queue{Size: 16})
			return err
		}, "refuses size 16 of queue 0: it reads 8"},
		{"vector of a queue", BlockConfig{Sizes: []int{8}, Vectors: 1}, func(d *Driver) error {
			_, err := d.SetQueue(0, Queue{Size: 8, Vector: 1})
			return err
		}, "refuses vector 1 for its queue 0: it reads 0xffff"},
		{"vector of the configuration", BlockConfig{}, func(d *Driver) error { return d.SetConfigVector(0) }, "refuses vector 0 for its configuration"},
	} {
		t.Run(test.name, func(t *testing.T) {
			driver, _ := drive(t, &device{Block: NewBlock(test.cfg)})
			err := test.do(driver)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v; want %q in it", err, test.want)
			}
		})
	}
}

// TestFeaturesRefused: FEATURES_OK doesn't stick (virtio-vhost-user.md 11.10, vii).
func TestFeaturesRefused(t *testing.T) {
	d := newDevice()
	d.cfg.OnStatus = func(_, to Status) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.status = to &^ FeaturesOK
	}
	driver, _ := drive(t, d)
	if _, err := driver.Begin(FeatureVersion1, 0); err == nil || !strings.Contains(err.Error(), "refuses status FEATURES_OK") {
		t.Errorf("Begin = %v; want that FEATURES_OK is refused", err)
	}
}

func TestReset(t *testing.T) {
	resets := make(chan struct{}, 1)
	d := &device{Block: NewBlock(BlockConfig{OnReset: func() { resets <- struct{}{} }})}
	driver, _ := drive(t, d)
	d.WriteCommon([]byte{3}, regStatus)

	// A slow device.
	go func() { <-resets; d.Reset() }()
	if err := driver.Reset(t.Context()); err != nil {
		t.Errorf("Reset of a slow device = %v; want nil", err)
	}
	// One that never ends its reset.
	d.WriteCommon([]byte{3}, regStatus)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no patience")
	cancel(why)
	if err := driver.Reset(ctx); !errors.Is(err, why) {
		t.Errorf("Reset = %v; want %v", err, why)
	}
}

func TestGone(t *testing.T) {
	d := newDevice()
	driver, f := drive(t, d)
	f.Lose()
	for what, err := range map[string]error{
		"Reset":  driver.Reset(t.Context()),
		"Finish": driver.Finish(),
		"Begin":  func() error { _, err := driver.Begin(0, 0); return err }(),
	} {
		if !errors.Is(err, ErrGone) || !errors.Is(err, vfiotest.ErrGone) {
			t.Errorf("%s = %v; want that the device is gone", what, err)
		}
	}
	if _, err := driver.QueueSize(0); err == nil {
		t.Error("QueueSize of nothing = nil; want an error")
	}
	if _, err := driver.SetQueue(0, Queue{Size: 8}); err == nil {
		t.Error("SetQueue of nothing = nil; want an error")
	}
	driver.Notify(0, 0)
}

func TestNewDriverRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Caps)
		want   string
	}{
		{"no common configuration", func(c *Caps) { c.Common = nil }, "not a modern virtio device"},
		{"no notification area", func(c *Caps) { c.Notify = nil }, "not a modern virtio device"},
		{"short common configuration", func(c *Caps) { c.Common.Length = 0x37 }, "common configuration: length is 55; want 56"},
		{"short notification area", func(c *Caps) { c.Notify.Length = 1 }, "notification area: length is 1"},
		{"outside of the BAR", func(c *Caps) { c.Notify.Offset = 0x7fff }, "ends at 0x8fff of BAR 0"},
		{"in a BAR that isn't there", func(c *Caps) { c.Common.BAR = 5 }, "of BAR 5, which has 0x0 bytes"},
		{"far outside", func(c *Caps) { c.Common.Offset = math.MaxInt64 - CommonSize }, "which has 0x8000 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := caps()
			test.change(&c)
			if _, err := NewDriver(serve(t, newDevice()), c); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("NewDriver = %v; want %q in it", err, test.want)
			}
		})
	}
	f := serve(t, newDevice())
	f.Lose()
	if _, err := NewDriver(f, caps()); !errors.Is(err, vfiotest.ErrGone) {
		t.Errorf("NewDriver of a lost function = %v; want %v", err, vfiotest.ErrGone)
	}
}

func TestNotifyRegisterOutside(t *testing.T) {
	c := caps()
	c.Notify.Multiplier = 0x1000
	driver, err := NewDriver(serve(t, newDevice()), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := driver.SetQueue(1, Queue{Size: 8}); err == nil || !strings.Contains(err.Error(), "notification register of queue 1 lies at 0x1000 of 0x1000") {
		t.Errorf("SetQueue = %v; want that the notification register is outside", err)
	}
}

func TestStatusString(t *testing.T) {
	for s, want := range map[Status]string{
		0:                     "RESET",
		DriverOK | NeedsReset: "DRIVER_OK|NEEDS_RESET",
		Failed:                "FAILED",
	} {
		if got := s.String(); got != want {
			t.Errorf("Status(%#x).String() = %q; want %q", uint8(s), got, want)
		}
	}
}
