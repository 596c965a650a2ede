package vfiotest

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/vfio"
)

// A Region describes a region of a Function.
type Region struct {
	// Size in bytes; 0 stands for len(Init).
	Size int64
	// Init is what the region holds at first; the rest is zeros.
	Init []byte
	// Mappable regions are memory that the driver and the test share. They have no hooks.
	Mappable bool
	// File, if not nil, is the memory behind a mappable region, from its start on; it stays
	// the caller's.
	File *fd.FD
	// Read fills p, which lies within the region; nil reads plain memory.
	Read func(p []byte, off int64)
	// Write stores p; nil writes plain memory.
	Write func(p []byte, off int64)
}

// A region is one region of a Function.
type region struct {
	f      *Function
	index  int
	opt    Region
	mapped bool // mem is a mapping

	mu  sync.Mutex // guards the bytes of mem that are not mappable
	mem []byte
}

// newRegion makes region i of f.
func newRegion(f *Function, i int, opt Region) (*region, error) {
	if opt.Size == 0 {
		opt.Size = int64(len(opt.Init))
	}
	if opt.Size < 0 || int64(len(opt.Init)) > opt.Size {
		return nil, fmt.Errorf("%d bytes of content for a size of %d", len(opt.Init), opt.Size)
	}
	r := &region{f: f, index: i, opt: opt}
	if !opt.Mappable {
		r.mem = make([]byte, opt.Size)
		copy(r.mem, opt.Init)
		return r, nil
	}
	if opt.Read != nil || opt.Write != nil {
		return nil, errors.New("mappable and with hooks")
	}
	if opt.File == nil {
		file, err := newFile(opt.Size)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		opt.File = file
	}
	mem, err := mapFile(opt.File, 0, int(opt.Size))
	if err != nil {
		return nil, err
	}
	r.mem, r.mapped = mem, true
	copy(r.mem, opt.Init)
	return r, nil
}

// Mem returns the bytes of a mappable region, which the driver may be using too; nil of
// any other. They are valid until Close.
func (f *Function) Mem(i int) []byte {
	if i < 0 || i >= vfio.NumRegions || !f.regions[i].mapped {
		return nil
	}
	return f.regions[i].mem
}

// Size is vfio.Region.Size.
func (r *region) Size() int64 { return r.opt.Size }

// Mmap is vfio.Region.Mmap.
func (r *region) Mmap() ([]byte, error) {
	if err := r.f.check("Mmap"); err != nil {
		return nil, err
	}
	if !r.mapped {
		return nil, vfio.ErrNotMappable
	}
	return r.mem, nil
}

// ReadAt is vfio.Region.ReadAt.
func (r *region) ReadAt(p []byte, off int64) (int, error) {
	if room := max(0, r.opt.Size-off); off >= 0 && int64(len(p)) > room {
		if room == 0 {
			return 0, io.EOF
		}
		n, err := r.ReadAt(p[:room], off)
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	if err := r.access("ReadAt", p, off); err != nil {
		return 0, err
	}
	if r.opt.Read != nil {
		r.opt.Read(p, off)
		return len(p), nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return copy(p, r.mem[off:]), nil
}

// WriteAt is vfio.Region.WriteAt.
func (r *region) WriteAt(p []byte, off int64) (int, error) {
	if err := r.access("WriteAt", p, off); err != nil {
		return 0, err
	}
	if r.opt.Write != nil {
		r.opt.Write(p, off)
		return len(p), nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return copy(r.mem[off:], p), nil
}

// access checks an access: within the region, and outside of configuration space and
// memory only of register width, naturally aligned.
func (r *region) access(op string, p []byte, off int64) error {
	if err := r.f.check(op); err != nil {
		return err
	}
	n := int64(len(p))
	if off < 0 || off > r.opt.Size || n > r.opt.Size-off {
		return fmt.Errorf("region %d: %d bytes at offset %#x of %#x: %w", r.index, n, off, r.opt.Size, io.EOF)
	}
	if r.mapped || r.index == vfio.ConfigRegion {
		return nil
	}
	switch n {
	case 0:
		return nil
	case 1, 2, 4, 8:
		if off%n == 0 {
			return nil
		}
	}
	return fmt.Errorf("region %d: %d bytes at offset %#x are no register access", r.index, n, off)
}

// close ends the mapping.
func (r *region) close() error {
	if !r.mapped {
		return nil
	}
	return unix.Munmap(r.mem)
}

// newFile makes a memory file of a size.
func newFile(size int64) (*fd.FD, error) {
	n, err := unix.MemfdCreate("vfiotest", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory file: %w", err)
	}
	file := fd.New(n, "vfiotest memory")
	if err := unix.Ftruncate(n, size); err != nil {
		file.Close()
		return nil, fmt.Errorf("memory file of %d bytes: %w", size, err)
	}
	return file, nil
}

// mapFile maps n bytes of a file, which must have them.
func mapFile(file *fd.FD, off int64, n int) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(file.Int(), &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", file, err)
	}
	if off < 0 || int64(n) > st.Size-off {
		return nil, fmt.Errorf("%s has %d bytes; the mapping is %d at offset %#x", file, st.Size, n, off)
	}
	mem, err := unix.Mmap(file.Int(), off, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes at offset %#x of %s: %w", n, off, file, err)
	}
	return mem, nil
}
