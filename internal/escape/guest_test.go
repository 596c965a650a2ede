package escape

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
)

const root = fuse.RootID

// A guest sends requests to a server, and reads every reply with suspicion.
type guest struct {
	testing.TB
	*fusetest.Client
	w *world
	b *backend

	requests int
	numbers  bool // whether inode numbers are looked at: not where other file systems are
	leaks    []string
}

// newGuest returns a guest that has just mounted the share.
func newGuest(t testing.TB, w *world, b *backend) *guest {
	t.Helper()
	g := &guest{TB: t, w: w, b: b, numbers: true}
	g.Client = fusetest.NewClient(func(in []byte, size int) ([]byte, error) {
		out, err := b.transport(in, size)
		g.requests++
		g.inspect(in, out)
		return out, err
	})
	g.Caller.UID, g.Caller.GID = uint32(w.uid), uint32(w.uid)
	if _, err := g.Init(fusetest.AllFlags &^ fuse.WritebackCache &^ fuse.NoOpendirSupport); err != nil {
		t.Fatalf("Init() = %v; want success", err)
	}
	return g
}

// inspect looks for what a reply must not hold.
func (g *guest) inspect(in, out []byte) {
	if len(in) < 40 || len(out) < 16 {
		return
	}
	op := fuse.Opcode(binary.LittleEndian.Uint32(in[4:]))
	if bytes.Contains(out, []byte(canary)) {
		g.leak("%v: the reply holds canary bytes: %q", op, out[16:min(len(out), 200)])
	}
	if !g.numbers {
		return
	}
	for _, ino := range inodes(op, out[16:]) {
		if path := g.w.ownerOf(ino); path != "" {
			g.leak("%v: the reply holds the inode number %d, which is that of %s", op, ino, path)
		}
	}
}

func (g *guest) leak(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(g.leaks, text) {
		g.leaks = append(g.leaks, text)
	}
}

// inodes returns the inode numbers of the host in a reply's payload.
func inodes(op fuse.Opcode, b []byte) (list []uint64) {
	switch op {
	case fuse.OpLookup, fuse.OpSymlink, fuse.OpMkNod, fuse.OpMkDir, fuse.OpLink, fuse.OpCreate, fuse.OpTmpFile:
		var e fuse.EntryOut
		if _, err := fusetest.Unpack(b, &e); err == nil {
			list = append(list, e.Attr.Ino)
		}
	case fuse.OpGetAttr, fuse.OpSetAttr:
		var a fuse.AttrOut
		if _, err := fusetest.Unpack(b, &a); err == nil {
			list = append(list, a.Attr.Ino)
		}
	case fuse.OpStatx:
		var a fuse.StatxOut
		if _, err := fusetest.Unpack(b, &a); err == nil {
			list = append(list, a.Statx.Ino)
		}
	case fuse.OpReadDir, fuse.OpReadDirPlus:
		entries, _ := fusetest.ParseDir(b, op == fuse.OpReadDirPlus)
		for _, e := range entries {
			list = append(list, e.Ino, e.Entry.Attr.Ino)
		}
	}
	return list
}

// find looks up a path from the root, which has to succeed.
func (g *guest) find(names ...string) fuse.NodeID {
	g.Helper()
	node := fuse.NodeID(root)
	for _, name := range names {
		e, err := g.Lookup(node, name)
		if err != nil {
			g.Fatalf("Lookup(%q) = %v; want success", name, err)
		}
		node = e.Node
	}
	return node
}

// refused fails unless err is one of the errnos, or any of them if none is given.
func (g *guest) refused(what string, err error, want ...syscall.Errno) {
	g.Helper()
	var e syscall.Errno
	if !errors.As(err, &e) {
		g.Errorf("%s = %v; want it refused (%v)", what, err, want)
		return
	}
	if len(want) > 0 && !slices.Contains(want, e) {
		g.Errorf("%s = %v; want one of %v", what, err, want)
	}
}

// abuse does everything to a node that might lead out. Nothing of it has to succeed.
func (g *guest) abuse(node fuse.NodeID) {
	_, _ = g.GetAttr(node, 0)
	_, _ = g.Statx(node, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME)
	_, _ = g.ReadLink(node, 4096)
	_, _ = g.StatFS(node)
	g.abuseContent(node)
	g.abuseXattr(node)
	for _, name := range []string{"secret", "dir", "sub", "link", "pipe", canary, ".", "..", "f"} {
		if e, err := g.Lookup(node, name); err == nil {
			g.abuseContent(e.Node)
			g.list(e.Node)
		}
	}
	g.list(node)
	g.abuseBelow(node)
	g.abuseAttr(node)
}

// abuseContent opens a node in every way, and reads and writes.
func (g *guest) abuseContent(node fuse.NodeID) {
	for _, flags := range []uint32{unix.O_RDONLY, unix.O_RDWR, unix.O_WRONLY | unix.O_TRUNC, unix.O_RDONLY | unix.O_DIRECTORY, unix.O_PATH, unix.O_RDONLY | unix.O_NOFOLLOW, unix.O_RDWR | unix.O_CREAT} {
		if o, err := g.Open(node, flags); err == nil {
			g.abuseHandle(node, o.Handle)
			_ = g.Release(node, o.Handle)
		}
	}
}

func (g *guest) abuseHandle(node fuse.NodeID, h fuse.Handle) {
	_, _ = g.Read(node, h, 0, 4096)
	_, _ = g.Write(node, h, 0, []byte("written by the guest"))
	_, _ = g.GetAttr(node, h)
	_, _ = g.ReadDirPlus(node, h, 0, 4096)
	_ = g.Fallocate(node, h, 0, 4096, 0)
	_, _ = g.SetAttr(node, fuse.SetAttrIn{Valid: fuse.SetAttrSize | fuse.SetAttrHandle, Handle: h})
}

func (g *guest) abuseXattr(node fuse.NodeID) {
	_, _ = g.ListXattr(node, 4096)
	for _, name := range []string{"user.secret", "trusted.secret", "security.secret"} {
		_, _ = g.GetXattr(node, name, 4096)
		_ = g.SetXattr(node, name, []byte("set by the guest"), 0)
		_ = g.RemoveXattr(node, name)
	}
}

func (g *guest) abuseAttr(node fuse.NodeID) {
	for _, in := range []fuse.SetAttrIn{
		{Valid: fuse.SetAttrMode, Mode: 0o6777},
		{Valid: fuse.SetAttrUID | fuse.SetAttrGID, UID: 12345, GID: 12345},
		{Valid: fuse.SetAttrSize},
		{Valid: fuse.SetAttrAtime | fuse.SetAttrMtime, Atime: 1, Mtime: 1},
	} {
		_, _ = g.SetAttr(node, in)
	}
}

// abuseBelow makes, moves and removes names below a node.
func (g *guest) abuseBelow(node fuse.NodeID) {
	if c, err := g.Create(node, "new", unix.O_RDWR, 0o666); err == nil {
		g.abuseHandle(c.Entry.Node, c.Open.Handle)
		_ = g.Release(c.Entry.Node, c.Open.Handle)
	}
	if c, err := g.Create(node, "secret", unix.O_RDWR|unix.O_TRUNC, 0o666); err == nil {
		g.abuseHandle(c.Entry.Node, c.Open.Handle)
		_ = g.Release(c.Entry.Node, c.Open.Handle)
	}
	_, _ = g.MkDir(node, "newdir", 0o777)
	_, _ = g.MkNod(node, "newpipe", unix.S_IFIFO|0o666, 0)
	_, _ = g.Symlink(node, "newlink", "secret")
	f, err := g.Lookup(root, "f")
	if err == nil {
		_, _ = g.Link(f.Node, node, "hard")
	}
	_ = g.Rename(root, "f", node, "moved-in")
	_ = g.Rename(node, "moved-in", root, "f")
	_ = g.Rename(node, "secret", root, "stolen")
	_ = g.Rename2(node, "dir", root, "d", unix.RENAME_EXCHANGE)
	_ = g.Rename2(node, "dir", root, "d", unix.RENAME_EXCHANGE)
	for _, name := range []string{"secret", "new", "newpipe", "newlink", "hard", canary} {
		_ = g.Unlink(node, name)
	}
	_ = g.RmDir(node, "newdir")
	_ = g.RmDir(node, "empty")
	if c, err := g.TmpFile(node, unix.O_RDWR, 0o600); err == nil {
		g.abuseHandle(c.Entry.Node, c.Open.Handle)
		_, _ = g.Link(c.Entry.Node, node, "linked")
		_ = g.Unlink(node, "linked")
		_ = g.Release(c.Entry.Node, c.Open.Handle)
	}
}

// list reads a directory in both ways.
func (g *guest) list(node fuse.NodeID) (names []string) {
	o, err := g.OpenDir(node)
	if err != nil {
		return nil
	}
	entries, _ := g.ReadDir(node, o.Handle, 0, 8192)
	for _, e := range entries {
		names = append(names, e.Name)
	}
	_, _ = g.ReadDirPlus(node, o.Handle, 0, 8192)
	_ = g.ReleaseDir(node, o.Handle)
	return names
}

// A race is bounded by both, but has some rounds on the slowest machine. Each runs in
// ten places, so that it has most of a second altogether.
const (
	raceRounds  = 2000
	leastRounds = 30
	raceTime    = 80 * time.Millisecond
)

// longer is the variable that sets another time, as VFIOFS_ESCAPE_RACE=500ms does.
const longer = "VFIOFS_ESCAPE_RACE"

// race has an attacker on the host go round while the guest does something. The
// attacker ends a round with what it began with.
func (g *guest) race(attack func() error, do func(round int)) {
	g.Helper()
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			if err := attack(); err != nil {
				ended <- err
				return
			}
		}
	}()
	limit := raceTime
	if text := os.Getenv(longer); text != "" {
		var err error
		if limit, err = time.ParseDuration(text); err != nil {
			g.Fatalf("%s: %v", longer, err)
		}
	}
	round := 0
	for end := time.Now().Add(limit); round < raceRounds && (round < leastRounds || time.Now().Before(end)); round++ {
		do(round)
	}
	close(stop)
	if err := <-ended; err != nil {
		g.Errorf("the attacker: %v", err)
	}
}
