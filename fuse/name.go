package fuse

import (
	"bytes"
	"syscall"
)

const (
	maxName      = 4095 // bytes of a component; file systems have limits of their own
	maxTarget    = 4095 // bytes of a symbolic link
	maxXattrName = 255  // Linux, XATTR_NAME_MAX
)

// checkName judges a component of a path (fs-device.md E.3.1). dot and dotdot are the
// errors for those two names, 0 where they are allowed.
func checkName(name []byte, dot, dotdot syscall.Errno) error {
	var errno syscall.Errno
	switch {
	case len(name) == 0:
		errno = syscall.EINVAL
	case len(name) > maxName:
		errno = syscall.ENAMETOOLONG
	case string(name) == ".":
		errno = dot
	case string(name) == "..":
		errno = dotdot
	case bytes.IndexByte(name, '/') >= 0:
		errno = syscall.EINVAL
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// checkNewName judges the name of something to be made.
func checkNewName(name []byte) error { return checkName(name, syscall.EEXIST, syscall.EEXIST) }

// checkXattrName judges the name of an extended attribute (fs-device.md E.15.4).
func checkXattrName(name []byte) error {
	if len(name) == 0 || len(name) > maxXattrName {
		return syscall.ERANGE
	}
	return nil
}
