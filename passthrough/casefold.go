package passthrough

import (
	"bytes"
	"strings"
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
// change, which every change of a name does, the host's own too.
type folding struct {
	*FS

	mu    sync.Mutex // guards what follows; held for no system call
	dirs  map[fuse.NodeID]*folded
	total int // names in dirs
}

// folded are the names of one directory. It is constant.
type folded struct {
	mtime, ctime unix.StatxTimestamp
	names        map[string]string // by their lower-case form
}

// Limits of what is remembered.
const (
	maxFoldedDirs  = 256
	maxFoldedNames = 1 << 17 // a directory that has more is read each time
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
	names := f.names(t, &d.v)
	if other, ok := names[string(lower(bytes.Clone(name)))]; ok && other != string(name) {
		return []byte(other)
	}
	return nil
}

// names returns the names of a directory by their lower-case forms.
func (f *folding) names(t *thread, d *node) map[string]string {
	const times = unix.STATX_MTIME | unix.STATX_CTIME
	f.mu.Lock()
	known := f.dirs[d.id]
	f.mu.Unlock()
	if statx(d.fd, &t.stat, times) != 0 {
		return nil
	}
	mtime, ctime := t.stat.Mtime, t.stat.Ctime
	if known != nil && known.mtime == mtime && known.ctime == ctime {
		return known.names
	}
	begin := time.Now()
	names := f.read(t, d)
	// A change after reading could leave times as they are if they are very young.
	young := begin.Sub(time.Unix(ctime.Sec, int64(ctime.Nsec))) < foldedTick
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(d.id)
	if young || len(names) > maxFoldedNames {
		return names
	}
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

// read reads a directory.
func (f *folding) read(t *thread, d *node) map[string]string {
	fd, e := f.reopen(t, d.fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if e != 0 {
		return nil
	}
	defer unix.Close(fd)
	names := map[string]string{}
	for {
		n, e := getdents(fd, t.buf[:])
		if e != 0 || n == 0 {
			return names
		}
		for recs := t.buf[:n]; len(recs) > 0; {
			_, _, _, name, size := record(recs)
			recs = recs[size:]
			if isDots(name) {
				continue
			}
			this := string(name)
			form := string(lower(name)) // changes recs, which is read once
			if other, ok := names[form]; !ok || strings.Compare(this, other) < 0 {
				names[form] = this
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
