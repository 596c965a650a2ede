package passthrough

import (
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

func TestH167Statx(t *testing.T) {
	g := newGuest(t)
	node, h := g.made("f", unix.O_RDWR)
	g.write(node, h, 0, "hello")
	var host unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, g.path("f"), 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &host))
	for _, handle := range []fuse.Handle{0, h} {
		var x fuse.Statx
		_, err := g.fs.Statx(g.c, node, handle, unix.STATX_ALL|unix.STATX_MNT_ID, unix.AT_STATX_FORCE_SYNC, &x)
		must(t, err)
		same(t, "mask", x.Mask, host.Mask&(unix.STATX_BASIC_STATS|unix.STATX_BTIME))
		same(t, "birth time", x.Btime, fuse.StatxTime{Sec: host.Btime.Sec, Nsec: host.Btime.Nsec})
		same(t, "mtime", x.Mtime, fuse.StatxTime{Sec: host.Mtime.Sec, Nsec: host.Mtime.Nsec})
		same(t, "size", x.Size, 5)
		same(t, "mode", x.Mode, unix.S_IFREG|0o644)
		same(t, "inode", x.Ino, host.Ino)
		same(t, "device", [2]uint32{x.DevMajor, x.DevMinor}, [2]uint32{host.Dev_major, host.Dev_minor})
	}
	var x fuse.Statx
	_, err := g.fs.Statx(g.c, node, 0, 0, 0, &x)
	must(t, err)
	same(t, "mask when nothing is asked for", x.Mask, unix.STATX_BASIC_STATS)
	same(t, "birth time that was not asked for", x.Btime, fuse.StatxTime{})

	if e, err := g.mknod("dev", unix.S_IFCHR|0o600, 5<<8|3); err == nil {
		_, err := g.fs.Statx(g.c, e.Node, 0, 0, 0, &x)
		must(t, err)
		var st unix.Statx_t
		must(t, unix.Statx(unix.AT_FDCWD, g.path("dev"), unix.AT_SYMLINK_NOFOLLOW, 0, &st))
		same(t, "device number", [2]uint32{x.RdevMajor, x.RdevMinor}, [2]uint32{st.Rdev_major, st.Rdev_minor})
	}
	// The root of a mount is nothing special for the guest.
	_, err = g.fs.Statx(g.c, fuse.RootID, 0, 0, 0, &x)
	must(t, err)
	same(t, "mount root attribute", (x.Attributes|x.Known)&unix.STATX_ATTR_MOUNT_ROOT, 0)
}
