package vhostuser

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
)

// hugetlbfsMagic is the type of a hugetlbfs in statfs (linux/magic.h). A memfd with
// MFD_HUGETLB lives on one too.
const hugetlbfsMagic = 0x958458f6

// Map is Link.Map: each region is mapped from its own descriptor.
func (s *Socket) Map(m *Message, regions []Region) (maps []Mapping, err error) {
	if err := m.wantCount(len(regions)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unmapAll(maps)
			maps = nil
		}
	}()
	for i, r := range regions {
		mapping, err := mapFile(m.Files[i], r)
		if err != nil {
			return maps, fmt.Errorf("map region %d: %w", i, err)
		}
		maps = append(maps, mapping)
	}
	return maps, nil
}

// unmapAll ends mappings that nothing uses any more.
func unmapAll(maps []Mapping) error {
	var errs []error
	for _, m := range maps {
		if m.Unmap != nil {
			errs = append(errs, m.Unmap())
		}
	}
	return errors.Join(errs...)
}

// mapFile maps the part of file f that r describes.
func mapFile(f *fd.FD, r Region) (Mapping, error) {
	if err := checkLength(f, r); err != nil {
		return Mapping{}, err
	}
	page, err := pageSize(f)
	if err != nil {
		return Mapping{}, err
	}
	start, length, ok := align(r.Offset, r.Size, page)
	if !ok {
		return Mapping{}, fmt.Errorf("offset %#x + size %#x is too large", r.Offset, r.Size)
	}
	whole, err := unix.Mmap(f.Int(), start, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return Mapping{}, fmt.Errorf("%d bytes at offset %#x of %s: %w", length, start, f, err)
	}
	skip := r.Offset - uint64(start)
	return Mapping{
		Mem:   whole[skip:][:r.Size:r.Size],
		Unmap: func() error { return unix.Munmap(whole) },
	}, nil
}

// checkLength reports an error if a file ends before the region does: touching the
// mapping behind the end would raise SIGBUS. Devices have no length of their own;
// mmap knows.
func checkLength(f *fd.FD, r Region) error {
	var st unix.Stat_t
	if err := unix.Fstat(f.Int(), &st); err != nil {
		return fmt.Errorf("stat %s: %w", f, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG && r.Offset+r.Size > uint64(st.Size) {
		return fmt.Errorf("%s has %d bytes; the region ends at %d", f, st.Size, r.Offset+r.Size)
	}
	return nil
}

// pageSize returns the unit in which f can be mapped.
func pageSize(f *fd.FD) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(f.Int(), &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", f, err)
	}
	if uint64(st.Type) != hugetlbfsMagic {
		return uint64(os.Getpagesize()), nil
	}
	page := uint64(st.Bsize)
	if st.Bsize <= 0 || page&(page-1) != 0 {
		return 0, fmt.Errorf("page size %d of %s is not a power of two", st.Bsize, f)
	}
	return page, nil
}

// align widens size bytes at offset to whole pages, in the types of mmap.
func align(offset, size, page uint64) (start int64, length int, ok bool) {
	first := offset &^ (page - 1)
	end := offset + size
	if end < offset || end > math.MaxInt64-page {
		return 0, 0, false
	}
	end = (end + page - 1) &^ (page - 1)
	return int64(first), int(end - first), true
}
