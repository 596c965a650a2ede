// Package testkit holds what the tests of several packages need: a main function that
// finds what a run leaves behind, and short forms of what every test does.
//
// Only tests import it. The package follows no specification of its own.
package testkit

import (
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
)

// Patience is how long a test waits for what must happen at once.
const Patience = 10 * time.Second

// Main runs the tests of m, a *testing.M, and returns the exit code. A run that leaves
// descriptors open fails.
func Main(m interface{ Run() int }) int {
	return report(os.Stderr, m.Run(), descriptors)
}

// MainIdle is Main, and a run that leaves goroutines behind fails too.
func MainIdle(m interface{ Run() int }) int {
	before := runtime.NumGoroutine()
	code := m.Run()
	if fuzz := flag.Lookup("test.fuzz"); fuzz != nil && fuzz.Value.String() != "" {
		before += 1000 // the fuzzer has goroutines of its own
	}
	return report(os.Stderr, code, descriptors, func() string { return goroutines(before, Patience) })
}

// report asks each of left what a run has left behind, which is "" for nothing. It
// returns the exit code, and tells w why a run that was good is not.
func report(w io.Writer, code int, left ...func() string) int {
	for _, f := range left {
		if what := f(); what != "" && code == 0 {
			fmt.Fprintln(w, what)
			code = 1
		}
	}
	return code
}

// descriptors returns which descriptors are open.
func descriptors() string {
	if open := fd.Open(); len(open) > 0 {
		return fmt.Sprint("descriptors left open: ", open)
	}
	return ""
}

// goroutines waits until there are no more than n, and returns the stacks of all if that
// takes too long.
func goroutines(n int, wait time.Duration) string {
	for end := time.Now().Add(wait); runtime.NumGoroutine() > n && time.Now().Before(end); {
		runtime.Gosched()
	}
	if runtime.NumGoroutine() <= n {
		return ""
	}
	var b strings.Builder
	b.WriteString("goroutines left running:\n")
	pprof.Lookup("goroutine").WriteTo(&b, 1)
	return b.String()
}

// Check ends the test on an error.
func Check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Async runs f, which waits for something, on the side. Receive waits for its result.
func Async[T any](f func() T) <-chan T {
	c := make(chan T, 1)
	go func() { c <- f() }()
	return c
}

// Receive waits for a value that must come at once. A closed channel has one too.
func Receive[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	return receive(t, c, Patience)
}

// receive is Receive with a limit.
func receive[T any](t testing.TB, c <-chan T, wait time.Duration) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(wait):
		t.Fatal("nothing happened in time")
	}
	return v
}

// Send sends bytes and descriptors in one call.
func Send(conn *net.UnixConn, b []byte, files ...*fd.FD) error {
	var control []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = f.Int()
		}
		control = unix.UnixRights(fds...)
	}
	_, _, err := conn.WriteMsgUnix(b, control, nil)
	return err
}
