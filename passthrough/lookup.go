package passthrough

import (
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// Lookup implements fuse.FileSystem (fs-device.md E.3).
func (fs *FS) Lookup(c *fuse.Context, parent fuse.NodeID, name []byte, out *fuse.Entry) error {
	t := local(c)
	if isDots(name) && fs.has(fuse.ExportSupport) {
		return fs.errno(fs.lookupDot(t, parent, len(name) == 2, out))
	}
	d, p, e := fs.dir(t, parent, name, unix.EINVAL)
	if e != 0 {
		return e
	}
	defer fs.nodes.put(d)
	e = fs.lookup(t, &d.v, p, out)
	if e == unix.ENOENT && fs.opt.NegativeTimeout > 0 {
		*out = fuse.Entry{EntryValid: fs.opt.NegativeTimeout}
		return nil
	}
	return fs.errno(e)
}

// Forget implements fuse.FileSystem.
func (fs *FS) Forget(_ *fuse.Context, node fuse.NodeID, count uint64) {
	fs.nodes.forget(node, count)
}

// lookup finds a name below d and counts one lookup of what it names. Whatever finds an
// inode by a name comes through here or through find.
func (fs *FS) lookup(t *thread, d *node, name *byte, out *fuse.Entry) syscall.Errno {
	h := fs.hints.of(d.id, text(name))
	errno, ok := syscall.Errno(0), false
	if n, gen, known := h.load(); known {
		e := fs.nodes.slab.recall(n, gen) // nil for slot 0
		if e != nil || n == 0 {
			errno, ok = fs.confirm(t, d, name, e, out)
		}
		fs.putNamed(e)
	}
	if !ok {
		errno, ok = fs.glance(t, d, name, h, out)
	}
	if !ok {
		return fs.find(t, d, name, out)
	}
	if errno == unix.ENOENT {
		h.setMissing()
	}
	return errno
}

// confirm looks at a name that is said to lead to e, or nowhere if e is nil, and if
// that is so counts one lookup. As long as e has its descriptor, no other inode can have
// its number; otherwise its birth or its witness must agree too, and the descriptor stays
// closed.
func (fs *FS) confirm(t *thread, d *node, name *byte, e *slot[node], out *fuse.Entry) (errno syscall.Errno, ok bool) {
	held := e != nil && e.open()
	if errno := statxAt(d.fd, name, &t.stat, fs.host.statxMask); errno != 0 {
		return errno, true
	}
	if e == nil || keyOf(&t.stat) != e.v.key {
		return 0, false
	}
	// The inode that has the witness now also had the number just before, when statx saw
	// it.
	if !held && !fs.knows(t, e, &t.stat, d.fd, name) {
		return 0, false
	}
	if !fs.nodes.countAgain(e, d.id, text(name)) {
		return 0, false
	}
	fs.describe(t, d, e.v.id, out)
	return 0, true
}

// find is lookup with a descriptor. It first takes hold of the object and then looks at
// it, so that the two agree (E.3.3).
func (fs *FS) find(t *thread, d *node, name *byte, out *fuse.Entry) syscall.Errno {
	fd, e := fs.open(t, d.fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if e != 0 {
		if e == unix.ENOENT {
			fs.hints.of(d.id, text(name)).setMissing()
		}
		return e
	}
	return fs.adopt(t, d, name, fd, out)
}

// adopt counts one lookup of the object of an O_PATH descriptor, found below d under a
// name or, if that is nil, without one, and describes it. It owns fd from here on.
func (fs *FS) adopt(t *thread, d *node, name *byte, fd int, out *fuse.Entry) syscall.Errno {
	e := statx(fd, &t.stat, fs.host.statxMask)
	if e == 0 && fs.opt.FileHandles == HandlesMandatory {
		e = nameToHandle(fd, nil, &t.handle)
	}
	if e != 0 {
		unix.Close(fd)
		return e
	}
	var nm []byte
	if name != nil {
		nm = text(name)
	}
	id, e := fs.claim(t, fd, d.id, nm)
	if e != 0 {
		return e
	}
	if name != nil {
		fs.hints.of(d.id, nm).set(id)
	}
	fs.describe(t, d, id, out)
	return 0
}

// describe makes the entry of node id, found below d, of what statx said last.
func (fs *FS) describe(t *thread, d *node, id fuse.NodeID, out *fuse.Entry) {
	*out = fuse.Entry{Node: id, EntryValid: fs.policy.valid, AttrValid: fs.policy.valid}
	fs.setAttr(&out.Attr, &t.stat)
	if t.stat.Mode&unix.S_IFMT == unix.S_IFDIR && fs.has(fuse.Submounts) {
		if k := keyOf(&t.stat); k.dev != d.key.dev || k.mnt != d.key.mnt {
			out.Attr.Flags |= fuse.AttrSubmount
		}
	}
}
