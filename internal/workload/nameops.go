package workload

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// open opens a name into a slot, and closes what was there.
func (c *checker) open(n, slot, flags int) error {
	if err := c.closeHandle(slot); err != nil {
		return err
	}
	fd, err := openAt(c.path(n), flags)
	f := c.names[n]
	switch {
	case f == nil && flags&unix.O_CREAT == 0:
		return expect(err, unix.ENOENT)
	case f != nil && flags&unix.O_CREAT != 0 && flags&unix.O_EXCL != 0:
		return expect(err, unix.EEXIST)
	case err != nil:
		return expect(err)
	}
	if f == nil {
		f = &file{links: 1}
		c.names[n] = f
	}
	if flags&unix.O_TRUNC != 0 {
		f.resize(0)
	}
	c.handles[slot] = &handle{file: f, fd: fd, flags: flags}
	return checkAttr("it", fd, f)
}

// closeHandle unmaps and closes what is in a slot.
func (c *checker) closeHandle(slot int) error {
	h := c.handles[slot]
	if h == nil {
		return nil
	}
	c.handles[slot] = nil
	if err := c.munmap(h); err != nil {
		return err
	}
	return unix.Close(h.fd)
}

func (c *checker) truncate(n int, size int64) error {
	err := ignoringEINTR(func() error { return unix.Truncate(c.path(n), size) })
	f := c.names[n]
	if f == nil {
		return expect(err, unix.ENOENT)
	}
	return c.resized(f, size, err)
}

func (c *checker) ftruncate(h *handle, size int64) error {
	err := ignoringEINTR(func() error { return unix.Ftruncate(h.fd, size) })
	if !h.writable() {
		return expect(err, unix.EINVAL)
	}
	return c.resized(h.file, size, err)
}

func (c *checker) resized(f *file, size int64, err error) error {
	if err != nil {
		return expect(err)
	}
	old := f.size()
	f.resize(size)
	return c.around(f, min(old, size), max(old, size)-min(old, size))
}

// allocate is fallocate(2) in all its modes.
func (c *checker) allocate(h *handle, mode int, off, size int64) error {
	f := h.file
	errnos, ok := f.allocateErrno(mode, off, size)
	if mode == unix.FALLOC_FL_INSERT_RANGE && f.size()+size > maxSize {
		return nil
	}
	err := ignoringEINTR(func() error { return unix.Fallocate(h.fd, uint32(mode), off, size) })
	switch {
	case !h.writable():
		return expect(err, append(errnos, unix.EBADF)...)
	case err == nil && ok:
		f.allocate(mode, off, size)
		if size >= 4*pageSize && mode&unix.FALLOC_FL_COLLAPSE_RANGE == 0 && mode&unix.FALLOC_FL_INSERT_RANGE == 0 {
			if err := c.around(f, off+size, 0); err != nil { // the far edge; below, the near one
				return err
			}
			size = 0
		}
		return c.around(f, off, size)
	}
	return expect(err, errnos...)
}

// copy is copy_file_range(2) with explicit offsets.
func (c *checker) copy(from, to *handle, off, dst, size int64) error {
	data := append([]byte(nil), from.file.slice(off, size)...)
	length := int64(len(data))
	if from.unaligned(off|dst, length) || to.unaligned(off|dst, length) {
		return nil // as for write
	}
	var n int
	offIn, offOut := off, dst
	err := ignoringEINTR(func() (err error) {
		n, err = unix.CopyFileRange(from.fd, &offIn, to.fd, &offOut, int(size), 0)
		return err
	})
	switch {
	case !from.readable() || !to.writable() || to.appends():
		return expect(err, unix.EBADF)
	case from.file == to.file && off < dst+length && dst < off+length:
		return expect(err, unix.EINVAL)
	case err != nil:
		return expect(err)
	case n > len(data), n == 0 && len(data) > 0:
		return fmt.Errorf("%d bytes copied; want %d", n, len(data))
	}
	to.file.write(dst, data[:n])
	to.file.dirty = to.file.dirty || c.Writeback
	return c.around(to.file, dst, int64(n))
}

func (c *checker) rename(a, b, flags int) error {
	err := ignoringEINTR(func() error {
		return unix.Renameat2(unix.AT_FDCWD, c.path(a), unix.AT_FDCWD, c.path(b), uint(flags))
	})
	from, to := c.names[a], c.names[b]
	switch {
	case from == nil:
		return expect(err, unix.ENOENT)
	case flags == unix.RENAME_NOREPLACE && to != nil:
		return expect(err, unix.EEXIST)
	case flags == unix.RENAME_EXCHANGE && to == nil:
		return expect(err, unix.ENOENT)
	case err != nil:
		return expect(err)
	case flags == unix.RENAME_EXCHANGE:
		c.names[a], c.names[b] = to, from
	default:
		c.renamed(a, b)
	}
	return c.checkNames(a, b)
}

// renamed is a rename without flags. Two names of one file both stay (rename(2)).
func (c *checker) renamed(a, b int) {
	from, to := c.names[a], c.names[b]
	if from == to {
		return
	}
	if to != nil {
		to.links--
	}
	c.names[a], c.names[b] = nil, from
}

func (c *checker) link(a, b int) error {
	err := ignoringEINTR(func() error { return unix.Link(c.path(a), c.path(b)) })
	switch {
	case c.names[a] == nil:
		return expect(err, unix.ENOENT)
	case c.names[b] != nil:
		return expect(err, unix.EEXIST)
	case err != nil:
		return expect(err)
	}
	c.names[b] = c.names[a]
	c.names[b].links++
	return c.checkNames(a, b)
}

func (c *checker) unlink(n int) error {
	err := ignoringEINTR(func() error { return unix.Unlink(c.path(n)) })
	if c.names[n] == nil {
		return expect(err, unix.ENOENT)
	}
	if err != nil {
		return expect(err)
	}
	c.names[n].links--
	c.names[n] = nil
	return c.checkNames(n)
}

// checkNames compares what names lead to: nothing, or a file of the right size with the
// right number of links.
func (c *checker) checkNames(names ...int) error {
	for _, n := range names {
		var st unix.Stat_t
		err := ignoringEINTR(func() error { return unix.Lstat(c.path(n), &st) })
		f := c.names[n]
		switch {
		case f == nil:
			if err := expect(err, unix.ENOENT); err != nil {
				return fmt.Errorf("lstat %s: %w", c.path(n), err)
			}
		case err != nil:
			return fmt.Errorf("lstat %s: %w", c.path(n), err)
		case st.Size != f.size() || int(st.Nlink) != f.links:
			return fmt.Errorf("lstat %s: size %d, %d links; want %d, %d", c.path(n), st.Size, st.Nlink, f.size(), f.links)
		}
	}
	return nil
}

// stat compares what the server itself says, blocks included.
func (c *checker) stat(n int) error {
	f := c.names[n]
	if f == nil {
		return c.checkNames(n)
	}
	if err := c.settle(f); err != nil {
		return err
	}
	got, err := statx(c.path(n))
	if err != nil {
		return err
	}
	if got.Size != uint64(f.size()) || int(got.Nlink) != f.links {
		return fmt.Errorf("statx: size %d, %d links; want %d, %d", got.Size, got.Nlink, f.size(), f.links)
	}
	if c.Host == "" {
		return nil
	}
	// The host may allocate late: ask it before and after.
	for range 3 {
		before, err := statx(name(c.Host, n))
		if err != nil {
			return err
		}
		if got, err = statx(c.path(n)); err != nil {
			return err
		}
		if got.Blocks == before.Blocks {
			return nil
		}
		err = fmt.Errorf("statx: %d blocks; the host has %d", got.Blocks, before.Blocks)
		if after, _ := statx(name(c.Host, n)); after.Blocks == before.Blocks {
			return err
		}
	}
	return nil
}

func statx(path string) (st unix.Statx_t, err error) {
	err = ignoringEINTR(func() error {
		return unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st)
	})
	if err != nil {
		err = fmt.Errorf("statx %s: %w", path, err)
	}
	return st, err
}
