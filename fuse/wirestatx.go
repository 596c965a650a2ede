package fuse

import "structs"

// StatxIn is struct fuse_statx_in. 24 bytes.
type StatxIn struct {
	_      structs.HostLayout
	Flags  uint32 // GetAttrHandle
	_      uint32
	Handle Handle
	Sync   uint32 // AT_STATX_FORCE_SYNC, AT_STATX_DONT_SYNC
	Mask   uint32 // STATX_*
}

// StatxOut is struct fuse_statx_out. 288 bytes.
type StatxOut struct {
	_         structs.HostLayout
	Valid     uint64 // seconds
	ValidNsec uint32
	_         uint32
	_         [2]uint64
	Statx     Statx
}

// A Statx is struct fuse_statx, which has the layout of statx(2). 256 bytes.
type Statx struct {
	_          structs.HostLayout
	Mask       uint32 // STATX_*: which fields count
	Blksize    uint32
	Attributes uint64 // STATX_ATTR_*
	Nlink      uint32
	UID        uint32
	GID        uint32
	Mode       uint16 // type and permission bits
	_          uint16
	Ino        uint64
	Size       uint64 // bytes
	Blocks     uint64 // 512-byte units
	Known      uint64 // attributes_mask: which of Attributes count
	Atime      StatxTime
	Btime      StatxTime
	Ctime      StatxTime
	Mtime      StatxTime
	RdevMajor  uint32
	RdevMinor  uint32
	DevMajor   uint32
	DevMinor   uint32
	_          [14]uint64
}

// A StatxTime is struct fuse_sx_time. 16 bytes.
type StatxTime struct {
	_    structs.HostLayout
	Sec  int64 // negative before 1970
	Nsec uint32
	_    int32
}
