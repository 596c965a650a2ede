package passthrough

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

func TestHintWord(t *testing.T) {
	var x hints
	x.init()
	h := x.of(7, []byte("name"))
	if _, _, known := h.load(); known {
		t.Fatal("an empty table knows a name")
	}
	for _, id := range []fuse.NodeID{2, 1<<24 - 1, 0xabcd<<32 | 5, 0xffff_ffff<<32 | 9} {
		h.set(id)
		slot, gen, known := x.of(7, []byte("name")).load()
		if uint64(slot) != uint64(id)&(1<<24-1) || gen != uint16(id>>32) || !known {
			t.Errorf("load of %#x = %#x, %#x, %v", id, slot, gen, known)
		}
	}
	h.setMissing()
	slot, _, known := h.load()
	if slot != 0 || !known {
		t.Errorf("load of a missing name = %d, %v; want 0, true", slot, known)
	}
	if _, _, known := x.of(8, []byte("name")).load(); known {
		t.Error("the same name below another directory is known")
	}
}

// TestHintsAreOnlyHints: whatever the table says, a lookup finds what is there.
func TestHintsAreOnlyHints(t *testing.T) {
	g := newGuest(t)
	g.file("a", "a", 0o644)
	g.file("b", "bb", 0o644)
	a, b := g.find("a").Node, g.find("b").Node
	place := func(name string) hint { return g.fs.hints.of(fuse.RootID, []byte(name)) }

	place("a").set(b)
	same(t, "node of a name with another's hint", g.find("a").Node, a)
	place("a").set(fuse.RootID)
	same(t, "node of a name with the root's hint", g.find("a").Node, a)
	place("a").set(12345)
	same(t, "node of a name with a hint to nothing", g.find("a").Node, a)
	place("a").setMissing()
	same(t, "node of a name that is said to be missing", g.find("a").Node, a)
	place("nothing").set(a)
	_, err := g.lookup(fuse.RootID, "nothing")
	want(t, "Lookup of a missing name with a hint", err, unix.ENOENT)

	// The host changes what a name means.
	must(t, os.Rename(g.path("b"), g.path("a")))
	same(t, "node of the replaced name", g.find("a").Node, b)
	must(t, os.Remove(g.path("a")))
	for range 2 {
		_, err := g.lookup(fuse.RootID, "a")
		want(t, "Lookup of a removed name", err, unix.ENOENT)
	}
	g.file("a", "aaa", 0o644)
	e := g.find("a")
	same(t, "size of the new file", e.Attr.Size, 3)
	if e.Node == a || e.Node == b {
		t.Error("node of the new file = an old one")
	}
	g.forget(e.Node, 1)
	if again := g.find("a"); again.Node == e.Node {
		t.Error("node after the last was forgotten = the forgotten one")
	}
}

// TestHintedMount: a name that becomes a mount point leads to another node, and back.
func TestHintedMount(t *testing.T) {
	g := newGuest(t)
	g.mkdir("a", 0o755)
	g.mkdir("b", 0o755)
	b := g.find("b").Node
	g.bind("a", "b")
	e := g.find("b")
	if e.Node == b {
		t.Error("node of a mount = that of the directory below")
	}
	same(t, "flags", e.Attr.Flags, fuse.AttrSubmount)
	must(t, unix.Unmount(g.path("b"), unix.MNT_DETACH))
	same(t, "node after umount", g.find("b").Node, b)
}

func TestManyNames(t *testing.T) {
	g := smallGuest(t, HandlesNever)
	for i := range 300 {
		g.file(fmt.Sprint(i), "", 0o644)
	}
	var nodes [300]fuse.NodeID
	for round := range 3 {
		for i := range nodes {
			n := g.find(fmt.Sprint(i)).Node
			if round > 0 && n != nodes[i] {
				t.Fatalf("node of %d = %d; want %d", i, n, nodes[i])
			}
			nodes[i] = n
		}
	}
	for _, n := range nodes {
		g.forget(n, 2)
		g.attr(n)
		g.forget(n, 1)
		_, err := g.getattr(n, 0)
		want(t, "GetAttr of a forgotten node", err, unix.EBADF)
	}
}
