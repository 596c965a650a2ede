package vfio

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
)

// An addressSpace is a mapper: an I/O address space of /dev/iommu.
type addressSpace struct {
	host   *host
	file   *fd.FD
	ioas   uint32
	limits iommuInfo
}

// openCdev opens a function through its own device file, /dev/vfio/devices/name
// (nested-lab.md 6.1).
func openCdev(h *host, name string) (_ *kernelDevice, err error) {
	s := &addressSpace{host: h}
	var file *fd.FD
	defer func() {
		if err != nil {
			file.Close()
			s.Close()
		}
	}()
	if s.file, err = h.openFile("/dev/iommu", "load the driver: modprobe iommufd"); err != nil {
		return nil, err
	}
	file, err = h.openFile("/dev/vfio/devices/"+name, "make the device file visible here, for example in this container")
	if err != nil {
		return nil, err
	}
	if err := s.attach(file); err != nil {
		return nil, err
	}
	return newKernelDevice(h, file, s)
}

// attach makes an address space and the device a part of it.
func (s *addressSpace) attach(device *fd.FD) error {
	h := s.host
	b := ioasAllocRequest()
	if _, err := h.do(s.file, ioasAlloc, b); err != nil {
		return err
	}
	s.ioas = u32(b, 8)
	if _, err := h.do(device, deviceBind, bindRequest(s.file.Int())); err != nil {
		if errors.Is(err, unix.EPERM) {
			return remappingError("iommufd", err)
		}
		return err
	}
	if _, err := h.do(device, deviceAttach, attachRequest(s.ioas)); err != nil {
		return err
	}
	return s.readRanges()
}

// readRanges asks what may be mapped, now that the device's limits count.
func (s *addressSpace) readRanges() error {
	const room = 64
	list := make([]byte, room*16)
	return withAddress(list, func(to uint64) error {
		b := ioasRangesRequest(s.ioas, room, to)
		_, err := s.host.do(s.file, ioasRanges, b)
		if err != nil && !errors.Is(err, unix.EMSGSIZE) { // there are more, which we can do without
			return err
		}
		n := min(u32(b, 8), room)
		var found [][2]uint64
		for i := range int(n) {
			found = append(found, [2]uint64{u64(list, 16*i), u64(list, 16*i+8)})
		}
		s.limits = iommuInfo{pages: max(u64(b, 24), uint64(os.Getpagesize())), ranges: rangesOf(found), avail: noLimit}
		return nil
	})
}

// info is mapper.info.
func (s *addressSpace) info() iommuInfo { return s.limits }

// mapDMA is mapper.mapDMA.
func (s *addressSpace) mapDMA(iova IOVA, addr, size uint64) error {
	_, err := s.host.do(s.file, ioasMap, ioasMapRequest(s.ioas, iova, addr, size))
	return err
}

// unmapDMA is mapper.unmapDMA.
func (s *addressSpace) unmapDMA(iova IOVA, size uint64) (uint64, error) {
	b := ioasUnmapRequest(s.ioas, iova, size)
	_, err := s.host.do(s.file, ioasUnmap, b)
	return u64(b, 16), err
}

// Close is mapper.Close.
func (s *addressSpace) Close() error { return s.file.Close() }
