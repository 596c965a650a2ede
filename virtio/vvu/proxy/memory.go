package proxy

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/virtio/vhostuser"
)

// A Memory is the file that is at the same time the RAM of siblings and the memory BAR: a
// VMM maps a BAR once, so all memory has to be in it from the start
// (virtio-vhost-user.md 6.6).
type Memory struct {
	file     *fd.FD
	names    *fd.FD // where descriptors of siblings are looked up, also in a jail
	path     string
	size     int64
	dev, ino uint64
}

// NewMemory makes an anonymous file of size bytes that can't shrink. VMMs of the same user
// open it through /proc while the process lives.
func NewMemory(size int64) (_ *Memory, err error) {
	n, err := unix.MemfdCreate("vfiofs-proxy", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memory file: %w", err)
	}
	m := &Memory{file: fd.New(n, "memory file"), path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n), size: size}
	defer m.closeUnless(&err)
	if err := m.check(); err != nil {
		return nil, err
	}
	if err := unix.Ftruncate(n, size); err != nil {
		return nil, fmt.Errorf("memory file of %d bytes: %w", size, err)
	}
	if _, err := unix.FcntlInt(uintptr(n), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return nil, fmt.Errorf("seal memory file: %w", err)
	}
	return m, nil
}

// OpenMemory opens the file at path, on tmpfs or hugetlbfs for speed, or makes it. It has
// size bytes then; a size of 0 stands for the size that it has already. The file stays
// when the Memory is closed.
func OpenMemory(path string, size int64) (_ *Memory, err error) {
	flags := unix.O_RDWR | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY
	if size != 0 {
		flags |= unix.O_CREAT
	}
	n, err := unix.Open(path, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("memory file %s: %w", path, err)
	}
	m := &Memory{file: fd.New(n, "memory file"), path: path, size: size}
	defer m.closeUnless(&err)
	var st unix.Stat_t
	if err := unix.Fstat(n, &st); err != nil {
		return nil, fmt.Errorf("memory file %s: %w", path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("memory file %s: not a regular file", path)
	case size == 0:
		m.size = st.Size
	case st.Size != 0 && st.Size != size:
		return nil, fmt.Errorf("memory file %s: it has %d bytes; want %d", path, st.Size, size)
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	if st.Size == 0 {
		if err := unix.Ftruncate(n, m.size); err != nil {
			return nil, fmt.Errorf("memory file %s of %d bytes: %w", path, m.size, err)
		}
	}
	return m, nil
}

// closeUnless closes m unless a constructor has succeeded.
func (m *Memory) closeUnless(err *error) {
	if *err != nil {
		m.Close()
	}
}

// maxMemory is the largest memory file: its BAR is a power of two of 2^46 bytes at most.
const maxMemory = 1 << 46

// check checks the size, and notes what tells the file from others, and how.
func (m *Memory) check() error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(m.file.Int(), &fs); err != nil {
		return fmt.Errorf("memory file %s: %w", m.path, err)
	}
	page := int64(os.Getpagesize())
	if fs.Type == unix.HUGETLBFS_MAGIC {
		page = fs.Bsize
	}
	if m.size <= 0 || m.size > maxMemory || m.size%page != 0 {
		return fmt.Errorf("memory file %s: size is %d; want a multiple of %d, up to %d", m.path, m.size, page, int64(maxMemory))
	}
	var err error
	if m.names, err = fd.OpenDir(); err != nil {
		return fmt.Errorf("open /proc/self/fd: %w (what siblings send is looked up there: mount proc on /proc)", err)
	}
	m.dev, m.ino, err = identity(m.file)
	return err
}

// Size returns the size in bytes.
func (m *Memory) Size() int64 { return m.size }

// Path returns where VMMs find the file.
func (m *Memory) Path() string { return m.path }

// File returns a duplicate of the file, for a child process.
func (m *Memory) File() (*os.File, error) {
	n, err := unix.FcntlInt(uintptr(m.file.Int()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("memory file %s: %w", m.path, err)
	}
	return os.NewFile(uintptr(n), m.path), nil
}

// SetPath changes what Path returns, for a file that came from another process.
func (m *Memory) SetPath(path string) { m.path = path }

// Close closes the file, when nobody uses it any more.
func (m *Memory) Close() error { return errors.Join(m.file.Close(), m.names.Close()) }

// holds reports an error unless region r, which came with descriptor f, is a part of the
// file in whole pages.
func (m *Memory) holds(r vhostuser.Region, f *fd.FD) error {
	dev, ino, err := identity(f)
	switch {
	case err != nil:
		return err
	case dev != m.dev || ino != m.ino:
		name, err := f.Target(m.names)
		if err != nil {
			name = f.String()
		}
		return fmt.Errorf("%s is not the memory file", name)
	case r.Offset > math.MaxInt64-r.Size || r.Offset+r.Size > uint64(m.size):
		return fmt.Errorf("it ends at %#x of the memory file, which has %#x bytes", r.Offset+r.Size, m.size)
	case !aligned(r):
		return errors.New("it doesn't consist of whole pages")
	}
	return nil
}

// identity returns what tells a file from all others. It doesn't wait for whoever serves
// the file, which may be the sibling's accomplice.
func identity(f *fd.FD) (dev, ino uint64, err error) {
	var st unix.Statx_t
	if err := unix.Statx(f.Int(), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return 0, 0, fmt.Errorf("stat %s: %w", f, err)
	}
	return unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino, nil
}
