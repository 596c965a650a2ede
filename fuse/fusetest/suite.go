package fusetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"vfiofs/fuse"
)

// Run tests ordinary behaviour that every file system has to show. newClient returns a
// client of a server that shares an empty directory, has seen no INIT, and ends with
// the test. What a file system may lack is skipped when it answers so.
func Run(t *testing.T, newClient func(t *testing.T) *Client) {
	for _, test := range []struct {
		name string
		run  func(s *suite)
	}{
		{"root attributes", (*suite).rootAttributes},
		{"lookup of a missing name", (*suite).lookupMissing},
		{"create, write, read back", (*suite).createWriteRead},
		{"read at and past the end", (*suite).readPastEnd},
		{"sparse write", (*suite).sparseWrite},
		{"one mebibyte at once", (*suite).bigTransfer},
		{"create exclusively", (*suite).createExclusive},
		{"open with truncation", (*suite).openTruncate},
		{"handles and access modes", (*suite).accessModes},
		{"release ends a handle", (*suite).releaseTwice},
		{"handle of another node", (*suite).foreignHandle},
		{"lookups and forget", (*suite).forget},
		{"batch forget", (*suite).batchForget},
		{"make and remove directories", (*suite).directories},
		{"special files", (*suite).specialFiles},
		{"symbolic links", (*suite).symlinks},
		{"hard links", (*suite).hardLinks},
		{"unlinked but open", (*suite).unlinkedOpen},
		{"rename", (*suite).rename},
		{"rename onto what exists", (*suite).renameOver},
		{"rename with flags", (*suite).renameFlags},
		{"names that are refused", (*suite).badNames},
		{"names of any bytes", (*suite).oddNames},
		{"setattr mode and times", (*suite).setAttr},
		{"setattr size", (*suite).truncate},
		{"setattr refuses nonsense", (*suite).setAttrInvalid},
		{"readdir with small buffers", (*suite).readDirSmall},
		{"readdir edge sizes", (*suite).readDirEdges},
		{"readdirplus", (*suite).readDirPlus},
		{"statfs", (*suite).statFS},
		{"sync", (*suite).sync},
		{"fallocate, lseek", (*suite).allocateSeek},
		{"copy a range", (*suite).copyRange},
		{"temporary file", (*suite).tmpFile},
		{"extended attributes", (*suite).xattrs},
		{"statx", (*suite).statx},
		{"ioctl", (*suite).ioctl},
		{"posix locks", (*suite).posixLocks},
		{"flock", (*suite).flock},
		{"unknown nodes", (*suite).unknownNodes},
		{"destroy and init again", (*suite).reinit},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newClient(t)
			if _, err := c.Init(AllFlags &^ fuse.WritebackCache); err != nil {
				t.Fatalf("Init() = %v; want success", err)
			}
			test.run(&suite{t, c})
		})
	}
}

type suite struct {
	*testing.T
	c *Client
}

const root = fuse.RootID

// fail reports that what gave err, while want (or success, for 0) was right.
func (s *suite) check(err error, want syscall.Errno, format string, args ...any) {
	s.Helper()
	if want == 0 && err != nil {
		s.Fatalf("%s = %v; want success", fmt.Sprintf(format, args...), err)
	}
	if want != 0 && !errors.Is(err, want) {
		s.Errorf("%s = %v; want %v", fmt.Sprintf(format, args...), err, want)
	}
}

// oneOf is check for the cases in which systems differ.
func (s *suite) oneOf(err error, want []syscall.Errno, what string) {
	s.Helper()
	for _, e := range want {
		if errors.Is(err, e) {
			return
		}
	}
	s.Errorf("%s = %v; want one of %v", what, err, want)
}

// optional skips the test when err says that the file system lacks something.
func (s *suite) optional(err error, what string) {
	s.Helper()
	for _, e := range []syscall.Errno{syscall.EOPNOTSUPP, syscall.ENOSYS, syscall.EPERM} {
		if errors.Is(err, e) {
			s.Skipf("%s is not supported: %v", what, err)
		}
	}
	s.check(err, 0, "%s", what)
}

// equal compares two values of one kind.
func equal[T comparable](s *suite, what string, got, want T) {
	s.Helper()
	if got != want {
		s.Errorf("%s = %v; want %v", what, got, want)
	}
}

func (s *suite) create(name, data string) fuse.CreateOut {
	s.Helper()
	f, err := s.c.Create(root, name, syscall.O_RDWR|syscall.O_CREAT, 0o644)
	s.check(err, 0, "Create(%q)", name)
	if data != "" {
		s.write(f, 0, []byte(data))
	}
	return f
}

func (s *suite) write(f fuse.CreateOut, off uint64, data []byte) {
	s.Helper()
	n, err := s.c.Write(f.Entry.Node, f.Open.Handle, off, data)
	s.check(err, 0, "Write(%d bytes at %d)", len(data), off)
	equal(s, "Write()", n, len(data))
}

func (s *suite) expect(f fuse.CreateOut, off uint64, size int, want []byte) {
	s.Helper()
	got, err := s.c.Read(f.Entry.Node, f.Open.Handle, off, size)
	s.check(err, 0, "Read(%d at %d)", size, off)
	if !bytes.Equal(got, want) {
		s.Errorf("Read(%d at %d) = %d bytes %.40q; want %d bytes %.40q", size, off, len(got), got, len(want), want)
	}
}

func (s *suite) exists(name string, want bool) {
	s.Helper()
	e, err := s.c.Lookup(root, name)
	if got := err == nil && e.Node != 0; got != want {
		s.Errorf("Lookup(%q) = %v; want existence %v", name, err, want)
	}
}

func kind(a fuse.Attr) uint32 { return a.Mode & syscall.S_IFMT }

// pattern returns n bytes in which every position can be told from others.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8)*7 ^ byte(i>>16)*31
	}
	return b
}

func (s *suite) rootAttributes() {
	a, err := s.c.GetAttr(root, 0)
	s.check(err, 0, "GetAttr(root)")
	equal(s, "type of the root", kind(a.Attr), syscall.S_IFDIR)
}

func (s *suite) lookupMissing() {
	e, err := s.c.Lookup(root, "missing")
	if err == nil && e.Node == 0 {
		return // a negative entry
	}
	s.check(err, syscall.ENOENT, "Lookup(missing)")
}

func (s *suite) createWriteRead() {
	f := s.create("f", "hello, ")
	equal(s, "type of a created file", kind(f.Entry.Attr), syscall.S_IFREG)
	s.write(f, 7, []byte("world"))
	s.expect(f, 0, 100, []byte("hello, world"))
	s.expect(f, 4, 3, []byte("o, "))
	e, err := s.c.Lookup(root, "f")
	s.check(err, 0, "Lookup(f)")
	equal(s, "node of the created file", e.Node, f.Entry.Node)
	equal(s, "size", e.Attr.Size, 12)
	a, err := s.c.GetAttr(f.Entry.Node, f.Open.Handle)
	s.check(err, 0, "GetAttr(handle)")
	equal(s, "size by handle", a.Attr.Size, 12)
	s.check(s.c.Flush(f.Entry.Node, f.Open.Handle), 0, "Flush()")
}

func (s *suite) readPastEnd() {
	f := s.create("f", "abc")
	s.expect(f, 0, 0, nil)
	s.expect(f, 3, 10, nil)
	s.expect(f, 1<<40, 10, nil)
	_, err := s.c.Read(f.Entry.Node, f.Open.Handle, 1<<63, 10)
	s.check(err, syscall.EINVAL, "Read(at 2^63)")
}

func (s *suite) sparseWrite() {
	f := s.create("f", "")
	s.write(f, 9000, []byte("x"))
	s.expect(f, 0, 10000, append(make([]byte, 9000), 'x'))
	s.write(f, 5, nil)
	s.expect(f, 9000, 10, []byte("x"))
}

func (s *suite) bigTransfer() {
	f := s.create("f", "")
	data := pattern(1 << 20)
	s.write(f, 3, data)
	s.expect(f, 3, 1<<20, data)
	s.expect(f, 1<<19, 4096, data[1<<19-3:][:4096])
}

func (s *suite) createExclusive() {
	s.create("f", "kept")
	_, err := s.c.Create(root, "f", syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL, 0o600)
	s.check(err, syscall.EEXIST, "Create(O_EXCL)")
	f, err := s.c.Create(root, "f", syscall.O_RDWR|syscall.O_CREAT, 0o600)
	s.check(err, 0, "Create() of what exists")
	s.expect(f, 0, 10, []byte("kept"))
	_, err = s.c.MkDir(root, "d", 0o755)
	s.check(err, 0, "MkDir(d)")
	_, err = s.c.Create(root, "d", syscall.O_RDWR|syscall.O_CREAT, 0o600)
	s.check(err, syscall.EISDIR, "Create() over a directory")
}

func (s *suite) openTruncate() {
	f := s.create("f", "gone")
	o, err := s.c.Open(f.Entry.Node, syscall.O_WRONLY|syscall.O_TRUNC)
	s.check(err, 0, "Open(O_TRUNC)")
	s.expect(f, 0, 10, nil)
	s.check(s.c.Release(f.Entry.Node, o.Handle), 0, "Release()")
}

func (s *suite) accessModes() {
	f := s.create("f", "abc")
	r, err := s.c.Open(f.Entry.Node, syscall.O_RDONLY)
	s.check(err, 0, "Open(O_RDONLY)")
	_, err = s.c.Write(f.Entry.Node, r.Handle, 0, []byte("x"))
	s.check(err, syscall.EBADF, "Write(read-only handle)")
	w, err := s.c.Open(f.Entry.Node, syscall.O_WRONLY)
	s.check(err, 0, "Open(O_WRONLY)")
	_, err = s.c.Read(f.Entry.Node, w.Handle, 0, 10)
	s.check(err, syscall.EBADF, "Read(write-only handle)")
	s.expect(f, 0, 10, []byte("abc"))
}

func (s *suite) releaseTwice() {
	f := s.create("f", "")
	s.check(s.c.Release(f.Entry.Node, f.Open.Handle), 0, "Release()")
	s.check(s.c.Release(f.Entry.Node, f.Open.Handle), syscall.EBADF, "second Release()")
	_, err := s.c.Read(f.Entry.Node, f.Open.Handle, 0, 1)
	s.check(err, syscall.EBADF, "Read(released handle)")
}

func (s *suite) foreignHandle() {
	a, b := s.create("a", "A"), s.create("b", "B")
	_, err := s.c.Read(b.Entry.Node, a.Open.Handle, 0, 1)
	s.check(err, syscall.EBADF, "Read(b, handle of a)")
	_, err = s.c.Write(b.Entry.Node, a.Open.Handle, 0, []byte("x"))
	s.check(err, syscall.EBADF, "Write(b, handle of a)")
	s.check(s.c.Release(b.Entry.Node, a.Open.Handle), syscall.EBADF, "Release(b, handle of a)")
	s.expect(a, 0, 1, []byte("A"))
}

func (s *suite) forget() {
	f := s.create("f", "")
	s.check(s.c.Release(f.Entry.Node, f.Open.Handle), 0, "Release()")
	e, err := s.c.Lookup(root, "f")
	s.check(err, 0, "Lookup(f)")
	equal(s, "node of a second lookup", e.Node, f.Entry.Node)
	s.check(s.c.Forget(e.Node, 1), 0, "Forget()")
	_, err = s.c.GetAttr(e.Node, 0)
	s.check(err, 0, "GetAttr() after one of two lookups was forgotten")
	s.check(s.c.Forget(e.Node, 1), 0, "Forget()")
	_, err = s.c.GetAttr(e.Node, 0)
	s.check(err, syscall.EBADF, "GetAttr(forgotten node)")
	s.check(s.c.Forget(e.Node, 1<<63), 0, "Forget() of what is gone")
	s.check(s.c.Forget(root, 1<<30), 0, "Forget(root)")
	_, err = s.c.GetAttr(root, 0)
	s.check(err, 0, "GetAttr(forgotten root)")
}

func (s *suite) batchForget() {
	a, b := s.create("a", ""), s.create("b", "")
	err := s.c.BatchForget(fuse.ForgetOne{Node: a.Entry.Node, Lookups: 1}, fuse.ForgetOne{Node: b.Entry.Node, Lookups: 1})
	s.check(err, 0, "BatchForget()")
	for _, n := range []fuse.NodeID{a.Entry.Node, b.Entry.Node} {
		_, err := s.c.GetAttr(n, 0)
		s.check(err, syscall.EBADF, "GetAttr(forgotten node)")
	}
}

func (s *suite) directories() {
	d, err := s.c.MkDir(root, "d", 0o750)
	s.check(err, 0, "MkDir(d)")
	equal(s, "type", kind(d.Attr), syscall.S_IFDIR)
	equal(s, "permissions", d.Attr.Mode&0o777, 0o750)
	_, err = s.c.MkDir(root, "d", 0o750)
	s.check(err, syscall.EEXIST, "MkDir() twice")
	_, err = s.c.MkDir(d.Node, "sub", 0o755)
	s.check(err, 0, "MkDir(d/sub)")
	s.check(s.c.RmDir(root, "d"), syscall.ENOTEMPTY, "RmDir(d) with a child")
	s.check(s.c.Unlink(root, "d"), syscall.EISDIR, "Unlink(d)")
	s.check(s.c.RmDir(d.Node, "sub"), 0, "RmDir(d/sub)")
	s.check(s.c.RmDir(root, "d"), 0, "RmDir(d)")
	s.exists("d", false)
	s.create("f", "")
	s.check(s.c.RmDir(root, "f"), syscall.ENOTDIR, "RmDir(file)")
	s.check(s.c.RmDir(root, "missing"), syscall.ENOENT, "RmDir(missing)")
}

func (s *suite) specialFiles() {
	for name, mode := range map[string]uint32{"fifo": syscall.S_IFIFO, "socket": syscall.S_IFSOCK, "file": 0} {
		e, err := s.c.MkNod(root, name, mode|0o600, 0)
		s.check(err, 0, "MkNod(%s)", name)
		if mode == 0 {
			mode = syscall.S_IFREG
		}
		equal(s, "type of "+name, kind(e.Attr), mode)
		again, err := s.c.Lookup(root, name)
		s.check(err, 0, "Lookup(%s)", name)
		equal(s, "node of "+name, again.Node, e.Node)
	}
	e, err := s.c.Lookup(root, "fifo")
	s.check(err, 0, "Lookup(fifo)")
	_, err = s.c.Open(e.Node, syscall.O_RDONLY)
	s.check(err, syscall.EBADF, "Open(fifo)")
	_, err = s.c.MkNod(root, "dir", syscall.S_IFDIR|0o700, 0)
	s.oneOf(err, []syscall.Errno{syscall.EINVAL, syscall.EPERM}, "MkNod(directory)")
}

func (s *suite) symlinks() {
	target := "some/where\nelse" + strings.Repeat("x", 1000)
	e, err := s.c.Symlink(root, "l", target)
	s.check(err, 0, "Symlink()")
	equal(s, "type", kind(e.Attr), syscall.S_IFLNK)
	equal(s, "size", e.Attr.Size, uint64(len(target)))
	got, err := s.c.ReadLink(e.Node, 4096)
	s.check(err, 0, "ReadLink()")
	equal(s, "ReadLink()", got, target)
	_, err = s.c.ReadLink(e.Node, 10)
	s.check(err, syscall.ENAMETOOLONG, "ReadLink(10 bytes of room)")
	_, err = s.c.Open(e.Node, syscall.O_RDONLY)
	s.oneOf(err, []syscall.Errno{syscall.ELOOP, syscall.EBADF}, "Open(link)")
	_, err = s.c.Lookup(e.Node, "x")
	s.check(err, syscall.ENOTDIR, "Lookup() through a link")
	_, err = s.c.Symlink(root, "l2", "")
	s.check(err, syscall.ENOENT, "Symlink(empty target)")
	_, err = s.c.Symlink(root, "l2", strings.Repeat("x", 4096))
	s.check(err, syscall.ENAMETOOLONG, "Symlink(target of 4096 bytes)")
	f := s.create("f", "")
	_, err = s.c.ReadLink(f.Entry.Node, 4096)
	s.check(err, syscall.EINVAL, "ReadLink(file)")
}

func (s *suite) hardLinks() {
	f := s.create("f", "shared")
	e, err := s.c.Link(f.Entry.Node, root, "g")
	s.check(err, 0, "Link()")
	equal(s, "node of the link", e.Node, f.Entry.Node)
	equal(s, "nlink", e.Attr.Nlink, 2)
	_, err = s.c.Link(f.Entry.Node, root, "g")
	s.check(err, syscall.EEXIST, "Link() twice")
	s.check(s.c.Unlink(root, "f"), 0, "Unlink(f)")
	a, err := s.c.GetAttr(e.Node, 0)
	s.check(err, 0, "GetAttr()")
	equal(s, "nlink after unlink", a.Attr.Nlink, 1)
	s.expect(f, 0, 10, []byte("shared"))
	d, err := s.c.MkDir(root, "d", 0o755)
	s.check(err, 0, "MkDir()")
	_, err = s.c.Link(d.Node, root, "dd")
	s.check(err, syscall.EPERM, "Link(directory)")
}

func (s *suite) unlinkedOpen() {
	f := s.create("f", "still")
	s.check(s.c.Unlink(root, "f"), 0, "Unlink()")
	s.exists("f", false)
	s.write(f, 5, []byte(" here"))
	s.expect(f, 0, 20, []byte("still here"))
	a, err := s.c.GetAttr(f.Entry.Node, 0)
	s.check(err, 0, "GetAttr(unlinked)")
	equal(s, "nlink", a.Attr.Nlink, 0)
	s.check(s.c.Unlink(root, "f"), syscall.ENOENT, "second Unlink()")
}

func (s *suite) rename() {
	f := s.create("a", "content")
	d, err := s.c.MkDir(root, "d", 0o755)
	s.check(err, 0, "MkDir()")
	s.check(s.c.Rename(root, "a", d.Node, "b"), 0, "Rename(a, d/b)")
	s.exists("a", false)
	e, err := s.c.Lookup(d.Node, "b")
	s.check(err, 0, "Lookup(d/b)")
	equal(s, "node after rename", e.Node, f.Entry.Node)
	s.expect(f, 0, 20, []byte("content"))
	s.check(s.c.Rename(root, "a", root, "c"), syscall.ENOENT, "Rename(missing)")
	s.check(s.c.Rename(root, "d", root, "e"), 0, "Rename(d, e)")
	s.exists("e", true)
}

func (s *suite) renameOver() {
	a, b := s.create("a", "A"), s.create("b", "B")
	s.check(s.c.Rename(root, "a", root, "b"), 0, "Rename(a, b)")
	e, err := s.c.Lookup(root, "b")
	s.check(err, 0, "Lookup(b)")
	equal(s, "node of b", e.Node, a.Entry.Node)
	s.expect(b, 0, 1, []byte("B"))
	_, err = s.c.MkDir(root, "d", 0o755)
	s.check(err, 0, "MkDir(d)")
	s.check(s.c.Rename(root, "b", root, "d"), syscall.EISDIR, "Rename(file, directory)")
	s.check(s.c.Rename(root, "d", root, "b"), syscall.ENOTDIR, "Rename(directory, file)")
}

func (s *suite) renameFlags() {
	a, b := s.create("a", "A"), s.create("b", "B")
	err := s.c.Rename2(root, "a", root, "b", 1) // RENAME_NOREPLACE
	if errors.Is(err, syscall.EINVAL) {
		s.Skip("the file system below knows no rename flags")
	}
	s.check(err, syscall.EEXIST, "Rename2(NOREPLACE)")
	s.check(s.c.Rename2(root, "a", root, "b", 2), 0, "Rename2(EXCHANGE)")
	for name, want := range map[string]fuse.NodeID{"a": b.Entry.Node, "b": a.Entry.Node} {
		e, err := s.c.Lookup(root, name)
		s.check(err, 0, "Lookup(%s)", name)
		equal(s, "node of "+name, e.Node, want)
	}
	s.check(s.c.Rename2(root, "a", root, "b", 8), syscall.EINVAL, "Rename2(unknown flag)")
	s.check(s.c.Rename2(root, "a", root, "b", 3), syscall.EINVAL, "Rename2(NOREPLACE|EXCHANGE)")
}

func (s *suite) badNames() {
	for _, name := range []string{"", "/", "a/b", "../etc", "/etc"} {
		_, err := s.c.Lookup(root, name)
		s.check(err, syscall.EINVAL, "Lookup(%q)", name)
		_, err = s.c.Create(root, name, syscall.O_RDWR, 0o644)
		s.check(err, syscall.EINVAL, "Create(%q)", name)
		s.check(s.c.Unlink(root, name), syscall.EINVAL, "Unlink(%q)", name)
	}
	for _, name := range []string{".", ".."} {
		_, err := s.c.MkDir(root, name, 0o755)
		s.check(err, syscall.EEXIST, "MkDir(%q)", name)
		s.check(s.c.Rename(root, name, root, "x"), syscall.EBUSY, "Rename(%q)", name)
	}
	long := strings.Repeat("n", 256)
	_, err := s.c.Create(root, long, syscall.O_RDWR, 0o644)
	s.check(err, syscall.ENAMETOOLONG, "Create(256 bytes)")
}

func (s *suite) oddNames() {
	names := []string{"\xff\xfe", "new\nline", "trailing ", "...", strings.Repeat("n", 255), "-rf", "a\\b"}
	for _, name := range names {
		s.create(name, "")
		s.exists(name, true)
	}
	equal(s, "names in the listing", strings.Join(s.list(root, 4096), "|"), strings.Join(sorted(names), "|"))
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}
