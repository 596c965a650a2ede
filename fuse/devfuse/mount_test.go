package devfuse_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vfiofs/fuse/devfuse/mounttest"
	"vfiofs/internal/testkit"
)

// backends are those that every test is run against.
func backends(t *testing.T) []mounttest.Backend {
	return []mounttest.Backend{mounttest.Vfiofs(t, "--xattr"), mounttest.Virtiofsd(t, "--xattr")}
}

// each runs test with a mount of an empty directory of each backend.
func each(t *testing.T, test func(t *testing.T, m *mounttest.Mounted, shared string)) {
	for _, b := range backends(t) {
		t.Run(b.Name, func(t *testing.T) {
			shared := t.TempDir()
			test(t, mounttest.Mount(t, b, shared), shared)
		})
	}
}

func TestMountOperations(t *testing.T) {
	each(t, func(t *testing.T, m *mounttest.Mounted, shared string) {
		file, dir := filepath.Join(m.Dir, "file"), filepath.Join(m.Dir, "dir")
		testkit.Check(t, os.WriteFile(file, []byte("one"), 0o640))
		testkit.Check(t, os.Mkdir(dir, 0o750))
		testkit.Check(t, os.Link(file, filepath.Join(dir, "link")))
		testkit.Check(t, os.Symlink("../file", filepath.Join(dir, "symlink")))
		testkit.Check(t, syscall.Mknod(filepath.Join(dir, "fifo"), syscall.S_IFIFO|0o600, 0))
		testkit.Check(t, os.Rename(file, filepath.Join(dir, "renamed")))
		testkit.Check(t, os.Chmod(filepath.Join(dir, "renamed"), 0o604))
		testkit.Check(t, os.Truncate(filepath.Join(dir, "link"), 2))
		testkit.Check(t, syscall.Setxattr(filepath.Join(dir, "renamed"), "user.name", []byte("value"), 0))

		// Seen from both sides.
		for _, root := range []string{m.Dir, shared} {
			got := listing(t, root)
			want := "dir drwxr-x---\ndir/fifo prw-------\ndir/link -rw----r-- on\ndir/renamed -rw----r-- on\ndir/symlink Lrwxrwxrwx ../file\n"
			if got != want {
				t.Errorf("%s holds\n%swant\n%s", root, got, want)
			}
			var value [16]byte
			n, err := syscall.Getxattr(filepath.Join(root, "dir/link"), "user.name", value[:])
			if err != nil || string(value[:max(n, 0)]) != "value" {
				t.Errorf("Getxattr() below %s = %q, %v; want value", root, value[:max(n, 0)], err)
			}
		}
		var st syscall.Statfs_t
		testkit.Check(t, syscall.Statfs(m.Dir, &st))
		if st.Blocks == 0 {
			t.Errorf("Statfs() = %+v; want the host's numbers", st)
		}
		for err, call := range map[error]func() error{
			syscall.ENOENT:    func() error { return os.Remove(filepath.Join(m.Dir, "none")) },
			syscall.EEXIST:    func() error { return os.Mkdir(dir, 0o700) },
			syscall.ENOTEMPTY: func() error { return syscall.Rmdir(dir) },
			syscall.ENODATA: func() error {
				_, err := syscall.Getxattr(dir, "user.none", nil)
				return err
			},
		} {
			if got := call(); !errors.Is(got, err) {
				t.Errorf("got %v; want %v", got, err)
			}
		}
		testkit.Check(t, os.RemoveAll(dir))
		if left := listing(t, shared); left != "" {
			t.Errorf("after RemoveAll there is still\n%s", left)
		}
	})
}

// listing describes what is below root.
func listing(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	testkit.Check(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		fmt.Fprintf(&b, "%s %v", name, info.Mode())
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %s", data)
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %s", target)
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

// fill writes size random bytes to path and returns their sum.
func fill(path string, seed uint64, size int64) (sum []byte, err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	_, err = io.CopyBuffer(io.MultiWriter(f, h), io.LimitReader(rand.NewChaCha8([32]byte{byte(seed)}), size), make([]byte, 1<<20))
	return h.Sum(nil), errors.Join(err, f.Close())
}

// sumOf returns the sum of what is in path.
func sumOf(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, f, make([]byte, 1<<20)); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

// TestMountGigabyte copies 1 GiB in and another out.
func TestMountGigabyte(t *testing.T) {
	const size = 1 << 30
	each(t, func(t *testing.T, m *mounttest.Mounted, shared string) {
		for i, dirs := range [][2]string{{m.Dir, shared}, {shared, m.Dir}} {
			name := fmt.Sprint(i)
			began := time.Now()
			want, err := fill(filepath.Join(dirs[0], name), uint64(i), size)
			testkit.Check(t, err)
			got, err := sumOf(filepath.Join(dirs[1], name))
			testkit.Check(t, err)
			t.Logf("1 GiB written below %s and read below %s in %v", filepath.Base(dirs[0]), filepath.Base(dirs[1]), time.Since(began))
			if !bytes.Equal(got, want) {
				t.Errorf("written below %s and read below %s: other bytes", dirs[0], dirs[1])
			}
			testkit.Check(t, os.Remove(filepath.Join(shared, name)))
		}
	})
}

func TestMountParallelWriters(t *testing.T) {
	const writers, size = 8, 32 << 20
	each(t, func(t *testing.T, m *mounttest.Mounted, shared string) {
		var group sync.WaitGroup
		for i := range writers {
			group.Go(func() {
				name := fmt.Sprint(i)
				want, err := fill(filepath.Join(m.Dir, name), uint64(i), size)
				if err != nil {
					t.Error(err)
					return
				}
				for _, dir := range []string{shared, m.Dir} {
					if got, err := sumOf(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
						t.Errorf("writer %d: %s has other bytes (%v)", i, dir, err)
					}
				}
			})
		}
		group.Wait()
	})
}

// busy keeps the mount in use until it fails, and returns the errors it ended with: one
// per kind of use.
func busy(t *testing.T, dir string) (started, ended chan error) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "written"))
	testkit.Check(t, err)
	testkit.Check(t, os.Mkdir(filepath.Join(dir, "many"), 0o700))
	uses := []func(i int) error{
		func(i int) error { _, err := f.WriteAt(make([]byte, 64<<10), int64(i%100)<<16); return err },
		func(i int) error { return os.WriteFile(filepath.Join(dir, "many", fmt.Sprint(i)), nil, 0o600) },
		func(int) error { _, err := os.ReadDir(filepath.Join(dir, "many")); return err },
		func(int) error { return f.Sync() },
	}
	started, ended = make(chan error, len(uses)), make(chan error, len(uses))
	for _, use := range uses {
		go func() {
			for i := 0; ; i++ {
				if err := use(i); err != nil {
					ended <- err
					return
				}
				if i == 20 {
					started <- nil
				}
			}
		}()
	}
	t.Cleanup(func() { f.Close() })
	return started, ended
}

// receive takes n values that must come within seconds.
func receive(t *testing.T, c <-chan error, n int, what string) (all []error) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for len(all) < n {
		select {
		case err := <-c:
			all = append(all, err)
		case <-limit:
			t.Fatalf("%s: only %d of %d in time (%v)", what, len(all), n, all)
		}
	}
	return all
}

const uses = 4 // that busy makes of a mount

func TestMountBackendKilled(t *testing.T) {
	each(t, func(t *testing.T, m *mounttest.Mounted, shared string) {
		started, ended := busy(t, m.Dir)
		receive(t, started, uses, "uses started")
		m.KillBackend()
		for _, err := range receive(t, ended, uses, "uses ended") {
			// Once the mount is gone, paths lead into the bare mount point.
			if !errors.Is(err, syscall.ENOTCONN) && !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a use of the mount ended with %v; want %v", err, syscall.ENOTCONN)
			}
		}
		if log := m.Logs(); !strings.Contains(log, "the backend has closed the connection") {
			t.Errorf("logs:\n%s\nwant what happened", log)
		}
	})
}

// TestMountBackendHangs ends the mount of a backend that doesn't answer any more.
func TestMountBackendHangs(t *testing.T) {
	each(t, func(t *testing.T, m *mounttest.Mounted, shared string) {
		started, ended := busy(t, m.Dir)
		receive(t, started, uses, "uses started")
		testkit.Check(t, syscall.Kill(m.BackendPID(), syscall.SIGSTOP))
		m.Stop()
		receive(t, ended, uses, "uses ended")
	})
}

func TestMountEndedWhileBusy(t *testing.T) {
	each(t, func(t *testing.T, m *mounttest.Mounted, shared string) {
		started, ended := busy(t, m.Dir)
		receive(t, started, uses, "uses started")
		m.Stop()
		receive(t, ended, uses, "uses ended")
	})
}

func TestMountUnmounted(t *testing.T) {
	each(t, func(t *testing.T, m *mounttest.Mounted, shared string) {
		f, err := os.Create(filepath.Join(m.Dir, "file"))
		testkit.Check(t, err)
		if err := m.Unmount(); !errors.Is(err, syscall.EBUSY) {
			t.Errorf("Unmount() of a mount in use = %v; want %v", err, syscall.EBUSY)
		}
		_, err = f.WriteString("written")
		testkit.Check(t, err)
		testkit.Check(t, f.Close())
		testkit.Check(t, m.Unmount())
		if data, err := os.ReadFile(filepath.Join(shared, "file")); string(data) != "written" {
			t.Errorf("the file holds %q, %v; want what was written", data, err)
		}
	})
}

func TestMountReadOnly(t *testing.T) {
	shared := t.TempDir()
	m := mounttest.Mount(t, mounttest.Vfiofs(t), shared, "--read-only")
	if err := os.WriteFile(filepath.Join(m.Dir, "file"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("WriteFile() = %v; want %v", err, syscall.EROFS)
	}
}
