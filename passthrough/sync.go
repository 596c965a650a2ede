package passthrough

import (
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// Flush implements fuse.FileSystem (fs-device.md E.14.2): closing a copy of the
// descriptor makes the host report errors of earlier writes.
func (fs *FS) Flush(_ *fuse.Context, node fuse.NodeID, h fuse.Handle) error {
	f := fs.handles.get(h, node)
	if f == nil {
		return syscall.EBADF
	}
	defer fs.handles.put(f)
	if f.v.flags&unix.O_ACCMODE == unix.O_RDONLY {
		return nil
	}
	n, e := call(unix.SYS_FCNTL, uintptr(f.v.fd), unix.F_DUPFD_CLOEXEC, 0, 0)
	if e != 0 {
		return fs.errno(e)
	}
	// Linux has closed the descriptor even when it reports EINTR.
	if _, _, e = syscall.Syscall(unix.SYS_CLOSE, uintptr(n), 0, 0); e == unix.EINTR {
		return nil
	}
	return fs.errno(e)
}

// Fsync implements fuse.FileSystem.
func (fs *FS) Fsync(_ *fuse.Context, node fuse.NodeID, h fuse.Handle, dataOnly bool) error {
	f := fs.handles.get(h, node)
	if f == nil {
		return syscall.EBADF
	}
	defer fs.handles.put(f)
	return fs.fsync(f.v.fd, dataOnly)
}

func (fs *FS) fsync(fd int, dataOnly bool) error {
	nr := uintptr(unix.SYS_FSYNC)
	if dataOnly {
		nr = unix.SYS_FDATASYNC
	}
	_, e := call(nr, uintptr(fd), 0, 0, 0)
	return fs.errno(e)
}

// FsyncDir implements fuse.FileSystem.
func (fs *FS) FsyncDir(c *fuse.Context, node fuse.NodeID, h fuse.Handle, dataOnly bool) error {
	f, err := fs.dirHandle(c, node, h)
	if err != nil {
		return err
	}
	defer fs.handles.put(f)
	return fs.fsync(f.v.fd, dataOnly)
}

// SyncFS implements fuse.FileSystem. A node that cannot be read is synchronised with
// the file system of the share's root.
func (fs *FS) SyncFS(c *fuse.Context, node fuse.NodeID) error {
	n, e := fs.hold(local(c), node)
	if e != 0 {
		return fs.errno(e)
	}
	defer fs.nodes.put(n)
	t := local(c)
	fd, e := -1, unix.EACCES
	if n.v.typ == unix.S_IFREG || n.v.typ == unix.S_IFDIR {
		fd, e = fs.reopen(t, n.v.fd, unix.O_RDONLY|unix.O_NONBLOCK)
	}
	if e != 0 {
		fd, e = fs.reopen(t, fs.root.Int(), unix.O_RDONLY|unix.O_DIRECTORY)
	}
	if e != 0 {
		return fs.errno(e)
	}
	defer unix.Close(fd)
	_, e = call(unix.SYS_SYNCFS, uintptr(fd), 0, 0, 0)
	return fs.errno(e)
}
