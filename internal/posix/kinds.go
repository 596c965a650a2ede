package posix

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Numbers of devices: the null device, and a block device that no driver has.
const (
	nullDevice = 1<<8 | 3
	noDevice   = 0xff<<8 | 0xff
)

// make makes an object of a kind by the name of path:
//
//	none     nothing
//	file     a regular file that holds "data"
//	dir      an empty directory
//	full     a directory with a file x
//	link     a symbolic link to a regular file
//	dlink    a symbolic link to an empty directory
//	dangling a symbolic link to nothing
//	loop     a symbolic link to itself
//	fifo, socket, char, block
//
// Links point to path+"-target", so that their target is in the same directory.
func (e *env) make(kind, path string) {
	target := path + "-target"
	base := target[strings.LastIndexByte(target, '/')+1:]
	switch kind {
	case "none":
	case "file":
		e.file(path, "data")
	case "dir":
		e.must(unix.Mkdir(path, 0o755))
	case "full":
		e.must(unix.Mkdir(path, 0o755))
		e.file(path+"/x", "data")
	case "link":
		e.file(target, "data")
		e.must(unix.Symlink(base, path))
	case "dlink":
		e.must(unix.Mkdir(target, 0o755))
		e.must(unix.Symlink(base, path))
	case "dangling":
		e.must(unix.Symlink(base, path))
	case "loop":
		e.must(unix.Symlink(path[strings.LastIndexByte(path, '/')+1:], path))
	case "fifo":
		e.must(unix.Mknod(path, unix.S_IFIFO|0o644, 0))
	case "socket":
		e.must(unix.Mknod(path, unix.S_IFSOCK|0o644, 0))
	case "char":
		e.must(unix.Mknod(path, unix.S_IFCHR|0o644, nullDevice))
	case "block":
		e.must(unix.Mknod(path, unix.S_IFBLK|0o644, noDevice))
	default:
		e.must(unix.EINVAL)
	}
}

// isDevice reports whether only root may make a kind.
func isDevice(kind string) bool { return kind == "char" || kind == "block" }

// isDir reports whether a kind is a directory.
func isDir(kind string) bool { return kind == "dir" || kind == "full" }

// typeOf returns the file type bits of a kind.
func typeOf(kind string) uint32 {
	switch kind {
	case "file":
		return unix.S_IFREG
	case "dir", "full":
		return unix.S_IFDIR
	case "fifo":
		return unix.S_IFIFO
	case "socket":
		return unix.S_IFSOCK
	case "char":
		return unix.S_IFCHR
	case "block":
		return unix.S_IFBLK
	}
	return unix.S_IFLNK
}
