package passthrough

import (
	"math"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/virtio/guestmem"
)

// Write implements fuse.FileSystem (fs-device.md E.10.2). It fills the host's page
// cache; only what goes to the disk at once is left to threads that may block.
func (fs *FS) Write(c *fuse.Context, node fuse.NodeID, h fuse.Handle, src guestmem.Vec, off uint64, in *fuse.WriteArgs) (int, error) {
	f := fs.handles.get(h, node)
	if f == nil {
		return 0, syscall.EBADF
	}
	defer fs.handles.put(f)
	if off > math.MaxInt64 {
		return 0, syscall.EINVAL
	}
	if !c.MayBlock && (f.v.flags&unix.O_DSYNC != 0 || inline(f.v.read.Load()) == inlineNever) {
		return 0, fuse.ErrWouldBlock
	}
	fs.loseCapability(local(c), f.v.fd)
	// Pages that the guest writes out know their place; writes of a file open for
	// appending go to the end, wherever that is by now.
	flags := 0
	if in.OpenFlags&unix.O_APPEND != 0 && in.Flags&fuse.WriteCache == 0 && !fs.has(fuse.WritebackCache) {
		flags = unix.RWF_APPEND
	}
	if f.v.flags&unix.O_APPEND != 0 && flags == 0 {
		return 0, syscall.EPERM // an append-only file has no other writes; the host would move it
	}
	t := local(c)
	fs.killPrivs(t, f.v.fd, in.Flags&fuse.WriteKillSuidgid != 0)
	defer fs.keepPrivs(t)
	done, e := f.v.write(t, src, int64(off), flags)
	if e == unix.EOPNOTSUPP && flags != 0 && done == 0 {
		done, e = fs.appendLocked(t, &f.v, src)
	}
	if e == unix.EINVAL && in.Flags&fuse.WriteCache != 0 && f.v.flags&unix.O_DIRECT != 0 {
		done, e = fs.writeOut(t, &f.v, src, int64(off))
	}
	if done > 0 {
		return done, nil
	}
	return 0, fs.errno(e)
}

// write stores src until it is written or the host refuses more.
func (h *handle) write(t *thread, src guestmem.Vec, off int64, flags int) (done int, e syscall.Errno) {
	for size := src.Len(); done < size; {
		n, e := h.pwritev(t, src.Slice(done, size-done), off+int64(done), flags)
		switch {
		case e == unix.EINTR:
		case e != 0:
			return done, e
		case n == 0:
			return done, unix.EIO
		default:
			done += n
		}
	}
	return done, 0
}

// writeOut stores pages of the guest's cache, the last of which may end anywhere, through
// a descriptor of its own: the handle's takes only whole blocks (open(2), O_DIRECT).
func (fs *FS) writeOut(t *thread, h *handle, src guestmem.Vec, off int64) (int, syscall.Errno) {
	fd, e := fs.reopen(t, h.fd, unix.O_WRONLY)
	if e != 0 {
		return 0, e
	}
	defer unix.Close(fd)
	buffered := handle{fd: fd}
	return buffered.write(t, src, off, 0)
}

// appendLocked writes at the end of the file for a file system without RWF_APPEND.
func (fs *FS) appendLocked(t *thread, h *handle, src guestmem.Vec) (int, syscall.Errno) {
	mu := &fs.appends[uint64(h.node)%uint64(len(fs.appends))]
	mu.Lock()
	defer mu.Unlock()
	if e := statx(h.fd, &t.stat, unix.STATX_SIZE); e != 0 {
		return 0, e
	}
	return h.write(t, src, int64(t.stat.Size), 0)
}
