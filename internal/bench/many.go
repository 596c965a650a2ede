package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// The tree of Options.Inodes: empty files, which cost an inode and nothing else.
const (
	manyDir   = "many"
	manyFiles = 1000 // of each directory
	manyDepth = 32   // lookups in flight
	manyTime  = 100 * time.Millisecond
	maxInodes = 100_000_000
)

// eachMany calls f for all directories of the tree, on all processors at once, and tell
// after each. It ends early when ctx does, or with the first error.
func eachMany(ctx context.Context, dir string, n int, f func(name string, files int) error, tell func(done int)) error {
	type part struct {
		files int
		err   error
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	parts := make(chan part)
	var workers sync.WaitGroup
	step := runtime.NumCPU()
	for first := range step {
		workers.Go(func() {
			for i := first; i*manyFiles < n && ctx.Err() == nil; i += step {
				files := min(manyFiles, n-i*manyFiles)
				parts <- part{files, f(filepath.Join(dir, manyDir, nameOf('d', i)), files)}
			}
		})
	}
	go func() {
		workers.Wait()
		close(parts)
	}()
	var err error
	done := 0
	for p := range parts {
		if p.err != nil {
			err = firstError(err, p.err)
			stop()
		}
		done += p.files
		tell(done)
	}
	if err == nil && done < n {
		err = context.Cause(ctx)
	}
	return err
}

// stageMany makes n files in the shared directory.
func stageMany(ctx context.Context, dir string, n int, tell func(done int)) error {
	if err := os.Mkdir(filepath.Join(dir, manyDir), 0o755); err != nil {
		return fmt.Errorf("make the benchmark's files: %w", err)
	}
	return eachMany(ctx, dir, n, func(name string, files int) error {
		if err := os.Mkdir(name, 0o755); err != nil {
			return fmt.Errorf("make the benchmark's files: %w", err)
		}
		parent, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("make the benchmark's files: %w", err)
		}
		defer parent.Close()
		for i := range files {
			// One system call, where open and close are two.
			if err := unix.Mknodat(int(parent.Fd()), nameOf('f', i), unix.S_IFREG|0o644, 0); err != nil {
				return fmt.Errorf("make file %d of %s: %w", i, name, err)
			}
		}
		return nil
	}, tell)
}

// removeMany removes what stageMany made.
func removeMany(dir string, n int) error {
	err := eachMany(context.Background(), dir, n, func(name string, _ int) error { return os.RemoveAll(name) }, func(int) {})
	return errors.Join(err, os.RemoveAll(filepath.Join(dir, manyDir)))
}

// lookUpMany looks up the n files of stageMany, and keeps them: the backend knows them
// until the session ends.
func (s *session) lookUpMany(ctx context.Context, n int, tell func(done int)) error {
	dirs := make([]fuse.NodeID, (n+manyFiles-1)/manyFiles)
	for i := range dirs {
		var err error
		if dirs[i], err = s.walk(manyDir + "/" + nameOf('d', i)); err != nil {
			return err
		}
	}
	live := make([]fuse.NodeID, n)
	look := step{
		fill: func(ln *lane) {
			ln.index = ln.next(n)
			ln.begin(fuse.OpLookup, dirs[ln.index/manyFiles], name(ln.args(), 'f', ln.index%manyFiles), entrySize)
		},
		check: func(ln *lane) (bool, error) {
			err := ln.entry()
			live[ln.index] = ln.node
			return false, err
		},
	}
	e, err := newEngine(s, Case{Depth: manyDepth, Queues: 1, Client: Event}, &plan{steps: []step{look}})
	if err != nil {
		return err
	}
	defer e.close()
	// A lane that is ahead begins anew: its files get more lookups, and nothing else.
	for done := 0; done < n; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		c, err := e.run(manyTime)
		if err != nil {
			return err
		}
		if c.failed > 0 {
			return fmt.Errorf("after about %d of %d files, LOOKUP says: %w", done, n, c.errno)
		}
		done = n
		for _, ln := range e.lanes {
			done = min(done, ln.count*len(e.lanes))
		}
		tell(done)
	}
	s.live = live
	return nil
}

func prepareGetAttrLive(s *session) (*plan, error) {
	return &plan{steps: []step{{
		fill: func(ln *lane) {
			ln.begin(fuse.OpGetAttr, s.live[ln.random.IntN(len(s.live))], 16, 104)
			clear(ln.args()[:16])
		},
		check: exactly(104),
	}}}, nil
}
