package workload

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"vfiofs/fuse/devfuse/mounttest"
)

// TestTar unpacks a tree with every kind of file, extended attributes and hard links, and
// compares each entry: on the host, and through a second mount that has nothing cached.
func TestTar(t *testing.T) {
	n := 5_000
	if *full {
		n = 80_000
	}
	b := mounttest.Vfiofs(t, "--xattr")
	m := mount(t, b)
	want := tarWorkload(t, m.Dir, n)
	compareTree(t, "on the host", filepath.Join(m.host, "tree"), want)
	compareTree(t, "through a new mount", filepath.Join(mountOf(t, b, m.host).Dir, "tree"), want)
	compareTree(t, "through the mount", filepath.Join(m.Dir, "tree"), want)
}

// tarWorkload unpacks n entries into dir/tree.
func tarWorkload(t *testing.T, dir string, n int) map[string]entry {
	needProgram(t, "tar", "tar")
	archive := filepath.Join(t.TempDir(), "tree.tar")
	want := writeTar(t, archive, n)
	tree := filepath.Join(dir, "tree")
	mkdir(t, tree)
	began := time.Now()
	out, err := exec.Command("tar", "-x", "-p", "--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "-f", archive, "-C", tree).CombinedOutput()
	if err != nil {
		t.Fatalf("tar: %v\n%.3000s", err, out)
	}
	t.Logf("%d entries unpacked in %.1f s", len(want), time.Since(began).Seconds())
	return want
}

func compareTree(t *testing.T, where, root string, want map[string]entry) {
	t.Helper()
	began := time.Now()
	got, err := readTree(root)
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	if diff := diffTrees(got, want); diff != "" {
		t.Errorf("%s:\n%s", where, diff)
	}
	t.Logf("%s: compared in %.1f s", where, time.Since(began).Seconds())
}
