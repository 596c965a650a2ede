package fuse

import "structs"

// The structures of linux/fuse.h 7.45 that a request or reply is made of, in the
// order of fs-device.md D.3. All are little-endian and moved by copy: take brings one
// out of private bytes, bytesOf shows one as the bytes to send. Blank fields are
// padding and stay zero.

// InHeader is struct fuse_in_header: the start of every request. 40 bytes.
type InHeader struct {
	_        structs.HostLayout
	Len      uint32 // of the whole request
	Opcode   Opcode
	Unique   uint64 // echoed in the reply
	Node     NodeID
	UID      uint32
	GID      uint32
	PID      uint32
	ExtUnits uint16 // total_extlen: 8-byte units of extensions at the end
	_        uint16
}

// OutHeader is struct fuse_out_header: the start of every reply. 16 bytes.
type OutHeader struct {
	_      structs.HostLayout
	Len    uint32 // of the whole reply
	Error  int32  // 0 or a negative errno
	Unique uint64
}

// Attr is struct fuse_attr (fs-device.md D.3). 88 bytes.
type Attr struct {
	_         structs.HostLayout
	Ino       uint64
	Size      uint64 // bytes
	Blocks    uint64 // 512-byte units
	Atime     int64  // seconds; negative before 1970
	Mtime     int64
	Ctime     int64
	AtimeNsec uint32
	MtimeNsec uint32
	CtimeNsec uint32
	Mode      uint32 // type and permission bits
	Nlink     uint32
	UID       uint32
	GID       uint32
	Rdev      uint32 // (minor & 0xff) | major<<8 | (minor &^ 0xff)<<12
	Blksize   uint32
	Flags     AttrFlags
}

// EntryOut is struct fuse_entry_out. 128 bytes.
type EntryOut struct {
	_              structs.HostLayout
	Node           NodeID
	Generation     uint64
	EntryValid     uint64 // seconds
	AttrValid      uint64 // seconds
	EntryValidNsec uint32
	AttrValidNsec  uint32
	Attr           Attr
}

// AttrOut is struct fuse_attr_out. 104 bytes.
type AttrOut struct {
	_         structs.HostLayout
	Valid     uint64 // seconds
	ValidNsec uint32
	_         uint32
	Attr      Attr
}

// ForgetIn is struct fuse_forget_in. 8 bytes.
type ForgetIn struct {
	_       structs.HostLayout
	Lookups uint64
}

// ForgetOne is struct fuse_forget_one. 16 bytes.
type ForgetOne struct {
	_       structs.HostLayout
	Node    NodeID
	Lookups uint64
}

// BatchForgetIn is struct fuse_batch_forget_in; Count times ForgetOne follow. 8 bytes.
type BatchForgetIn struct {
	_     structs.HostLayout
	Count uint32
	_     uint32
}

// GetAttrIn is struct fuse_getattr_in. 16 bytes.
type GetAttrIn struct {
	_      structs.HostLayout
	Flags  uint32 // GetAttrHandle
	_      uint32
	Handle Handle
}

// SetAttrIn is struct fuse_setattr_in. 88 bytes.
type SetAttrIn struct {
	_         structs.HostLayout
	Valid     SetAttrValid
	_         uint32
	Handle    Handle
	Size      uint64
	LockOwner uint64
	Atime     int64
	Mtime     int64
	Ctime     int64
	AtimeNsec uint32
	MtimeNsec uint32
	CtimeNsec uint32
	Mode      uint32
	_         uint32
	UID       uint32
	GID       uint32
	_         uint32
}

// MkNodIn is struct fuse_mknod_in; a name follows. 16 bytes.
type MkNodIn struct {
	_     structs.HostLayout
	Mode  uint32
	Rdev  uint32
	Umask uint32
	_     uint32
}

// MkDirIn is struct fuse_mkdir_in; a name follows. 8 bytes.
type MkDirIn struct {
	_     structs.HostLayout
	Mode  uint32
	Umask uint32
}

// RenameIn is struct fuse_rename_in; two names follow. 8 bytes.
type RenameIn struct {
	_         structs.HostLayout
	NewParent NodeID
}

// Rename2In is struct fuse_rename2_in; two names follow. 16 bytes.
type Rename2In struct {
	_         structs.HostLayout
	NewParent NodeID
	Flags     uint32 // RENAME_*
	_         uint32
}

// LinkIn is struct fuse_link_in; the new name follows, and the header's node is its
// directory. 8 bytes.
type LinkIn struct {
	_    structs.HostLayout
	Node NodeID // the inode that gets one more name
}

// OpenIn is struct fuse_open_in. 8 bytes.
type OpenIn struct {
	_         structs.HostLayout
	Flags     uint32 // O_* of the guest
	OpenFlags uint32 // OpenKillSuidgid
}

// CreateIn is struct fuse_create_in; a name follows. 16 bytes.
type CreateIn struct {
	_         structs.HostLayout
	Flags     uint32 // O_* of the guest
	Mode      uint32
	Umask     uint32
	OpenFlags uint32 // OpenKillSuidgid
}

// OpenOut is struct fuse_open_out. 16 bytes.
type OpenOut struct {
	_      structs.HostLayout
	Handle Handle
	Flags  OpenOutFlags
	_      int32 // backing_id: /dev/fuse only
}

// CreateOut is what CREATE and TMPFILE answer. 144 bytes.
type CreateOut struct {
	_     structs.HostLayout
	Entry EntryOut
	Open  OpenOut
}

// ReleaseIn is struct fuse_release_in. 24 bytes.
type ReleaseIn struct {
	_            structs.HostLayout
	Handle       Handle
	Flags        uint32
	ReleaseFlags uint32
	LockOwner    uint64
}

// FlushIn is struct fuse_flush_in. 24 bytes.
type FlushIn struct {
	_         structs.HostLayout
	Handle    Handle
	_         uint32
	_         uint32
	LockOwner uint64
}

// ReadIn is struct fuse_read_in: READ, READDIR and READDIRPLUS. 40 bytes.
type ReadIn struct {
	_         structs.HostLayout
	Handle    Handle
	Offset    uint64 // bytes from the start of the file, or a directory cookie
	Size      uint32 // bytes wanted
	ReadFlags uint32
	LockOwner uint64
	OpenFlags uint32 // O_* of the guest's open file
	_         uint32
}

// WriteIn is struct fuse_write_in; the data follows. 40 bytes.
type WriteIn struct {
	_          structs.HostLayout
	Handle     Handle
	Offset     uint64
	Size       uint32 // bytes of data
	WriteFlags WriteFlags
	LockOwner  uint64
	OpenFlags  uint32 // O_* of the guest's open file
	_          uint32
}

// WriteOut is struct fuse_write_out. 8 bytes.
type WriteOut struct {
	_    structs.HostLayout
	Size uint32
	_    uint32
}

// StatFS is struct fuse_kstatfs. 80 bytes.
type StatFS struct {
	_       structs.HostLayout
	Blocks  uint64 // in Frsize units, as are Bfree and Bavail
	Bfree   uint64
	Bavail  uint64
	Files   uint64
	Ffree   uint64
	Bsize   uint32
	Namelen uint32
	Frsize  uint32
	_       uint32
	_       [6]uint32
}

// FsyncIn is struct fuse_fsync_in. 16 bytes.
type FsyncIn struct {
	_      structs.HostLayout
	Handle Handle
	Flags  uint32 // FsyncDataOnly
	_      uint32
}

// SetXattrIn is struct fuse_setxattr_in; a name and the value follow. 16 bytes, or the
// first 8 of them if SetxattrExt was not negotiated.
type SetXattrIn struct {
	_        structs.HostLayout
	Size     uint32 // bytes of the value
	Flags    uint32 // XATTR_CREATE, XATTR_REPLACE
	ExtFlags uint32 // SetXattrKillSgid
	_        uint32
}

// GetXattrIn is struct fuse_getxattr_in: GETXATTR, where a name follows, and LISTXATTR.
// 8 bytes.
type GetXattrIn struct {
	_    structs.HostLayout
	Size uint32 // room for the value; 0 asks for its length
	_    uint32
}

// GetXattrOut is struct fuse_getxattr_out: the answer to Size 0. 8 bytes.
type GetXattrOut struct {
	_    structs.HostLayout
	Size uint32
	_    uint32
}

// LkIn is struct fuse_lk_in: GETLK, SETLK and SETLKW. 48 bytes.
type LkIn struct {
	_      structs.HostLayout
	Handle Handle
	Owner  uint64
	Start  uint64 // first byte
	End    uint64 // last byte; math.MaxInt64: to the end of the file
	Type   LockType
	PID    uint32
	Flags  uint32 // LkFlock
	_      uint32
}

// LkOut is struct fuse_lk_out, which is the part of LkIn that describes a lock. 24
// bytes.
type LkOut struct {
	_     structs.HostLayout
	Start uint64
	End   uint64
	Type  LockType
	PID   uint32
}

// InterruptIn is struct fuse_interrupt_in. 8 bytes.
type InterruptIn struct {
	_      structs.HostLayout
	Unique uint64 // of the request that need not be waited for any more
}

// AccessIn is struct fuse_access_in. 8 bytes.
type AccessIn struct {
	_    structs.HostLayout
	Mask uint32 // R_OK, W_OK, X_OK
	_    uint32
}

// FallocateIn is struct fuse_fallocate_in. 32 bytes.
type FallocateIn struct {
	_      structs.HostLayout
	Handle Handle
	Offset uint64
	Length uint64
	Mode   uint32 // FALLOC_FL_*
	_      uint32
}

// LseekIn is struct fuse_lseek_in. 24 bytes.
type LseekIn struct {
	_      structs.HostLayout
	Handle Handle
	Offset uint64
	Whence uint32
	_      uint32
}

// LseekOut is struct fuse_lseek_out. 8 bytes.
type LseekOut struct {
	_      structs.HostLayout
	Offset uint64
}

// CopyFileRangeIn is struct fuse_copy_file_range_in. 56 bytes.
type CopyFileRangeIn struct {
	_         structs.HostLayout
	Handle    Handle // source; its node is the header's
	Offset    uint64
	OutNode   NodeID
	OutHandle Handle
	OutOffset uint64
	Len       uint64
	Flags     uint64
}

// CopyFileRangeOut is struct fuse_copy_file_range_out. 8 bytes.
type CopyFileRangeOut struct {
	_      structs.HostLayout
	Copied uint64
}

// IoctlIn is struct fuse_ioctl_in; InSize bytes of data follow. 32 bytes.
type IoctlIn struct {
	_       structs.HostLayout
	Handle  Handle
	Flags   uint32 // Ioctl*
	Cmd     uint32
	Arg     uint64
	InSize  uint32
	OutSize uint32 // room for data in the reply
}

// IoctlOut is struct fuse_ioctl_out; data follows. 16 bytes.
type IoctlOut struct {
	_      structs.HostLayout
	Result int32 // of ioctl(2): a negative errno if it failed
	_      uint32
	_      [2]uint32
}

// InitIn is struct fuse_init_in. 64 bytes; old guests send the first 16.
type InitIn struct {
	_            structs.HostLayout
	Major        uint32
	Minor        uint32
	MaxReadahead uint32
	Flags        uint32
	Flags2       uint32 // counts only with InitExt
	_            [11]uint32
}

// InitOut is struct fuse_init_out. 64 bytes.
type InitOut struct {
	_                   structs.HostLayout
	Major               uint32
	Minor               uint32
	MaxReadahead        uint32
	Flags               uint32
	MaxBackground       uint16
	CongestionThreshold uint16
	MaxWrite            uint32 // bytes
	TimeGran            uint32 // nanoseconds
	MaxPages            uint16
	MapAlignment        uint16
	Flags2              uint32
	MaxStackDepth       uint32
	RequestTimeout      uint16
	_                   [11]uint16
}

// Dirent is the fixed part of struct fuse_dirent; the name follows and zeros up to a
// multiple of 8. 24 bytes.
type Dirent struct {
	_       structs.HostLayout
	Ino     uint64
	Off     uint64 // cookie of the entry after this one
	Namelen uint32
	Type    uint32 // DT_*
}

// ExtHeader is struct fuse_ext_header, and struct fuse_secctx_header as well. 8 bytes.
type ExtHeader struct {
	_    structs.HostLayout
	Size uint32 // of the whole extension, this header included; a multiple of 8
	Type uint32 // 0 to 31: that many security contexts; 32: supplementary groups
}

// Secctx is struct fuse_secctx; a name and the value follow. 8 bytes.
type Secctx struct {
	_    structs.HostLayout
	Size uint32 // bytes of the value
	_    uint32
}
