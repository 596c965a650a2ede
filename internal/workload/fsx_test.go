package workload

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFsxLocal runs the checker on a local file system: what fails here is a mistake of
// the model.
func TestFsxLocal(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []Config{
		{Dir: "plain"},
		{Dir: "direct", Direct: true},
		{Dir: "host", Host: "host", Coherent: true},
	} {
		t.Run(c.Dir, func(t *testing.T) {
			c.Dir = filepath.Join(dir, c.Dir)
			if c.Host != "" {
				c.Host = c.Dir
			}
			if err := os.Mkdir(c.Dir, 0o755); err != nil {
				t.Fatal(err)
			}
			c.Seed = 1
			fsx(t, c, time.Second/2)
		})
	}
}

// fsx runs a checker for a time.
func fsx(t *testing.T, c Config, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	n, err := Run(ctx, c)
	if err != nil {
		t.Error(err) // not Fatal: several run side by side
		return
	}
	t.Logf("seed %d: %d operations", c.Seed, n)
	if n < 100 {
		t.Errorf("%d operations in %v; want hundreds", n, d)
	}
}

// TestFsxFindsFaults puts faults into a local directory: each is found, and the trace is
// as short as it can be.
func TestFsxFindsFaults(t *testing.T) {
	zeroFirst := func(dir string) {
		for n := range nameCount {
			if fd, err := openAt(name(dir, n), unix.O_WRONLY); err == nil {
				unix.Pwrite(fd, []byte{0}, 0)
				unix.Close(fd)
			}
		}
	}
	for _, tc := range []struct {
		name  string
		after kind
		fault func(dir string)
		atMax int // operations of the trace
	}{
		{"byte lost by fallocate", opAllocate, zeroFirst, 3},
		{"name appears", opFtruncate, func(dir string) { os.WriteFile(filepath.Join(dir, "d0", "extra"), nil, 0o600) }, 2},
		{"name disappears", opSync, func(dir string) { os.Remove(name(dir, 3)) }, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := Run(ctx, Config{Dir: t.TempDir(), Seed: 5, tamper: func(dir string, op Op) {
				if op.kind == tc.after {
					tc.fault(dir)
				}
			}})
			var f *Failure
			if !errors.As(err, &f) {
				t.Fatalf("the fault was not found: %v", err)
			}
			if !f.Again || len(f.Ops) > tc.atMax {
				t.Errorf("%d operations, again %v; want at most %d\n%v", len(f.Ops), f.Again, tc.atMax, f)
			}
			_, trace, _ := strings.Cut(f.Error(), "-fsx-trace FILE:\n")
			ops, err := ParseTrace(strings.NewReader(trace))
			if err != nil || !slices.Equal(ops, f.Ops) {
				t.Errorf("ParseTrace of the report: %v, %v; want %v", ops, err, f.Ops)
			}
		})
	}
}

func FuzzParseTrace(f *testing.F) {
	f.Add([]byte("open a=3 b=1 how=66\nwrite a=1 off=5 len=100 fill=7 how=1\n# nothing\n\nclose a=1"))
	f.Add([]byte("open a=-1"))
	f.Add([]byte("open a=1 a=2 =3"))
	f.Add([]byte("copy to=262144 len=262144 off=262145"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ops, err := ParseTrace(bytes.NewReader(b))
		if err != nil {
			return
		}
		var text strings.Builder
		for _, op := range ops {
			text.WriteString(op.String() + "\n")
		}
		again, err := ParseTrace(strings.NewReader(text.String()))
		if err != nil || len(again) != len(ops) {
			t.Fatalf("ParseTrace(%q) = %d operations, %v; want %d", text.String(), len(again), err, len(ops))
		}
		for i := range ops {
			if again[i] != ops[i] {
				t.Fatalf("%v became %v", ops[i], again[i])
			}
		}
	})
}
