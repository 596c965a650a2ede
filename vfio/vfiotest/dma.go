package vfiotest

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/vfio"
)

// A mapping is what the device sees of the driver's memory.
type mapping struct {
	iova vfio.IOVA
	mem  []byte
}

// last returns the last address of the mapping.
func (m mapping) last() vfio.IOVA { return m.iova + vfio.IOVA(len(m.mem)) - 1 }

// unmap ends the device's own mapping.
func (m mapping) unmap() error { return unix.Munmap(m.mem) }

// Ranges is vfio.Device.Ranges.
func (f *Function) Ranges() []vfio.Range { return f.opt.Ranges }

// PageSize is vfio.Device.PageSize.
func (f *Function) PageSize() uint64 { return f.opt.Page }

// MapDMA is vfio.Device.MapDMA. The device maps the file on its own, so a test fails if
// file and off don't lead to mem.
func (f *Function) MapDMA(iova vfio.IOVA, mem []byte, file *fd.FD, off int64) error {
	if err := f.check("MapDMA"); err != nil {
		return err
	}
	size := uint64(len(mem))
	if size == 0 || (size|uint64(iova))%f.opt.Page != 0 {
		return fmt.Errorf("map %#x bytes at IOVA %#x: not in pages of %#x: %w", size, iova, f.opt.Page, unix.EINVAL)
	}
	last := iova + vfio.IOVA(size) - 1
	if last < iova || !slices.ContainsFunc(f.opt.Ranges, func(r vfio.Range) bool { return r.First <= iova && last <= r.Last }) {
		return fmt.Errorf("map %#x bytes at IOVA %#x: not within a range: %w", size, iova, unix.EINVAL)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.dma {
		if iova <= m.last() && m.iova <= last {
			return fmt.Errorf("map %#x bytes at IOVA %#x: overlaps %#x: %w", size, iova, m.iova, unix.EEXIST)
		}
	}
	view, err := mapFile(file, off, len(mem))
	if err != nil {
		return fmt.Errorf("map IOVA %#x: %w", iova, err)
	}
	f.dma = append(f.dma, mapping{iova, view})
	return nil
}

// UnmapDMA is vfio.Device.UnmapDMA; it must name one mapping exactly.
func (f *Function) UnmapDMA(iova vfio.IOVA, size uint64) error {
	if err := f.check("UnmapDMA"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, m := range f.dma {
		if m.iova == iova && uint64(len(m.mem)) == size {
			f.dma = slices.Delete(f.dma, i, i+1)
			return m.unmap()
		}
	}
	return fmt.Errorf("unmap %#x bytes at IOVA %#x: no such mapping: %w", size, iova, unix.ENOENT)
}

// DMA returns n bytes of the driver's memory as the device sees them; they are valid
// until the driver unmaps them.
func (f *Function) DMA(iova vfio.IOVA, n int) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.dma {
		if m.iova <= iova && iova <= m.last() {
			off := uint64(iova - m.iova)
			if n < 0 || uint64(n) > uint64(len(m.mem))-off {
				return nil, fmt.Errorf("%d bytes at IOVA %#x: the mapping ends at %#x", n, iova, m.last())
			}
			return m.mem[off:][:n:n], nil
		}
	}
	return nil, fmt.Errorf("%d bytes at IOVA %#x: not mapped", n, iova)
}

// Mapped returns what the driver has mapped for DMA now, in the order of its calls.
func (f *Function) Mapped() []vfio.Range {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ranges []vfio.Range
	for _, m := range f.dma {
		ranges = append(ranges, vfio.Range{First: m.iova, Last: m.last()})
	}
	return ranges
}
