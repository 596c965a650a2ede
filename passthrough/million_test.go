package passthrough

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/testkit"
	"vfiofs/virtio/guestmem"
)

// A tree is many empty files in directories of perDir.
type tree struct {
	dir  string
	dirs int
}

const perDir = 250

func (x tree) path(dir, file int) string {
	return filepath.Join(x.dir, fmt.Sprintf("directory-%d", dir), fmt.Sprintf("some-file-%d", file))
}

// make makes the tree.
func (x tree) make(t *testing.T) {
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for d := w; d < x.dirs; d += 2 {
				if err := os.Mkdir(filepath.Dir(x.path(d, 0)), 0o755); err != nil {
					t.Error(err)
					return
				}
				for f := range perDir {
					if err := unix.Mknod(x.path(d, f), unix.S_IFREG|0o644, 0); err != nil {
						t.Errorf("make file %d of directory %d: %v", f, d, err)
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

const walkEnv = "VFIOFS_TEST_WALK"

// TestMillionFiles walks a tree of more files than a process may have descriptors, in a
// process of its own that forgets nothing, while this one replaces files. It is a
// million files with VFIOFS_MOUNT=1, and a twentieth of that otherwise.
func TestMillionFiles(t *testing.T) {
	if dir := os.Getenv(walkEnv); dir != "" {
		walk(t, tree{dir: dir})
		return
	}
	x := tree{dirs: 200}
	limit := 100 << 10 // KiB
	modes := []FileHandles{HandlesPrefer, HandlesNever}
	if os.Getenv("VFIOFS_MOUNT") == "1" {
		x.dirs, limit, modes = 4000, 300<<10, modes[:1]
	}
	if testkit.Race { // slow and large
		x.dirs, limit = 100, 4*limit
	}
	base := t.TempDir()
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) == nil && st.Type == unix.TMPFS_MAGIC && st.Ffree > uint64(2*x.dirs*perDir) {
		shm, err := os.MkdirTemp("/dev/shm", "vfiofs-test-")
		must(t, err)
		t.Cleanup(func() { os.RemoveAll(shm) })
		base = shm
	}
	x.dir = filepath.Join(base, "share")
	must(t, os.Mkdir(x.dir, 0o755))
	start := time.Now()
	x.make(t)
	t.Logf("made %d files in %v", x.dirs*perDir, time.Since(start).Round(time.Millisecond))
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			start := time.Now()
			files, fds, kib := x.walked(t, base, mode)
			t.Logf("%d files, at most %d descriptors and %d MiB, %v", files, fds, kib>>10, time.Since(start).Round(time.Millisecond))
			if files != x.dirs*perDir || fds >= 4096 || kib > limit {
				t.Errorf("walked %d files with %d descriptors in %d MiB; want %d, less than 4096, at most %d",
					files, fds, kib>>10, x.dirs*perDir, limit>>10)
			}
		})
	}
}

// walked runs the walk in a child and replaces files until it is over.
func (x tree) walked(t *testing.T, base string, mode FileHandles) (files, fds, kib int) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestMillionFiles$", "-test.v")
	cmd.Env = append(os.Environ(), walkEnv+"="+x.dir, walkEnv+"_MODE="+mode.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	done := make(chan struct{})
	var host sync.WaitGroup
	host.Go(func() {
		r := rand.New(rand.NewPCG(1, 2))
		tmp := filepath.Join(base, "tmp")
		for {
			select {
			case <-done:
				return
			default:
			}
			err := os.WriteFile(tmp, []byte("new"), 0o644)
			if err == nil {
				err = os.Rename(tmp, x.path(r.IntN(x.dirs), r.IntN(perDir)))
			}
			if err != nil {
				t.Errorf("replace a file: %v", err)
				return
			}
		}
	})
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		fmt.Sscanf(strings.TrimSpace(lines.Text()), "walked %d files, %d descriptors, %d KiB", &files, &fds, &kib)
	}
	err = cmd.Wait()
	t.Logf("CPU of the walk: %v user, %v system", cmd.ProcessState.UserTime(), cmd.ProcessState.SystemTime())
	close(done)
	host.Wait()
	if err != nil {
		t.Fatalf("the walk failed: %v\n%s", err, said.String())
	}
	return files, fds, kib
}

// walk is the child. It makes no garbage, as a server does not.
func walk(t *testing.T, x tree) {
	debug.SetGCPercent(400) // as vfiofs does
	g := newGuest(t, func(o *Options) fuse.InitFlags {
		o.SharedDir = x.dir
		must(t, o.FileHandles.UnmarshalText([]byte(os.Getenv(walkEnv+"_MODE"))))
		return fuse.DoReaddirplus
	})
	g.fs.nodes.old = oldAge
	most, files := 0, 0
	dirs := make([]fuse.NodeID, 0, x.dirs)
	w, below := walker{guest: g}, walker{guest: g}
	w.each(fuse.RootID, func(name []byte, d fuse.NodeID) {
		d = below.seen(fuse.RootID, name, d)
		dirs = append(dirs, d)
		below.each(d, func(name []byte, n fuse.NodeID) {
			below.use(d, name, below.seen(d, name, n), files%16 == 0)
			files++
		})
		if len(dirs)%100 == 0 {
			most = max(most, fds(t))
		}
	})
	// Once more, in another order: what was evicted long ago comes back.
	var name []byte
	for i, d := range dirs {
		for f := i % 7; f < perDir; f += 50 {
			name = fmt.Appendf(name[:0], "some-file-%d", f)
			w.use(d, name, w.seen(d, name, 0), f%2 == 0)
		}
		g.attr(d)
	}
	most = max(most, fds(t))
	fmt.Printf("walked %d files, %d descriptors, %d KiB\n", files, most, peak(t))
}

// A walker uses files as Linux does.
type walker struct {
	*guest
	dir    fuse.DirBuffer
	entry  fuse.Entry
	attr   fuse.Attr
	opened fuse.Opened
	data   [16]byte
}

// each calls f for every name of a directory, and the node that READDIRPLUS gives it.
func (w *walker) each(d fuse.NodeID, f func(name []byte, n fuse.NodeID)) {
	w.Helper()
	h := w.opendir(d)
	le := binary.LittleEndian
	for off := uint64(0); ; {
		w.dir.Reset(64 << 10)
		must(w, w.fs.ReadDir(w.c, d, h, off, true, &w.dir))
		b := w.dir.Bytes()
		if len(b) == 0 {
			break
		}
		for len(b) > 0 {
			n := fuse.NodeID(le.Uint64(b))
			b = b[128:]
			off = le.Uint64(b[8:])
			size := int(le.Uint32(b[16:]))
			if name := b[24 : 24+size]; !isDots(name) {
				f(name, n)
			}
			b = b[(24+size+7)&^7:]
		}
	}
	must(w, w.release(d, h))
}

// seen returns the node of a name, which is n if that is not 0.
func (w *walker) seen(d fuse.NodeID, name []byte, n fuse.NodeID) fuse.NodeID {
	w.Helper()
	if n != 0 {
		return n
	}
	if err := w.fs.Lookup(w.c, d, name, &w.entry); err != nil {
		w.Fatalf("Lookup(%s) = %v; want success", name, err)
	}
	return w.entry.Node
}

// use looks at a file, and reads it if open is set. When it is told ESTALE, it looks up
// the name and tries once more; the file may have been replaced again, but not for
// ever.
func (w *walker) use(d fuse.NodeID, name []byte, n fuse.NodeID, open bool) {
	w.Helper()
	for try := 0; ; try++ {
		_, err := w.fs.GetAttr(w.c, n, 0, &w.attr)
		if err == nil && open {
			if err = w.fs.Open(w.c, n, 0, false, &w.opened); err == nil {
				var v guestmem.Vec
				v.Append(w.data[:])
				_, err = w.fs.Read(w.c, n, w.opened.Handle, v, 0)
				must(w, w.release(n, w.opened.Handle))
			}
		}
		if err == nil {
			return
		}
		if err != unix.ESTALE || try > 2 {
			w.Fatalf("use of %s after %d tries = %v; want success", name, try, err)
		}
		old := n
		if n = w.seen(d, name, 0); n == old {
			w.Fatalf("node of %s = %d, which was stale; want another", name, n)
		}
	}
}

// peak returns the most memory that the process had resident, in KiB.
func peak(t *testing.T) (kib int) {
	b, err := os.ReadFile("/proc/self/status")
	must(t, err)
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	fmt.Sscan(rest, &kib)
	return kib
}
