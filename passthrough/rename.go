package passthrough

import (
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// Link implements fuse.FileSystem. The inode is linked through /proc/self/fd, whatever
// its type; the new name leads to the same node.
func (fs *FS) Link(c *fuse.Context, node, parent fuse.NodeID, name []byte, out *fuse.Entry) error {
	t := local(c)
	d, p, e := fs.dir(t, parent, name, unix.EEXIST)
	if e != 0 {
		return e
	}
	defer fs.nodes.put(d)
	n, e := fs.hold(t, node)
	if e != 0 {
		return fs.errno(e)
	}
	defer fs.nodes.put(n)
	if n.v.typ == unix.S_IFDIR {
		return syscall.EPERM
	}
	e = linkat(fs.proc.Int(), t.link(n.v.fd), d.v.fd, p, unix.AT_SYMLINK_FOLLOW)
	return fs.made(t, &d.v, p, e, out)
}

// Unlink implements fuse.FileSystem. The inode lives on while the guest knows it.
func (fs *FS) Unlink(c *fuse.Context, parent fuse.NodeID, name []byte) error {
	return fs.remove(c, parent, name, 0, unix.EISDIR)
}

// RmDir implements fuse.FileSystem.
func (fs *FS) RmDir(c *fuse.Context, parent fuse.NodeID, name []byte) error {
	dots := unix.ENOTEMPTY
	if len(name) == 1 {
		dots = unix.EINVAL
	}
	return fs.remove(c, parent, name, unix.AT_REMOVEDIR, dots)
}

func (fs *FS) remove(c *fuse.Context, parent fuse.NodeID, name []byte, flags int, dots syscall.Errno) error {
	t := local(c)
	d, p, e := fs.dir(t, parent, name, dots)
	if e != 0 {
		return e
	}
	defer fs.nodes.put(d)
	n := fs.victim(t, &d.v, p)
	if e = unlinkat(d.v.fd, p, flags); e == 0 {
		fs.unnamed(n, &d.v, p)
	}
	fs.putNamed(n)
	return fs.errno(e)
}

// Rename implements fuse.FileSystem (fs-device.md E.6.7). A flag that is not known is
// an error: a guest that asks for NOREPLACE must not lose a file.
func (fs *FS) Rename(c *fuse.Context, parent fuse.NodeID, name []byte, newParent fuse.NodeID, newName []byte, flags uint32) error {
	const known = unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE | unix.RENAME_WHITEOUT
	if flags&^known != 0 || flags&unix.RENAME_EXCHANGE != 0 && flags != unix.RENAME_EXCHANGE {
		return syscall.EINVAL
	}
	t := local(c)
	p2, e := cname(&t.name2, newName)
	if e != 0 {
		return e
	}
	if isDots(newName) {
		return syscall.EBUSY
	}
	d, p, e := fs.dir(t, parent, name, unix.EBUSY)
	if e != 0 {
		return e
	}
	defer fs.nodes.put(d)
	d2, e := fs.hold(t, newParent)
	if e != 0 {
		return fs.errno(e)
	}
	defer fs.nodes.put(d2)
	n, n2 := fs.named(t, &d.v, p), fs.victim(t, &d2.v, p2)
	defer fs.putNamed(n)
	defer fs.putNamed(n2)
	if flags&unix.RENAME_WHITEOUT == 0 {
		e = renameat2(d.v.fd, p, d2.v.fd, p2, flags)
	} else if e = fs.become(t, c, 0); e == 0 { // a whiteout is a new device node, and the caller's (E.4.1)
		e = renameat2(d.v.fd, p, d2.v.fd, p2, flags)
		fs.restore(t)
	}
	if e != 0 {
		return fs.errno(e)
	}
	fs.unnamed(n, &d.v, p)
	fs.unnamed(n2, &d2.v, p2)
	fs.renamed(n, &d2.v, p2)
	if flags&unix.RENAME_EXCHANGE != 0 {
		fs.renamed(n2, &d.v, p)
	}
	return nil
}
