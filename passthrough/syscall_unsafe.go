package passthrough

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The wrappers below take memory of the caller's thread instead of Go strings, and
// repeat what a signal interrupted. Each keeps to package unsafe's rule for system
// calls: pointers are converted in the argument list of the call itself.

// Constant names, NUL-terminated.
const (
	empty = "\x00"
	dot   = ".\x00"
)

// cstring returns the address of a constant that ends in NUL.
func cstring(s string) *byte {
	// SAFETY: the kernel only reads names.
	return unsafe.StringData(s)
}

// call is a system call without pointers.
func call(nr uintptr, a1, a2, a3, a4 uintptr) (int, syscall.Errno) {
	for {
		r, _, e := syscall.Syscall6(nr, a1, a2, a3, a4, 0, 0)
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

func openat2(dir int, name *byte, how *unix.OpenHow) (int, syscall.Errno) {
	for {
		// SAFETY: name ends in NUL; how has the size that is passed.
		r, _, e := syscall.Syscall6(unix.SYS_OPENAT2, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(how)), unsafe.Sizeof(*how), 0, 0)
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

func openat(dir int, name *byte, flags int, mode uint32) (int, syscall.Errno) {
	for {
		// SAFETY: name ends in NUL.
		r, _, e := syscall.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(flags), uintptr(mode), 0, 0)
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

// statx looks at the object of a descriptor.
func statx(fd int, st *unix.Statx_t, mask uint32) syscall.Errno {
	return statxSync(fd, st, mask, 0)
}

// fstat is statx of basic attributes where that waits for nothing: the Go runtime is not
// told of it, which takes as long as a quarter of the call. The older call is the quicker
// one: it has no name to look at and less to copy.
func fstat(fd int, st *unix.Stat_t) syscall.Errno {
	// SAFETY: st is a whole struct stat.
	_, _, e := syscall.RawSyscall(unix.SYS_FSTAT, uintptr(fd), uintptr(unsafe.Pointer(st)), 0)
	return e
}

// statxSync is statx with AT_STATX_FORCE_SYNC or AT_STATX_DONT_SYNC.
func statxSync(fd int, st *unix.Statx_t, mask, sync uint32) syscall.Errno {
	for {
		// SAFETY: the empty name ends in NUL; st is a whole struct statx.
		_, _, e := syscall.Syscall6(unix.SYS_STATX, uintptr(fd), uintptr(unsafe.Pointer(cstring(empty))), uintptr(unix.AT_EMPTY_PATH|sync), uintptr(mask), uintptr(unsafe.Pointer(st)), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func fstatfs(fd int, st *unix.Statfs_t) syscall.Errno {
	for {
		// SAFETY: st is a whole struct statfs.
		_, _, e := syscall.Syscall(unix.SYS_FSTATFS, uintptr(fd), uintptr(unsafe.Pointer(st)), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

// nameat is a system call that takes a directory, a name and two numbers.
func nameat(nr uintptr, dir int, name *byte, a3, a4 uintptr) syscall.Errno {
	for {
		// SAFETY: name ends in NUL.
		_, _, e := syscall.Syscall6(nr, uintptr(dir), uintptr(unsafe.Pointer(name)), a3, a4, 0, 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func mkdirat(dir int, name *byte, mode uint32) syscall.Errno {
	return nameat(unix.SYS_MKDIRAT, dir, name, uintptr(mode), 0)
}

// mknodat takes the kernel's 32-bit device number, as FUSE does.
func mknodat(dir int, name *byte, mode, rdev uint32) syscall.Errno {
	return nameat(unix.SYS_MKNODAT, dir, name, uintptr(mode), uintptr(rdev))
}

func unlinkat(dir int, name *byte, flags int) syscall.Errno {
	return nameat(unix.SYS_UNLINKAT, dir, name, uintptr(flags), 0)
}

// fchmodat follows symbolic links, and so the links of /proc/self/fd.
func fchmodat(dir int, name *byte, mode uint32) syscall.Errno {
	return nameat(unix.SYS_FCHMODAT, dir, name, uintptr(mode), 0)
}

// fchown changes the object of a descriptor, O_PATH or not.
func fchown(fd int, uid, gid uint32) syscall.Errno {
	for {
		// SAFETY: the empty name ends in NUL.
		_, _, e := syscall.Syscall6(unix.SYS_FCHOWNAT, uintptr(fd), uintptr(unsafe.Pointer(cstring(empty))), uintptr(uid), uintptr(gid), unix.AT_EMPTY_PATH, 0)
		if e != unix.EINTR {
			return e
		}
	}
}

// utimens sets the times of the object of a descriptor, O_PATH or not.
func utimens(fd int, ts *[2]unix.Timespec) syscall.Errno {
	for {
		// SAFETY: the empty name ends in NUL; ts has the two elements that are read.
		_, _, e := syscall.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), uintptr(unsafe.Pointer(cstring(empty))), uintptr(unsafe.Pointer(ts)), unix.AT_EMPTY_PATH, 0, 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func renameat2(dir int, name *byte, dir2 int, name2 *byte, flags uint32) syscall.Errno {
	for {
		// SAFETY: both names end in NUL.
		_, _, e := syscall.Syscall6(unix.SYS_RENAMEAT2, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(dir2), uintptr(unsafe.Pointer(name2)), uintptr(flags), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func linkat(dir int, name *byte, dir2 int, name2 *byte, flags int) syscall.Errno {
	for {
		// SAFETY: both names end in NUL.
		_, _, e := syscall.Syscall6(unix.SYS_LINKAT, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(dir2), uintptr(unsafe.Pointer(name2)), uintptr(flags), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func symlinkat(target *byte, dir int, name *byte) syscall.Errno {
	for {
		// SAFETY: both strings end in NUL.
		_, _, e := syscall.Syscall(unix.SYS_SYMLINKAT, uintptr(unsafe.Pointer(target)), uintptr(dir), uintptr(unsafe.Pointer(name)))
		if e != unix.EINTR {
			return e
		}
	}
}

// readlink reads the target of a symbolic link's descriptor. dst must not be empty.
func readlink(fd int, dst []byte) (int, syscall.Errno) {
	for {
		// SAFETY: the empty name ends in NUL; dst has the length that is passed.
		r, _, e := syscall.Syscall6(unix.SYS_READLINKAT, uintptr(fd), uintptr(unsafe.Pointer(cstring(empty))), uintptr(unsafe.Pointer(unsafe.SliceData(dst))), uintptr(len(dst)), 0, 0)
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

func getdents(fd int, buf []byte) (int, syscall.Errno) {
	for {
		// SAFETY: buf has the length that is passed.
		r, _, e := syscall.Syscall(unix.SYS_GETDENTS64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

func copyFileRange(in int, inOff *int64, out int, outOff *int64, length uint64) (int, syscall.Errno) {
	for {
		// SAFETY: both offsets are whole.
		r, _, e := syscall.Syscall6(unix.SYS_COPY_FILE_RANGE, uintptr(in), uintptr(unsafe.Pointer(inOff)), uintptr(out), uintptr(unsafe.Pointer(outOff)), uintptr(length), 0)
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

// getxattr, listxattr, setxattr and removexattr work on a path. An empty buffer
// asks for the length.

func getxattr(path, name *byte, dst []byte) (int, syscall.Errno) {
	for {
		// SAFETY: path and name end in NUL; dst has the length that is passed.
		r, _, e := syscall.Syscall6(unix.SYS_GETXATTR, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(unsafe.SliceData(dst))), uintptr(len(dst)), 0, 0)
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

func listxattr(path *byte, dst []byte) (int, syscall.Errno) {
	for {
		// SAFETY: path ends in NUL; dst has the length that is passed.
		r, _, e := syscall.Syscall(unix.SYS_LISTXATTR, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(unsafe.SliceData(dst))), uintptr(len(dst)))
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

func setxattr(path, name *byte, value []byte, flags uint32) syscall.Errno {
	for {
		// SAFETY: path and name end in NUL; value has the length that is passed.
		_, _, e := syscall.Syscall6(unix.SYS_SETXATTR, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)), uintptr(flags), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func removexattr(path, name *byte) syscall.Errno {
	for {
		// SAFETY: path and name end in NUL.
		_, _, e := syscall.Syscall(unix.SYS_REMOVEXATTR, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(name)), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

// Credentials are per thread in the kernel. These calls change the calling thread
// only, unlike those of package syscall. None of them can block.

func setgroups(groups []uint32) syscall.Errno {
	// SAFETY: groups has the length that is passed.
	_, _, e := syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	return e
}

// seteuid changes the effective user id alone.
func seteuid(uid uint32) syscall.Errno {
	_, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0))
	return e
}

// setegid changes the effective group id alone.
func setegid(gid uint32) syscall.Errno {
	_, _, e := syscall.RawSyscall(unix.SYS_SETRESGID, ^uintptr(0), uintptr(gid), ^uintptr(0))
	return e
}

func umask(mask uint32) { syscall.RawSyscall(unix.SYS_UMASK, uintptr(mask), 0, 0) }

// raise makes one capability of the thread's permitted set effective, besides those
// that are.
func raise(capability uint) syscall.Errno {
	var data [2]unix.CapUserData
	if e := capget(&data); e != 0 {
		return e
	}
	data[capability/32].Effective |= 1 << (capability % 32)
	return capset(&data)
}

// capget and capset read and replace the thread's capabilities.

func capget(data *[2]unix.CapUserData) syscall.Errno {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	// SAFETY: version 3 has two data elements.
	_, _, e := syscall.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(data)), 0)
	return e
}

func capset(data *[2]unix.CapUserData) syscall.Errno {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	// SAFETY: version 3 has two data elements.
	_, _, e := syscall.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(data)), 0)
	return e
}

// statxAt looks at a name below a directory, and not behind it. A nil name is the
// descriptor's own object.
func statxAt(dir int, name *byte, st *unix.Statx_t, mask uint32) syscall.Errno {
	if name == nil {
		return statx(dir, st, mask)
	}
	for {
		// SAFETY: name ends in NUL; st is a whole struct statx.
		_, _, e := syscall.Syscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(name)), unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, uintptr(mask), uintptr(unsafe.Pointer(st)), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

// nameToHandle stores the file handle of a name below a directory, or of a
// descriptor's own object if name is nil.
func nameToHandle(dir int, name *byte, h *fileHandle) syscall.Errno {
	var mount int32 // the old kind of mount id, of no use here
	flags := uintptr(0)
	if name == nil {
		name, flags = cstring(empty), unix.AT_EMPTY_PATH
	}
	for {
		h.size = uint32(len(h.data))
		// SAFETY: name ends in NUL; h has the room that its size says.
		_, _, e := syscall.Syscall6(unix.SYS_NAME_TO_HANDLE_AT, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(h)), uintptr(unsafe.Pointer(&mount)), flags, 0)
		if e != unix.EINTR {
			return e
		}
	}
}

// openByHandle opens the object of a file handle, on the mount of a descriptor.
func openByHandle(mount int, h *fileHandle, flags int) (int, syscall.Errno) {
	for {
		// SAFETY: h is whole.
		r, _, e := syscall.Syscall(unix.SYS_OPEN_BY_HANDLE_AT, uintptr(mount), uintptr(unsafe.Pointer(h)), uintptr(flags|unix.O_CLOEXEC))
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

// text returns the bytes of a name up to its NUL.
func text(name *byte) []byte {
	n := 0
	// SAFETY: names end in NUL.
	for *(*byte)(unsafe.Add(unsafe.Pointer(name), n)) != 0 {
		n++
	}
	// SAFETY: as above.
	return unsafe.Slice(name, n)
}
