package workload

import (
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"vfiofs/fuse/devfuse/mounttest"
)

// fsxModes are the caches of the guest that differ for data.
var fsxModes = []struct {
	name   string
	args   []string
	config Config
}{
	{"auto", []string{"--cache=auto"}, Config{}},
	{"always, writeback", []string{"--cache=always", "--writeback"}, Config{Writeback: true}},
	{"never, mmap", []string{"--cache=never", "--allow-mmap"}, Config{Coherent: true}},
	{"direct io", []string{"--cache=auto", "--allow-direct-io"}, Config{Direct: true}},
}

// TestFsx runs the checker on the mount, two at a time, in each mode.
func TestFsx(t *testing.T) {
	seed := *fsxSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	for _, mode := range fsxModes {
		t.Run(mode.name, func(t *testing.T) {
			m := mount(t, mounttest.Vfiofs(t, mode.args...))
			in := func(i int) Config {
				c, dir := mode.config, "fsx"+strconv.Itoa(i)
				c.Seed, c.Dir, c.Host = seed+uint64(i), filepath.Join(m.Dir, dir), filepath.Join(m.host, dir)
				mkdir(t, c.Dir)
				return c
			}
			if *fsxTrace != "" {
				repeatTrace(t, in(0), *fsxTrace)
				return
			}
			var wg sync.WaitGroup
			for i := range 2 {
				c := in(i)
				wg.Go(func() { fsx(t, c, *fsxTime/time.Duration(len(fsxModes))) })
			}
			wg.Wait()
		})
	}
}

// repeatTrace does the operations in a file.
func repeatTrace(t *testing.T, c Config, trace string) {
	f, err := os.Open(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ops, err := ParseTrace(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := Repeat(c, ops); err != nil {
		t.Fatal(err)
	}
}
