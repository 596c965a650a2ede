package fuse

import "syscall"

// Handlers that answer with a value from private memory: extended attributes and the
// targets of symbolic links (fs-device.md E.15, E.6.5).

const (
	maxXattr = 64 << 10 // bytes of a value and of a list (Linux, XATTR_SIZE_MAX, XATTR_LIST_MAX)
	maxLink  = 4096     // bytes of room for a link's target (Linux, PATH_MAX)
)

// scratch returns private memory for a value of n bytes, not nil.
func (t *Thread) scratch(n int) []byte {
	if cap(t.value) < n || t.value == nil {
		t.value = make([]byte, max(n, maxLink))
	}
	return t.value[:n]
}

func (t *Thread) readLink(r *Request) (int, error) {
	dst := t.scratch(maxLink)
	n, err := t.s.fs.ReadLink(&t.ctx, r.head.Node, dst)
	if err != nil {
		return 0, err
	}
	if n > r.space() {
		return 0, syscall.ENAMETOOLONG
	}
	return r.put(dst[:n]), nil
}

func (t *Thread) getXattr(r *Request) (int, error) {
	in, _, _ := take[GetXattrIn](r.args)
	name := r.names[0]
	if err := checkXattrName(name); err != nil {
		return 0, err
	}
	return t.answerValue(r, in.Size, func(dst []byte) (int, error) {
		return t.s.fs.GetXattr(&t.ctx, r.head.Node, name, dst)
	})
}

func (t *Thread) listXattr(r *Request) (int, error) {
	in, _, _ := take[GetXattrIn](r.args)
	return t.answerValue(r, in.Size, func(dst []byte) (int, error) {
		return t.s.fs.ListXattr(&t.ctx, r.head.Node, dst)
	})
}

// answerValue answers a request that has room for size bytes with what get stores, or with
// the length of it if size is 0.
func (t *Thread) answerValue(r *Request, size uint32, get func(dst []byte) (int, error)) (int, error) {
	if size == 0 {
		if r.space() < wordSize {
			return 0, syscall.EIO
		}
		n, err := get(nil)
		if err != nil {
			return 0, err
		}
		t.out.xattr.Size = uint32(min(n, maxXattr))
		return put(r, &t.out.xattr), nil
	}
	dst := t.scratch(int(min(size, maxXattr, uint32(r.space()))))
	n, err := get(dst)
	if err != nil {
		return 0, err
	}
	if n > len(dst) {
		return 0, syscall.ERANGE
	}
	return r.put(dst[:n]), nil
}

// setXattr parses its own arguments: their size depends on what was negotiated.
func (t *Thread) setXattr(r *Request) (int, error) {
	var in SetXattrIn
	size := 8
	if t.s.flags&SetxattrExt != 0 {
		size = 16
	}
	if len(r.args) < size {
		return 0, syscall.EINVAL
	}
	copy(bytesOf(&in), r.args[:size])
	name, value, ok := cutString(r.args[size:])
	if !ok {
		return 0, syscall.EINVAL
	}
	if err := checkXattrName(name); err != nil {
		return 0, err
	}
	switch {
	case in.Size > maxXattr:
		return 0, syscall.E2BIG
	case int(in.Size) > len(value):
		return 0, syscall.EINVAL
	case in.Flags > 2: // XATTR_CREATE or XATTR_REPLACE, not both
		return 0, syscall.EINVAL
	}
	kill := in.ExtFlags&SetXattrKillSgid != 0 && t.s.flags&PosixACL != 0
	return 0, t.s.fs.SetXattr(&t.ctx, r.head.Node, name, value[:in.Size], in.Flags, kill)
}

func (t *Thread) removeXattr(r *Request) (int, error) {
	name := r.names[0]
	if err := checkXattrName(name); err != nil {
		return 0, err
	}
	return 0, t.s.fs.RemoveXattr(&t.ctx, r.head.Node, name)
}
