package proxy

import (
	"encoding/binary"

	"vfiofs/virtio/virtiopci"
)

// Bits of the status of the device's configuration (virtio-vhost-user.md 4).
const (
	backendUp  = 1 << 0 // BACKEND_UP: the driver wants a sibling
	frontendUp = 1 << 1 // FRONTEND_UP: there is one
)

// A reason says why the last connection to a sibling ended, for the driver to read
// (virtio-vhost-user.md 4, extension).
type reason uint32

// Reasons.
const (
	reasonNone     reason = 0
	reasonPeer     reason = 1 // the sibling has left
	reasonMemory   reason = 2 // its memory is not the memory file
	reasonProtocol reason = 3 // it broke the protocol
	reasonAsked    reason = 4 // the driver has cleared BACKEND_UP
	reasonLost     reason = 5 // the driver is gone
)

// String says what has happened.
func (r reason) String() string {
	switch r {
	case reasonPeer:
		return "the sibling has left"
	case reasonMemory:
		return "the sibling's memory can't be used"
	case reasonProtocol:
		return "the protocol was broken"
	case reasonAsked:
		return "the driver has asked for it"
	case reasonLost:
		return "the driver is gone"
	}
	return "none"
}

// Layout of the device's configuration, of which the rest reads 0.
const (
	configStatus = 0 // le32
	configQueues = 4 // le32 max_vhost_queues
	configUUID   = 8 // 16 bytes
	extOff       = 0x40
	configBytes  = extOff + 24

	extMagic   = 0x66767676 // "vvvf"
	extVersion = 1
)

// Layout of the notification registers (virtio-vhost-user.md 7.2).
const (
	notifySelect = 0 // le16 notification_select
	notifyVector = 2 // le16 notification_msix_vector
	notifySize   = 4
)

// deviceConfig returns the device's configuration.
func (d *Device) deviceConfig() (b [configBytes]byte) {
	le := binary.LittleEndian
	le.PutUint32(b[configStatus:], d.status)
	le.PutUint32(b[configQueues:], uint32(d.opt.Queues))
	copy(b[configUUID:], d.opt.UUID[:])
	ext := b[extOff:]
	le.PutUint32(ext, extMagic)
	le.PutUint16(ext[4:], extVersion)
	le.PutUint16(ext[6:], uint16(d.opt.Rule))
	le.PutUint32(ext[8:], uint32(d.reason))
	le.PutUint64(ext[16:], uint64(d.opt.Memory.Size()))
	return b
}

// readDeviceConfig reads the device's configuration from offset off on. p is zeros.
func (d *Device) readDeviceConfig(p []byte, off int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b := d.deviceConfig(); off < int64(len(b)) {
		copy(p, b[off:])
	}
}

// writeDeviceConfig writes it. Only BACKEND_UP is the driver's, and drivers write it at
// any width.
func (d *Device) writeDeviceConfig(p []byte, off int64) {
	if off != configStatus || len(p) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if p[0]&backendUp != 0 {
		d.arm()
	} else {
		d.disarm()
	}
}

// readNotification reads the notification registers (virtio-vhost-user.md 7.2). p is
// zeros.
func (d *Device) readNotification(p []byte, off int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b := d.notification(); off < int64(len(b)) {
		copy(p, b[off:])
	}
}

// writeNotification writes them: first the vring, then its vector.
func (d *Device) writeNotification(p []byte, off int64) {
	if off >= notifySize {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	le := binary.LittleEndian
	b := d.notification()
	if int(d.selected) < len(d.vectors) {
		le.PutUint16(b[notifyVector:], d.vectors[d.selected])
	}
	n := copy(b[off:], p)
	if off < notifyVector {
		d.selected = le.Uint16(b[notifySelect:])
	}
	if off+int64(n) > notifyVector && int(d.selected) < len(d.vectors) {
		d.vectors[d.selected] = le.Uint16(b[notifyVector:])
		d.takeBack(int(d.selected))
	}
}

// notification returns the notification registers.
func (d *Device) notification() (b [notifySize]byte) {
	binary.LittleEndian.PutUint16(b[notifySelect:], d.selected)
	binary.LittleEndian.PutUint16(b[notifyVector:], d.vector(int(d.selected)))
	return b
}

// vector returns the interrupt for kicks of a vring. It is NoVector unless the table has
// the one that was written, be it byte by byte.
func (d *Device) vector(ring int) uint16 {
	if ring >= len(d.vectors) || d.vectors[ring] >= numVectors {
		return virtiopci.NoVector
	}
	return d.vectors[ring]
}
