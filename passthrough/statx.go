package passthrough

import (
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// statxAttrs are the attributes that mean the same to the guest. That the inode is the
// root of a mount is a matter of the host.
const statxAttrs = ^uint64(unix.STATX_ATTR_MOUNT_ROOT)

// Statx implements fuse.FileSystem (fs-device.md E.9.6).
func (fs *FS) Statx(c *fuse.Context, node fuse.NodeID, h fuse.Handle, mask, sync uint32, out *fuse.Statx) (time.Duration, error) {
	t := local(c)
	x, e := fs.target(t, node, h)
	if e != 0 {
		return 0, fs.errno(e)
	}
	defer fs.done(x)
	mask = unix.STATX_BASIC_STATS | mask&unix.STATX_BTIME
	if e := statxSync(x.fd(), &t.stat, mask, sync); e != 0 {
		return 0, fs.errno(e)
	}
	st := &t.stat
	var a fuse.Attr
	fs.setAttr(&a, st) // knows whose ids the guest sees
	*out = fuse.Statx{
		Mask: st.Mask & mask, Blksize: st.Blksize,
		Attributes: st.Attributes & statxAttrs, Known: st.Attributes_mask & statxAttrs,
		Nlink: st.Nlink, UID: a.UID, GID: a.GID, Mode: st.Mode,
		Ino: st.Ino, Size: st.Size, Blocks: st.Blocks,
		Atime: statxTime(st.Atime), Btime: statxTime(st.Btime),
		Ctime: statxTime(st.Ctime), Mtime: statxTime(st.Mtime),
		RdevMajor: st.Rdev_major, RdevMinor: st.Rdev_minor,
		DevMajor: st.Dev_major, DevMinor: st.Dev_minor,
	}
	if out.Mask&unix.STATX_BTIME == 0 {
		out.Btime = fuse.StatxTime{}
	}
	return fs.policy.valid, nil
}

func statxTime(t unix.StatxTimestamp) fuse.StatxTime {
	return fuse.StatxTime{Sec: t.Sec, Nsec: t.Nsec}
}
