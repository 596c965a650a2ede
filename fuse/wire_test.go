package fuse

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

type offsets map[string]uintptr

// Sizes and offsets as in linux/fuse.h 7.45.
var layouts = []struct {
	v    any
	size uintptr
	at   offsets
}{
	{InHeader{}, 40, offsets{"Len": 0, "Opcode": 4, "Unique": 8, "Node": 16, "UID": 24, "GID": 28, "PID": 32, "ExtUnits": 36}},
	{OutHeader{}, 16, offsets{"Len": 0, "Error": 4, "Unique": 8}},
	{Attr{}, 88, offsets{
		"Ino": 0, "Size": 8, "Blocks": 16, "Atime": 24, "Mtime": 32, "Ctime": 40, "AtimeNsec": 48, "MtimeNsec": 52,
		"CtimeNsec": 56, "Mode": 60, "Nlink": 64, "UID": 68, "GID": 72, "Rdev": 76, "Blksize": 80, "Flags": 84,
	}},
	{EntryOut{}, 128, offsets{
		"Node": 0, "Generation": 8, "EntryValid": 16, "AttrValid": 24, "EntryValidNsec": 32, "AttrValidNsec": 36, "Attr": 40,
	}},
	{AttrOut{}, 104, offsets{"Valid": 0, "ValidNsec": 8, "Attr": 16}},
	{ForgetIn{}, 8, offsets{"Lookups": 0}},
	{ForgetOne{}, 16, offsets{"Node": 0, "Lookups": 8}},
	{BatchForgetIn{}, 8, offsets{"Count": 0}},
	{GetAttrIn{}, 16, offsets{"Flags": 0, "Handle": 8}},
	{SetAttrIn{}, 88, offsets{
		"Valid": 0, "Handle": 8, "Size": 16, "LockOwner": 24, "Atime": 32, "Mtime": 40, "Ctime": 48, "AtimeNsec": 56,
		"MtimeNsec": 60, "CtimeNsec": 64, "Mode": 68, "UID": 76, "GID": 80,
	}},
	{MkNodIn{}, 16, offsets{"Mode": 0, "Rdev": 4, "Umask": 8}},
	{MkDirIn{}, 8, offsets{"Mode": 0, "Umask": 4}},
	{RenameIn{}, 8, offsets{"NewParent": 0}},
	{Rename2In{}, 16, offsets{"NewParent": 0, "Flags": 8}},
	{LinkIn{}, 8, offsets{"Node": 0}},
	{OpenIn{}, 8, offsets{"Flags": 0, "OpenFlags": 4}},
	{CreateIn{}, 16, offsets{"Flags": 0, "Mode": 4, "Umask": 8, "OpenFlags": 12}},
	{OpenOut{}, 16, offsets{"Handle": 0, "Flags": 8}},
	{CreateOut{}, 144, offsets{"Entry": 0, "Open": 128}},
	{ReleaseIn{}, 24, offsets{"Handle": 0, "Flags": 8, "ReleaseFlags": 12, "LockOwner": 16}},
	{FlushIn{}, 24, offsets{"Handle": 0, "LockOwner": 16}},
	{ReadIn{}, 40, offsets{"Handle": 0, "Offset": 8, "Size": 16, "ReadFlags": 20, "LockOwner": 24, "OpenFlags": 32}},
	{WriteIn{}, 40, offsets{"Handle": 0, "Offset": 8, "Size": 16, "WriteFlags": 20, "LockOwner": 24, "OpenFlags": 32}},
	{WriteOut{}, 8, offsets{"Size": 0}},
	{StatFS{}, 80, offsets{
		"Blocks": 0, "Bfree": 8, "Bavail": 16, "Files": 24, "Ffree": 32, "Bsize": 40, "Namelen": 44, "Frsize": 48,
	}},
	{FsyncIn{}, 16, offsets{"Handle": 0, "Flags": 8}},
	{SetXattrIn{}, 16, offsets{"Size": 0, "Flags": 4, "ExtFlags": 8}},
	{GetXattrIn{}, 8, offsets{"Size": 0}},
	{GetXattrOut{}, 8, offsets{"Size": 0}},
	{LkIn{}, 48, offsets{"Handle": 0, "Owner": 8, "Start": 16, "End": 24, "Type": 32, "PID": 36, "Flags": 40}},
	{LkOut{}, 24, offsets{"Start": 0, "End": 8, "Type": 16, "PID": 20}},
	{InterruptIn{}, 8, offsets{"Unique": 0}},
	{IoctlIn{}, 32, offsets{"Handle": 0, "Flags": 8, "Cmd": 12, "Arg": 16, "InSize": 24, "OutSize": 28}},
	{IoctlOut{}, 16, offsets{"Result": 0}},
	{StatxIn{}, 24, offsets{"Flags": 0, "Handle": 8, "Sync": 16, "Mask": 20}},
	{StatxOut{}, 288, offsets{"Valid": 0, "ValidNsec": 8, "Statx": 32}},
	{Statx{}, 256, offsets{
		"Mask": 0, "Blksize": 4, "Attributes": 8, "Nlink": 16, "UID": 20, "GID": 24, "Mode": 28, "Ino": 32, "Size": 40,
		"Blocks": 48, "Known": 56, "Atime": 64, "Btime": 80, "Ctime": 96, "Mtime": 112,
		"RdevMajor": 128, "RdevMinor": 132, "DevMajor": 136, "DevMinor": 140,
	}},
	{StatxTime{}, 16, offsets{"Sec": 0, "Nsec": 8}},
	{AccessIn{}, 8, offsets{"Mask": 0}},
	{FallocateIn{}, 32, offsets{"Handle": 0, "Offset": 8, "Length": 16, "Mode": 24}},
	{LseekIn{}, 24, offsets{"Handle": 0, "Offset": 8, "Whence": 16}},
	{LseekOut{}, 8, offsets{"Offset": 0}},
	{CopyFileRangeIn{}, 56, offsets{
		"Handle": 0, "Offset": 8, "OutNode": 16, "OutHandle": 24, "OutOffset": 32, "Len": 40, "Flags": 48,
	}},
	{CopyFileRangeOut{}, 8, offsets{"Copied": 0}},
	{InitIn{}, 64, offsets{"Major": 0, "Minor": 4, "MaxReadahead": 8, "Flags": 12, "Flags2": 16}},
	{InitOut{}, 64, offsets{
		"Major": 0, "Minor": 4, "MaxReadahead": 8, "Flags": 12, "MaxBackground": 16, "CongestionThreshold": 18,
		"MaxWrite": 20, "TimeGran": 24, "MaxPages": 28, "MapAlignment": 30, "Flags2": 32, "MaxStackDepth": 36,
		"RequestTimeout": 40,
	}},
	{Dirent{}, 24, offsets{"Ino": 0, "Off": 8, "Namelen": 16, "Type": 20}},
	{ExtHeader{}, 8, offsets{"Size": 0, "Type": 4}},
	{Secctx{}, 8, offsets{"Size": 0}},
}

func TestLayouts(t *testing.T) {
	for _, l := range layouts {
		typ := reflect.TypeOf(l.v)
		t.Run(typ.Name(), func(t *testing.T) {
			if typ.Size() != l.size {
				t.Errorf("size = %d; want %d", typ.Size(), l.size)
			}
			got := offsets{}
			for i := range typ.NumField() {
				if f := typ.Field(i); f.Name != "_" {
					got[f.Name] = f.Offset
				}
			}
			if d := cmp.Diff(l.at, got); d != "" {
				t.Errorf("offsets differ (-want +got):\n%s", d)
			}
			checkNoHoles(t, typ)
		})
	}
}

// A leaf is one integer of a structure.
type leaf struct{ at, size uintptr }

// leaves lists the integers of a structure in order, blank ones included.
func leaves(typ reflect.Type, at uintptr) []leaf {
	var list []leaf
	switch typ.Kind() {
	case reflect.Struct:
		for i := range typ.NumField() {
			list = append(list, leaves(typ.Field(i).Type, at+typ.Field(i).Offset)...)
		}
	case reflect.Array:
		for i := range typ.Len() {
			list = append(list, leaves(typ.Elem(), at+uintptr(i)*typ.Elem().Size())...)
		}
	default:
		list = append(list, leaf{at, typ.Size()})
	}
	return list
}

// checkNoHoles fails if a structure has bytes that belong to no field: those could
// carry anything to the guest.
func checkNoHoles(t *testing.T, typ reflect.Type) {
	end := uintptr(0)
	for _, l := range leaves(typ, 0) {
		if l.at != end {
			t.Errorf("hole before byte %d", l.at)
		}
		end = l.at + l.size
	}
	if end != typ.Size() {
		t.Errorf("hole after byte %d of %d", end, typ.Size())
	}
}

// go-fuse has read the same header independently. Its requests start with the header.
func TestLayoutsAgreeWithGoFuse(t *testing.T) {
	for _, pair := range []struct{ ours, theirs any }{
		{InHeader{}, gofuse.InHeader{}},
		{OutHeader{}, gofuse.OutHeader{}},
		{Attr{}, gofuse.Attr{}},
		{EntryOut{}, gofuse.EntryOut{}},
		{AttrOut{}, gofuse.AttrOut{}},
		{ForgetIn{}, gofuse.ForgetIn{}},
		{GetAttrIn{}, gofuse.GetAttrIn{}},
		{SetAttrIn{}, gofuse.SetAttrIn{}},
		{MkNodIn{}, gofuse.MknodIn{}},
		{MkDirIn{}, gofuse.MkdirIn{}},
		{Rename2In{}, gofuse.RenameIn{}},
		{LinkIn{}, gofuse.LinkIn{}},
		{OpenIn{}, gofuse.OpenIn{}},
		{CreateIn{}, gofuse.CreateIn{}},
		{OpenOut{}, gofuse.OpenOut{}},
		{CreateOut{}, gofuse.CreateOut{}},
		{ReleaseIn{}, gofuse.ReleaseIn{}},
		{FlushIn{}, gofuse.FlushIn{}},
		{ReadIn{}, gofuse.ReadIn{}},
		{WriteIn{}, gofuse.WriteIn{}},
		{WriteOut{}, gofuse.WriteOut{}},
		{StatFS{}, gofuse.StatfsOut{}},
		{FsyncIn{}, gofuse.FsyncIn{}},
		{SetXattrIn{}, gofuse.SetXAttrIn{}},
		{GetXattrIn{}, gofuse.GetXAttrIn{}},
		{GetXattrOut{}, gofuse.GetXAttrOut{}},
		{LkIn{}, gofuse.LkIn{}},
		{LkOut{}, gofuse.LkOut{}},
		{InterruptIn{}, gofuse.InterruptIn{}},
		{IoctlIn{}, gofuse.IoctlIn{}},
		{IoctlOut{}, gofuse.IoctlOut{}},
		{StatxIn{}, gofuse.StatxIn{}},
		{StatxOut{}, gofuse.StatxOut{}},
		{AccessIn{}, gofuse.AccessIn{}},
		{FallocateIn{}, gofuse.FallocateIn{}},
		{LseekIn{}, gofuse.LseekIn{}},
		{LseekOut{}, gofuse.LseekOut{}},
		{CopyFileRangeIn{}, gofuse.CopyFileRangeIn{}},
		{CopyFileRangeOut{}, gofuse.CopyFileRangeOut{}},
		{InitIn{}, gofuse.InitIn{}},
		{InitOut{}, gofuse.InitOut{}},
	} {
		ours, theirs := reflect.TypeOf(pair.ours), reflect.TypeOf(pair.theirs)
		t.Run(ours.Name(), func(t *testing.T) {
			want := leaves(theirs, 0)
			if f, ok := theirs.FieldByName("InHeader"); ok && f.Anonymous {
				want = want[len(leaves(f.Type, 0)):]
				for i := range want {
					want[i].at -= f.Type.Size()
				}
			}
			if d := cmp.Diff(want, leaves(ours, 0), cmp.AllowUnexported(leaf{})); d != "" {
				t.Errorf("layout differs (-theirs +ours):\n%s", d)
			}
		})
	}
}

func TestTakeAndBytesOf(t *testing.T) {
	b := []byte{
		1, 2, 0, 0, 0, 0, 0, 0x80, // handle
		4, 0, 0, 0, 0, 0, 0, 0, // offset
		3, 0, 0, 0, // whence
		0, 0, 0, 0,
		9, // rest
	}
	got, rest, ok := take[LseekIn](b)
	if want := (LseekIn{Handle: 0x8000000000000201, Offset: 4, Whence: 3}); !ok || got != want {
		t.Errorf("take() = %+v, %v; want %+v", got, ok, want)
	}
	if !bytes.Equal(rest, []byte{9}) {
		t.Errorf("take() left %v; want [9]", rest)
	}
	if again := bytesOf(&got); !bytes.Equal(again, b[:24]) {
		t.Errorf("bytesOf(take(b)) = %v; want %v", again, b[:24])
	}
	if _, _, ok := take[LseekIn](b[:23]); ok {
		t.Error("take(23 bytes) = ok; want failure")
	}
}

// The sizes that the table of operations was typed with are those of the structures.
func TestOperations(t *testing.T) {
	size := func(v any) int {
		if v == nil {
			return 0
		}
		return int(reflect.TypeOf(v).Size())
	}
	for _, test := range []struct {
		op      Opcode
		number  uint32
		name    string
		in, out any
	}{
		{OpLookup, 1, "LOOKUP", nil, EntryOut{}},
		{OpForget, 2, "FORGET", ForgetIn{}, nil},
		{OpGetAttr, 3, "GETATTR", GetAttrIn{}, AttrOut{}},
		{OpSetAttr, 4, "SETATTR", SetAttrIn{}, AttrOut{}},
		{OpReadLink, 5, "READLINK", nil, nil},
		{OpSymlink, 6, "SYMLINK", nil, EntryOut{}},
		{OpMkNod, 8, "MKNOD", MkNodIn{}, EntryOut{}},
		{OpMkDir, 9, "MKDIR", MkDirIn{}, EntryOut{}},
		{OpUnlink, 10, "UNLINK", nil, nil},
		{OpRmDir, 11, "RMDIR", nil, nil},
		{OpRename, 12, "RENAME", RenameIn{}, nil},
		{OpLink, 13, "LINK", LinkIn{}, EntryOut{}},
		{OpOpen, 14, "OPEN", OpenIn{}, OpenOut{}},
		{OpRead, 15, "READ", ReadIn{}, nil},
		{OpWrite, 16, "WRITE", WriteIn{}, WriteOut{}},
		{OpStatFS, 17, "STATFS", nil, StatFS{}},
		{OpRelease, 18, "RELEASE", ReleaseIn{}, nil},
		{OpFsync, 20, "FSYNC", FsyncIn{}, nil},
		{OpSetXattr, 21, "SETXATTR", GetXattrIn{}, nil}, // without the extension
		{OpGetXattr, 22, "GETXATTR", GetXattrIn{}, nil},
		{OpListXattr, 23, "LISTXATTR", GetXattrIn{}, nil},
		{OpRemoveXattr, 24, "REMOVEXATTR", nil, nil},
		{OpFlush, 25, "FLUSH", FlushIn{}, nil},
		{OpInit, 26, "INIT", [2]uint32{}, InitOut{}}, // the version is enough
		{OpOpenDir, 27, "OPENDIR", OpenIn{}, OpenOut{}},
		{OpReadDir, 28, "READDIR", ReadIn{}, nil},
		{OpReleaseDir, 29, "RELEASEDIR", ReleaseIn{}, nil},
		{OpFsyncDir, 30, "FSYNCDIR", FsyncIn{}, nil},
		{OpAccess, 34, "ACCESS", AccessIn{}, nil},
		{OpCreate, 35, "CREATE", CreateIn{}, CreateOut{}},
		{OpInterrupt, 36, "INTERRUPT", InterruptIn{}, nil},
		{OpDestroy, 38, "DESTROY", nil, nil},
		{OpBatchForget, 42, "BATCH_FORGET", BatchForgetIn{}, nil},
		{OpFallocate, 43, "FALLOCATE", FallocateIn{}, nil},
		{OpReadDirPlus, 44, "READDIRPLUS", ReadIn{}, nil},
		{OpRename2, 45, "RENAME2", Rename2In{}, nil},
		{OpLseek, 46, "LSEEK", LseekIn{}, LseekOut{}},
		{OpCopyFileRange, 47, "COPY_FILE_RANGE", CopyFileRangeIn{}, WriteOut{}},
		{OpSyncFS, 50, "SYNCFS", uint64(0), nil},
		{OpTmpFile, 51, "TMPFILE", CreateIn{}, CreateOut{}},
		{OpCopyFileRange64, 53, "COPY_FILE_RANGE_64", CopyFileRangeIn{}, CopyFileRangeOut{}},
		{OpGetLk, 31, "GETLK", LkIn{}, LkOut{}},
		{OpSetLk, 32, "SETLK", LkIn{}, nil},
		{OpSetLkW, 33, "SETLKW", LkIn{}, nil},
		{OpBmap, 37, "BMAP", nil, nil},
		{OpIoctl, 39, "IOCTL", IoctlIn{}, IoctlOut{}},
		{OpPoll, 40, "POLL", nil, nil},
		{OpNotifyReply, 41, "NOTIFY_REPLY", nil, nil},
		{OpSetupMapping, 48, "SETUPMAPPING", nil, nil},
		{OpRemoveMapping, 49, "REMOVEMAPPING", nil, nil},
		{OpStatx, 52, "STATX", StatxIn{}, StatxOut{}},
		{7, 7, "7", nil, nil},
		{0xfffffffe, 0xfffffffe, "4294967294", nil, nil},
	} {
		o := lookUp(test.op)
		if uint32(test.op) != test.number || test.op.String() != test.name {
			t.Errorf("opcode %d is %q; want %d, %q", test.op, test.op.String(), test.number, test.name)
		}
		if o.body != size(test.in) || o.reply != size(test.out) {
			t.Errorf("%v has %d bytes of arguments and %d of reply; want %d, %d", test.op, o.body, o.reply, size(test.in), size(test.out))
		}
	}
}
