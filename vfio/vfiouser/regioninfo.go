package vfiouser

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Flags of a regionInfo (vfio-user.md 5.2).
const (
	regionRead  = 1
	regionWrite = 2
	regionMmap  = 4 // parts of it can be mapped from the descriptor that comes along
	regionCaps  = 8 // capabilities follow
)

// A regionInfo is the payload of GET_REGION_INFO and of its reply (vfio-user.md 5.2).
type regionInfo struct {
	argsz  uint32 // room for the reply, or length of the whole reply
	flags  uint32
	index  uint32
	size   uint64 // of the region, in bytes
	offset uint64 // in the descriptor; sums with areas may wrap
	areas  []area // of the sparse-mmap capability; nil: there is none
}

// An area is a part of a region that can be mapped, in bytes.
type area struct{ offset, size uint64 }

// Lengths and numbers of region information.
const (
	regionInfoSize = 32
	sparseSize     = 16 // the capability's header
	areaSize       = 16
	sparseID       = 1 // VFIO_REGION_INFO_CAP_SPARSE_MMAP
	sparseVersion  = 1

	// maxRegionInfo is the longest reply that a client asks for: 255 areas.
	maxRegionInfo = 4096 + regionInfoSize
)

// length returns the length of the whole payload.
func (r regionInfo) length() uint32 {
	if len(r.areas) == 0 {
		return regionInfoSize
	}
	return uint32(regionInfoSize + sparseSize + areaSize*len(r.areas))
}

// append adds the payload to b, with capabilities if it has any and whole says so.
func (r regionInfo) append(b []byte, whole bool) []byte {
	caps, flags := uint32(0), r.flags
	if whole && len(r.areas) > 0 {
		caps, flags = regionInfoSize, flags|regionCaps
	}
	b = appendU32s(b, r.argsz, flags, r.index, caps)
	b = appendU64s(b, r.size, r.offset)
	if caps == 0 {
		return b
	}
	b = binary.LittleEndian.AppendUint16(b, sparseID)
	b = binary.LittleEndian.AppendUint16(b, sparseVersion)
	b = appendU32s(b, 0, uint32(len(r.areas)), 0)
	for _, a := range r.areas {
		b = appendU64s(b, a.offset, a.size)
	}
	return b
}

// decodeRegionInfo decodes a payload.
func decodeRegionInfo(b []byte) (regionInfo, error) {
	if len(b) < regionInfoSize {
		return regionInfo{}, fmt.Errorf("payload has %d bytes; want at least %d", len(b), regionInfoSize)
	}
	r := regionInfo{argsz: u32(b, 0), flags: u32(b, 4), index: u32(b, 8), size: u64(b, 16), offset: u64(b, 24)}
	if r.argsz < regionInfoSize {
		return r, fmt.Errorf("argsz is %d; want at least %d", r.argsz, regionInfoSize)
	}
	if r.flags&regionCaps == 0 {
		return r, nil
	}
	// Each capability names the next one; a list that goes on upwards has an end.
	for at, next := uint32(0), u32(b, 12); next != 0; {
		if next < max(regionInfoSize, at+8) || uint64(next)+8 > uint64(len(b)) {
			return r, fmt.Errorf("capability at %#x of %d bytes", next, len(b))
		}
		at = next
		next = u32(b, int(at)+4)
		if binary.LittleEndian.Uint16(b[at:]) != sparseID {
			continue
		}
		var err error
		if r.areas, err = decodeAreas(b[at:]); err != nil {
			return r, err
		}
	}
	return r, nil
}

// decodeAreas decodes a sparse-mmap capability.
func decodeAreas(b []byte) ([]area, error) {
	if len(b) < sparseSize {
		return nil, errors.New("capability is cut off")
	}
	n := u32(b, 8)
	b = b[sparseSize:]
	if uint64(n) > uint64(len(b)/areaSize) {
		return nil, fmt.Errorf("%d areas in %d bytes", n, len(b))
	}
	areas := make([]area, n)
	for i := range areas {
		areas[i] = area{u64(b, i*areaSize), u64(b, i*areaSize+8)}
	}
	return areas, nil
}
