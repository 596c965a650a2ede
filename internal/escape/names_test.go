package escape

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// nameAttempts are about names, ids and handles: what a guest may put into a request.
func nameAttempts() []attempt {
	var list []attempt
	for _, n := range []struct{ label, name string }{
		{"dot dot", ".."},
		{"dot", "."},
		{"empty", ""},
		{"slash", "/"},
		{"slash inside", "d/f"},
		{"up and down", "../outside/secret"},
		{"up below a directory", "d/../../outside/secret"},
		{"absolute", "/etc/passwd"},
		{"dot slash", "./f"},
		{"slash at the end", "d/"},
		{"dot dot slash", "../"},
		{"NUL inside", "..\x00f"},
		{"256 bytes", strings.Repeat("n", 256)},
		{"4095 bytes", strings.Repeat("n", 4095)},
		{"4096 bytes", strings.Repeat("n", 4096)},
		{"ups of 4 KiB", strings.Repeat("../", 1365)},
		{"64 KiB", strings.Repeat("n", 65000)},
	} {
		list = append(list, attempt{"name: " + n.label, func(g *guest) { g.badName(n.name) }})
	}
	return append(list, []attempt{
		{"dots in disguise are ordinary names", disguised},
		{"dot dot at every depth", dotsAtEveryDepth},
		{"dot dot many times at the root", func(g *guest) {
			node := fuse.NodeID(root)
			for range 20 {
				if e, err := g.Lookup(node, ".."); err == nil {
					node = e.Node
				}
			}
			g.abuse(node)
			if node != root {
				g.Errorf("above the root is node %d; want the root", node)
			}
		}},
		{"name without an end", func(g *guest) {
			for _, op := range []fuse.Opcode{fuse.OpLookup, fuse.OpUnlink, fuse.OpRmDir, fuse.OpMkDir} {
				body := []byte("../outside/dir")
				if op == fuse.OpMkDir {
					body = append(make([]byte, 8), body...)
				}
				_, err := g.Call(op, root, 128, body)
				g.refused(op.String(), err, unix.EINVAL)
			}
		}},
		{"forged node ids", func(g *guest) {
			for _, node := range []fuse.NodeID{0, 2, 3, 255, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 | 1, 1<<33 | 1, 1 << 63, ^fuse.NodeID(0)} {
				_, err := g.GetAttr(node, 0)
				g.refused(fmt.Sprintf("GetAttr(%#x)", uint64(node)), err, unix.EBADF, unix.ENOSYS)
				g.abuse(node)
			}
		}},
		{"forgotten node", func(g *guest) {
			node := g.find("d")
			g.w.must(g.Forget(node, 1))
			_, err := g.GetAttr(node, 0)
			g.refused("GetAttr of a forgotten node", err, unix.EBADF)
			g.abuse(node)
		}},
		{"node of the mount before", func(g *guest) {
			node := g.find("d")
			_, err := g.Init(g.Flags)
			g.w.must(err)
			_, err = g.GetAttr(node, 0)
			g.refused("GetAttr of an old node", err, unix.EBADF)
			g.abuse(node)
		}},
		{"handle of the mount before", func(g *guest) {
			node := g.find("f")
			o, err := g.Open(node, unix.O_RDWR)
			g.w.must(err)
			_, err = g.Init(g.Flags)
			g.w.must(err)
			_, err = g.Read(g.find("f"), o.Handle, 0, 10)
			g.refused("Read by an old handle", err, unix.EBADF)
			g.abuseHandle(g.find("f"), o.Handle)
		}},
		{"forged handles", func(g *guest) {
			node := g.find("f")
			for h := range fuse.Handle(40) {
				for _, h := range []fuse.Handle{h, h << 32, h<<32 | 1, ^h} {
					_, err := g.Read(node, h, 0, 64)
					g.refused(fmt.Sprintf("Read by handle %#x", uint64(h)), err, unix.EBADF)
					g.abuseHandle(node, h)
					_, _ = g.ReadDir(root, h, 0, 512)
				}
			}
		}},
		{"handle of another node", func(g *guest) {
			f, d := g.find("f"), g.find("d", "f")
			o, err := g.Open(f, unix.O_RDWR)
			g.w.must(err)
			_, err = g.Read(d, o.Handle, 0, 10)
			g.refused("Read", err, unix.EBADF)
			g.abuseHandle(d, o.Handle)
			_, err = g.CopyFileRange(fuse.FileRange{Node: f, Handle: o.Handle}, fuse.FileRange{Node: d, Handle: o.Handle}, 10)
			g.refused("CopyFileRange", err, unix.EBADF)
		}},
		{"released handle, its number used again", func(g *guest) {
			f := g.find("f")
			o, err := g.Open(f, unix.O_RDWR)
			g.w.must(err)
			g.w.must(g.Release(f, o.Handle))
			for range 8 {
				_, err := g.Open(f, unix.O_RDONLY)
				g.w.must(err)
			}
			_, err = g.Read(f, o.Handle, 0, 10)
			g.refused("Read", err, unix.EBADF)
		}},
		{"link and copy from nodes that are not known", func(g *guest) {
			for _, node := range []fuse.NodeID{0, 999, 1<<40 | 2} {
				_, err := g.Link(node, root, "linked")
				g.refused("Link", err, unix.EBADF, unix.EINVAL)
				_, err = g.CopyFileRange32(fuse.FileRange{Node: node, Handle: 3}, fuse.FileRange{Node: g.find("f"), Handle: 4}, 4096)
				g.refused("CopyFileRange32", err, unix.EBADF)
			}
		}},
		{"file as a directory", func(g *guest) {
			f := g.find("f")
			for _, name := range []string{"secret", "x", "..", "."} {
				if _, err := g.Lookup(f, name); err == nil && name != "." {
					g.Errorf("Lookup(%q) below a file succeeded", name)
				}
			}
			g.abuseBelow(f)
			g.list(f)
		}},
		{"attribute names like paths", func(g *guest) {
			f := g.find("f")
			for _, name := range []string{"../outside/secret", "user.../../outside/secret", "/proc/self/environ", "", "user./", strings.Repeat("x", 4096)} {
				_, _ = g.GetXattr(f, name, 4096)
				_ = g.SetXattr(f, name, []byte("x"), 0)
				_ = g.RemoveXattr(f, name)
			}
		}},
	}...)
}

// badName uses a name in every operation that takes one. None may succeed.
func (g *guest) badName(name string) {
	f := g.find("f")
	for _, dir := range []fuse.NodeID{root, g.find("d"), g.find("d", "sub")} {
		if len(name) > 0 && strings.Trim(name, ".") == "" || strings.HasPrefix(name, "..\x00") {
			if e, err := g.Lookup(dir, name); err == nil && (!g.b.export || g.w.ownerOf(e.Attr.Ino) != "") {
				g.Errorf("Lookup(%q) = node %d; want it refused", name, e.Node)
			}
		} else {
			_, err := g.Lookup(dir, name)
			g.refused("Lookup", err)
		}
		_, err := g.MkDir(dir, name, 0o777)
		g.refused("MkDir", err)
		_, err = g.MkNod(dir, name, unix.S_IFREG|0o666, 0)
		g.refused("MkNod", err)
		_, err = g.Symlink(dir, name, "f")
		g.refused("Symlink", err)
		_, err = g.Create(dir, name, unix.O_RDWR|unix.O_TRUNC, 0o666)
		g.refused("Create", err)
		_, err = g.Link(f, dir, name)
		g.refused("Link", err)
		g.refused("Unlink", g.Unlink(dir, name))
		g.refused("RmDir", g.RmDir(dir, name))
		for _, flags := range []uint32{0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE} {
			g.refused("Rename from", g.Rename2(dir, name, root, "renamed", flags))
			g.refused("Rename to", g.Rename2(root, "f", dir, name, flags))
			g.refused("Rename both", g.Rename2(dir, name, root, name, flags))
		}
		g.refused("Rename", g.Rename(root, "f", dir, name))
	}
	for _, path := range []string{"d", "f", "d/f", "d/sub"} {
		var st syscall.Stat_t
		if err := syscall.Lstat(g.w.share(path), &st); err != nil {
			g.Errorf("%s after all: %v", path, err)
		}
	}
}

// disguised uses names that look like a way up to anything but the kernel.
func disguised(g *guest) {
	for _, name := range []string{"..\xff", "\xc0\xae\xc0\xae", "...", ".. ", "..\n", "..\\outside", "%2e%2e", "\u2024\u2024", "~"} {
		c, err := g.Create(root, name, unix.O_RDWR|unix.O_EXCL, 0o644)
		if err != nil {
			g.Errorf("Create(%q) = %v; want a file of that name", name, err)
			continue
		}
		if e, err := g.Lookup(root, name); err != nil || e.Node != c.Entry.Node {
			g.Errorf("Lookup(%q) = node %d, %v; want node %d", name, e.Node, err, c.Entry.Node)
		}
		var st unix.Stat_t
		if err := unix.Lstat(g.w.share()+"/"+name, &st); err != nil {
			g.Errorf("%q in the share: %v", name, err)
		}
	}
}

// dotsAtEveryDepth climbs from 1 to 40 directories deep. With EXPORT_SUPPORT the way ends
// at the root.
func dotsAtEveryDepth(g *guest) {
	node := fuse.NodeID(root)
	way := []fuse.NodeID{root}
	for range 40 {
		e, err := g.MkDir(node, "deep", 0o777)
		g.w.must(err)
		node = e.Node
		way = append(way, node)
	}
	for depth, node := range way {
		up, err := g.Lookup(node, "..")
		if !g.b.export {
			g.refused("Lookup(..)", err, unix.EINVAL)
			continue
		}
		if want := way[max(depth-1, 0)]; err != nil || up.Node != want {
			g.Errorf("Lookup(..) at depth %d = node %d, %v; want %d", depth, up.Node, err, want)
		}
		for range depth + 2 {
			if e, err := g.Lookup(node, ".."); err == nil {
				node = e.Node
			}
		}
		if node != root {
			g.Errorf("climbing from depth %d ends at node %d; want the root", depth, node)
		}
	}
}
