package fuse

import (
	"math"
	"syscall"
	"time"
)

// A handler carries one request out: it reads r's private arguments, calls the file
// system, stores the payload of the reply and returns its length. Sizes and strings
// were checked against the table of operations.
type handler func(t *Thread, r *Request) (int, error)

// handlers is the table of what is implemented; the rest is answered ENOSYS.
var handlers = [...]handler{
	OpLookup:          (*Thread).lookup,
	OpForget:          (*Thread).forget,
	OpGetAttr:         (*Thread).getAttr,
	OpSetAttr:         (*Thread).setAttr,
	OpReadLink:        (*Thread).readLink,
	OpSymlink:         (*Thread).symlink,
	OpMkNod:           (*Thread).mkNod,
	OpMkDir:           (*Thread).mkDir,
	OpUnlink:          (*Thread).unlink,
	OpRmDir:           (*Thread).rmDir,
	OpRename:          (*Thread).rename,
	OpLink:            (*Thread).link,
	OpOpen:            (*Thread).open,
	OpRead:            (*Thread).read,
	OpWrite:           (*Thread).writeFile,
	OpStatFS:          (*Thread).statFS,
	OpRelease:         (*Thread).release,
	OpFsync:           (*Thread).fsync,
	OpSetXattr:        (*Thread).setXattr,
	OpGetXattr:        (*Thread).getXattr,
	OpListXattr:       (*Thread).listXattr,
	OpRemoveXattr:     (*Thread).removeXattr,
	OpFlush:           (*Thread).flush,
	OpInit:            (*Thread).initialize,
	OpOpenDir:         (*Thread).openDir,
	OpReadDir:         (*Thread).readDir,
	OpReleaseDir:      (*Thread).releaseDir,
	OpFsyncDir:        (*Thread).fsyncDir,
	OpGetLk:           (*Thread).getLock,
	OpSetLk:           (*Thread).setLock,
	OpSetLkW:          (*Thread).setLock,
	OpIoctl:           (*Thread).ioctl,
	OpStatx:           (*Thread).statx,
	OpAccess:          (*Thread).access,
	OpCreate:          (*Thread).createFile,
	OpInterrupt:       (*Thread).interrupt,
	OpDestroy:         (*Thread).terminate,
	OpBatchForget:     (*Thread).batchForget,
	OpFallocate:       (*Thread).fallocate,
	OpReadDirPlus:     (*Thread).readDirPlus,
	OpRename2:         (*Thread).rename2,
	OpLseek:           (*Thread).lseek,
	OpCopyFileRange:   (*Thread).copyFileRange,
	OpSyncFS:          (*Thread).syncFS,
	OpTmpFile:         (*Thread).tmpFile,
	OpCopyFileRange64: (*Thread).copyFileRange64,
}

// handler returns what carries r out.
func (r *Request) handler() handler {
	if op := r.head.Opcode; int64(op) < int64(len(handlers)) && handlers[op] != nil {
		return handlers[op]
	}
	return refuse
}

func refuse(*Thread, *Request) (int, error) { return 0, ErrNotImplemented }

// clock splits a duration as the wire wants it.
func clock(d time.Duration) (sec uint64, nsec uint32) {
	d = max(d, 0)
	return uint64(d / time.Second), uint32(d % time.Second)
}

// set fills o from e.
func (o *EntryOut) set(e *Entry) {
	o.Node, o.Generation = e.Node, e.Generation
	o.EntryValid, o.EntryValidNsec = clock(e.EntryValid)
	o.AttrValid, o.AttrValidNsec = clock(e.AttrValid)
	o.Attr = e.Attr
}

// putEntry answers with t.entry, unless the file system failed.
func (t *Thread) putEntry(r *Request, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	t.out.entry.set(&t.entry)
	return put(r, &t.out.entry), nil
}

func (t *Thread) lookup(r *Request) (int, error) {
	dots := syscall.EINVAL
	if t.s.flags&ExportSupport != 0 {
		dots = 0
	}
	name := r.names[0]
	if err := checkName(name, dots, dots); err != nil {
		return 0, err
	}
	t.entry = Entry{}
	return t.putEntry(r, t.s.fs.Lookup(&t.ctx, r.head.Node, name, &t.entry))
}

func (t *Thread) forget(r *Request) (int, error) {
	in, _, _ := take[ForgetIn](r.args)
	t.s.fs.Forget(&t.ctx, r.head.Node, in.Lookups)
	return 0, nil
}

func (t *Thread) batchForget(r *Request) (int, error) {
	in, list, _ := take[BatchForgetIn](r.args)
	if uint64(in.Count)*16 > uint64(len(list)) {
		return 0, syscall.EINVAL
	}
	for range in.Count {
		var one ForgetOne
		one, list, _ = take[ForgetOne](list)
		t.s.fs.Forget(&t.ctx, one.Node, one.Lookups)
	}
	return 0, nil
}

func (t *Thread) getAttr(r *Request) (int, error) {
	in, _, _ := take[GetAttrIn](r.args)
	if in.Flags&GetAttrHandle == 0 {
		in.Handle = 0
	}
	valid, err := t.s.fs.GetAttr(&t.ctx, r.head.Node, in.Handle, &t.out.attr.Attr)
	return t.putAttr(r, valid, err)
}

// putAttr answers with t.out.attr, unless the file system failed.
func (t *Thread) putAttr(r *Request, valid time.Duration, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	t.out.attr.Valid, t.out.attr.ValidNsec = clock(valid)
	return put(r, &t.out.attr), nil
}

func (t *Thread) statx(r *Request) (int, error) {
	const atForceSync, atDontSync = 0x2000, 0x4000 // linux/fcntl.h
	in, _, _ := take[StatxIn](r.args)
	if in.Flags&GetAttrHandle == 0 {
		in.Handle = 0
	}
	sync := in.Sync & (atForceSync | atDontSync)
	if sync == atForceSync|atDontSync {
		return 0, syscall.EINVAL
	}
	o := &t.out.statx
	o.Statx = Statx{}
	valid, err := t.s.fs.Statx(&t.ctx, r.head.Node, in.Handle, in.Mask, sync, &o.Statx)
	if err != nil {
		return 0, err
	}
	o.Valid, o.ValidNsec = clock(valid)
	return put(r, o), nil
}

func (t *Thread) setAttr(r *Request) (int, error) {
	in, _, _ := take[SetAttrIn](r.args)
	const known = SetAttrKillSuidgid<<1 - 1
	valid := in.Valid & known
	has := func(v SetAttrValid) bool { return valid&v != 0 }

	if in.Handle == 0 {
		valid &^= SetAttrHandle
	}
	if !has(SetAttrHandle) {
		in.Handle = 0
	}
	if t.s.flags&HandleKillprivV2 == 0 {
		valid &^= SetAttrKillSuidgid
	}
	const billion = 1e9
	switch {
	case has(SetAttrUID) && in.UID == NoID,
		has(SetAttrGID) && in.GID == NoID,
		has(SetAttrSize) && in.Size > math.MaxInt64,
		has(SetAttrAtime) && !has(SetAttrAtimeNow) && in.AtimeNsec >= billion,
		has(SetAttrMtime) && !has(SetAttrMtimeNow) && in.MtimeNsec >= billion:
		return 0, syscall.EINVAL
	}
	t.set = SetAttr{
		Valid:  valid,
		Handle: in.Handle,
		Mode:   in.Mode & modeBits,
		UID:    in.UID,
		GID:    in.GID,
		Size:   in.Size,
		Atime:  Timespec{in.Atime, in.AtimeNsec},
		Mtime:  Timespec{in.Mtime, in.MtimeNsec},
	}
	ttl, err := t.s.fs.SetAttr(&t.ctx, r.head.Node, &t.set, &t.out.attr.Attr)
	return t.putAttr(r, ttl, err)
}

func (t *Thread) statFS(r *Request) (int, error) {
	t.statfs = StatFS{}
	if err := t.s.fs.StatFS(&t.ctx, r.head.Node, &t.statfs); err != nil {
		return 0, err
	}
	return put(r, &t.statfs), nil
}

func (t *Thread) syncFS(r *Request) (int, error) {
	return 0, t.s.fs.SyncFS(&t.ctx, r.head.Node)
}

func (t *Thread) access(r *Request) (int, error) {
	in, _, _ := take[AccessIn](r.args)
	if in.Mask&^7 != 0 {
		return 0, syscall.EINVAL
	}
	return 0, t.s.fs.Access(&t.ctx, r.head.Node, in.Mask)
}
