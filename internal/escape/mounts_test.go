package escape

import (
	"os"

	"golang.org/x/sys/unix"
)

// mountAttempts are about mounts below the share that come, go and move.
func mountAttempts() []attempt {
	return []attempt{
		{"bind mount: climb from its root", func(g *guest) {
			g.mount(g.source(), "d", "", unix.MS_BIND)
			d := g.find("d")
			g.climb(g.find("d", "below"))
			if e, err := g.Lookup(d, ".."); err == nil && e.Node != root {
				g.Errorf("Lookup(..) of a mount's root = node %d; want the root", e.Node)
			}
			g.list(d)
			g.abuse(d)
		}},
		{"bind mount moved out of the share", func(g *guest) {
			g.mount(g.source(), "d", "", unix.MS_BIND)
			d, below := g.find("d"), g.find("d", "below")
			g.w.must(os.Mkdir(g.w.outside("landing/moved"), 0o777))
			g.w.loose = []string{"landing/moved"}
			// A mount below a shared one can't be moved; so it gets another place.
			g.w.host(func() error {
				return unix.Mount(g.w.share("d"), g.w.outside("landing/moved"), "", unix.MS_BIND, "")
			})
			g.Cleanup(func() { g.w.must(unix.Unmount(g.w.outside("landing/moved"), unix.MNT_DETACH)) })
			g.w.must(unix.Unmount(g.w.share("d"), unix.MNT_DETACH))
			g.climb(d)
			g.climb(below)
			g.abuse(d)
			g.abuse(below)
		}},
		{"mounted over a directory in use", func(g *guest) {
			d, sub := g.find("d"), g.find("d", "sub")
			g.mount("tmpfs", "d", "tmpfs", 0)
			g.numbers = false
			g.climb(sub)
			g.abuse(d)
			g.abuse(sub)
			g.abuse(g.find("d"))
		}},
		{"unmounted under its nodes", func(g *guest) {
			g.mount("tmpfs", "d", "tmpfs", 0)
			g.numbers = false
			d := g.find("d")
			e, err := g.MkDir(d, "below", 0o777)
			g.w.must(err)
			g.w.must(unix.Unmount(g.w.share("d"), unix.MNT_DETACH))
			g.numbers = true
			if up, err := g.Lookup(d, ".."); err == nil && up.Node != d && up.Node != root {
				g.Errorf("Lookup(..) of a root that is not mounted = node %d; want it refused", up.Node)
			}
			g.numbers = false
			g.abuse(e.Node)
			g.abuse(d)
		}},
		{"rename and link across a mount", func(g *guest) {
			g.mount("tmpfs", "d", "tmpfs", 0)
			g.numbers = false
			d := g.find("d")
			g.refused("Rename", g.Rename(root, "f", d, "f"), unix.EXDEV)
			_, err := g.Link(g.find("f"), d, "f")
			g.refused("Link", err, unix.EXDEV)
			g.refused("RmDir of a mount point", g.RmDir(root, "d"), unix.EBUSY)
			g.abuse(d)
		}},
	}
}

// source makes a directory to mount, which is outside of the share and outside of what
// the oracle looks at; nothing but its parent's number is secret.
func (g *guest) source() string {
	g.Helper()
	path := g.w.base + "/source"
	g.w.must(os.MkdirAll(path+"/dir/below", 0o777))
	g.w.must(os.Chown(path+"/dir", g.w.uid, g.w.uid))
	var st unix.Stat_t
	g.w.must(unix.Stat(path, &st))
	g.w.mu.Lock()
	g.w.inos[st.Ino] = path
	g.w.mu.Unlock()
	return path + "/dir"
}

// mount mounts something in the share until the attempt ends.
func (g *guest) mount(source, name, fstype string, flags uintptr) {
	g.Helper()
	if err := unix.Mount(source, g.w.share(name), fstype, flags, ""); err != nil {
		g.Fatalf("mount %s %s: %v", fstype, source, err)
	}
	if fstype == "tmpfs" {
		g.w.must(os.Chown(g.w.share(name), g.w.uid, g.w.uid))
	}
	g.Cleanup(func() {
		err := unix.Unmount(g.w.share(name), unix.MNT_DETACH)
		if err != nil && err != unix.EINVAL && err != unix.ENOENT {
			g.Errorf("unmount %s: %v", name, err)
		}
	})
}
