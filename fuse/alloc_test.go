package fuse_test

import (
	"syscall"
	"testing"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/internal/testkit"
	"vfiofs/virtio/guestmem"
)

// After warm-up no request allocates.
func TestNoAllocations(t *testing.T) {
	for _, test := range hotRequests(t) {
		t.Run(test.name, func(t *testing.T) {
			testkit.NoAllocs(t, 100, "a request", test.run)
		})
	}
}

func BenchmarkServe(b *testing.B) {
	for _, test := range hotRequests(b) {
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				test.run()
			}
		})
	}
}

// A nullFS does as little as can be.
type nullFS struct{ fuse.Unimplemented }

func (nullFS) Offer() (want, need fuse.InitFlags) { return fuse.DoReaddirplus | fuse.SecurityCtx, 0 }

func (nullFS) Lookup(_ *fuse.Context, _ fuse.NodeID, name []byte, out *fuse.Entry) error {
	if name[0] == 'm' {
		return syscall.ENOENT
	}
	out.Node = 2
	return nil
}

func (nullFS) Read(_ *fuse.Context, _ fuse.NodeID, _ fuse.Handle, dst guestmem.Vec, _ uint64) (int, error) {
	return dst.Len(), nil
}

func (nullFS) Write(_ *fuse.Context, _ fuse.NodeID, _ fuse.Handle, src guestmem.Vec, _ uint64, _ *fuse.WriteArgs) (int, error) {
	return src.Len(), nil
}

func (nullFS) MkDir(*fuse.Context, fuse.NodeID, []byte, *fuse.Create, *fuse.Entry) error { return nil }

func (nullFS) GetXattr(*fuse.Context, fuse.NodeID, []byte, []byte) (int, error) { return 5, nil }

func (nullFS) ReadDir(_ *fuse.Context, _ fuse.NodeID, _ fuse.Handle, _ uint64, plus bool, d *fuse.DirBuffer) error {
	e := fuse.Entry{Node: 3}
	name := [...]byte{'n', 'a', 'm', 'e'}
	for d.Fits(len(name), plus) {
		if plus {
			d.AddPlus(&e, 1, 1, 8, name[:])
		} else {
			d.Add(1, 1, 8, name[:])
		}
	}
	return nil
}

type hotRequest struct {
	name string
	run  func()
}

func hotRequests(t testing.TB) []hotRequest {
	_, null := thread(t, nullFS{}, fuse.Options{})
	mem := fusetest.NewMem()
	_, real := thread(t, mem, fuse.Options{})
	c := fusetest.NewClient(nil)
	secctx := label("security.x", "value")
	c.Ext = append(extension(uint32(8+len(secctx)), 1, secctx), extension(16, 32, []uint32{1, 500})...)
	mkdir := c.Message(fuse.OpMkDir, 1, fuse.MkDirIn{}, "name")

	var list []hotRequest
	for _, h := range []struct {
		name    string
		thread  *fuse.Thread
		in      []byte
		outSize int
		want    int
	}{
		{"LOOKUP", null, c.Message(fuse.OpLookup, 1, "name"), 144, 144},
		{"LOOKUP miss", null, c.Message(fuse.OpLookup, 1, "missing"), 144, 16},
		{"GETATTR", real, c.Message(fuse.OpGetAttr, 1, fuse.GetAttrIn{}), 120, 120},
		{"STATX", real, c.Message(fuse.OpStatx, 1, fuse.StatxIn{}), 304, 304},
		{"READ", null, c.Message(fuse.OpRead, 1, fuse.ReadIn{Size: 4096}), 16 + 4096, 16 + 4096},
		{"WRITE", null, c.Message(fuse.OpWrite, 1, fuse.WriteIn{Size: 4096}, make([]byte, 4096)), 24, 24},
		{"FORGET", real, c.Message(fuse.OpForget, 1, fuse.ForgetIn{Lookups: 1}), 0, 0},
		{"BATCH_FORGET", real, c.Message(fuse.OpBatchForget, 1, fuse.BatchForgetIn{Count: 100}, make([]byte, 1600)), 0, 0},
		{"STATFS", real, c.Message(fuse.OpStatFS, 1), 96, 96},
		{"MKDIR with extensions", null, mkdir, 144, 144},
		{"GETXATTR", null, c.Message(fuse.OpGetXattr, 1, fuse.GetXattrIn{Size: 100}, "user.x"), 116, 21},
		{"READDIR", null, c.Message(fuse.OpReadDir, 1, fuse.ReadIn{Size: 4096}), 16 + 4096, 16 + 4096},
		{"READDIRPLUS", null, c.Message(fuse.OpReadDirPlus, 1, fuse.ReadIn{Size: 4096}), 16 + 4096, 16 + 4000},
		{"unknown", null, c.Message(99, 1), 16, 16},
		{"not implemented", null, c.Message(fuse.OpAccess, 1, fuse.AccessIn{}), 16, 16},
	} {
		r, _ := request(h.in, h.outSize)
		list = append(list, hotRequest{h.name, func() {
			if used, out := h.thread.Serve(r, false); used != h.want || out != fuse.Done {
				t.Fatalf("Serve() = %d, %v; want %d, done", used, out, h.want)
			}
		}})
	}
	return list
}
