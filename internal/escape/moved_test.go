package escape

import (
	"errors"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// asErrno is errors.As for an errno.
func asErrno(err error, e *syscall.Errno) bool { return errors.As(err, e) }

// movedAttempts are about what the host moves out of the share while the guest knows it
// (docs/security.md): that stays the guest's, and nothing around it becomes so.
func movedAttempts() []attempt {
	return []attempt{
		{"moved out: climb from the directory", func(g *guest) {
			d := g.find("d")
			g.w.moveOut("d")
			g.climb(d)
			g.abuse(d)
		}},
		{"moved out: climb from below", func(g *guest) {
			sub := g.find("d", "sub")
			g.w.moveOut("d")
			g.climb(sub)
			g.abuse(sub)
		}},
		{"moved out: list", func(g *guest) {
			d := g.find("d")
			o, err := g.OpenDir(d)
			g.w.must(err)
			_, err = g.ReadDirPlus(d, o.Handle, 0, 256)
			g.w.must(err)
			g.w.moveOut("d")
			for range 3 {
				_, _ = g.ReadDirPlus(d, o.Handle, 0, 4096)
				_, _ = g.ReadDir(d, o.Handle, 0, 4096)
			}
			if names := g.list(d); slices.Contains(names, "secret") {
				g.Errorf("names in the directory = %q; want its own", names)
			}
		}},
		{"moved out: a name does not lead back in", func(g *guest) {
			d := g.find("d")
			g.w.moveOut("d")
			_, err := g.Lookup(root, "d")
			g.refused("Lookup of what was moved out", err, unix.ENOENT)
			_, err = g.Lookup(d, "secret")
			g.refused("Lookup of a neighbour", err, unix.ENOENT)
		}},
		{"moved out: rename to and fro", func(g *guest) {
			d := g.find("d")
			g.w.moveOut("d")
			_ = g.Rename(root, "f", d, "in")
			_ = g.Rename(d, "in", root, "f")
			_ = g.Rename(d, "sub", root, "sub")
			_ = g.Rename(root, "sub", d, "sub")
			for _, name := range []string{"..", "../secret", "../" + canary} {
				g.refused("Rename", g.Rename(d, name, root, "stolen"))
				g.refused("Rename", g.Rename(root, "f", d, name))
				g.refused("Exchange", g.Rename2(root, "f", d, name, unix.RENAME_EXCHANGE))
			}
		}},
		{"moved out: link to and fro", func(g *guest) {
			d := g.find("d")
			g.w.moveOut("d")
			_, _ = g.Link(g.find("f"), d, "linked")
			if e, err := g.Lookup(d, "f"); err == nil {
				_, _ = g.Link(e.Node, root, "linked")
			}
			_, err := g.Link(g.find("f"), d, "../linked")
			g.refused("Link", err)
			_, err = g.Lookup(d, "../secret")
			g.refused("Lookup", err)
		}},
		{"moved out: a file that is open", func(g *guest) {
			f := g.find("f")
			o, err := g.Open(f, unix.O_RDWR)
			g.w.must(err)
			g.w.moveOut("f")
			g.abuseHandle(f, o.Handle)
			g.abuseContent(f)
			g.abuseAttr(f)
		}},
		{"moved out, and something else in its place", func(g *guest) {
			f := g.find("f")
			g.w.moveOut("f")
			g.w.host(func() error { return os.Rename(g.w.outside("landing/moved"), g.w.outside("landing/kept")) })
			g.w.loose = []string{"landing/kept"}
			g.w.host(func() error { return os.Symlink(g.w.outside("secret"), g.w.outside("landing/moved")) })
			g.abuseContent(f)
			g.abuseXattr(f)
		}},
		{"moved out: temporary files and copies", func(g *guest) {
			d := g.find("d")
			g.w.moveOut("d")
			c, err := g.TmpFile(d, unix.O_RDWR, 0o600)
			if err != nil {
				g.refused("TmpFile", err)
				return
			}
			for _, name := range []string{"..", "../made", "/made"} {
				_, err = g.Link(c.Entry.Node, d, name)
				g.refused("Link", err)
			}
			g.abuseHandle(c.Entry.Node, c.Open.Handle)
		}},
		{"moved out and a symlink in its place", func(g *guest) {
			d := g.find("d")
			g.w.moveOut("d")
			g.w.link(g.w.outside("dir"), "d")
			g.abuse(d)
			g.throughLink(root, "d")
		}},
		{"root of the share renamed", func(g *guest) {
			d := g.find("d")
			g.w.must(os.Rename(g.w.share(), g.w.base+"/renamed"))
			g.climb(root)
			g.climb(d)
			g.abuse(root)
			g.w.must(os.Rename(g.w.base+"/renamed", g.w.share()))
		}},
		{"root of the share renamed, a symlink in its place", func(g *guest) {
			g.w.must(os.Rename(g.w.share(), g.w.base+"/renamed"))
			g.w.must(os.Symlink("outside/dir", g.w.share()))
			_, err := g.Lookup(root, "secret")
			g.refused("Lookup of what is at the old path", err, unix.ENOENT)
			g.abuse(root)
			_, _ = g.Create(root, "made", unix.O_RDWR, 0o644)
			g.w.must(os.Remove(g.w.share()))
			g.w.must(os.Rename(g.w.base+"/renamed", g.w.share()))
		}},
		{"root of the share moved below the outside", func(g *guest) {
			d := g.find("d")
			g.w.loose = []string{"landing/moved"}
			g.w.host(func() error { return os.Rename(g.w.share(), g.w.outside("landing/moved")) })
			g.climb(root)
			g.climb(d)
			g.abuse(root)
			g.w.host(func() error { return os.Rename(g.w.outside("landing/moved"), g.w.share()) })
		}},
		{"mounted again after its root was renamed", func(g *guest) {
			g.w.must(os.Rename(g.w.share(), g.w.base+"/renamed"))
			g.w.must(os.Symlink("outside/dir", g.w.share()))
			g.w.must(g.again())
			_, err := g.Lookup(root, "secret")
			g.refused("Lookup of what is at the old path", err, unix.ENOENT)
			g.w.must(os.Remove(g.w.share()))
			g.w.must(os.Rename(g.w.base+"/renamed", g.w.share()))
		}},
		{"deleted and made again", func(g *guest) {
			d, f := g.find("d"), g.find("f")
			g.w.must(os.RemoveAll(g.w.share("d")))
			g.w.must(os.Remove(g.w.share("f")))
			g.w.dir("d")
			g.w.link(g.w.outside("secret"), "f")
			_, err := g.Create(d, "made", unix.O_RDWR, 0o644)
			g.refused("Create in a directory that is gone", err, unix.ENOENT, unix.ESTALE)
			g.abuse(d)
			g.abuseContent(f)
		}},
	}
}

// climb goes up from a directory, and must not get out.
func (g *guest) climb(node fuse.NodeID) {
	g.Helper()
	for range 30 {
		e, err := g.Lookup(node, "..")
		if err != nil {
			// ENOENT is the kernel's word for a directory that its mount does not show.
			g.refused("Lookup(..)", err, unix.EINVAL, unix.ESTALE, unix.ENOENT)
			return
		}
		if !g.b.export {
			g.Errorf("Lookup(..) = node %d without EXPORT_SUPPORT; want it refused", e.Node)
		}
		g.list(e.Node)
		for _, name := range []string{"secret", canary, "outside", "share"} {
			_, err := g.Lookup(e.Node, name)
			g.refused("Lookup above", err)
		}
		if e.Node == node { // the root
			return
		}
		node = e.Node
	}
}
