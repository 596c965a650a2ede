package workload

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// onHost does an operation in the shared directory. Only in a Coherent configuration
// does it change something there.
func (c *checker) onHost(op Op) error {
	f := c.names[op.a]
	if c.Host == "" || f == nil || op.off+op.size > maxSize {
		return nil
	}
	if err := c.settle(f); err != nil {
		return err
	}
	if op.kind == opHostRead {
		return c.checkPath(name(c.Host, op.a), f)
	}
	// Nothing can tell a kernel that pages it has mapped are out of date.
	if !c.Coherent || c.mapped(f) {
		return nil
	}
	var err error
	switch op.kind {
	case opHostWrite:
		err = c.hostWrite(op.a, op.off, op.size, op.fill)
	case opHostTruncate:
		if err = ignoringEINTR(func() error { return unix.Truncate(name(c.Host, op.a), op.size) }); err == nil {
			f.resize(op.size)
		}
	case opHostRename:
		if err = unix.Rename(name(c.Host, op.a), name(c.Host, op.b)); err == nil {
			c.renamed(op.a, op.b)
		}
	case opHostUnlink:
		if err = unix.Unlink(name(c.Host, op.a)); err == nil {
			f.links--
			c.names[op.a] = nil
		}
	}
	if err != nil {
		return expect(err)
	}
	return c.seen(f, op.a, op.b)
}

func (c *checker) hostWrite(n int, off, size int64, fill uint32) error {
	fd, err := openAt(name(c.Host, n), unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b := c.buf[:size]
	pattern(b, fill)
	if _, err := unix.Pwrite(fd, b, off); err != nil {
		return err
	}
	c.names[n].write(off, b)
	return nil
}

// mapped reports whether some descriptor maps a file.
func (c *checker) mapped(f *file) bool {
	for _, h := range c.handles {
		if h != nil && h.file == f && h.mem != nil {
			return true
		}
	}
	return false
}

// seen checks that the mount shows a change of the host: by the names, and through every
// descriptor. The kernel takes the end of a file, where O_APPEND writes, from the
// attributes it has last got.
func (c *checker) seen(f *file, names ...int) error {
	if err := c.checkNames(names...); err != nil {
		return fmt.Errorf("seen from the mount: %w", err)
	}
	for _, h := range c.handles {
		if h == nil || h.file != f {
			continue
		}
		if err := checkAttr("seen from the mount", h.fd, f); err != nil {
			return err
		}
	}
	return c.around(f, 0, min(f.size(), maxSize))
}
