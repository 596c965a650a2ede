package passthrough

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

func TestH150RenameOverOpenDir(t *testing.T) {
	g := newGuest(t)
	g.mkdir("old", 0o755)
	g.mkdir("new", 0o755)
	n := g.find("new").Node
	h := g.opendir(n)
	must(t, g.rename("old", "new", 0))
	same(t, "entries", len(g.readAll(n, h, 4096, false)), 0)
	same(t, "nlink", g.attr(n).Nlink, 0)
}

func TestH151RenameRefused(t *testing.T) {
	g := newGuest(t)
	g.mkdir("d", 0o755)
	g.mkdir("full", 0o755)
	g.file("full/x", "", 0o644)
	g.file("f", "", 0o644)
	err := g.fs.Rename(g.c, fuse.RootID, []byte("d"), g.find("d").Node, []byte("x"), 0)
	want(t, "Rename into itself", err, unix.EINVAL)
	want(t, "Rename over a full directory", g.rename("d", "full", 0), unix.ENOTEMPTY)
	want(t, "Rename of a file over a directory", g.rename("f", "d", 0), unix.EISDIR)
	want(t, "Rename of a directory over a file", g.rename("d", "f", 0), unix.ENOTDIR)
	want(t, "Rename of nothing", g.rename("nothing", "x", 0), unix.ENOENT)
	want(t, "Rename below nothing", g.fs.Rename(g.c, 99, []byte("f"), fuse.RootID, []byte("x"), 0), unix.EBADF)
	want(t, "Rename to below nothing", g.fs.Rename(g.c, fuse.RootID, []byte("f"), 99, []byte("x"), 0), unix.EBADF)
	want(t, "Rename to a/b", g.rename("f", "a/b", 0), unix.EINVAL)
	want(t, "Rename from a/b", g.rename("full/x", "b", 0), unix.EINVAL)
}

func TestH152RenameFlags(t *testing.T) {
	g := newGuest(t)
	g.file("a", "a", 0o644)
	g.file("b", "b", 0o644)
	a := g.find("a").Node
	want(t, "NOREPLACE", g.rename("a", "b", unix.RENAME_NOREPLACE), unix.EEXIST)
	for _, flags := range []uint32{8, 1 << 31, unix.RENAME_NOREPLACE | 8, unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE, unix.RENAME_EXCHANGE | unix.RENAME_WHITEOUT} {
		want(t, "bad flags", g.rename("a", "b", flags), unix.EINVAL)
	}
	same(t, "a", g.content("a"), "a")
	same(t, "b", g.content("b"), "b")
	must(t, g.rename("a", "b", unix.RENAME_EXCHANGE))
	same(t, "a", g.content("a"), "b")
	same(t, "node", g.find("b").Node, a)
	must(t, g.rename("a", "c", unix.RENAME_NOREPLACE))
	same(t, "c", g.content("c"), "b")

	needRoot(t)
	if err := g.as(1000, 1001).rename("c", "d", unix.RENAME_WHITEOUT); err != nil {
		unable(t, "needs RENAME_WHITEOUT: "+err.Error())
	}
	st := g.host("c")
	same(t, "whiteout", st.Mode&unix.S_IFMT, unix.S_IFCHR)
	same(t, "rdev", st.Rdev, 0)
	same(t, "uid", st.Uid, 1000)
	same(t, "gid", st.Gid, 1001)
	same(t, "uid of the thread", unix.Geteuid(), 0)
}

func TestH154Link(t *testing.T) {
	g := newGuest(t)
	g.file("f", "", 0o644)
	must(t, unix.Mkfifo(g.path("p"), 0o600))
	must(t, os.Symlink("nowhere", g.path("l")))
	g.mkdir("d", 0o755)
	for _, name := range []string{"f", "p", "l"} {
		n := g.find(name).Node
		e, err := g.link(n, name+"2")
		must(t, err)
		same(t, "node", e.Node, n)
		same(t, "nlink", e.Attr.Nlink, 2)
		same(t, "host's inode", g.host(name+"2").Ino, g.host(name).Ino)
	}
	n := g.find("f").Node
	_, err := g.link(n, "d")
	want(t, "Link over a directory", err, unix.EEXIST)
	_, err = g.link(g.find("d").Node, "d2")
	want(t, "Link of a directory", err, unix.EPERM)
	must(t, os.Remove(g.path("f")))
	must(t, os.Remove(g.path("f2")))
	_, err = g.link(n, "f3")
	want(t, "Link of an unlinked file", err, unix.ENOENT)
	_, err = g.link(99, "f3")
	want(t, "Link of nothing", err, unix.EBADF)
}

func TestH155Remove(t *testing.T) {
	g := newGuest(t)
	g.mkdir("d", 0o755)
	g.file("d/x", "", 0o644)
	g.file("f", "", 0o644)
	want(t, "RmDir of a full directory", g.fs.RmDir(g.c, fuse.RootID, []byte("d")), unix.ENOTEMPTY)
	want(t, "Unlink of a directory", g.fs.Unlink(g.c, fuse.RootID, []byte("d")), unix.EISDIR)
	want(t, "RmDir of a file", g.fs.RmDir(g.c, fuse.RootID, []byte("f")), unix.ENOTDIR)
	want(t, "Unlink of nothing", g.fs.Unlink(g.c, fuse.RootID, []byte("nothing")), unix.ENOENT)
	want(t, "Unlink below nothing", g.fs.Unlink(g.c, 99, []byte("f")), unix.EBADF)
	want(t, "Unlink below a file", g.fs.Unlink(g.c, g.find("f").Node, []byte("x")), unix.ENOTDIR)
	must(t, g.fs.Unlink(g.c, fuse.RootID, []byte("f")))
}
