package fusetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"vfiofs/fuse"
)

func (s *suite) setAttr() {
	f := s.create("f", "")
	in := fuse.SetAttrIn{
		Valid: fuse.SetAttrMode | fuse.SetAttrAtime | fuse.SetAttrMtime,
		Mode:  0o170000 | 0o601,
		Atime: -5, AtimeNsec: 7, Mtime: 2000000000, MtimeNsec: 999999999,
	}
	a, err := s.c.SetAttr(f.Entry.Node, in)
	s.check(err, 0, "SetAttr()")
	equal(s, "mode", a.Attr.Mode, syscall.S_IFREG|0o601)
	equal(s, "atime", [2]int64{a.Attr.Atime, int64(a.Attr.AtimeNsec)}, [2]int64{-5, 7})
	equal(s, "mtime", [2]int64{a.Attr.Mtime, int64(a.Attr.MtimeNsec)}, [2]int64{2000000000, 999999999})
	a, err = s.c.SetAttr(f.Entry.Node, fuse.SetAttrIn{Valid: fuse.SetAttrCtime, Ctime: 1})
	s.check(err, 0, "SetAttr(ctime)")
	equal(s, "mtime after ctime", a.Attr.Mtime, 2000000000)
}

func (s *suite) truncate() {
	f := s.create("f", "0123456789")
	a, err := s.c.SetAttr(f.Entry.Node, fuse.SetAttrIn{Valid: fuse.SetAttrSize, Size: 4})
	s.check(err, 0, "SetAttr(size 4)")
	equal(s, "size", a.Attr.Size, 4)
	in := fuse.SetAttrIn{Valid: fuse.SetAttrSize | fuse.SetAttrHandle, Size: 6, Handle: f.Open.Handle}
	_, err = s.c.SetAttr(f.Entry.Node, in)
	s.check(err, 0, "SetAttr(size 6 by handle)")
	s.expect(f, 0, 20, []byte("0123\x00\x00"))
	_, err = s.c.SetAttr(root, fuse.SetAttrIn{Valid: fuse.SetAttrSize})
	s.check(err, syscall.EISDIR, "SetAttr(size of a directory)")
}

func (s *suite) setAttrInvalid() {
	f := s.create("f", "data")
	for name, in := range map[string]fuse.SetAttrIn{
		"no uid":       {Valid: fuse.SetAttrUID, UID: fuse.NoID},
		"no gid":       {Valid: fuse.SetAttrGID, GID: fuse.NoID},
		"size 2^63":    {Valid: fuse.SetAttrSize, Size: 1 << 63},
		"nanoseconds":  {Valid: fuse.SetAttrMtime, MtimeNsec: 1e9},
		"nanoseconds2": {Valid: fuse.SetAttrAtime, AtimeNsec: 1e9},
	} {
		_, err := s.c.SetAttr(f.Entry.Node, in)
		s.check(err, syscall.EINVAL, "SetAttr(%s)", name)
	}
	_, err := s.c.SetAttr(f.Entry.Node, fuse.SetAttrIn{Valid: fuse.SetAttrHandle | fuse.SetAttrSize, Handle: 1 << 50})
	s.check(err, syscall.EBADF, "SetAttr(unknown handle)")
	s.expect(f, 0, 10, []byte("data"))
}

// list returns the sorted names of a directory, read with buffers of size bytes.
func (s *suite) list(dir fuse.NodeID, size int) []string {
	s.Helper()
	o, err := s.c.OpenDir(dir)
	s.check(err, 0, "OpenDir()")
	var names []string
	off := uint64(0)
	for {
		entries, err := s.c.ReadDir(dir, o.Handle, off, size)
		s.check(err, 0, "ReadDir(%d at %#x)", size, off)
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			off = e.Off
			if e.Name != "." && e.Name != ".." {
				names = append(names, e.Name)
			}
		}
	}
	s.check(s.c.ReleaseDir(dir, o.Handle), 0, "ReleaseDir()")
	slices.Sort(names)
	return names
}

func (s *suite) readDirSmall() {
	const count = 120
	var want []string
	for i := range count {
		name := fmt.Sprintf("%03d%s", i, strings.Repeat("x", i%40))
		want = append(want, name)
		f := s.create(name, "")
		s.check(s.c.Release(f.Entry.Node, f.Open.Handle), 0, "Release()")
	}
	for _, size := range []int{128, 1000, 4096, 1 << 20, 2 << 20} {
		if got := s.list(root, size); !slices.Equal(got, want) {
			s.Errorf("listing with %d-byte buffers = %d names; want %d", size, len(got), count)
		}
	}
}

func (s *suite) readDirEdges() {
	f := s.create(strings.Repeat("n", 255), "")
	_, err := s.c.OpenDir(f.Entry.Node)
	s.check(err, syscall.ENOTDIR, "OpenDir(file)")
	o, err := s.c.OpenDir(root)
	s.check(err, 0, "OpenDir()")
	_, err = s.c.ReadDir(root, o.Handle, 0, 16)
	s.check(err, syscall.EINVAL, "ReadDir(16)")
	entries, err := s.c.ReadDir(root, o.Handle, 0, 0)
	s.check(err, 0, "ReadDir(0)")
	equal(s, "ReadDir(0)", len(entries), 0)

	off := uint64(0)
	for range 3 { // ".", ".." and the long name, in any order
		entries, err := s.c.ReadDir(root, o.Handle, off, 279)
		if errors.Is(err, syscall.EINVAL) {
			entries, err = s.c.ReadDir(root, o.Handle, off, 280)
			s.check(err, 0, "ReadDir(280)")
			equal(s, "ReadDir(280)", len(entries), 1)
			equal(s, "length of the name", entries[0].Namelen, 255)
			return
		}
		s.check(err, 0, "ReadDir(279)")
		off = entries[len(entries)-1].Off
	}
	s.Error("ReadDir(279) always fitted; want EINVAL at the name of 255 bytes")
}

func (s *suite) readDirPlus() {
	if s.c.Flags&fuse.DoReaddirplus == 0 {
		s.Skip("READDIRPLUS was not negotiated")
	}
	f := s.create("f", "12345")
	_, err := s.c.MkDir(root, "d", 0o755)
	s.check(err, 0, "MkDir()")
	o, err := s.c.OpenDir(root)
	s.check(err, 0, "OpenDir()")
	entries, err := s.c.ReadDirPlus(root, o.Handle, 0, 4096)
	s.check(err, 0, "ReadDirPlus()")
	found := map[string]DirEntry{}
	for _, e := range entries {
		found[e.Name] = e
	}
	equal(s, "number of entries", len(found), 4)
	equal(s, "node of f", found["f"].Entry.Node, f.Entry.Node)
	equal(s, "size of f", found["f"].Entry.Attr.Size, 5)
	equal(s, "type of d", found["d"].Entry.Attr.Mode&syscall.S_IFMT, syscall.S_IFDIR)
	for _, dot := range []string{".", ".."} {
		equal(s, "node of "+dot, found[dot].Entry.Node, 0)
		equal(s, "mode of "+dot, found[dot].Entry.Attr.Mode, syscall.S_IFDIR)
	}
	s.check(s.c.Forget(found["d"].Entry.Node, 2), 0, "Forget(d)")
	_, err = s.c.GetAttr(found["d"].Entry.Node, 0)
	s.check(err, syscall.EBADF, "GetAttr(d) after its two lookups were forgotten")
}

func (s *suite) statFS() {
	st, err := s.c.StatFS(root)
	s.check(err, 0, "StatFS()")
	if st.Bsize == 0 || st.Frsize == 0 || st.Namelen == 0 || st.Bfree > st.Blocks {
		s.Errorf("StatFS() = %+v; want plausible numbers", st)
	}
}

func (s *suite) sync() {
	f := s.create("f", "x")
	s.check(s.c.Fsync(f.Entry.Node, f.Open.Handle, true), 0, "Fsync(data)")
	s.check(s.c.Fsync(f.Entry.Node, f.Open.Handle, false), 0, "Fsync()")
	s.check(s.c.Fsync(f.Entry.Node, f.Open.Handle+100, false), syscall.EBADF, "Fsync(unknown handle)")
	o, err := s.c.OpenDir(root)
	s.check(err, 0, "OpenDir()")
	s.check(s.c.FsyncDir(root, o.Handle, false), 0, "FsyncDir()")
	s.check(s.c.SyncFS(root), 0, "SyncFS()")
	s.check(s.c.Access(root, 4), 0, "Access(R)")
}

func (s *suite) allocateSeek() {
	f := s.create("f", "abc")
	err := s.c.Fallocate(f.Entry.Node, f.Open.Handle, 0, 0, 0)
	s.check(err, syscall.EINVAL, "Fallocate(length 0)")
	s.optional(s.c.Fallocate(f.Entry.Node, f.Open.Handle, 0, 8192, 0), "Fallocate()")
	s.expect(f, 0, 10000, append([]byte("abc"), make([]byte, 8189)...))
	off, err := s.c.Lseek(f.Entry.Node, f.Open.Handle, 1, 3)
	s.check(err, 0, "Lseek(SEEK_DATA)")
	equal(s, "Lseek(SEEK_DATA)", off, 1)
	_, err = s.c.Lseek(f.Entry.Node, f.Open.Handle, 8192, 3)
	s.check(err, syscall.ENXIO, "Lseek(SEEK_DATA at the end)")
	_, err = s.c.Lseek(f.Entry.Node, f.Open.Handle, 0, 0)
	s.check(err, syscall.EINVAL, "Lseek(SEEK_SET)")
}

func (s *suite) copyRange() {
	a, b := s.create("a", "0123456789"), s.create("b", "")
	src := fuse.FileRange{Node: a.Entry.Node, Handle: a.Open.Handle, Offset: 2}
	dst := fuse.FileRange{Node: b.Entry.Node, Handle: b.Open.Handle, Offset: 1}
	n, err := s.c.CopyFileRange(src, dst, 5)
	s.optional(err, "CopyFileRange()")
	equal(s, "CopyFileRange()", n, 5)
	s.expect(b, 0, 20, []byte("\x0023456"))
	n32, err := s.c.CopyFileRange32(src, dst, 1<<40)
	s.check(err, 0, "CopyFileRange32(2^40)")
	equal(s, "CopyFileRange32(2^40)", n32, 8)
	s.expect(b, 0, 20, []byte("\x0023456789"))
}

func (s *suite) tmpFile() {
	f, err := s.c.TmpFile(root, syscall.O_RDWR, 0o600)
	s.optional(err, "TmpFile()")
	s.write(f, 0, []byte("hidden"))
	equal(s, "names", len(s.list(root, 4096)), 0)
	e, err := s.c.Link(f.Entry.Node, root, "visible")
	s.check(err, 0, "Link(temporary file)")
	equal(s, "node", e.Node, f.Entry.Node)
	s.expect(f, 0, 20, []byte("hidden"))
}

func (s *suite) xattrs() {
	f := s.create("f", "")
	n := f.Entry.Node
	s.optional(s.c.SetXattr(n, "user.one", []byte("value"), 0), "SetXattr()")
	got, err := s.c.GetXattr(n, "user.one", 100)
	s.check(err, 0, "GetXattr()")
	equal(s, "GetXattr()", string(got), "value")
	size, err := s.c.GetXattrSize(n, "user.one")
	s.check(err, 0, "GetXattrSize()")
	equal(s, "GetXattrSize()", size, 5)
	_, err = s.c.GetXattr(n, "user.one", 4)
	s.check(err, syscall.ERANGE, "GetXattr(4)")
	_, err = s.c.GetXattr(n, "user.two", 100)
	s.check(err, syscall.ENODATA, "GetXattr(missing)")
	s.check(s.c.SetXattr(n, "user.one", nil, 1), syscall.EEXIST, "SetXattr(XATTR_CREATE)")
	s.check(s.c.SetXattr(n, "user.two", nil, 2), syscall.ENODATA, "SetXattr(XATTR_REPLACE)")
	s.check(s.c.SetXattr(n, "user.two", nil, 3), syscall.EINVAL, "SetXattr(both)")
	s.check(s.c.SetXattr(n, "user.big", make([]byte, 65537), 0), syscall.E2BIG, "SetXattr(65537 bytes)")
	list, err := s.c.ListXattr(n, 1000)
	s.check(err, 0, "ListXattr()")
	if !slices.Contains(strings.Split(string(list), "\x00"), "user.one") {
		s.Errorf("ListXattr() = %q; want user.one in it", list)
	}
	size, err = s.c.ListXattrSize(n)
	s.check(err, 0, "ListXattrSize()")
	equal(s, "ListXattrSize()", size, len(list))
	s.check(s.c.RemoveXattr(n, "user.one"), 0, "RemoveXattr()")
	s.check(s.c.RemoveXattr(n, "user.one"), syscall.ENODATA, "second RemoveXattr()")
}

func (s *suite) unknownNodes() {
	const unknown = 1 << 40
	_, err := s.c.GetAttr(unknown, 0)
	s.check(err, syscall.EBADF, "GetAttr()")
	_, err = s.c.Lookup(unknown, "x")
	s.check(err, syscall.EBADF, "Lookup()")
	_, err = s.c.MkDir(unknown, "x", 0o755)
	s.check(err, syscall.EBADF, "MkDir()")
	_, err = s.c.Open(unknown, syscall.O_RDONLY)
	s.check(err, syscall.EBADF, "Open()")
	_, err = s.c.Read(root, 1<<40, 0, 10)
	s.check(err, syscall.EBADF, "Read()")
	_, err = s.c.StatFS(unknown)
	s.check(err, syscall.EBADF, "StatFS()")
	_, err = s.c.ReadLink(unknown, 4096)
	s.check(err, syscall.EBADF, "ReadLink()")
}

func (s *suite) reinit() {
	f := s.create("f", "x")
	_, err := s.c.Init(AllFlags)
	s.check(err, 0, "second Init()")
	_, err = s.c.GetAttr(f.Entry.Node, 0)
	s.check(err, syscall.EBADF, "GetAttr(node of an earlier life)")
	s.exists("f", true)
	s.check(s.c.Destroy(), 0, "Destroy()")
	_, err = s.c.GetAttr(root, 0)
	s.check(err, syscall.ENOTCONN, "GetAttr() after Destroy()")
	_, err = s.c.Init(AllFlags)
	s.check(err, 0, "Init() after Destroy()")
	s.exists("f", true)
}

// Bits of statx(2).
const (
	statxBasic = 0x7ff
	statxBtime = 0x800
)

func (s *suite) statx() {
	f := s.create("f", "abc")
	a, err := s.c.GetAttr(f.Entry.Node, 0)
	s.check(err, 0, "GetAttr()")
	for _, h := range []fuse.Handle{0, f.Open.Handle} {
		got, err := s.c.Statx(f.Entry.Node, h, statxBasic|statxBtime)
		s.optional(err, "STATX")
		x := got.Statx
		equal(s, "basic mask", x.Mask&statxBasic, statxBasic)
		equal(s, "bits that nobody asked for", x.Mask&^(statxBasic|statxBtime), 0)
		equal(s, "mode", uint32(x.Mode), a.Attr.Mode)
		equal(s, "size", x.Size, 3)
		equal(s, "inode", x.Ino, a.Attr.Ino)
		equal(s, "nlink", x.Nlink, 1)
		equal(s, "owner", [2]uint32{x.UID, x.GID}, [2]uint32{a.Attr.UID, a.Attr.GID})
		equal(s, "mtime", x.Mtime.Sec, a.Attr.Mtime)
		equal(s, "validity", [2]uint64{got.Valid, uint64(got.ValidNsec)}, [2]uint64{a.Valid, uint64(a.ValidNsec)})
	}
	_, err = s.c.Statx(f.Entry.Node, 1<<60, statxBasic)
	s.check(err, syscall.EBADF, "Statx(unknown handle)")
	_, err = s.c.Statx(1<<40, 0, statxBasic)
	s.check(err, syscall.EBADF, "Statx(unknown node)")
	s.check(s.c.Unlink(root, "f"), 0, "Unlink()") // H115
	got, err := s.c.Statx(f.Entry.Node, 0, statxBasic)
	s.check(err, 0, "Statx(unlinked)")
	equal(s, "nlink when unlinked", got.Statx.Nlink, 0)
}

func (s *suite) ioctl() {
	f, g := s.create("f", ""), s.create("g", "")
	_, err := s.c.Ioctl(f.Entry.Node, f.Open.Handle, 0x5401, nil, 64) // TCGETS
	s.check(err, syscall.ENOTTY, "Ioctl(TCGETS)")
	_, err = s.c.Ioctl(f.Entry.Node, g.Open.Handle, 0x5401, nil, 64)
	s.check(err, syscall.EBADF, "Ioctl(handle of another node)")
	_, err = s.c.Ioctl(f.Entry.Node, 0, 0x5401, nil, 64)
	s.check(err, syscall.EBADF, "Ioctl(no handle)")
}
