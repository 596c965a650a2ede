package bench

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/testkit"
)

// bareCase readies a case without a server, in a directory of its own.
func bareCase(t *testing.T, dir, workload string, depth int) *bareLoop {
	t.Helper()
	b, err := newBare(dir, depth)
	testkit.Check(t, err)
	t.Cleanup(func() { testkit.Check(t, b.close()) })
	w, err := find(workload)
	testkit.Check(t, err)
	s, err := b.ready(w, Case{workload, depth, 1, Poll})
	testkit.Check(t, err)
	t.Cleanup(s.close)
	return s.(*bareLoop)
}

// TestBare is compared with a server, as its reference.
func TestBare(t *testing.T) {
	o := options(t, backend(t, "a", "right"), Backend{Name: "bare", Bare: true})
	o.Inodes = 10 // which concern the server alone
	o.Cases = []Case{{"rand-read-4k", 2, 1, Poll}, {"seq-write-1m", 4, 1, Event}}
	report, err := Run(t.Context(), o)
	testkit.Check(t, err)
	for _, r := range report.Results {
		a, bare := r.Backends[0], r.Backends[1]
		if bare.Rate <= 0 || bare.CPU <= 0 || bare.Errors > 0 || bare.Client != 0 {
			t.Errorf("%v without a server: %+v", r.Case, bare)
		}
		if a.Ratio <= 0 || a.CPURatio <= 0 || a.Client <= 0 {
			t.Errorf("%v with a server: %+v", r.Case, a)
		}
	}
	if got := report.Commands[1]; got != "bare: preadv and pwritev, by the client" {
		t.Errorf("the report says %q", got)
	}
	if err := Verify(t.Context(), o, io.Discard); err == nil || !strings.Contains(err.Error(), "no server to verify") {
		t.Errorf("Verify = %v; want an error", err)
	}
}

// TestBarePlaces: the places are those that a server is asked for, and the data arrives
// in the pages of the lanes.
func TestBarePlaces(t *testing.T) {
	l := bareCase(t, shared, "rand-read-4k", 3)
	w, err := find("rand-read-4k")
	testkit.Check(t, err)
	same := []*lane{testLane(), testLane(), testLane()}
	lineUp(same)
	place := w.direct.place()
	want := make([]byte, pageSize)
	for i := range 30 {
		n, errno := l.once()
		if n != pageSize || errno != 0 {
			t.Fatalf("read %d bytes: %v", n, errno)
		}
		at := place(same[i%3])
		pattern(want, at)
		if got := l.lanes[i%3].pages[0].mem; !bytes.Equal(got, want) {
			t.Fatalf("read %d is not of the piece at %d", i, at)
		}
	}
}

// TestBareWrites scattered memory to the file, in order.
func TestBareWrites(t *testing.T) {
	dir := t.TempDir()
	testkit.Check(t, os.WriteFile(filepath.Join(dir, writeFile), nil, 0o600))
	l := bareCase(t, dir, "seq-write-128k", 1)
	for i, p := range l.lanes[0].pages[:32] {
		pattern(p.mem, uint64(i*pageSize))
	}
	for range 2 {
		if n, errno := l.once(); n != 128<<10 || errno != 0 {
			t.Fatalf("wrote %d bytes: %v", n, errno)
		}
	}
	want := make([]byte, 128<<10)
	pattern(want, 0)
	got, err := os.ReadFile(filepath.Join(dir, writeFile))
	testkit.Check(t, err)
	if !bytes.Equal(got, append(want, want...)) {
		t.Errorf("the file has %d bytes, and not the lane's twice", len(got))
	}
}

func TestBareFailures(t *testing.T) {
	dir := t.TempDir()
	testkit.Check(t, os.WriteFile(filepath.Join(dir, readFile), []byte("short"), 0o600))
	l := bareCase(t, dir, "seq-read-4k", 1)
	if _, err := l.run(time.Millisecond); err == nil || !strings.Contains(err.Error(), "moved 5 of 4096 bytes") {
		t.Errorf("run with a short file = %v", err)
	}
	l.fd = -1
	c, err := l.run(time.Millisecond)
	testkit.Check(t, err)
	if c.failed == 0 || c.done > 0 || c.errno != unix.EBADF {
		t.Errorf("%d of %d operations without a file failed, errno %v", c.failed, c.failed+c.done, c.errno)
	}
	b, err := newBare(t.TempDir(), 1)
	testkit.Check(t, err)
	defer b.close()
	w, err := find("seq-write-4k")
	testkit.Check(t, err)
	if _, err := b.ready(w, Case{"seq-write-4k", 1, 1, Poll}); !os.IsNotExist(err) {
		t.Errorf("ready without a file = %v", err)
	}
}

func TestBareAllocations(t *testing.T) {
	for _, name := range []string{"rand-read-4k", "seq-read-1m"} {
		l := bareCase(t, shared, name, 4)
		testkit.NoAllocs(t, 5, name, func() {
			if _, err := l.run(100 * time.Microsecond); err != nil {
				t.Error(err)
			}
		})
	}
}
