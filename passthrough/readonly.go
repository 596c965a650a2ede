package passthrough

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/virtio/guestmem"
)

// View returns fs as its options want it to be seen: with names found in any case, and
// without changes.
func (fs *FS) View() fuse.FileSystem {
	var view fuse.FileSystem = fs
	if fs.opt.ASCIICasefold {
		view = &folding{FS: fs, dirs: map[fuse.NodeID]*folded{}}
	}
	if fs.opt.Readonly {
		view = readOnly{view}
	}
	return view
}

// readOnly is a file system that refuses changes (fs-device.md G.4). What is not here
// changes nothing.
type readOnly struct{ fuse.FileSystem }

// SetAttr implements fuse.FileSystem.
func (readOnly) SetAttr(*fuse.Context, fuse.NodeID, *fuse.SetAttr, *fuse.Attr) (time.Duration, error) {
	return 0, syscall.EROFS
}

// Symlink implements fuse.FileSystem.
func (readOnly) Symlink(*fuse.Context, fuse.NodeID, []byte, []byte, *fuse.Create, *fuse.Entry) error {
	return syscall.EROFS
}

// MkNod implements fuse.FileSystem.
func (readOnly) MkNod(*fuse.Context, fuse.NodeID, []byte, *fuse.Create, *fuse.Entry) error {
	return syscall.EROFS
}

// MkDir implements fuse.FileSystem.
func (readOnly) MkDir(*fuse.Context, fuse.NodeID, []byte, *fuse.Create, *fuse.Entry) error {
	return syscall.EROFS
}

// Unlink implements fuse.FileSystem.
func (readOnly) Unlink(*fuse.Context, fuse.NodeID, []byte) error { return syscall.EROFS }

// RmDir implements fuse.FileSystem.
func (readOnly) RmDir(*fuse.Context, fuse.NodeID, []byte) error { return syscall.EROFS }

// Rename implements fuse.FileSystem.
func (readOnly) Rename(*fuse.Context, fuse.NodeID, []byte, fuse.NodeID, []byte, uint32) error {
	return syscall.EROFS
}

// Link implements fuse.FileSystem.
func (readOnly) Link(*fuse.Context, fuse.NodeID, fuse.NodeID, []byte, *fuse.Entry) error {
	return syscall.EROFS
}

// Write implements fuse.FileSystem.
func (readOnly) Write(*fuse.Context, fuse.NodeID, fuse.Handle, guestmem.Vec, uint64, *fuse.WriteArgs) (int, error) {
	return 0, syscall.EROFS
}

// SetXattr implements fuse.FileSystem.
func (readOnly) SetXattr(*fuse.Context, fuse.NodeID, []byte, []byte, uint32, bool) error {
	return syscall.EROFS
}

// RemoveXattr implements fuse.FileSystem.
func (readOnly) RemoveXattr(*fuse.Context, fuse.NodeID, []byte) error { return syscall.EROFS }

// Fallocate implements fuse.FileSystem.
func (readOnly) Fallocate(*fuse.Context, fuse.NodeID, fuse.Handle, uint64, uint64, uint32) error {
	return syscall.EROFS
}

// CopyFileRange implements fuse.FileSystem.
func (readOnly) CopyFileRange(*fuse.Context, fuse.FileRange, fuse.FileRange, uint64, uint64) (uint64, error) {
	return 0, syscall.EROFS
}

// TmpFile implements fuse.FileSystem.
func (readOnly) TmpFile(*fuse.Context, fuse.NodeID, *fuse.Create, *fuse.Entry, *fuse.Opened) error {
	return syscall.EROFS
}

// Ioctl implements fuse.FileSystem. Commands that ask pass.
func (r readOnly) Ioctl(c *fuse.Context, node fuse.NodeID, h fuse.Handle, cmd uint32, in, out []byte) (result, n int, err error) {
	switch cmd {
	case fsGetFlags, fsGetFlags32, fsGetXattr, fsGetPolicy, fsMeasure:
		return r.FileSystem.Ioctl(c, node, h, cmd, in, out)
	case fsSetFlags, fsSetFlags32, fsSetXattr, fsEnableVerity:
		return 0, 0, syscall.EROFS
	}
	return 0, 0, syscall.ENOTTY
}

// Access implements fuse.FileSystem.
func (r readOnly) Access(c *fuse.Context, node fuse.NodeID, mask uint32) error {
	if mask&mayWrite != 0 {
		return syscall.EROFS
	}
	return r.FileSystem.Access(c, node, mask)
}

// Open implements fuse.FileSystem.
func (r readOnly) Open(c *fuse.Context, node fuse.NodeID, flags uint32, kill bool, out *fuse.Opened) error {
	const tmpfile = unix.O_TMPFILE &^ unix.O_DIRECTORY
	switch {
	case flags&unix.O_ACCMODE != unix.O_RDONLY, flags&unix.O_EXCL != 0:
		return syscall.EROFS
	case flags&(unix.O_TRUNC|tmpfile) != 0:
		return syscall.EINVAL
	}
	return r.FileSystem.Open(c, node, flags, kill, out)
}

// Create implements fuse.FileSystem: it opens what exists.
func (r readOnly) Create(c *fuse.Context, parent fuse.NodeID, name []byte, in *fuse.Create, entry *fuse.Entry, out *fuse.Opened) error {
	err := r.Lookup(c, parent, name, entry)
	if err == syscall.ENOENT || err == nil && entry.Node == 0 {
		return syscall.EROFS
	}
	if err != nil {
		return err
	}
	// The guest takes the file for a new one and checks nobody's permission.
	if e := mayReuse(&entry.Attr, &c.Caller, int(in.Flags)); e != 0 {
		err = e
	} else {
		err = r.Open(c, entry.Node, in.Flags, in.Kill, out)
	}
	if err != nil {
		r.Forget(c, entry.Node, 1)
	}
	return err
}
