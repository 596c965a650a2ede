package fuse

import (
	"syscall"
	"time"

	"vfiofs/virtio/guestmem"
)

// Unimplemented is a FileSystem in which every operation fails with ErrNotImplemented,
// for file systems to embed that lack some. What cannot fail does nothing.
type Unimplemented struct{}

var _ FileSystem = Unimplemented{}

// Offer asks for no flag.
func (Unimplemented) Offer() (want, need InitFlags) { return 0, 0 }

// Init does nothing.
func (Unimplemented) Init(InitFlags) {}

// Destroy does nothing.
func (Unimplemented) Destroy() {}

// AttachThread returns no state.
func (Unimplemented) AttachThread() (any, error) { return nil, nil }

// DetachThread does nothing.
func (Unimplemented) DetachThread(any) {}

// Lookup is not implemented.
func (Unimplemented) Lookup(*Context, NodeID, []byte, *Entry) error { return ErrNotImplemented }

// Forget does nothing.
func (Unimplemented) Forget(*Context, NodeID, uint64) {}

// GetAttr is not implemented.
func (Unimplemented) GetAttr(*Context, NodeID, Handle, *Attr) (time.Duration, error) {
	return 0, ErrNotImplemented
}

// SetAttr is not implemented.
func (Unimplemented) SetAttr(*Context, NodeID, *SetAttr, *Attr) (time.Duration, error) {
	return 0, ErrNotImplemented
}

// Statx is not implemented.
func (Unimplemented) Statx(*Context, NodeID, Handle, uint32, uint32, *Statx) (time.Duration, error) {
	return 0, ErrNotImplemented
}

// ReadLink is not implemented.
func (Unimplemented) ReadLink(*Context, NodeID, []byte) (int, error) { return 0, ErrNotImplemented }

// MkNod is not implemented.
func (Unimplemented) MkNod(*Context, NodeID, []byte, *Create, *Entry) error { return ErrNotImplemented }

// MkDir is not implemented.
func (Unimplemented) MkDir(*Context, NodeID, []byte, *Create, *Entry) error { return ErrNotImplemented }

// Symlink is not implemented.
func (Unimplemented) Symlink(_ *Context, _ NodeID, _, _ []byte, _ *Create, _ *Entry) error {
	return ErrNotImplemented
}

// Link is not implemented.
func (Unimplemented) Link(_ *Context, _, _ NodeID, _ []byte, _ *Entry) error {
	return ErrNotImplemented
}

// Unlink is not implemented.
func (Unimplemented) Unlink(*Context, NodeID, []byte) error { return ErrNotImplemented }

// RmDir is not implemented.
func (Unimplemented) RmDir(*Context, NodeID, []byte) error { return ErrNotImplemented }

// Rename is not implemented.
func (Unimplemented) Rename(*Context, NodeID, []byte, NodeID, []byte, uint32) error {
	return ErrNotImplemented
}

// Open is not implemented.
func (Unimplemented) Open(*Context, NodeID, uint32, bool, *Opened) error { return ErrNotImplemented }

// Create is not implemented.
func (Unimplemented) Create(*Context, NodeID, []byte, *Create, *Entry, *Opened) error {
	return ErrNotImplemented
}

// TmpFile is not implemented.
func (Unimplemented) TmpFile(*Context, NodeID, *Create, *Entry, *Opened) error {
	return ErrNotImplemented
}

// Release is not implemented.
func (Unimplemented) Release(*Context, NodeID, Handle) error { return ErrNotImplemented }

// Read is not implemented.
func (Unimplemented) Read(*Context, NodeID, Handle, guestmem.Vec, uint64) (int, error) {
	return 0, ErrNotImplemented
}

// Write is not implemented.
func (Unimplemented) Write(*Context, NodeID, Handle, guestmem.Vec, uint64, *WriteArgs) (int, error) {
	return 0, ErrNotImplemented
}

// Flush is not implemented.
func (Unimplemented) Flush(*Context, NodeID, Handle) error { return ErrNotImplemented }

// Fsync is not implemented.
func (Unimplemented) Fsync(*Context, NodeID, Handle, bool) error { return ErrNotImplemented }

// FsyncDir is not implemented.
func (Unimplemented) FsyncDir(*Context, NodeID, Handle, bool) error { return ErrNotImplemented }

// SyncFS is not implemented.
func (Unimplemented) SyncFS(*Context, NodeID) error { return ErrNotImplemented }

// Fallocate is not implemented.
func (Unimplemented) Fallocate(_ *Context, _ NodeID, _ Handle, _, _ uint64, _ uint32) error {
	return ErrNotImplemented
}

// Lseek is not implemented.
func (Unimplemented) Lseek(*Context, NodeID, Handle, uint64, uint32) (uint64, error) {
	return 0, ErrNotImplemented
}

// CopyFileRange is not implemented.
func (Unimplemented) CopyFileRange(_ *Context, _, _ FileRange, _, _ uint64) (uint64, error) {
	return 0, ErrNotImplemented
}

// OpenDir is not implemented.
func (Unimplemented) OpenDir(*Context, NodeID, uint32, *Opened) error { return ErrNotImplemented }

// ReadDir is not implemented.
func (Unimplemented) ReadDir(*Context, NodeID, Handle, uint64, bool, *DirBuffer) error {
	return ErrNotImplemented
}

// ReleaseDir is not implemented.
func (Unimplemented) ReleaseDir(*Context, NodeID, Handle) error { return ErrNotImplemented }

// Ioctl is not implemented.
func (Unimplemented) Ioctl(*Context, NodeID, Handle, uint32, []byte, []byte) (result, n int, err error) {
	return 0, 0, ErrNotImplemented
}

// GetLock is not implemented.
func (Unimplemented) GetLock(*Context, NodeID, Handle, *Lock) error { return ErrNotImplemented }

// SetLock is not implemented.
func (Unimplemented) SetLock(*Context, NodeID, Handle, *Lock, *Wait) error { return ErrNotImplemented }

// EndWait does nothing.
func (Unimplemented) EndWait(WaitID, syscall.Errno) {}

// DropLocks has no locks to drop.
func (Unimplemented) DropLocks(*Context, NodeID, uint64) error { return nil }

// DropHandleLocks has no locks to drop.
func (Unimplemented) DropHandleLocks(*Context, NodeID, Handle) error { return nil }

// StatFS is not implemented.
func (Unimplemented) StatFS(*Context, NodeID, *StatFS) error { return ErrNotImplemented }

// Access is not implemented.
func (Unimplemented) Access(*Context, NodeID, uint32) error { return ErrNotImplemented }

// GetXattr is not implemented.
func (Unimplemented) GetXattr(_ *Context, _ NodeID, _, _ []byte) (int, error) {
	return 0, ErrNotImplemented
}

// ListXattr is not implemented.
func (Unimplemented) ListXattr(*Context, NodeID, []byte) (int, error) { return 0, ErrNotImplemented }

// SetXattr is not implemented.
func (Unimplemented) SetXattr(_ *Context, _ NodeID, _, _ []byte, _ uint32, _ bool) error {
	return ErrNotImplemented
}

// RemoveXattr is not implemented.
func (Unimplemented) RemoveXattr(*Context, NodeID, []byte) error { return ErrNotImplemented }
