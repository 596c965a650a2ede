package passthrough

import (
	"math"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/virtio/guestmem"
)

// Read implements fuse.FileSystem (fs-device.md E.10.1). To the guest a short result
// is the end of the file, so it reads until it has everything or the host says 0.
func (fs *FS) Read(c *fuse.Context, node fuse.NodeID, h fuse.Handle, dst guestmem.Vec, off uint64) (int, error) {
	f := fs.handles.get(h, node)
	if f == nil {
		return 0, syscall.EBADF
	}
	defer fs.handles.put(f)
	if off > math.MaxInt64 {
		return 0, syscall.EINVAL
	}
	flags := 0
	if !c.MayBlock {
		switch inline(f.v.read.Load()) {
		case inlineNowait:
			flags = unix.RWF_NOWAIT
		case inlineNever:
			return 0, fuse.ErrWouldBlock
		}
	}
	done, size := 0, int(min(uint64(dst.Len()), math.MaxInt64-off))
	for done < size {
		n, e := f.v.preadv(local(c), dst.Slice(done, size-done), int64(off)+int64(done), flags)
		switch {
		case e == unix.EINTR:
		case e == unix.EAGAIN && flags != 0:
			return 0, fuse.ErrWouldBlock
		case e == unix.EOPNOTSUPP && flags != 0:
			if f.v.noNowait(&local(c).statfs) == inlineNever {
				return 0, fuse.ErrWouldBlock
			}
			flags = 0
		case e != 0:
			return 0, fs.errno(e)
		case n == 0:
			return done, nil
		default:
			done += n
		}
	}
	return done, nil
}

// Remote reports whether the shared directory is on a file system whose operations may
// wait for another machine or another process.
func (fs *FS) Remote() bool { return fs.host.inline == inlineNever }

// noNowait remembers that the handle's file system does not know RWF_NOWAIT: reads
// from memory never wait, others may.
func (h *handle) noNowait(st *unix.Statfs_t) inline {
	to := inlineNever
	if fstatfs(h.fd, st) == 0 && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC) {
		to = inlinePlain
	}
	h.read.Store(uint32(to))
	return to
}
