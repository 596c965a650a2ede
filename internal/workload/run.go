package workload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Failure is a run that did not do what the model says.
type Failure struct {
	Config Config
	Err    error // of the shortest list that still failed
	Ops    []Op  // that list
	Run    int   // operations of the run that failed first
	Again  bool  // the list failed again when it was repeated
}

// Error returns the difference and the trace. Config.Dir of a trace is up to the reader.
func (f *Failure) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "fsx with seed %d: %v\n", f.Config.Seed, f.Err)
	if f.Again {
		fmt.Fprintf(&b, "%d operations of %d are enough; put these lines in a file and run the test with -fsx-trace FILE:\n", len(f.Ops), f.Run)
	} else {
		fmt.Fprintf(&b, "it did not happen again when the %d operations were repeated\n", f.Run)
	}
	if len(f.Ops) > maxTrace {
		fmt.Fprintf(&b, "# these are the last %d; the seed makes them all\n", maxTrace)
	}
	for _, op := range f.Ops[max(0, len(f.Ops)-maxTrace):] {
		fmt.Fprintln(&b, op)
	}
	return b.String()
}

// Unwrap returns Err.
func (f *Failure) Unwrap() error { return f.Err }

// maxTrace is how many operations a Failure prints.
const maxTrace = 1000

// shrinkTime is how long a failed run is made shorter, besides the time of some
// repetitions.
const shrinkTime = 30 * time.Second

// Run does random operations until ctx ends, and returns how many. A difference from the
// model is returned as a *Failure, made short by repetition in directories of their own.
func Run(ctx context.Context, config Config) (count int, err error) {
	c, err := newChecker(config)
	if err != nil {
		return 0, err
	}
	g := newGenerator(c)
	var ops []Op
	for ctx.Err() == nil && err == nil {
		op := g.next()
		ops = append(ops, op)
		err = c.do(op)
	}
	if err == nil {
		err = c.checkAll()
	}
	if err = errors.Join(err, c.close()); err == nil {
		return len(ops), nil
	}
	return len(ops), shrink(config, ops, err)
}

// Repeat does a list of operations, as ParseTrace returns it. Like Run, it makes a list
// that fails shorter.
func Repeat(config Config, ops []Op) error {
	if err := repeat(config, ops); err != nil {
		return shrink(config, ops, err)
	}
	return nil
}

func repeat(config Config, ops []Op) error {
	c, err := newChecker(config)
	if err != nil {
		return err
	}
	for _, op := range ops {
		if err = c.do(op); err != nil {
			break
		}
	}
	if err == nil {
		err = c.checkAll()
	}
	return errors.Join(err, c.close())
}

// shrink looks for a short part of ops that fails too: it leaves out ever smaller pieces,
// the oldest first, as long as what remains fails.
func shrink(config Config, ops []Op, first error) *Failure {
	failure := &Failure{Config: config, Err: first, Ops: ops, Run: len(ops)}
	trial := 0
	fails := func(ops []Op) bool {
		trial++
		err := repeatIn(config, fmt.Sprintf("again%d", trial), ops)
		if err == nil {
			return false
		}
		failure.Err, failure.Ops, failure.Again = err, ops, true
		return true
	}
	began := time.Now()
	if !fails(ops) {
		return failure
	}
	deadline := time.Now().Add(shrinkTime + 4*time.Since(began))
	for piece := max(1, len(ops)/2); time.Now().Before(deadline); piece /= 2 {
		shorter := false
		for at := 0; at < len(failure.Ops) && time.Now().Before(deadline); {
			ops := failure.Ops
			if fails(slices.Concat(ops[:at], ops[min(at+piece, len(ops)):])) {
				shorter = true
			} else {
				at += piece
			}
		}
		if piece == 1 {
			if !shorter {
				break
			}
			piece = 2 // once more, by ones
		}
	}
	return failure
}

// repeatIn repeats operations in a new directory beside the first run's.
func repeatIn(config Config, dir string, ops []Op) error {
	for _, root := range []*string{&config.Dir, &config.Host} {
		if *root != "" {
			*root = filepath.Join(*root, dir)
		}
	}
	if err := os.Mkdir(config.Dir, 0o755); err != nil {
		return fmt.Errorf("a directory to repeat in: %w", err)
	}
	defer os.RemoveAll(config.Dir)
	return repeat(config, ops)
}
