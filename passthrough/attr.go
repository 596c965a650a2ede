package passthrough

import (
	"math"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// setAttr describes an object to the guest (fs-device.md E.9.6).
func (fs *FS) setAttr(a *fuse.Attr, st *unix.Statx_t) {
	*a = fuse.Attr{
		Ino: st.Ino, Size: st.Size, Blocks: st.Blocks,
		Atime: st.Atime.Sec, AtimeNsec: st.Atime.Nsec,
		Mtime: st.Mtime.Sec, MtimeNsec: st.Mtime.Nsec,
		Ctime: st.Ctime.Sec, CtimeNsec: st.Ctime.Nsec,
		Mode: uint32(st.Mode), Nlink: st.Nlink,
		UID: fs.opt.TranslateUID.guest(st.Uid), GID: fs.opt.TranslateGID.guest(st.Gid),
		Rdev:    st.Rdev_minor&0xff | st.Rdev_major<<8 | (st.Rdev_minor&^0xff)<<12,
		Blksize: st.Blksize,
	}
}

// setAttrBrief is setAttr for what fstat said.
func (fs *FS) setAttrBrief(a *fuse.Attr, st *unix.Stat_t) {
	*a = fuse.Attr{
		Ino: st.Ino, Size: uint64(st.Size), Blocks: uint64(st.Blocks),
		Atime: st.Atim.Sec, AtimeNsec: uint32(st.Atim.Nsec),
		Mtime: st.Mtim.Sec, MtimeNsec: uint32(st.Mtim.Nsec),
		Ctime: st.Ctim.Sec, CtimeNsec: uint32(st.Ctim.Nsec),
		Mode: st.Mode, Nlink: uint32(st.Nlink),
		UID: fs.opt.TranslateUID.guest(st.Uid), GID: fs.opt.TranslateGID.guest(st.Gid),
		Rdev:    uint32(st.Rdev), // as the kernel encodes it (linux/kdev_t.h, new_encode_dev)
		Blksize: uint32(st.Blksize),
	}
}

// A target is what an operation on an inode works on: the inode's own descriptor, or
// that of a handle if the guest names one. Both are released by done.
type target struct {
	n *slot[node]
	h *slot[handle]
}

func (fs *FS) target(t *thread, id fuse.NodeID, h fuse.Handle) (x target, e syscall.Errno) {
	if h == 0 {
		x.n, e = fs.hold(t, id)
	} else if x.h = fs.handles.get(h, id); x.h == nil {
		e = unix.EBADF
	}
	return x, e
}

func (fs *FS) done(x target) {
	if x.h != nil {
		fs.handles.put(x.h)
		return
	}
	fs.nodes.put(x.n)
}

// fd returns a descriptor that may be O_PATH.
func (x target) fd() int {
	if x.h != nil {
		return x.h.v.fd
	}
	return x.n.v.fd
}

// GetAttr implements fuse.FileSystem.
func (fs *FS) GetAttr(c *fuse.Context, node fuse.NodeID, h fuse.Handle, out *fuse.Attr) (time.Duration, error) {
	t := local(c)
	if h == 0 && fs.seen(t, node) {
		fs.setAttr(out, &t.stat)
		return fs.policy.valid, nil
	}
	x, e := fs.target(t, node, h)
	if e != 0 {
		return 0, fs.errno(e)
	}
	defer fs.done(x)
	return fs.getAttr(t, node, x, out)
}

// seen looks at a node that has no descriptor under its name, and reports whether that was
// it. Then it needs none: a guest that asks for the attributes of a million files gets them
// without opening any. A node that is used again gets one if there is room, because to look
// at that takes half as long.
func (fs *FS) seen(t *thread, id fuse.NodeID) bool {
	e, c := fs.nodes.slab.at(uint32(id)), &fs.nodes.clock
	if e == nil {
		return false
	}
	if st := e.state.Load(); st&slotOpen != 0 || st&slotRecent != 0 && c.open.Load() < c.soft {
		return false
	}
	if e = fs.nodes.get(id); e == nil {
		return false
	}
	defer fs.nodes.put(e)
	d, path, errno := fs.wayPath(t, e)
	if errno != 0 {
		return false
	}
	defer fs.nodes.put(d)
	return statxAt(d.v.fd, path, &t.stat, fs.host.statxMask) == 0 &&
		keyOf(&t.stat) == e.v.key && fs.knows(t, e, &t.stat, d.v.fd, path)
}

func (fs *FS) getAttr(t *thread, node fuse.NodeID, x target, out *fuse.Attr) (time.Duration, error) {
	var e syscall.Errno
	if x.n != nil && fs.ready(&x.n.v) {
		if e = fstat(x.fd(), &t.brief); e == 0 {
			fs.setAttrBrief(out, &t.brief)
		}
	} else if e = statx(x.fd(), &t.stat, unix.STATX_BASIC_STATS); e == 0 {
		fs.setAttr(out, &t.stat)
	}
	if e != 0 {
		return 0, fs.errno(e)
	}
	if node == fuse.RootID && out.Nlink == 0 {
		fs.warn(troubleGone, "shared directory was removed", unix.ENOENT)
	}
	return fs.policy.valid, nil
}

// changes are what SETATTR changes; the host makes ctime.
const changes = fuse.SetAttrMode | fuse.SetAttrUID | fuse.SetAttrGID | fuse.SetAttrSize | fuse.SetAttrAtime | fuse.SetAttrMtime

// SetAttr implements fuse.FileSystem (fs-device.md E.9). The steps are taken in a
// fixed order; the first that fails ends the operation.
func (fs *FS) SetAttr(c *fuse.Context, node fuse.NodeID, in *fuse.SetAttr, out *fuse.Attr) (time.Duration, error) {
	h := fuse.Handle(0)
	if in.Valid&fuse.SetAttrHandle != 0 {
		h = in.Handle
	}
	t := local(c)
	x, e := fs.target(t, node, h)
	if e != 0 {
		return 0, fs.errno(e)
	}
	defer fs.done(x)
	if in.Valid&(fuse.SetAttrMode|fuse.SetAttrUID|fuse.SetAttrGID|fuse.SetAttrSize) != 0 {
		defer fs.spares.drop(uint32(node)) // the host may let fewer open it now
	}
	if in.Valid&fuse.SetAttrMode != 0 {
		if e = fs.chmod(t, x, in.Mode&0o7777); e != 0 {
			return 0, fs.errno(e)
		}
	}
	// With HANDLE_KILLPRIV_V2, to change nothing is Linux's way of asking for what
	// chown(2) does beside: set-id bits end, and ctime changes. It does so for a chown of
	// nothing, and before FALLOCATE and COPY_FILE_RANGE (linux fs/fuse/dir.c:
	// fuse_setattr). Without, it only means a capability, which the host ends.
	chown := in.Valid&(fuse.SetAttrUID|fuse.SetAttrGID) != 0 ||
		in.Valid&changes == 0 && fs.has(fuse.HandleKillprivV2)
	if chown || in.Valid&fuse.SetAttrSize != 0 {
		fs.loseCapability(t, x.fd())
	}
	if chown {
		if e := fs.chown(x, in); e != 0 {
			return 0, fs.errno(e)
		}
	}
	if in.Valid&fuse.SetAttrSize != 0 {
		fs.killPrivs(t, x.fd(), in.Valid&fuse.SetAttrKillSuidgid != 0)
		e := fs.truncate(t, x, in.Size)
		fs.keepPrivs(t)
		if e != 0 {
			return 0, fs.errno(e)
		}
	}
	if in.Valid&(fuse.SetAttrAtime|fuse.SetAttrMtime) != 0 {
		if e := t.utimens(x, in); e != 0 {
			return 0, fs.errno(e)
		}
	}
	return fs.getAttr(t, node, x, out)
}

// chmod goes through /proc/self/fd, the only way that works on O_PATH descriptors of
// every kernel.
func (fs *FS) chmod(t *thread, x target, mode uint32) syscall.Errno {
	if x.h != nil {
		_, e := call(unix.SYS_FCHMOD, uintptr(x.fd()), uintptr(mode), 0, 0)
		return e
	}
	if x.n.v.typ == unix.S_IFLNK {
		return unix.EOPNOTSUPP
	}
	return fchmodat(fs.proc.Int(), t.link(x.fd()), mode)
}

func (fs *FS) chown(x target, in *fuse.SetAttr) (e syscall.Errno) {
	uid, gid := uint32(fuse.NoID), uint32(fuse.NoID) // leave unchanged
	if in.Valid&fuse.SetAttrUID != 0 {
		if in.UID == fuse.NoID {
			return unix.EINVAL
		}
		if uid, e = fs.opt.TranslateUID.host(in.UID); e != 0 {
			return e
		}
	}
	if in.Valid&fuse.SetAttrGID != 0 {
		if in.GID == fuse.NoID {
			return unix.EINVAL
		}
		if gid, e = fs.opt.TranslateGID.host(in.GID); e != 0 {
			return e
		}
	}
	return fchown(x.fd(), uid, gid)
}

func (fs *FS) truncate(t *thread, x target, size uint64) syscall.Errno {
	if size > math.MaxInt64 {
		return unix.EINVAL
	}
	fd := x.fd()
	switch {
	case x.h != nil && x.h.v.dir:
		return unix.EISDIR
	case x.h != nil:
	case x.n.v.typ == unix.S_IFDIR:
		return unix.EISDIR
	case x.n.v.typ != unix.S_IFREG:
		return unix.EINVAL
	default:
		n, e := fs.reopen(t, fd, unix.O_WRONLY|unix.O_NONBLOCK)
		if e != 0 {
			return e
		}
		defer unix.Close(n)
		fd = n
	}
	_, e := call(unix.SYS_FTRUNCATE, uintptr(fd), uintptr(size), 0, 0)
	return e
}

func (t *thread) utimens(x target, in *fuse.SetAttr) syscall.Errno {
	ok := timespec(&t.times[0], in.Atime, in.Valid&fuse.SetAttrAtime != 0, in.Valid&fuse.SetAttrAtimeNow != 0) &&
		timespec(&t.times[1], in.Mtime, in.Valid&fuse.SetAttrMtime != 0, in.Valid&fuse.SetAttrMtimeNow != 0)
	if !ok {
		return unix.EINVAL
	}
	return utimens(x.fd(), &t.times)
}

// timespec tells utimensat to leave a time, to set it to the host's clock, or to the
// guest's value, which must be normal.
func timespec(ts *unix.Timespec, v fuse.Timespec, valid, now bool) bool {
	switch {
	case !valid:
		*ts = unix.Timespec{Nsec: unix.UTIME_OMIT}
	case now:
		*ts = unix.Timespec{Nsec: unix.UTIME_NOW}
	case v.Nsec > 999_999_999:
		return false
	default:
		*ts = unix.Timespec{Sec: v.Sec, Nsec: int64(v.Nsec)}
	}
	return true
}

// ReadLink implements fuse.FileSystem.
func (fs *FS) ReadLink(c *fuse.Context, node fuse.NodeID, dst []byte) (int, error) {
	n, e := fs.hold(local(c), node)
	if e != 0 {
		return 0, fs.errno(e)
	}
	defer fs.nodes.put(n)
	if n.v.typ != unix.S_IFLNK || len(dst) == 0 {
		return 0, syscall.EINVAL
	}
	size, e := readlink(n.v.fd, dst)
	if e != 0 {
		return 0, fs.errno(e)
	}
	return size, nil
}

// StatFS implements fuse.FileSystem.
func (fs *FS) StatFS(c *fuse.Context, node fuse.NodeID, out *fuse.StatFS) error {
	n, e := fs.hold(local(c), node)
	if e != 0 {
		return fs.errno(e)
	}
	defer fs.nodes.put(n)
	st := &local(c).statfs
	if e := fstatfs(n.v.fd, st); e != 0 {
		return fs.errno(e)
	}
	*out = fuse.StatFS{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail,
		Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), Frsize: uint32(st.Frsize), Namelen: uint32(st.Namelen),
	}
	return nil
}

// Access bits, as in access(2).
const (
	mayExec  = 1
	mayWrite = 2
	mayRead  = 4
)

// Access implements fuse.FileSystem. Guests decide this themselves and never ask.
func (fs *FS) Access(c *fuse.Context, node fuse.NodeID, mask uint32) error {
	n, e := fs.hold(local(c), node)
	if e != 0 {
		return fs.errno(e)
	}
	defer fs.nodes.put(n)
	if mask&^(mayRead|mayWrite|mayExec) != 0 {
		return syscall.EINVAL
	}
	t := local(c)
	if e := statx(n.v.fd, &t.stat, unix.STATX_BASIC_STATS); e != 0 {
		return fs.errno(e)
	}
	var a fuse.Attr
	fs.setAttr(&a, &t.stat)
	if !permits(&a, &c.Caller, mask) {
		return syscall.EACCES
	}
	return nil
}

// permits reports whether the permission bits allow all of mask to a caller: those of
// the one class that it belongs to (fs-device.md E.14.4). ACLs are not looked at.
func permits(a *fuse.Attr, c *fuse.Caller, mask uint32) bool {
	if c.UID == 0 {
		return mask&mayExec == 0 || a.Mode&0o111 != 0 || a.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	bits := a.Mode
	switch {
	case c.UID == a.UID:
		bits >>= 6
	case c.GID == a.GID || slices.Contains(c.Groups, a.GID):
		bits >>= 3
	}
	return mask&^bits == 0
}
