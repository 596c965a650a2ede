package vfio

import (
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
)

// A kernelRegion is a region of a kernelDevice: a part of its descriptor.
//
// The kernel splits what is read and written into naturally aligned accesses of 4, 2 and
// 1 bytes, and of 8 since Linux 6.11.
type kernelRegion struct {
	file *fd.FD
	info regionInfo

	mu  sync.Mutex // guards mem
	mem []byte     // the mapping, once there is one
}

// Size is Region.Size.
func (r *kernelRegion) Size() int64 { return r.info.size }

// ReadAt is Region.ReadAt.
func (r *kernelRegion) ReadAt(p []byte, off int64) (int, error) {
	return r.transfer(p, off, unix.Pread, regionRead)
}

// WriteAt is Region.WriteAt.
func (r *kernelRegion) WriteAt(p []byte, off int64) (int, error) {
	return r.transfer(p, off, unix.Pwrite, regionWrite)
}

// transfer reads or writes p at offset off of the region.
func (r *kernelRegion) transfer(p []byte, off int64, call func(int, []byte, int64) (int, error), flag uint32) (done int, err error) {
	if r.info.flags&flag == 0 && r.info.size > 0 {
		return 0, fmt.Errorf("offset %#x of %s: %w", off, r.file, unix.EACCES)
	}
	if off < 0 {
		return 0, fmt.Errorf("offset %#x of %s: %w", off, r.file, unix.EINVAL)
	}
	if room := max(0, r.info.size-off); int64(len(p)) > room {
		if room == 0 {
			return 0, io.EOF
		}
		done, err = r.transfer(p[:room], off, call, flag)
		if err == nil {
			err = io.EOF
		}
		return done, err
	}
	for done < len(p) {
		n, err := call(r.file.Int(), p[done:], r.info.offset+off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, fmt.Errorf("offset %#x of %s: %w", r.info.offset+off, r.file, err)
		case n == 0:
			return done, fmt.Errorf("offset %#x of %s: %w", r.info.offset+off, r.file, io.ErrUnexpectedEOF)
		default:
			done += n
		}
	}
	return done, nil
}

// Mmap is Region.Mmap. The mapping is made once.
func (r *kernelRegion) Mmap() ([]byte, error) {
	const both = regionRead | regionWrite
	n := r.info.mappable &^ int64(os.Getpagesize()-1)
	if n == 0 || r.info.flags&both != both || int64(int(n)) != n {
		return nil, ErrNotMappable
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mem != nil {
		return r.mem, nil
	}
	mem, err := unix.Mmap(r.file.Int(), r.info.offset, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %#x bytes at offset %#x of %s: %w", n, r.info.offset, r.file, err)
	}
	r.mem = mem
	return mem, nil
}

// close ends the mapping.
func (r *kernelRegion) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mem == nil {
		return nil
	}
	mem := r.mem
	r.mem = nil
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("unmap a region of %s: %w", r.file, err)
	}
	return nil
}
