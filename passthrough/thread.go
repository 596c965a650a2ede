package passthrough

import (
	"bytes"
	"fmt"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// maxName is the longest name a guest may send (fs-device.md E.3.1); the host knows
// better limits.
const maxName = 4095

// A thread is what AttachThread makes: credentials and the memory that system calls
// need, so that no request allocates.
type thread struct {
	creds
	labeller
	recall
	name, name2 [maxName + 1]byte // NUL-terminated
	num         [12]byte          // of a descriptor, NUL-terminated
	how         unix.OpenHow
	stat        unix.Statx_t
	brief       unix.Stat_t
	statfs      unix.Statfs_t
	times       [2]unix.Timespec
	offs        [2]int64
	entry       fuse.Entry
	bounce      bounce
	buf         [64 << 10]byte // directory records, or names of extended attributes
}

// AttachThread implements fuse.FileSystem. It gives the calling thread a file system
// context of its own (umask and current directory), so the thread must never run
// other goroutines again (fs-device.md F.5).
func (fs *FS) AttachThread() (any, error) {
	t := new(thread)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("unshare(CLONE_FS): %w (a container's seccomp profile may forbid it)", err)
	}
	unix.Umask(0)
	if err := unix.Fchdir(fs.proc.Int()); err != nil {
		return nil, fmt.Errorf("enter /proc/self/fd: %w", err)
	}
	if err := t.creds.init(); err != nil {
		return nil, err
	}
	fs.openLabeller(&t.labeller)
	return t, nil
}

// DetachThread implements fuse.FileSystem. Nothing outlives the thread.
func (fs *FS) DetachThread(local any) {
	t := local.(*thread)
	t.labeller.close()
	t.bounce.free()
}

// local returns the state of the thread that runs a request.
func local(c *fuse.Context) *thread { return c.Local.(*thread) }

// cname stores a name in buf as the kernel wants it. Whatever passes is a single
// component of a path; it may be "." or "..".
func cname(buf *[maxName + 1]byte, name []byte) (*byte, syscall.Errno) {
	switch {
	case len(name) == 0:
		return nil, unix.EINVAL
	case len(name) > maxName:
		return nil, unix.ENAMETOOLONG
	case bytes.IndexByte(name, '/') >= 0 || bytes.IndexByte(name, 0) >= 0:
		return nil, unix.EINVAL
	}
	buf[copy(buf[:], name)] = 0
	return &buf[0], 0
}

// isDots reports whether name is "." or "..".
func isDots(name []byte) bool {
	return len(name) <= 2 && len(name) > 0 && name[0] == '.' && name[len(name)-1] == '.'
}

// link returns the name of a descriptor below /proc/self/fd. It is valid until the
// next call.
func (t *thread) link(fd int) *byte {
	b := strconv.AppendInt(t.num[:0], int64(fd), 10)
	t.num[len(b)] = 0
	return &t.num[0]
}

// dir finds a parent directory and stores a name below it in the thread. The error
// for "." and ".." is the caller's. The node must be put back if there is no error.
func (fs *FS) dir(t *thread, parent fuse.NodeID, name []byte, dots syscall.Errno) (*slot[node], *byte, syscall.Errno) {
	p, e := cname(&t.name, name)
	if e != 0 {
		return nil, nil, e
	}
	if isDots(name) {
		return nil, nil, dots
	}
	d, e := fs.hold(t, parent)
	if e != 0 {
		return nil, nil, e
	}
	return d, p, 0
}
