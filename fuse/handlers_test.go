package fuse_test

import (
	"encoding/binary"
	"math"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/virtio/guestmem"
)

// A recorder keeps what the server passed on.
type recorder struct {
	fuse.Unimplemented
	want    fuse.InitFlags
	calls   int
	caller  fuse.Caller
	create  fuse.Create
	set     fuse.SetAttr
	write   fuse.WriteArgs
	name    string
	kill    bool
	length  uint64
	handle  fuse.Handle
	xattrs  error
	flagged uint32
}

func (r *recorder) Offer() (want, need fuse.InitFlags) { return r.want, 0 }

func (r *recorder) record(c *fuse.Context, name []byte, in *fuse.Create) error {
	r.calls++
	r.caller = c.Caller
	r.caller.Groups = append([]uint32(nil), c.Groups...)
	r.name = string(name)
	if in != nil {
		r.create = *in
	}
	return nil
}

func (r *recorder) Lookup(c *fuse.Context, _ fuse.NodeID, name []byte, _ *fuse.Entry) error {
	return r.record(c, name, nil)
}

func (r *recorder) MkDir(c *fuse.Context, _ fuse.NodeID, name []byte, in *fuse.Create, _ *fuse.Entry) error {
	return r.record(c, name, in)
}

func (r *recorder) MkNod(c *fuse.Context, _ fuse.NodeID, name []byte, in *fuse.Create, _ *fuse.Entry) error {
	return r.record(c, name, in)
}

func (r *recorder) Symlink(c *fuse.Context, _ fuse.NodeID, name, _ []byte, in *fuse.Create, _ *fuse.Entry) error {
	return r.record(c, name, in)
}

func (r *recorder) Create(c *fuse.Context, _ fuse.NodeID, name []byte, in *fuse.Create, _ *fuse.Entry, _ *fuse.Opened) error {
	return r.record(c, name, in)
}

func (r *recorder) TmpFile(c *fuse.Context, _ fuse.NodeID, in *fuse.Create, _ *fuse.Entry, _ *fuse.Opened) error {
	return r.record(c, nil, in)
}

func (r *recorder) Link(c *fuse.Context, _, _ fuse.NodeID, name []byte, _ *fuse.Entry) error {
	return r.record(c, name, nil)
}

func (r *recorder) Unlink(c *fuse.Context, _ fuse.NodeID, name []byte) error {
	return r.record(c, name, nil)
}

func (r *recorder) RmDir(c *fuse.Context, _ fuse.NodeID, name []byte) error {
	return r.record(c, name, nil)
}

func (r *recorder) Rename(c *fuse.Context, _ fuse.NodeID, name []byte, _ fuse.NodeID, _ []byte, flags uint32) error {
	r.flagged = flags
	return r.record(c, name, nil)
}

func (r *recorder) Open(_ *fuse.Context, _ fuse.NodeID, flags uint32, kill bool, _ *fuse.Opened) error {
	r.flagged, r.kill = flags, kill
	return nil
}

func (r *recorder) GetAttr(_ *fuse.Context, _ fuse.NodeID, h fuse.Handle, _ *fuse.Attr) (time.Duration, error) {
	r.handle = h
	return 0, nil
}

func (r *recorder) SetAttr(_ *fuse.Context, _ fuse.NodeID, in *fuse.SetAttr, _ *fuse.Attr) (time.Duration, error) {
	r.calls++
	r.set = *in
	return 0, nil
}

func (r *recorder) Write(_ *fuse.Context, _ fuse.NodeID, _ fuse.Handle, src guestmem.Vec, _ uint64, in *fuse.WriteArgs) (int, error) {
	r.write = *in
	return src.Len(), nil
}

func (r *recorder) CopyFileRange(_ *fuse.Context, _, _ fuse.FileRange, length, _ uint64) (uint64, error) {
	r.calls++
	r.length = length
	return length, nil
}

func (r *recorder) Fallocate(*fuse.Context, fuse.NodeID, fuse.Handle, uint64, uint64, uint32) error {
	r.calls++
	return nil
}

func (r *recorder) SetXattr(_ *fuse.Context, _ fuse.NodeID, name, _ []byte, _ uint32, kill bool) error {
	r.name, r.kill = string(name), kill
	return r.xattrs
}

// GetXattr claims a value that is longer than its room.
func (r *recorder) GetXattr(_ *fuse.Context, _ fuse.NodeID, _, dst []byte) (int, error) {
	return len(dst) + 1, nil
}

func (r *recorder) ReadDir(_ *fuse.Context, _ fuse.NodeID, _ fuse.Handle, _ uint64, _ bool, d *fuse.DirBuffer) error {
	r.length = uint64(d.Room())
	return nil
}

func (r *recorder) OpenDir(*fuse.Context, fuse.NodeID, uint32, *fuse.Opened) error {
	return syscall.ENOSYS
}

// record returns a recorder behind a server that agreed on flags.
func record(t testing.TB, flags fuse.InitFlags) (*recorder, *fusetest.Client) {
	t.Helper()
	r := &recorder{want: flags}
	c := fusetest.NewClient(direct(t, r, 0))
	c.Caller = fuse.Caller{UID: 7, GID: 8, PID: 9}
	_, err := c.Init(flags | fuse.InitExt | fuse.CreateSuppGroup)
	wantErr(t, err, 0, "Init()")
	return r, c
}

// What makes something, as a call with a name.
func creators(c *fusetest.Client) map[string]func(name string) error {
	return map[string]func(name string) error{
		"MKDIR":   func(name string) error { _, err := c.MkDir(1, name, 0); return err },
		"MKNOD":   func(name string) error { _, err := c.MkNod(1, name, 0, 0); return err },
		"SYMLINK": func(name string) error { _, err := c.Symlink(1, name, "target"); return err },
		"CREATE":  func(name string) error { _, err := c.Create(1, name, 0, 0); return err },
		"TMPFILE": func(string) error { _, err := c.TmpFile(1, 0, 0); return err },
	}
}

func TestH086NoCaller(t *testing.T) {
	for _, caller := range []fuse.Caller{{UID: fuse.NoID}, {GID: fuse.NoID}, {UID: fuse.NoID, GID: fuse.NoID}} {
		r, c := record(t, 0)
		c.Caller = caller
		for op, create := range creators(c) {
			wantErr(t, create("x"), syscall.EINVAL, op)
		}
		wantErr(t, c.Rename2(1, "a", 1, "b", 4), syscall.EINVAL, "RENAME2(WHITEOUT)")
		if r.calls != 0 {
			t.Errorf("%d calls for %+v; want 0", r.calls, caller)
		}
		wantErr(t, c.Rename2(1, "a", 1, "b", 1|64), 0, "RENAME2")
		if r.flagged != 65 {
			t.Errorf("Rename(flags %d); want 65, unknown ones included", r.flagged)
		}
		wantErr(t, c.Unlink(1, "a"), 0, "UNLINK")
	}
}

func TestCallerAndGroups(t *testing.T) {
	r, c := record(t, 0)
	c.Ext = extension(24, 32, []uint32{2, 500, 600, 0})
	for op, create := range creators(c) {
		wantErr(t, create("x"), 0, op)
		want := fuse.Caller{UID: 7, GID: 8, PID: 9, Groups: []uint32{500, 600}}
		if d := cmp.Diff(want, r.caller); d != "" {
			t.Errorf("%s: caller differs (-want +got):\n%s", op, d)
		}
	}
	c.Ext = nil
	_, err := c.MkDir(1, "x", 0)
	wantErr(t, err, 0, "MkDir()")
	if len(r.caller.Groups) != 0 {
		t.Errorf("groups of a request without = %v; want none", r.caller.Groups)
	}
	_, err = c.Init(0)
	wantErr(t, err, 0, "Init(0)")
	c.Ext = extension(24, 32, []uint32{2, 500, 600, 0})
	_, err = c.MkDir(1, "x", 0)
	wantErr(t, err, 0, "MkDir()")
	if len(r.caller.Groups) != 0 {
		t.Errorf("groups without CREATE_SUPP_GROUP = %v; want none", r.caller.Groups)
	}
}

func TestNames(t *testing.T) {
	r, c := record(t, 0)
	for op, call := range creators(c) {
		if op == "TMPFILE" {
			continue // its name is ignored
		}
		for name, want := range map[string]syscall.Errno{".": syscall.EEXIST, "..": syscall.EEXIST, "": syscall.EINVAL, "/": syscall.EINVAL} {
			wantErr(t, call(name), want, op+" "+name)
		}
	}
	link := func(name string) error { _, err := c.Link(2, 1, name); return err }
	lookup := func(name string) error { _, err := c.Lookup(1, name); return err }
	for _, test := range []struct {
		op   string
		call func(name string) error
		name string
		want syscall.Errno
	}{
		{"LINK", link, ".", syscall.EEXIST},
		{"LINK", link, "a/b", syscall.EINVAL},
		{"UNLINK", func(name string) error { return c.Unlink(1, name) }, ".", syscall.EISDIR},
		{"UNLINK", func(name string) error { return c.Unlink(1, name) }, "..", syscall.EISDIR},
		{"RMDIR", func(name string) error { return c.RmDir(1, name) }, ".", syscall.EINVAL},
		{"RMDIR", func(name string) error { return c.RmDir(1, name) }, "..", syscall.ENOTEMPTY},
		{"H153 RENAME", func(name string) error { return c.Rename(1, name, 1, "x") }, ".", syscall.EBUSY},
		{"H153 RENAME", func(name string) error { return c.Rename(1, "x", 1, name) }, "..", syscall.EBUSY},
		{"H065 LOOKUP", lookup, ".", syscall.EINVAL},
		{"H065 LOOKUP", lookup, "..", syscall.EINVAL},
		{"H066 LOOKUP", lookup, "../etc", syscall.EINVAL},
		{"H067 LOOKUP", lookup, strings.Repeat("n", 4096), syscall.ENAMETOOLONG},
		{"H156 SYMLINK to", func(s string) error { _, err := c.Symlink(1, "x", s); return err }, "", syscall.ENOENT},
		{"H156 SYMLINK to", func(s string) error { _, err := c.Symlink(1, "x", s); return err }, strings.Repeat("n", 4096), syscall.ENAMETOOLONG},
	} {
		wantErr(t, test.call(test.name), test.want, test.op+" "+test.name[:min(len(test.name), 10)])
	}
	if r.calls != 0 {
		t.Errorf("%d calls were made; want 0", r.calls)
	}
	_, err := c.Symlink(1, "x", strings.Repeat("n", 4095))
	wantErr(t, err, 0, "H156 SYMLINK to 4095 bytes")

	r, c = record(t, fuse.ExportSupport)
	for _, name := range []string{".", ".."} {
		_, err := c.Lookup(1, name)
		if wantErr(t, err, 0, "H065 LOOKUP with EXPORT_SUPPORT"); r.name != name {
			t.Errorf("Lookup(%q); want %q", r.name, name)
		}
	}
}

func TestModes(t *testing.T) {
	for _, test := range []struct {
		name  string
		flags fuse.InitFlags
		umask uint32
	}{{"H085 DONT_MASK", fuse.DontMask, 0o022}, {"H085 masked by the guest", 0, 0}} {
		t.Run(test.name, func(t *testing.T) {
			r, c := record(t, test.flags)
			_, err := c.Call(fuse.OpMkDir, 1, 128, fuse.MkDirIn{Mode: 0xffffffff, Umask: 0xf000 | 0o022}, "x")
			wantErr(t, err, 0, "MKDIR")
			if want := (fuse.Create{Mode: syscall.S_IFDIR | 0o7777, Umask: test.umask}); !cmp.Equal(r.create, want) {
				t.Errorf("MkDir(%+v); want %+v", r.create, want)
			}
			_, err = c.Call(fuse.OpCreate, 1, 144, fuse.CreateIn{Flags: 0x8042, Mode: 0o644, Umask: 0o022, OpenFlags: 1}, "x")
			wantErr(t, err, 0, "CREATE")
			if want := (fuse.Create{Mode: syscall.S_IFREG | 0o644, Umask: test.umask, Flags: 0x8042}); !cmp.Equal(r.create, want) {
				t.Errorf("Create(%+v); want %+v", r.create, want)
			}
		})
	}
	r, c := record(t, 0)
	for mode, want := range map[uint32]uint32{
		0o600:                             syscall.S_IFREG | 0o600, // H158 type 0
		syscall.S_IFREG | 0o600:           syscall.S_IFREG | 0o600,
		syscall.S_IFCHR | 0o600:           syscall.S_IFCHR | 0o600,
		syscall.S_IFBLK:                   syscall.S_IFBLK,
		syscall.S_IFIFO:                   syscall.S_IFIFO,
		1<<31 | syscall.S_IFSOCK | 0o7777: syscall.S_IFSOCK | 0o7777,
	} {
		_, err := c.MkNod(1, "x", mode, 0x12c05)
		wantErr(t, err, 0, "MKNOD")
		if r.create.Mode != want || r.create.Rdev != 0x12c05 {
			t.Errorf("MKNOD(%#o) = mode %#o, rdev %#x; want %#o, 0x12c05", mode, r.create.Mode, r.create.Rdev, want)
		}
	}
	for _, mode := range []uint32{syscall.S_IFDIR, syscall.S_IFLNK, 0o170000} { // H158
		_, err := c.MkNod(1, "x", mode, 0)
		wantErr(t, err, syscall.EINVAL, "MKNOD")
	}
}

func TestSetAttrArguments(t *testing.T) {
	all := fuse.SetAttrIn{
		Valid: 1<<32 - 1, Handle: 5, Size: math.MaxInt64, Atime: -1, Mtime: 2, AtimeNsec: 1e9, MtimeNsec: 2e9,
		Mode: 0o177777, UID: 1, GID: 2,
	}
	r, c := record(t, 0)
	_, err := c.SetAttr(1, all)
	wantErr(t, err, 0, "SETATTR")
	want := fuse.SetAttr{
		Valid: 0x7ff, Handle: 5, Mode: 0o7777, UID: 1, GID: 2, Size: math.MaxInt64,
		Atime: fuse.Timespec{Sec: -1, Nsec: 1e9}, Mtime: fuse.Timespec{Sec: 2, Nsec: 2e9},
	}
	if d := cmp.Diff(want, r.set); d != "" {
		t.Errorf("SetAttr differs (-want +got):\n%s", d)
	}
	all.Handle = 0
	_, err = c.SetAttr(1, all)
	wantErr(t, err, 0, "SETATTR")
	if r.set.Valid&fuse.SetAttrHandle != 0 {
		t.Error("SETATTR with handle 0 has a handle; want none")
	}
	calls := r.calls
	for name, in := range map[string]fuse.SetAttrIn{
		"H161 uid":  {Valid: fuse.SetAttrUID, UID: fuse.NoID},
		"H161 gid":  {Valid: fuse.SetAttrGID, GID: fuse.NoID},
		"H162 size": {Valid: fuse.SetAttrSize, Size: 1 << 63},
		"H163 nsec": {Valid: fuse.SetAttrAtime, AtimeNsec: 1e9},
	} {
		_, err := c.SetAttr(1, in)
		wantErr(t, err, syscall.EINVAL, name)
	}
	if r.calls != calls {
		t.Errorf("%d calls with invalid arguments; want 0", r.calls-calls)
	}
	_, err = c.SetAttr(1, fuse.SetAttrIn{UID: fuse.NoID, GID: fuse.NoID, Size: 1 << 63, AtimeNsec: 1e9, Handle: 6})
	wantErr(t, err, 0, "SETATTR of nothing")
	if r.set.Handle != 0 {
		t.Errorf("SetAttr(handle %d); want 0 without its bit", r.set.Handle)
	}
}

func TestGetAttrHandle(t *testing.T) {
	r, c := record(t, 0)
	for flags, want := range map[uint32]fuse.Handle{0: 0, fuse.GetAttrHandle: 5} {
		_, err := c.Call(fuse.OpGetAttr, 1, 104, fuse.GetAttrIn{Flags: flags, Handle: 5})
		if wantErr(t, err, 0, "GETATTR"); r.handle != want {
			t.Errorf("GetAttr(handle %d) with flags %d; want %d", r.handle, flags, want)
		}
	}
}

// Bits that say "drop suid bits" count when HANDLE_KILLPRIV_V2 was negotiated.
func TestKillBits(t *testing.T) {
	for _, flags := range []fuse.InitFlags{0, fuse.HandleKillprivV2} {
		want := flags != 0
		r, c := record(t, flags)
		_, err := c.Call(fuse.OpOpen, 1, 16, fuse.OpenIn{Flags: 0x8201, OpenFlags: fuse.OpenKillSuidgid})
		if wantErr(t, err, 0, "OPEN"); r.kill != want || r.flagged != 0x8201 {
			t.Errorf("Open(flags %#x, kill %v); want 0x8201, %v", r.flagged, r.kill, want)
		}
		_, err = c.Call(fuse.OpCreate, 1, 144, fuse.CreateIn{OpenFlags: fuse.OpenKillSuidgid}, "x")
		if wantErr(t, err, 0, "CREATE"); r.create.Kill != want {
			t.Errorf("Create(kill %v); want %v", r.create.Kill, want)
		}
		_, err = c.SetAttr(1, fuse.SetAttrIn{Valid: fuse.SetAttrKillSuidgid})
		if wantErr(t, err, 0, "SETATTR"); r.set.Valid&fuse.SetAttrKillSuidgid != 0 != want {
			t.Errorf("SetAttr(valid %#x); want kill %v", r.set.Valid, want)
		}
		in := fuse.WriteIn{WriteFlags: 1<<32 - 1, OpenFlags: 0x400}
		_, err = c.Call(fuse.OpWrite, 1, 8, in)
		if wantErr(t, err, 0, "WRITE"); r.write.Flags&fuse.WriteKillSuidgid != 0 != want || r.write.OpenFlags != 0x400 || r.write.Flags>>3 != 0 {
			t.Errorf("Write(%+v); want known flags, kill %v, open flags 0x400", r.write, want)
		}
	}
}

func TestSetXattrForms(t *testing.T) {
	const acl = fuse.PosixACL | fuse.DontMask | fuse.SetxattrExt
	for _, test := range []struct {
		name  string
		flags fuse.InitFlags
		kill  bool
	}{{"old form", 0, false}, {"new form", fuse.SetxattrExt, false}, {"H176 with ACLs", acl, true}} {
		t.Run(test.name, func(t *testing.T) {
			r, c := record(t, test.flags)
			in := fusetest.Pack(fuse.SetXattrIn{Size: 3, ExtFlags: fuse.SetXattrKillSgid})
			if c.Flags&fuse.SetxattrExt == 0 {
				in = in[:8]
			}
			_, err := c.Call(fuse.OpSetXattr, 1, 0, in, "user.x", []byte("abc"))
			if wantErr(t, err, 0, "SETXATTR"); r.name != "user.x" || r.kill != test.kill {
				t.Errorf("SetXattr(%q, kill %v); want user.x, %v", r.name, r.kill, test.kill)
			}
		})
	}
	_, c := record(t, fuse.SetxattrExt)
	_, err := c.Call(fuse.OpSetXattr, 1, 0, make([]byte, 15))
	wantErr(t, err, syscall.EINVAL, "SETXATTR of 15 bytes")
}

// ENOSYS, after which guests never ask again, is what a file system says on purpose.
func TestNotImplemented(t *testing.T) {
	r, c := record(t, 0)
	_, err := c.OpenDir(1)
	wantErr(t, err, syscall.EOPNOTSUPP, "H192 OPENDIR, which the host lacks")
	r.xattrs = syscall.ENOSYS
	wantErr(t, c.SetXattr(1, "user.x", nil, 0), syscall.EOPNOTSUPP, "H192 SETXATTR, which the host lacks")
	wantErr(t, c.RemoveXattr(1, "user.x"), syscall.ENOSYS, "H174 REMOVEXATTR")
	_, err = c.StatFS(1)
	wantErr(t, err, syscall.ENOSYS, "STATFS")
	_, err = c.ReadDirPlus(1, 1, 0, 100)
	wantErr(t, err, syscall.ENOSYS, "READDIRPLUS, which was not negotiated")
}

func TestRanges(t *testing.T) {
	r, c := record(t, 0)
	bad := func(op fuse.Opcode, want syscall.Errno, in any) {
		t.Helper()
		_, err := c.Call(op, 1, 100, in)
		wantErr(t, err, want, op.String())
	}
	bad(fuse.OpRead, syscall.EINVAL, fuse.ReadIn{Offset: 1 << 63}) // H110
	bad(fuse.OpWrite, syscall.EINVAL, fuse.WriteIn{Offset: 1 << 63})
	bad(fuse.OpLseek, syscall.EINVAL, fuse.LseekIn{Whence: 0})                          // H118
	bad(fuse.OpFallocate, syscall.EINVAL, fuse.FallocateIn{})                           // H119
	bad(fuse.OpFallocate, syscall.EINVAL, fuse.FallocateIn{Offset: 1 << 63, Length: 1}) // negative for the host
	bad(fuse.OpFallocate, syscall.EFBIG, fuse.FallocateIn{Offset: math.MaxInt64, Length: 1})
	bad(fuse.OpCopyFileRange, syscall.EINVAL, fuse.CopyFileRangeIn{Flags: 1}) // H117
	bad(fuse.OpCopyFileRange64, syscall.EINVAL, fuse.CopyFileRangeIn{OutOffset: 1 << 63})
	bad(fuse.OpAccess, syscall.EINVAL, fuse.AccessIn{Mask: 8})
	if r.calls != 0 {
		t.Errorf("%d calls with invalid arguments; want 0", r.calls)
	}

	b, err := c.Call(fuse.OpCopyFileRange, 1, 8, fuse.CopyFileRangeIn{Len: 1 << 40}) // H117
	if err != nil || binary.LittleEndian.Uint64(b) != 0x7ffff000 || r.length != 0x7ffff000 {
		t.Errorf("COPY_FILE_RANGE of 2^40 = %v, %v for %#x; want 0x7ffff000", b, err, r.length)
	}
	b, err = c.Call(fuse.OpCopyFileRange64, 1, 8, fuse.CopyFileRangeIn{Len: 1 << 40})
	if err != nil || binary.LittleEndian.Uint64(b) != 1<<40 {
		t.Errorf("COPY_FILE_RANGE_64 of 2^40 = %v, %v; want 2^40", b, err)
	}
}

// What a file system is lent is bounded, whatever the guest asks for.
func TestRoom(t *testing.T) {
	r, c := record(t, 0)
	for _, test := range []struct {
		size    uint32
		outSize int
		want    uint64
	}{
		{4096, 2 << 20, 4096},
		{1<<32 - 1, 16 + 1000, 1000},
		{1<<32 - 1, 2 << 20, 1 << 20}, // fs-device.md C.8
	} {
		_, _, err := c.Raw(c.Message(fuse.OpReadDir, 1, fuse.ReadIn{Size: test.size}), test.outSize)
		if wantErr(t, err, 0, "READDIR"); r.length != test.want {
			t.Errorf("ReadDir() has room for %d; want %d", r.length, test.want)
		}
	}
	_, err := c.GetXattr(1, "user.x", 100)
	wantErr(t, err, syscall.ERANGE, "GETXATTR of a value that is too long")
}
