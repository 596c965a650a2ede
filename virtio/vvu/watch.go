package vvu

import (
	"fmt"
	"time"

	"vfiofs/vfio"
	"vfiofs/virtio/virtiopci"
)

// watch looks at the device from time to time, until Close or until the device is lost.
// When a proxy dies nothing tells the device VM: its registers just read as all ones
// (virtio-vhost-user.md 8.7).
func (d *Driver) watch(every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-d.done:
			return
		case <-d.dev.Gone():
			d.lose()
			return
		case <-t.C:
		}
		if _, err := d.regs.Status(); err != nil {
			d.lose()
			return
		}
		d.poke()
	}
}

// look reads the state of the device.
func (d *Driver) look() (state, error) {
	s, err := d.regs.Status()
	if err != nil {
		d.lose()
		return state{}, err
	}
	c := d.config.Read32(configStatus)
	if c == allOnes {
		d.lose()
		return state{}, ErrGone
	}
	return state{
		front:  c&frontendUp != 0,
		back:   c&backendUp != 0,
		failed: s&virtiopci.NeedsReset != 0 || s&virtiopci.DriverOK == 0,
	}, nil
}

// A state is what the device says about itself.
type state struct {
	front  bool // a front-end is connected
	back   bool // we are ready, or still connected
	failed bool // only a reset helps
}

// Gone is closed when the device is known to be lost.
func (d *Driver) Gone() <-chan struct{} { return d.gone }

// lost reports whether the device is known to be lost.
func (d *Driver) lost() bool {
	select {
	case <-d.gone:
		return true
	default:
		return false
	}
}

// slowMemory is a rate in bytes per second that no cached memory is below.
const slowMemory = 100 << 20

// measure touches the start of the window and warns of memory that isn't cached, which
// is up to the processor and the VMM (virtio-vhost-user.md 9.3).
func (d *Driver) measure() error {
	to := make([]byte, min(len(d.window), 1<<20))
	read := func() { copy(to, d.window) }
	if err := vfio.Guard(read); err != nil { // also maps the pages
		return fmt.Errorf("shared memory: %w", err)
	}
	begin := time.Now()
	if err := vfio.Guard(read); err != nil {
		return fmt.Errorf("shared memory: %w", err)
	}
	rate := float64(len(to)) / max(time.Since(begin), 1).Seconds()
	if rate < slowMemory {
		d.log.Warn("shared memory is slow: it may not be cached", "MB/s", int(rate/1e6))
	}
	return nil
}
