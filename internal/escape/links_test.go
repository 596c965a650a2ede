package escape

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// linkAttempts are about symbolic links that lead out. A link is an object of its own
// to the server, and never a way.
func linkAttempts() []attempt {
	var list []attempt
	for _, l := range []struct{ label, target string }{
		{"absolute, to a file", "OUT/secret"},
		{"absolute, to a directory", "OUT/dir"},
		{"relative, to a file", "../outside/secret"},
		{"relative, to a directory", "../outside/dir"},
		{"to the parent", ".."},
		{"to the root of the host", "/"},
		{"to a name that does not exist", "OUT/dir/made"},
		{"to a link", "OUT/dir/link"},
		{"to a FIFO", "OUT/pipe"},
		{"to /proc/self/root", "/proc/self/root/OUT/secret"},
		{"to /proc/self/cwd", "/proc/self/cwd/../outside/secret"},
		{"to /proc/self/fd", "/proc/self/fd/3"},
		{"through many ups", strings.Repeat("../", 60) + "OUT/secret"},
		{"with 4095 bytes of dots", strings.Repeat("./", 1900) + "../outside/secret"},
		{"to itself", "link"},
	} {
		list = append(list, attempt{"symlink of the host: " + l.label, func(g *guest) {
			g.w.link(strings.ReplaceAll(l.target, "OUT", g.w.outside()), "link")
			g.throughLink(root, "link")
		}})
		list = append(list, attempt{"symlink of the guest: " + l.label, func(g *guest) {
			_, err := g.Symlink(g.find("d"), "link", strings.ReplaceAll(l.target, "OUT", g.w.outside()))
			g.w.must(err)
			g.throughLink(g.find("d"), "link")
		}})
	}
	return append(list, []attempt{
		{"chain of symlinks", func(g *guest) {
			g.w.link(g.w.outside("dir"), "l0")
			for i := range 10 {
				g.w.link("l"+strconv.Itoa(i), "l"+strconv.Itoa(i+1))
			}
			g.throughLink(root, "l10")
		}},
		{"directory replaced by a symlink after it was found", func(g *guest) {
			d := g.find("d")
			g.w.host(func() error { return unix.Rename(g.w.share("d"), g.w.share("old")) })
			g.w.link(g.w.outside("dir"), "d")
			c, err := g.Create(d, "in-old", unix.O_RDWR, 0o644)
			g.w.must(err)
			g.abuse(d)
			g.abuse(c.Entry.Node)
			g.throughLink(root, "d")
		}},
		{"file replaced by a symlink after it was found", func(g *guest) {
			f := g.find("f")
			g.w.host(func() error { return unix.Rename(g.w.share("f"), g.w.share("old")) })
			g.w.link(g.w.outside("secret"), "f")
			g.abuseContent(f)
			g.abuseAttr(f)
			g.abuseXattr(f)
			_, err := g.Create(root, "f", unix.O_RDWR|unix.O_TRUNC, 0o644)
			g.refused("Create over a symlink", err, unix.ELOOP)
			g.throughLink(root, "f")
		}},
		{"hard link of a symlink", func(g *guest) {
			g.w.link("../outside/secret", "link")
			e, err := g.Link(g.find("link"), root, "hard")
			if err == nil && e.Attr.Mode&unix.S_IFMT != unix.S_IFLNK {
				g.Errorf("the link's mode is %o; want a symlink", e.Attr.Mode)
			}
			g.throughLink(root, "hard")
		}},
		{"rename and exchange of symlinks", func(g *guest) {
			g.w.link(g.w.outside("dir"), "link")
			g.w.must(g.Rename2(root, "link", root, "d", unix.RENAME_EXCHANGE))
			g.throughLink(root, "d")
			g.w.must(g.Rename(root, "d", root, "f"))
			g.throughLink(root, "f")
		}},
		{"symlink that becomes a directory under its node", func(g *guest) {
			g.w.link(g.w.outside("dir"), "link")
			l := g.find("link")
			g.w.host(func() error { return unix.Unlink(g.w.share("link")) })
			g.w.dir("link")
			g.abuse(l)
		}},
	}...)
}

// throughLink tries everything with a symlink, which must be seen as one.
func (g *guest) throughLink(dir fuse.NodeID, name string) {
	g.Helper()
	e, err := g.Lookup(dir, name)
	if err != nil || e.Attr.Mode&unix.S_IFMT != unix.S_IFLNK {
		g.Fatalf("Lookup(%q) = mode %o, %v; want a symlink", name, e.Attr.Mode, err)
	}
	for _, flags := range []uint32{unix.O_RDONLY, unix.O_RDWR | unix.O_TRUNC, unix.O_DIRECTORY} {
		_, err = g.Open(e.Node, flags)
		g.refused("Open of a symlink", err, unix.ELOOP, unix.EBADF)
	}
	_, err = g.OpenDir(e.Node)
	g.refused("OpenDir of a symlink", err, unix.ENOTDIR)
	_, err = g.Lookup(e.Node, "secret")
	g.refused("Lookup below a symlink", err, unix.ENOTDIR)
	_, err = g.SetAttr(e.Node, fuse.SetAttrIn{Valid: fuse.SetAttrMode, Mode: 0o777})
	g.refused("SetAttr(mode) of a symlink", err, unix.EOPNOTSUPP)
	_, err = g.SetAttr(e.Node, fuse.SetAttrIn{Valid: fuse.SetAttrSize})
	g.refused("SetAttr(size) of a symlink", err)
	_, err = g.GetXattr(e.Node, "user.secret", 4096)
	g.refused("GetXattr of a symlink", err)
	g.refused("SetXattr of a symlink", g.SetXattr(e.Node, "user.secret", []byte("x"), 0))
	_, err = g.Create(dir, name, unix.O_RDWR, 0o666)
	g.refused("Create over a symlink", err, unix.ELOOP)
	_, err = g.Create(dir, name, unix.O_RDWR|unix.O_EXCL, 0o666)
	g.refused("Create over a symlink", err, unix.EEXIST)
	_, err = g.MkDir(e.Node, "newdir", 0o777)
	g.refused("MkDir below a symlink", err, unix.ENOTDIR)
	_, err = g.TmpFile(e.Node, unix.O_RDWR, 0o600)
	g.refused("TmpFile below a symlink", err, unix.ENOTDIR)
	g.refused("RmDir of a symlink", g.RmDir(dir, name), unix.ENOTDIR)
	g.refused("Rename into a symlink", g.Rename(root, "f", e.Node, "moved"), unix.ENOTDIR)
	g.abuse(e.Node)
}

// magicAttempts are about links of procfs, which lead to objects and not to names. The
// share has a procfs in it, of the server's process.
func magicAttempts() []attempt {
	list := []attempt{{"procfs: files stay closed in a jail H245", func(g *guest) {
		self := g.proc()
		e, err := g.Lookup(self, "environ")
		if err != nil {
			return // hidden from this user
		}
		_, err = g.Open(e.Node, unix.O_RDONLY)
		if g.b.jailed {
			g.refused("Open of environ", err, unix.EACCES)
		}
		_, err = g.Create(self, "environ", unix.O_RDONLY, 0o600)
		if g.b.jailed {
			g.refused("Create over environ", err)
		}
	}}}
	for _, name := range []string{"root", "cwd", "exe"} {
		list = append(list, attempt{"procfs: magic link " + name, func(g *guest) {
			g.magic(g.proc(), name)
		}})
	}
	return append(list, attempt{"procfs: magic links fd", func(g *guest) {
		if e, err := g.Lookup(g.proc(), "fd"); err == nil {
			for n := range 40 {
				g.magic(e.Node, strconv.Itoa(n))
			}
		}
	}}, attempt{"procfs: magic links ns", func(g *guest) {
		if e, err := g.Lookup(g.proc(), "ns"); err == nil {
			for _, name := range []string{"mnt", "pid", "user"} {
				g.magic(e.Node, name)
			}
		}
	}}, attempt{"procfs: magic links map_files", func(g *guest) {
		if e, err := g.Lookup(g.proc(), "map_files"); err == nil {
			for _, name := range g.list(e.Node) {
				if strings.Contains(name, "-") {
					g.magic(e.Node, name)
				}
			}
		}
	}}, attempt{"procfs: symlink self", func(g *guest) {
		g.proc()
		g.magic(g.find("d"), "self")
	}})
}

// proc mounts a procfs at d and returns the directory of a process that the server may
// look at: its own if it is known there.
func (g *guest) proc() fuse.NodeID {
	g.Helper()
	if privileged() {
		g.mount("proc", "d", "proc", 0)
	} else { // a procfs of one's own takes a PID namespace of one's own
		g.mount("/proc", "d", "", unix.MS_BIND|unix.MS_REC)
	}
	g.numbers = false // procfs has numbers of its own
	for _, pid := range []int{g.b.pid, 1} {
		if e, err := g.Lookup(g.find("d"), fmt.Sprint(pid)); err == nil {
			return e.Node
		}
	}
	g.Fatal("the procfs in the share has no process")
	return 0
}

func (g *guest) magic(dir fuse.NodeID, name string) {
	g.Helper()
	if e, err := g.Lookup(dir, name); err == nil {
		g.throughMagic(dir, name, e)
	}
}

// throughMagic is throughLink without what would be an order to procfs.
func (g *guest) throughMagic(dir fuse.NodeID, name string, e fuse.EntryOut) {
	g.Helper()
	if e.Attr.Mode&unix.S_IFMT != unix.S_IFLNK {
		g.Fatalf("Lookup(%q) = mode %o; want a symlink", name, e.Attr.Mode)
	}
	for _, flags := range []uint32{unix.O_RDONLY, unix.O_RDWR | unix.O_TRUNC, unix.O_DIRECTORY} {
		_, err := g.Open(e.Node, flags)
		g.refused("Open of a magic link", err, unix.ELOOP, unix.EBADF)
	}
	_, err := g.Lookup(e.Node, "secret")
	g.refused("Lookup below a magic link", err, unix.ENOTDIR)
	_, err = g.Create(dir, name, unix.O_RDWR, 0o666)
	g.refused("Create over a magic link", err)
	_, err = g.Link(e.Node, root, "stolen")
	g.refused("Link of a magic link", err)
	g.refused("Rename of a magic link", g.Rename(dir, name, root, "stolen"))
	_, err = g.SetAttr(e.Node, fuse.SetAttrIn{Valid: fuse.SetAttrSize})
	g.refused("SetAttr(size) of a magic link", err)
	g.list(e.Node)
	g.abuseXattr(e.Node)
	_, _ = g.MkDir(e.Node, "newdir", 0o777)
}
