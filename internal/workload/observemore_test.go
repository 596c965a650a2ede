package workload

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// aclOf returns the value of a POSIX ACL that gives a user rwx, besides what mode 0640
// says (linux/posix_acl_xattr.h: version 2, then tag, permissions and id of each entry).
func aclOf(user uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{0x01, 6, 1<<32 - 1}, {0x02, 7, user}, {0x04, 4, 1<<32 - 1}, {0x10, 7, 1<<32 - 1}, {0x20, 0, 1<<32 - 1}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// capability is a valid security.capability: CAP_NET_BIND_SERVICE permitted and
// effective (linux/capability.h: vfs_cap_data, revision 2).
var capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// xattrs gets, sets, lists and removes names of every family.
func (o *observer) xattrs() {
	values := map[string]string{
		"user.plain":                       "value",
		"user.empty":                       "",
		"user.virtiofs.user.x":             "hidden",
		"user.virtiofs.trusted.x":          "hidden",
		"trusted.t":                        "t",
		"security.test":                    "s",
		"security.capability":              capability,
		"system.posix_acl_access":          string(aclOf(1005)),
		"system.posix_acl_default":         string(aclOf(1005)),
		"system.other":                     "o",
		"nonsense.n":                       "n",
		"user.":                            "dot",
		"plain":                            "p",
		"user." + strings.Repeat("l", 245): "long",
	}
	dir := o.my("xattrs-dir")
	unix.Mkdir(dir, 0o755)
	for _, path := range []string{o.at("tagged"), o.file("xattrs", 0o644, ""), dir} {
		base := filepath.Base(path)
		list := func(when string) {
			x, err := readXattrs(path)
			o.note(when+" on "+base, err)
			for name, value := range x {
				o.note("has "+name+" "+when+" on "+base, nil, fmt.Sprintf("%x", value))
			}
		}
		list("at first")
		for _, name := range slices.Sorted(maps.Keys(values)) {
			o.note("setxattr "+name+" on "+base, unix.Setxattr(path, name, []byte(values[name]), 0))
			b := make([]byte, 100)
			n, err := unix.Getxattr(path, name, b)
			o.note("getxattr "+name+" on "+base, err, fmt.Sprintf("%x", b[:max(0, n)]))
			o.note("setxattr again "+name+" on "+base, unix.Setxattr(path, name, []byte(values[name]), unix.XATTR_CREATE))
		}
		list("then")
		n, err := unix.Getxattr(path, "user.plain", make([]byte, 2))
		o.note("getxattr of too little on "+base, err, n)
		n, err = unix.Listxattr(path, make([]byte, 2))
		o.note("listxattr of too little on "+base, err, n)
		for _, name := range slices.Sorted(maps.Keys(values)) {
			o.note("removexattr "+name+" on "+base, unix.Removexattr(path, name))
		}
		o.noteAttr("mode with attributes of "+base, path)
		list("at last")
	}
}

// acls creates files below a directory that has a default ACL.
func (o *observer) acls() {
	dir := o.at("acls")
	for _, name := range []string{"file", "dir"} {
		path := filepath.Join(dir, filepath.Base(o.mine)+"-"+name)
		var err error
		if name == "dir" {
			err = unix.Mkdir(path, 0o777)
		} else {
			var fd int
			fd, err = unix.Open(path, unix.O_CREAT|unix.O_WRONLY, 0o666)
			unix.Close(fd)
		}
		o.note("create below a default ACL: "+name, err)
		o.noteAttr("created below a default ACL: "+name, path)
		for _, acl := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
			b := make([]byte, 200)
			n, err := unix.Getxattr(path, acl, b)
			o.note(fmt.Sprintf("%s of the new %s", acl, name), err, fmt.Sprintf("%x", b[:max(0, n)]))
		}
	}
	o.note("open what an ACL allows to 1000", func() error {
		fd, err := unix.Open(o.at("aclfile"), unix.O_RDWR, 0)
		unix.Close(fd)
		return err
	}())
}

// renames tries the flags of renameat2.
func (o *observer) renames() {
	rename := func(from, to string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, o.my(from), unix.AT_FDCWD, o.my(to), flags)
	}
	o.file("r1", 0o644, "1")
	o.file("r2", 0o644, "22")
	o.note("rename noreplace", rename("r1", "r2", unix.RENAME_NOREPLACE))
	o.note("rename exchange", rename("r1", "r2", unix.RENAME_EXCHANGE))
	o.noteAttr("exchanged", o.my("r1"))
	o.note("rename whiteout", rename("r1", "r3", unix.RENAME_WHITEOUT))
	o.noteAttr("whiteout", o.my("r1"))
	o.note("rename both flags", rename("r2", "r3", unix.RENAME_WHITEOUT|unix.RENAME_EXCHANGE))
	o.note("rename over", rename("r2", "r3", 0))
	o.note("rename of nothing", rename("nothing", "r3", 0))
	o.note("rename across", unix.Rename(o.my("r3"), o.at("sub/r3")))
}

// space is fallocate, holes and copies.
func (o *observer) space() {
	path := o.file("space", 0o644, "space")
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		o.note("open for space", err)
		return
	}
	defer unix.Close(fd)
	for _, mode := range []uint32{0, 1, 2, 3, 8, 16, 17, 32, 64, 0x100} {
		o.note(fmt.Sprintf("fallocate %#x", mode), unix.Fallocate(fd, mode, 4096, 8192))
	}
	o.note("fallocate of too much", unix.Fallocate(fd, 0, 1<<62, 1<<62))
	o.noteAttr("after fallocate", path)
	hole, err := unix.Open(o.at("hole"), unix.O_RDONLY, 0)
	o.note("open hole", err)
	if err == nil {
		defer unix.Close(hole)
		for _, whence := range []int{unix.SEEK_DATA, unix.SEEK_HOLE} {
			for _, off := range []int64{0, 1 << 20, 2 << 20, 1 << 40} {
				at, err := unix.Seek(hole, off, whence)
				o.note(fmt.Sprintf("lseek %d from %d", whence, off), err, at)
			}
		}
		in := int64(1<<20 - 10)
		n, err := unix.CopyFileRange(hole, &in, fd, nil, 100, 0)
		o.note("copy_file_range", err, n)
	}
	o.noteAttr("after the copy", path)
	o.note("fsync", unix.Fsync(fd))
	o.note("syncfs", unix.Syncfs(fd))
}

// locks takes locks that nobody else has.
func (o *observer) locks() {
	path := o.file("locks", 0o644, "")
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		o.note("open to lock", err)
		return
	}
	defer unix.Close(fd)
	for _, kind := range lockKinds {
		o.note("lock "+string(kind), nil, whole(kind, unix.F_WRLCK).do(fd).Err)
		o.note("unlock "+string(kind), nil, whole(kind, unix.F_UNLCK).do(fd).Err)
	}
}

// ioctls asks for flags of inodes.
func (o *observer) ioctls() {
	path := o.file("ioctls", 0o644, "")
	for _, p := range []string{path, o.mine} {
		fd, err := unix.Open(p, unix.O_RDONLY, 0)
		if err != nil {
			o.note("open for ioctl", err)
			continue
		}
		base := filepath.Base(p)
		flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
		o.note("FS_IOC_GETFLAGS of "+base, err, flags&unix.STATX_ATTR_IMMUTABLE)
		_, err = unix.IoctlGetInt(fd, unix.TCGETS)
		o.note("TCGETS of "+base, err)
		unix.Close(fd)
	}
}

// refusals are errors of every kind.
func (o *observer) refusals() {
	open := func(path string) error {
		fd, err := unix.Open(path, unix.O_RDONLY, 0)
		unix.Close(fd)
		return err
	}
	o.note("name of 255 bytes", open(o.my(strings.Repeat("n", 255))))
	o.note("name of 256 bytes", open(o.my(strings.Repeat("n", 256))))
	o.note("below a file", open(o.at("file/below")))
	o.note("unlink dir", unix.Unlink(o.mine))
	o.note("rmdir file", unix.Rmdir(o.at("mine")))
	o.note("rename dir over file", unix.Rename(o.mine, o.at("file")))
	o.note("link dir", unix.Link(o.mine, o.mine+"-2"))
	o.note("link across", unix.Link(o.my("changes"), o.at("sub/link")))
	o.note("unlink in sticky", unix.Unlink(o.at("sticky/of-root")))
	o.note("rmdir sub", unix.Rmdir(o.at("sub")))
	o.note("read dir as file", func() error {
		fd, err := unix.Open(o.mine, unix.O_RDONLY, 0)
		if err == nil {
			_, err = unix.Read(fd, make([]byte, 10))
			unix.Close(fd)
		}
		return err
	}())
	o.note("mkdir in the root", unix.Mkdir(o.at("new-"+filepath.Base(o.mine)), 0o755))
	o.note("removal of the root's file", os.Remove(o.at("victim-"+filepath.Base(o.mine))))
}
