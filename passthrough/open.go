package passthrough

import (
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// open opens a single name below a directory. It never leaves the directory, whatever
// the name is replaced by meanwhile.
func (fs *FS) open(t *thread, dir int, name *byte, flags int, mode uint32) (int, syscall.Errno) {
	flags |= unix.O_CLOEXEC
	t.how = unix.OpenHow{
		Flags: uint64(flags), Mode: uint64(mode),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		var n int
		var e syscall.Errno
		if fs.host.openat2 {
			n, e = openat2(dir, name, &t.how)
		} else {
			n, e = openat(dir, name, flags, mode)
		}
		if !exhausted(e) || !fs.spares.shed() {
			return n, e
		}
	}
}

// reopen opens the object of a descriptor again, with other flags.
func (fs *FS) reopen(t *thread, fd, flags int) (int, syscall.Errno) {
	n, e := openat(fs.proc.Int(), t.link(fd), flags|unix.O_CLOEXEC, 0)
	for exhausted(e) && fs.spares.shed() {
		n, e = openat(fs.proc.Int(), t.link(fd), flags|unix.O_CLOEXEC, 0)
	}
	return n, e
}

// hostFlags rewrites a guest's open flags for the host (fs-device.md E.7.2). What is
// not named here does not pass. O_APPEND is a matter of each WRITE, but see opening.
func (fs *FS) hostFlags(guest uint32) int {
	const pass = unix.O_ACCMODE | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC | unix.O_NONBLOCK | unix.O_DIRECTORY
	keep := pass
	if fs.opt.AllowDirectIO {
		keep |= unix.O_DIRECT
	}
	if fs.opt.PreserveNoatime {
		keep |= unix.O_NOATIME
	}
	flags := int(guest) & keep
	if flags&unix.O_ACCMODE == unix.O_WRONLY && fs.has(fuse.WritebackCache) {
		flags ^= unix.O_WRONLY ^ unix.O_RDWR // the guest fills partial pages by reading
	}
	return flags
}

// An opening is how a guest wants a file to be opened.
type opening struct {
	flags   int  // for the host
	appends bool // add O_APPEND if the host insists on it
	kill    bool // O_TRUNC ends set-user-ID bits
}

// opening rewrites a guest's open flags. A guest that caches writes has no appending
// ones: it knows where the file ends.
func (fs *FS) opening(guest uint32, kill bool) opening {
	return opening{
		flags:   fs.hostFlags(guest),
		appends: guest&unix.O_APPEND != 0 && !fs.has(fuse.WritebackCache),
		kill:    kill,
	}
}

// openFile is reopen for a guest's handle; it returns the flags of the new descriptor,
// too. An append-only file is opened for writing with O_APPEND or not at all
// (ioctl_iflags(2)).
func (fs *FS) openFile(t *thread, fd int, o opening) (n, flags int, e syscall.Errno) {
	if o.flags&unix.O_TRUNC != 0 {
		fs.loseCapability(t, fd)
		fs.killPrivs(t, fd, o.kill)
		defer fs.keepPrivs(t)
	}
	n, e = fs.reopen(t, fd, o.flags)
	if e == unix.EPERM && o.appends {
		o.flags |= unix.O_APPEND
		n, e = fs.reopen(t, fd, o.flags)
	}
	return n, o.flags, e
}

// Open implements fuse.FileSystem. Special files are the guest's own business, and
// must never be opened on the host.
func (fs *FS) Open(c *fuse.Context, node fuse.NodeID, flags uint32, kill bool, out *fuse.Opened) error {
	const tmpfile = unix.O_TMPFILE &^ unix.O_DIRECTORY
	if flags&(unix.O_PATH|tmpfile) != 0 {
		return syscall.EINVAL
	}
	n, e := fs.hold(local(c), node)
	if e != 0 {
		return fs.errno(e)
	}
	defer fs.nodes.put(n)
	switch n.v.typ {
	case unix.S_IFREG, unix.S_IFDIR:
	case unix.S_IFLNK:
		return syscall.ELOOP
	default:
		return syscall.EBADF
	}
	return fs.errno(fs.openNode(local(c), &n.v, fs.opening(flags, kill), out))
}

// OpenDir implements fuse.FileSystem. A guest that can do without is told to.
func (fs *FS) OpenDir(c *fuse.Context, node fuse.NodeID, flags uint32, out *fuse.Opened) error {
	if fs.has(fuse.NoOpendirSupport) {
		return fuse.ErrNotImplemented
	}
	return fs.openDir(c, node, flags, out)
}

func (fs *FS) openDir(c *fuse.Context, node fuse.NodeID, flags uint32, out *fuse.Opened) error {
	n, e := fs.hold(local(c), node)
	if e != 0 {
		return fs.errno(e)
	}
	defer fs.nodes.put(n)
	if n.v.typ != unix.S_IFDIR {
		return syscall.ENOTDIR
	}
	o := opening{flags: fs.hostFlags(flags)&unix.O_NOATIME | unix.O_DIRECTORY}
	return fs.errno(fs.openNode(local(c), &n.v, o, out))
}

// dirHandle is handles.get for a directory; the handle 0 of a guest that opens none
// stands for one that lasts until it is put.
func (fs *FS) dirHandle(c *fuse.Context, node fuse.NodeID, h fuse.Handle) (*slot[handle], error) {
	short := h == 0 && fs.has(fuse.NoOpendirSupport)
	if short {
		var o fuse.Opened
		if err := fs.openDir(c, node, 0, &o); err != nil {
			return nil, err
		}
		h = o.Handle
	}
	f := fs.handles.get(h, node)
	if f == nil {
		return nil, syscall.EBADF
	}
	if short {
		fs.handles.slab.kill(f)
	}
	return f, nil
}

// magic reports whether a file is one of procfs, which the jail keeps closed: some of
// them are ways out, like self/mem (fs-device.md F.9). Only what is mounted below the
// share is worth a look.
func (fs *FS) magic(t *thread, n *node) bool {
	if !fs.opt.RefuseProc || n.typ != unix.S_IFREG || n.key.dev == fs.rootKey.dev && !fs.host.proc {
		return false
	}
	e := fstatfs(n.fd, &t.statfs)
	return e != 0 || t.statfs.Type == unix.PROC_SUPER_MAGIC
}

// openNode makes a handle of a regular file or a directory.
func (fs *FS) openNode(t *thread, n *node, o opening, out *fuse.Opened) syscall.Errno {
	if fs.magic(t, n) {
		return unix.EACCES
	}
	d := descriptor{dir: n.typ == unix.S_IFDIR, read: fs.host.inline, plain: fs.plain(n, o.flags)}
	w := spare(0)
	if d.plain {
		w = fs.spares.take(uint32(n.id))
	}
	if w != 0 {
		d.fd, d.flags, d.read = w.fd(), o.flags, w.read()
	} else {
		var e syscall.Errno
		if d.fd, d.flags, e = fs.openFile(t, n.fd, o); e != 0 {
			return e
		}
	}
	h, e := fs.addHandle(t, n.id, d)
	if e != 0 {
		return e
	}
	*out = fuse.Opened{Handle: h, Flags: fs.policy.file}
	if d.dir {
		out.Flags = fs.policy.dir
	}
	return 0
}
