package fusetest

import (
	"fmt"
	"syscall"

	"vfiofs/fuse"
)

// ReadLink sends READLINK with room for size bytes.
func (c *Client) ReadLink(node fuse.NodeID, size int) (string, error) {
	b, err := c.Call(fuse.OpReadLink, node, size)
	return string(b), err
}

// MkNod sends MKNOD.
func (c *Client) MkNod(parent fuse.NodeID, name string, mode, rdev uint32) (fuse.EntryOut, error) {
	var out fuse.EntryOut
	err := c.call(fuse.OpMkNod, parent, &out, fuse.MkNodIn{Mode: mode, Rdev: rdev}, name)
	return out, err
}

// MkDir sends MKDIR.
func (c *Client) MkDir(parent fuse.NodeID, name string, mode uint32) (fuse.EntryOut, error) {
	var out fuse.EntryOut
	err := c.call(fuse.OpMkDir, parent, &out, fuse.MkDirIn{Mode: mode}, name)
	return out, err
}

// Symlink sends SYMLINK.
func (c *Client) Symlink(parent fuse.NodeID, name, target string) (fuse.EntryOut, error) {
	var out fuse.EntryOut
	err := c.call(fuse.OpSymlink, parent, &out, name, target)
	return out, err
}

// Link sends LINK: node gets the name in parent too.
func (c *Client) Link(node, parent fuse.NodeID, name string) (fuse.EntryOut, error) {
	var out fuse.EntryOut
	err := c.call(fuse.OpLink, parent, &out, fuse.LinkIn{Node: node}, name)
	return out, err
}

// Unlink sends UNLINK.
func (c *Client) Unlink(parent fuse.NodeID, name string) error {
	return c.call(fuse.OpUnlink, parent, nil, name)
}

// RmDir sends RMDIR.
func (c *Client) RmDir(parent fuse.NodeID, name string) error {
	return c.call(fuse.OpRmDir, parent, nil, name)
}

// Rename sends RENAME.
func (c *Client) Rename(parent fuse.NodeID, name string, newParent fuse.NodeID, newName string) error {
	return c.call(fuse.OpRename, parent, nil, fuse.RenameIn{NewParent: newParent}, name, newName)
}

// Rename2 sends RENAME2.
func (c *Client) Rename2(parent fuse.NodeID, name string, newParent fuse.NodeID, newName string, flags uint32) error {
	return c.call(fuse.OpRename2, parent, nil, fuse.Rename2In{NewParent: newParent, Flags: flags}, name, newName)
}

// Open sends OPEN.
func (c *Client) Open(node fuse.NodeID, flags uint32) (fuse.OpenOut, error) {
	var out fuse.OpenOut
	err := c.call(fuse.OpOpen, node, &out, fuse.OpenIn{Flags: flags})
	return out, err
}

// Create sends CREATE.
func (c *Client) Create(parent fuse.NodeID, name string, flags, mode uint32) (fuse.CreateOut, error) {
	var out fuse.CreateOut
	err := c.call(fuse.OpCreate, parent, &out, fuse.CreateIn{Flags: flags, Mode: mode}, name)
	return out, err
}

// TmpFile sends TMPFILE.
func (c *Client) TmpFile(parent fuse.NodeID, flags, mode uint32) (fuse.CreateOut, error) {
	var out fuse.CreateOut
	err := c.call(fuse.OpTmpFile, parent, &out, fuse.CreateIn{Flags: flags, Mode: mode}, "/")
	return out, err
}

// Release sends RELEASE.
func (c *Client) Release(node fuse.NodeID, h fuse.Handle) error {
	return c.call(fuse.OpRelease, node, nil, fuse.ReleaseIn{Handle: h})
}

// Read sends READ with room for size bytes.
func (c *Client) Read(node fuse.NodeID, h fuse.Handle, off uint64, size int) ([]byte, error) {
	return c.Call(fuse.OpRead, node, size, fuse.ReadIn{Handle: h, Offset: off, Size: uint32(size)})
}

// Write sends WRITE and returns how much was written.
func (c *Client) Write(node fuse.NodeID, h fuse.Handle, off uint64, data []byte) (int, error) {
	var out fuse.WriteOut
	err := c.call(fuse.OpWrite, node, &out, fuse.WriteIn{Handle: h, Offset: off, Size: uint32(len(data))}, data)
	return int(out.Size), err
}

// Flush sends FLUSH.
func (c *Client) Flush(node fuse.NodeID, h fuse.Handle) error {
	return c.call(fuse.OpFlush, node, nil, fuse.FlushIn{Handle: h})
}

// Fsync sends FSYNC.
func (c *Client) Fsync(node fuse.NodeID, h fuse.Handle, dataOnly bool) error {
	return c.call(fuse.OpFsync, node, nil, fsyncIn(h, dataOnly))
}

// FsyncDir sends FSYNCDIR.
func (c *Client) FsyncDir(node fuse.NodeID, h fuse.Handle, dataOnly bool) error {
	return c.call(fuse.OpFsyncDir, node, nil, fsyncIn(h, dataOnly))
}

func fsyncIn(h fuse.Handle, dataOnly bool) fuse.FsyncIn {
	in := fuse.FsyncIn{Handle: h}
	if dataOnly {
		in.Flags = fuse.FsyncDataOnly
	}
	return in
}

// Fallocate sends FALLOCATE.
func (c *Client) Fallocate(node fuse.NodeID, h fuse.Handle, off, length uint64, mode uint32) error {
	return c.call(fuse.OpFallocate, node, nil, fuse.FallocateIn{Handle: h, Offset: off, Length: length, Mode: mode})
}

// Lseek sends LSEEK.
func (c *Client) Lseek(node fuse.NodeID, h fuse.Handle, off uint64, whence uint32) (uint64, error) {
	var out fuse.LseekOut
	err := c.call(fuse.OpLseek, node, &out, fuse.LseekIn{Handle: h, Offset: off, Whence: whence})
	return out.Offset, err
}

// CopyFileRange sends COPY_FILE_RANGE_64.
func (c *Client) CopyFileRange(src, dst fuse.FileRange, length uint64) (uint64, error) {
	var out fuse.CopyFileRangeOut
	err := c.call(fuse.OpCopyFileRange64, src.Node, &out, copyIn(src, dst, length))
	return out.Copied, err
}

// CopyFileRange32 sends COPY_FILE_RANGE.
func (c *Client) CopyFileRange32(src, dst fuse.FileRange, length uint64) (uint32, error) {
	var out fuse.WriteOut
	err := c.call(fuse.OpCopyFileRange, src.Node, &out, copyIn(src, dst, length))
	return out.Size, err
}

func copyIn(src, dst fuse.FileRange, length uint64) fuse.CopyFileRangeIn {
	return fuse.CopyFileRangeIn{
		Handle: src.Handle, Offset: src.Offset,
		OutNode: dst.Node, OutHandle: dst.Handle, OutOffset: dst.Offset, Len: length,
	}
}

// OpenDir sends OPENDIR.
func (c *Client) OpenDir(node fuse.NodeID) (fuse.OpenOut, error) {
	var out fuse.OpenOut
	err := c.call(fuse.OpOpenDir, node, &out, fuse.OpenIn{})
	return out, err
}

// ReleaseDir sends RELEASEDIR.
func (c *Client) ReleaseDir(node fuse.NodeID, h fuse.Handle) error {
	return c.call(fuse.OpReleaseDir, node, nil, fuse.ReleaseIn{Handle: h})
}

// A DirEntry is one entry of READDIR, or of READDIRPLUS with Entry.
type DirEntry struct {
	fuse.Dirent
	Name  string
	Entry fuse.EntryOut
}

// ReadDir sends READDIR with room for size bytes.
func (c *Client) ReadDir(node fuse.NodeID, h fuse.Handle, off uint64, size int) ([]DirEntry, error) {
	return c.readDir(fuse.OpReadDir, node, h, off, size)
}

// ReadDirPlus sends READDIRPLUS with room for size bytes.
func (c *Client) ReadDirPlus(node fuse.NodeID, h fuse.Handle, off uint64, size int) ([]DirEntry, error) {
	return c.readDir(fuse.OpReadDirPlus, node, h, off, size)
}

func (c *Client) readDir(op fuse.Opcode, node fuse.NodeID, h fuse.Handle, off uint64, size int) ([]DirEntry, error) {
	b, err := c.Call(op, node, size, fuse.ReadIn{Handle: h, Offset: off, Size: uint32(size)})
	if err != nil {
		return nil, err
	}
	return ParseDir(b, op == fuse.OpReadDirPlus)
}

// ParseDir reads the payload of READDIR or READDIRPLUS, as strictly as guests do.
func ParseDir(b []byte, plus bool) ([]DirEntry, error) {
	var list []DirEntry
	for len(b) > 0 {
		var e DirEntry
		var err error
		if plus {
			if b, err = Unpack(b, &e.Entry); err != nil {
				return nil, err
			}
		}
		if b, err = Unpack(b, &e.Dirent); err != nil {
			return nil, err
		}
		n, padded := int(e.Namelen), (int(e.Namelen)+7)&^7
		if n == 0 || padded > len(b) {
			return nil, fmt.Errorf("entry %d has a name of %d bytes in %d", len(list), n, len(b))
		}
		e.Name, b = string(b[:n]), b[padded:]
		list = append(list, e)
	}
	return list, nil
}

// SetXattr sends SETXATTR in the form that INIT agreed on.
func (c *Client) SetXattr(node fuse.NodeID, name string, value []byte, flags uint32) error {
	in := Pack(fuse.SetXattrIn{Size: uint32(len(value)), Flags: flags})
	if c.Flags&fuse.SetxattrExt == 0 {
		in = in[:8]
	}
	return c.call(fuse.OpSetXattr, node, nil, in, name, value)
}

// GetXattr sends GETXATTR for a value of at most size bytes, which is not 0.
func (c *Client) GetXattr(node fuse.NodeID, name string, size int) ([]byte, error) {
	return c.Call(fuse.OpGetXattr, node, size, fuse.GetXattrIn{Size: uint32(size)}, name)
}

// GetXattrSize asks for the length of a value.
func (c *Client) GetXattrSize(node fuse.NodeID, name string) (int, error) {
	var out fuse.GetXattrOut
	err := c.call(fuse.OpGetXattr, node, &out, fuse.GetXattrIn{}, name)
	return int(out.Size), err
}

// ListXattr sends LISTXATTR for a list of at most size bytes, which is not 0.
func (c *Client) ListXattr(node fuse.NodeID, size int) ([]byte, error) {
	return c.Call(fuse.OpListXattr, node, size, fuse.GetXattrIn{Size: uint32(size)})
}

// ListXattrSize asks for the length of the list.
func (c *Client) ListXattrSize(node fuse.NodeID) (int, error) {
	var out fuse.GetXattrOut
	err := c.call(fuse.OpListXattr, node, &out, fuse.GetXattrIn{})
	return int(out.Size), err
}

// RemoveXattr sends REMOVEXATTR.
func (c *Client) RemoveXattr(node fuse.NodeID, name string) error {
	return c.call(fuse.OpRemoveXattr, node, nil, name)
}

// GetLock sends GETLK for a lock that the owner in lk would like to set, and returns
// what is in the way.
func (c *Client) GetLock(node fuse.NodeID, h fuse.Handle, lk fuse.Lock) (fuse.LkOut, error) {
	var out fuse.LkOut
	err := c.call(fuse.OpGetLk, node, &out, lkIn(h, lk))
	return out, err
}

// SetLock sends SETLK, or SETLKW with wait.
func (c *Client) SetLock(node fuse.NodeID, h fuse.Handle, lk fuse.Lock, wait bool) error {
	op := fuse.OpSetLk
	if wait {
		op = fuse.OpSetLkW
	}
	return c.call(op, node, nil, lkIn(h, lk))
}

func lkIn(h fuse.Handle, lk fuse.Lock) fuse.LkIn {
	in := fuse.LkIn{Handle: h, Owner: lk.Owner, Start: lk.Start, End: lk.End, Type: lk.Type, PID: lk.PID}
	if lk.Flock {
		in.Flags = fuse.LkFlock
	}
	return in
}

// FlushOwner sends FLUSH as a process does that closes the file and may have locks.
func (c *Client) FlushOwner(node fuse.NodeID, h fuse.Handle, owner uint64) error {
	return c.call(fuse.OpFlush, node, nil, fuse.FlushIn{Handle: h, LockOwner: owner})
}

// Interrupt sends INTERRUPT for the request of that unique.
func (c *Client) Interrupt(unique uint64) error {
	return c.send(fuse.OpInterrupt, 0, fuse.InterruptIn{Unique: unique})
}

// Statx sends STATX, with a handle unless h is 0.
func (c *Client) Statx(node fuse.NodeID, h fuse.Handle, mask uint32) (fuse.StatxOut, error) {
	in := fuse.StatxIn{Handle: h, Mask: mask}
	if h != 0 {
		in.Flags = fuse.GetAttrHandle
	}
	var out fuse.StatxOut
	err := c.call(fuse.OpStatx, node, &out, in)
	return out, err
}

// Ioctl sends IOCTL with room for size bytes of data in the reply. The error is the
// result of the command if the server carried it out.
func (c *Client) Ioctl(node fuse.NodeID, h fuse.Handle, cmd uint32, data []byte, size int) ([]byte, error) {
	in := fuse.IoctlIn{Handle: h, Cmd: cmd, InSize: uint32(len(data)), OutSize: uint32(size)}
	payload, err := c.Call(fuse.OpIoctl, node, 16+size, in, data)
	if err != nil {
		return nil, err
	}
	var out fuse.IoctlOut
	if payload, err = Unpack(payload, &out); err == nil && out.Result < 0 {
		err = syscall.Errno(-out.Result)
	}
	return payload, err
}
