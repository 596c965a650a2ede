package fuse_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"syscall"
	"testing"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
)

// start returns a client of a file system in memory, after INIT.
func start(t testing.TB) (*fusetest.Client, *fusetest.Mem) {
	t.Helper()
	m := fusetest.NewMem()
	m.Want |= fuse.SecurityCtx
	c := fusetest.NewLocal(t, m, fuse.Options{}).Client()
	if _, err := c.Init(fusetest.AllFlags); err != nil {
		t.Fatalf("Init() = %v; want success", err)
	}
	return c, m
}

// wantErr fails unless err is want; 0 means no error.
func wantErr(t testing.TB, err error, want syscall.Errno, what string) {
	t.Helper()
	if want == 0 && err != nil || want != 0 && !errors.Is(err, want) {
		t.Errorf("%s = %v; want %v", what, err, want)
	}
}

// alive checks that c still serves.
func alive(t testing.TB, c *fusetest.Client) {
	t.Helper()
	_, err := c.GetAttr(fuse.RootID, 0)
	wantErr(t, err, 0, "GetAttr(root) afterwards")
}

func TestH030ShortHeader(t *testing.T) {
	c, _ := start(t)
	in := c.Message(fuse.OpStatFS, fuse.RootID)[:39]
	for outSize, want := range map[int][]byte{
		0:  nil,
		15: nil,
		16: {16, 0, 0, 0, 0xfb, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0}, // -EIO, unique 0
	} {
		out, err := c.Transport(in, outSize)
		if err != nil || !bytes.Equal(out, want) {
			t.Errorf("reply in %d bytes = %v, %v; want %v", outSize, out, err, want)
		}
	}
	alive(t, c)
}

func TestH031HeaderLen(t *testing.T) {
	for _, test := range []struct {
		name string
		size uint32
		want syscall.Errno
	}{
		{"39", 39, syscall.EIO},
		{"0", 0, syscall.EIO},
		{"maximal", 0xffffffff, syscall.ENOMEM},
		{"just too large", 80 + 1<<20 + 4096 + 1, syscall.ENOMEM},
		{"largest, but not there", 80 + 1<<20 + 4096, syscall.EIO},
		{"one more than readable", 40 + 6 + 4 + 1, syscall.EIO},
		{"all", 40 + 6 + 4, 0},
		{"less than readable", 40 + 6, 0},
		{"without the NUL", 40 + 5, syscall.EINVAL},
	} {
		t.Run("H031 "+test.name, func(t *testing.T) {
			c, _ := start(t)
			_, err := c.MkDir(fuse.RootID, "fname", 0o700)
			wantErr(t, err, 0, "MkDir()")
			in := append(c.Message(fuse.OpUnlink, fuse.RootID, "fname"), "tail"...)
			binary.LittleEndian.PutUint32(in, test.size)
			_, reply, err := c.Raw(in, 200)
			if test.want == 0 {
				test.want = syscall.EISDIR // it got as far as the directory
			}
			if !reply {
				t.Error("no reply; want one")
			}
			wantErr(t, err, test.want, "request")
			alive(t, c)
		})
	}
}

func TestH032UnknownOpcodes(t *testing.T) {
	c, _ := start(t)
	for _, op := range []fuse.Opcode{
		0, 7, 19, 54, 4096, 0xfffffffe, 0xffffffff,
	} {
		_, err := c.Call(op, fuse.RootID, 100, make([]byte, 64))
		wantErr(t, err, syscall.ENOSYS, op.String())
		_, err = c.Call(op, fuse.RootID, 0)
		wantErr(t, err, syscall.ENOSYS, op.String()+" without arguments")
	}
	alive(t, c)
}

// H188: what makes no sense here, or needs a queue for notifications, which Linux does
// not have over virtio. ENOSYS is what each of them is switched off with: the guest then
// maps blocks itself, and polls as if files were always ready, which they are
// (fs-device.md D.4).
func TestH188NotImplemented(t *testing.T) {
	c, _ := start(t)
	for _, op := range []fuse.Opcode{
		fuse.OpBmap, fuse.OpPoll, fuse.OpNotifyReply, fuse.OpSetupMapping, fuse.OpRemoveMapping,
	} {
		_, err := c.Call(op, fuse.RootID, 100, make([]byte, 64))
		wantErr(t, err, syscall.ENOSYS, op.String())
		_, err = c.Call(op, fuse.RootID, 0)
		wantErr(t, err, syscall.ENOSYS, op.String()+" without arguments")
	}
	alive(t, c)
}

func TestH033SwappedInit(t *testing.T) {
	c := fusetest.NewLocal(t, fusetest.NewMem(), fuse.Options{}).Client()
	in := c.Message(0x1a000000, 0, fuse.InitIn{})
	binary.BigEndian.PutUint32(in, uint32(len(in)))
	_, _, err := c.Raw(in, 80)
	wantErr(t, err, syscall.EPROTO, "INIT of a big-endian guest")
}

func TestH034Strings(t *testing.T) {
	c, _ := start(t)
	f, err := c.MkDir(fuse.RootID, "name", 0o700)
	wantErr(t, err, 0, "MkDir()")
	_, err = c.Call(fuse.OpLookup, fuse.RootID, 128, []byte("name"))
	wantErr(t, err, syscall.EINVAL, "LOOKUP without NUL")
	_, err = c.Call(fuse.OpLookup, fuse.RootID, 128)
	wantErr(t, err, syscall.EINVAL, "LOOKUP without anything")
	b, err := c.Call(fuse.OpLookup, fuse.RootID, 128, []byte("name\x00more\x00"))
	wantErr(t, err, 0, "LOOKUP with data after the NUL")
	if got := binary.LittleEndian.Uint64(b); got != uint64(f.Node) {
		t.Errorf("LOOKUP with data after the NUL found node %d; want %d", got, f.Node)
	}
}

func TestH035MissingStrings(t *testing.T) {
	c, _ := start(t)
	_, err := c.Call(fuse.OpRename, fuse.RootID, 0, fuse.RenameIn{NewParent: 1}, "one")
	wantErr(t, err, syscall.EINVAL, "RENAME with one name")
	_, err = c.Call(fuse.OpRename2, fuse.RootID, 0, fuse.Rename2In{NewParent: 1}, "one", []byte("two"))
	wantErr(t, err, syscall.EINVAL, "RENAME2 with half a name")
	_, err = c.Call(fuse.OpSymlink, fuse.RootID, 128, "name")
	wantErr(t, err, syscall.EINVAL, "SYMLINK without target")
	_, err = c.Call(fuse.OpSetXattr, fuse.RootID, 0, fuse.GetXattrIn{}, []byte("name"))
	wantErr(t, err, syscall.EINVAL, "SETXATTR without NUL")
}

func TestH036ShortArguments(t *testing.T) {
	c, _ := start(t)
	_, err := c.Call(fuse.OpSetAttr, fuse.RootID, 104, make([]byte, 80))
	wantErr(t, err, syscall.EINVAL, "SETATTR of 80 bytes")
	_, err = c.Call(fuse.OpRead, fuse.RootID, 104, make([]byte, 39))
	wantErr(t, err, syscall.EINVAL, "READ of 39 bytes")
}

func TestH037UniqueIsEchoed(t *testing.T) {
	c, _ := start(t)
	in := c.Message(fuse.OpStatFS, fuse.RootID)
	binary.LittleEndian.PutUint64(in[8:], 1<<63|5)
	out, err := c.Transport(in, 96)
	wantErr(t, err, 0, "STATFS")
	if got := binary.LittleEndian.Uint64(out[8:]); got != 1<<63|5 {
		t.Errorf("unique = %#x; want %#x", got, uint64(1<<63|5))
	}
}

// H038, H039, H040 and H041: requests without reply.
func TestQuietRequests(t *testing.T) {
	forget := func(n uint64) []byte { return fusetest.Pack(fuse.ForgetIn{Lookups: n}) }
	batch := func(count uint32, list ...fuse.ForgetOne) []byte {
		return fusetest.Pack(fuse.BatchForgetIn{Count: count}, list)
	}
	c, _ := start(t)
	f, err := c.MkDir(fuse.RootID, "d", 0o700)
	wantErr(t, err, 0, "MkDir()")
	one := fuse.ForgetOne{Node: f.Node, Lookups: 1}
	for _, test := range []struct {
		name string
		op   fuse.Opcode
		body []byte
		gone bool // the node is, afterwards
	}{
		{"H038 FORGET", fuse.OpForget, forget(1), true},
		{"H038 FORGET 0", fuse.OpForget, forget(0), false},
		{"H039 short FORGET", fuse.OpForget, forget(1)[:7], false},
		{"H039 empty FORGET", fuse.OpForget, nil, false},
		{"H040 BATCH_FORGET", fuse.OpBatchForget, batch(3, fuse.ForgetOne{Node: 1 << 40, Lookups: 1}, one, one), true},
		{"H040 BATCH_FORGET of 2^31", fuse.OpBatchForget, batch(1<<31, one), false},
		{"H040 BATCH_FORGET of one more", fuse.OpBatchForget, batch(2, one), false},
		{"H040 short BATCH_FORGET", fuse.OpBatchForget, make([]byte, 4), false},
		{"H041 INTERRUPT", fuse.OpInterrupt, fusetest.Pack(uint64(99)), false},
		{"H041 empty INTERRUPT", fuse.OpInterrupt, nil, false},
	} {
		for _, outSize := range []int{0, 16, 100} {
			e, err := c.Lookup(fuse.RootID, "d")
			wantErr(t, err, 0, "Lookup(d)")
			one.Node = e.Node
			if test.op == fuse.OpBatchForget && len(test.body) >= 24 {
				binary.LittleEndian.PutUint64(test.body[len(test.body)-16:], uint64(e.Node))
			}
			wantErr(t, c.Forget(e.Node, 1<<40), 0, "Forget()")
			e, err = c.Lookup(fuse.RootID, "d")
			wantErr(t, err, 0, "Lookup(d)")
			if test.op == fuse.OpBatchForget && len(test.body) >= 24 {
				binary.LittleEndian.PutUint64(test.body[len(test.body)-16:], uint64(e.Node))
			}
			_, reply, err := c.Raw(c.Message(test.op, e.Node, test.body), outSize)
			if reply || err != nil {
				t.Errorf("%s in %d bytes: reply %v, error %v; want none", test.name, outSize, reply, err)
			}
			_, err = c.GetAttr(e.Node, 0)
			if got := errors.Is(err, syscall.EBADF); got != test.gone {
				t.Errorf("%s: node is gone: %v; want %v", test.name, got, test.gone)
			}
		}
	}
}

// extension returns one request extension.
func extension(size, typ uint32, body ...any) []byte {
	return fusetest.Pack(append([]any{fuse.ExtHeader{Size: size, Type: typ}}, body...)...)
}

// label returns a security context, padded.
func label(name, value string) []byte {
	b := fusetest.Pack(fuse.Secctx{Size: uint32(len(value))}, name, []byte(value))
	return append(b, make([]byte, (8-len(b)%8)%8)...)
}

func TestH042Extensions(t *testing.T) {
	good := label("security.x", "value")
	secctx := extension(uint32(8+len(good)), 1, good)
	groups := extension(24, 32, []uint32{2, 500, 501, 0})
	for _, test := range []struct {
		name  string
		ext   []byte
		units int // 0: as many as there are
		want  syscall.Errno
	}{
		{"none", nil, 0, 0},
		{"secctx", secctx, 0, 0},
		{"groups", groups, 0, 0},
		{"both", append(bytes.Clone(groups), secctx...), 0, 0},
		{"no secctx", extension(8, 0), 0, 0},
		{"bigger than the request", secctx, len(secctx)/8 + 100, syscall.EINVAL},
		{"reaching into the name", secctx, len(secctx)/8 + 1, syscall.EINVAL},
		{"size 4", extension(4, 1), 0, syscall.EINVAL},
		{"size 0", extension(0, 0), 0, syscall.EINVAL},
		{"size not a multiple of 8", extension(12, 32, uint32(0), uint32(0)), 0, syscall.EINVAL},
		{"sizes that are multiples of 8 together only", append(extension(12, 0, uint32(0)), extension(12, 32, uint32(0))...), 0, syscall.EINVAL},
		{"size of more than there is", extension(24, 32, uint64(0)), 0, syscall.EINVAL},
		{"size 2^32-8", extension(0xfffffff8, 32, uint64(0)), 0, syscall.EINVAL},
		{"nr_secctx 2", extension(uint32(8+len(good)), 2, good), 0, syscall.EINVAL},
		{"two secctx", append(bytes.Clone(secctx), secctx...), 0, syscall.EINVAL},
		{"two lists of groups", append(bytes.Clone(groups), groups...), 0, syscall.EINVAL},
		{"nr_groups 65537", extension(8+8*32769, 32, uint32(65537), make([]byte, 4+8*32768)), 0, syscall.EINVAL},
		{"list longer than the extension", extension(16, 32, uint32(2), uint32(0)), 0, syscall.EINVAL},
		{"unknown type", extension(8, 33), 0, syscall.EINVAL},
		{"H043 name without NUL", extension(24, 1, fuse.Secctx{Size: 0}, []byte("abcdefgh")), 0, syscall.EINVAL},
		{"H043 empty name", extension(24, 1, label("", "value")), 0, syscall.EINVAL},
		{"H043 value longer than the block", extension(24, 1, fuse.Secctx{Size: 7}, []byte("a\x00345678")), 0, syscall.EINVAL},
		{"H043 value of 2^32-1", extension(24, 1, fuse.Secctx{Size: 0xffffffff}, []byte("a\x00345678")), 0, syscall.EINVAL},
		{"H043 no room for the context", extension(8, 1), 0, syscall.EINVAL},
	} {
		t.Run("H042 "+test.name, func(t *testing.T) {
			c, _ := start(t)
			in := c.Message(fuse.OpMkDir, fuse.RootID, fuse.MkDirIn{Mode: 0o700}, "dir", test.ext)
			units := test.units
			if units == 0 {
				units = len(test.ext) / 8
			}
			binary.LittleEndian.PutUint16(in[36:], uint16(units))
			_, _, err := c.Raw(in, 200)
			wantErr(t, err, test.want, "MKDIR")
			_, err = c.Lookup(fuse.RootID, "dir")
			if got := err == nil; got != (test.want == 0) {
				t.Errorf("directory was made: %v; want %v", got, test.want == 0)
			}
		})
	}
}

func TestLabelReachesFileSystem(t *testing.T) {
	ctx := label("security.selinux", "system_u")
	block := extension(uint32(8+len(ctx)), 1, ctx)
	t.Run("announced in the header", func(t *testing.T) {
		c, _ := start(t)
		c.Ext = block
		e, err := c.Symlink(fuse.RootID, "l", "target")
		wantErr(t, err, 0, "Symlink()")
		got, err := c.GetXattr(e.Node, "security.selinux", 100)
		if err != nil || string(got) != "system_u" {
			t.Errorf("label = %q, %v; want system_u", got, err)
		}
	})
	t.Run("as before Linux 6.3", func(t *testing.T) {
		c, _ := start(t)
		b, err := c.Call(fuse.OpCreate, fuse.RootID, 144, fuse.CreateIn{Flags: syscall.O_RDWR, Mode: 0o600}, "f", block)
		wantErr(t, err, 0, "CREATE")
		got, err := c.GetXattr(fuse.NodeID(binary.LittleEndian.Uint64(b)), "security.selinux", 100)
		if err != nil || string(got) != "system_u" {
			t.Errorf("label = %q, %v; want system_u", got, err)
		}
		_, err = c.Call(fuse.OpCreate, fuse.RootID, 144, fuse.CreateIn{Flags: syscall.O_RDWR}, "g", []byte("garbage"))
		wantErr(t, err, syscall.EINVAL, "CREATE with garbage behind the name")
		_, err = c.Call(fuse.OpCreate, fuse.RootID, 144, fuse.CreateIn{Flags: syscall.O_RDWR}, "g", extension(16, 32, uint32(1), uint32(5)))
		wantErr(t, err, syscall.EINVAL, "CREATE with unannounced groups")
	})
	t.Run("not negotiated", func(t *testing.T) {
		c, _ := start(t)
		_, err := c.Init(fusetest.AllFlags &^ fuse.SecurityCtx)
		wantErr(t, err, 0, "Init()")
		c.Ext = block
		e, err := c.MkDir(fuse.RootID, "d", 0o700)
		wantErr(t, err, 0, "MkDir()")
		_, err = c.GetXattr(e.Node, "security.selinux", 100)
		wantErr(t, err, syscall.ENODATA, "GetXattr()")
	})
}

func TestH044WriteBeyondPayload(t *testing.T) {
	c, _ := start(t)
	f, err := c.Create(fuse.RootID, "f", syscall.O_RDWR, 0o600)
	wantErr(t, err, 0, "Create()")
	_, err = c.Write(f.Entry.Node, f.Open.Handle, 0, []byte("kept"))
	wantErr(t, err, 0, "Write()")
	in := fuse.WriteIn{Handle: f.Open.Handle, Size: 4096}
	_, err = c.Call(fuse.OpWrite, f.Entry.Node, 8, in, bytes.Repeat([]byte("x"), 100))
	wantErr(t, err, syscall.EINVAL, "WRITE of 4096 with 100 bytes")

	// The header's length counts, not the chain's.
	msg := c.Message(fuse.OpWrite, f.Entry.Node, fuse.WriteIn{Handle: f.Open.Handle, Size: 100}, bytes.Repeat([]byte("x"), 100))
	binary.LittleEndian.PutUint32(msg, 80+99)
	_, _, err = c.Raw(msg, 24)
	wantErr(t, err, syscall.EINVAL, "WRITE of 100 with a length for 99")

	got, err := c.Read(f.Entry.Node, f.Open.Handle, 0, 100)
	if err != nil || string(got) != "kept" {
		t.Errorf("Read() = %q, %v; want kept", got, err)
	}
	in = fuse.WriteIn{Handle: f.Open.Handle, Size: 2}
	b, err := c.Call(fuse.OpWrite, f.Entry.Node, 8, in, []byte("ABCD"))
	if err != nil || binary.LittleEndian.Uint32(b) != 2 {
		t.Errorf("WRITE of 2 with 4 bytes = %v, %v; want 2", b, err)
	}
	got, err = c.Read(f.Entry.Node, f.Open.Handle, 0, 100)
	if err != nil || string(got) != "ABpt" {
		t.Errorf("Read() = %q, %v; want ABpt", got, err)
	}
}

// H011 to H013: without room for the reply nothing is done.
func TestReplySpace(t *testing.T) {
	for _, test := range []struct {
		name    string
		outSize int
		reply   bool
	}{
		{"H011 none", 0, false},
		{"H012 15 bytes", 15, false},
		{"H013 16 bytes", 16, true},
		{"H013 one too few", 16 + 127, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, _ := start(t)
			_, reply, err := c.Raw(c.Message(fuse.OpMkDir, fuse.RootID, fuse.MkDirIn{Mode: 0o700}, "d"), test.outSize)
			if reply != test.reply {
				t.Errorf("reply = %v; want %v", reply, test.reply)
			}
			if reply {
				wantErr(t, err, syscall.EIO, "MKDIR")
			}
			_, err = c.Lookup(fuse.RootID, "d")
			wantErr(t, err, syscall.ENOENT, "Lookup(d)")
		})
	}
	c, _ := start(t)
	f, err := c.MkDir(fuse.RootID, "d", 0o700)
	wantErr(t, err, 0, "MkDir()")
	_, _, err = c.Raw(c.Message(fuse.OpLookup, fuse.RootID, "d"), 16)
	wantErr(t, err, syscall.EIO, "LOOKUP in 16 bytes")
	wantErr(t, c.Forget(f.Node, 1), 0, "Forget()")
	_, err = c.GetAttr(f.Node, 0)
	wantErr(t, err, syscall.EBADF, "GetAttr() after the only lookup was forgotten")
}

func TestXattrSizes(t *testing.T) {
	c, _ := start(t)
	big := bytes.Repeat([]byte("v"), 65536)
	wantErr(t, c.SetXattr(fuse.RootID, "user.big", big, 0), 0, "SetXattr(65536 bytes)")
	for _, test := range []struct {
		name          string
		size, outSize int
		want          syscall.Errno
	}{
		{"H172 1 GiB", 1 << 30, 16 + 65536, 0},
		{"exact", 65536, 16 + 65536, 0},
		{"H172 one too few", 65535, 16 + 65536, syscall.ERANGE},
		{"no space in the reply", 65536, 16 + 65535, syscall.ERANGE},
		{"no space at all", 65536, 16, syscall.ERANGE},
		{"length", 0, 24, 0},
		{"no space for the length", 0, 16 + 7, syscall.EIO},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := c.Message(fuse.OpGetXattr, fuse.RootID, fuse.GetXattrIn{Size: uint32(test.size)}, "user.big")
			_, _, err := c.Raw(in, test.outSize)
			wantErr(t, err, test.want, "GETXATTR")
		})
	}
	_, err := c.GetXattr(fuse.RootID, strings.Repeat("n", 256), 10)
	wantErr(t, err, syscall.ERANGE, "GetXattr(name of 256 bytes)")
	wantErr(t, c.RemoveXattr(fuse.RootID, ""), syscall.ERANGE, "RemoveXattr(no name)")
	wantErr(t, c.SetXattr(fuse.RootID, "", nil, 0), syscall.ERANGE, "SetXattr(no name)")
	_, err = c.Call(fuse.OpSetXattr, fuse.RootID, 0, []byte{9, 0, 0, 0, 0, 0, 0, 0}, "user.x", []byte("12345678"))
	wantErr(t, err, syscall.EINVAL, "SETXATTR of 9 bytes with 8")
}
