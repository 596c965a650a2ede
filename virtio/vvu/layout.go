package vvu

import (
	"errors"
	"fmt"
	"math"

	"vfiofs/internal/fd"
	"vfiofs/pci"
	"vfiofs/vfio"
	"vfiofs/virtio/virtiopci"
)

// Device configuration (virtio-vhost-user.md 4), offsets in bytes.
const (
	configStatus = 0x00 // le32
	configRings  = 0x04 // le32 max_vhost_queues
	configSize   = 0x18 // with 16 bytes of uuid
)

// Bits of the status in the device configuration. On a disconnect the device clears
// both.
const (
	backendUp  = 1 << 0 // ours: a front-end may connect
	frontendUp = 1 << 1 // the device's: one has
)

// allOnes is what registers give when there is no device any more.
const allOnes = 0xffff_ffff

// The extension block, which not every device has (virtio-vhost-user.md 4). Offsets in
// the device configuration.
const (
	extMagicAt   = 0x40 // le32
	extVersionAt = 0x44 // le16
	extRuleAt    = 0x46 // le16, a MemRule
	extMemoryAt  = 0x50 // le64, bytes of memory behind the window
	extEnd       = 0x58
	extMagic     = 0x66767676 // "vvvf"
	extVersion   = 1
)

// Notification registers (virtio-vhost-user.md 7.2), offsets in bytes.
const (
	notifySelect = 0 // le16
	notifyVector = 2 // le16
	notifySize   = 4
)

// deviceID is the PCI device id of virtio type 61, which the devices of crosvm and our
// proxy have.
const deviceID = 0x107d

// The layout of devices without capabilities of their own: doorbells at the start of
// BAR 2, and shared memory behind them.
const (
	oldBAR     = 2
	oldSpacing = 2
	oldAlign   = 4096
)

// A function is where a device has its parts, and the access to them.
type function struct {
	caps     virtiopci.Caps
	config   *vfio.Registers // device configuration
	maxRings int             // that the device can have

	doorbells *vfio.Registers
	spacing   int64 // bytes from one doorbell to the next
	errBells  bool  // there are doorbells for errors after those for calls
	bells     eventRegion
	bellsAt   int64 // offset in bells of the first doorbell

	notifications *vfio.Registers // nil: none, rings are polled

	window   []byte // shared memory
	rule     MemRule
	extended bool // the device has the extension block: it is a vfio-user device
}

// An eventRegion is a region that may know eventfds to be signalled in place of writing
// registers (vfiouser). nil: this one doesn't.
type eventRegion interface {
	WriteEvent(off int64) (*fd.FD, error)
}

// A sourceDevice is a device that may know eventfds to be waited for in place of
// interrupts (vfiouser).
type sourceDevice interface {
	Source(kind vfio.IRQ, vector int) (*fd.FD, error)
}

// locate finds the parts of a device. rule is the wish of the user or RuleAuto.
func locate(dev vfio.Device, rule MemRule) (*function, error) {
	space, err := dev.Region(vfio.ConfigRegion)
	if err != nil {
		return nil, fmt.Errorf("configuration space: %w", err)
	}
	config := pci.Config{Registers: space}
	if err := config.SetCommand(pci.CommandMemory | pci.CommandMaster); err != nil {
		return nil, err
	}
	header, err := config.Header()
	if err != nil {
		return nil, err
	}
	f := new(function)
	if f.caps, err = virtiopci.ParseCaps(config); err != nil {
		return nil, err
	}
	if f.caps.Device == nil {
		return nil, errors.New("function has no device configuration: it is not a virtio-vhost-user device")
	}
	if f.config, err = virtiopci.Window(dev, f.caps.Device, configSize); err != nil {
		return nil, err
	}
	rings := f.config.Read32(configRings)
	if rings == allOnes {
		return nil, ErrGone
	}
	f.maxRings = int(min(rings, math.MaxUint16))
	memory, guess, err := f.findBells(dev, header.Device)
	if err != nil {
		return nil, err
	}
	if f.window, err = mapFrom(dev, memory); err != nil {
		return nil, err
	}
	f.rule = f.extension()
	switch {
	case rule != RuleAuto:
		f.rule = rule
	case f.rule == RuleAuto:
		f.rule = guess
	}
	return f, nil
}

// findBells finds doorbells and notification registers. It returns where the shared memory
// is, and what the layout says about the rule of that memory
// (virtio-vhost-user.md 6.6).
func (f *function) findBells(dev vfio.Device, id uint16) (memory virtiopci.Cap, guess MemRule, err error) {
	c := &f.caps
	switch {
	case c.Doorbell == nil && c.Notification == nil && c.Memory == nil:
		length := int64(f.maxRings+1) * oldSpacing
		at := &virtiopci.Cap{Type: virtiopci.CapDoorbell, BAR: oldBAR, Length: uint64(length)}
		if f.doorbells, err = virtiopci.Window(dev, at, at.Length); err != nil {
			return memory, 0, err
		}
		f.spacing = oldSpacing
		start := (length + oldAlign - 1) &^ (oldAlign - 1)
		return virtiopci.Cap{Type: virtiopci.CapMemory, BAR: oldBAR, Offset: uint64(start)}, RuleStack, nil
	case c.Doorbell == nil || c.Notification == nil || c.Memory == nil:
		return memory, 0, errors.New("function lacks doorbells, notification registers or shared memory: it is not a virtio-vhost-user device")
	}
	f.spacing = int64(c.Doorbell.Multiplier)
	if f.doorbells, err = virtiopci.Window(dev, c.Doorbell, 2); err != nil {
		return memory, 0, err
	}
	region, err := dev.Region(c.Doorbell.BAR)
	if err != nil {
		return memory, 0, fmt.Errorf("doorbells: %w", err)
	}
	f.bells, _ = region.(eventRegion)
	f.bellsAt = int64(c.Doorbell.Offset)
	if f.notifications, err = virtiopci.Window(dev, c.Notification, notifySize); err != nil {
		return memory, 0, err
	}
	if c.Memory.BAR == c.Doorbell.BAR && id != deviceID {
		return *c.Memory, RuleStack, nil
	}
	return *c.Memory, ruleCursor, nil
}

// mapFrom maps a BAR from an offset on. The length of the capability is not to be
// trusted: the window is the rest of the BAR (virtio-vhost-user.md 3.2).
func mapFrom(dev vfio.Device, c virtiopci.Cap) ([]byte, error) {
	region, err := dev.Region(c.BAR)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Type, err)
	}
	mem, err := region.Mmap()
	if err != nil {
		return nil, fmt.Errorf("map the %s in BAR %d: %w", c.Type, c.BAR, err)
	}
	if c.Offset >= uint64(len(mem)) {
		return nil, fmt.Errorf("%s: starts at %#x of BAR %d, of which %#x bytes can be mapped", c.Type, c.Offset, c.BAR, len(mem))
	}
	return mem[c.Offset:], nil
}

// extension reads the extension block, and returns the rule in it: RuleAuto if there is
// none.
func (f *function) extension() MemRule {
	r := f.config
	if r.Size() < extEnd || r.Read32(extMagicAt) != extMagic || r.Read16(extVersionAt) != extVersion {
		return RuleAuto
	}
	f.extended = true
	f.errBells = int64(2*f.maxRings)*f.spacing+2 <= f.doorbells.Size()
	size := uint64(r.Read32(extMemoryAt)) | uint64(r.Read32(extMemoryAt+4))<<32
	if size != 0 && size < uint64(len(f.window)) {
		f.window = f.window[:size:size]
	}
	if rule := MemRule(r.Read16(extRuleAt)); rule <= RuleLinear {
		return rule
	}
	return RuleAuto
}
