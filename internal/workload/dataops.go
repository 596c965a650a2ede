package workload

import (
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// pieces cuts b in n buffers of about the same size.
func pieces(b []byte, n int) [][]byte {
	n = max(1, min(n, 16))
	each := len(b)/n + 1
	var v [][]byte
	for len(b) > each {
		v = append(v, b[:each])
		b = b[each:]
	}
	return append(v, b)
}

// read compares a range, as preadv reads it.
func (c *checker) read(h *handle, off, size int64, buffers int) error {
	b := c.buf[:size]
	var n int
	err := ignoringEINTR(func() (err error) {
		if buffers > 1 && h.flags&unix.O_DIRECT == 0 {
			n, err = unix.Preadv(h.fd, pieces(b, buffers), off)
		} else {
			n, err = unix.Pread(h.fd, b, off)
		}
		return err
	})
	switch {
	case !h.readable():
		return expect(err, unix.EBADF)
	case err == unix.EINVAL && h.unaligned(off, size):
		return nil
	case err != nil:
		return expect(err)
	}
	return differ("read", off, b[:n], h.file.slice(off, size))
}

// write writes a range, with pwritev if there are several buffers, and reads it back.
func (c *checker) write(h *handle, off, size int64, buffers int, fill uint32) error {
	if h.appends() {
		off = h.file.size()
		if off+size > maxSize {
			return nil
		}
	}
	if h.unaligned(off, size) {
		return nil // ext4 refuses it after it has written what is aligned
	}
	b := c.buf[:size]
	pattern(b, fill)
	var n int
	err := ignoringEINTR(func() (err error) {
		if buffers > 1 && h.flags&unix.O_DIRECT == 0 {
			n, err = unix.Pwritev(h.fd, pieces(b, buffers), off)
		} else {
			n, err = unix.Pwrite(h.fd, b, off)
		}
		return err
	})
	switch {
	case !h.writable():
		return expect(err, unix.EBADF)
	case err != nil:
		return expect(err)
	case n != len(b):
		return fmt.Errorf("%d bytes written; want %d", n, size)
	}
	h.file.write(off, b)
	h.file.dirty = h.file.dirty || c.Writeback
	return c.around(h.file, off, size)
}

// around reads a range, and the pages beside it, through any descriptor or name of the
// file, and compares the size.
func (c *checker) around(f *file, off, size int64) error {
	fd, done := c.reader(f)
	if fd < 0 {
		return nil
	}
	defer done()
	from := max(0, off-pageSize) &^ (pageSize - 1)
	to := (off + size + 2*pageSize) &^ (pageSize - 1)
	b := c.buf[:min(to, maxSize)-min(from, maxSize)]
	n, err := readFull(fd, b, from)
	if err != nil {
		return fmt.Errorf("read back at %d: %w", from, err)
	}
	if err := differ("read back", from, b[:n], f.slice(from, int64(len(b)))); err != nil {
		return err
	}
	return checkAttr("it", fd, f)
}

// reader returns a descriptor to read a file, and what gives it back; -1 if there is
// none.
func (c *checker) reader(f *file) (fd int, done func()) {
	for _, h := range c.handles {
		if h != nil && h.file == f && h.readable() && h.flags&unix.O_DIRECT == 0 {
			return h.fd, func() {}
		}
	}
	for n := range c.names {
		if c.names[n] != f {
			continue
		}
		if fd, err := openAt(c.path(n), unix.O_RDONLY); err == nil {
			return fd, func() { unix.Close(fd) }
		}
	}
	return -1, func() {}
}

// mmap maps a descriptor's file, behind its end too.
func (c *checker) mmap(h *handle) error {
	if h.mem != nil {
		return nil
	}
	prot := unix.PROT_READ
	if h.writable() {
		prot |= unix.PROT_WRITE
	}
	mem, err := unix.Mmap(h.fd, 0, maxSize, prot, unix.MAP_SHARED)
	if !h.readable() {
		return expect(err, unix.EACCES)
	}
	if err == nil {
		h.mem = mem
	}
	return expect(err)
}

func (c *checker) munmap(h *handle) error {
	if h.mem == nil {
		return nil
	}
	mem := h.mem
	h.mem = nil
	return unix.Munmap(mem)
}

// mapRead compares a range with what a mapping shows.
func (c *checker) mapRead(h *handle, off, size int64) error {
	want := h.file.slice(off, size)
	if h.mem == nil || len(want) == 0 {
		return nil
	}
	got := c.buf[:len(want)]
	if err := touch(got, h.mem[off:]); err != nil {
		return err
	}
	return differ("mapped memory", off, got, want)
}

// mapWrite changes what there is of a range through a mapping. It makes no file longer.
func (c *checker) mapWrite(h *handle, off, size int64, fill uint32) error {
	target := h.file.slice(off, size)
	if h.mem == nil || len(target) == 0 || !h.writable() {
		return nil
	}
	b := c.buf[:len(target)]
	pattern(b, fill)
	if err := touch(h.mem[off:], b); err != nil {
		return err
	}
	copy(target, b)
	h.file.dirty = true
	return c.around(h.file, off, size)
}

// touch copies from or to mapped memory. A page that cannot be had is an error.
func touch(dst, src []byte) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("mapped memory faults: %v", r)
		}
	}()
	copy(dst, src)
	return nil
}

// sync is fsync, fdatasync or msync.
func (c *checker) sync(h *handle, how int) error {
	err := ignoringEINTR(func() error {
		switch {
		case how == 2 && h.mem != nil && h.writable(): // else msync does nothing (linux mm/msync.c)
			return unix.Msync(h.mem, unix.MS_SYNC)
		case how == 1:
			return unix.Fdatasync(h.fd)
		}
		return unix.Fsync(h.fd)
	})
	if err == nil {
		h.file.dirty = false
	}
	return expect(err)
}

// settle makes the host see what has been written. It does nothing for a file that
// cannot be reached any more.
func (c *checker) settle(f *file) error {
	if !f.dirty {
		return nil
	}
	for _, h := range c.handles {
		if h != nil && h.file == f {
			return c.sync(h, 0)
		}
	}
	if fd, done := c.reader(f); fd >= 0 {
		defer done()
		f.dirty = false
		return ignoringEINTR(func() error { return unix.Fsync(fd) })
	}
	return nil
}

// seek checks SEEK_DATA and SEEK_HOLE: what is passed over, or called a hole, must be
// zero. Where zeros are stored is the file system's choice.
func (c *checker) seek(h *handle, off int64, how int) error {
	// Linux asks the server without writing dirty pages first (fs/fuse/file.c: fuse_lseek).
	if err := c.settle(h.file); err != nil {
		return err
	}
	var at int64
	err := ignoringEINTR(func() (err error) {
		at, err = unix.Seek(h.fd, off, how)
		return err
	})
	f := h.file
	if off >= f.size() {
		return expect(err, unix.ENXIO)
	}
	if err == unix.ENXIO && how == unix.SEEK_DATA {
		at, err = f.size(), nil
	}
	if err != nil {
		return expect(err)
	}
	if at < off || at > f.size() {
		return fmt.Errorf("%d; want something between %d and %d", at, off, f.size())
	}
	from, to := off, at // a hole
	if how == unix.SEEK_HOLE {
		from, to = at, min(at+1, f.size())
	}
	for i, b := range f.data[from:to] {
		if b != 0 {
			return fmt.Errorf("%d, but there is data at %d", at, from+int64(i))
		}
	}
	return nil
}
