package fuse

import (
	"errors"
	"syscall"
)

// ErrNotImplemented is returned by a FileSystem method that is not there at all: the
// guest is told ENOSYS and, for most operations, never asks again on this mount
// (fs-device.md D.4). It matches syscall.ENOSYS under errors.Is.
var ErrNotImplemented error = notImplemented{}

type notImplemented struct{}

func (notImplemented) Error() string        { return "operation not implemented" }
func (notImplemented) Is(target error) bool { return target == syscall.ENOSYS }

// maxErrno is the largest error number a reply may have (fs-device.md C.6.2).
const maxErrno = 511

// Errno turns the error of a FileSystem method into the number that the guest sees
// (fs-device.md E.18). Most numbers pass; of the rest
//
//   - ENOSYS is EOPNOTSUPP, since one file's lack must not switch an operation off for
//     the whole mount; ErrNotImplemented is ENOSYS;
//   - EMFILE is ENFILE: the limit that was met is the server's and not the process's;
//   - EINTR, numbers out of range, and errors that hold none are EIO.
func Errno(err error) syscall.Errno {
	e, _ := errnoOf(err)
	return e
}

// errnoOf is Errno; known is false when err should not have come.
func errnoOf(err error) (e syscall.Errno, known bool) {
	switch err {
	case nil:
		return 0, true
	case ErrNotImplemented:
		return syscall.ENOSYS, true
	}
	e, ok := err.(syscall.Errno)
	if !ok {
		if e, ok = errors.AsType[syscall.Errno](err); !ok {
			if errors.Is(err, ErrNotImplemented) {
				return syscall.ENOSYS, true
			}
			return syscall.EIO, false
		}
	}
	switch {
	case e == syscall.ENOSYS:
		return syscall.EOPNOTSUPP, true
	case e == syscall.EMFILE:
		return syscall.ENFILE, true
	case e == syscall.EINTR, e < 1, e > maxErrno:
		return syscall.EIO, false
	}
	return e, true
}
