package workload

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An entry is everything that a tar archive keeps of a file.
type entry struct {
	Mode   uint32 // type and permissions, as in st_mode
	UID    uint32
	GID    uint32
	Mtime  int64 // nanoseconds since 1970
	Rdev   uint64
	Link   string   // target of a symlink
	Hash   [32]byte // of the content
	Size   int64
	Same   string // first of the names of this inode, in order
	Xattrs map[string]string
}

// readTree reads a tree as entries by path. Symlinks are not followed.
func readTree(root string) (map[string]entry, error) {
	tree := map[string]entry{}
	first := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || rel == "." {
			return err
		}
		e, ino, err := readEntry(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if e.Mode&unix.S_IFMT != unix.S_IFDIR {
			if _, ok := first[ino]; !ok {
				first[ino] = rel // WalkDir goes in order
			}
			e.Same = first[ino]
		}
		tree[rel] = e
		return nil
	})
	return tree, err
}

func readEntry(path string) (e entry, ino uint64, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return e, 0, fmt.Errorf("lstat: %w", err)
	}
	e = entry{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Mtime: st.Mtim.Nano(), Rdev: st.Rdev}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Size = st.Size
		e.Hash, err = hashFile(path)
	case unix.S_IFLNK:
		e.Link, err = os.Readlink(path)
	}
	if err != nil {
		return e, 0, err
	}
	e.Xattrs, err = readXattrs(path)
	return e, st.Ino, err
}

func hashFile(path string) (sum [32]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	return [32]byte(h.Sum(nil)), nil
}

// readXattrs returns the attributes that a user can set.
func readXattrs(path string) (map[string]string, error) {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("llistxattr: %w", err)
	}
	var x map[string]string
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "security.") && name != "security.capability" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, value)
		if errors.Is(err, unix.ENODATA) { // trusted.* is for CAP_SYS_ADMIN (xattr(7))
			n, err = copy(value, "(ENODATA)"), nil
		}
		if err != nil {
			return nil, fmt.Errorf("lgetxattr %s: %w", name, err)
		}
		if x == nil {
			x = map[string]string{}
		}
		x[name] = string(value[:n])
	}
	return x, nil
}

// diffTrees returns how a tree differs from what it should be, at most a few lines.
func diffTrees(got, want map[string]entry) string {
	var b strings.Builder
	n := 0
	say := func(format string, args ...any) {
		if n++; n <= 20 {
			fmt.Fprintf(&b, format+"\n", args...)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(want)) {
		g, ok := got[path]
		w := want[path]
		switch {
		case !ok:
			say("%s is missing", path)
		case g.Mode != w.Mode || g.UID != w.UID || g.GID != w.GID || g.Rdev != w.Rdev:
			say("%s: mode %o, owner %d:%d, device %#x; want %o, %d:%d, %#x", path, g.Mode, g.UID, g.GID, g.Rdev, w.Mode, w.UID, w.GID, w.Rdev)
		case g.Mtime != w.Mtime:
			say("%s: modified at %d; want %d", path, g.Mtime, w.Mtime)
		case g.Size != w.Size || g.Hash != w.Hash || g.Link != w.Link:
			say("%s: other content (%d bytes, %q); want %d bytes, %q", path, g.Size, g.Link, w.Size, w.Link)
		case g.Same != w.Same:
			say("%s is the same file as %s; want %s", path, g.Same, w.Same)
		case !maps.Equal(g.Xattrs, w.Xattrs):
			say("%s: extended attributes %q; want %q", path, g.Xattrs, w.Xattrs)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			say("%s should not be there", path)
		}
	}
	if n > 20 {
		fmt.Fprintf(&b, "and %d more", n-20)
	}
	return b.String()
}

// writeTar writes an archive of about n entries, as wild as a tree can be, and returns
// what must come out of it.
func writeTar(t *testing.T, path string, n int) map[string]entry {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tarWriter{tar.NewWriter(f), rand.New(rand.NewPCG(7, 1)), map[string]entry{}}
	var files []string
	dir := ""
	for i := range n {
		if i%64 == 0 {
			dir = filepath.Join(parentOf(dir, i), fmt.Sprintf("dir%05d", i/64))
			err = w.dir(dir)
		}
		name := filepath.Join(dir, fmt.Sprintf("entry-%06d", i))
		switch {
		case err != nil:
		case i%20 == 7 && len(files) > 0:
			err = w.link(name, files[w.IntN(len(files))])
		case i%50 == 9:
			err = w.symlink(name, fmt.Sprintf("../some/where/%d", i))
		case i%500 == 13:
			err = w.special(name, tar.TypeFifo, unix.S_IFIFO, 0)
		case i%500 == 17:
			err = w.special(name, tar.TypeChar, unix.S_IFCHR, unix.Mkdev(1, 3))
		default:
			files = append(files, name)
			err = w.file(name, i)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.nameLinks()
	return w.tree
}

// parentOf makes trees some levels deep: a directory in eight starts at the top.
func parentOf(dir string, i int) string {
	if i/64%8 == 0 {
		return ""
	}
	return dir
}

type tarWriter struct {
	*tar.Writer
	*rand.Rand
	tree map[string]entry
}

// header fills what all entries have, in the archive and in the expectation.
func (w tarWriter) header(name string, kind byte, mode uint32) (*tar.Header, entry) {
	mtime := time.Unix(1_500_000_000+w.Int64N(200_000_000), w.Int64N(1_000_000_000))
	e := entry{Mode: mode, UID: uint32(w.IntN(3)) * 1000, GID: uint32(w.IntN(3)) * 100, Mtime: mtime.UnixNano()}
	h := &tar.Header{
		Format: tar.FormatPAX, Name: name, Typeflag: kind, Mode: int64(mode & 0o7777),
		Uid: int(e.UID), Gid: int(e.GID), ModTime: mtime,
	}
	return h, e
}

// xattrs gives an entry one to three attributes (archive/tar: SCHILY.xattr.).
func (w tarWriter) xattrs(h *tar.Header, e *entry) {
	h.PAXRecords, e.Xattrs = map[string]string{}, map[string]string{}
	for i := range 1 + w.IntN(3) {
		name, value := fmt.Sprintf("user.attribute%d", i), fmt.Sprintf("%x", w.Uint64())
		h.PAXRecords["SCHILY.xattr."+name] = value
		e.Xattrs[name] = value
	}
}

func (w tarWriter) dir(name string) error {
	h, e := w.header(name+"/", tar.TypeDir, unix.S_IFDIR|0o755|uint32(w.IntN(2))*unix.S_ISVTX)
	if w.IntN(5) == 0 {
		w.xattrs(h, &e)
	}
	w.tree[name] = e
	return w.WriteHeader(h)
}

func (w tarWriter) file(name string, i int) error {
	modes := []uint32{0o644, 0o755, 0o600, 0o444, 0o4755, 0o2755, 0o000}
	h, e := w.header(name, tar.TypeReg, unix.S_IFREG|modes[w.IntN(len(modes))])
	if i%8 == 0 {
		w.xattrs(h, &e)
	}
	body := make([]byte, w.IntN(4000))
	if i%1000 == 1 {
		body = make([]byte, 1<<20)
	}
	pattern(body, uint32(i))
	h.Size, e.Size, e.Hash = int64(len(body)), int64(len(body)), sha256.Sum256(body)
	w.tree[name] = e
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(body)
	return err
}

func (w tarWriter) link(name, to string) error {
	h, _ := w.header(name, tar.TypeLink, 0)
	h.Linkname = to
	e := w.tree[to]
	e.Same = to // until nameLinks
	w.tree[name] = e
	return w.WriteHeader(h)
}

func (w tarWriter) symlink(name, to string) error {
	h, e := w.header(name, tar.TypeSymlink, unix.S_IFLNK|0o777)
	h.Linkname, e.Link = to, to
	w.tree[name] = e
	return w.WriteHeader(h)
}

func (w tarWriter) special(name string, kind byte, mode uint32, rdev uint64) error {
	h, e := w.header(name, kind, mode|0o640)
	h.Devmajor, h.Devminor = int64(unix.Major(rdev)), int64(unix.Minor(rdev))
	e.Rdev = rdev
	w.tree[name] = e
	return w.WriteHeader(h)
}

// nameLinks sets Same to the first name in the order of WalkDir, as readTree does.
func (w tarWriter) nameLinks() {
	groups := map[string][]string{}
	for name, e := range w.tree {
		if e.Mode&unix.S_IFMT == unix.S_IFDIR {
			continue
		}
		key := name
		if e.Same != "" {
			key = e.Same
		}
		groups[key] = append(groups[key], name)
	}
	walkOrder := func(a, b string) int { return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) }
	for _, names := range groups {
		first := slices.MinFunc(names, walkOrder)
		for _, name := range names {
			e := w.tree[name]
			e.Same = first
			w.tree[name] = e
		}
	}
}
