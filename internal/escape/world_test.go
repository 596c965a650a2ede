package escape

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// canary is in the content, the names, the targets and the attributes of what is
// outside, and nowhere else.
const canary = "CANARY-7f2d1c"

// nobody is an ordinary user without any entry in /etc.
const nobody = 65533

// A world is a share and what is around it. The goroutine of the test owns it, but for
// what race attackers rename.
type world struct {
	testing.TB
	base string
	uid  int // who serves, and owns the share

	// loose are paths below outside of what the attempt moves there: those are the
	// guest's, and their directory changes.
	loose  []string
	before map[string]string

	mu   sync.Mutex
	inos map[uint64]string // of everything outside
}

// newWorld makes an empty world, which is removed at the end. Mounts below it show in
// every mount namespace that was made from this one.
func newWorld(t testing.TB, uid int) *world {
	t.Helper()
	base, err := os.MkdirTemp("", "escape") // sockets need a short path
	w := &world{TB: t, base: base, uid: uid}
	w.must(err)
	w.must(unix.Mount(base, base, "", unix.MS_BIND, ""))
	w.must(unix.Mount("", base, "", unix.MS_SHARED, ""))
	t.Cleanup(func() {
		w.must(unix.Unmount(base, unix.MNT_DETACH))
		w.must(os.RemoveAll(base))
	})
	w.must(os.Chmod(base, 0o755))
	w.must(os.Mkdir(w.share(), 0o755))
	w.must(os.Chown(w.share(), uid, uid))
	return w
}

func (w *world) must(err error) {
	if err != nil {
		w.Helper()
		w.Fatal(err)
	}
}

// share and outside return the path of something there.
func (w *world) share(parts ...string) string {
	return filepath.Join(append([]string{w.base, "share"}, parts...)...)
}

func (w *world) outside(parts ...string) string {
	return filepath.Join(append([]string{w.base, "outside"}, parts...)...)
}

// reset makes the world as every attempt finds it.
func (w *world) reset() {
	w.Helper()
	w.loose = nil
	for _, dir := range []string{w.share(), w.outside()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.Fatal(err)
		}
		for _, e := range entries {
			w.must(os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	w.must(os.RemoveAll(w.outside()))
	for _, dir := range []string{"", "dir", "dir/sub", "empty", "landing"} {
		w.must(os.Mkdir(w.outside(dir), 0o777))
		w.must(os.Chmod(w.outside(dir), 0o777))
	}
	for _, name := range []string{"secret", "dir/secret", "dir/sub/secret", "dir/" + canary, "landing/secret", "landing/" + canary} {
		path := w.outside(name)
		w.must(os.WriteFile(path, []byte(canary+" of "+name+"\n"), 0o666))
		w.must(os.Chmod(path, 0o666))
		w.must(unix.Setxattr(path, "user.secret", []byte(canary), 0))
	}
	w.must(os.Symlink(canary, w.outside("dir/link")))
	w.must(unix.Mkfifo(w.outside("pipe"), 0o666))
	w.must(unix.Setxattr(w.outside("dir"), "user.secret", []byte(canary), 0))
	// With old times of access, a read shows under relatime, too.
	for path := range w.walk() {
		old := []unix.Timespec{{Sec: 1_000_000_000}, {Sec: 1_100_000_000}}
		w.must(unix.UtimesNanoAt(unix.AT_FDCWD, path, old, unix.AT_SYMLINK_NOFOLLOW))
	}
	w.dir("d")
	w.dir("d/sub")
	w.file("d/f", "inside")
	w.file("f", "inside")
	w.snapshot()
}

// dir, file and link make something in the share.
func (w *world) dir(name string) {
	w.Helper()
	w.must(os.Mkdir(w.share(name), 0o777))
	w.own(name)
}

func (w *world) file(name, content string) {
	w.Helper()
	w.must(os.WriteFile(w.share(name), []byte(content), 0o666))
	w.own(name)
}

func (w *world) link(target, name string) {
	w.Helper()
	w.must(os.Symlink(target, w.share(name)))
	w.own(name)
}

func (w *world) own(name string) {
	w.Helper()
	w.must(os.Lchown(w.share(name), w.uid, w.uid))
}

// host has the host change what is outside.
func (w *world) host(change func() error) {
	w.Helper()
	w.must(change())
	w.snapshot()
}

// moveOut moves something out of the share, to outside/landing/moved.
func (w *world) moveOut(name string) {
	w.Helper()
	w.loose = append(w.loose, "landing/moved")
	w.host(func() error { return os.Rename(w.share(name), w.outside("landing/moved")) })
}

// walk yields everything outside with its state, without leaving a trace.
func (w *world) walk() map[string]unix.Stat_t {
	w.Helper()
	all := map[string]unix.Stat_t{}
	var visit func(path string)
	visit = func(path string) {
		var st unix.Stat_t
		w.must(unix.Lstat(path, &st))
		all[path] = st
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return
		}
		for _, name := range w.names(path) {
			rel, err := filepath.Rel(w.outside(), filepath.Join(path, name))
			w.must(err)
			if !slices.Contains(w.loose, rel) {
				visit(filepath.Join(path, name))
			}
		}
	}
	visit(w.outside())
	return all
}

func (w *world) names(dir string) []string {
	w.Helper()
	n, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	w.must(err)
	f := os.NewFile(uintptr(n), dir)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	w.must(err)
	slices.Sort(names)
	return names
}

// state describes everything outside, each object in one line.
func (w *world) state() (lines map[string]string, inos map[uint64]string) {
	w.Helper()
	lines, inos = map[string]string{}, map[uint64]string{}
	for path, st := range w.walk() {
		inos[st.Ino] = path
		line := fmt.Sprintf("ino %d mode %o owner %d:%d device %#x", st.Ino, st.Mode, st.Uid, st.Gid, st.Rdev)
		rel, err := filepath.Rel(w.outside(), path)
		w.must(err)
		if !slices.ContainsFunc(w.loose, func(l string) bool { return filepath.Dir(l) == rel }) {
			line += fmt.Sprintf(" size %d links %d mtime %v ctime %v", st.Size, st.Nlink, st.Mtim, st.Ctim)
			if st.Mode&unix.S_IFMT != unix.S_IFLNK { // reading the target changes it
				line += fmt.Sprintf(" atime %v", st.Atim)
			}
		}
		names := make([]byte, 1024)
		n, err := unix.Llistxattr(path, names)
		w.must(err)
		for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
			value := make([]byte, 1024)
			if n, err := unix.Lgetxattr(path, name, value); err == nil {
				line += fmt.Sprintf(" %s=%q", name, value[:n])
			}
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			line += fmt.Sprintf(" content %x", w.sum(path))
		}
		lines[path] = line
	}
	return lines, inos
}

func (w *world) sum(path string) []byte {
	w.Helper()
	n, err := unix.Open(path, unix.O_RDONLY|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	w.must(err)
	f := os.NewFile(uintptr(n), path)
	defer f.Close()
	b := make([]byte, 4096)
	got, err := f.Read(b)
	if got == 0 {
		w.must(err)
	}
	sum := sha256.Sum256(b[:got])
	return sum[:8]
}

// snapshot notes how everything outside is now.
func (w *world) snapshot() {
	w.Helper()
	lines, inos := w.state()
	for dir := w.base; dir != "/"; dir = filepath.Dir(dir) {
		var st, own unix.Stat_t
		w.must(unix.Stat(dir, &st))
		w.must(unix.Stat(w.outside(), &own))
		if st.Dev == own.Dev && st.Ino > 16 { // the first numbers are on every file system
			inos[st.Ino] = dir
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before, w.inos = lines, inos
}

// changes says what has changed outside since the snapshot.
func (w *world) changes() []string {
	w.Helper()
	var list []string
	after, _ := w.state()
	for path, was := range w.before {
		switch now, ok := after[path]; {
		case !ok:
			list = append(list, path+" is gone")
		case now != was:
			list = append(list, fmt.Sprintf("%s has changed:\n\t%s\n\t%s", path, was, now))
		}
	}
	for path := range after {
		if _, ok := w.before[path]; !ok {
			list = append(list, path+" is new")
		}
	}
	slices.Sort(list)
	return list
}

// ownerOf says what outside has an inode number, "" if nothing.
func (w *world) ownerOf(ino uint64) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.inos[ino]
}
