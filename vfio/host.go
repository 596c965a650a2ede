package vfio

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/pci"
)

// maxInfo bounds the structures that the kernel may ask us to make room for, in bytes.
const maxInfo = 1 << 16

// A host is what the kernel implementation asks of the machine. Tests put another in
// its place.
type host struct {
	root string // stands before /dev and /sys
	open func(path string) (int, error)
	// ioctl and ioctlInt make requests with a structure and a number as the argument.
	ioctl    func(f *fd.FD, nr request, b []byte) (int, syscall.Errno)
	ioctlInt func(f *fd.FD, nr request, arg int) (int, syscall.Errno)
	// lockable returns an error unless size more bytes may be locked in memory.
	lockable func(size uint64) error
}

// newHost returns the machine we are on, with files below root.
func newHost(root string) *host {
	return &host{
		root:     root,
		open:     func(path string) (int, error) { return unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0) },
		ioctl:    ioctl,
		ioctlInt: ioctlInt,
		lockable: func(size uint64) error { return lockable(filepath.Join("/", root, "proc/self/status"), size) },
	}
}

// path returns where a file of the machine is.
func (h *host) path(p string) string { return filepath.Join("/", h.root, p) }

// exists reports whether a file is there.
func (h *host) exists(p string) bool {
	_, err := os.Stat(h.path(p))
	return err == nil
}

// sysfs returns what the machine tells about PCI functions.
func (h *host) sysfs() pci.Sysfs { return pci.Sysfs{Root: h.path("/sys")} }

// openFile opens a file of /dev; need says how to make it if it isn't there.
func (h *host) openFile(p, need string) (*fd.FD, error) {
	n, err := h.open(h.path(p))
	if err != nil {
		return nil, openError(p, &os.PathError{Op: "open", Path: p, Err: err}, need)
	}
	return fd.New(n, p), nil
}

// do makes a request with a structure that the kernel may change.
func (h *host) do(f *fd.FD, nr request, b []byte) (int, error) {
	n, e := h.ioctl(f, nr, b)
	if e != 0 {
		return 0, fmt.Errorf("%s on %s: %w", nr, f, e)
	}
	return n, nil
}

// doInt makes a request with a number.
func (h *host) doInt(f *fd.FD, nr request, arg int) (int, error) {
	n, e := h.ioctlInt(f, nr, arg)
	if e != 0 {
		return 0, fmt.Errorf("%s on %s: %w", nr, f, e)
	}
	return n, nil
}

// query makes a request whose answer may be followed by capabilities: b is the structure
// alone, which learns how much room the whole takes.
func (h *host) query(f *fd.FD, nr request, b []byte) ([]byte, error) {
	for {
		if _, err := h.do(f, nr, b); err != nil {
			return nil, err
		}
		need := u32(b, 0) // argsz
		if need <= uint32(len(b)) {
			return b, nil
		}
		if need > maxInfo {
			return nil, fmt.Errorf("%s on %s: the answer has %d bytes", nr, f, need)
		}
		b = append(b, make([]byte, int(need)-len(b))...)
	}
}
