package proxy

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"vfiofs/pci"
	"vfiofs/vfio"
	"vfiofs/vfio/vfiouser"
	"vfiofs/virtio/virtiopci"
)

// Layout of BAR 0: the registers of virtio (virtio-vhost-user.md 2.2).
const (
	commonOff    = 0x0000
	isrOff       = 0x1000
	deviceOff    = 0x2000
	notifyOff    = 0x3000
	msixTableOff = 0x6000
	msixPBAOff   = 0x7000
	areaSize     = 0x1000 // of device configuration, notification area and what follows
	bar0Size     = 0x8000
)

// Layout of BAR 2: doorbells and notification registers.
const (
	doorbellBAR        = 2
	doorbellOff        = 0x0000
	doorbellSize       = 0x2000
	doorbellMultiplier = 4
	notificationOff    = 0x2000
	bar2Size           = 0x4000
)

// The memory file is BAR 4, and shared memory 1 (virtio-vhost-user.md 3.1).
const (
	memoryBAR = 4
	memoryID  = 1
)

// numVectors is the length of the MSI-X table: exactly the room between the table and
// the end of its page.
const numVectors = 256

// barSize returns the size of the memory BAR for a file of size bytes.
func barSize(size int64) int64 { return 1 << bits.Len64(uint64(size-1)) }

// Region is vfiouser.Model's.
func (d *Device) Region(i int) vfiouser.RegionInfo {
	switch i {
	case 0:
		return vfiouser.RegionInfo{Size: bar0Size}
	case 2:
		return vfiouser.RegionInfo{Size: bar2Size}
	case memoryBAR:
		m := d.opt.Memory
		return vfiouser.RegionInfo{Size: barSize(m.Size()), File: m.file, Areas: []vfiouser.Area{{Size: m.Size()}}}
	case vfio.ConfigRegion:
		return vfiouser.RegionInfo{Size: configSize}
	}
	return vfiouser.RegionInfo{}
}

// Vectors is vfiouser.Model's.
func (d *Device) Vectors(kind vfio.IRQ) int {
	switch kind {
	case vfio.MSIX:
		return numVectors
	case vfio.Err, vfio.Req:
		return 1
	}
	return 0
}

// Places in configuration space that matter after it was built.
const (
	configSize   = 256
	commandOff   = 0x04 // le16
	windowCapOff = 0x84 // configuration access window (virtio-vhost-user.md 11.3)
	msixCapOff   = 0x98
)

// newConfigSpace returns the function's configuration space, as after reset. The order
// of capabilities is that of virtio-vhost-user.md 3.2.
func newConfigSpace(deviceID uint16, memSize int64) (*pci.Space, error) {
	const vendor = 0x1af4
	msix, err := pci.MSIX{Vectors: numVectors, TableOffset: msixTableOff, PBAOffset: msixPBAOff}.Build()
	if err != nil {
		return nil, err
	}
	window := virtioCap(virtiopci.CapPCI, 0, 0, 0, 0, 0)
	window.Writable = bytes.Repeat([]byte{0xff}, len(window.Body))
	clear(window.Writable[:2]) // length and type
	return pci.Layout{
		Size:   configSize,
		Vendor: vendor, Device: deviceID, Revision: 1,
		Class:     0x00ff00,
		SubVendor: vendor, SubDevice: deviceID,
		BARs: []pci.BAR{
			{Index: 0, Kind: pci.Mem32, Size: bar0Size},
			{Index: 2, Kind: pci.Mem64, Size: bar2Size},
			{Index: memoryBAR, Kind: pci.Mem64, Prefetchable: true, Size: uint64(barSize(memSize))},
		},
		Caps: []pci.CapBuild{
			virtioCap(virtiopci.CapCommon, 0, 0, commonOff, virtiopci.CommonSize),
			virtioCap(virtiopci.CapISR, 0, 0, isrOff, 1),
			virtioCap(virtiopci.CapDevice, 0, 0, deviceOff, areaSize),
			virtioCap(virtiopci.CapNotify, 0, 0, notifyOff, areaSize, virtiopci.NotifyMultiplier),
			window,
			msix,
			virtioCap(virtiopci.CapDoorbell, 2, 0, doorbellOff, doorbellSize, doorbellMultiplier),
			virtioCap(virtiopci.CapNotification, 2, 0, notificationOff, areaSize),
			virtioCap(virtiopci.CapMemory, memoryBAR, memoryID, 0, uint32(memSize), 0, uint32(memSize>>32)),
		},
	}.Build()
}

// virtioCap returns a capability that locates a structure (virtio 1.3, 4.1.4). more is
// what follows the common part.
func virtioCap(t virtiopci.CapType, bar, id uint8, off, length uint32, more ...uint32) pci.CapBuild {
	const size = 16 // of the common part
	body := []byte{uint8(size + 4*len(more)), uint8(t), bar, id, 0, 0}
	for _, v := range append([]uint32{off, length}, more...) {
		body = binary.LittleEndian.AppendUint32(body, v)
	}
	return pci.CapBuild{ID: pci.CapVendor, Body: body}
}
