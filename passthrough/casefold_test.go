package passthrough

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

func folds(o *Options) fuse.InitFlags {
	o.ASCIICasefold = true
	return 0
}

func TestASCIICasefold(t *testing.T) {
	g := newGuest(t, folds)
	view, c, root := g.fs.View(), g.c, fuse.RootID
	lookup := func(parent fuse.NodeID, name string) fuse.NodeID {
		t.Helper()
		var e fuse.Entry
		if err := view.Lookup(c, parent, []byte(name), &e); err != nil {
			if err != syscall.ENOENT {
				t.Errorf("Lookup(%q) = %v", name, err)
			}
			return 0
		}
		return e.Node
	}
	for _, name := range []string{"Readme.TXT", "straße", "B", "b", "AA", "aA"} {
		g.file(name, name, 0o644)
	}
	g.mkdir("Dir", 0o755)

	for name, real := range map[string]string{
		"Readme.TXT": "Readme.TXT", "readme.txt": "Readme.TXT", "README.txt": "Readme.TXT",
		"b": "b", "B": "B", "aa": "AA", "Aa": "AA", "aA": "aA", "STRAßE": "straße",
	} {
		if got, want := lookup(root, name), g.find(real).Node; got != want {
			t.Errorf("Lookup(%q) = node %d; want %d, %q", name, got, want, real)
		}
	}
	for _, name := range []string{"missing", "STRASSE", "STRA\xdfE"} {
		if got := lookup(root, name); got != 0 {
			t.Errorf("Lookup(%q) = node %d; want none", name, got)
		}
	}

	t.Run("changes are seen", func(t *testing.T) {
		for i := range 20 { // within one tick of the clock, and after more than one
			name := fmt.Sprintf("New%d", i)
			if got := lookup(root, fmt.Sprintf("nEW%d", i)); got != 0 {
				t.Fatalf("Lookup before it exists = node %d", got)
			}
			g.file(name, "", 0o644)
			if got := lookup(root, fmt.Sprintf("nEW%d", i)); got != g.find(name).Node {
				t.Fatalf("Lookup of a new name = node %d; want %d", got, g.find(name).Node)
			}
			must(t, os.Remove(g.path(name)))
			if got := lookup(root, fmt.Sprintf("nEW%d", i)); got != 0 {
				t.Fatalf("Lookup of a removed name = node %d", got)
			}
		}
	})
	t.Run("remove and rename", func(t *testing.T) {
		must(t, view.Rename(c, root, []byte("README.TXT"), root, []byte("Other"), 0))
		must(t, view.Unlink(c, root, []byte("OTHER")))
		must(t, view.RmDir(c, root, []byte("dIR")))
		for _, err := range []error{
			view.Unlink(c, root, []byte("OTHER")), view.RmDir(c, root, []byte("dIR")),
			view.Rename(c, root, []byte("OTHER"), root, []byte("x"), 0),
		} {
			want(t, "a name that is gone", err, unix.ENOENT)
		}
	})
	t.Run("below a file", func(t *testing.T) {
		var e fuse.Entry
		want(t, "Lookup", view.Lookup(c, g.find("b").Node, []byte("x"), &e), unix.ENOTDIR)
	})
}

// TestCasefoldMemory bounds what is remembered of directories.
func TestCasefoldMemory(t *testing.T) {
	g := newGuest(t, folds)
	f := g.fs.View().(*folding)
	var e fuse.Entry
	for i := range maxFoldedDirs + 10 {
		dir := fmt.Sprint(i)
		g.mkdir(dir, 0o755)
		g.file(dir+"/Name", "", 0o644)
	}
	// Their change is over when the clock has gone on.
	for end := time.Now().Add(2 * foldedTick); time.Now().Before(end); {
		must(t, f.Lookup(g.c, g.find("0").Node, []byte("nAME"), &e))
	}
	for i := range maxFoldedDirs + 10 {
		must(t, f.Lookup(g.c, g.find(fmt.Sprint(i)).Node, []byte("nAME"), &e))
	}
	if len(f.dirs) != maxFoldedDirs || f.total != maxFoldedDirs {
		t.Errorf("%d directories with %d names are remembered; want %d", len(f.dirs), f.total, maxFoldedDirs)
	}
}

// A directory that is too large to be remembered is searched, and takes no memory.
func TestCasefoldHugeDirectory(t *testing.T) {
	g := newGuest(t, folds, func(o *Options) fuse.InitFlags {
		if dir := onTmpfs(t); dir != "" { // names are made faster there
			o.SharedDir = dir
		}
		return 0
	})
	f := g.fs.View().(*folding)
	g.mkdir("d", 0o755)
	g.fill("d/File", maxFoldedDir+1)
	g.file("d/fILE7", "", 0o644) // behind File7, bytewise
	d := g.find("d").Node
	var e fuse.Entry
	for end := time.Now().Add(2 * foldedTick); time.Now().Before(end) || f.dirs[d] == nil; {
		want(t, "Lookup", f.Lookup(g.c, d, []byte("missing"), &e), unix.ENOENT)
	}
	for name, real := range map[string]string{"FILE7": "File7", "fILE7": "fILE7", "FiLe90": "File90"} {
		must(t, f.Lookup(g.c, d, []byte(name), &e))
		same(t, "node of "+name, e.Node, g.find("d/"+real).Node)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	must(t, f.Lookup(g.c, d, []byte("FILE9"), &e))
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<10 {
		t.Errorf("a lookup took %d KiB", used>>10)
	}
	same(t, "names that are remembered", f.total, 0)
}
