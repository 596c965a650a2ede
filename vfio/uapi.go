package vfio

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Numbers and layouts of linux/vfio.h and linux/iommufd.h, all fields in the byte order
// of the machine, which is little-endian on every one that vfiofs runs on. Each request
// is built and taken apart by one function; nothing here is on the path of a request.

// A request is the number of an ioctl.
type request uint

// Requests (linux/vfio.h, linux/iommufd.h): _IO(';', 100 + n).
const (
	getAPIVersion   request = 0x3b64 // VFIO_GET_API_VERSION
	checkExtension  request = 0x3b65 // VFIO_CHECK_EXTENSION
	setIOMMU        request = 0x3b66 // VFIO_SET_IOMMU
	groupGetStatus  request = 0x3b67 // VFIO_GROUP_GET_STATUS
	groupSetCont    request = 0x3b68 // VFIO_GROUP_SET_CONTAINER
	groupGetDevice  request = 0x3b6a // VFIO_GROUP_GET_DEVICE_FD
	deviceGetInfo   request = 0x3b6b // VFIO_DEVICE_GET_INFO
	deviceGetRegion request = 0x3b6c // VFIO_DEVICE_GET_REGION_INFO
	deviceGetIRQ    request = 0x3b6d // VFIO_DEVICE_GET_IRQ_INFO
	deviceSetIRQs   request = 0x3b6e // VFIO_DEVICE_SET_IRQS
	deviceReset     request = 0x3b6f // VFIO_DEVICE_RESET
	iommuGetInfo    request = 0x3b70 // VFIO_IOMMU_GET_INFO
	iommuMapDMA     request = 0x3b71 // VFIO_IOMMU_MAP_DMA
	iommuUnmapDMA   request = 0x3b72 // VFIO_IOMMU_UNMAP_DMA
	deviceBind      request = 0x3b76 // VFIO_DEVICE_BIND_IOMMUFD
	deviceAttach    request = 0x3b77 // VFIO_DEVICE_ATTACH_IOMMUFD_PT
	ioasAlloc       request = 0x3b81 // IOMMU_IOAS_ALLOC
	ioasRanges      request = 0x3b84 // IOMMU_IOAS_IOVA_RANGES
	ioasMap         request = 0x3b85 // IOMMU_IOAS_MAP
	ioasUnmap       request = 0x3b86 // IOMMU_IOAS_UNMAP
)

// String returns the kernel's name of the request.
func (r request) String() string {
	switch r {
	case getAPIVersion:
		return "VFIO_GET_API_VERSION"
	case checkExtension:
		return "VFIO_CHECK_EXTENSION"
	case setIOMMU:
		return "VFIO_SET_IOMMU"
	case groupGetStatus:
		return "VFIO_GROUP_GET_STATUS"
	case groupSetCont:
		return "VFIO_GROUP_SET_CONTAINER"
	case groupGetDevice:
		return "VFIO_GROUP_GET_DEVICE_FD"
	case deviceGetInfo:
		return "VFIO_DEVICE_GET_INFO"
	case deviceGetRegion:
		return "VFIO_DEVICE_GET_REGION_INFO"
	case deviceGetIRQ:
		return "VFIO_DEVICE_GET_IRQ_INFO"
	case deviceSetIRQs:
		return "VFIO_DEVICE_SET_IRQS"
	case deviceReset:
		return "VFIO_DEVICE_RESET"
	case iommuGetInfo:
		return "VFIO_IOMMU_GET_INFO"
	case iommuMapDMA:
		return "VFIO_IOMMU_MAP_DMA"
	case iommuUnmapDMA:
		return "VFIO_IOMMU_UNMAP_DMA"
	case deviceBind:
		return "VFIO_DEVICE_BIND_IOMMUFD"
	case deviceAttach:
		return "VFIO_DEVICE_ATTACH_IOMMUFD_PT"
	case ioasAlloc:
		return "IOMMU_IOAS_ALLOC"
	case ioasRanges:
		return "IOMMU_IOAS_IOVA_RANGES"
	case ioasMap:
		return "IOMMU_IOAS_MAP"
	case ioasUnmap:
		return "IOMMU_IOAS_UNMAP"
	}
	return fmt.Sprintf("ioctl %#x", uint(r))
}

// Versions, kinds and sizes (linux/vfio.h).
const (
	apiVersion = 0 // VFIO_API_VERSION
	type1v2    = 3 // VFIO_TYPE1v2_IOMMU
	numIRQs    = 5 // VFIO_PCI_NUM_IRQS
	headerSize = 8 // struct vfio_info_cap_header
)

// Flags of the structures (linux/vfio.h, linux/iommufd.h).
const (
	groupViable = 1 // VFIO_GROUP_FLAGS_VIABLE

	deviceHasReset = 1 // VFIO_DEVICE_FLAGS_RESET
	deviceIsPCI    = 2 // VFIO_DEVICE_FLAGS_PCI

	regionRead  = 1 // VFIO_REGION_INFO_FLAG_READ
	regionWrite = 2 // VFIO_REGION_INFO_FLAG_WRITE
	regionMmap  = 4 // VFIO_REGION_INFO_FLAG_MMAP
	regionCaps  = 8 // VFIO_REGION_INFO_FLAG_CAPS

	irqNoResize = 8 // VFIO_IRQ_INFO_NORESIZE

	irqSetNone    = 0x21 // VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER
	irqSetEventfd = 0x24 // VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER

	iommuPageSizes = 1 // VFIO_IOMMU_INFO_PGSIZES
	iommuCaps      = 2 // VFIO_IOMMU_INFO_CAPS

	mapReadWrite  = 3 // VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE
	ioasFixedRW   = 7 // IOMMU_IOAS_MAP_FIXED_IOVA | _WRITEABLE | _READABLE
	capSparse     = 1 // VFIO_REGION_INFO_CAP_SPARSE_MMAP
	capIOVARanges = 1 // VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE
	capDMAAvail   = 3 // VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL
)

// u32 reads a 32-bit field.
func u32(b []byte, off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }

// u64 reads a 64-bit field.
func u64(b []byte, off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }

// fields appends 32-bit fields.
func fields(b []byte, v ...uint32) []byte {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

// wide appends 64-bit fields.
func wide(b []byte, v ...uint64) []byte {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}

// errCapabilities refuses a chain of capabilities.
var errCapabilities = errors.New("broken chain of capabilities")

// eachCapability calls visit with every capability behind a structure, header included;
// the slice goes on to the end of b, since the header doesn't say how long one is. The
// chain must lead forward, so it ends.
func eachCapability(b []byte, first uint32, visit func(id uint16, c []byte) error) error {
	least := uint32(0)
	for at := first; at != 0; {
		if at <= least || uint64(at)+headerSize > uint64(len(b)) {
			return errCapabilities
		}
		c := b[at:]
		if err := visit(binary.LittleEndian.Uint16(c), c); err != nil {
			return err
		}
		least, at = at, u32(c, 4)
	}
	return nil
}

// pairs decodes n pairs of 64-bit numbers of a capability, from offset 16 on.
func pairs(c []byte, n uint32) ([][2]uint64, error) {
	const start = 16
	if len(c) < start || uint64(n) > uint64(len(c)-start)/16 {
		return nil, errCapabilities
	}
	list := make([][2]uint64, n)
	for i := range list {
		list[i] = [2]uint64{u64(c, start+16*i), u64(c, start+16*i+8)}
	}
	return list, nil
}

// A deviceInfo is what VFIO_DEVICE_GET_INFO tells (struct vfio_device_info, 24 bytes).
type deviceInfo struct{ flags, regions, irqs uint32 }

// deviceInfoRequest asks for it.
func deviceInfoRequest() []byte { return fields(nil, 24, 0, 0, 0, 0, 0) }

// decodeDeviceInfo takes the answer apart.
func decodeDeviceInfo(b []byte) deviceInfo {
	return deviceInfo{flags: u32(b, 4), regions: u32(b, 8), irqs: u32(b, 12)}
}

// A regionInfo is what VFIO_DEVICE_GET_REGION_INFO tells (struct vfio_region_info, 32
// bytes and capabilities).
type regionInfo struct {
	flags  uint32
	size   int64
	offset int64 // of the region within the device's descriptor
	// mappable is how many bytes from the region's start on can be mapped.
	mappable int64
}

// regionInfoRequest asks for region i.
func regionInfoRequest(i uint32) []byte { return fields(nil, 32, 0, i, 0, 0, 0, 0, 0) }

// decodeRegionInfo takes the answer apart, capabilities included.
func decodeRegionInfo(b []byte) (regionInfo, error) {
	r := regionInfo{flags: u32(b, 4), size: int64(u64(b, 16)), offset: int64(u64(b, 24))}
	if r.size < 0 || r.offset < 0 || r.offset+r.size < 0 {
		return r, fmt.Errorf("%#x bytes at offset %#x are too many", uint64(r.size), uint64(r.offset))
	}
	if r.flags&regionMmap != 0 {
		r.mappable = r.size
	}
	if r.flags&regionCaps == 0 {
		return r, nil
	}
	return r, eachCapability(b, u32(b, 12), func(id uint16, c []byte) error {
		if id != capSparse {
			return nil
		}
		if len(c) < 16 {
			return errCapabilities
		}
		areas, err := pairs(c, u32(c, 8))
		if err != nil {
			return err
		}
		r.mappable = min(r.mappable, prefix(areas))
		return nil
	})
}

// prefix returns how much from 0 on is covered by areas (offset, size), which are in
// order.
func prefix(areas [][2]uint64) int64 {
	end := uint64(0)
	for _, a := range areas {
		if next := a[0] + a[1]; a[0] <= end && next >= a[0] {
			end = max(end, next)
		}
	}
	return int64(min(end, 1<<63-1))
}

// An irqInfo is what VFIO_DEVICE_GET_IRQ_INFO tells (struct vfio_irq_info, 16 bytes).
type irqInfo struct{ flags, count uint32 }

// irqInfoRequest asks for a kind of interrupt.
func irqInfoRequest(kind IRQ) []byte { return fields(nil, 16, 0, uint32(kind), 0) }

// decodeIRQInfo takes the answer apart.
func decodeIRQInfo(b []byte) irqInfo { return irqInfo{flags: u32(b, 4), count: u32(b, 12)} }

// setIRQs binds interrupts 0 to len(events)-1 of a kind to eventfds, -1 for none (struct
// vfio_irq_set, 20 bytes and data). Without events it switches the kind off.
func setIRQs(kind IRQ, events []int32) []byte {
	flags := uint32(irqSetEventfd)
	if len(events) == 0 {
		flags = irqSetNone
	}
	n := uint32(len(events))
	b := fields(nil, 20+4*n, flags, uint32(kind), 0, n)
	for _, e := range events {
		b = fields(b, uint32(e))
	}
	return b
}

// An iommuInfo is what a device may map.
type iommuInfo struct {
	pages  uint64 // mask of page sizes
	ranges []Range
	avail  int // how many mappings there may be; noLimit if the kernel doesn't say
}

// noLimit stands for a number of mappings that the kernel doesn't tell.
const noLimit = -1

// page returns the smallest page.
func (i iommuInfo) page() uint64 { return i.pages & -i.pages }

// iommuInfoRequest asks a container (struct vfio_iommu_type1_info, 24 bytes and
// capabilities).
func iommuInfoRequest() []byte { return fields(nil, 24, 0, 0, 0, 0, 0) }

// decodeIOMMUInfo takes the answer apart, capabilities included.
func decodeIOMMUInfo(b []byte) (iommuInfo, error) {
	info := iommuInfo{avail: noLimit}
	flags := u32(b, 4)
	if flags&iommuPageSizes != 0 {
		info.pages = u64(b, 8)
	}
	if flags&iommuCaps == 0 {
		return info, nil
	}
	return info, eachCapability(b, u32(b, 16), func(id uint16, c []byte) error {
		switch id {
		case capIOVARanges:
			if len(c) < 16 {
				return errCapabilities
			}
			list, err := pairs(c, u32(c, 8))
			if err != nil {
				return err
			}
			info.ranges = rangesOf(list)
		case capDMAAvail:
			if len(c) < 12 {
				return errCapabilities
			}
			info.avail = int(u32(c, 8))
		}
		return nil
	})
}

// rangesOf makes ranges of pairs of first and last addresses.
func rangesOf(list [][2]uint64) []Range {
	var ranges []Range
	for _, p := range list {
		if p[0] <= p[1] {
			ranges = append(ranges, Range{IOVA(p[0]), IOVA(p[1])})
		}
	}
	return ranges
}

// mapRequest maps memory in a container (struct vfio_iommu_type1_dma_map, 32 bytes).
func mapRequest(iova IOVA, addr, size uint64) []byte {
	return wide(fields(nil, 32, mapReadWrite), addr, uint64(iova), size)
}

// unmapRequest ends mappings (struct vfio_iommu_type1_dma_unmap, 24 bytes); the answer
// holds how many bytes were mapped.
func unmapRequest(iova IOVA, size uint64) []byte {
	return wide(fields(nil, 24, 0), uint64(iova), size)
}

// bindRequest gives a device to an iommufd (struct vfio_device_bind_iommufd, 16 bytes).
func bindRequest(iommufd int) []byte { return fields(nil, 16, 0, uint32(iommufd), 0) }

// attachRequest attaches a device to an address space (struct
// vfio_device_attach_iommufd_pt, 12 bytes).
func attachRequest(ioas uint32) []byte { return fields(nil, 12, 0, ioas) }

// ioasAllocRequest makes an address space (struct iommu_ioas_alloc, 12 bytes); the
// answer holds its number at offset 8.
func ioasAllocRequest() []byte { return fields(nil, 12, 0, 0) }

// ioasRangesRequest asks for up to n ranges, to be stored at address to (struct
// iommu_ioas_iova_ranges, 32 bytes); the answer holds their number at offset 8 and the
// alignment of IOVAs at 24.
func ioasRangesRequest(ioas uint32, n int, to uint64) []byte {
	return wide(fields(nil, 32, ioas, uint32(n), 0), to, 0)
}

// ioasMapRequest maps memory (struct iommu_ioas_map, 40 bytes).
func ioasMapRequest(ioas uint32, iova IOVA, addr, size uint64) []byte {
	return wide(fields(nil, 40, ioasFixedRW, ioas, 0), addr, size, uint64(iova))
}

// ioasUnmapRequest ends mappings (struct iommu_ioas_unmap, 24 bytes); the answer holds
// how many bytes were mapped at offset 16.
func ioasUnmapRequest(ioas uint32, iova IOVA, size uint64) []byte {
	return wide(fields(nil, 24, ioas), uint64(iova), size)
}
