package proxy

import (
	"encoding/binary"

	"vfiofs/pci"
	"vfiofs/vfio"
	"vfiofs/vfio/vfiouser"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtiopci"
)

// A bus is what a Device needs of a vfiouser.Bus.
type bus interface {
	Snapshot() *guestmem.Table
	View(iova vfio.IOVA, n int) (mem []byte, close func() error, err error)
	Trigger(kind vfio.IRQ, vector int)
}

var _ vfiouser.Model = (*Device)(nil)

// Attach is vfiouser.Model's.
func (d *Device) Attach(b *vfiouser.Bus) { d.attach(b) }

// attach begins the life of a client.
func (d *Device) attach(b bus) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pci.Reset()
	d.bus = b
	d.log.Info("device VM connected")
}

// Detach is vfiouser.Model's.
func (d *Device) Detach() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reset(reasonLost)
	d.bus = nil
	d.log.Info("device VM left")
}

// Reset is vfiouser.Model's, and what the driver does by writing 0 to the status.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reset(reasonLost)
}

// Unmap is vfiouser.Model's: a driver whose rings are gone is gone. Buffers that are gone
// are found out when they are used.
func (d *Device) Unmap(first, last vfio.IOVA) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range []*ring{d.rx, d.tx} {
		if r != nil && r.overlaps(first, last) {
			d.driverLost("the memory of its rings was unmapped")
			return
		}
	}
}

// Read is vfiouser.Model's.
func (d *Device) Read(region int, p []byte, off int64) {
	switch region {
	case vfio.ConfigRegion:
		d.readConfigSpace(p, off)
	case memoryBAR:
		clear(p) // behind the file; the rest is mapped
	default:
		d.readRegister(region, p, off)
	}
}

// Write is vfiouser.Model's.
func (d *Device) Write(region int, p []byte, off int64) {
	switch region {
	case vfio.ConfigRegion:
		d.writeConfigSpace(p, off)
	default:
		d.writeRegister(region, p, off)
	}
}

// readRegister reads from BAR 0 or 2. What isn't a register reads 0.
func (d *Device) readRegister(bar int, p []byte, off int64) {
	clear(p)
	switch {
	case bar == 0 && off < isrOff:
		d.block.ReadCommon(p, off-commonOff)
	case bar == 0 && off < deviceOff:
		d.block.ReadISR(p, off-isrOff)
	case bar == 0 && off < notifyOff:
		d.readDeviceConfig(p, off-deviceOff)
	case bar == 2 && off >= notificationOff:
		d.readNotification(p, off-notificationOff)
	}
}

// writeRegister writes to BAR 0 or 2. What isn't a register stays as it is.
func (d *Device) writeRegister(bar int, p []byte, off int64) {
	switch {
	case bar == 0 && off < isrOff:
		d.block.WriteCommon(p, off-commonOff)
	case bar == 0 && off < deviceOff:
	case bar == 0 && off < notifyOff:
		d.writeDeviceConfig(p, off-deviceOff)
	case bar == 0 && off < notifyOff+areaSize:
		d.block.WriteNotify(off - notifyOff)
	case bar == 2 && off < doorbellOff+doorbellSize:
		d.doorbell(int(off-doorbellOff) / doorbellMultiplier)
	case bar == 2 && off >= notificationOff:
		d.writeNotification(p, off-notificationOff)
	}
}

// readConfigSpace reads configuration space.
func (d *Device) readConfigSpace(p []byte, off int64) {
	clear(p)
	if bar, at, n, ok := d.window(len(p), off); ok {
		d.Read(bar, p[:n], at)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pci.ReadAt(p, off)
}

// writeConfigSpace writes configuration space. A driver that switches off what it needs
// is gone (virtio-vhost-user.md 8.6).
func (d *Device) writeConfigSpace(p []byte, off int64) {
	if bar, at, n, ok := d.window(len(p), off); ok {
		d.Write(bar, p[:n], at)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	master, msix := d.busMaster(), d.msixEnabled()
	d.pci.WriteAt(p, off)
	if master && !d.busMaster() {
		d.driverLost("bus mastering was switched off")
	}
	if msix && !d.msixEnabled() {
		d.driverLost("MSI-X was switched off")
	}
}

// window returns the register that an access to configuration space reaches through the
// configuration access window (virtio 1.3, 4.1.4.9): n bytes at offset at of a BAR. An
// access that doesn't lie within the window's data is none.
func (d *Device) window(size int, off int64) (bar int, at int64, n int, ok bool) {
	const data, dataSize = windowCapOff + 16, 4
	if off != data || size > dataSize {
		return 0, 0, 0, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var b [12]byte // BAR, id, padding, offset, length
	d.pci.ReadAt(b[:], windowCapOff+4)
	bar, at = int(b[0]), int64(binary.LittleEndian.Uint32(b[4:]))
	length := int64(binary.LittleEndian.Uint32(b[8:]))
	registers := bar == 0 && at <= bar0Size-length || bar == 2 && at <= bar2Size-length
	valid := length == 1 || length == 2 || length == 4
	if !registers || !valid || length > int64(size) {
		return 0, 0, 0, false
	}
	return bar, at, int(length), true
}

// busMaster reports whether the function may access memory.
func (d *Device) busMaster() bool {
	return d.configWord(commandOff)&uint16(pci.CommandMaster) != 0
}

// msixEnabled reports whether MSI-X is on.
func (d *Device) msixEnabled() bool { return d.configWord(msixCapOff+2)&(1<<15) != 0 }

// configWord returns 16 bits of configuration space.
func (d *Device) configWord(off int64) uint16 {
	var b [2]byte
	d.pci.ReadAt(b[:], off)
	return binary.LittleEndian.Uint16(b[:])
}

// interrupt raises an interrupt vector.
func (d *Device) interrupt(vector uint16) {
	if vector != virtiopci.NoVector && d.bus != nil {
		d.bus.Trigger(vfio.MSIX, int(vector))
	}
}
