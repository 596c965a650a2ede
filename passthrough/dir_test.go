package passthrough

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

func TestH130Sizes(t *testing.T) {
	g := newGuest(t)
	g.file("f", "", 0o644)
	h := g.opendir(fuse.RootID)
	for _, plus := range []bool{false, true} {
		_, err := g.readdir(fuse.RootID, h, 0, 16, plus)
		want(t, "ReadDir with 16 bytes", err, unix.EINVAL)
		list, err := g.readdir(fuse.RootID, h, 0, 0, plus)
		must(t, err)
		same(t, "entries in 0 bytes", len(list), 0)
		one := 24 + 8
		if plus {
			one += 128
		}
		seen := 0
		for off := uint64(0); ; seen++ {
			list, err := g.readdir(fuse.RootID, h, off, one, plus)
			must(t, err)
			if len(list) == 0 {
				break
			}
			same(t, "entries in room for one", len(list), 1)
			off = list[0].off
		}
		same(t, "entries in all", seen, 3)
	}
}

func TestH131ManyEntries(t *testing.T) {
	g := newGuest(t)
	const n = 400
	g.fill("some-file-", n)
	h := g.opendir(fuse.RootID)
	for _, size := range []int{4096, 1 << 20} {
		for _, plus := range []bool{false, true} {
			all := g.readAll(fuse.RootID, h, size, plus)
			same(t, "entries", len(all), n+2)
			same(t, "names", len(names(all)), n)
		}
	}
}

func TestH132Rewind(t *testing.T) {
	g := newGuest(t)
	h := g.opendir(fuse.RootID)
	same(t, "names", len(names(g.readAll(fuse.RootID, h, 4096, false))), 0)
	g.file("f", "", 0o644)
	same(t, "names", len(names(g.readAll(fuse.RootID, h, 4096, false))), 1)
}

func TestH133Seek(t *testing.T) {
	g := newGuest(t)
	for i := range 100 {
		g.file(fmt.Sprint(i), "", 0o644)
	}
	h := g.opendir(fuse.RootID)
	all := g.readAll(fuse.RootID, h, 1<<20, false)
	for _, i := range []int{50, 3, 99, 0, 100} {
		list, err := g.readdir(fuse.RootID, h, all[i].off, 256, false)
		must(t, err)
		same(t, "entry after a cookie", list[0].name, all[i+1].name)
	}
}

func TestH134PlusCounts(t *testing.T) {
	g := newGuest(t)
	for i := range 50 {
		g.file(fmt.Sprint(i), "", 0o644)
	}
	before := fds(t)
	h := g.opendir(fuse.RootID)
	list := g.readAll(fuse.RootID, h, 1000, true)
	for _, x := range names(list) {
		if x.node == 0 {
			t.Fatalf("node of %q = 0; want one", x.name)
		}
		same(t, "mode", x.mode, unix.S_IFREG|0o644)
		same(t, "inode", x.ino, g.host(x.name).Ino)
		g.forget(x.node, 1)
	}
	must(t, g.release(fuse.RootID, h))
	same(t, "descriptors after all was forgotten", fds(t), before)
}

func TestH135Vanished(t *testing.T) {
	g := newGuest(t)
	for _, name := range []string{"a", "b"} {
		g.file(name, "", 0o644)
	}
	root := g.fs.nodes.get(fuse.RootID)
	defer g.fs.nodes.put(root)
	must(t, os.Remove(g.path("a")))
	var d fuse.DirBuffer
	d.Reset(4096)
	if !g.fs.addEntry(local(g.c), &root.v, &d, true, 7, 8, unix.DT_REG, []byte("a\x00")[:1]) {
		t.Fatal("addEntry of a vanished file = false; want an entry")
	}
	same(t, "size", len(d.Bytes()), 128+24+8)
	same(t, "node", d.Bytes()[0], 0)
}

func TestH136Dots(t *testing.T) {
	g := newGuest(t)
	g.mkdir("d", 0o755)
	root, d := g.host("").Ino, g.find("d")
	for _, plus := range []bool{false, true} {
		for _, x := range []struct {
			node      fuse.NodeID
			dot, dot2 uint64
		}{{fuse.RootID, root, root}, {d.Node, d.Attr.Ino, root}} {
			seen := 0
			for _, e := range g.readAll(x.node, g.opendir(x.node), 4096, plus) {
				ino := x.dot
				switch e.name {
				case "..":
					ino = x.dot2
				case ".":
				default:
					continue
				}
				seen++
				same(t, "type", e.typ, unix.DT_DIR)
				same(t, "ino of "+e.name, e.ino, ino)
				same(t, "node of "+e.name, e.node, 0)
				if plus {
					same(t, "attr.mode", e.mode, unix.S_IFDIR)
					same(t, "attr.ino", e.attrIno, ino)
				}
			}
			same(t, "dots", seen, 2)
		}
	}
}

func TestH137RemovedDir(t *testing.T) {
	g := newGuest(t)
	g.mkdir("d", 0o755)
	n := g.find("d").Node
	h := g.opendir(n)
	must(t, g.fs.RmDir(g.c, fuse.RootID, []byte("d")))
	same(t, "entries", len(g.readAll(n, h, 4096, true)), 0)
	same(t, "nlink", g.attr(n).Nlink, 0)
}

func TestH138TwoReaders(t *testing.T) {
	g := newGuest(t)
	for i := range 200 {
		g.file(fmt.Sprint(i), "", 0o644)
	}
	h := g.opendir(fuse.RootID)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			g := g.thread(t)
			for range 5 {
				if n := len(names(g.readAll(fuse.RootID, h, 300+100*i, i%2 == 1))); n != 200 {
					t.Errorf("names = %d; want 200", n)
				}
			}
		})
	}
	wg.Wait()
}

func TestH139LongName(t *testing.T) {
	g := newGuest(t)
	name := strings.Repeat("n", 255)
	g.file(name, "", 0o644)
	h := g.opendir(fuse.RootID)
	for _, x := range g.readAll(fuse.RootID, h, 4096, false) {
		if x.name == name {
			continue
		}
		list, err := g.readdir(fuse.RootID, h, x.off, 280, false)
		must(t, err)
		if len(list) > 0 && list[0].name == name {
			_, err = g.readdir(fuse.RootID, h, x.off, 279, false)
			want(t, "ReadDir with 279 bytes", err, unix.EINVAL)
			return
		}
	}
	// The long name comes first: its cookie is 0.
	_, err := g.readdir(fuse.RootID, h, 0, 279, false)
	want(t, "ReadDir with 279 bytes", err, unix.EINVAL)
}

func TestH141OpenDirOfFile(t *testing.T) {
	g := newGuest(t)
	n, _ := g.made("f", unix.O_RDWR)
	var o fuse.Opened
	want(t, "OpenDir", g.fs.OpenDir(g.c, n, 0, &o), unix.ENOTDIR)
	want(t, "OpenDir of nothing", g.fs.OpenDir(g.c, 99, 0, &o), unix.EBADF)
}

func TestBadCookies(t *testing.T) {
	g := newGuest(t)
	h := g.opendir(fuse.RootID)
	for _, off := range []uint64{1 << 63, ^uint64(0), 1 << 62, 12345} {
		g.readdir(fuse.RootID, h, off, 4096, false) // whatever the host says
	}
	same(t, "entries", len(g.readAll(fuse.RootID, h, 4096, false)), 2)
}
