package vfiouser

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/vfio"
	"vfiofs/virtio/guestmem"
)

// Limits of what a client may have mapped. QEMU maps one page per message behind a
// vIOMMU and doesn't know any limit (vfio-user.md 3.2).
const (
	maxEntries  = 1 << 18
	maxDMAFiles = 256 // different files
	maxViews    = 8   // mappings of one file that grows
)

// errEntries says that a client has as many ranges as it may have.
var errEntries = fmt.Errorf("more than %d DMA ranges: %w", maxEntries, unix.ENOSPC)

// hugetlbfsMagic is the type of a hugetlbfs in statfs (linux/magic.h). A memfd with
// MFD_HUGETLB lives on one too.
const hugetlbfsMagic = 0x958458f6

// A dmaMap is what a client has mapped for DMA.
type dmaMap struct {
	mu      sync.Mutex
	entries intervals
	files   []*file
	table   *guestmem.Table // of entries; nil until it is asked for
}

// add maps e, whose file the client gave with it (nil: none); add owns f. It reports
// whether e has taken the place of something else: an entry that says the same about
// addresses they share doesn't count (vfio-user.md 4.2).
func (d *dmaMap) add(e entry, f *fd.FD) (replaced bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e.file, err = d.fileOf(f); err != nil {
		return false, err
	}
	for old := range d.entries.overlapping(e.first, e.last) {
		if !old.continues(&e) {
			replaced = true
		} else if old.first <= e.first && old.last >= e.last {
			return false, nil // known already
		}
	}
	if d.entries.n >= maxEntries {
		return false, errEntries
	}
	d.entries.remove(e.first, e.last)
	d.entries.insert(e)
	d.table = nil
	return replaced, nil
}

// remove unmaps first to last, and reports whether there was anything.
func (d *dmaMap) remove(first, last uint64) (removed bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.entries.n >= maxEntries && d.entries.splits(first, last) {
		return false, errEntries
	}
	if removed = d.entries.remove(first, last); removed {
		d.table = nil
	}
	return removed, nil
}

// end unmaps everything, here too.
func (d *dmaMap) end() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.entries, d.table = intervals{}, nil
	var errs []error
	for _, f := range d.files {
		errs = append(errs, f.close())
	}
	d.files = nil
	return errors.Join(errs...)
}

// fileOf returns the file behind a descriptor, which it owns. Each file is kept once,
// however often it comes.
func (d *dmaMap) fileOf(f *fd.FD) (*file, error) {
	if f == nil {
		return nil, nil
	}
	id, err := identify(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	for _, known := range d.files {
		if known.id == id {
			f.Close()
			return known, nil
		}
	}
	if len(d.files) >= maxDMAFiles && !d.dropIdle() {
		f.Close()
		return nil, fmt.Errorf("more than %d files with DMA memory: %w", maxDMAFiles, unix.ENOSPC)
	}
	known := &file{id: id, fd: f}
	d.files = append(d.files, known)
	return known, nil
}

// dropIdle forgets a file without entries. Others of that kind stay: their mappings
// are likely to be of use again, when a vIOMMU is switched on or off.
func (d *dmaMap) dropIdle() bool {
	for i, f := range d.files {
		if f.entries == 0 {
			f.close()
			d.files = append(d.files[:i], d.files[i+1:]...)
			return true
		}
	}
	return false
}

// runs yields the memory in first to last that the device may read and write, joined
// to pieces as large as possible.
func (d *dmaMap) runs(first, last uint64) iter.Seq[entry] {
	return func(yield func(entry) bool) {
		var run entry // none yet while its file is nil
		for e := range d.entries.overlapping(first, last) {
			switch {
			case e.file == nil || e.flags != dmaRead|dmaWrite:
				continue
			case run.file != nil && e.first == run.last+1 && e.continues(&run):
				run.last = min(e.last, last)
				continue
			case run.file != nil && !yield(run):
				return
			}
			run = e.cut(first, last)
		}
		if run.file != nil {
			yield(run)
		}
	}
}

// measure looks at the sizes of all files.
func (d *dmaMap) measure() {
	for _, f := range d.files {
		f.measure()
	}
}

// snapshot is Bus.Snapshot.
func (d *dmaMap) snapshot() *guestmem.Table {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tableLocked()
}

// tableLocked builds the table anew if something has changed. The caller holds mu.
func (d *dmaMap) tableLocked() *guestmem.Table {
	if d.table != nil {
		return d.table
	}
	d.measure()
	var regions []guestmem.Region
	for run := range d.runs(0, math.MaxUint64) {
		if run.last == math.MaxUint64 {
			if run.last--; run.last < run.first {
				continue // a Table ends below 2^64
			}
		}
		if mem, err := run.file.bytes(run.off, run.last-run.first+1); err == nil {
			regions = append(regions, guestmem.Region{GPA: guestmem.GPA(run.first), Mem: mem})
		}
	}
	t, err := guestmem.NewTable(regions)
	if err != nil {
		panic("vfiouser: DMA ranges in order are no table: " + err.Error())
	}
	d.table = t
	return t
}

// view is Bus.View.
func (d *dmaMap) view(iova vfio.IOVA, n int) ([]byte, func() error, error) {
	first := uint64(iova)
	last, err := dmaRange{address: first, size: uint64(max(n, 0))}.last()
	if err != nil {
		return nil, nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if mem, ok := d.tableLocked().Slice(guestmem.GPA(first), uint64(n)); ok {
		return mem, func() error { return nil }, nil
	}
	d.measure()
	var pieces []entry
	next := first
	for run := range d.runs(first, last) {
		if run.first != next {
			break
		}
		pieces = append(pieces, run)
		next = run.last + 1
	}
	if next != last+1 {
		return nil, nil, fmt.Errorf("DMA memory at %#x: not shared by the client for reading and writing: %w", next, unix.EFAULT)
	}
	mem, err := join(pieces)
	if err != nil {
		return nil, nil, err
	}
	skip := int(first % uint64(os.Getpagesize()))
	return mem[skip:][:n:n], func() error { return unix.Munmap(mem) }, nil
}

// join maps pieces of memory that follow each other in one piece, in whole pages.
func join(pieces []entry) (mem []byte, err error) {
	page := uint64(os.Getpagesize())
	first, last := pieces[0].first&^(page-1), pieces[len(pieces)-1].last|(page-1)
	size := last - first + 1
	if size == 0 || size > math.MaxInt64 {
		return nil, fmt.Errorf("%#x bytes of DMA memory: %w", size, unix.ENOMEM)
	}
	mem, err = unix.Mmap(-1, 0, int(size), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes of address space: %w", size, err)
	}
	defer func() {
		if err != nil {
			unix.Munmap(mem)
			mem = nil
		}
	}()
	for i, p := range pieces {
		if i > 0 && p.first%page != 0 || p.off%page != p.first%page {
			return mem, fmt.Errorf("DMA memory at %#x is at %#x of its file: not on pages of %d bytes: %w", p.first, p.off, page, unix.EINVAL)
		}
		if err := p.file.mapPages(mem[p.first&^(page-1)-first:p.last|(page-1)-first+1], p.off&^(page-1)); err != nil {
			return mem, fmt.Errorf("DMA memory at %#x: %w", p.first, err)
		}
	}
	return mem, nil
}

// A fileID tells files apart. Descriptors of one file that allow different accesses
// count as different.
type fileID struct {
	dev, ino uint64
	access   int
}

// identify returns what f is. Only regular files have a size that can be checked.
func identify(f *fd.FD) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.Int(), &st); err != nil {
		return fileID{}, fmt.Errorf("stat %s: %w", f, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fileID{}, fmt.Errorf("%s is not a regular file: %w", f, unix.EINVAL)
	}
	flags, err := unix.FcntlInt(uintptr(f.Int()), unix.F_GETFL, 0)
	if err != nil {
		return fileID{}, fmt.Errorf("flags of %s: %w", f, err)
	}
	return fileID{uint64(st.Dev), st.Ino, flags & unix.O_ACCMODE}, nil
}

// A file is memory of the client. It is mapped whole, when it is first used.
type file struct {
	id      fileID
	fd      *fd.FD
	entries int
	size    uint64 // in bytes, when it was last measured
	// maps are mappings of the whole file. It may have grown between them, and Tables
	// may refer to any.
	maps [][]byte
}

// hold and drop count entries. A nil file may be held.
func (f *file) hold() {
	if f != nil {
		f.entries++
	}
}

func (f *file) drop() {
	if f != nil {
		f.entries--
	}
}

// measure asks how long the file is now.
func (f *file) measure() {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd.Int(), &st); err != nil {
		st.Size = 0
	}
	f.size = uint64(st.Size)
}

// check reports an error if n bytes at off are not in the file: touching a mapping
// behind the end would raise SIGBUS.
func (f *file) check(off, n uint64) error {
	if off > f.size || n > f.size-off {
		return fmt.Errorf("%s has %d bytes; the range is %#x bytes at %#x: %w", f.fd, f.size, n, off, unix.EFAULT)
	}
	return nil
}

// bytes returns n bytes at off of the file.
func (f *file) bytes(off, n uint64) ([]byte, error) {
	if err := f.check(off, n); err != nil {
		return nil, err
	}
	for _, m := range f.maps {
		if off+n <= uint64(len(m)) {
			return m[off:][:n:n], nil
		}
	}
	if len(f.maps) == maxViews {
		return nil, fmt.Errorf("%s has grown too often: %w", f.fd, unix.ENOMEM)
	}
	m, err := unix.Mmap(f.fd.Int(), 0, int(f.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of %s: %w", f.size, f.fd, err)
	}
	f.maps = append(f.maps, m)
	return m[off:][:n:n], nil
}

// mapPages maps the file from off on over mem, which is a reservation. The kernel
// would round mem up to huge pages for a file that is made of them, and overwrite what
// lies behind it.
func (f *file) mapPages(mem []byte, off uint64) error {
	if _, err := f.bytes(off, 1); err != nil { // it can be mapped at all
		return err
	}
	if err := f.check(off, uint64(len(mem))); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(f.fd.Int(), &st); err != nil {
		return fmt.Errorf("statfs %s: %w", f.fd, err)
	}
	if uint64(st.Type) == hugetlbfsMagic {
		return fmt.Errorf("%s is made of huge pages, of which parts can't be mapped: %w", f.fd, unix.EINVAL)
	}
	if err := mapOver(mem, f.fd.Int(), int64(off)); err != nil {
		return fmt.Errorf("map %d bytes at %#x of %s: %w", len(mem), off, f.fd, err)
	}
	return nil
}

// close unmaps and closes the file.
func (f *file) close() error {
	errs := []error{f.fd.Close()}
	for _, m := range f.maps {
		if err := unix.Munmap(m); err != nil {
			errs = append(errs, fmt.Errorf("unmap DMA memory: %w", err))
		}
	}
	f.maps = nil
	return errors.Join(errs...)
}
