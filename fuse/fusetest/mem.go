package fusetest

import (
	"sync"
	"syscall"
	"time"

	"vfiofs/fuse"
	"vfiofs/virtio/guestmem"
)

// Validity is how long a Mem lets guests trust names and attributes.
const Validity = 1500 * time.Millisecond

// A Mem is a file system in memory: complete enough for the suite, simple enough to be
// believed. Everything is under one lock. It checks no permissions.
type Mem struct {
	// Want and Need are what Offer returns. Set them before INIT.
	Want, Need fuse.InitFlags

	mu      sync.Mutex
	flags   fuse.InitFlags
	nodes   map[fuse.NodeID]*memNode
	handles map[fuse.Handle]memHandle
	lastID  fuse.NodeID
	lastFH  fuse.Handle
	lastIno uint64
	root    *memNode
	locks   []memLock
	waits   []memLock // in order of arrival
}

type memNode struct {
	id      fuse.NodeID // 0 while the guest doesn't know it
	lookups uint64
	attr    fuse.Attr
	data    []byte // of a file; a link's target
	names   []memName
	seq     uint64 // last cookie of a directory
	xattrs  map[string][]byte
}

type memName struct {
	name   string
	node   *memNode
	cookie uint64
}

type memHandle struct {
	node    *memNode
	noRead  bool
	noWrite bool
}

// Cookies of the entries that every directory has.
const cookieDot, cookieDotdot = 1, 2

var _ fuse.FileSystem = (*Mem)(nil)

// NewMem returns a file system with an empty root directory.
func NewMem() *Mem {
	m := &Mem{Want: fuse.DoReaddirplus | fuse.ReaddirplusAuto | fuse.PosixLocks | fuse.FlockLocks}
	m.root = m.make(syscall.S_IFDIR|0o755, &fuse.Context{})
	m.forgetAll()
	return m
}

// Offer returns Want and Need.
func (m *Mem) Offer() (want, need fuse.InitFlags) { return m.Want, m.Need }

// Init drops all nodes and handles.
func (m *Mem) Init(flags fuse.InitFlags) {
	m.forgetAll()
	m.flags = flags
}

// Destroy drops all nodes and handles.
func (m *Mem) Destroy() { m.forgetAll() }

// AttachThread does nothing.
func (m *Mem) AttachThread() (any, error) { return nil, nil }

// DetachThread does nothing.
func (m *Mem) DetachThread(any) {}

func (m *Mem) forgetAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.nodes {
		n.id, n.lookups = 0, 0
	}
	m.root.id = fuse.RootID
	m.nodes = map[fuse.NodeID]*memNode{fuse.RootID: m.root}
	m.handles = map[fuse.Handle]memHandle{}
	m.locks = nil
	m.endWaits(syscall.ENOLCK, func(memLock) bool { return true })
	m.lastID = max(m.lastID, fuse.RootID)
}

// make returns a new node without a name.
func (m *Mem) make(mode uint32, c *fuse.Context) *memNode {
	m.lastIno++
	n := &memNode{attr: fuse.Attr{Ino: m.lastIno, Mode: mode, Blksize: 4096, UID: c.UID, GID: c.GID}}
	if n.isDir() {
		n.attr.Nlink = 2
	}
	n.seq = cookieDotdot
	return n
}

func (n *memNode) isDir() bool   { return n.is(syscall.S_IFDIR) }
func (n *memNode) is(t int) bool { return n.attr.Mode&syscall.S_IFMT == uint32(t) }
func (n *memNode) setData(b []byte) {
	n.data = b
	n.attr.Size, n.attr.Blocks = uint64(len(b)), uint64(len(b)+511)/512
}

// node returns a node that the guest knows.
func (m *Mem) node(id fuse.NodeID) (*memNode, error) {
	n := m.nodes[id]
	if n == nil {
		return nil, syscall.EBADF
	}
	return n, nil
}

// dir is node for directories.
func (m *Mem) dir(id fuse.NodeID) (*memNode, error) {
	n, err := m.node(id)
	if err == nil && !n.isDir() {
		err = syscall.ENOTDIR
	}
	return n, err
}

// handle returns an open handle of a node.
func (m *Mem) handle(id fuse.NodeID, h fuse.Handle) (memHandle, error) {
	f := m.handles[h]
	if f.node == nil || f.node != m.nodes[id] {
		return f, syscall.EBADF
	}
	return f, nil
}

func (m *Mem) open(n *memNode, flags uint32, out *fuse.Opened) {
	m.lastFH++
	acc := flags & syscall.O_ACCMODE
	m.handles[m.lastFH] = memHandle{n, acc == syscall.O_WRONLY, acc == syscall.O_RDONLY}
	*out = fuse.Opened{Handle: m.lastFH}
}

func (n *memNode) find(name []byte) int {
	for i := range n.names {
		if n.names[i].name == string(name) {
			return i
		}
	}
	return -1
}

func (n *memNode) add(name []byte, child *memNode) {
	n.seq++
	n.names = append(n.names, memName{string(name), child, n.seq})
	if child.isDir() {
		n.attr.Nlink++
	} else {
		child.attr.Nlink++
	}
}

func (n *memNode) remove(i int) {
	if child := n.names[i].node; child.isDir() {
		n.attr.Nlink--
	} else {
		child.attr.Nlink--
	}
	n.names = append(n.names[:i:i], n.names[i+1:]...)
}

// entry counts one lookup of n.
func (m *Mem) entry(n *memNode, out *fuse.Entry) {
	if n.id == 0 {
		m.lastID++
		n.id = m.lastID
		m.nodes[n.id] = n
	}
	n.lookups++
	*out = fuse.Entry{Node: n.id, EntryValid: Validity, AttrValid: Validity, Attr: n.attr}
}

// Lookup finds a name, or "." and "..", which is always the root here.
func (m *Mem) Lookup(_ *fuse.Context, parent fuse.NodeID, name []byte, out *fuse.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.dir(parent)
	if err != nil {
		return err
	}
	switch string(name) {
	case ".":
		m.entry(d, out)
		return nil
	case "..":
		m.entry(m.root, out)
		return nil
	}
	if len(name) > 255 {
		return syscall.ENAMETOOLONG
	}
	i := d.find(name)
	if i < 0 {
		return syscall.ENOENT
	}
	m.entry(d.names[i].node, out)
	return nil
}

// Forget takes back lookups; the root stays.
func (m *Mem) Forget(_ *fuse.Context, id fuse.NodeID, count uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[id]
	if n == nil || n == m.root {
		return
	}
	n.lookups -= min(count, n.lookups)
	if n.lookups == 0 {
		delete(m.nodes, id)
		n.id = 0
	}
}

// GetAttr returns the attributes of a node.
func (m *Mem) GetAttr(_ *fuse.Context, id fuse.NodeID, h fuse.Handle, out *fuse.Attr) (time.Duration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.node(id)
	if err == nil && h != 0 {
		_, err = m.handle(id, h)
	}
	if err != nil {
		return 0, err
	}
	*out = n.attr
	return Validity, nil
}

// SetAttr changes attributes.
func (m *Mem) SetAttr(c *fuse.Context, id fuse.NodeID, in *fuse.SetAttr, out *fuse.Attr) (time.Duration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.node(id)
	if err == nil && in.Valid&fuse.SetAttrHandle != 0 {
		_, err = m.handle(id, in.Handle)
	}
	if err != nil {
		return 0, err
	}
	if in.Valid&fuse.SetAttrMode != 0 {
		n.attr.Mode = n.attr.Mode&syscall.S_IFMT | in.Mode
	}
	if in.Valid&fuse.SetAttrUID != 0 {
		n.attr.UID = in.UID
	}
	if in.Valid&fuse.SetAttrGID != 0 {
		n.attr.GID = in.GID
	}
	if in.Valid&fuse.SetAttrSize != 0 {
		switch {
		case n.isDir():
			return 0, syscall.EISDIR
		case in.Size > maxFile:
			return 0, syscall.EFBIG
		}
		n.resize(int(in.Size))
	}
	if in.Valid&fuse.SetAttrAtime != 0 {
		n.attr.Atime, n.attr.AtimeNsec = in.Atime.Sec, in.Atime.Nsec
	}
	if in.Valid&fuse.SetAttrMtime != 0 {
		n.attr.Mtime, n.attr.MtimeNsec = in.Mtime.Sec, in.Mtime.Nsec
	}
	*out = n.attr
	return Validity, nil
}

// maxFile bounds the size of a file, in bytes.
const maxFile = 16 << 20

func (n *memNode) resize(size int) {
	if size <= len(n.data) {
		n.setData(n.data[:size:size])
		return
	}
	n.setData(append(n.data, make([]byte, size-len(n.data))...))
}

// Read copies out of a file.
func (m *Mem) Read(_ *fuse.Context, id fuse.NodeID, h fuse.Handle, dst guestmem.Vec, off uint64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.handle(id, h)
	switch {
	case err != nil:
		return 0, err
	case f.node.isDir():
		return 0, syscall.EISDIR
	case f.noRead:
		return 0, syscall.EBADF
	case off >= uint64(len(f.node.data)):
		return 0, nil
	}
	data := f.node.data[off:]
	return dst.CopyIn(data[:min(len(data), dst.Len())], 0), nil
}

// Write copies into a file.
func (m *Mem) Write(_ *fuse.Context, id fuse.NodeID, h fuse.Handle, src guestmem.Vec, off uint64, _ *fuse.WriteArgs) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.handle(id, h)
	switch {
	case err != nil:
		return 0, err
	case f.noWrite:
		return 0, syscall.EBADF
	case off > maxFile-uint64(src.Len()):
		return 0, syscall.EFBIG
	}
	if end := int(off) + src.Len(); end > len(f.node.data) {
		f.node.resize(end)
	}
	return src.CopyOut(f.node.data[off:off+uint64(src.Len())], 0), nil
}
