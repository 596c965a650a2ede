package devfuse

import (
	"vfiofs/fuse"
	"vfiofs/internal/fsclient"
)

// Where a request says how long its reply may be (linux/fuse.h).
const (
	readSize  = inHeaderSize + 16 // size in struct fuse_read_in
	xattrSize = inHeaderSize      // size in struct fuse_getxattr_in
	ioctlSize = inHeaderSize + 28 // out_size in struct fuse_ioctl_in
)

// Payload of replies, in bytes.
const (
	entryOut = 128 // struct fuse_entry_out
	openOut  = 16  // struct fuse_open_out
	attrOut  = 104 // struct fuse_attr_out
	wordOut  = 8   // struct fuse_write_out, fuse_getxattr_out, and others
	ioctlOut = 16  // struct fuse_ioctl_out
)

// fixedRoom is the payload of replies that always have as much.
var fixedRoom = [...]uint16{
	fuse.OpLookup:          entryOut,
	fuse.OpGetAttr:         attrOut,
	fuse.OpSetAttr:         attrOut,
	fuse.OpReadLink:        pageSize - 1, // linux fs/fuse/dir.c: fuse_readlink_folio
	fuse.OpSymlink:         entryOut,
	fuse.OpMkNod:           entryOut,
	fuse.OpMkDir:           entryOut,
	fuse.OpLink:            entryOut,
	fuse.OpOpen:            openOut,
	fuse.OpWrite:           wordOut,
	fuse.OpStatFS:          80, // struct fuse_kstatfs
	fuse.OpInit:            initOutSize,
	fuse.OpOpenDir:         openOut,
	fuse.OpGetLk:           24, // struct fuse_lk_out
	fuse.OpCreate:          entryOut + openOut,
	fuse.OpBmap:            wordOut,
	fuse.OpPoll:            wordOut,
	fuse.OpLseek:           wordOut,
	fuse.OpCopyFileRange:   wordOut,
	fuse.OpTmpFile:         entryOut + openOut,
	fuse.OpStatx:           288, // struct fuse_statx_out
	fuse.OpCopyFileRange64: wordOut,
}

// replyRoom returns the number of writable bytes that a guest gives the backend for
// the reply to a request, at most what a slot has. It matters: virtiofsd reads as much
// of a file as there is room, whatever READ says (fs-device.md C.8).
func (r *request) replyRoom(in []byte) int {
	if r.quiet() {
		return 0
	}
	payload := data // of an operation that is not known here
	switch r.op {
	case fuse.OpRead, fuse.OpReadDir, fuse.OpReadDirPlus:
		payload = sizeAt(in, readSize)
	case fuse.OpGetXattr, fuse.OpListXattr:
		if payload = sizeAt(in, xattrSize); payload == 0 {
			payload = wordOut
		}
	case fuse.OpIoctl:
		payload = ioctlOut + sizeAt(in, ioctlSize)
	default:
		if r.op <= fuse.OpCopyFileRange64 {
			payload = int(fixedRoom[r.op])
		}
	}
	return fsclient.OutHead + min(payload, data)
}

// sizeAt returns the 32-bit number at offset off of a request, 0 if it is cut short.
func sizeAt(in []byte, off int) int {
	if len(in) < off+4 {
		return 0
	}
	return int(le.Uint32(in[off:]))
}
