package vfio

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// unhex decodes bytes written with spaces between fields.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRequests compares what the kernel gets with bytes typed from linux/vfio.h and
// linux/iommufd.h (nested-lab.md section 6).
func TestRequests(t *testing.T) {
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"device info", deviceInfoRequest(), "18000000 00000000 00000000 00000000 00000000 00000000"},
		{"region info", regionInfoRequest(7), "20000000 00000000 07000000 00000000 0000000000000000 0000000000000000"},
		{"irq info", irqInfoRequest(MSIX), "10000000 00000000 02000000 00000000"},
		{"irqs on", setIRQs(MSIX, []int32{5, -1, 260}), "20000000 24000000 02000000 00000000 03000000 05000000 ffffffff 04010000"},
		{"irqs off", setIRQs(MSIX, nil), "14000000 21000000 02000000 00000000 00000000"},
		{"iommu info", iommuInfoRequest(), "18000000 00000000 0000000000000000 00000000 00000000"},
		{"map", mapRequest(0x10000, 0x7f0012345000, 0x2000), "20000000 03000000 005034120 07f0000 0000010000000000 0020000000000000"},
		{"unmap", unmapRequest(0x10000, 0x2000), "18000000 00000000 0000010000000000 0020000000000000"},
		{"bind", bindRequest(9), "10000000 00000000 09000000 00000000"},
		{"attach", attachRequest(5), "0c000000 00000000 05000000"},
		{"ioas alloc", ioasAllocRequest(), "0c000000 00000000 00000000"},
		{"ioas ranges", ioasRangesRequest(5, 64, 0x7f0012345000), "20000000 05000000 40000000 00000000 0050341200 7f0000 0000000000000000"},
		{"ioas map", ioasMapRequest(5, 0x10000, 0x7f0012345000, 0x2000), "28000000 07000000 05000000 00000000 0050341200 7f0000 0020000000000000 0000010000000000"},
		{"ioas unmap", ioasUnmapRequest(5, 0x10000, 0x2000), "18000000 05000000 0000010000000000 0020000000000000"},
	} {
		if want := unhex(t, tt.want); !bytes.Equal(tt.got, want) {
			t.Errorf("%s = %x; want %x", tt.name, tt.got, want)
		}
	}
}

// TestNumbers compares numbers and names with the header's.
func TestNumbers(t *testing.T) {
	names := map[request]string{
		0x3b64: "VFIO_GET_API_VERSION", 0x3b65: "VFIO_CHECK_EXTENSION", 0x3b66: "VFIO_SET_IOMMU",
		0x3b67: "VFIO_GROUP_GET_STATUS", 0x3b68: "VFIO_GROUP_SET_CONTAINER", 0x3b6a: "VFIO_GROUP_GET_DEVICE_FD",
		0x3b6b: "VFIO_DEVICE_GET_INFO", 0x3b6c: "VFIO_DEVICE_GET_REGION_INFO", 0x3b6d: "VFIO_DEVICE_GET_IRQ_INFO",
		0x3b6e: "VFIO_DEVICE_SET_IRQS", 0x3b6f: "VFIO_DEVICE_RESET", 0x3b70: "VFIO_IOMMU_GET_INFO",
		0x3b71: "VFIO_IOMMU_MAP_DMA", 0x3b72: "VFIO_IOMMU_UNMAP_DMA", 0x3b76: "VFIO_DEVICE_BIND_IOMMUFD",
		0x3b77: "VFIO_DEVICE_ATTACH_IOMMUFD_PT", 0x3b81: "IOMMU_IOAS_ALLOC", 0x3b84: "IOMMU_IOAS_IOVA_RANGES",
		0x3b85: "IOMMU_IOAS_MAP", 0x3b86: "IOMMU_IOAS_UNMAP", 0x3b69: "ioctl 0x3b69",
	}
	for nr, want := range names {
		if got := nr.String(); got != want {
			t.Errorf("request(%#x) = %q; want %q", uint(nr), got, want)
		}
	}
}

func TestDecodeInfos(t *testing.T) {
	b := unhex(t, "18000000 03000000 09000000 05000000 00000000 00000000")
	if got, want := decodeDeviceInfo(b), (deviceInfo{3, 9, 5}); got != want {
		t.Errorf("decodeDeviceInfo = %v; want %v", got, want)
	}
	b = unhex(t, "10000000 01000000 02000000 14000000")
	if got, want := decodeIRQInfo(b), (irqInfo{1, 20}); got != want {
		t.Errorf("decodeIRQInfo = %v; want %v", got, want)
	}
}

func TestDecodeRegionInfo(t *testing.T) {
	const head = "00000000 0f000000 02000000 20000000 0040000000000000 0000000000020000" // flags f, size 0x4000, offset 2 << 40
	for _, tt := range []struct {
		name     string
		b        string
		mappable int64
		err      bool
	}{
		{"no capabilities", "20000000 07000000 02000000 00000000 0040000000000000 0000000000020000", 0x4000, false},
		{"not mappable", "20000000 03000000 02000000 00000000 0040000000000000 0000000000020000", 0, false},
		{"capability MSI-X mappable", head + "03000100 00000000", 0x4000, false},
		{"sparse from the start", head + "01000100 00000000 01000000 00000000 0000000000000000 0010000000000000", 0x1000, false},
		{"sparse, not from the start", head + "01000100 00000000 01000000 00000000 0010000000000000 0010000000000000", 0, false},
		{"two areas that touch", head + "01000100 00000000 02000000 00000000 0000000000000000 0010000000000000 0010000000000000 0010000000000000", 0x2000, false},
		{"an area larger than the region", head + "01000100 00000000 01000000 00000000 0000000000000000 ffffffffffffffff", 0x4000, false},
		{"an area that wraps", head + "01000100 00000000 02000000 00000000 0000000000000000 0010000000000000 0010000000000000 ffffffffffffffff", 0x1000, false},
		{"no areas", head + "01000100 00000000 00000000 00000000", 0, false},
		{"areas cut off", head + "01000100 00000000 02000000 00000000 0000000000000000 0010000000000000", 0, true},
		{"absurd number of areas", head + "01000100 00000000 ffffffff 00000000 0000000000000000 0010000000000000", 0, true},
		{"sparse cut off", head + "01000100 00000000 01000000", 0, true},
		{"a chain", head + "03000100 28000000 01000100 00000000 00000000 00000000", 0, false},
		{"a loop", head + "03000100 20000000", 0, true},
		{"a way back", head + "03000100 08000000", 0, true},
		{"out of bounds", head + "03000100 00100000", 0, true},
		{"size of 2^63", "20000000 03000000 02000000 00000000 0000000000000080 0000000000020000", 0, true},
		{"sum of 2^63", "20000000 03000000 02000000 00000000 0000000000000040 0000000000000040", 0, true},
	} {
		got, err := decodeRegionInfo(unhex(t, tt.b))
		if (err != nil) != tt.err {
			t.Errorf("%s: error %v; want one: %v", tt.name, err, tt.err)
		}
		if err == nil && got.mappable != tt.mappable {
			t.Errorf("%s: %#x bytes can be mapped; want %#x", tt.name, got.mappable, tt.mappable)
		}
	}
}

func TestDecodeIOMMUInfo(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    string
		want iommuInfo
		err  bool
	}{
		{"pages only", "18000000 01000000 0010204000000000 00000000 00000000", iommuInfo{pages: 0x40201000, avail: noLimit}, false},
		{"nothing", "18000000 00000000 0010204000000000 00000000 00000000", iommuInfo{avail: noLimit}, false},
		{
			"ranges, migration, mappings", "00000000 03000000 0010204000000000 18000000 00000000" +
				"01000100 48000000 02000000 00000000" + // IOVA ranges
				"0000000000000000 ffffdffe00000000" + "0000f0fe00000000 ffffffffffff0000" +
				"02000100 68000000 00000000 00000000 0000000000000000 0000000000000000" + // migration
				"03000100 00000000 ffff0000 00000000", // mappings left
			iommuInfo{0x40201000, []Range{{0, 0xfedfffff}, {0xfef00000, 1<<48 - 1}}, 65535}, false,
		},
		{
			"a range backwards", "00000000 02000000 0000000000000000 18000000 00000000" +
				"01000100 00000000 01000000 00000000 0010000000000000 0000000000000000",
			iommuInfo{avail: noLimit},
			false,
		},
		{"ranges cut off", "00000000 02000000 0000000000000000 18000000 00000000 01000100 00000000 01000000", iommuInfo{}, true},
		{"too few ranges", "00000000 02000000 0000000000000000 18000000 00000000 01000100 00000000 01000000 00000000", iommuInfo{}, true},
		{"mappings cut off", "00000000 02000000 0000000000000000 18000000 00000000 03000100 00000000", iommuInfo{}, true},
		{"capabilities cut off", "00000000 02000000 0000000000000000 18000000 00000000 03000100", iommuInfo{}, true},
	} {
		got, err := decodeIOMMUInfo(unhex(t, tt.b))
		if (err != nil) != tt.err {
			t.Errorf("%s: error %v; want one: %v", tt.name, err, tt.err)
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(iommuInfo{})); err == nil && diff != "" {
			t.Errorf("%s: want-, got+\n%s", tt.name, diff)
		}
	}
}

// FuzzRegionInfo: no answer of GET_REGION_INFO leads outside of the region.
func FuzzRegionInfo(f *testing.F) {
	f.Add(regionReply(regionRead|regionMmap, 0x4000, 2<<40))
	f.Add(capsReply(regionReply(regionMmap|regionCaps, 0x3000, 0), 32,
		capability(3, nil), capability(capSparse, wide(fields(nil, 2, 0), 0, 0x1000, 0x1000, 0x1000))))
	f.Add(capsReply(regionReply(regionMmap|regionCaps, 1<<62, 0), 32, capability(capSparse, fields(nil, 1<<31, 0))))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 32 {
			return // the kernel answers in the room that it is given
		}
		r, err := decodeRegionInfo(b)
		if err == nil && (r.size < 0 || r.mappable < 0 || r.mappable > r.size) {
			t.Errorf("decodeRegionInfo(%x) = %+v; want 0 <= mappable <= size", b, r)
		}
	})
}

// FuzzIOMMUInfo: ranges lead forward, and a Space can be made of them.
func FuzzIOMMUInfo(f *testing.F) {
	f.Add(wide(fields(nil, 24, 1), 0x1000, 0))
	f.Add(capsReply(wide(fields(nil, 24, 3), 0x40201000), 24,
		capability(capIOVARanges, wide(fields(nil, 2, 0), 0, 0xfedfffff, 0xfef00000, 1<<64-1)),
		capability(2, make([]byte, 24)),
		capability(capDMAAvail, fields(nil, 65535))))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 24 {
			return
		}
		info, err := decodeIOMMUInfo(b)
		if err != nil {
			if !errors.Is(err, errCapabilities) {
				t.Errorf("decodeIOMMUInfo(%x) = %v; want %v", b, err, errCapabilities)
			}
			return
		}
		if slices.ContainsFunc(info.ranges, func(r Range) bool { return r.First > r.Last }) {
			t.Errorf("decodeIOMMUInfo(%x) = %#x; want ranges that lead forward", b, info.ranges)
		}
		s := NewSpace(info.ranges, info.page())
		checkSpace(t, s, info.ranges)
		if iova, err := s.Alloc(1); err == nil {
			s.Free(iova)
		}
		checkSpace(t, s, info.ranges)
	})
}
