package fuse

// A DirBuffer collects the entries of one READDIR or READDIRPLUS reply in private
// memory (fs-device.md E.12).
type DirBuffer struct {
	buf  []byte
	room int // bytes the reply may have
	out  EntryOut
}

// Sizes of one entry without its name.
const (
	direntSize     = 24
	direntPlusSize = entrySize + direntSize
)

// Reset empties d and makes room for n bytes.
func (d *DirBuffer) Reset(n int) {
	d.buf = d.buf[:0]
	d.room = n
}

// Bytes returns the entries that were added, valid until the next Reset.
func (d *DirBuffer) Bytes() []byte { return d.buf }

// Room returns the number of bytes that are left.
func (d *DirBuffer) Room() int { return d.room - len(d.buf) }

// Empty reports whether no entry was added yet.
func (d *DirBuffer) Empty() bool { return len(d.buf) == 0 }

// Fits reports whether an entry with a name of n bytes fits.
func (d *DirBuffer) Fits(n int, plus bool) bool {
	n += direntSize
	if plus {
		n += entrySize
	}
	return align8(n) <= d.Room()
}

// Add appends one entry and reports whether it fitted. off is the cookie that
// continues after it, typ is DT_*.
func (d *DirBuffer) Add(ino, off uint64, typ uint8, name []byte) bool {
	if !d.Fits(len(name), false) {
		return false
	}
	d.add(ino, off, typ, name)
	return true
}

// AddPlus appends one entry with attributes. A nil e, or one with Node 0, is an entry
// without inode information: only ino and the type reach the guest (E.12.6).
func (d *DirBuffer) AddPlus(e *Entry, ino, off uint64, typ uint8, name []byte) bool {
	if !d.Fits(len(name), true) {
		return false
	}
	if e == nil || e.Node == 0 {
		d.out = EntryOut{Attr: Attr{Ino: ino, Mode: uint32(typ) << 12}}
	} else {
		d.out.set(e)
	}
	d.buf = append(d.buf, bytesOf(&d.out)...)
	d.add(ino, off, typ, name)
	return true
}

func (d *DirBuffer) add(ino, off uint64, typ uint8, name []byte) {
	head := Dirent{Ino: ino, Off: off, Namelen: uint32(len(name)), Type: uint32(typ)}
	d.buf = append(d.buf, bytesOf(&head)...)
	d.buf = append(d.buf, name...)
	for len(d.buf)%8 != 0 {
		d.buf = append(d.buf, 0)
	}
}

// align8 rounds n up to a multiple of 8.
func align8(n int) int { return (n + 7) &^ 7 }
