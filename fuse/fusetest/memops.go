package fusetest

import (
	"slices"
	"syscall"
	"time"

	"vfiofs/fuse"
)

// ReadLink returns the target of a symbolic link.
func (m *Mem) ReadLink(_ *fuse.Context, id fuse.NodeID, dst []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.node(id)
	if err != nil {
		return 0, err
	}
	if !n.is(syscall.S_IFLNK) {
		return 0, syscall.EINVAL
	}
	return copy(dst, n.data), nil
}

// create makes a node with a name and counts a lookup of it.
func (m *Mem) create(c *fuse.Context, parent fuse.NodeID, name []byte, in *fuse.Create, out *fuse.Entry) (*memNode, error) {
	d, err := m.dir(parent)
	switch {
	case err != nil:
		return nil, err
	case len(name) > 255:
		return nil, syscall.ENAMETOOLONG
	case d.find(name) >= 0:
		return nil, syscall.EEXIST
	}
	n := m.make(in.Mode&^in.Umask, c)
	n.attr.Rdev = in.Rdev
	if in.Label != nil {
		n.xattrs = map[string][]byte{string(in.LabelAs): append([]byte(nil), in.Label...)}
	}
	d.add(name, n)
	m.entry(n, out)
	return n, nil
}

// MkNod makes a node that is no directory or link.
func (m *Mem) MkNod(c *fuse.Context, parent fuse.NodeID, name []byte, in *fuse.Create, out *fuse.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.create(c, parent, name, in, out)
	return err
}

// MkDir makes a directory.
func (m *Mem) MkDir(c *fuse.Context, parent fuse.NodeID, name []byte, in *fuse.Create, out *fuse.Entry) error {
	return m.MkNod(c, parent, name, in, out)
}

// Symlink makes a symbolic link.
func (m *Mem) Symlink(c *fuse.Context, parent fuse.NodeID, name, target []byte, in *fuse.Create, out *fuse.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.create(c, parent, name, in, out)
	if err == nil {
		n.setData(append([]byte(nil), target...))
		out.Attr = n.attr
	}
	return err
}

// Link gives a node one more name.
func (m *Mem) Link(_ *fuse.Context, id, parent fuse.NodeID, name []byte, out *fuse.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.node(id)
	if err != nil {
		return err
	}
	d, err := m.dir(parent)
	switch {
	case err != nil:
		return err
	case n.isDir():
		return syscall.EPERM
	case d.find(name) >= 0:
		return syscall.EEXIST
	}
	d.add(name, n)
	m.entry(n, out)
	return nil
}

// Unlink removes a name of what is no directory.
func (m *Mem) Unlink(_ *fuse.Context, parent fuse.NodeID, name []byte) error {
	return m.unlink(parent, name, false)
}

// RmDir removes an empty directory.
func (m *Mem) RmDir(_ *fuse.Context, parent fuse.NodeID, name []byte) error {
	return m.unlink(parent, name, true)
}

func (m *Mem) unlink(parent fuse.NodeID, name []byte, dir bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.dir(parent)
	if err != nil {
		return err
	}
	i := d.find(name)
	if i < 0 {
		return syscall.ENOENT
	}
	switch n := d.names[i].node; {
	case dir && !n.isDir():
		return syscall.ENOTDIR
	case !dir && n.isDir():
		return syscall.EISDIR
	case len(n.names) > 0:
		return syscall.ENOTEMPTY
	}
	d.remove(i)
	return nil
}

// Flags of renameat2.
const noReplace, exchange = 1, 2

// Rename moves a name. It doesn't notice a directory that is moved into itself.
func (m *Mem) Rename(_ *fuse.Context, parent fuse.NodeID, name []byte, newParent fuse.NodeID, newName []byte, flags uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	from, err := m.dir(parent)
	if err != nil {
		return err
	}
	to, err := m.dir(newParent)
	if err != nil {
		return err
	}
	if flags&^(noReplace|exchange) != 0 || flags == noReplace|exchange {
		return syscall.EINVAL
	}
	i, j := from.find(name), to.find(newName)
	switch {
	case i < 0, flags == exchange && j < 0:
		return syscall.ENOENT
	case flags == noReplace && j >= 0:
		return syscall.EEXIST
	}
	n := from.names[i].node
	if j < 0 {
		from.remove(i)
		to.add(newName, n)
		return nil
	}
	old := to.names[j].node
	switch {
	case old == n:
		return nil
	case flags == exchange:
		from.names[i].node, to.names[j].node = old, n
		return nil
	case n.isDir() && !old.isDir():
		return syscall.ENOTDIR
	case !n.isDir() && old.isDir():
		return syscall.EISDIR
	case len(old.names) > 0:
		return syscall.ENOTEMPTY
	}
	to.remove(j)
	from.remove(from.find(name))
	to.add(newName, n)
	return nil
}

// Open opens a file.
func (m *Mem) Open(_ *fuse.Context, id fuse.NodeID, flags uint32, _ bool, out *fuse.Opened) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.node(id)
	if err != nil {
		return err
	}
	return m.openFile(n, flags, out)
}

func (m *Mem) openFile(n *memNode, flags uint32, out *fuse.Opened) error {
	switch {
	case n.is(syscall.S_IFLNK):
		return syscall.ELOOP
	case n.isDir() && flags&syscall.O_ACCMODE != syscall.O_RDONLY:
		return syscall.EISDIR
	case !n.is(syscall.S_IFREG) && !n.isDir():
		return syscall.EBADF
	}
	if flags&syscall.O_TRUNC != 0 {
		n.setData(nil)
	}
	m.open(n, flags, out)
	return nil
}

// Create opens a file, which it makes if there is none.
func (m *Mem) Create(c *fuse.Context, parent fuse.NodeID, name []byte, in *fuse.Create, entry *fuse.Entry, out *fuse.Opened) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.create(c, parent, name, in, entry)
	if err == syscall.EEXIST && in.Flags&syscall.O_EXCL == 0 {
		d, _ := m.dir(parent)
		n = d.names[d.find(name)].node
		if n.isDir() {
			return syscall.EISDIR
		}
		if err = m.openFile(n, in.Flags, out); err == nil {
			m.entry(n, entry)
		}
		return err
	}
	if err == nil {
		m.open(n, in.Flags, out)
	}
	return err
}

// TmpFile makes and opens a file without a name.
func (m *Mem) TmpFile(c *fuse.Context, parent fuse.NodeID, in *fuse.Create, entry *fuse.Entry, out *fuse.Opened) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.dir(parent); err != nil {
		return err
	}
	if in.Flags&syscall.O_ACCMODE == syscall.O_RDONLY {
		return syscall.EINVAL
	}
	n := m.make(in.Mode&^in.Umask, c)
	m.entry(n, entry)
	m.open(n, in.Flags, out)
	return nil
}

// Release closes a handle.
func (m *Mem) Release(_ *fuse.Context, id fuse.NodeID, h fuse.Handle) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.handle(id, h)
	if err == nil {
		delete(m.handles, h)
	}
	return err
}

// check says whether a handle is open.
func (m *Mem) check(id fuse.NodeID, h fuse.Handle) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.handle(id, h)
	return err
}

// Flush has nothing to do.
func (m *Mem) Flush(_ *fuse.Context, id fuse.NodeID, h fuse.Handle) error { return m.check(id, h) }

// Fsync has nothing to do.
func (m *Mem) Fsync(_ *fuse.Context, id fuse.NodeID, h fuse.Handle, _ bool) error {
	return m.check(id, h)
}

// FsyncDir has nothing to do.
func (m *Mem) FsyncDir(_ *fuse.Context, id fuse.NodeID, h fuse.Handle, _ bool) error {
	return m.check(id, h)
}

// SyncFS has nothing to do.
func (m *Mem) SyncFS(_ *fuse.Context, id fuse.NodeID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.node(id)
	return err
}

// Fallocate knows mode 0 only.
func (m *Mem) Fallocate(_ *fuse.Context, id fuse.NodeID, h fuse.Handle, off, length uint64, mode uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.handle(id, h)
	switch {
	case err != nil:
		return err
	case mode != 0:
		return syscall.EOPNOTSUPP
	case off+length > maxFile:
		return syscall.EFBIG
	}
	if int(off+length) > len(f.node.data) {
		f.node.resize(int(off + length))
	}
	return nil
}

// Lseek knows no holes.
func (m *Mem) Lseek(_ *fuse.Context, id fuse.NodeID, h fuse.Handle, off uint64, whence uint32) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.handle(id, h)
	switch size := uint64(0); {
	case err != nil:
		return 0, err
	case f.node.isDir():
		return 0, syscall.EINVAL
	default:
		if size = uint64(len(f.node.data)); off >= size {
			return 0, syscall.ENXIO
		}
		if whence == 4 { // SEEK_HOLE
			off = size
		}
	}
	return off, nil
}

// CopyFileRange copies between files.
func (m *Mem) CopyFileRange(_ *fuse.Context, in, out fuse.FileRange, length, _ uint64) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	src, err := m.handle(in.Node, in.Handle)
	if err != nil {
		return 0, err
	}
	dst, err := m.handle(out.Node, out.Handle)
	switch {
	case err != nil:
		return 0, err
	case src.noRead || dst.noWrite:
		return 0, syscall.EBADF
	case in.Offset >= uint64(len(src.node.data)):
		return 0, nil
	}
	data := src.node.data[in.Offset:]
	data = append([]byte(nil), data[:min(uint64(len(data)), length)]...)
	if out.Offset > maxFile-uint64(len(data)) {
		return 0, syscall.EFBIG
	}
	if end := int(out.Offset) + len(data); end > len(dst.node.data) {
		dst.node.resize(end)
	}
	return uint64(copy(dst.node.data[out.Offset:], data)), nil
}

// OpenDir opens a directory.
func (m *Mem) OpenDir(_ *fuse.Context, id fuse.NodeID, _ uint32, out *fuse.Opened) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.dir(id)
	if err == nil {
		m.open(n, syscall.O_RDONLY, out)
	}
	return err
}

// ReadDir lists entries in the order in which they were made.
func (m *Mem) ReadDir(_ *fuse.Context, id fuse.NodeID, h fuse.Handle, off uint64, plus bool, d *fuse.DirBuffer) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.handle(id, h)
	if err != nil {
		return err
	}
	if !f.node.isDir() {
		return syscall.ENOTDIR
	}
	dots := []memName{{".", f.node, cookieDot}, {"..", m.root, cookieDotdot}}
	for i, e := range append(dots, f.node.names...) {
		if e.cookie <= off {
			continue
		}
		if !d.Fits(len(e.name), plus) {
			if d.Empty() {
				return syscall.EINVAL
			}
			break
		}
		ino, typ := e.node.attr.Ino, uint8(e.node.attr.Mode>>12)
		switch {
		case !plus:
			d.Add(ino, e.cookie, typ, []byte(e.name))
		case i < len(dots):
			d.AddPlus(nil, ino, e.cookie, typ, []byte(e.name))
		default:
			var entry fuse.Entry
			m.entry(e.node, &entry)
			d.AddPlus(&entry, ino, e.cookie, typ, []byte(e.name))
		}
	}
	return nil
}

// ReleaseDir closes a handle.
func (m *Mem) ReleaseDir(c *fuse.Context, id fuse.NodeID, h fuse.Handle) error {
	return m.Release(c, id, h)
}

// StatFS returns made-up numbers.
func (m *Mem) StatFS(_ *fuse.Context, id fuse.NodeID, out *fuse.StatFS) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	*out = fuse.StatFS{Blocks: 4096, Bfree: 2048, Bavail: 1024, Files: 100, Ffree: 50, Bsize: 4096, Namelen: 255, Frsize: 4096}
	_, err := m.node(id)
	return err
}

// Access allows everything.
func (m *Mem) Access(_ *fuse.Context, id fuse.NodeID, _ uint32) error { return m.SyncFS(nil, id) }

// GetXattr returns a value.
func (m *Mem) GetXattr(_ *fuse.Context, id fuse.NodeID, name, dst []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.node(id)
	if err != nil {
		return 0, err
	}
	value, ok := n.xattrs[string(name)]
	if !ok {
		return 0, syscall.ENODATA
	}
	return give(dst, value)
}

// give stores value the way that GetXattr and ListXattr have to.
func give(dst, value []byte) (int, error) {
	if dst != nil && len(value) > len(dst) {
		return 0, syscall.ERANGE
	}
	copy(dst, value)
	return len(value), nil
}

// ListXattr returns the names.
func (m *Mem) ListXattr(_ *fuse.Context, id fuse.NodeID, dst []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.node(id)
	if err != nil {
		return 0, err
	}
	var list []byte
	for name := range n.xattrs {
		list = append(append(list, name...), 0)
	}
	return give(dst, list)
}

// SetXattr stores a value.
func (m *Mem) SetXattr(_ *fuse.Context, id fuse.NodeID, name, value []byte, flags uint32, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.node(id)
	if err != nil {
		return err
	}
	_, ok := n.xattrs[string(name)]
	switch {
	case flags == 1 && ok: // XATTR_CREATE
		return syscall.EEXIST
	case flags == 2 && !ok: // XATTR_REPLACE
		return syscall.ENODATA
	}
	if n.xattrs == nil {
		n.xattrs = map[string][]byte{}
	}
	n.xattrs[string(name)] = append([]byte(nil), value...)
	return nil
}

// RemoveXattr removes a value.
func (m *Mem) RemoveXattr(_ *fuse.Context, id fuse.NodeID, name []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.node(id)
	if err != nil {
		return err
	}
	if _, ok := n.xattrs[string(name)]; !ok {
		return syscall.ENODATA
	}
	delete(n.xattrs, string(name))
	return nil
}

// Statx returns the attributes of a node; the birth time is unknown.
func (m *Mem) Statx(c *fuse.Context, id fuse.NodeID, h fuse.Handle, _, _ uint32, out *fuse.Statx) (time.Duration, error) {
	const basic = 0x7ff // STATX_BASIC_STATS
	var a fuse.Attr
	valid, err := m.GetAttr(c, id, h, &a)
	*out = fuse.Statx{
		Mask: basic, Ino: a.Ino, Size: a.Size, Blocks: a.Blocks, Mode: uint16(a.Mode), Nlink: a.Nlink,
		UID: a.UID, GID: a.GID, Blksize: a.Blksize,
		Atime: fuse.StatxTime{Sec: a.Atime, Nsec: a.AtimeNsec},
		Mtime: fuse.StatxTime{Sec: a.Mtime, Nsec: a.MtimeNsec},
		Ctime: fuse.StatxTime{Sec: a.Ctime, Nsec: a.CtimeNsec},
	}
	return valid, err
}

// Ioctl knows one command, whose number is 1: it reverses its data.
func (m *Mem) Ioctl(_ *fuse.Context, id fuse.NodeID, h fuse.Handle, cmd uint32, in, out []byte) (result, n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.handle(id, h); err != nil {
		return 0, 0, err
	}
	if cmd != 1 {
		return 0, 0, syscall.ENOTTY
	}
	if len(in) == 0 {
		return -int(syscall.ENODATA), 0, nil
	}
	n = copy(out, in)
	slices.Reverse(out[:n])
	return n, n, nil
}
