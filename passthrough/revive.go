package passthrough

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// A recall is the memory that a thread needs to evict and revive nodes. Both happen in
// the middle of requests, so it is shared with nothing else.
type recall struct {
	probe    unix.Statx_t
	handle   fileHandle
	path     [unix.PathMax]byte // of several ways, NUL-terminated
	evicting bool               // a node is being evicted now: do not evict for that
	depth    int                // of nested revivals
}

// maxDepth limits how many directories in a row are revived for one node. Names that were
// true one after the other may lead in a circle.
const maxDepth = 64

// revive opens the descriptor of a node in use that has none. ESTALE means that the
// inode is gone, or that nobody knows where it is: guests look up the path again.
func (fs *FS) revive(t *thread, e *slot[node]) syscall.Errno {
	if t.depth == maxDepth {
		return unix.ESTALE
	}
	t.depth++
	fd, errno := fs.reach(t, e)
	t.depth--
	if errno != 0 {
		return errno
	}
	if errno := fs.room(t); errno != 0 { // not before: parents need room first
		unix.Close(fd)
		return errno
	}
	s, _ := fs.nodes.shard(e.v.key)
	s.mu.Lock()
	late := e.open()
	if !late {
		fs.nodes.install(e, fd)
	}
	s.mu.Unlock()
	if late { // another thread was faster
		unix.Close(fd)
		fs.budget.give()
	}
	return 0
}

// reach finds an evicted node's inode: by its file handle, by its name, or under
// another name of the same directory.
func (fs *FS) reach(t *thread, e *slot[node]) (int, syscall.Errno) {
	s, _ := fs.nodes.shard(e.v.key)
	s.mu.Lock()
	handle := s.handle(&e.v.way)
	known := len(handle) > 0
	if known {
		t.handle.set(handle)
	}
	s.mu.Unlock()
	gone := false
	if known {
		mount := fs.nodes.mounts.fd(e.v.key.mnt)
		fd, errno := openByHandle(mount, &t.handle, unix.O_PATH|unix.O_NOFOLLOW)
		for exhausted(errno) && fs.spares.shed() {
			fd, errno = openByHandle(mount, &t.handle, unix.O_PATH|unix.O_NOFOLLOW)
		}
		if errno == 0 {
			errno = fs.verify(t, e, fd, false)
		}
		// ENOMEM is also what ext4 says while another file is being made that gets the number
		// of one that is gone (linux fs/inode.c, iget_locked and I_CREATING): the name knows.
		if errno == 0 || exhausted(errno) && errno != unix.ENOMEM {
			return fd, errno
		}
		gone = errno == unix.ESTALE
	}
	d, path, errno := fs.wayPath(t, e)
	if errno != 0 {
		return -1, errno
	}
	fd, errno := fs.open(t, d.v.fd, path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	fs.nodes.put(d)
	if errno == 0 {
		errno = fs.verify(t, e, fd, true)
	}
	if lost(errno) && !gone {
		fd, errno = fs.search(t, e)
	}
	if lost(errno) {
		return -1, unix.ESTALE
	}
	return fd, errno
}

// lost reports whether an error means that the inode is not there.
func lost(e syscall.Errno) bool {
	switch e {
	case unix.ENOENT, unix.ESTALE, unix.ENOTDIR, unix.ELOOP:
		return true
	}
	return false
}

// exhausted reports whether an error says nothing about the inode.
func exhausted(e syscall.Errno) bool {
	return e == unix.EMFILE || e == unix.ENFILE || e == unix.ENOMEM
}

// verify checks that fd refers to an evicted node's inode, and closes it if it does
// not. A file handle is a witness itself.
func (fs *FS) verify(t *thread, e *slot[node], fd int, byName bool) syscall.Errno {
	errno := statx(fd, &t.probe, fs.host.statxMask)
	if errno == 0 && (keyOf(&t.probe) != e.v.key || byName && !fs.knows(t, e, &t.probe, fd, nil)) {
		errno = unix.ESTALE
	}
	if errno != 0 {
		unix.Close(fd)
	}
	return errno
}

// knows reports whether an inode with the key of an evicted node is the node's, by its
// birth or else by its witness. It is that of a descriptor, or of a name below it if that
// is not nil; st is what statx said of it.
func (fs *FS) knows(t *thread, e *slot[node], st *unix.Statx_t, fd int, name *byte) bool {
	s, _ := fs.nodes.shard(e.v.key)
	s.mu.Lock()
	born, witness := e.v.way.born, e.v.way.witness
	s.mu.Unlock()
	if born != 0 && born == birth(st) {
		return true
	}
	return witness != 0 && witness == fs.witness(t, fd, name)
}

// wayPath returns the nearest directory above an evicted node that has its descriptor,
// and the path from there. The directory must be put back if there is no error; the
// path lives in the thread.
func (fs *FS) wayPath(t *thread, e *slot[node]) (*slot[node], *byte, syscall.Errno) {
	tab := &fs.nodes
	at, cur := len(t.path)-1, e
	t.path[at] = 0
	for {
		s, _ := tab.shard(cur.v.key)
		s.mu.Lock()
		parent, name := cur.v.way.parent, s.name(&cur.v.way)
		fits := len(name) < at
		if fits {
			if t.path[at] != 0 {
				at--
				t.path[at] = '/'
			}
			at -= len(name)
			copy(t.path[at:], name)
		}
		s.mu.Unlock()
		var d *slot[node]
		errno := syscall.Errno(0)
		if !fits {
			if errno = fs.revive(t, cur); errno == 0 {
				var path *byte
				d, path, errno = fs.wayPath(t, e)
				tab.put(cur)
				return d, path, errno
			}
		} else if parent == 0 {
			errno = unix.ESTALE
		} else if d = tab.get(parent); d == nil { // forgotten
			errno = unix.ESTALE
		}
		if cur != e {
			tab.put(cur)
		}
		if errno != 0 {
			return nil, nil, errno
		}
		if d.open() {
			return d, &t.path[at], 0
		}
		cur = d
	}
}

// search looks for an evicted node's inode under every name of the directory in which
// it was. It is for servers that may not use file handles, when the host renamed a
// file or a directory above it. One that it does not find has no name any more.
func (fs *FS) search(t *thread, e *slot[node]) (int, syscall.Errno) {
	s, _ := fs.nodes.shard(e.v.key)
	s.mu.Lock()
	parent := e.v.way.parent
	s.mu.Unlock()
	d, errno := fs.hold(t, parent)
	if errno != 0 {
		return -1, errno
	}
	defer fs.nodes.put(d)
	dir, errno := openat(d.v.fd, cstring(dot), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errno != 0 {
		return -1, errno
	}
	defer unix.Close(dir)
	buf := make([]byte, 32<<10)
	for range 256 { // of so many bytes: the thread has other work
		n, errno := getdents(dir, buf)
		if n == 0 || errno != 0 {
			break
		}
		for recs := buf[:n]; len(recs) > 0; {
			ino, _, _, name, size := record(recs)
			recs = recs[size:]
			if ino != e.v.key.ino || isDots(name) {
				continue
			}
			fd, errno := fs.open(t, d.v.fd, &name[0], unix.O_PATH|unix.O_NOFOLLOW, 0)
			if errno == 0 && fs.verify(t, e, fd, true) == 0 {
				s.mu.Lock()
				s.setName(e, parent, name)
				s.mu.Unlock()
				return fd, 0
			}
		}
	}
	s.mu.Lock()
	if e.v.way.parent == parent {
		s.dropName(e, parent, s.name(&e.v.way))
	}
	s.mu.Unlock()
	return -1, unix.ESTALE
}
