package virtiopci

import (
	"encoding/binary"
	"fmt"
	"math"

	"vfiofs/pci"
)

// A CapType says which structure a capability locates (virtio 1.3, 4.1.4; types 6 and 7
// are of virtio-vhost-user alone).
type CapType uint8

// Types of capabilities.
const (
	CapCommon       CapType = 1 // VIRTIO_PCI_CAP_COMMON_CFG
	CapNotify       CapType = 2 // VIRTIO_PCI_CAP_NOTIFY_CFG, followed by le32 multiplier
	CapISR          CapType = 3 // VIRTIO_PCI_CAP_ISR_CFG
	CapDevice       CapType = 4 // VIRTIO_PCI_CAP_DEVICE_CFG
	CapPCI          CapType = 5 // VIRTIO_PCI_CAP_PCI_CFG: a window, without a place of its own
	CapDoorbell     CapType = 6 // doorbells of virtio-vhost-user, followed by le32 multiplier
	CapNotification CapType = 7 // notification registers of virtio-vhost-user
	CapMemory       CapType = 8 // VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, 16 or 24 bytes
	CapVendor       CapType = 9 // VIRTIO_PCI_CAP_VENDOR_CFG
)

// String names the structure.
func (t CapType) String() string {
	names := [...]string{
		CapCommon: "common configuration", CapNotify: "notification area", CapISR: "ISR",
		CapDevice: "device configuration", CapPCI: "configuration access window",
		CapDoorbell: "doorbells", CapNotification: "notification registers",
		CapMemory: "shared memory", CapVendor: "vendor data",
	}
	if int(t) < len(names) && names[t] != "" {
		return names[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// A Cap locates one structure.
type Cap struct {
	Type       CapType
	BAR        int    // 0 to 5
	ID         uint8  // tells structures of one type apart
	Offset     uint64 // in bytes, from the start of the BAR
	Length     uint64 // bytes; that of shared memory is often wrong
	Multiplier uint32 // bytes from one register to the next: CapNotify and CapDoorbell
}

// Caps are the structures of a function. A nil one doesn't exist.
type Caps struct {
	Common, Notify, ISR, Device    *Cap
	Doorbell, Notification, Memory *Cap
}

// Sizes of a virtio capability in bytes (virtio 1.3, 4.1.4).
const (
	capSize           = 16
	capMultiplierSize = 20 // with a multiplier
	capWideSize       = 24 // with the high halves of offset and length
	capHeaderSize     = 4  // up to and including the type
	capsEnd           = 256
)

// ParseCaps finds the structures of a function. Of several of a type it takes the first
// (virtio 1.3, 4.1.4.1); of several shared memories that with id 1, else that with id 0,
// else the first (virtio-vhost-user.md 3.2). Types that are not known are skipped.
//
// All offsets and lengths add up without overflow. Whether a BAR is as large as that is
// for the caller to check.
func ParseCaps(config pci.Config) (Caps, error) {
	var caps Caps
	list, err := config.Capabilities()
	if err != nil {
		return caps, err
	}
	for _, entry := range list {
		if entry.ID != pci.CapVendor {
			continue
		}
		if err := caps.add(config, entry.Offset); err != nil {
			return caps, fmt.Errorf("virtio capability at %#x: %w", entry.Offset, err)
		}
	}
	return caps, nil
}

// add takes note of the virtio capability at an offset.
func (c *Caps) add(config pci.Config, at int) error {
	var buf [capWideSize]byte
	if err := config.Read(buf[:capHeaderSize], at); err != nil {
		return err
	}
	size, kind := int(buf[2]), CapType(buf[3])
	p := c.place(kind)
	if p == nil {
		return nil
	}
	if size < capSize || size > capsEnd-at {
		return fmt.Errorf("%s: length is %d; want %d to %d", kind, size, capSize, capsEnd-at)
	}
	b := buf[:min(size, len(buf))]
	if err := config.Read(b, at); err != nil {
		return err
	}
	found, err := parseCap(b)
	if err != nil {
		return err
	}
	if *p == nil || kind == CapMemory && rank(found.ID) < rank((*p).ID) {
		*p = &found
	}
	return nil
}

// place returns where a structure of a type is noted, nil if it is of no interest.
func (c *Caps) place(t CapType) **Cap {
	switch t {
	case CapCommon:
		return &c.Common
	case CapNotify:
		return &c.Notify
	case CapISR:
		return &c.ISR
	case CapDevice:
		return &c.Device
	case CapDoorbell:
		return &c.Doorbell
	case CapNotification:
		return &c.Notification
	case CapMemory:
		return &c.Memory
	}
	return nil
}

// rank orders the ids of shared memories.
func rank(id uint8) int {
	switch id {
	case 1:
		return 0
	case 0:
		return 1
	}
	return 2
}

// parseCap decodes a virtio capability of at least capSize bytes.
func parseCap(b []byte) (Cap, error) {
	c := Cap{
		Type:   CapType(b[3]),
		BAR:    int(b[4]),
		ID:     b[5],
		Offset: uint64(binary.LittleEndian.Uint32(b[8:])),
		Length: uint64(binary.LittleEndian.Uint32(b[12:])),
	}
	limit := uint64(math.MaxUint32)
	switch {
	case c.BAR > 5:
		return c, fmt.Errorf("%s: BAR is %d; want 0 to 5", c.Type, c.BAR)
	case c.Type == CapMemory && len(b) >= capWideSize:
		c.Offset |= uint64(binary.LittleEndian.Uint32(b[16:])) << 32
		c.Length |= uint64(binary.LittleEndian.Uint32(b[20:])) << 32
		limit = math.MaxInt64
	case c.Type == CapNotify || c.Type == CapDoorbell:
		if len(b) < capMultiplierSize {
			return c, fmt.Errorf("%s: length is %d; want %d or more", c.Type, len(b), capMultiplierSize)
		}
		c.Multiplier = binary.LittleEndian.Uint32(b[16:])
	}
	if c.Offset > limit || c.Length > limit-c.Offset {
		return c, fmt.Errorf("%s: offset %#x + length %#x overflows", c.Type, c.Offset, c.Length)
	}
	return c, nil
}
