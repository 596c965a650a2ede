package vfiouser

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/vfio"
)

// Region is vfio.Device.Region.
func (c *client) Region(i int) (vfio.Region, error) {
	if i < 0 || i >= len(c.regions) {
		return nil, fmt.Errorf("region %d: %w", i, unix.EINVAL)
	}
	return c.regions[i], nil
}

// Vectors is vfio.Device.Vectors.
func (c *client) Vectors(kind vfio.IRQ) (int, error) {
	if kind < 0 || int(kind) >= irqKinds {
		return 0, fmt.Errorf("interrupts of kind %d: %w", kind, unix.EINVAL)
	}
	return c.vectors[kind], nil
}

// SetIRQs is vfio.Device.SetIRQs. If it fails, the kind is switched off.
func (c *client) SetIRQs(kind vfio.IRQ, events []*fd.FD) error {
	n, err := c.Vectors(kind)
	if err != nil {
		return err
	}
	if len(events) > n {
		return fmt.Errorf("%d eventfds for %d interrupts of kind %d: %w", len(events), n, kind, unix.EINVAL)
	}
	c.calls.Lock()
	defer c.calls.Unlock()
	off := irqSet{flags: irqNone | irqTrigger, index: uint32(kind)}
	switch {
	case n == 0, len(events) == 0 && c.active[kind] == 0:
		return nil
	case len(events) == 0:
		c.active[kind] = 0
		return c.askLocked(SetIRQs, off.append(nil), nil, nil)
	}
	if err := c.listen(kind, events); err != nil {
		c.active[kind] = 0
		return errors.Join(err, c.askLocked(SetIRQs, off.append(nil), nil, nil))
	}
	c.active[kind] = len(events)
	return nil
}

// listen gives the server an eventfd for each of the first vectors, and takes those of
// the others back. The caller holds calls.
func (c *client) listen(kind vfio.IRQ, events []*fd.FD) error {
	set := irqSet{flags: irqEvents | irqTrigger, index: uint32(kind)}
	for rest := events; len(rest) > 0; rest = rest[set.count:] {
		set.count = uint32(min(len(rest), int(min(c.peer.MaxFiles, maxFiles))))
		if set.count == 0 {
			return fmt.Errorf("the server takes no descriptors: %w", unix.ENOTSUP)
		}
		if err := c.askLocked(SetIRQs, set.append(nil), nil, nil, rest[:set.count]...); err != nil {
			return err
		}
		set.start += set.count
	}
	if more := c.active[kind] - len(events); more > 0 {
		set.count = uint32(more)
		return c.askLocked(SetIRQs, set.append(nil), nil, nil)
	}
	return nil
}

// Reset is vfio.Device.Reset.
func (c *client) Reset() error {
	if c.info.flags&infoReset == 0 {
		return fmt.Errorf("reset the function: %w", errors.ErrUnsupported)
	}
	return c.tell(Reset, nil)
}
