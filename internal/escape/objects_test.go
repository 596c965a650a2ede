package escape

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
)

// objectAttempts are about what lies in the share and is not a file: devices, FIFOs,
// files without a name, ids.
func objectAttempts() []attempt {
	list := []attempt{
		{"FIFO of the host", func(g *guest) {
			g.w.must(unix.Mkfifo(g.w.share("special"), 0o666))
			g.special(g.find("special"))
		}},
		{"FIFO of the guest", func(g *guest) {
			e, err := g.MkNod(root, "special", unix.S_IFIFO|0o666, 0)
			g.w.must(err)
			g.special(e.Node)
		}},
		{"socket of the host", func(g *guest) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: g.w.share("special")})
			g.w.must(err)
			defer l.Close()
			g.special(g.find("special"))
		}},
		{"socket of the guest", func(g *guest) {
			e, err := g.MkNod(root, "special", unix.S_IFSOCK|0o666, 0)
			g.w.must(err)
			g.special(e.Node)
		}},
	}
	for _, d := range []struct {
		label        string
		typ          uint32
		major, minor uint32
	}{
		{"null", unix.S_IFCHR, 1, 3},
		{"memory", unix.S_IFCHR, 1, 1},
		{"kmsg", unix.S_IFCHR, 1, 11},
		{"terminal", unix.S_IFCHR, 5, 0},
		{"the root's disk", unix.S_IFBLK, 0, 0},
		{"loop", unix.S_IFBLK, 7, 0},
		{"fuse", unix.S_IFCHR, 10, 229},
	} {
		list = append(list, attempt{"device: " + d.label, func(g *guest) {
			dev := unix.Mkdev(d.major, d.minor)
			if d.major == 0 {
				var st unix.Stat_t
				g.w.must(unix.Stat(g.w.outside(), &st))
				dev = st.Dev
			}
			rdev := unix.Minor(dev)&0xff | unix.Major(dev)<<8 | unix.Minor(dev)&^0xff<<12
			e, err := g.MkNod(root, "special", d.typ|0o666, rdev)
			if err != nil { // no privilege for that: then it is the host who makes it, if it may
				g.refused("MkNod", err, unix.EPERM)
				if unix.Mknod(g.w.share("special"), d.typ|0o666, int(dev)) != nil {
					return
				}
				e.Node = g.find("special")
			}
			g.special(e.Node)
		}})
	}
	return append(list, []attempt{
		{"file replaced by a FIFO", func(g *guest) {
			g.w.file("special", "inside")
			f := g.find("special")
			g.w.must(os.Remove(g.w.share("special")))
			g.w.must(unix.Mkfifo(g.w.share("special"), 0o666))
			g.abuseContent(f)
			g.special(g.find("special"))
		}},
		{"temporary file linked", func(g *guest) {
			c, err := g.TmpFile(g.find("d"), unix.O_RDWR, 0o666)
			g.w.must(err)
			for _, name := range []string{"../outside/made", "..", "/"} {
				_, err := g.Link(c.Entry.Node, root, name)
				g.refused("Link", err)
			}
			g.w.link("../outside/dir", "link")
			_, err = g.Link(c.Entry.Node, g.find("link"), "made")
			g.refused("Link below a symlink", err, unix.ENOTDIR)
			_, err = g.Link(c.Entry.Node, root, "made")
			g.w.must(err)
		}},
		{"temporary file for nobody else", func(g *guest) {
			c, err := g.TmpFile(root, unix.O_RDWR|unix.O_EXCL, 0o666)
			g.w.must(err)
			_, err = g.Link(c.Entry.Node, root, "made")
			g.refused("Link", err, unix.ENOENT)
			_, err = g.Open(c.Entry.Node, unix.O_RDWR)
			g.w.must(err)
		}},
		{"set-group-ID directory, by a stranger", func(g *guest) {
			g.w.must(os.Chmod(g.w.share("d"), 0o777|os.ModeSetgid))
			g.as(7777, func() {
				c, err := g.Create(g.find("d"), "made", unix.O_RDWR, 0o2777)
				if err == nil && c.Entry.Attr.GID != uint32(g.w.uid) {
					g.Errorf("group of a file in a set-group-ID directory = %d; want %d", c.Entry.Attr.GID, g.w.uid)
				}
			})
		}},
		{"set-user-ID file given to root", func(g *guest) {
			g.as(uint32(nobody), func() {
				c, err := g.Create(root, "made", unix.O_RDWR, 0o777)
				if err != nil {
					return
				}
				_, err = g.SetAttr(c.Entry.Node, fuse.SetAttrIn{Valid: fuse.SetAttrUID, UID: 0})
				if g.w.uid != 0 { // who serves as a user can't make files of others
					g.refused("SetAttr(uid 0)", err, unix.EPERM, unix.EINVAL)
				}
				_, _ = g.SetAttr(c.Entry.Node, fuse.SetAttrIn{Valid: fuse.SetAttrMode, Mode: 0o6777})
				var st unix.Stat_t
				g.w.must(unix.Lstat(g.w.share("made"), &st))
				if g.w.uid != 0 && st.Uid == 0 {
					g.Errorf("a user's server made a file of root's, mode %o", st.Mode)
				}
			})
		}},
		{"set-user-ID goes with chown", func(g *guest) {
			c, err := g.Create(root, "made", unix.O_RDWR, 0o777)
			g.w.must(err)
			_, err = g.SetAttr(c.Entry.Node, fuse.SetAttrIn{Valid: fuse.SetAttrMode, Mode: 0o4777})
			g.w.must(err)
			if _, err = g.SetAttr(c.Entry.Node, fuse.SetAttrIn{Valid: fuse.SetAttrUID, UID: nobody}); err != nil {
				return
			}
			var st unix.Stat_t
			g.w.must(unix.Lstat(g.w.share("made"), &st))
			if g.w.uid == 0 && st.Mode&unix.S_ISUID != 0 {
				g.Errorf("mode after chown = %o; want no set-user-ID bit", st.Mode)
			}
		}},
		{"caller without an id", func(g *guest) {
			g.as(fuse.NoID, func() {
				_, err := g.Create(root, "made", unix.O_RDWR, 0o644)
				g.refused("Create", err, unix.EINVAL)
				_, err = g.MkDir(root, "made", 0o755)
				g.refused("MkDir", err, unix.EINVAL)
				_, err = g.Symlink(root, "made", "x")
				g.refused("Symlink", err, unix.EINVAL)
			})
			if _, err := os.Lstat(g.w.share("made")); err == nil {
				g.Error("something was made for a caller without an id")
			}
		}},
		{"caller whose ids stick", func(g *guest) {
			for _, id := range []uint32{4711, fuse.NoID, 4711} {
				g.as(id, func() {
					_, _ = g.MkDir(root, fmt.Sprint("by", id), 0o777)
					_, _ = g.MkDir(root, "..", 0o777)
				})
				c, err := g.Create(root, fmt.Sprint("after", id), unix.O_RDWR, 0o600)
				if id == 4711 && err != nil {
					return // the second time it exists
				}
				if err == nil && c.Entry.Attr.UID != uint32(g.w.uid) && g.w.uid != 0 {
					g.Errorf("owner after a request of user %d = %d; want %d", id, c.Entry.Attr.UID, g.w.uid)
				}
			}
		}},
		{"ioctl of commands that name descriptors", func(g *guest) {
			f := g.find("f")
			o, err := g.Open(f, unix.O_RDWR)
			g.w.must(err)
			for _, cmd := range []uint32{
				0x40049409, 0x4020940d, // FICLONE, FICLONERANGE
				0xc0189436,             // FIDEDUPERANGE
				0xc028660f,             // EXT4_IOC_MOVE_EXT
				0xc020660b,             // FIEMAP
				0x5412, 0x541b, 0x1272, // TIOCSTI, FIONREAD, BLKGETSIZE64
				0xc0045877, 0x5877, // FIFREEZE
				0xc0506617, 0x800c6613, // encryption keys and policy
				0x5000940f, 0x50009401, // btrfs: snapshot, subvolume
				0x8004667e, 0x5421, 0x5451, // FIONBIO, FIOCLEX
			} {
				for n := range 8 {
					arg := make([]byte, 128)
					binary.LittleEndian.PutUint32(arg, uint32(n))
					_, err := g.Ioctl(f, o.Handle, cmd, arg, 128)
					g.refused(fmt.Sprintf("Ioctl(%#x)", cmd), err, unix.ENOTTY, unix.ENOSYS)
				}
			}
		}},
		{"ioctl with pointers", func(g *guest) {
			f := g.find("f")
			o, err := g.Open(f, unix.O_RDONLY)
			g.w.must(err)
			arg := bytes.Repeat([]byte{0xff, 0xff, 0, 0, 0xc0, 0, 0, 0}, 16) // addresses, in whatever place
			for _, cmd := range []uint32{0x40806685, 0xc0046686, 0xc0096616, 0x401c5820, 0x40086602} {
				_, _ = g.Ioctl(f, o.Handle, cmd, arg, 256)
			}
		}},
		{"copy between a file and nothing", func(g *guest) {
			f := g.find("f")
			o, err := g.Open(f, unix.O_RDWR)
			g.w.must(err)
			d, err := g.OpenDir(root)
			g.w.must(err)
			for _, other := range []fuse.FileRange{{Node: root, Handle: d.Handle}, {Node: f, Handle: d.Handle}, {Node: root, Handle: o.Handle}, {Node: f}} {
				_, err := g.CopyFileRange(fuse.FileRange{Node: f, Handle: o.Handle}, other, 4096)
				g.refused("CopyFileRange", err)
				_, err = g.CopyFileRange(other, fuse.FileRange{Node: f, Handle: o.Handle}, 4096)
				g.refused("CopyFileRange", err)
			}
		}},
		{"read where nothing was written", func(g *guest) {
			c, err := g.Create(root, "sparse", unix.O_RDWR, 0o600)
			g.w.must(err)
			_, err = g.SetAttr(c.Entry.Node, fuse.SetAttrIn{Valid: fuse.SetAttrSize, Size: 1 << 20})
			g.w.must(err)
			b, err := g.Read(c.Entry.Node, c.Open.Handle, 0, 64<<10)
			if err != nil || len(bytes.Trim(b, "\x00")) > 0 {
				g.Errorf("Read of a hole = %d bytes, %v; want zeros", len(b), err)
			}
		}},
		{"requests that end early", func(g *guest) {
			for op := range fuse.Opcode(56) {
				if op == fuse.OpInit || op == fuse.OpDestroy || op == fuse.OpSetLkW {
					continue
				}
				for _, n := range []int{0, 1, 8, 16, 40} {
					body := bytes.Repeat([]byte("../"), 14)[:n]
					_, _, err := g.Raw(g.Message(op, root, body), 256)
					if e := unix.Errno(0); err != nil && !asErrno(err, &e) {
						g.Errorf("opcode %d with %d bytes: %v", op, n, err)
					}
				}
			}
			g.w.must(g.again())
		}},
		{"locks do not reach other files", func(g *guest) {
			f := g.find("f")
			o, err := g.Open(f, unix.O_RDWR)
			g.w.must(err)
			d := g.find("d", "f")
			err = g.SetLock(d, o.Handle, fuse.Lock{Owner: 1, End: 1 << 62, Type: unix.F_WRLCK, PID: 1}, false)
			g.refused("SetLock", err, unix.EBADF, unix.ENOSYS)
		}},
	}...)
}

// as has requests of another user.
func (g *guest) as(id uint32, do func()) {
	was := g.Caller
	g.Caller.UID, g.Caller.GID = id, id
	do()
	g.Caller = was
}

// again mounts the share once more.
func (g *guest) again() error {
	_, err := g.Init(fusetest.AllFlags &^ fuse.WritebackCache &^ fuse.NoOpendirSupport)
	return err
}

// special tries to get the server to open what is not a file.
func (g *guest) special(node fuse.NodeID) {
	g.Helper()
	for _, flags := range []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_RDWR | unix.O_NONBLOCK | unix.O_TRUNC, unix.O_DIRECTORY} {
		_, err := g.Open(node, flags)
		g.refused("Open of a special file", err, unix.EBADF)
	}
	_, err := g.OpenDir(node)
	g.refused("OpenDir of a special file", err, unix.ENOTDIR)
	_, err = g.SetAttr(node, fuse.SetAttrIn{Valid: fuse.SetAttrSize})
	g.refused("SetAttr(size) of a special file", err)
	_, err = g.Create(root, "special", unix.O_RDWR, 0o666)
	g.refused("Create over a special file", err)
	g.abuse(node)
}
