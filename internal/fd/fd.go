// Package fd owns file descriptors: each is closed once, by one owner, and a
// test can ask which are still open.
//
// Descriptors are plain numbers here and not os.File: they never enter the
// runtime's poller, never change the O_NONBLOCK flag that a peer may share, and
// are closed when their owner says so and not by a finalizer.
//
// The package follows no specification of its own.
package fd

import (
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// An FD is one owned file descriptor. Its methods may be called from any
// goroutine; using the number after Close is the caller's bug, as with any
// descriptor.
type FD struct {
	n    atomic.Int64
	name string
}

// open holds every live FD, for leak reports in tests.
var open sync.Map // *FD -> struct{}

// New takes ownership of descriptor n. name says what it is in leak reports.
func New(n int, name string) *FD {
	f := &FD{name: name}
	f.n.Store(int64(n))
	open.Store(f, struct{}{})
	return f
}

// Int returns the descriptor's number, or -1 after Close.
func (f *FD) Int() int { return int(f.n.Load()) }

// Close closes the descriptor. The second and later calls do nothing. A nil FD
// may be closed.
func (f *FD) Close() error {
	if f == nil {
		return nil
	}
	n := f.n.Swap(-1)
	if n < 0 {
		return nil
	}
	open.Delete(f)
	if err := unix.Close(int(n)); err != nil && err != unix.EINTR {
		return fmt.Errorf("close %s: %w", f.name, err)
	}
	return nil
}

// String names the descriptor as "name(number)".
func (f *FD) String() string { return fmt.Sprintf("%s(%d)", f.name, f.Int()) }

// Open returns the names of all descriptors that are still owned by an FD. It is
// meant for leak checks at the end of a test binary.
func Open() []string {
	var names []string
	open.Range(func(k, _ any) bool {
		names = append(names, k.(*FD).String())
		return true
	})
	return names
}
