package fusetest_test

import (
	"testing"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
)

// The suite over the file system in memory tests both, and the server between them.
func TestSuite(t *testing.T) {
	for _, layout := range []struct {
		name string
		cut  int
	}{{"contiguous", 0}, {"pages", 4096}, {"scattered", 61}} {
		t.Run(layout.name, func(t *testing.T) {
			fusetest.Run(t, func(t *testing.T) *fusetest.Client {
				l := fusetest.NewLocal(t, fusetest.NewMem(), fuse.Options{})
				l.Cut = layout.cut
				return l.Client()
			})
		})
	}
}
