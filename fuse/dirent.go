package fuse

// A DirBuffer collects the entries of one READDIR or READDIRPLUS reply in private
// memory (fs-device.md E.12).
type DirBuffer struct {
	buf  []byte
	room int // bytes the reply may have
}

// Room returns the number of bytes that are left.
func (d *DirBuffer) Room() int { return d.room - len(d.buf) }

// Empty reports whether no entry was added yet.
func (d *DirBuffer) Empty() bool { return len(d.buf) == 0 }

// Fits reports whether an entry with a name of n bytes fits.
func (d *DirBuffer) Fits(n int, plus bool) bool { panic("to be written") }

// Add appends one entry and reports whether it fitted. off is the cookie that
// continues after it, typ is DT_*.
func (d *DirBuffer) Add(ino, off uint64, typ uint8, name []byte) bool { panic("to be written") }

// AddPlus appends one entry with attributes. A nil e, or one with Node 0, is an entry
// without inode information: only e.Attr.Ino and the type reach the guest (E.12.6).
func (d *DirBuffer) AddPlus(e *Entry, ino, off uint64, typ uint8, name []byte) bool {
	panic("to be written")
}
