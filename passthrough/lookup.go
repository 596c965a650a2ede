package passthrough

import (
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// Lookup implements fuse.FileSystem (fs-device.md E.3). "." and ".." are only for
// file systems that guests export again, which is not offered.
func (fs *FS) Lookup(c *fuse.Context, parent fuse.NodeID, name []byte, out *fuse.Entry) error {
	t := local(c)
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

// lookup finds a name below d and counts one lookup of what it names. It first takes
// hold of the object and then looks at it, so that the two agree (E.3.3). Whatever
// finds an inode by a name comes through here.
func (fs *FS) lookup(t *thread, d *node, name *byte, out *fuse.Entry) syscall.Errno {
	fd, e := fs.open(t, d.fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if e != 0 {
		return e
	}
	return fs.adopt(t, d, fd, out)
}

// adopt counts one lookup of the object of an O_PATH descriptor, found below d, and
// describes it. It owns fd from here on.
func (fs *FS) adopt(t *thread, d *node, fd int, out *fuse.Entry) syscall.Errno {
	if e := statx(fd, &t.stat, fs.host.statxMask); e != 0 {
		unix.Close(fd)
		return e
	}
	k, typ := keyOf(&t.stat), uint32(t.stat.Mode)&unix.S_IFMT
	id, e := fs.nodes.claim(k, fd, typ)
	if e != 0 {
		return e
	}
	*out = fuse.Entry{Node: id, EntryValid: fs.policy.valid, AttrValid: fs.policy.valid}
	setAttr(&out.Attr, &t.stat)
	if typ == unix.S_IFDIR && (k.dev != d.key.dev || k.mnt != d.key.mnt) && fs.has(fuse.Submounts) {
		out.Attr.Flags |= fuse.AttrSubmount
	}
	return 0
}
