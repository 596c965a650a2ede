package passthrough

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/virtio/guestmem"
)

// A guest calls a file system the way a ring's thread does. It belongs to the
// goroutine that made it.
type guest struct {
	testing.TB
	fs  *FS
	dir string // the shared directory
	c   *fuse.Context
}

// newGuest serves a new directory. edit may change the options and returns the flags
// of INIT.
func newGuest(t testing.TB, edit ...func(*Options) fuse.InitFlags) *guest {
	t.Helper()
	opt := Options{SharedDir: t.TempDir(), XAttr: true, AnnounceSubmounts: true}
	flags := fuse.Submounts
	for _, f := range edit {
		flags |= f(&opt)
	}
	must(t, os.Chmod(opt.SharedDir, 0o755))
	fs, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close() })
	fs.spares.period = time.Hour // spares go when the test says so
	fs.nodes.old = 3600          // nothing is old, unless the test says so
	fs.Init(flags)
	g := &guest{TB: t, fs: fs, dir: opt.SharedDir}
	return g.thread(t)
}

// thread returns a guest of the same file system for the calling goroutine. The thread
// under it ends with the goroutine.
func (g *guest) thread(t testing.TB) *guest {
	t.Helper()
	runtime.LockOSThread()
	l, err := g.fs.AttachThread()
	if err != nil {
		t.Fatal(err)
	}
	h := *g
	h.TB = t
	h.c = &fuse.Context{MayBlock: true, Local: l}
	return &h
}

// as makes later requests come from another user.
func (g *guest) as(uid, gid uint32, groups ...uint32) *guest {
	h := *g
	c := *g.c
	c.Caller = fuse.Caller{UID: uid, GID: gid, Groups: groups}
	h.c = &c
	return &h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// want checks an errno; 0 is success.
func want(t testing.TB, what string, err error, e syscall.Errno) {
	t.Helper()
	if e == 0 && err != nil || e != 0 && !errors.Is(err, e) {
		t.Fatalf("%s = %v; want %v", what, err, e)
	}
}

// same checks a value.
func same[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s = %v; want %v", what, got, want)
	}
}

// needRoot ends a test that needs privileges.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		unable(t, "needs root")
	}
}

// unable skips a test that cannot run here, or fails it where all must run.
func unable(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// path is a host path below the shared directory.
func (g *guest) path(name string) string { return filepath.Join(g.dir, name) }

// file makes a file on the host.
func (g *guest) file(name, data string, mode os.FileMode) {
	g.Helper()
	must(g, os.WriteFile(g.path(name), []byte(data), 0o600))
	must(g, os.Chmod(g.path(name), mode))
}

// mkdir makes a directory on the host.
func (g *guest) mkdir(name string, mode os.FileMode) {
	g.Helper()
	must(g, os.Mkdir(g.path(name), 0o700))
	must(g, os.Chmod(g.path(name), mode))
}

// host returns what the host says about a name.
func (g *guest) host(name string) *unix.Stat_t {
	g.Helper()
	var st unix.Stat_t
	must(g, unix.Lstat(g.path(name), &st))
	return &st
}

// content returns what the host has in a file.
func (g *guest) content(name string) string {
	g.Helper()
	b, err := os.ReadFile(g.path(name))
	must(g, err)
	return string(b)
}

func (g *guest) lookup(parent fuse.NodeID, name string) (fuse.Entry, error) {
	var e fuse.Entry
	err := g.fs.Lookup(g.c, parent, []byte(name), &e)
	return e, err
}

// find looks up a path from the root.
func (g *guest) find(path string) fuse.Entry {
	g.Helper()
	e := fuse.Entry{Node: fuse.RootID}
	for name := range strings.SplitSeq(path, "/") {
		var err error
		if e, err = g.lookup(e.Node, name); err != nil {
			g.Fatalf("Lookup(%q of %q) = %v; want success", name, path, err)
		}
	}
	return e
}

func (g *guest) forget(node fuse.NodeID, n uint64) { g.fs.Forget(g.c, node, n) }

func (g *guest) getattr(node fuse.NodeID, h fuse.Handle) (fuse.Attr, error) {
	var a fuse.Attr
	_, err := g.fs.GetAttr(g.c, node, h, &a)
	return a, err
}

func (g *guest) attr(node fuse.NodeID) fuse.Attr {
	g.Helper()
	a, err := g.getattr(node, 0)
	must(g, err)
	return a
}

// use makes a request that needs the node's descriptor.
func (g *guest) use(node fuse.NodeID) error { return g.fs.Access(g.c, node, 0) }

func (g *guest) setattr(node fuse.NodeID, in fuse.SetAttr) (fuse.Attr, error) {
	var a fuse.Attr
	_, err := g.fs.SetAttr(g.c, node, &in, &a)
	return a, err
}

func (g *guest) mkdirat(parent fuse.NodeID, name string, mode uint32) (fuse.Entry, error) {
	var e fuse.Entry
	err := g.fs.MkDir(g.c, parent, []byte(name), &fuse.Create{Mode: mode}, &e)
	return e, err
}

func (g *guest) mknod(name string, mode, rdev uint32) (fuse.Entry, error) {
	var e fuse.Entry
	err := g.fs.MkNod(g.c, fuse.RootID, []byte(name), &fuse.Create{Mode: mode, Rdev: rdev}, &e)
	return e, err
}

func (g *guest) symlink(name, target string) (fuse.Entry, error) {
	var e fuse.Entry
	err := g.fs.Symlink(g.c, fuse.RootID, []byte(name), []byte(target), new(fuse.Create), &e)
	return e, err
}

func (g *guest) link(node fuse.NodeID, name string) (fuse.Entry, error) {
	var e fuse.Entry
	err := g.fs.Link(g.c, node, fuse.RootID, []byte(name), &e)
	return e, err
}

func (g *guest) rename(from, to string, flags uint32) error {
	return g.fs.Rename(g.c, fuse.RootID, []byte(from), fuse.RootID, []byte(to), flags)
}

func (g *guest) create(name string, in fuse.Create) (fuse.Entry, fuse.Opened, error) {
	var e fuse.Entry
	var o fuse.Opened
	err := g.fs.Create(g.c, fuse.RootID, []byte(name), &in, &e, &o)
	return e, o, err
}

// made is create that must succeed, with mode 0644.
func (g *guest) made(name string, flags uint32) (fuse.NodeID, fuse.Handle) {
	g.Helper()
	e, o, err := g.create(name, fuse.Create{Mode: unix.S_IFREG | 0o644, Flags: flags})
	must(g, err)
	return e.Node, o.Handle
}

func (g *guest) openErr(node fuse.NodeID, flags uint32) (fuse.Opened, error) {
	var o fuse.Opened
	err := g.fs.Open(g.c, node, flags, false, &o)
	return o, err
}

func (g *guest) open(node fuse.NodeID, flags uint32) fuse.Handle {
	g.Helper()
	o, err := g.openErr(node, flags)
	must(g, err)
	return o.Handle
}

func (g *guest) opendir(node fuse.NodeID) fuse.Handle {
	g.Helper()
	var o fuse.Opened
	must(g, g.fs.OpenDir(g.c, node, 0, &o))
	return o.Handle
}

func (g *guest) release(node fuse.NodeID, h fuse.Handle) error {
	return g.fs.Release(g.c, node, h)
}

// vec makes memory of several pieces out of b.
func vec(b []byte) guestmem.Vec {
	var v guestmem.Vec
	half := make([]byte, len(b)/2) // elsewhere, so that the pieces do not merge
	copy(half, b)
	v.Append(half)
	v.Append(b[len(b)/2:])
	return v
}

func (g *guest) readErr(node fuse.NodeID, h fuse.Handle, off uint64, n int) (string, error) {
	v := vec(make([]byte, n))
	n, err := g.fs.Read(g.c, node, h, v, off)
	b := make([]byte, n)
	v.CopyOut(b, 0)
	return string(b), err
}

func (g *guest) read(node fuse.NodeID, h fuse.Handle, off uint64, n int) string {
	g.Helper()
	s, err := g.readErr(node, h, off, n)
	must(g, err)
	return s
}

func (g *guest) writeErr(node fuse.NodeID, h fuse.Handle, off uint64, data string, args fuse.WriteArgs) (int, error) {
	return g.fs.Write(g.c, node, h, vec([]byte(data)), off, &args)
}

func (g *guest) write(node fuse.NodeID, h fuse.Handle, off uint64, data string) {
	g.Helper()
	n, err := g.writeErr(node, h, off, data, fuse.WriteArgs{})
	must(g, err)
	same(g, "bytes written", n, len(data))
}

// A dirent is one entry of a READDIR or READDIRPLUS reply.
type dirent struct {
	node     fuse.NodeID // READDIRPLUS only
	mode     uint32      // READDIRPLUS only
	attrIno  uint64      // READDIRPLUS only
	ino, off uint64
	typ      uint32
	name     string
}

// readdir decodes one reply (fs-device.md D.3).
func (g *guest) readdir(node fuse.NodeID, h fuse.Handle, off uint64, size int, plus bool) ([]dirent, error) {
	var d fuse.DirBuffer
	d.Reset(size)
	if err := g.fs.ReadDir(g.c, node, h, off, plus, &d); err != nil {
		return nil, err
	}
	var list []dirent
	le := binary.LittleEndian
	for b := d.Bytes(); len(b) > 0; {
		var x dirent
		if plus {
			x.node, x.attrIno, x.mode = fuse.NodeID(le.Uint64(b)), le.Uint64(b[40:]), le.Uint32(b[40+60:])
			b = b[128:]
		}
		n := int(le.Uint32(b[16:]))
		x.ino, x.off, x.typ, x.name = le.Uint64(b), le.Uint64(b[8:]), le.Uint32(b[20:]), string(b[24:24+n])
		list = append(list, x)
		b = b[min(len(b), (24+n+7)&^7):]
	}
	return list, nil
}

// readAll reads a whole directory, size bytes at a time.
func (g *guest) readAll(node fuse.NodeID, h fuse.Handle, size int, plus bool) []dirent {
	g.Helper()
	var all []dirent
	off := uint64(0)
	for {
		list, err := g.readdir(node, h, off, size, plus)
		must(g, err)
		if len(list) == 0 {
			return all
		}
		all = append(all, list...)
		off = list[len(list)-1].off
	}
}

// names returns the names of entries, without "." and "..".
func names(list []dirent) map[string]dirent {
	m := make(map[string]dirent)
	for _, x := range list {
		if x.name != "." && x.name != ".." {
			m[x.name] = x
		}
	}
	return m
}

// fds returns the number of descriptors of the process.
func fds(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}
