package fd

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// OpenDir opens /proc/self/fd, where descriptors are links by their number. It goes on to
// work where /proc can't be seen, and where the kernel lets us it is a mount of its own:
// nothing else of /proc can be reached from there (fs-device.md F.2, F.9).
func OpenDir() (*FD, error) {
	const path = "/proc/self/fd"
	n, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		n, err = unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, err
	}
	return New(n, path), nil
}

// Target returns what descriptor f leads to: a path, or what the kernel calls it. dir is
// from OpenDir.
func (f *FD) Target(dir *FD) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(dir.Int(), strconv.Itoa(f.Int()), buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
