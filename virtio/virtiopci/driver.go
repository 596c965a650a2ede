package virtiopci

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vfiofs/vfio"
)

// ErrGone says that there is no device behind the registers any more.
var ErrGone = errors.New("device is gone")

// Waits for a reset (virtio-vhost-user.md 8.1, step 5).
const (
	resetTime = time.Second
	resetPoll = 10 * time.Millisecond
)

// A Driver is the driver's side of a function's registers. Its methods belong to one
// goroutine at a time, but for Status and Notify, which may be called from any.
type Driver struct {
	common, notify *vfio.Registers
	multiplier     uint32
}

// NewDriver returns a Driver for a function with the given structures.
func NewDriver(dev vfio.Device, caps Caps) (*Driver, error) {
	if caps.Common == nil || caps.Notify == nil {
		return nil, errors.New("function has no common configuration or no notification area: it is not a modern virtio device")
	}
	common, err := Window(dev, caps.Common, CommonSize)
	if err != nil {
		return nil, err
	}
	notify, err := Window(dev, caps.Notify, 2)
	if err != nil {
		return nil, err
	}
	return &Driver{common: common, notify: notify, multiplier: caps.Notify.Multiplier}, nil
}

// Window gives access to the registers that c locates, of which there must be size
// bytes.
func Window(dev vfio.Device, c *Cap, size uint64) (*vfio.Registers, error) {
	if c.Length < size {
		return nil, fmt.Errorf("%s: length is %d; want %d or more", c.Type, c.Length, size)
	}
	region, err := dev.Region(c.BAR)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Type, err)
	}
	if end := c.Offset + c.Length; end > uint64(region.Size()) {
		return nil, fmt.Errorf("%s: ends at %#x of BAR %d, which has %#x bytes", c.Type, end, c.BAR, region.Size())
	}
	r, err := vfio.NewRegisters(region, int64(c.Offset), int64(c.Length))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Type, err)
	}
	return r, nil
}

// Status reads the status, or returns ErrGone.
func (d *Driver) Status() (Status, error) {
	s := Status(d.common.Read8(regStatus))
	switch err := d.common.Err(); {
	case s != allOnes:
		return s, nil
	case err != nil:
		return s, fmt.Errorf("%w: %w", ErrGone, err)
	}
	return s, fmt.Errorf("%w: its status reads as all ones", ErrGone)
}

// Reset resets the device and waits until it says so.
func (d *Driver) Reset(ctx context.Context) error {
	d.common.Write8(regStatus, 0)
	end := time.Now().Add(resetTime)
	for {
		s, err := d.Status()
		if err != nil || s == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("device is not reset after %v: its status is %s", resetTime, s)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(resetPoll):
		}
	}
}

// Begin acknowledges the device, which is in reset, and negotiates features: those of
// want that are offered. It fails if one of need is not.
func (d *Driver) Begin(need, want uint64) (features uint64, err error) {
	if err := d.add(Acknowledge | HasDriver); err != nil {
		return 0, err
	}
	offered := d.offered()
	if missing := need &^ offered; missing != 0 {
		return 0, fmt.Errorf("device offers features %#x; %#x of what is needed is missing", offered, missing)
	}
	features = offered & (need | want)
	for i := range uint32(2) {
		d.common.Write32(regDriverFeatureSelect, i)
		d.common.Write32(regDriverFeature, half(features, i))
	}
	return features, d.add(FeaturesOK)
}

// offered reads the features that the device offers.
func (d *Driver) offered() (features uint64) {
	for i := range uint32(2) {
		d.common.Write32(regDeviceFeatureSelect, i)
		setHalf(&features, i, d.common.Read32(regDeviceFeature))
	}
	return features
}

// add sets bits of the status, and fails if they don't stick.
func (d *Driver) add(bits Status) error {
	s, err := d.Status()
	if err != nil {
		return err
	}
	d.common.Write8(regStatus, uint8(s|bits))
	if s, err = d.Status(); err != nil {
		return err
	}
	if s&bits != bits {
		return fmt.Errorf("device refuses status %s: it reads %s", bits, s)
	}
	return nil
}

// Finish tells the device that it is set up: it begins to use its queues.
func (d *Driver) Finish() error { return d.add(DriverOK) }

// SetConfigVector chooses the interrupt for changes of the configuration.
func (d *Driver) SetConfigVector(vector int) error {
	d.common.Write16(regConfigVector, uint16(vector))
	return sameVector("configuration", d.common.Read16(regConfigVector), vector)
}

// sameVector reports an error unless the device has taken a vector.
func sameVector(what string, got uint16, want int) error {
	if int(got) != want {
		return fmt.Errorf("device refuses vector %d for its %s: it reads %#x", want, what, got)
	}
	return nil
}

// QueueSize returns how many descriptors queue i will have: as many as the device can,
// but not more than MaxQueueSize.
func (d *Driver) QueueSize(i int) (int, error) {
	if n := int(d.common.Read16(regNumQueues)); i >= n {
		return 0, fmt.Errorf("device has %d queues; queue %d is needed", n, i)
	}
	d.common.Write16(regQueueSelect, uint16(i))
	size := int(d.common.Read16(regQueueSize))
	if size == 0 || size&(size-1) != 0 {
		return 0, fmt.Errorf("size %d of queue %d is not a power of two", size, i)
	}
	return min(size, MaxQueueSize), nil
}

// SetQueue sets up queue i and checks that the device has taken its size and vector; not
// all devices let addresses be read back. It returns the offset of the queue's
// notification register, for Notify.
func (d *Driver) SetQueue(i int, q Queue) (notify int64, err error) {
	what := fmt.Sprintf("queue %d", i)
	d.common.Write16(regQueueSelect, uint16(i))
	d.common.Write16(regQueueSize, q.Size)
	if size := d.common.Read16(regQueueSize); size != q.Size {
		return 0, fmt.Errorf("device refuses size %d of %s: it reads %d", q.Size, what, size)
	}
	for _, a := range []struct {
		off     int64
		address uint64
	}{{regQueueDesc, q.Desc}, {regQueueDriver, q.Avail}, {regQueueDevice, q.Used}} {
		d.common.Write32(a.off, half(a.address, 0))
		d.common.Write32(a.off+4, half(a.address, 1))
	}
	d.common.Write16(regQueueVector, q.Vector)
	if err := sameVector(what, d.common.Read16(regQueueVector), int(q.Vector)); err != nil {
		return 0, err
	}
	notify = int64(d.common.Read16(regQueueNotifyOff)) * int64(d.multiplier)
	if notify%2 != 0 || notify+2 > d.notify.Size() {
		return 0, fmt.Errorf("notification register of %s lies at %#x of %#x bytes, or is not aligned", what, notify, d.notify.Size())
	}
	return notify, nil
}

// Enable lets the device use queue i once it is told Finish.
func (d *Driver) Enable(i int) {
	d.common.Write16(regQueueSelect, uint16(i))
	d.common.Write16(regQueueEnable, 1)
}

// Notify tells the device that there are buffers in queue i, whose notification
// register is at offset notify.
func (d *Driver) Notify(i int, notify int64) { d.notify.Write16(notify, uint16(i)) }
