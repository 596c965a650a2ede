package vmtest

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// An archive writes an initramfs in cpio "newc" format (Linux,
// Documentation/driver-api/early-userspace/buffer-format.rst). Parent directories
// come by themselves. The first error sticks and is returned by close.
type archive struct {
	w    io.Writer
	off  int64
	ino  int
	dirs map[string]bool
	err  error
}

func newArchive(w io.Writer) *archive {
	a := &archive{w: w, dirs: map[string]bool{".": true, "/": true}}
	// Go needs descriptors 0 to 2 before devtmpfs can be mounted.
	a.device("/dev/console", 5, 1)
	a.device("/dev/null", 1, 3)
	return a
}

// file adds a regular file of known size.
func (a *archive) file(name string, perm fs.FileMode, size int64, r io.Reader) {
	a.parents(name)
	a.header(name, unix.S_IFREG|uint32(perm.Perm()), size, 0, 0)
	if a.err == nil {
		var n int64
		if n, a.err = io.CopyN(a.w, r, size); a.err != nil {
			a.err = fmt.Errorf("archive %s: %w", name, a.err)
		}
		a.off += n
	}
	a.pad()
}

// bytes adds a file made of b.
func (a *archive) bytes(name string, perm fs.FileMode, b []byte) {
	a.file(name, perm, int64(len(b)), strings.NewReader(string(b)))
}

// hostFile adds a copy of a file of the host.
func (a *archive) hostFile(name, from string) {
	if a.err != nil {
		return
	}
	f, err := os.Open(from)
	if err != nil {
		a.err = err
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		a.err = err
		return
	}
	a.file(name, st.Mode(), st.Size(), f)
}

// dir adds a directory, once.
func (a *archive) dir(name string) {
	name = path.Clean(name)
	if a.dirs[name] {
		return
	}
	a.dirs[name] = true
	a.parents(name)
	a.header(name, unix.S_IFDIR|0o755, 0, 0, 0)
}

func (a *archive) device(name string, major, minor uint32) {
	a.parents(name)
	a.header(name, unix.S_IFCHR|0o600, 0, major, minor)
}

// close writes the end mark and returns the first error.
func (a *archive) close() error {
	a.header("TRAILER!!!", 0, 0, 0, 0)
	return a.err
}

func (a *archive) parents(name string) { a.dir(path.Dir(path.Clean(name))) }

// header writes magic, thirteen numbers of eight hex digits, the name with its NUL,
// and padding to four bytes.
func (a *archive) header(name string, mode uint32, size int64, major, minor uint32) {
	name = strings.TrimPrefix(name, "/")
	a.ino++
	const uid, gid, nlink, mtime, devMajor, devMinor, check = 0, 0, 1, 0, 0, 0, 0
	a.print("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.ino, mode, uid, gid, nlink, mtime, size,
		devMajor, devMinor, major, minor, len(name)+1, check, name)
	a.pad()
}

func (a *archive) pad() {
	if n := -a.off & 3; n > 0 {
		a.print("%s", "\x00\x00\x00"[:n])
	}
}

func (a *archive) print(format string, args ...any) {
	if a.err != nil {
		return
	}
	var n int
	n, a.err = fmt.Fprintf(a.w, format, args...)
	a.off += int64(n)
}
