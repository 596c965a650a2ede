package structure

import (
	"os"
	"testing"
)

// TestRepository applies the rules to the tree that this test is part of.
func TestRepository(t *testing.T) {
	tree, err := Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.source) < 50 {
		t.Fatalf("Load found %d Go files; want the whole repository", len(tree.source))
	}
	for _, finding := range tree.Check(Repository()) {
		t.Error(finding)
	}
}
