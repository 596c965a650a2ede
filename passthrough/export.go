package passthrough

import (
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// maxClimb is how many directories a share may be deep, for "..".
const maxClimb = 256

// dotdot is "..", NUL-terminated.
const dotdot = "..\x00"

// lookupDot is LOOKUP of "." and "..", with which a guest that exports the share again
// finds inodes that it has forgotten, and the way from them to the root (fs-device.md
// E.3.5; linux fs/fuse/inode.c, fuse_get_dentry and fuse_get_parent). "." of a node
// that is not known any more is ESTALE, which is what NFS calls it.
func (fs *FS) lookupDot(t *thread, id fuse.NodeID, up bool, out *fuse.Entry) syscall.Errno {
	fs.exported.Store(true) // see optionally
	s, e := fs.hold(t, id)
	if e != 0 {
		if e == unix.EBADF {
			e = unix.ESTALE
		}
		return e
	}
	defer fs.nodes.put(s)
	d := &s.v
	switch {
	case up && d.typ != unix.S_IFDIR:
		return unix.ENOTDIR
	case d.id == fuse.RootID: // its parent is itself
		return fs.rootEntry(t, out)
	case !up:
		n, e := fs.reopen(t, d.fd, unix.O_PATH)
		if e != 0 {
			return e
		}
		return fs.adoptDot(t, d, n, out)
	}
	n, e := parent(d.fd)
	if e != 0 {
		return e
	}
	k, e := fs.keyAt(t, n)
	if e == 0 && k == fs.rootKey {
		unix.Close(n)
		return fs.rootEntry(t, out)
	}
	if e == 0 {
		e = fs.below(t, n, k)
	}
	if e != 0 {
		unix.Close(n)
		return e
	}
	return fs.adoptDot(t, d, n, out)
}

// adoptDot is adopt for what was found without a name; no mount begins there.
func (fs *FS) adoptDot(t *thread, d *node, n int, out *fuse.Entry) syscall.Errno {
	e := fs.adopt(t, d, nil, n, out)
	out.Attr.Flags &^= fuse.AttrSubmount
	return e
}

// rootEntry describes the root, whose lookups need not be counted.
func (fs *FS) rootEntry(t *thread, out *fuse.Entry) syscall.Errno {
	if e := statx(fs.root.Int(), &t.stat, fs.host.statxMask); e != 0 {
		return e
	}
	*out = fuse.Entry{Node: fuse.RootID, EntryValid: fs.policy.valid, AttrValid: fs.policy.valid}
	fs.setAttr(&out.Attr, &t.stat)
	return 0
}

// below reports whether a directory is in the share, ESTALE if not. The host may have
// moved it out; then its parent is no business of the guest's.
func (fs *FS) below(t *thread, n int, k key) syscall.Errno {
	at := n
	defer func() {
		if at != n {
			unix.Close(at)
		}
	}()
	for range maxClimb {
		up, e := parent(at)
		if e != 0 {
			return e
		}
		if at != n {
			unix.Close(at)
		}
		at = up
		was := k
		if k, e = fs.keyAt(t, at); e != 0 {
			return e
		}
		switch k {
		case fs.rootKey:
			return 0
		case was: // the root of the host
			return unix.ESTALE
		}
	}
	return unix.ESTALE
}

// parent opens the parent of a directory.
func parent(n int) (int, syscall.Errno) {
	return openat(n, cstring(dotdot), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// keyAt identifies the object of a descriptor.
func (fs *FS) keyAt(t *thread, n int) (key, syscall.Errno) {
	if e := statx(n, &t.stat, fs.host.statxMask); e != 0 {
		return key{}, e
	}
	return keyOf(&t.stat), 0
}
