package fuse

import "structs"

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
