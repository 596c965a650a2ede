package bench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vfiofs/internal/testkit"
)

// TestMany makes files that are not a round number, lets a backend know all of them, and
// removes them.
func TestMany(t *testing.T) {
	const n = 2345
	o := options(t, backend(t, "a", "right"))
	o.Cases, o.Inodes = []Case{{"getattr-live", 1, 1, Poll}}, n
	last := map[string]int{}
	o.Progress = func(p Progress) {
		if p.Task != "" {
			last[p.Task] = p.Done
		}
	}
	err := withField(t.Context(), o, func(f *field) error {
		if got := last["making files"]; got != n {
			t.Errorf("%d files are made, as the progress says; want %d", got, n)
		}
		if got := last["a looks files up"]; got < n {
			t.Errorf("%d files are looked up, as the progress says; want %d", got, n)
		}
		seen := map[uint64]bool{}
		s := f.backends[0].session
		for _, node := range s.live {
			if node == 0 || seen[uint64(node)] {
				t.Fatalf("node %d is 0 or that of two files", node)
			}
			seen[uint64(node)] = true
		}
		if len(seen) != n {
			t.Errorf("%d files are live; want %d", len(seen), n)
		}
		entries, err := os.ReadDir(filepath.Join(shared, manyDir, nameOf('d', 2)))
		if err != nil || len(entries) != 345 {
			t.Errorf("the last directory has %d entries: %v; want 345", len(entries), err)
		}
		return nil
	})
	testkit.Check(t, err)
	if _, err := os.Lstat(filepath.Join(shared, manyDir)); !os.IsNotExist(err) {
		t.Errorf("after the run, the files are there: %v", err)
	}
}

func TestManyFailures(t *testing.T) {
	ignore := func(int) {}
	dir := inMemory(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if err := stageMany(ctx, dir, 10, ignore); !errors.Is(err, cause) {
		t.Errorf("stageMany after the end = %v; want %v", err, cause)
	}
	if err := stageMany(t.Context(), dir, 10, ignore); !os.IsExist(errors.Unwrap(err)) {
		t.Errorf("stageMany where files are = %v", err)
	}
	testkit.Check(t, removeMany(dir, 10))
	testkit.Check(t, stageMany(t.Context(), dir, 10, ignore))

	// The backend does not find what was made elsewhere.
	o := options(t, backend(t, "a", "right"))
	o.Dir, o.Cases = dir, []Case{{"null", manyDepth, 1, Poll}}
	err := withField(t.Context(), o, func(f *field) error {
		s := f.backends[0].session
		if err := s.lookUpMany(ctx, 10, ignore); !errors.Is(err, cause) {
			t.Errorf("lookUpMany after the end = %v; want %v", err, cause)
		}
		if err := s.lookUpMany(t.Context(), 11, ignore); err == nil || !strings.Contains(err.Error(), "LOOKUP says: no such file") {
			t.Errorf("lookUpMany of a file too many = %v", err)
		}
		if err := s.lookUpMany(t.Context(), 1001, ignore); err == nil || !strings.Contains(err.Error(), nameOf('d', 1)) {
			t.Errorf("lookUpMany of a directory too many = %v", err)
		}
		return nil
	})
	testkit.Check(t, err)
}
