package passthrough

import (
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// Names in any case (E.3.6), word for word as H073 has it.
func TestH073Casefold(t *testing.T) {
	g := newGuest(t, folds)
	view, c := g.fs.View(), g.c
	lookup := func(name string) (fuse.NodeID, error) {
		var e fuse.Entry
		err := view.Lookup(c, fuse.RootID, []byte(name), &e)
		return e.Node, err
	}
	g.file("Foo", "1", 0o644)
	foo := g.find("Foo").Node
	got, err := lookup("fOO")
	must(t, err)
	same(t, "Lookup(fOO)", got, foo)

	g.file("bar", "2", 0o644)
	g.file("BAR", "3", 0o644)
	for _, name := range []string{"bar", "BAR"} {
		got, err := lookup(name)
		must(t, err)
		same(t, "exact Lookup of "+name, got, g.find(name).Node)
	}

	must(t, view.Rename(c, fuse.RootID, []byte("Foo"), fuse.RootID, []byte("Baz"), 0))
	_, err = lookup("foo")
	want(t, "Lookup of the old name, at once", err, unix.ENOENT)
	got, err = lookup("BAZ")
	must(t, err)
	same(t, "Lookup of the new name", got, foo)
	must(t, view.Unlink(c, fuse.RootID, []byte("bAZ")))
	_, err = lookup("Baz")
	want(t, "Lookup after Unlink in another case", err, unix.ENOENT)

	g.file("É", "4", 0o644)
	_, err = lookup("é")
	want(t, "Lookup of a letter beyond ASCII in another case", err, unix.ENOENT)
}

// A write of nothing is not an error, and changes nothing.
func TestH114WriteNothing(t *testing.T) {
	g := newGuest(t)
	n, h := g.made("f", unix.O_RDWR)
	g.write(n, h, 0, "data")
	for _, off := range []uint64{0, 2, 4, 100} {
		k, err := g.writeErr(n, h, off, "", fuse.WriteArgs{})
		must(t, err)
		same(t, "written", k, 0)
	}
	same(t, "content", g.content("f"), "data")
	same(t, "size", g.attr(n).Size, 4)
}
