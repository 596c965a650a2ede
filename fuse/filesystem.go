package fuse

import (
	"errors"
	"syscall"
	"time"

	"vfiofs/virtio/guestmem"
)

// A NodeID names an inode towards the guest. The file system chooses it; 1 is the
// root, 0 is "no inode". It is never a pointer and never reused.
type NodeID uint64

// RootID is the node ID of the shared directory.
const RootID NodeID = 1

// A Handle names an open file or directory towards the guest; 0 is "none".
type Handle uint64

// ErrWouldBlock is returned by a FileSystem method whose Context says that it may
// not block, before it has had any effect. The request is then run once more, on a
// thread that may block. Only Read, Write and those methods whose comment says so
// may return it.
var ErrWouldBlock = errors.New("operation may block")

// A Caller is the guest process that a request speaks for.
type Caller struct {
	UID, GID, PID uint32
	// Groups is nil, or the supplementary groups that came as a request extension
	// (fs-device.md D.3.1). Valid during the call only.
	Groups []uint32
}

// NoID is the uid or gid of a request that carries no credentials (E.4.4).
const NoID = 0xffffffff

// A Context goes with one request. It belongs to the thread that runs the request,
// is reused for the next one, and must not be kept.
type Context struct {
	Caller
	// MayBlock is false on a ring's own thread: a method that finds that it would
	// wait for a disk or a network returns ErrWouldBlock instead.
	MayBlock bool
	// Local is what FileSystem.AttachThread returned for this thread.
	Local any
}

// An Entry is the answer to every operation that finds or makes an inode; each
// successful Entry with Node != 0 counts one lookup until Forget.
type Entry struct {
	Node       NodeID
	Generation uint64
	EntryValid time.Duration // how long the guest may trust the name
	AttrValid  time.Duration // how long the guest may trust Attr
	Attr       Attr
}

// Opened is the answer to operations that open something.
type Opened struct {
	Handle Handle
	Flags  OpenOutFlags
}

// A Create is what CREATE, TMPFILE, MKNOD, MKDIR and SYMLINK ask for.
type Create struct {
	Mode    uint32 // type and permission bits
	Umask   uint32 // meaningful only when DontMask was negotiated (E.5)
	Rdev    uint32 // MKNOD: Linux's 32-bit encoding (E.6.2)
	Flags   uint32 // CREATE, TMPFILE: O_* of the guest
	Kill    bool   // CREATE: OpenKillSuidgid was set
	Label   []byte // security context: value, nil when none was sent (E.16)
	LabelAs []byte // security context: xattr name
}

// SetAttr is what SETATTR asks for (E.9); Valid says which fields count.
type SetAttr struct {
	Valid        SetAttrValid
	Handle       Handle // with SetAttrHandle
	Mode         uint32
	UID, GID     uint32
	Size         uint64
	Atime, Mtime Timespec
}

// A Timespec is seconds and nanoseconds as they came from the guest, unchecked.
type Timespec struct {
	Sec  int64
	Nsec uint32
}

// A FileSystem is what a Server serves: one method per FUSE operation, with plain
// arguments. The Server alone knows the wire.
//
// Names were checked (fs-device.md E.3.1: not empty, no NUL, no slash) except where
// noted, are not NUL-terminated, and are valid during the call only. Errors are
// errno values (syscall.Errno, possibly wrapped) or ErrNotImplemented; see Errno.
// Methods are called from many threads at once; Init, Destroy and nothing else run
// alone.
//
// A Vec aliases guest memory and may change while it is used.
type FileSystem interface {
	// Offer says which INIT flags the file system wants, and which of those the guest
	// must offer too, or INIT fails with EPROTO (D.5).
	Offer() (want, need InitFlags)
	// Init starts a new life of the mount with the negotiated flags: all nodes and
	// handles of an earlier life are dropped first (D.1.6).
	Init(flags InitFlags)
	// Destroy drops all nodes and handles. Also called on device reset; may come twice.
	Destroy()
	// AttachThread is called once by each thread that will run requests, with the
	// thread locked to its goroutine. The result becomes Context.Local.
	AttachThread() (local any, err error)
	// DetachThread releases what AttachThread made.
	DetachThread(local any)

	// Lookup's name may be "." or ".." (E.3.5).
	Lookup(c *Context, parent NodeID, name []byte, out *Entry) error
	Forget(c *Context, node NodeID, count uint64)

	// GetAttr uses h when it is not 0 (E.9.9).
	GetAttr(c *Context, node NodeID, h Handle, out *Attr) (valid time.Duration, err error)
	SetAttr(c *Context, node NodeID, in *SetAttr, out *Attr) (valid time.Duration, err error)
	// Statx is GetAttr with more to tell. mask, STATX_*, says what is wanted; out says
	// what there is, which always includes STATX_BASIC_STATS. sync is 0,
	// AT_STATX_FORCE_SYNC or AT_STATX_DONT_SYNC.
	Statx(c *Context, node NodeID, h Handle, mask, sync uint32, out *Statx) (valid time.Duration, err error)
	// ReadLink stores the target in dst (4096 bytes) and returns its length.
	ReadLink(c *Context, node NodeID, dst []byte) (int, error)

	MkNod(c *Context, parent NodeID, name []byte, in *Create, out *Entry) error
	MkDir(c *Context, parent NodeID, name []byte, in *Create, out *Entry) error
	// Symlink's target is 1 to 4095 bytes.
	Symlink(c *Context, parent NodeID, name, target []byte, in *Create, out *Entry) error
	Link(c *Context, node, parent NodeID, name []byte, out *Entry) error
	Unlink(c *Context, parent NodeID, name []byte) error
	RmDir(c *Context, parent NodeID, name []byte) error
	// Rename's flags are those of renameat2, unknown ones included (E.6.7).
	Rename(c *Context, parent NodeID, name []byte, newParent NodeID, newName []byte, flags uint32) error

	// Open's flags are O_* of the guest; kill is set when suid bits must go with O_TRUNC.
	Open(c *Context, node NodeID, flags uint32, kill bool, out *Opened) error
	Create(c *Context, parent NodeID, name []byte, in *Create, entry *Entry, out *Opened) error
	TmpFile(c *Context, parent NodeID, in *Create, entry *Entry, out *Opened) error
	Release(c *Context, node NodeID, h Handle) error

	// Read fills dst from offset off of the file and returns the number of bytes; fewer
	// than dst.Len() only at end of file. May return ErrWouldBlock.
	Read(c *Context, node NodeID, h Handle, dst guestmem.Vec, off uint64) (int, error)
	// Write stores src. May return ErrWouldBlock.
	Write(c *Context, node NodeID, h Handle, src guestmem.Vec, off uint64, in *WriteArgs) (int, error)
	Flush(c *Context, node NodeID, h Handle) error
	// Fsync, SyncFS, Fallocate and CopyFileRange are only called where they may block.
	Fsync(c *Context, node NodeID, h Handle, dataOnly bool) error
	FsyncDir(c *Context, node NodeID, h Handle, dataOnly bool) error
	SyncFS(c *Context, node NodeID) error
	Fallocate(c *Context, node NodeID, h Handle, off, length uint64, mode uint32) error
	Lseek(c *Context, node NodeID, h Handle, off uint64, whence uint32) (uint64, error)
	CopyFileRange(c *Context, in, out FileRange, length, flags uint64) (uint64, error)

	OpenDir(c *Context, node NodeID, flags uint32, out *Opened) error
	// ReadDir adds entries after cookie off to d until d is full or the directory ends
	// (E.12). With plus, entries carry attributes and count lookups.
	ReadDir(c *Context, node NodeID, h Handle, off uint64, plus bool, d *DirBuffer) error
	ReleaseDir(c *Context, node NodeID, h Handle) error

	// Ioctl carries out a command on an open file or directory: it reads in, stores its
	// data in out and returns how much. What the host says is in result, a negative
	// errno if it refused. May return ErrWouldBlock.
	Ioctl(c *Context, node NodeID, h Handle, cmd uint32, in, out []byte) (result, n int, err error)
	// GetLock replaces lk by a lock that keeps it from being set, or sets its type to
	// LockNone. Only POSIX locks can be asked for.
	GetLock(c *Context, node NodeID, h Handle, lk *Lock) error
	// SetLock sets or drops a lock, or fails with EAGAIN because of another one. With w
	// it may wait for that one: it keeps a copy of w, returns ErrParked, and answers w
	// later. With w it must not return ErrWouldBlock.
	SetLock(c *Context, node NodeID, h Handle, lk *Lock, w *Wait) error
	// EndWait gives up a wait: it is answered e, unless it has an answer already.
	EndWait(w WaitID, e syscall.Errno)
	// DropLocks drops the POSIX locks that owner has on node (FLUSH). DropHandleLocks
	// drops all locks that were set through h, which gets none any more (RELEASE), and
	// answers waits for others.
	// Both may return ErrWouldBlock.
	DropLocks(c *Context, node NodeID, owner uint64) error
	DropHandleLocks(c *Context, node NodeID, h Handle) error

	StatFS(c *Context, node NodeID, out *StatFS) error
	Access(c *Context, node NodeID, mask uint32) error

	// GetXattr stores the value in dst and returns its length. A nil dst asks for the
	// length only; a value longer than a dst that is not nil is ERANGE.
	GetXattr(c *Context, node NodeID, name, dst []byte) (int, error)
	// ListXattr likewise, for the NUL-separated list of names.
	ListXattr(c *Context, node NodeID, dst []byte) (int, error)
	SetXattr(c *Context, node NodeID, name, value []byte, flags uint32, killSgid bool) error
	RemoveXattr(c *Context, node NodeID, name []byte) error
}

// WriteArgs are the less usual arguments of WRITE.
type WriteArgs struct {
	Flags     WriteFlags
	OpenFlags uint32 // O_* of the guest's open file, as they are now
}

// A FileRange is one side of COPY_FILE_RANGE.
type FileRange struct {
	Node   NodeID
	Handle Handle
	Offset uint64
}
