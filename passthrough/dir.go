package passthrough

import (
	"bytes"
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// ReadDir implements fuse.FileSystem (fs-device.md E.12). Cookies are the host's.
func (fs *FS) ReadDir(c *fuse.Context, node fuse.NodeID, h fuse.Handle, off uint64, plus bool, d *fuse.DirBuffer) error {
	f, err := fs.dirHandle(c, node, h)
	if err != nil {
		return err
	}
	defer fs.handles.put(f)
	if !f.v.dir {
		return syscall.ENOTDIR
	}
	n, e := fs.hold(local(c), node)
	if e != 0 {
		return fs.errno(e)
	}
	defer fs.nodes.put(n)

	// A record of the host is never larger than the entry made of it, so more than
	// d.Room() bytes of them cannot be used; an entry with attributes is three to five
	// times as large. One record always fits in 512.
	least, part := 24+8, 1 // an entry with the shortest name
	if plus {
		least, part = least+128, 4
	}
	t, cookie := local(c), int64(off)
	for d.Room() >= least || d.Empty() && d.Room() > 0 {
		recs := t.buf[:min(max(d.Room()/part, 512), len(t.buf))]
		size, e := fs.records(t, &n.v, &f.v, recs, cookie)
		if size == 0 || e == unix.ENOENT { // the end, or the directory was removed
			return nil
		}
		if e != 0 {
			if d.Empty() {
				return fs.errno(e)
			}
			return nil
		}
		for recs = recs[:size]; len(recs) > 0; {
			ino, next, typ, name, size := record(recs)
			if !fs.addEntry(t, &n.v, d, plus, ino, uint64(next), typ, name) {
				if d.Empty() {
					return syscall.EINVAL
				}
				return nil
			}
			cookie = next
			recs = recs[size:]
		}
	}
	return nil
}

// records reads records after a cookie into buf: those of the listing that is kept, or of
// the host.
func (fs *FS) records(t *thread, n *node, h *handle, buf []byte, cookie int64) (int, syscall.Errno) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if cookie == 0 && fs.ready(n) {
		fs.begin(t, n, h)
	}
	if h.list.serial == 0 {
		return h.records(buf, cookie)
	}
	if size, ok := fs.place(n).recall(h, buf, cookie); ok {
		return size, 0
	}
	size, e := h.records(buf, cookie)
	fs.place(n).gather(h, buf[:size], cookie, e)
	return size, e
}

// records reads records of the host after a cookie into buf. h.mu is locked.
func (h *handle) records(buf []byte, cookie int64) (int, syscall.Errno) {
	size, e := h.recordsAt(buf, cookie)
	if cookie == 0 && size == 0 && e == 0 {
		// Every directory begins with ".", but ext4 says that it is at the end at the first
		// rewind of a descriptor that was read nowhere but at the end (seen with Linux 6.18).
		size, e = h.recordsAt(buf, cookie)
	}
	if e != 0 {
		h.lost = true
		return 0, e
	}
	for recs := buf[:size]; len(recs) > 0; {
		next, n := follow(recs)
		h.pos = next
		recs = recs[n:]
	}
	return size, 0
}

// recordsAt reads records after a cookie. h.mu is locked.
func (h *handle) recordsAt(buf []byte, cookie int64) (int, syscall.Errno) {
	// At its start a directory is always read anew, so that it shows new entries.
	if cookie == 0 || h.pos != cookie || h.lost {
		if _, e := call(unix.SYS_LSEEK, uintptr(h.fd), uintptr(cookie), unix.SEEK_SET, 0); e != 0 {
			return 0, e
		}
		h.pos, h.lost = cookie, false
	}
	return getdents(h.fd, buf)
}

// addEntry adds one entry to d and reports whether it fitted. name is followed by NUL.
func (fs *FS) addEntry(t *thread, dir *node, d *fuse.DirBuffer, plus bool, ino, off uint64, typ uint8, name []byte) bool {
	if isDots(name) {
		if len(name) == 2 && ino != fs.inoAbove(dir) {
			ino = dir.key.ino // what is above the share is nobody's business
		}
		if plus {
			return d.AddPlus(nil, ino, off, typ, name)
		}
		return d.Add(ino, off, typ, name)
	}
	if !plus {
		return d.Add(ino, off, typ, name)
	}
	if !d.Fits(len(name), true) {
		return false
	}
	// What cannot be looked up now gets an entry without attributes; so does the root of
	// a submount, which guests only recognise in a LOOKUP (E.12.6).
	entry := &t.entry
	if e := fs.lookup(t, dir, &name[0], entry); e != 0 {
		fs.errno(e) // log it
		return d.AddPlus(nil, ino, off, typ, name)
	}
	if entry.Attr.Flags&fuse.AttrSubmount != 0 {
		fs.nodes.forget(entry.Node, 1)
		return d.AddPlus(nil, ino, off, typ, name)
	}
	typ = uint8(entry.Attr.Mode & unix.S_IFMT >> 12)
	if !d.AddPlus(entry, entry.Attr.Ino, off, typ, name) {
		fs.nodes.forget(entry.Node, 1)
		return false
	}
	return true
}

// inoAbove returns the inode number of the directory in which the guest found dir, 0 if
// there is none any more. Another one that is above dir now may be outside of the share:
// the host moved dir, or it is the root of a bind mount.
func (fs *FS) inoAbove(dir *node) uint64 {
	s, _ := fs.nodes.shard(dir.key)
	s.mu.Lock()
	id := dir.way.parent
	s.mu.Unlock()
	if id == 0 {
		return 0
	}
	e := fs.nodes.get(id)
	if e == nil {
		return 0
	}
	defer fs.nodes.put(e)
	return e.v.key.ino
}

// record decodes the struct linux_dirent64 at the start of b, which getdents filled.
// size is how many bytes it takes. The name is followed by NUL.
func record(b []byte) (ino uint64, next int64, typ uint8, name []byte, size int) {
	const head = 8 + 8 + 2 + 1 // d_ino, d_off, d_reclen, d_type
	ino = binary.NativeEndian.Uint64(b)
	next, size = follow(b)
	typ = b[18]
	name = b[head:size]
	return ino, next, typ, name[:bytes.IndexByte(name, 0)], size
}

// follow is record of what leads to the next one.
func follow(b []byte) (next int64, size int) {
	return int64(binary.NativeEndian.Uint64(b[8:])), int(binary.NativeEndian.Uint16(b[16:]))
}
