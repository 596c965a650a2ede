package passthrough

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

func export(o *Options) fuse.InitFlags {
	o.Export = true
	return fuse.ExportSupport
}

// H065: "." and ".." for a guest that exports the share.
func TestH065Dots(t *testing.T) {
	g := newGuest(t, export)
	g.mkdir("a", 0o755)
	g.mkdir("a/b", 0o755)
	g.file("a/f", "", 0o644)
	a, b, f := g.find("a"), g.find("a/b"), g.find("a/f")
	for _, x := range []struct {
		name string
		node fuse.NodeID
		dot  string
		want fuse.NodeID
	}{
		{"root", fuse.RootID, ".", fuse.RootID},
		{"parent of the root", fuse.RootID, "..", fuse.RootID},
		{"directory", b.Node, ".", b.Node},
		{"parent", b.Node, "..", a.Node},
		{"parent below the root", a.Node, "..", fuse.RootID},
		{"file", f.Node, ".", f.Node},
	} {
		e, err := g.lookup(x.node, x.dot)
		must(t, err)
		same(t, x.name, e.Node, x.want)
		st, _ := g.getattr(e.Node, 0)
		same(t, "attributes of "+x.name, e.Attr, st)
	}
	_, err := g.lookup(f.Node, "..")
	want(t, "parent of a file", err, unix.ENOTDIR)

	// Each of them counts.
	g.forget(f.Node, 1)
	g.attr(f.Node)
	g.forget(f.Node, 1)
	_, err = g.getattr(f.Node, 0)
	want(t, "forgotten twice", err, unix.EBADF)
	_, err = g.lookup(f.Node, ".")
	want(t, "what is forgotten", err, unix.ESTALE)
}

// A directory that the host moves out of the share has no parent for the guest.
func TestDotsDoNotEscape(t *testing.T) {
	g := newGuest(t, export)
	g.mkdir("d", 0o755)
	g.mkdir("d/sub", 0o755)
	d, sub := g.find("d"), g.find("d/sub")
	outside := t.TempDir()
	must(t, os.Rename(g.path("d"), filepath.Join(outside, "d")))
	for name, node := range map[string]fuse.NodeID{"directory": d.Node, "child": sub.Node} {
		_, err := g.lookup(node, "..")
		want(t, "parent of a "+name+" outside", err, unix.ESTALE)
	}
	before := fds(t)
	for range 100 {
		_, _ = g.lookup(sub.Node, "..")
	}
	same(t, "descriptors", fds(t), before)

	// And so has one that lies too deep.
	deep := strings.Repeat("d/", maxClimb+2)
	must(t, os.MkdirAll(g.path(deep), 0o755))
	_, err := g.lookup(g.find(strings.TrimSuffix(deep, "/")).Node, "..")
	want(t, "parent of a deep directory", err, unix.ESTALE)
}

// With cache=always the guest opens no directories.
func TestNoOpendir(t *testing.T) {
	g := newGuest(t, func(o *Options) fuse.InitFlags {
		o.Cache = CacheAlways
		return fuse.NoOpendirSupport
	})
	offer, _ := g.fs.Offer()
	same(t, "offer", offer&fuse.NoOpendirSupport, fuse.NoOpendirSupport)
	for _, name := range []string{"a", "b", "c"} {
		g.file(name, "", 0o644)
	}
	var o fuse.Opened
	want(t, "OpenDir", g.fs.OpenDir(g.c, fuse.RootID, 0, &o), unix.ENOSYS)
	before := fds(t)
	for _, size := range []int{32, 4096} {
		same(t, "entries", len(names(g.readAll(fuse.RootID, 0, size, false))), 3)
	}
	must(t, g.fs.FsyncDir(g.c, fuse.RootID, 0, false))
	same(t, "descriptors", fds(t), before)
	_, err := g.readdir(fuse.RootID, 99, 0, 4096, false)
	want(t, "unknown handle", err, unix.EBADF)
	_, err = g.readdir(g.find("a").Node, 0, 0, 4096, false)
	want(t, "file", err, unix.ENOTDIR)
}

func TestOfferOptions(t *testing.T) {
	const acl = fuse.PosixACL | fuse.DontMask | fuse.SetxattrExt
	for _, x := range []struct {
		name       string
		edit       func(o *Options)
		want, need fuse.InitFlags
	}{
		{"nothing", func(*Options) {}, 0, 0},
		{"ACLs if possible", func(o *Options) { o.PosixACL = IfOffered }, acl, 0},
		{"ACLs", func(o *Options) { o.PosixACL = Required }, 0, acl},
		{"labels if possible", func(o *Options) { o.SecurityLabel = IfOffered }, fuse.SecurityCtx, 0},
		{"labels", func(o *Options) { o.SecurityLabel = Required }, 0, fuse.SecurityCtx},
		{"killpriv", func(o *Options) { o.KillprivV2 = true }, fuse.HandleKillprivV2, 0},
		{"mmap", func(o *Options) { o.AllowMmap = true }, fuse.DirectIOAllowMmap, 0},
		{"export", func(o *Options) { o.Export = true }, fuse.ExportSupport, 0},
		{"locks", func(o *Options) { o.PosixLocks, o.Flock = true, true }, fuse.PosixLocks | fuse.FlockLocks, 0},
	} {
		fs := &FS{opt: Options{NoReaddirplus: true}}
		x.edit(&fs.opt)
		offer, need := fs.Offer()
		same(t, x.name+": wanted", offer&^fuse.HasIoctlDir, x.want)
		same(t, x.name+": needed", need, x.need)
	}
}
