package fuse_test

import (
	"encoding/binary"
	"syscall"
	"testing"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
)

// Whatever comes in, in whatever pieces: no panic, and a reply that keeps the rules.
func FuzzRequest(f *testing.F) {
	c := fusetest.NewClient(nil)
	for _, in := range [][]byte{
		c.Message(fuse.OpLookup, 1, "d"),
		c.Message(fuse.OpMkDir, 1, fuse.MkDirIn{Mode: 0o700}, "new", extension(16, 32, uint32(1), uint32(5))),
		c.Message(fuse.OpCreate, 1, fuse.CreateIn{Flags: 2}, "new"),
		c.Message(fuse.OpSymlink, 1, "name", "target"),
		c.Message(fuse.OpRename2, 1, fuse.Rename2In{NewParent: 1, Flags: 2}, "d", "f"),
		c.Message(fuse.OpRead, 3, fuse.ReadIn{Handle: 1, Size: 100}),
		c.Message(fuse.OpWrite, 3, fuse.WriteIn{Handle: 1, Size: 4, Offset: 1}, "data"),
		c.Message(fuse.OpReadDir, 1, fuse.ReadIn{Handle: 2, Size: 1000}),
		c.Message(fuse.OpReadDirPlus, 1, fuse.ReadIn{Handle: 2, Size: 1000}),
		c.Message(fuse.OpSetAttr, 3, fuse.SetAttrIn{Valid: 0xfff, Size: 5}),
		c.Message(fuse.OpSetXattr, 1, fuse.SetXattrIn{Size: 1}, "user.x", "v"),
		c.Message(fuse.OpGetXattr, 1, fuse.GetXattrIn{Size: 10}, "user.x"),
		c.Message(fuse.OpListXattr, 1, fuse.GetXattrIn{Size: 10}),
		c.Message(fuse.OpBatchForget, 1, fuse.BatchForgetIn{Count: 1}, fuse.ForgetOne{Node: 2, Lookups: 1}),
		c.Message(fuse.OpCopyFileRange, 3, fuse.CopyFileRangeIn{Handle: 1, OutNode: 3, OutHandle: 1, OutOffset: 9, Len: 5}),
		c.Message(fuse.OpGetLk, 3, fuse.LkIn{Handle: 1, Owner: 5, End: 99, Type: fuse.LockWrite}),
		c.Message(fuse.OpSetLk, 3, fuse.LkIn{Handle: 1, Owner: 5, End: 99, Type: fuse.LockWrite}),
		c.Message(fuse.OpSetLkW, 3, fuse.LkIn{Handle: 1, Owner: 6, Start: 3, End: 5, Type: fuse.LockRead}),
		c.Message(fuse.OpStatx, 3, fuse.StatxIn{Handle: 1, Flags: 1, Mask: 0xfff}),
		c.Message(fuse.OpIoctl, 3, fuse.IoctlIn{Handle: 1, Cmd: 1, InSize: 4, OutSize: 8}, "abcd"),
		c.Message(fuse.OpInterrupt, 0, fuse.InterruptIn{Unique: 2}),
		c.Message(fuse.OpInit, 0, fuse.InitIn{Major: 7, Minor: 45}),
		c.Message(fuse.OpDestroy, 0),
	} {
		f.Add(in, uint16(200), uint8(7))
	}
	f.Fuzz(func(t *testing.T, in []byte, outSize uint16, cut uint8) {
		m := fusetest.NewMem()
		m.Want = 1<<64 - 1
		c := fusetest.NewClient(direct(t, m, int(cut)))
		_, err := c.Init(fusetest.AllFlags)
		wantErr(t, err, 0, "Init()")
		_, err = c.MkDir(fuse.RootID, "d", 0o700)
		wantErr(t, err, 0, "MkDir()")
		_, err = c.Create(fuse.RootID, "f", syscall.O_RDWR, 0o600)
		wantErr(t, err, 0, "Create()")
		_, err = c.OpenDir(fuse.RootID)
		wantErr(t, err, 0, "OpenDir()")

		if _, err := c.Transport(in, int(outSize)); err != nil {
			t.Fatal(err)
		}
		if len(in) >= 40 {
			// As it is, the length in the header is seldom right.
			binary.LittleEndian.PutUint32(in, uint32(len(in)))
			if _, err := c.Transport(in, int(outSize)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
