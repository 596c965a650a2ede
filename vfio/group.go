package vfio

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/pci"
)

// A container is a mapper: an IOMMU context of /dev/vfio/vfio with one group in it.
type container struct {
	host        *host
	file, group *fd.FD
	limits      iommuInfo
}

// openGroup opens a function through its IOMMU group (nested-lab.md section 6, "Sequence
// that works").
func openGroup(h *host, f pci.Function) (_ *kernelDevice, err error) {
	c := &container{host: h}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if f.Group < 0 {
		return nil, &MissingError{
			Feature: "an IOMMU group",
			Need: "switch the IOMMU on in the firmware and boot with intel_iommu=on; " +
				"a VM of QEMU needs -device intel-iommu,caching-mode=on",
		}
	}
	group, err := h.sysfs().Group(f)
	if err != nil {
		return nil, err
	}
	if c.file, err = h.openFile("/dev/vfio/vfio", "load the driver: modprobe vfio-pci"); err != nil {
		return nil, err
	}
	number := strconv.Itoa(group.Number)
	if h.exists("/dev/vfio/noiommu-" + number) {
		return nil, &MissingError{Feature: "an IOMMU", Need: "leave the no-IOMMU mode of VFIO; vfiofs can't use it"}
	}
	c.group, err = h.openFile("/dev/vfio/"+number, "make the device file visible here, for example in this container")
	if err != nil {
		return nil, err
	}
	if err := c.connect(group); err != nil {
		return nil, err
	}
	name := f.Address.String()
	n, err := h.do(c.group, groupGetDevice, append([]byte(name), 0))
	if err != nil {
		return nil, err
	}
	return newKernelDevice(h, fd.New(n, name), c)
}

// connect checks the group, puts it into the container and gives that a type 1 IOMMU.
func (c *container) connect(group pci.Group) error {
	h := c.host
	status := fields(nil, 8, 0)
	if _, err := h.do(c.group, groupGetStatus, status); err != nil {
		return err
	}
	if u32(status, 4)&groupViable == 0 {
		return notViable(group, nil)
	}
	if v, err := h.doInt(c.file, getAPIVersion, 0); err != nil {
		return err
	} else if v != apiVersion {
		return fmt.Errorf("version %d of the VFIO API; want %d", v, apiVersion)
	}
	if v, err := h.doInt(c.file, checkExtension, type1v2); err != nil || v == 0 {
		return &MissingError{Feature: "the type 1 IOMMU driver", Need: "load it: modprobe vfio_iommu_type1", Err: err}
	}
	if _, err := h.do(c.group, groupSetCont, fields(nil, uint32(c.file.Int()))); err != nil {
		return notViable(group, err)
	}
	if _, err := h.doInt(c.file, setIOMMU, type1v2); err != nil {
		if errors.Is(err, unix.EPERM) {
			return remappingError("vfio_iommu_type1", err)
		}
		return err
	}
	b, err := h.query(c.file, iommuGetInfo, iommuInfoRequest())
	if err != nil {
		return err
	}
	if c.limits, err = decodeIOMMUInfo(b); err != nil {
		return fmt.Errorf("%s on %s: %w", iommuGetInfo, c.file, err)
	}
	if c.limits.ranges == nil {
		c.limits.ranges = usualRanges()
	}
	return nil
}

// usualRanges is what may be mapped if the kernel doesn't say: what the narrowest IOMMU
// reaches, without the start and the window of the interrupt controller of a PC
// (virtio-vhost-user.md 9.1).
func usualRanges() []Range {
	return []Range{{0x1_0000, 0xfedf_ffff}, {0xfef0_0000, 1<<39 - 1}}
}

// notViable explains why a group can't be used: VFIO gives user space all of it or
// nothing.
func notViable(group pci.Group, err error) error {
	var names []string
	for _, m := range group.Blockers() {
		names = append(names, m.Name+" ("+m.Driver+")")
	}
	if names == nil {
		if err == nil {
			err = errors.New("the kernel uses one of its devices")
		}
		return fmt.Errorf("IOMMU group %d: %w", group.Number, err)
	}
	return &MissingError{
		Feature: fmt.Sprintf("control of all of IOMMU group %d, blocked by %s", group.Number, strings.Join(names, ", ")),
		Need:    "bind the others to vfio-pci too, or to no driver: vfiofs vfio bind",
		Err:     err,
	}
}

// info is mapper.info.
func (c *container) info() iommuInfo { return c.limits }

// mapDMA is mapper.mapDMA.
func (c *container) mapDMA(iova IOVA, addr, size uint64) error {
	_, err := c.host.do(c.file, iommuMapDMA, mapRequest(iova, addr, size))
	return err
}

// unmapDMA is mapper.unmapDMA.
func (c *container) unmapDMA(iova IOVA, size uint64) (uint64, error) {
	b := unmapRequest(iova, size)
	_, err := c.host.do(c.file, iommuUnmapDMA, b)
	return u64(b, 16), err
}

// Close is mapper.Close.
func (c *container) Close() error { return errors.Join(c.group.Close(), c.file.Close()) }
