package passthrough

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// FuzzNames feeds names to every operation that takes one. Nothing outside the shared
// directory may be found or change.
func FuzzNames(f *testing.F) {
	for _, s := range []string{
		"", ".", "..", "/", "../canary", "a/../../canary", "out", "out/canary", "a\x00b", "...", "\xff", "/etc/passwd", "canary", "./canary", "dir",
	} {
		f.Add([]byte(s), []byte("b"))
		f.Add([]byte("a"), []byte(s))
	}
	out := f.TempDir()
	canary := filepath.Join(out, "canary")
	must(f, os.WriteFile(canary, []byte("alive"), 0o600))
	var before unix.Stat_t
	must(f, unix.Stat(canary, &before))
	share := filepath.Join(out, "share")
	must(f, os.Mkdir(share, 0o755))
	shared := newGuest(f, func(o *Options) fuse.InitFlags { o.SharedDir = share; return 0 })
	f.Fuzz(func(t *testing.T, a, b []byte) {
		list, err := os.ReadDir(share)
		must(t, err)
		for _, x := range list {
			must(t, os.RemoveAll(filepath.Join(share, x.Name())))
		}
		g := shared.thread(t)
		must(t, os.Symlink("..", g.path("out")))
		g.mkdir("dir", 0o755)
		g.file("f", "", 0o644)

		dir, file, link := g.find("dir").Node, g.find("f").Node, g.find("out").Node
		var e fuse.Entry
		var o fuse.Opened
		in := &fuse.Create{Mode: unix.S_IFREG | 0o644, Flags: unix.O_RDWR}
		for _, parent := range []fuse.NodeID{fuse.RootID, dir, link} {
			if err := g.fs.Lookup(g.c, parent, a, &e); err == nil && e.Attr.Ino == before.Ino {
				t.Errorf("Lookup(%q) found the canary", a)
			}
			if err := g.fs.Create(g.c, parent, a, in, &e, &o); err == nil {
				if e.Attr.Ino == before.Ino {
					t.Errorf("Create(%q) opened the canary", a)
				}
				if bytes.IndexByte(a, '/') >= 0 || len(a) == 0 || isDots(a) {
					t.Errorf("Create(%q) succeeded; want an error", a)
				}
			}
			g.fs.MkDir(g.c, parent, b, in, &e)
			g.fs.MkNod(g.c, parent, b, in, &e)
			g.fs.Symlink(g.c, parent, b, a, in, &e)
			g.fs.Link(g.c, file, parent, b, &e)
			g.fs.Rename(g.c, parent, a, dir, b, 0)
			g.fs.Rename(g.c, dir, b, parent, a, unix.RENAME_EXCHANGE)
			g.fs.RmDir(g.c, parent, b)
			g.fs.Unlink(g.c, parent, a)
			g.fs.Unlink(g.c, parent, b)
			g.fs.GetXattr(g.c, parent, a, nil)
			g.fs.SetXattr(g.c, parent, a, b, 0, false)
			g.fs.RemoveXattr(g.c, parent, b)
		}
		if s, err := os.ReadFile(canary); err != nil || string(s) != "alive" {
			t.Errorf("canary = %q, %v; want alive", s, err)
		}
		list, err = os.ReadDir(out)
		must(t, err)
		g.fs.Destroy()
		if len(list) != 2 {
			t.Errorf("outside of the share = %v; want the canary and the share", list)
		}
	})
}

// FuzzHostFlags checks that no flag passes that E.7.2 does not name.
func FuzzHostFlags(f *testing.F) {
	f.Add(uint32(unix.O_RDWR|unix.O_CREAT|unix.O_EXCL), false)
	f.Add(uint32(unix.O_WRONLY|unix.O_APPEND|unix.O_DIRECT|unix.O_NOATIME), true)
	f.Add(^uint32(0), true)
	f.Fuzz(func(t *testing.T, guest uint32, wb bool) {
		fs := new(FS)
		if wb {
			fs.flags.Store(uint64(fuse.WritebackCache))
		}
		const never = unix.O_APPEND | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_PATH | unix.O_DIRECT | unix.O_NOATIME | unix.O_ASYNC | unix.O_TMPFILE&^unix.O_DIRECTORY
		got := fs.hostFlags(guest)
		if got&never != 0 {
			t.Errorf("hostFlags(%#o) = %#o; want none of %#o", guest, got, never)
		}
		if wb && got&unix.O_ACCMODE == unix.O_WRONLY {
			t.Errorf("hostFlags(%#o) = %#o; want O_RDWR for O_WRONLY", guest, got)
		}
	})
}

// FuzzIoctl feeds data to every command, and to one that does not exist. The host sees
// nothing but what is in its argument's structure.
func FuzzIoctl(f *testing.F) {
	commands := []uint32{
		fsGetFlags, fsSetFlags, fsGetFlags32, fsSetFlags32, fsGetXattr, fsSetXattr, fsGetPolicy, fsEnableVerity, fsMeasure, 0x5401,
	}
	for i := range commands {
		f.Add(uint8(i), make([]byte, 4), uint8(4))
		f.Add(uint8(i), bytes.Repeat([]byte{0xff}, 200), uint8(200))
	}
	f.Add(uint8(7), append(le(1, 1, 4096, 4, 0, 0, 4), make([]byte, 128-28+8)...), uint8(0))
	shared := newGuest(f)
	f.Fuzz(func(t *testing.T, which uint8, in []byte, room uint8) {
		g := shared.thread(t)
		node, h := g.made("f", unix.O_RDWR)
		flags, _, err := g.ioctl(node, h, fsGetFlags, nil, 4)
		must(t, err)
		defer func() { // it may be immutable now
			g.ioctl(node, h, fsSetFlags, flags, 0)
			must(t, g.release(node, h))
		}()
		out := make([]byte, room)
		result, n, err := g.fs.Ioctl(g.c, node, h, commands[int(which)%len(commands)], in, out)
		if n < 0 || n > len(out) || result > 0 || (err != nil || result < 0) && n != 0 {
			t.Errorf("Ioctl() = %d, %d bytes, %v", result, n, err)
		}
	})
}
