package fuse

import "strconv"

// An Opcode says what a request asks for (linux/fuse.h: enum fuse_opcode).
type Opcode uint32

// Opcodes of FUSE 7.45, FUSE_* of linux/fuse.h.
const (
	OpLookup          Opcode = 1
	OpForget          Opcode = 2
	OpGetAttr         Opcode = 3
	OpSetAttr         Opcode = 4
	OpReadLink        Opcode = 5
	OpSymlink         Opcode = 6
	OpMkNod           Opcode = 8
	OpMkDir           Opcode = 9
	OpUnlink          Opcode = 10
	OpRmDir           Opcode = 11
	OpRename          Opcode = 12
	OpLink            Opcode = 13
	OpOpen            Opcode = 14
	OpRead            Opcode = 15
	OpWrite           Opcode = 16
	OpStatFS          Opcode = 17
	OpRelease         Opcode = 18
	OpFsync           Opcode = 20
	OpSetXattr        Opcode = 21
	OpGetXattr        Opcode = 22
	OpListXattr       Opcode = 23
	OpRemoveXattr     Opcode = 24
	OpFlush           Opcode = 25
	OpInit            Opcode = 26
	OpOpenDir         Opcode = 27
	OpReadDir         Opcode = 28
	OpReleaseDir      Opcode = 29
	OpFsyncDir        Opcode = 30
	OpGetLk           Opcode = 31
	OpSetLk           Opcode = 32
	OpSetLkW          Opcode = 33
	OpAccess          Opcode = 34
	OpCreate          Opcode = 35
	OpInterrupt       Opcode = 36
	OpBmap            Opcode = 37
	OpDestroy         Opcode = 38
	OpIoctl           Opcode = 39
	OpPoll            Opcode = 40
	OpNotifyReply     Opcode = 41
	OpBatchForget     Opcode = 42
	OpFallocate       Opcode = 43
	OpReadDirPlus     Opcode = 44
	OpRename2         Opcode = 45
	OpLseek           Opcode = 46
	OpCopyFileRange   Opcode = 47
	OpSetupMapping    Opcode = 48
	OpRemoveMapping   Opcode = 49
	OpSyncFS          Opcode = 50
	OpTmpFile         Opcode = 51
	OpStatx           Opcode = 52
	OpCopyFileRange64 Opcode = 53

	// opInitSwapped is OpInit from a guest of the other byte order.
	opInitSwapped Opcode = 0x1a000000
)

// Sizes of fixed payloads in replies, for the table; see wire.go.
const (
	entrySize  = 128
	attrSize   = 104
	createSize = 144
	openSize   = 16
	initSize   = 64
	statfsSize = 80
	wordSize   = 8 // WriteOut, LseekOut, CopyFileRangeOut
	lkSize     = 48
	lkOutSize  = 24
	statxSize  = 288
	ioctlSize  = 16 // data follows
)

// Traits of an operation.
const (
	quiet = 1 << iota // has no reply
	early             // is served before INIT too
	alone             // runs while no other request does
	slow              // runs only where it may block
	quick             // never waits, or finds out by itself whether it would
	tail              // has more after the body and names, which is copied
	cred              // makes something for the caller: needs its uid and gid
)

// An operation is what has to be known about a request before it is run.
type operation struct {
	name   string
	body   int // bytes of arguments after the header, at least
	names  int // NUL-terminated strings after those
	reply  int // bytes of payload in a successful reply that always has as many
	traits int
}

func (o *operation) is(trait int) bool { return o.traits&trait != 0 }

// opUnknown is no opcode: its line in the table stands for all that have none.
const opUnknown Opcode = 0

// operations is the table of all opcodes (fs-device.md D.4). Those without a handler
// are answered ENOSYS.
var operations = [...]operation{
	opUnknown:         {"UNKNOWN", 0, 0, 0, quick},
	OpLookup:          {"LOOKUP", 0, 1, entrySize, 0},
	OpForget:          {"FORGET", 8, 0, 0, quiet | quick},
	OpGetAttr:         {"GETATTR", 16, 0, attrSize, 0},
	OpSetAttr:         {"SETATTR", 88, 0, attrSize, 0},
	OpReadLink:        {"READLINK", 0, 0, 0, 0},
	OpSymlink:         {"SYMLINK", 0, 2, entrySize, tail | cred},
	OpMkNod:           {"MKNOD", 16, 1, entrySize, tail | cred},
	OpMkDir:           {"MKDIR", 8, 1, entrySize, tail | cred},
	OpUnlink:          {"UNLINK", 0, 1, 0, 0},
	OpRmDir:           {"RMDIR", 0, 1, 0, 0},
	OpRename:          {"RENAME", 8, 2, 0, 0},
	OpLink:            {"LINK", 8, 1, entrySize, 0},
	OpOpen:            {"OPEN", 8, 0, openSize, 0},
	OpRead:            {"READ", 40, 0, 0, 0},
	OpWrite:           {"WRITE", 40, 0, wordSize, 0},
	OpStatFS:          {"STATFS", 0, 0, statfsSize, 0},
	OpRelease:         {"RELEASE", 24, 0, 0, 0},
	OpFsync:           {"FSYNC", 16, 0, 0, slow},
	OpSetXattr:        {"SETXATTR", 8, 0, 0, tail},
	OpGetXattr:        {"GETXATTR", 8, 1, 0, 0},
	OpListXattr:       {"LISTXATTR", 8, 0, 0, 0},
	OpRemoveXattr:     {"REMOVEXATTR", 0, 1, 0, 0},
	OpFlush:           {"FLUSH", 24, 0, 0, 0},
	OpInit:            {"INIT", 8, 0, initSize, early | alone | slow | tail},
	OpOpenDir:         {"OPENDIR", 8, 0, openSize, 0},
	OpReadDir:         {"READDIR", 40, 0, 0, 0},
	OpReleaseDir:      {"RELEASEDIR", 24, 0, 0, 0},
	OpFsyncDir:        {"FSYNCDIR", 16, 0, 0, slow},
	OpGetLk:           {"GETLK", lkSize, 0, lkOutSize, quick},
	OpSetLk:           {"SETLK", lkSize, 0, 0, quick},
	OpSetLkW:          {"SETLKW", lkSize, 0, 0, quick},
	OpAccess:          {"ACCESS", 8, 0, 0, 0},
	OpCreate:          {"CREATE", 16, 1, createSize, tail | cred},
	OpInterrupt:       {"INTERRUPT", 8, 0, 0, quiet | quick},
	OpBmap:            {"BMAP", 0, 0, 0, 0},
	OpDestroy:         {"DESTROY", 0, 0, 0, early | alone | slow},
	OpIoctl:           {"IOCTL", 32, 0, ioctlSize, tail},
	OpPoll:            {"POLL", 0, 0, 0, 0},
	OpNotifyReply:     {"NOTIFY_REPLY", 0, 0, 0, 0},
	OpBatchForget:     {"BATCH_FORGET", 8, 0, 0, quiet | quick | tail},
	OpFallocate:       {"FALLOCATE", 32, 0, 0, slow},
	OpReadDirPlus:     {"READDIRPLUS", 40, 0, 0, 0},
	OpRename2:         {"RENAME2", 16, 2, 0, 0},
	OpLseek:           {"LSEEK", 24, 0, wordSize, 0},
	OpCopyFileRange:   {"COPY_FILE_RANGE", 56, 0, wordSize, slow},
	OpSetupMapping:    {"SETUPMAPPING", 0, 0, 0, 0},
	OpRemoveMapping:   {"REMOVEMAPPING", 0, 0, 0, 0},
	OpSyncFS:          {"SYNCFS", 8, 0, 0, slow},
	OpTmpFile:         {"TMPFILE", 16, 1, createSize, tail | cred},
	OpStatx:           {"STATX", 24, 0, statxSize, 0},
	OpCopyFileRange64: {"COPY_FILE_RANGE_64", 56, 0, wordSize, slow},
}

// lookUp returns the line of the table that is op's.
func lookUp(op Opcode) *operation {
	if int64(op) < int64(len(operations)) && operations[op].name != "" {
		return &operations[op]
	}
	return &operations[opUnknown]
}

// String returns the name of op as in linux/fuse.h, or its number.
func (op Opcode) String() string {
	if o := lookUp(op); o != &operations[opUnknown] {
		return o.name
	}
	return strconv.FormatUint(uint64(op), 10)
}
