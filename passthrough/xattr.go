package passthrough

import (
	"bytes"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// The names under which POSIX ACLs are kept (linux/xattr.h).
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

const (
	maxXattrName  = 255      // XATTR_NAME_MAX
	maxXattrValue = 64 << 10 // XATTR_SIZE_MAX
)

// xattrNode finds the inode of an operation on extended attributes, and its path. That
// is relative to the current directory of the thread, /proc/self/fd, and works for
// descriptors of every type (fs-device.md E.15.1).
func (fs *FS) xattrNode(t *thread, id fuse.NodeID) (*slot[node], *byte, error) {
	if !fs.opt.XAttr {
		return nil, nil, fuse.ErrNotImplemented
	}
	n, e := fs.hold(t, id)
	if e != 0 {
		return nil, nil, fs.errno(e)
	}
	return n, t.link(n.v.fd), nil
}

// xattrName stores what an attribute of the guest is called on the host in the thread.
func (fs *FS) xattrName(t *thread, name []byte, use xattrUse) (*byte, syscall.Errno) {
	switch {
	case len(name) == 0 || len(name) > maxXattrName:
		return nil, unix.ERANGE
	case bytes.IndexByte(name, 0) >= 0:
		return nil, unix.EINVAL
	case fs.hidden(name):
		return nil, unix.EOPNOTSUPP
	}
	if fs.opt.XattrMap == nil {
		t.name[copy(t.name[:], name)] = 0
		return &t.name[0], 0
	}
	n, e := fs.opt.XattrMap.host(&t.name, name, use)
	t.name[n] = 0
	return &t.name[0], e
}

// hidden reports whether an attribute does not exist for the guest: ACLs that it
// would not evaluate (E.15.6).
func (fs *FS) hidden(name []byte) bool {
	return (string(name) == aclAccess || string(name) == aclDefault) && !fs.has(fuse.PosixACL)
}

// GetXattr implements fuse.FileSystem.
func (fs *FS) GetXattr(c *fuse.Context, node fuse.NodeID, name, dst []byte) (int, error) {
	t := local(c)
	n, path, err := fs.xattrNode(t, node)
	if err != nil {
		return 0, err
	}
	defer fs.nodes.put(n)
	p, e := fs.xattrName(t, name, xattrGet)
	if e != 0 {
		return 0, e
	}
	size, e := getxattr(path, p, dst)
	if e != 0 {
		return 0, fs.errno(e)
	}
	if dst != nil && size > len(dst) { // dst is empty: the kernel gave the length
		return 0, syscall.ERANGE
	}
	return size, nil
}

// ListXattr implements fuse.FileSystem. Only names that the caller may use are listed,
// and counted: as on a local file system, trusted.* is for root (xattr(7); E.15.9). Linux
// does not say who asks if it may map ids (since 6.12; linux fs/fuse/dev.c,
// fuse_get_req): then all are listed.
func (fs *FS) ListXattr(c *fuse.Context, node fuse.NodeID, dst []byte) (int, error) {
	t := local(c)
	n, path, err := fs.xattrNode(t, node)
	if err != nil {
		return 0, err
	}
	defer fs.nodes.put(n)
	size, e := listxattr(path, t.buf[:])
	if e != 0 {
		return 0, fs.errno(e)
	}
	root := c.UID == 0 || c.UID == fuse.NoID
	kept := t.buf[:0]
	for rest := t.buf[:size]; ; {
		i := bytes.IndexByte(rest, 0)
		if i < 0 {
			break
		}
		name := rest[:i]
		if fs.opt.XattrMap != nil {
			name = fs.opt.XattrMap.guest(name)
		}
		if len(name) > 0 && !fs.hidden(name) && (root || !hasPrefix(name, "trusted.")) {
			kept = append(append(kept, name...), 0) // moves towards the front of the same buffer
		}
		rest = rest[i+1:]
	}
	if dst == nil {
		return len(kept), nil
	}
	if len(kept) > len(dst) {
		return 0, syscall.ERANGE
	}
	return copy(dst, kept), nil
}

// SetXattr implements fuse.FileSystem. killSgid asks to clear S_ISGID with a new access
// ACL, as the guest's own chmod would.
func (fs *FS) SetXattr(c *fuse.Context, node fuse.NodeID, name, value []byte, flags uint32, killSgid bool) error {
	t := local(c)
	n, path, err := fs.xattrNode(t, node)
	if err != nil {
		return err
	}
	defer fs.nodes.put(n)
	p, e := fs.xattrName(t, name, xattrSet)
	if e != 0 {
		return e
	}
	if flags != 0 && flags != unix.XATTR_CREATE && flags != unix.XATTR_REPLACE {
		return syscall.EINVAL
	}
	if len(value) > maxXattrValue {
		return syscall.E2BIG
	}
	if e = setxattr(path, p, value, flags); e != 0 {
		return fs.errno(e)
	}
	fs.spares.drop(n.n) // an ACL says who may open the file
	if killSgid && string(name) == aclAccess && fs.has(fuse.SetxattrExt|fuse.PosixACL) {
		if e = statx(n.v.fd, &t.stat, unix.STATX_BASIC_STATS); e == 0 && t.stat.Mode&unix.S_ISGID != 0 {
			e = fchmodat(fs.proc.Int(), path, uint32(t.stat.Mode)&0o7777&^unix.S_ISGID)
		}
	}
	return fs.errno(e)
}

// RemoveXattr implements fuse.FileSystem.
func (fs *FS) RemoveXattr(c *fuse.Context, node fuse.NodeID, name []byte) error {
	t := local(c)
	n, path, err := fs.xattrNode(t, node)
	if err != nil {
		return err
	}
	defer fs.nodes.put(n)
	p, e := fs.xattrName(t, name, xattrRemove)
	if e != 0 {
		return e
	}
	if e = removexattr(path, p); e == 0 {
		fs.spares.drop(n.n) // as above
	}
	return fs.errno(e)
}
