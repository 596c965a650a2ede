package fuse

import "syscall"

// Handlers of operations that change names (fs-device.md E.6, E.8).

const (
	modeBits    = 0o7777 // permission bits of a mode
	renameWhite = 1 << 2
)

// beginCreate fills t.create with what all creating operations have.
func (t *Thread) beginCreate(r *Request, mode, umask uint32) error {
	t.create = Create{Mode: mode}
	if t.s.flags&DontMask != 0 {
		t.create.Umask = umask & 0o777
	}
	t.entry, t.opened = Entry{}, Opened{}
	return t.extend(r)
}

func (t *Thread) mkNod(r *Request) (int, error) {
	in, _, _ := take[MkNodIn](r.args)
	name := r.names[0]
	if err := checkNewName(name); err != nil {
		return 0, err
	}
	kind := in.Mode & syscall.S_IFMT
	switch kind {
	case 0:
		kind = syscall.S_IFREG
	case syscall.S_IFREG, syscall.S_IFIFO, syscall.S_IFSOCK, syscall.S_IFCHR, syscall.S_IFBLK:
	default:
		return 0, syscall.EINVAL
	}
	if err := t.beginCreate(r, kind|in.Mode&modeBits, in.Umask); err != nil {
		return 0, err
	}
	t.create.Rdev = in.Rdev
	return t.putEntry(r, t.s.fs.MkNod(&t.ctx, r.head.Node, name, &t.create, &t.entry))
}

func (t *Thread) mkDir(r *Request) (int, error) {
	in, _, _ := take[MkDirIn](r.args)
	name := r.names[0]
	if err := checkNewName(name); err != nil {
		return 0, err
	}
	if err := t.beginCreate(r, syscall.S_IFDIR|in.Mode&modeBits, in.Umask); err != nil {
		return 0, err
	}
	return t.putEntry(r, t.s.fs.MkDir(&t.ctx, r.head.Node, name, &t.create, &t.entry))
}

func (t *Thread) symlink(r *Request) (int, error) {
	name, target := r.names[0], r.names[1]
	if err := checkNewName(name); err != nil {
		return 0, err
	}
	switch {
	case len(target) == 0:
		return 0, syscall.ENOENT
	case len(target) > maxTarget:
		return 0, syscall.ENAMETOOLONG
	}
	if err := t.beginCreate(r, syscall.S_IFLNK|0o777, 0); err != nil {
		return 0, err
	}
	return t.putEntry(r, t.s.fs.Symlink(&t.ctx, r.head.Node, name, target, &t.create, &t.entry))
}

func (t *Thread) link(r *Request) (int, error) {
	in, _, _ := take[LinkIn](r.args)
	name := r.names[0]
	if err := checkNewName(name); err != nil {
		return 0, err
	}
	t.entry = Entry{}
	return t.putEntry(r, t.s.fs.Link(&t.ctx, in.Node, r.head.Node, name, &t.entry))
}

func (t *Thread) unlink(r *Request) (int, error) {
	name := r.names[0]
	if err := checkName(name, syscall.EISDIR, syscall.EISDIR); err != nil {
		return 0, err
	}
	return 0, t.s.fs.Unlink(&t.ctx, r.head.Node, name)
}

func (t *Thread) rmDir(r *Request) (int, error) {
	name := r.names[0]
	if err := checkName(name, syscall.EINVAL, syscall.ENOTEMPTY); err != nil {
		return 0, err
	}
	return 0, t.s.fs.RmDir(&t.ctx, r.head.Node, name)
}

func (t *Thread) rename(r *Request) (int, error) {
	in, _, _ := take[RenameIn](r.args)
	return t.renameTo(r, in.NewParent, 0)
}

func (t *Thread) rename2(r *Request) (int, error) {
	in, _, _ := take[Rename2In](r.args)
	if in.Flags&renameWhite != 0 && !r.hasCaller() {
		return 0, syscall.EINVAL
	}
	return t.renameTo(r, in.NewParent, in.Flags)
}

func (t *Thread) renameTo(r *Request, parent NodeID, flags uint32) (int, error) {
	for _, name := range r.names {
		if err := checkName(name, syscall.EBUSY, syscall.EBUSY); err != nil {
			return 0, err
		}
	}
	return 0, t.s.fs.Rename(&t.ctx, r.head.Node, r.names[0], parent, r.names[1], flags)
}

// hasCaller reports whether r has the uid and gid that making something takes
// (fs-device.md E.4.4).
func (r *Request) hasCaller() bool { return r.head.UID != NoID && r.head.GID != NoID }

func (t *Thread) createFile(r *Request) (int, error) {
	name := r.names[0]
	if err := checkNewName(name); err != nil {
		return 0, err
	}
	if err := t.beginOpenNew(r); err != nil {
		return 0, err
	}
	err := t.s.fs.Create(&t.ctx, r.head.Node, name, &t.create, &t.entry, &t.opened)
	return t.putCreate(r, err)
}

// tmpFile ignores the name, which is "/" from Linux.
func (t *Thread) tmpFile(r *Request) (int, error) {
	if err := t.beginOpenNew(r); err != nil {
		return 0, err
	}
	err := t.s.fs.TmpFile(&t.ctx, r.head.Node, &t.create, &t.entry, &t.opened)
	return t.putCreate(r, err)
}

// beginOpenNew is beginCreate for operations that open what they make.
func (t *Thread) beginOpenNew(r *Request) error {
	in, _, _ := take[CreateIn](r.args)
	if err := t.beginCreate(r, syscall.S_IFREG|in.Mode&modeBits, in.Umask); err != nil {
		return err
	}
	t.create.Flags = in.Flags
	t.create.Kill = t.kills(in.OpenFlags)
	return nil
}

// kills reports whether the flags of an open tell the server to drop suid bits.
func (t *Thread) kills(flags uint32) bool {
	return flags&OpenKillSuidgid != 0 && t.s.flags&HandleKillprivV2 != 0
}

func (t *Thread) putCreate(r *Request, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	o := &t.out.create
	o.Entry.set(&t.entry)
	o.Open.Handle, o.Open.Flags = t.opened.Handle, t.opened.Flags
	return put(r, o), nil
}
