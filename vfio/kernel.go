package vfio

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
)

// A mapper is the DMA side of a function in the kernel: a container (group.go) or an
// address space of an iommufd (iommufd.go).
type mapper interface {
	// info says what may be mapped.
	info() iommuInfo
	// mapDMA maps memory at an address of this process, in pages.
	mapDMA(iova IOVA, addr, size uint64) error
	// unmapDMA ends mappings and returns how many bytes they had.
	unmapDMA(iova IOVA, size uint64) (uint64, error)
	// Close ends everything that is still mapped.
	Close() error
}

// A kernelDevice is a Device behind the kernel's VFIO: what both ways to get at it have
// in common.
type kernelDevice struct {
	host    *host
	file    *fd.FD
	dma     mapper
	limits  iommuInfo
	mapped  int // DMA mappings
	flags   uint32
	regions [NumRegions]*kernelRegion
	irqs    [numIRQs]kernelIRQs
}

// A kernelIRQs is the state of one kind of interrupt.
type kernelIRQs struct {
	irqInfo
	enabled int // how many the kernel has set up; 0: the kind is off
}

// newKernelDevice reads what there is to know about the device behind file. It owns
// file and dma, also if it fails.
func newKernelDevice(h *host, file *fd.FD, dma mapper) (d *kernelDevice, err error) {
	d = &kernelDevice{host: h, file: file, dma: dma, limits: dma.info()}
	defer func() {
		if err != nil {
			d.Close()
			d = nil
		}
	}()
	b := deviceInfoRequest()
	if _, err := h.do(file, deviceGetInfo, b); err != nil {
		return d, err
	}
	info := decodeDeviceInfo(b)
	if info.flags&deviceIsPCI == 0 {
		return d, fmt.Errorf("%s is no PCI function", file)
	}
	if d.limits.page() == 0 {
		return d, errors.New("IOMMU without page sizes")
	}
	d.flags = info.flags
	for i := range d.regions {
		r := &kernelRegion{file: file}
		d.regions[i] = r
		if uint32(i) >= info.regions {
			continue
		}
		if r.info, err = d.readRegionInfo(uint32(i)); err != nil {
			return d, fmt.Errorf("region %d: %w", i, err)
		}
	}
	for i := range d.irqs {
		if uint32(i) >= info.irqs {
			continue
		}
		b := irqInfoRequest(IRQ(i))
		_, err := h.do(file, deviceGetIRQ, b)
		if errors.Is(err, unix.EINVAL) {
			continue // none of this kind: Err without PCI Express
		}
		if err != nil {
			return d, fmt.Errorf("interrupts of kind %d: %w", i, err)
		}
		d.irqs[i].irqInfo = decodeIRQInfo(b)
	}
	return d, nil
}

// readRegionInfo asks for region i. The kernel answers EINVAL for VGA, which is then a
// region of size 0.
func (d *kernelDevice) readRegionInfo(i uint32) (regionInfo, error) {
	b, err := d.host.query(d.file, deviceGetRegion, regionInfoRequest(i))
	if errors.Is(err, unix.EINVAL) {
		return regionInfo{}, nil
	}
	if err != nil {
		return regionInfo{}, err
	}
	return decodeRegionInfo(b)
}

// Region is Device.Region.
func (d *kernelDevice) Region(i int) (Region, error) {
	if i < 0 || i >= NumRegions {
		return nil, fmt.Errorf("region %d: no such index", i)
	}
	return d.regions[i], nil
}

// Vectors is Device.Vectors.
func (d *kernelDevice) Vectors(kind IRQ) (int, error) {
	if kind < 0 || kind >= numIRQs {
		return 0, fmt.Errorf("interrupts of kind %d: no such kind", kind)
	}
	return int(d.irqs[kind].count), nil
}

// SetIRQs is Device.SetIRQs. A set that doesn't outgrow the one before is changed in
// place; so is a larger one if the kernel can do that (Linux 6.5, MSI-X). Otherwise
// the kind is off for a moment, and interrupts of that moment are lost.
func (d *kernelDevice) SetIRQs(kind IRQ, events []*fd.FD) error {
	count, err := d.Vectors(kind)
	if err != nil {
		return err
	}
	if len(events) > count {
		return fmt.Errorf("set %d interrupts of kind %d: there are %d", len(events), kind, count)
	}
	q := &d.irqs[kind]
	if q.enabled > 0 && (len(events) == 0 || len(events) > q.enabled && q.flags&irqNoResize != 0) {
		if _, err := d.host.do(d.file, deviceSetIRQs, setIRQs(kind, nil)); err != nil {
			return fmt.Errorf("switch interrupts of kind %d off: %w", kind, err)
		}
		q.enabled = 0
	}
	if len(events) == 0 {
		return nil
	}
	fds := make([]int32, 0, max(len(events), q.enabled))
	for _, e := range events {
		fds = append(fds, int32(e.Int()))
	}
	for len(fds) < q.enabled {
		fds = append(fds, -1) // no longer wanted
	}
	n, err := d.host.do(d.file, deviceSetIRQs, setIRQs(kind, fds))
	switch {
	case errors.Is(err, unix.ENOSPC):
		return vectorError(len(events), err)
	case err != nil:
		return fmt.Errorf("set %d interrupts of kind %d: %w", len(events), kind, err)
	case n > 0:
		// Instead of an error the kernel may tell how many it could have given.
		return vectorError(len(events), fmt.Errorf("only %d", n))
	}
	q.enabled = len(fds)
	return nil
}

// Ranges is Device.Ranges.
func (d *kernelDevice) Ranges() []Range { return slices.Clone(d.limits.ranges) }

// PageSize is Device.PageSize.
func (d *kernelDevice) PageSize() uint64 { return d.limits.page() }

// MapDMA is Device.MapDMA. The kernel locks the pages and looks at neither file nor off.
func (d *kernelDevice) MapDMA(iova IOVA, mem []byte, _ *fd.FD, _ int64) error {
	size := uint64(len(mem))
	if size == 0 || (size|uint64(iova))%d.PageSize() != 0 {
		return fmt.Errorf("map %#x bytes at IOVA %#x: not in pages of %#x", size, iova, d.PageSize())
	}
	if d.limits.avail != noLimit && d.mapped >= d.limits.avail {
		return mapError(size, unix.ENOSPC)
	}
	if err := d.host.lockable(size); err != nil {
		return err
	}
	err := withAddress(mem, func(addr uint64) error { return d.dma.mapDMA(iova, addr, size) })
	if err != nil {
		return fmt.Errorf("map %#x bytes at IOVA %#x: %w", size, iova, mapError(size, err))
	}
	d.mapped++
	return nil
}

// UnmapDMA is Device.UnmapDMA.
func (d *kernelDevice) UnmapDMA(iova IOVA, size uint64) error {
	n, err := d.dma.unmapDMA(iova, size)
	if err == nil && n != size {
		err = fmt.Errorf("%#x bytes were mapped", n)
	}
	if err != nil {
		return fmt.Errorf("unmap %#x bytes at IOVA %#x: %w", size, iova, err)
	}
	d.mapped--
	return nil
}

// Reset is Device.Reset. Mappings of regions stay valid (nested-lab.md 6).
func (d *kernelDevice) Reset() error {
	if d.flags&deviceHasReset == 0 {
		return fmt.Errorf("reset %s: %w", d.file, errors.ErrUnsupported)
	}
	_, err := d.host.doInt(d.file, deviceReset, 0)
	return err
}

// Gone is Device.Gone: the kernel doesn't say.
func (d *kernelDevice) Gone() <-chan struct{} { return nil }

// Close gives the function back: the kernel switches its interrupts and bus mastering
// off, and resets it. Nothing may use a mapping of a region any more.
func (d *kernelDevice) Close() error {
	var errs []error
	for _, r := range d.regions {
		if r != nil {
			errs = append(errs, r.close())
		}
	}
	return errors.Join(append(errs, d.file.Close(), d.dma.Close())...)
}
