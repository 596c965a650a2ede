package passthrough

import (
	"math"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// Fallocate implements fuse.FileSystem.
func (fs *FS) Fallocate(_ *fuse.Context, node fuse.NodeID, h fuse.Handle, off, length uint64, mode uint32) error {
	f := fs.handles.get(h, node)
	if f == nil {
		return syscall.EBADF
	}
	defer fs.handles.put(f)
	_, e := call(unix.SYS_FALLOCATE, uintptr(f.v.fd), uintptr(mode), uintptr(off), uintptr(length))
	return fs.errno(e)
}

// Lseek implements fuse.FileSystem: it finds data and holes. The position that the
// host moves with it is never used.
func (fs *FS) Lseek(_ *fuse.Context, node fuse.NodeID, h fuse.Handle, off uint64, whence uint32) (uint64, error) {
	f := fs.handles.get(h, node)
	if f == nil {
		return 0, syscall.EBADF
	}
	defer fs.handles.put(f)
	if f.v.dir || whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, syscall.EINVAL
	}
	n, e := call(unix.SYS_LSEEK, uintptr(f.v.fd), uintptr(off), uintptr(whence), 0)
	if e != 0 {
		return 0, fs.errno(e)
	}
	return uint64(n), nil
}

// CopyFileRange implements fuse.FileSystem.
func (fs *FS) CopyFileRange(c *fuse.Context, in, out fuse.FileRange, length, flags uint64) (uint64, error) {
	f := fs.handles.get(in.Handle, in.Node)
	if f == nil {
		return 0, syscall.EBADF
	}
	defer fs.handles.put(f)
	g := fs.handles.get(out.Handle, out.Node)
	if g == nil {
		return 0, syscall.EBADF
	}
	defer fs.handles.put(g)
	if flags != 0 || in.Offset > math.MaxInt64 || out.Offset > math.MaxInt64 {
		return 0, syscall.EINVAL
	}
	t := local(c)
	t.offs = [2]int64{int64(in.Offset), int64(out.Offset)}
	n, e := copyFileRange(f.v.fd, &t.offs[0], g.v.fd, &t.offs[1], length)
	if e != 0 {
		return 0, fs.errno(e)
	}
	return uint64(n), nil
}
