package passthrough

import (
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// MkDir implements fuse.FileSystem.
func (fs *FS) MkDir(c *fuse.Context, parent fuse.NodeID, name []byte, in *fuse.Create, out *fuse.Entry) error {
	t := local(c)
	d, p, e := fs.dir(t, parent, name, unix.EEXIST)
	if e != 0 {
		return e
	}
	defer fs.nodes.put(d)
	e = fs.create(t, c, &d.v, name, in, unix.AT_REMOVEDIR, func() syscall.Errno {
		return mkdirat(d.v.fd, p, in.Mode&0o7777)
	})
	return fs.made(t, &d.v, p, e, out)
}

// MkNod implements fuse.FileSystem. The kernel makes a regular file of type 0 and
// refuses directories and symbolic links.
func (fs *FS) MkNod(c *fuse.Context, parent fuse.NodeID, name []byte, in *fuse.Create, out *fuse.Entry) error {
	t := local(c)
	d, p, e := fs.dir(t, parent, name, unix.EEXIST)
	if e != 0 {
		return e
	}
	defer fs.nodes.put(d)
	e = fs.create(t, c, &d.v, name, in, 0, func() syscall.Errno {
		return mknodat(d.v.fd, p, in.Mode&(unix.S_IFMT|0o7777), in.Rdev)
	})
	return fs.made(t, &d.v, p, e, out)
}

// Symlink implements fuse.FileSystem.
func (fs *FS) Symlink(c *fuse.Context, parent fuse.NodeID, name, to []byte, in *fuse.Create, out *fuse.Entry) error {
	t := local(c)
	d, p, e := fs.dir(t, parent, name, unix.EEXIST)
	if e != 0 {
		return e
	}
	defer fs.nodes.put(d)
	switch {
	case len(to) == 0:
		return syscall.ENOENT
	case len(to) >= len(t.name2):
		return syscall.ENAMETOOLONG
	}
	t.name2[copy(t.name2[:], to)] = 0
	e = fs.create(t, c, &d.v, name, in, 0, func() syscall.Errno {
		return symlinkat(&t.name2[0], d.v.fd, p)
	})
	return fs.made(t, &d.v, p, e, out)
}

// create runs the system call that makes something below d, as the caller, and sees to
// its label; remove is the flag of unlinkat that would remove it again.
func (fs *FS) create(t *thread, c *fuse.Context, d *node, name []byte, in *fuse.Create, remove int, call func() syscall.Errno) syscall.Errno {
	fs.presetLabel(t, in)
	e := fs.become(t, c, in.Umask)
	if e == 0 {
		e = call()
		fs.restore(t)
	}
	if fs.endPreset(t, in) && e == 0 {
		e = fs.label(t, d, name, in, remove)
	}
	return e
}

// made answers for a creating call that ended with e: the new name is looked up.
func (fs *FS) made(t *thread, d *node, name *byte, e syscall.Errno, out *fuse.Entry) error {
	if e == 0 {
		e = fs.find(t, d, name, out)
	}
	return fs.errno(e)
}

// Create implements fuse.FileSystem (fs-device.md E.8).
func (fs *FS) Create(c *fuse.Context, parent fuse.NodeID, name []byte, in *fuse.Create, entry *fuse.Entry, out *fuse.Opened) error {
	t := local(c)
	d, p, e := fs.dir(t, parent, name, unix.EEXIST)
	if e != 0 {
		return e
	}
	defer fs.nodes.put(d)
	o := fs.opening(in.Flags&^unix.O_DIRECTORY, in.Kill)
	fd, e := fs.createFile(t, c, &d.v, name, o.flags, in)
	if e == unix.EEXIST && in.Flags&unix.O_EXCL == 0 {
		return fs.errno(fs.createExisting(t, c, &d.v, p, o, entry, out))
	}
	if e != 0 {
		return fs.errno(e)
	}
	return fs.errno(fs.created(t, &d.v, p, fd, o.flags, entry, out))
}

// createFile makes and opens a file that was not there; t.name holds its name.
func (fs *FS) createFile(t *thread, c *fuse.Context, d *node, name []byte, flags int, in *fuse.Create) (fd int, e syscall.Errno) {
	fs.presetLabel(t, in)
	if len(in.Label) > 0 && !t.preset {
		if fd, e, ok := fs.createLabelled(t, c, d, name, flags, in); ok {
			return fd, e
		}
	}
	if e = fs.become(t, c, in.Umask); e == 0 {
		fd, e = fs.open(t, d.fd, &t.name[0], flags&^unix.O_TRUNC|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, in.Mode&0o7777)
		fs.restore(t)
	}
	if fs.endPreset(t, in) && e == 0 {
		if e = fs.label(t, d, name, in, 0); e != 0 {
			unix.Close(fd)
		}
	}
	return fd, e
}

// TmpFile implements fuse.FileSystem.
func (fs *FS) TmpFile(c *fuse.Context, parent fuse.NodeID, in *fuse.Create, entry *fuse.Entry, out *fuse.Opened) error {
	t := local(c)
	d, e := fs.hold(t, parent)
	if e != 0 {
		return fs.errno(e)
	}
	defer fs.nodes.put(d)
	if d.v.typ != unix.S_IFDIR {
		return syscall.ENOTDIR
	}
	flags := fs.hostFlags(in.Flags) &^ unix.O_TRUNC
	if acc := flags & unix.O_ACCMODE; acc != unix.O_WRONLY && acc != unix.O_RDWR {
		return syscall.EINVAL
	}
	if e := fs.become(t, c, in.Umask); e != 0 {
		return fs.errno(e)
	}
	fd, e := openat(d.v.fd, cstring(dot), flags|unix.O_TMPFILE|int(in.Flags)&unix.O_EXCL|unix.O_CLOEXEC, in.Mode&0o7777)
	fs.restore(t)
	if e == 0 && len(in.Label) > 0 { // nobody has seen it
		if e = fs.setLabel(t, fd, in); e != 0 {
			unix.Close(fd)
		}
	}
	if e != 0 {
		return fs.errno(e)
	}
	return fs.errno(fs.created(t, &d.v, nil, fd, flags&^unix.O_DIRECTORY, entry, out))
}

// created makes node and handle of a file that was just made below d. The entry comes
// from the descriptor and not from the name, which may mean another file by now; a nil
// name is none. It owns fd from here on.
func (fs *FS) created(t *thread, d *node, name *byte, fd, flags int, entry *fuse.Entry, out *fuse.Opened) syscall.Errno {
	path, e := fs.reopen(t, fd, unix.O_PATH)
	if e == 0 {
		e = fs.adopt(t, d, name, path, entry)
	}
	if e != 0 {
		unix.Close(fd)
		return e
	}
	return fs.opened(t, entry, fd, flags, out)
}

// createExisting opens a file that somebody else made since the guest looked. The
// guest takes it for its own new file and checks nobody's permission, so that is done
// here.
func (fs *FS) createExisting(t *thread, c *fuse.Context, d *node, name *byte, o opening, entry *fuse.Entry, out *fuse.Opened) syscall.Errno {
	path, e := fs.open(t, d.fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if e != 0 {
		return e
	}
	if e = fs.adopt(t, d, name, path, entry); e != 0 {
		return e
	}
	n, e := fs.hold(t, entry.Node)
	if e != 0 { // a guest that forgets what it was not given yet
		return e
	}
	defer fs.nodes.put(n)
	fd, flags := -1, 0
	if e = mayReuse(&entry.Attr, &c.Caller, o.flags); e == 0 && fs.magic(t, &n.v) {
		e = unix.EACCES
	}
	if e == 0 {
		fd, flags, e = fs.openFile(t, n.v.fd, o)
	}
	if e != 0 {
		fs.nodes.forgetSlot(n, 1)
		return e
	}
	return fs.opened(t, entry, fd, flags, out)
}

// mayReuse says whether CREATE may open what exists already (fs-device.md E.8.3).
func mayReuse(a *fuse.Attr, c *fuse.Caller, flags int) syscall.Errno {
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return unix.EISDIR
	case unix.S_IFLNK:
		return unix.ELOOP
	default:
		return unix.EEXIST
	}
	want := uint32(0)
	switch flags & unix.O_ACCMODE {
	case unix.O_RDONLY:
		want = mayRead
	case unix.O_WRONLY:
		want = mayWrite
	default:
		want = mayRead | mayWrite
	}
	if flags&unix.O_TRUNC != 0 {
		want |= mayWrite
	}
	if !permits(a, c, want) {
		return unix.EACCES
	}
	return 0
}

// opened answers CREATE and TMPFILE: the handle of a regular file whose entry has been
// counted already. It owns fd from here on.
func (fs *FS) opened(t *thread, entry *fuse.Entry, fd, flags int, out *fuse.Opened) syscall.Errno {
	h, e := fs.addHandle(t, entry.Node, descriptor{fd: fd, flags: flags, read: fs.host.inline})
	if e != 0 {
		fs.nodes.forget(entry.Node, 1)
		return e
	}
	*out = fuse.Opened{Handle: h, Flags: fs.policy.file}
	return 0
}
