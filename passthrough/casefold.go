package passthrough

import (
	"bytes"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// folding is a file system that finds names which differ in the case of ASCII letters
// only, where there is none that is equal (fs-device.md E.3.6). Among several the
// bytewise smallest is meant. New names stay as they are.
//
// A directory is read as a whole for this, so its names are remembered until its times
// change, which every change of a name does, the host's own too. One that is large, or
// just changes, is searched each time: that takes no memory.
type folding struct {
	*FS

	reading sync.Mutex // of whoever reads names to remember; nobody waits for it

	mu    sync.Mutex // guards what follows; held for no system call
	dirs  map[fuse.NodeID]*folded
	total int // names in dirs
}

// folded are the names of one directory. It is constant.
type folded struct {
	mtime, ctime unix.StatxTimestamp
	names        map[string]string // by their lower-case form; nil: too many
}

// Limits of what is remembered.
const (
	maxFoldedDirs  = 256
	maxFoldedNames = 1 << 17
	maxFoldedDir   = 1 << 14 // names of one directory
	// foldedTick is longer than file systems give two changes the same time.
	foldedTick = 50 * time.Millisecond
)

// Lookup implements fuse.FileSystem.
func (f *folding) Lookup(c *fuse.Context, parent fuse.NodeID, name []byte, out *fuse.Entry) error {
	err := f.FS.Lookup(c, parent, name, out)
	if err == nil && out.Node != 0 || err != nil && err != syscall.ENOENT {
		return err
	}
	if other := f.fold(c, parent, name); other != nil {
		return f.FS.Lookup(c, parent, other, out)
	}
	return err
}

// Unlink implements fuse.FileSystem.
func (f *folding) Unlink(c *fuse.Context, parent fuse.NodeID, name []byte) error {
	err := f.FS.Unlink(c, parent, name)
	if err == syscall.ENOENT {
		if other := f.fold(c, parent, name); other != nil {
			return f.FS.Unlink(c, parent, other)
		}
	}
	return err
}

// RmDir implements fuse.FileSystem.
func (f *folding) RmDir(c *fuse.Context, parent fuse.NodeID, name []byte) error {
	err := f.FS.RmDir(c, parent, name)
	if err == syscall.ENOENT {
		if other := f.fold(c, parent, name); other != nil {
			return f.FS.RmDir(c, parent, other)
		}
	}
	return err
}

// Rename implements fuse.FileSystem. Only the old name is one that exists.
func (f *folding) Rename(c *fuse.Context, parent fuse.NodeID, name []byte, newParent fuse.NodeID, newName []byte, flags uint32) error {
	err := f.FS.Rename(c, parent, name, newParent, newName, flags)
	if err == syscall.ENOENT {
		if other := f.fold(c, parent, name); other != nil {
			return f.FS.Rename(c, parent, other, newParent, newName, flags)
		}
	}
	return err
}

// fold returns the name that is meant by one that does not exist, or nil.
func (f *folding) fold(c *fuse.Context, parent fuse.NodeID, name []byte) []byte {
	t := local(c)
	d, e := f.hold(t, parent)
	if e != 0 {
		return nil
	}
	defer f.nodes.put(d)
	if d.v.typ != unix.S_IFDIR || isDots(name) {
		return nil
	}
	form := lower(bytes.Clone(name))
	var other []byte
	if names := f.names(t, &d.v); names != nil {
		other = []byte(names[string(form)])
	} else {
		other = f.search(t, &d.v, form)
	}
	if len(other) == 0 || bytes.Equal(other, name) {
		return nil
	}
	return other
}

// names returns the names of a directory by their lower-case forms, or nil if it has to
// be searched.
func (f *folding) names(t *thread, d *node) map[string]string {
	const times = unix.STATX_MTIME | unix.STATX_CTIME
	if statx(d.fd, &t.stat, times) != 0 {
		return nil
	}
	mtime, ctime := t.stat.Mtime, t.stat.Ctime
	f.mu.Lock()
	known := f.dirs[d.id]
	f.mu.Unlock()
	if known != nil && known.mtime == mtime && known.ctime == ctime {
		return known.names
	}
	// A change after reading could leave times as they are if they are very young.
	if time.Since(time.Unix(ctime.Sec, int64(ctime.Nsec))) < foldedTick || !f.reading.TryLock() {
		return nil
	}
	defer f.reading.Unlock()
	names := f.read(t, d)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(d.id)
	for id := range f.dirs {
		if len(f.dirs) < maxFoldedDirs && f.total+len(names) <= maxFoldedNames {
			break
		}
		f.drop(id) // any
	}
	f.dirs[d.id] = &folded{mtime, ctime, names}
	f.total += len(names)
	return names
}

// drop forgets a directory.
func (f *folding) drop(id fuse.NodeID) {
	if known := f.dirs[id]; known != nil {
		f.total -= len(known.names)
		delete(f.dirs, id)
	}
}

// read reads a directory; nil means that it is too large, or cannot be read.
func (f *folding) read(t *thread, d *node) map[string]string {
	names := map[string]string{}
	whole := f.each(t, d, func(name []byte) bool {
		this := string(name)
		form := string(lower(name))
		if other, ok := names[form]; !ok || this < other {
			names[form] = this
		}
		return len(names) <= maxFoldedDir
	})
	if !whole {
		return nil
	}
	return names
}

// search finds the smallest name of a directory that has a lower-case form, or nil.
func (f *folding) search(t *thread, d *node, form []byte) (least []byte) {
	f.each(t, d, func(name []byte) bool {
		if len(name) == len(form) && (least == nil || bytes.Compare(name, least) < 0) {
			if this := bytes.Clone(name); bytes.Equal(lower(name), form) {
				least = this
			}
		}
		return true
	})
	return least
}

// each calls do for the names of a directory, which it may change, as long as that is
// true, and reports whether it came to the end.
func (f *folding) each(t *thread, d *node, do func(name []byte) bool) (whole bool) {
	fd, e := f.reopen(t, d.fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if e != 0 {
		return false
	}
	defer unix.Close(fd)
	for {
		n, e := getdents(fd, t.buf[:])
		if e != 0 || n == 0 {
			return e == 0
		}
		for recs := t.buf[:n]; len(recs) > 0; {
			_, _, _, name, size := record(recs)
			recs = recs[size:]
			if !isDots(name) && !do(name) {
				return false
			}
		}
	}
}

// lower turns ASCII letters to lower case, in place.
func lower(name []byte) []byte {
	for i, b := range name {
		if 'A' <= b && b <= 'Z' {
			name[i] = b | 0x20
		}
	}
	return name
}
