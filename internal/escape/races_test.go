package escape

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// raceAttempts have an attacker on the host change the share all the time, while the
// guest looks up and uses what is there.
func raceAttempts() []attempt {
	list := []attempt{
		{"race: file and symlink, open", func(g *guest) {
			g.race(g.swap("f", g.w.outside("secret")), func(int) {
				if e, err := g.Lookup(root, "f"); err == nil {
					g.abuseContent(e.Node)
				}
			})
		}},
		{"race: file and symlink, create", func(g *guest) {
			g.race(g.swap("f", g.w.outside("secret")), func(int) {
				if c, err := g.Create(root, "f", unix.O_RDWR|unix.O_TRUNC, 0o666); err == nil {
					g.abuseHandle(c.Entry.Node, c.Open.Handle)
					_ = g.Release(c.Entry.Node, c.Open.Handle)
				}
			})
		}},
		{"race: file and symlink, attributes", func(g *guest) {
			g.race(g.swap("f", g.w.outside("secret")), func(int) {
				if e, err := g.Lookup(root, "f"); err == nil {
					g.abuseAttr(e.Node)
					g.abuseXattr(e.Node)
					_, _ = g.SetAttr(e.Node, fuse.SetAttrIn{Valid: fuse.SetAttrMode, Mode: 0o666})
				}
			})
		}},
		{"race: file and symlink to a name that is not there", func(g *guest) {
			g.race(g.swap("f", g.w.outside("dir/made")), func(int) {
				if c, err := g.Create(root, "f", unix.O_RDWR, 0o666); err == nil {
					_ = g.Release(c.Entry.Node, c.Open.Handle)
				}
				_, _ = g.MkDir(root, "f", 0o777)
			})
		}},
		{"race: file and FIFO", func(g *guest) {
			g.w.must(unix.Mkfifo(g.w.share("pipe"), 0o666))
			g.race(func() error { return g.exchange("f", "pipe") }, func(int) {
				if e, err := g.Lookup(root, "f"); err == nil {
					g.abuseContent(e.Node)
				}
				if c, err := g.Create(root, "f", unix.O_RDWR, 0o666); err == nil {
					_ = g.Release(c.Entry.Node, c.Open.Handle)
				}
			})
		}},
		{"race: directory in the middle of a path", func(g *guest) {
			g.w.dir("d/sub/dir")
			g.race(g.swap("d/sub", g.w.outside()), func(int) {
				node := fuse.NodeID(root)
				for _, name := range []string{"d", "sub", "dir", "secret"} {
					e, err := g.Lookup(node, name)
					if err != nil {
						break
					}
					node = e.Node
					_, _ = g.Create(node, "made", unix.O_RDWR, 0o644)
				}
				g.abuseContent(node)
			})
		}},
		{"race: directory removed and a symlink made", func(g *guest) {
			path := g.w.share("swap")
			g.race(func() error {
				err := os.Symlink(g.w.outside("dir"), path)
				if err == nil {
					err = os.Remove(path)
				}
				if err == nil {
					err = os.Mkdir(path, 0o777)
				}
				if err == nil {
					err = os.Chown(path, g.w.uid, g.w.uid)
				}
				for err == nil {
					if err = os.RemoveAll(path); !errors.Is(err, unix.ENOTEMPTY) {
						break
					}
					err = nil // the guest was faster
				}
				return err
			}, func(int) {
				if e, err := g.Lookup(root, "swap"); err == nil {
					g.abuseBelow(e.Node)
					g.list(e.Node)
				}
			})
		}},
		{"race: directory moved out and back", func(g *guest) {
			g.w.loose = []string{"landing/moved"}
			g.w.snapshot()
			g.race(func() error {
				err := os.Rename(g.w.share("d"), g.w.outside("landing/moved"))
				if err == nil {
					err = os.Rename(g.w.outside("landing/moved"), g.w.share("d"))
				}
				return err
			}, func(int) {
				if e, err := g.Lookup(root, "d"); err == nil {
					_, _ = g.Lookup(e.Node, "secret")
					if up, err := g.Lookup(e.Node, ".."); err == nil {
						g.list(up.Node)
						_, _ = g.Lookup(up.Node, "secret")
						if up, err := g.Lookup(up.Node, ".."); err == nil {
							_, _ = g.Lookup(up.Node, "secret")
						}
					}
					g.list(e.Node)
					if c, err := g.Create(e.Node, "new", unix.O_RDWR, 0o644); err == nil {
						_ = g.Release(c.Entry.Node, c.Open.Handle)
					}
					_ = g.Unlink(e.Node, "new")
					_ = g.Forget(e.Node, 1)
				}
			})
		}},
		{"race: child of a directory moved out and back", func(g *guest) {
			g.w.loose = []string{"landing/moved"}
			g.w.snapshot()
			sub := g.find("d", "sub")
			g.race(func() error {
				err := os.Rename(g.w.share("d"), g.w.outside("landing/moved"))
				if err == nil {
					err = os.Rename(g.w.outside("landing/moved"), g.w.share("d"))
				}
				return err
			}, func(int) {
				node := sub
				for range 4 {
					up, err := g.Lookup(node, "..")
					if err != nil {
						break
					}
					node = up.Node
					_, _ = g.Lookup(node, "secret")
					g.list(node)
				}
			})
		}},
		{"race: root of the share renamed", func(g *guest) {
			g.race(func() error {
				err := os.Rename(g.w.share(), g.w.base+"/renamed")
				if err == nil {
					err = os.Symlink("outside/dir", g.w.share())
				}
				if err == nil {
					err = os.Remove(g.w.share())
				}
				if err == nil {
					err = os.Rename(g.w.base+"/renamed", g.w.share())
				}
				return err
			}, func(int) {
				_, _ = g.Lookup(root, "secret")
				_, _ = g.Lookup(root, "..")
				_, _ = g.Create(root, "secret", unix.O_RDWR|unix.O_TRUNC, 0o644)
				_ = g.Unlink(root, "secret")
				g.list(root)
			})
		}},
		{"race: mounted over and unmounted", func(g *guest) {
			g.numbers = false
			sub := g.find("d", "sub")
			g.race(func() error {
				err := unix.Mount(g.w.outside("empty"), g.w.share("d"), "", unix.MS_BIND|unix.MS_RDONLY, "")
				if err == nil {
					err = unix.Unmount(g.w.share("d"), unix.MNT_DETACH)
				}
				return err
			}, func(int) {
				if e, err := g.Lookup(root, "d"); err == nil {
					_, _ = g.Lookup(e.Node, "../secret")
					up, err := g.Lookup(e.Node, "..")
					if err == nil {
						_, _ = g.Lookup(up.Node, "secret")
					}
				}
				if up, err := g.Lookup(sub, ".."); err == nil {
					_, _ = g.Lookup(up.Node, "..")
				}
			})
		}},
		{"race: many descriptors, names that change", func(g *guest) {
			for i := range 60 {
				g.w.dir(fmt.Sprint("d/sub/", i))
				g.w.file(fmt.Sprint("d/sub/", i, "/secret"), "inside")
			}
			var dirs []fuse.NodeID
			for i := range 60 {
				dirs = append(dirs, g.find("d", "sub", fmt.Sprint(i)))
			}
			g.race(g.swap("d/sub", g.w.outside("dir")), func(round int) {
				dir := dirs[round%len(dirs)]
				_, _ = g.GetAttr(dir, 0)
				if e, err := g.Lookup(dir, "secret"); err == nil {
					g.abuseContent(e.Node)
					_ = g.Forget(e.Node, 1)
				}
				g.list(dir)
			})
		}},
	}
	for _, u := range []struct {
		label string
		use   func(g *guest, dir fuse.NodeID)
	}{
		{"create and write", func(g *guest, dir fuse.NodeID) {
			if c, err := g.Create(dir, "new", unix.O_RDWR|unix.O_TRUNC, 0o644); err == nil {
				g.abuseHandle(c.Entry.Node, c.Open.Handle)
				_ = g.Release(c.Entry.Node, c.Open.Handle)
			}
			if c, err := g.Create(dir, "secret", unix.O_RDWR|unix.O_TRUNC, 0o644); err == nil {
				_ = g.Release(c.Entry.Node, c.Open.Handle)
			}
		}},
		{"open and truncate", func(g *guest, dir fuse.NodeID) {
			for _, name := range []string{"secret", "f", canary} {
				if e, err := g.Lookup(dir, name); err == nil {
					g.abuseContent(e.Node)
					_, _ = g.SetAttr(e.Node, fuse.SetAttrIn{Valid: fuse.SetAttrSize})
				}
			}
		}},
		{"remove", func(g *guest, dir fuse.NodeID) {
			_ = g.Unlink(dir, "secret")
			_ = g.Unlink(dir, canary)
			_ = g.RmDir(dir, "sub")
		}},
		{"make directories, nodes and links", func(g *guest, dir fuse.NodeID) {
			_, _ = g.MkDir(dir, "newdir", 0o777)
			_, _ = g.MkNod(dir, "newpipe", unix.S_IFIFO|0o666, 0)
			_, _ = g.Symlink(dir, "newlink", "secret")
			if e, err := g.Lookup(root, "f"); err == nil {
				_, _ = g.Link(e.Node, dir, "hard")
			}
			_ = g.RmDir(dir, "newdir")
			_ = g.Unlink(dir, "newpipe")
			_ = g.Unlink(dir, "newlink")
			_ = g.Unlink(dir, "hard")
		}},
		{"rename", func(g *guest, dir fuse.NodeID) {
			_ = g.Rename(root, "f", dir, "moved")
			_ = g.Rename(dir, "moved", root, "f")
			_ = g.Rename(dir, "secret", root, "stolen")
			_ = g.Rename2(dir, "secret", root, "f", unix.RENAME_EXCHANGE)
		}},
		{"attributes", func(g *guest, dir fuse.NodeID) {
			g.abuseAttr(dir)
			g.abuseXattr(dir)
		}},
		{"list", func(g *guest, dir fuse.NodeID) {
			g.list(dir)
			g.list(root)
		}},
		{"temporary files", func(g *guest, dir fuse.NodeID) {
			if c, err := g.TmpFile(dir, unix.O_RDWR, 0o600); err == nil {
				_, _ = g.Link(c.Entry.Node, dir, "linked")
				_ = g.Release(c.Entry.Node, c.Open.Handle)
			}
			_ = g.Unlink(dir, "linked")
		}},
	} {
		list = append(list, attempt{"race: directory and symlink, " + u.label, func(g *guest) {
			g.race(g.swap("d", g.w.outside("dir")), func(int) {
				if e, err := g.Lookup(root, "d"); err == nil {
					u.use(g, e.Node)
					_ = g.Forget(e.Node, 1)
				}
			})
		}})
	}
	return list
}

// swap returns an attacker who exchanges a name with a symlink to target, and back.
func (g *guest) swap(name, target string) func() error {
	g.Helper()
	g.w.link(target, "evil")
	return func() error { return g.exchange(name, "evil") }
}

func (g *guest) exchange(a, b string) error {
	for range 2 {
		if err := unix.Renameat2(unix.AT_FDCWD, g.w.share(a), unix.AT_FDCWD, g.w.share(b), unix.RENAME_EXCHANGE); err != nil {
			return fmt.Errorf("exchange %s and %s: %w", a, b, err)
		}
	}
	return nil
}
