package fuse

import "syscall"

// Types of request extensions, and limits (fs-device.md D.3.1).
const (
	extMaxSecctx  = 31 // types 0 to 31 are that many security contexts
	extGroups     = 32 // FUSE_EXT_GROUPS
	maxGroups     = 65536
	extHeaderSize = 8
)

// extensions are what a request that creates something may carry at its end.
type extensions struct {
	label, labelAs []byte // value and name of a security context, nil without one
	groups         []byte // little-endian gids
}

// parse reads the extensions in b, each once at most.
func (x *extensions) parse(b []byte) bool {
	*x = extensions{}
	var labelled, grouped bool
	for len(b) > 0 {
		head, _, ok := take[ExtHeader](b)
		if !ok || head.Size < extHeaderSize || head.Size%8 != 0 || uint64(head.Size) > uint64(len(b)) {
			return false
		}
		body := b[extHeaderSize:head.Size]
		b = b[head.Size:]
		switch {
		case head.Type <= extMaxSecctx && !labelled:
			labelled = true
			if !x.parseSecctx(body, head.Type) {
				return false
			}
		case head.Type == extGroups && !grouped:
			grouped = true
			if !x.parseGroups(body) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// parseSecctx reads a block of n security contexts, of which one is supported. An
// empty value is no label.
func (x *extensions) parseSecctx(b []byte, n uint32) bool {
	if n == 0 {
		return true
	}
	head, b, ok := take[Secctx](b)
	if n > 1 || !ok {
		return false
	}
	name, b, ok := cutString(b)
	if !ok || len(name) == 0 || uint64(head.Size) > uint64(len(b)) {
		return false
	}
	if head.Size > 0 {
		x.label, x.labelAs = b[:head.Size], name
	}
	return true
}

// parseGroups reads a list of supplementary groups.
func (x *extensions) parseGroups(b []byte) bool {
	n, b, ok := take[uint32](b)
	if !ok || n > maxGroups || uint64(n)*4 > uint64(len(b)) {
		return false
	}
	x.groups = b[:n*4]
	return true
}

// extend reads the extensions of r into t.create and t.ctx, as far as the guest has
// negotiated them.
func (t *Thread) extend(r *Request) error {
	size := int(r.head.ExtUnits) * 8
	if size > len(r.rest) {
		return syscall.EINVAL
	}
	area := r.rest[len(r.rest)-size:]
	old := size == 0 && t.s.flags&SecurityCtx != 0
	if old {
		// Linux before 6.3 has the security context follow the strings without saying so
		// in the header.
		area = r.rest
	}
	var x extensions
	if !x.parse(area) || old && x.groups != nil {
		return syscall.EINVAL
	}
	if t.s.flags&SecurityCtx != 0 {
		t.create.Label, t.create.LabelAs = x.label, x.labelAs
	}
	if t.s.flags&CreateSuppGroup != 0 {
		t.ctx.Groups = t.takeGroups(x.groups)
	}
	return nil
}

// takeGroups copies a list of gids to memory of t.
func (t *Thread) takeGroups(b []byte) []uint32 {
	if len(b) == 0 {
		return nil
	}
	if cap(t.groups) > keepCopy/4 {
		t.groups = nil
	}
	t.groups = t.groups[:0]
	for len(b) > 0 {
		var gid uint32
		gid, b, _ = take[uint32](b)
		t.groups = append(t.groups, gid)
	}
	return t.groups
}
