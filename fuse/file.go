package fuse

import (
	"math"
	"syscall"
)

// Handlers of operations on open files and directories (fs-device.md E.7, E.10 to
// E.12, E.14).

const (
	maxDirReply = 1 << 20    // bytes of entries (fs-device.md C.8)
	maxCopy32   = 0x7ffff000 // COPY_FILE_RANGE has a 32-bit answer (E.11.3)

	maxIoctl = 4096 // bytes of data in the reply of IOCTL

	seekData = 3
	seekHole = 4
)

func (t *Thread) open(r *Request) (int, error) {
	in, _, _ := take[OpenIn](r.args)
	t.opened = Opened{}
	err := t.s.fs.Open(&t.ctx, r.head.Node, in.Flags, t.kills(in.OpenFlags), &t.opened)
	return t.putOpen(r, err)
}

func (t *Thread) openDir(r *Request) (int, error) {
	in, _, _ := take[OpenIn](r.args)
	t.opened = Opened{}
	err := t.s.fs.OpenDir(&t.ctx, r.head.Node, in.Flags, &t.opened)
	return t.putOpen(r, err)
}

// putOpen answers with t.opened, unless the file system failed.
func (t *Thread) putOpen(r *Request, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	t.out.open.Handle, t.out.open.Flags = t.opened.Handle, t.opened.Flags
	return put(r, &t.out.open), nil
}

func (t *Thread) release(r *Request) (int, error) { return t.end(r, t.s.fs.Release) }

func (t *Thread) releaseDir(r *Request) (int, error) { return t.end(r, t.s.fs.ReleaseDir) }

// end releases a handle. Linux sets no locks on directories, but other guests may.
func (t *Thread) end(r *Request, release func(*Context, NodeID, Handle) error) (int, error) {
	in, _, _ := take[ReleaseIn](r.args)
	if t.s.flags&(PosixLocks|FlockLocks) != 0 {
		if err := t.s.fs.DropHandleLocks(&t.ctx, r.head.Node, in.Handle); err != nil {
			return 0, err
		}
	}
	return 0, release(&t.ctx, r.head.Node, in.Handle)
}

// read has the file system fill the reply's space behind the header.
func (t *Thread) read(r *Request) (int, error) {
	in, _, _ := take[ReadIn](r.args)
	if in.Offset > math.MaxInt64 {
		return 0, syscall.EINVAL
	}
	dst := r.Out.Slice(outHeaderSize, int(in.Size))
	return t.s.fs.Read(&t.ctx, r.head.Node, in.Handle, dst, in.Offset)
}

func (t *Thread) writeFile(r *Request) (int, error) {
	in, _, _ := take[WriteIn](r.args)
	src := r.payload()
	if in.Offset > math.MaxInt64 || int64(in.Size) > int64(src.Len()) {
		return 0, syscall.EINVAL
	}
	const known = WriteCache | WriteLockOwner | WriteKillSuidgid
	t.write = WriteArgs{Flags: in.WriteFlags & known, OpenFlags: in.OpenFlags}
	if t.s.flags&HandleKillprivV2 == 0 {
		t.write.Flags &^= WriteKillSuidgid
	}
	n, err := t.s.fs.Write(&t.ctx, r.head.Node, in.Handle, src.Slice(0, int(in.Size)), in.Offset, &t.write)
	if err != nil {
		return 0, err
	}
	t.out.write.Size = uint32(n)
	return put(r, &t.out.write), nil
}

func (t *Thread) flush(r *Request) (int, error) {
	in, _, _ := take[FlushIn](r.args)
	if t.s.flags&PosixLocks != 0 {
		if err := t.s.fs.DropLocks(&t.ctx, r.head.Node, in.LockOwner); err != nil {
			return 0, err
		}
	}
	return 0, t.s.fs.Flush(&t.ctx, r.head.Node, in.Handle)
}

func (t *Thread) fsync(r *Request) (int, error) {
	in, _, _ := take[FsyncIn](r.args)
	return 0, t.s.fs.Fsync(&t.ctx, r.head.Node, in.Handle, in.Flags&FsyncDataOnly != 0)
}

func (t *Thread) fsyncDir(r *Request) (int, error) {
	in, _, _ := take[FsyncIn](r.args)
	return 0, t.s.fs.FsyncDir(&t.ctx, r.head.Node, in.Handle, in.Flags&FsyncDataOnly != 0)
}

func (t *Thread) fallocate(r *Request) (int, error) {
	in, _, _ := take[FallocateIn](r.args)
	if in.Length == 0 || in.Length > math.MaxInt64 || in.Offset > math.MaxInt64 {
		return 0, syscall.EINVAL
	}
	if in.Offset+in.Length > math.MaxInt64 {
		return 0, syscall.EFBIG
	}
	return 0, t.s.fs.Fallocate(&t.ctx, r.head.Node, in.Handle, in.Offset, in.Length, in.Mode)
}

func (t *Thread) lseek(r *Request) (int, error) {
	in, _, _ := take[LseekIn](r.args)
	if in.Whence != seekData && in.Whence != seekHole {
		return 0, syscall.EINVAL
	}
	off, err := t.s.fs.Lseek(&t.ctx, r.head.Node, in.Handle, in.Offset, in.Whence)
	if err != nil {
		return 0, err
	}
	t.out.lseek.Offset = off
	return put(r, &t.out.lseek), nil
}

// ioctl answers with what the host says, and its data if it says yes. Only commands
// whose number tells how much data they take are known, so there is nothing to retry
// (fs-device.md E.17).
func (t *Thread) ioctl(r *Request) (int, error) {
	in, data, _ := take[IoctlIn](r.args)
	switch {
	case in.Flags&IoctlAny != 0:
		return 0, syscall.ENOTTY
	case uint64(in.InSize) > uint64(len(data)):
		return 0, syscall.EINVAL
	case uint64(in.OutSize) > uint64(r.space()-ioctlSize):
		return 0, syscall.EOVERFLOW
	}
	dst := t.scratch(int(min(in.OutSize, maxIoctl)))
	clear(dst)
	result, n, err := t.s.fs.Ioctl(&t.ctx, r.head.Node, in.Handle, in.Cmd, data[:in.InSize], dst)
	if err != nil {
		return 0, err
	}
	t.out.ioctl = IoctlOut{Result: int32(result)}
	r.Out.CopyIn(bytesOf(&t.out.ioctl), outHeaderSize)
	if result < 0 {
		return ioctlSize, nil
	}
	return ioctlSize + r.Out.CopyIn(dst[:n], outHeaderSize+ioctlSize), nil
}

func (t *Thread) copyFileRange(r *Request) (int, error) {
	n, err := t.copyRange(r, maxCopy32)
	if err != nil {
		return 0, err
	}
	t.out.write.Size = uint32(n)
	return put(r, &t.out.write), nil
}

func (t *Thread) copyFileRange64(r *Request) (int, error) {
	n, err := t.copyRange(r, math.MaxInt64)
	if err != nil {
		return 0, err
	}
	t.out.copied.Copied = n
	return put(r, &t.out.copied), nil
}

// copyRange copies at most limit bytes.
func (t *Thread) copyRange(r *Request, limit uint64) (uint64, error) {
	in, _, _ := take[CopyFileRangeIn](r.args)
	if in.Flags != 0 || in.Offset > math.MaxInt64 || in.OutOffset > math.MaxInt64 {
		return 0, syscall.EINVAL
	}
	src := FileRange{r.head.Node, in.Handle, in.Offset}
	dst := FileRange{in.OutNode, in.OutHandle, in.OutOffset}
	return t.s.fs.CopyFileRange(&t.ctx, src, dst, min(in.Len, limit), 0)
}

func (t *Thread) readDir(r *Request) (int, error) { return t.list(r, false) }

func (t *Thread) readDirPlus(r *Request) (int, error) {
	if t.s.flags&DoReaddirplus == 0 {
		return 0, ErrNotImplemented
	}
	return t.list(r, true)
}

// list collects entries in private memory, so that the file system may look at what
// it wrote, and copies them to the reply.
func (t *Thread) list(r *Request, plus bool) (int, error) {
	in, _, _ := take[ReadIn](r.args)
	t.dir.Reset(min(int(in.Size), r.space(), maxDirReply))
	if t.dir.Room() == 0 {
		return 0, nil
	}
	if err := t.s.fs.ReadDir(&t.ctx, r.head.Node, in.Handle, in.Offset, plus, &t.dir); err != nil {
		return 0, err
	}
	return r.put(t.dir.Bytes()), nil
}
