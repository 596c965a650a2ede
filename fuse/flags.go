package fuse

// InitFlags are the 64 feature bits of INIT (fs-device.md D.5).
type InitFlags uint64

// INIT feature bits, FUSE_* of linux/fuse.h 7.45.
const (
	AsyncRead         InitFlags = 1 << 0
	PosixLocks        InitFlags = 1 << 1
	AtomicOTrunc      InitFlags = 1 << 3
	ExportSupport     InitFlags = 1 << 4
	BigWrites         InitFlags = 1 << 5
	DontMask          InitFlags = 1 << 6
	FlockLocks        InitFlags = 1 << 10
	HasIoctlDir       InitFlags = 1 << 11
	AutoInvalData     InitFlags = 1 << 12
	DoReaddirplus     InitFlags = 1 << 13
	ReaddirplusAuto   InitFlags = 1 << 14
	AsyncDIO          InitFlags = 1 << 15
	WritebackCache    InitFlags = 1 << 16
	NoOpenSupport     InitFlags = 1 << 17
	ParallelDirops    InitFlags = 1 << 18
	HandleKillpriv    InitFlags = 1 << 19
	PosixACL          InitFlags = 1 << 20
	AbortError        InitFlags = 1 << 21
	MaxPages          InitFlags = 1 << 22
	CacheSymlinks     InitFlags = 1 << 23
	NoOpendirSupport  InitFlags = 1 << 24
	ExplicitInvalData InitFlags = 1 << 25
	MapAlignment      InitFlags = 1 << 26
	Submounts         InitFlags = 1 << 27
	HandleKillprivV2  InitFlags = 1 << 28
	SetxattrExt       InitFlags = 1 << 29
	InitExt           InitFlags = 1 << 30
	SecurityCtx       InitFlags = 1 << 32
	CreateSuppGroup   InitFlags = 1 << 34
	DirectIOAllowMmap InitFlags = 1 << 36
	AllowIdmap        InitFlags = 1 << 40
)

// OpenOutFlags are FOPEN_*: how the guest may treat an open file (D.3.2).
type OpenOutFlags uint32

// FOPEN_* bits.
const (
	OpenDirectIO             OpenOutFlags = 1 << 0
	OpenKeepCache            OpenOutFlags = 1 << 1
	OpenNonseekable          OpenOutFlags = 1 << 2
	OpenCacheDir             OpenOutFlags = 1 << 3
	OpenStream               OpenOutFlags = 1 << 4
	OpenNoFlush              OpenOutFlags = 1 << 5
	OpenParallelDirectWrites OpenOutFlags = 1 << 6
)

// SetAttrValid are FATTR_*: which fields of a SETATTR count.
type SetAttrValid uint32

// FATTR_* bits.
const (
	SetAttrMode        SetAttrValid = 1 << 0
	SetAttrUID         SetAttrValid = 1 << 1
	SetAttrGID         SetAttrValid = 1 << 2
	SetAttrSize        SetAttrValid = 1 << 3
	SetAttrAtime       SetAttrValid = 1 << 4
	SetAttrMtime       SetAttrValid = 1 << 5
	SetAttrHandle      SetAttrValid = 1 << 6
	SetAttrAtimeNow    SetAttrValid = 1 << 7
	SetAttrMtimeNow    SetAttrValid = 1 << 8
	SetAttrLockOwner   SetAttrValid = 1 << 9
	SetAttrCtime       SetAttrValid = 1 << 10
	SetAttrKillSuidgid SetAttrValid = 1 << 11
)

// WriteFlags are FUSE_WRITE_*.
type WriteFlags uint32

// FUSE_WRITE_* bits.
const (
	WriteCache       WriteFlags = 1 << 0 // written out of the guest's page cache
	WriteLockOwner   WriteFlags = 1 << 1
	WriteKillSuidgid WriteFlags = 1 << 2
)

// AttrFlags are FUSE_ATTR_*.
type AttrFlags uint32

// FUSE_ATTR_* bits.
const (
	AttrSubmount AttrFlags = 1 << 0 // the guest makes a superblock of its own here
	AttrDAX      AttrFlags = 1 << 1
)

// Bits of single request words (fs-device.md D.3.2).
const (
	OpenKillSuidgid  uint32 = 1 << 0 // FUSE_OPEN_KILL_SUIDGID, in OpenIn and CreateIn
	GetAttrHandle    uint32 = 1 << 0 // FUSE_GETATTR_FH
	FsyncDataOnly    uint32 = 1 << 0 // FUSE_FSYNC_FDATASYNC
	SetXattrKillSgid uint32 = 1 << 0 // FUSE_SETXATTR_ACL_KILL_SGID
	LkFlock          uint32 = 1 << 0 // FUSE_LK_FLOCK
	IoctlAny         uint32 = 1 << 1 // FUSE_IOCTL_UNRESTRICTED
)

// A LockType is the kind of a lock, as in fcntl(2).
type LockType uint32

// Kinds of locks: F_RDLCK, F_WRLCK, F_UNLCK.
const (
	LockRead  LockType = 0
	LockWrite LockType = 1
	LockNone  LockType = 2
)
