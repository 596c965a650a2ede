package workload

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse/devfuse/mounttest"
)

// Limits of a backend while a tree of any size is walked. With fewer descriptors than the
// minimum the wrong process was looked at, or the kernel has forgotten the files.
const (
	minDescriptors = 100
	maxDescriptors = 4096
	maxResident    = 300 << 20 // bytes
)

// TestManyFiles walks over a tree of many files, twice, while the files are replaced on
// the host: the backend stays small, and no file is lost.
func TestManyFiles(t *testing.T) {
	dirs := 200
	if *full {
		dirs = 1000
	}
	b := mounttest.Vfiofs(t)
	shared := shmDir(t)
	began := time.Now()
	makeMany(t, shared, dirs)
	t.Logf("%d files made in %.1f s", dirs*filesPerDir, time.Since(began).Seconds())
	for _, tc := range []struct {
		name   string
		prefix []string
	}{
		{"as root", nil},
		{"as another user", []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := b
			if tc.prefix != nil {
				needProgram(t, tc.prefix[0], "util-linux")
				b.Argv = slices.Concat(tc.prefix, []string{publicCopy(t, b.Argv[0])}, b.Argv[1:])
			}
			m := mountOf(t, b, shared)
			watch := watchProcess(m.BackendPID())
			walkMany(t, m.Dir, shared, dirs)
			fds, resident := watch()
			t.Logf("the backend had up to %d descriptors and %d MB", fds, resident>>20)
			if fds < minDescriptors || fds >= maxDescriptors {
				t.Errorf("%d descriptors; want between %d and %d", fds, minDescriptors, maxDescriptors)
			}
			if dirs == 1000 && (resident == 0 || resident >= maxResident) {
				t.Errorf("%d bytes resident; want less than %d", resident, maxResident)
			}
		})
	}
}

const filesPerDir = 1000

func manyPath(root string, dir, file int) string {
	return filepath.Join(root, fmt.Sprintf("d%04d", dir), fmt.Sprintf("f%04d", file))
}

// makeMany fills a directory. One file in a hundred has a byte, the rest are empty, which
// costs no page.
func makeMany(t *testing.T, root string, dirs int) {
	t.Helper()
	var wg sync.WaitGroup
	for part := range 2 {
		wg.Go(func() {
			for d := part; d < dirs; d += 2 {
				if err := os.Mkdir(filepath.Dir(manyPath(root, d, 0)), 0o755); err != nil {
					t.Error(err)
					return
				}
				for f := range filesPerDir {
					var body []byte
					if f%100 == 0 {
						body = []byte("0")
					}
					if err := os.WriteFile(manyPath(root, d, f), body, 0o644); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// walkMany walks twice, in opposite order, with two processes' worth of threads, while the
// files change.
func walkMany(t *testing.T, dir, shared string, dirs int) {
	var stop atomic.Bool
	var replaced int
	var replacer sync.WaitGroup
	replacer.Go(func() {
		r := rand.New(rand.NewPCG(1, 2))
		pace := time.NewTicker(200 * time.Microsecond)
		defer pace.Stop()
		for ; !stop.Load(); <-pace.C {
			path := manyPath(shared, r.IntN(dirs), r.IntN(filesPerDir))
			if err := errors.Join(os.WriteFile(path+".new", nil, 0o644), os.Rename(path+".new", path)); err != nil {
				t.Error(err)
				return
			}
			replaced++
		}
	})
	began := time.Now()
	var seen, failed atomic.Int64
	fail := func(err error) {
		if failed.Add(1) <= 10 {
			t.Error(err)
		}
	}
	for pass := range 2 {
		var wg sync.WaitGroup
		for part := range 4 {
			wg.Go(func() {
				for i := part; i < dirs; i += 4 {
					d := i
					if pass == 1 {
						d = dirs - 1 - i
					}
					seen.Add(walkDir(filepath.Dir(manyPath(dir, d, 0)), fail))
				}
			})
		}
		wg.Wait()
	}
	stop.Store(true)
	replacer.Wait()
	t.Logf("two walks in %.1f s; %d files replaced meanwhile", time.Since(began).Seconds(), replaced)
	if n := failed.Load(); n > 0 {
		t.Errorf("%d failures in all; want none", n)
	}
	if got, want := seen.Load(), int64(2*dirs*filesPerDir); got > want || got < want-int64(replaced) {
		t.Errorf("%d files listed, %d replaced meanwhile; want %d", got, replaced, want)
	}
	if replaced == 0 {
		t.Error("no file was replaced meanwhile; want many")
	}
}

// walkDir lists a directory, looks at every file, reads some, and returns how many the
// list had. A file that is replaced after the directory was opened may be missing in the
// list (readdir(3p); tmpfs does that), but is there.
func walkDir(dir string, fail func(error)) (listed int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		fail(err)
		return 0
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".new") {
			listed++
		}
	}
	for f := range filesPerDir {
		path := filepath.Join(dir, fmt.Sprintf("f%04d", f))
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			fail(fmt.Errorf("lstat %s: %w", path, err))
			continue
		}
		if f%50 == 0 {
			if b, err := os.ReadFile(path); err != nil || len(b) > 1 {
				fail(fmt.Errorf("read %s: %q, %w", path, b, err))
			}
		}
	}
	return listed
}

// watchProcess samples a process and its children, such as the one within the sandbox,
// until the returned function is called. That tells the most descriptors that they had,
// and the sum of their peaks of resident memory.
func watchProcess(pid int) func() (descriptors int, resident int64) {
	done, most := make(chan struct{}), make(chan int)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		highest := 0
		for {
			select {
			case <-done:
				most <- highest
				return
			case <-tick.C:
				sum := 0
				for _, p := range family(pid) {
					fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p))
					sum += len(fds)
				}
				highest = max(highest, sum)
			}
		}
	}()
	return func() (int, int64) {
		close(done)
		var resident int64
		for _, p := range family(pid) {
			resident += peakResident(p)
		}
		return <-most, resident
	}
}

// family returns a process and its descendants (proc_pid_task(5), children).
func family(pid int) []int {
	pids := []int{pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		children, _ := os.ReadFile(list)
		for child := range strings.FieldsSeq(string(children)) {
			if n, err := strconv.Atoi(child); err == nil {
				pids = append(pids, family(n)...)
			}
		}
	}
	return pids
}

// peakResident returns VmHWM of /proc/PID/status in bytes, 0 if the process is gone.
func peakResident(pid int) int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// publicCopy copies a program to where every user can run it.
func publicCopy(t *testing.T, program string) string {
	t.Helper()
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(publicDir(t, ""), filepath.Base(program))
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// shmDir makes a directory in memory: a million files on a disk would be a test of the
// disk.
func shmDir(t *testing.T) string {
	t.Helper()
	return publicDir(t, "/dev/shm")
}

// publicDir makes a directory that every user can enter, which t.TempDir is not.
func publicDir(t *testing.T, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "workload")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
