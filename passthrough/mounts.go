package passthrough

import (
	"fmt"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// mounts are the mounts of which nodes have file handles. A file handle is opened with
// a descriptor of its mount (fs-device.md F.10.2), which is kept as long as a node may
// need it; that of the shared directory's mount always.
type mounts struct {
	mu   sync.Mutex
	list []mount
}

type mount struct {
	id   uint64
	fd   int // -1: file handles do not work there
	refs int // nodes with a handle
}

// find returns the index of a mount, or -1.
func (m *mounts) find(id uint64) int {
	for i := range m.list {
		if m.list[i].id == id {
			return i
		}
	}
	return -1
}

// fd returns the descriptor of a mount of which the caller uses a node with a handle.
func (m *mounts) fd(id uint64) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := m.find(id); i >= 0 {
		return m.list[i].fd
	}
	return -1
}

// retain counts one more node with a handle. known is false if nothing is known of the
// mount yet.
func (m *mounts) retain(id uint64) (ok, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.find(id)
	if i < 0 {
		return false, false
	}
	if m.list[i].fd < 0 {
		return false, true
	}
	m.list[i].refs++
	return true, true
}

// release ends retain.
func (m *mounts) release(id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.find(id)
	if i < 0 {
		return
	}
	if m.list[i].refs--; m.list[i].refs == 0 {
		unix.Close(m.list[i].fd)
		m.list = append(m.list[:i], m.list[i+1:]...)
	}
}

// add makes a mount known. If another thread was faster, fd is closed.
func (m *mounts) add(id uint64, fd int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.find(id) < 0 {
		m.list = append(m.list, mount{id: id, fd: fd})
		return
	}
	if fd >= 0 {
		unix.Close(fd)
	}
}

// close forgets all mounts.
func (m *mounts) close() {
	for _, x := range m.list {
		if x.fd >= 0 {
			unix.Close(x.fd)
		}
	}
	m.list = nil
}

// retainMount prepares for opening the file handle of node n, which is in the thread.
// It reports whether that works.
func (fs *FS) retainMount(t *thread, n *node) bool {
	if fs.opt.FileHandles == HandlesNever {
		return false
	}
	m := &fs.nodes.mounts
	ok, known := m.retain(n.key.mnt)
	if known || n.typ != unix.S_IFDIR && n.typ != unix.S_IFREG { // nothing else is ever opened
		return ok
	}
	fd, err := unix.Openat(fs.proc.Int(), strconv.Itoa(n.fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	if k, e := openByHandle(fd, &t.handle, unix.O_PATH|unix.O_NOFOLLOW); e == 0 {
		unix.Close(k)
	} else {
		unix.Close(fd)
		fd = -1
	}
	m.add(n.key.mnt, fd)
	ok, _ = m.retain(n.key.mnt)
	return ok
}

// probeHandles finds out whether file handles work on the shared directory's mount,
// and keeps that mount's descriptor for good.
func (fs *FS) probeHandles() error {
	if fs.opt.FileHandles == HandlesNever {
		return nil
	}
	root := fs.nodes.get(fuse.RootID)
	defer fs.nodes.put(root)
	t := new(thread)
	e := nameToHandle(root.v.fd, nil, &t.handle)
	if e == 0 && fs.retainMount(t, &root.v) {
		return nil
	}
	if e == 0 {
		e = unix.EPERM
	}
	if fs.opt.FileHandles == HandlesMandatory {
		return fmt.Errorf("file handles: %w (they need CAP_DAC_READ_SEARCH and a file system that has them: use prefer or never)", e)
	}
	fs.log.Debug("file handles do not work: inodes are found again by their names", "dir", fs.opt.SharedDir, "err", e)
	return nil
}
