package passthrough

import (
	"testing"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// A failing file system of the host has one file, "f", that cannot be closed well.
type failing struct{ gofuse.RawFileSystem }

func (failing) Lookup(_ <-chan struct{}, _ *gofuse.InHeader, name string, out *gofuse.EntryOut) gofuse.Status {
	if name != "f" {
		return gofuse.ENOENT
	}
	out.NodeId, out.Ino, out.Mode, out.Nlink = 2, 2, unix.S_IFREG|0o644, 1
	return gofuse.OK
}

func (failing) GetAttr(_ <-chan struct{}, in *gofuse.GetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	out.Ino, out.Mode, out.Nlink = in.NodeId, unix.S_IFREG|0o644, 1
	if in.NodeId == 1 {
		out.Mode = unix.S_IFDIR | 0o755
	}
	return gofuse.OK
}

func (failing) StatFs(<-chan struct{}, *gofuse.InHeader, *gofuse.StatfsOut) gofuse.Status {
	return gofuse.OK
}

func (f failing) SetAttr(_ <-chan struct{}, in *gofuse.SetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	return f.GetAttr(nil, &gofuse.GetAttrIn{InHeader: in.InHeader}, out)
}

func (failing) Open(<-chan struct{}, *gofuse.OpenIn, *gofuse.OpenOut) gofuse.Status { return gofuse.OK }

func (failing) Flush(<-chan struct{}, *gofuse.FlushIn) gofuse.Status {
	return gofuse.Status(unix.EDQUOT)
}

func TestH120FlushError(t *testing.T) {
	dir := t.TempDir()
	server, err := gofuse.NewServer(failing{gofuse.NewDefaultRawFileSystem()}, dir, &gofuse.MountOptions{DirectMountStrict: true})
	if err != nil {
		unable(t, "needs /dev/fuse and the right to mount: "+err.Error())
	}
	go server.Serve()
	defer func() { must(t, server.Unmount()) }()
	must(t, server.WaitMount())
	g := newGuest(t, func(o *Options) fuse.InitFlags { o.SharedDir = dir; return 0 })
	defer g.fs.Close() // what it has open keeps the file system busy
	node := g.find("f").Node
	h := g.open(node, unix.O_RDWR)
	want(t, "Flush", g.fs.Flush(g.c, node, h), unix.EDQUOT)
	want(t, "Flush of a handle that has not written", g.fs.Flush(g.c, node, g.open(node, unix.O_RDONLY)), 0)
	must(t, g.release(node, h))
}
