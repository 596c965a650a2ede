package vfio

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
)

// A Space hands out IOVAs, lowest first and never 0, which too many devices take for
// "none". Its methods may be called from any goroutine.
type Space struct {
	page uint64

	mu   sync.Mutex
	free []Range         // whole pages, in order, not touching
	used map[IOVA]uint64 // sizes
}

// NewSpace makes a Space of the whole pages of ranges, which may be in any order and
// overlap; page is a power of two.
func NewSpace(ranges []Range, page uint64) *Space {
	s := &Space{page: page, used: make(map[IOVA]uint64)}
	for _, r := range ranges {
		first := max(uint64(r.First), 1)
		up := (first + page - 1) &^ (page - 1)
		// The last page ends where r does, or it isn't whole; r may end with the address space.
		size := (uint64(r.Last) - up + 1) &^ (page - 1)
		if up < first || uint64(r.Last) < up || size == 0 {
			continue
		}
		s.release(Range{IOVA(up), IOVA(up + size - 1)})
	}
	return s
}

// Alloc returns the start of size free bytes; size is rounded up to pages.
func (s *Space) Alloc(size uint64) (IOVA, error) {
	n := (size + s.page - 1) &^ (s.page - 1)
	if size == 0 || n < size {
		return 0, fmt.Errorf("%#x bytes of IOVAs: no such size", size)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range s.free {
		if uint64(r.Last-r.First) < n-1 {
			continue
		}
		if uint64(r.Last-r.First) == n-1 {
			s.free = slices.Delete(s.free, i, i+1)
		} else {
			s.free[i].First += IOVA(n)
		}
		s.used[r.First] = n
		return r.First, nil
	}
	return 0, fmt.Errorf("no %#x bytes of IOVAs in one piece are free", n)
}

// Free gives back what Alloc returned. Anything else is ignored.
func (s *Space) Free(iova IOVA) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.used[iova]; ok {
		delete(s.used, iova)
		s.release(Range{iova, iova + IOVA(n) - 1})
	}
}

// release adds a range to those that are free, and joins it with those that it touches.
func (s *Space) release(r Range) {
	i, _ := slices.BinarySearchFunc(s.free, r, func(a, b Range) int {
		if a.Last < b.First && b.First-a.Last > 1 {
			return -1
		}
		return 1
	})
	j := i
	for ; j < len(s.free) && (s.free[j].First <= r.Last || s.free[j].First-r.Last == 1); j++ {
		r = Range{min(r.First, s.free[j].First), max(r.Last, s.free[j].Last)}
	}
	s.free = slices.Replace(s.free, i, j, r)
}

// An Arena is memory that a device may read and write, in one piece for both sides. The
// memory is a file of our own, so that a device in another process can map it; nobody
// can shorten it.
type Arena struct {
	Mem  []byte // zeros at first; page-aligned; valid until Close
	IOVA IOVA   // where the device sees Mem

	dev   Device
	space *Space
	file  *fd.FD
}

// NewArena makes an Arena of at least size bytes for a device that has no other: it
// looks for IOVAs as if all were free. See Space.NewArena for several.
func NewArena(dev Device, size int) (*Arena, error) {
	return NewSpace(dev.Ranges(), dev.PageSize()).NewArena(dev, size)
}

// NewArena makes an Arena of at least size bytes at IOVAs of the space. It must be closed
// before dev.
func (s *Space) NewArena(dev Device, size int) (_ *Arena, err error) {
	page := os.Getpagesize()
	if p := dev.PageSize(); p > uint64(page) {
		return nil, fmt.Errorf("DMA memory: the IOMMU has pages of %d bytes, the kernel of %d", p, page)
	}
	if size <= 0 || size > 1<<40 {
		return nil, fmt.Errorf("DMA memory of %d bytes: no such size", size)
	}
	size = (size + page - 1) &^ (page - 1)
	a := &Arena{dev: dev, space: s}
	defer func() {
		if err != nil {
			s.Free(a.IOVA)
			a.release()
		}
	}()
	if err := a.allocate(size); err != nil {
		return nil, fmt.Errorf("DMA memory of %d bytes: %w", size, err)
	}
	if a.IOVA, err = s.Alloc(uint64(size)); err != nil {
		return nil, fmt.Errorf("DMA memory: %w", err)
	}
	if err := dev.MapDMA(a.IOVA, a.Mem, a.file, 0); err != nil {
		return nil, fmt.Errorf("DMA memory: %w", err)
	}
	return a, nil
}

// allocate makes the file and maps it.
func (a *Arena) allocate(size int) error {
	n, err := unix.MemfdCreate("vfiofs-dma", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return err
	}
	a.file = fd.New(n, "DMA memory")
	if err := unix.Ftruncate(n, int64(size)); err != nil {
		return err
	}
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(n), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	a.Mem, err = unix.Mmap(n, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return err
}

// Close takes the memory from the device, which must not need it any more, and from us.
// The second and later calls do nothing.
func (a *Arena) Close() error {
	if a.Mem == nil {
		return nil
	}
	err := a.dev.UnmapDMA(a.IOVA, uint64(len(a.Mem)))
	if err == nil {
		a.space.Free(a.IOVA)
	}
	return errors.Join(err, a.release())
}

// release gives the memory back.
func (a *Arena) release() error {
	var err error
	if a.Mem != nil {
		err = unix.Munmap(a.Mem)
		a.Mem = nil
	}
	return errors.Join(err, a.file.Close())
}
