package passthrough

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/fd"
)

// A new object gets the security label that the guest has computed for it (fs-device.md
// E.16), as an extended attribute. Nobody should see it without: so the host is told
// the label before, which SELinux can do; or a file is made without a name, labelled,
// and named. What can be made in neither way is labelled at once, and removed if that
// fails.

// selinuxLabel is the attribute that the host's SELinux reads.
const selinuxLabel = "security.selinux"

// A labeller labels what a thread makes.
type labeller struct {
	fscreate *fd.FD // attr/fscreate of the thread; nil if the host has no SELinux
	preset   bool   // the host labels what is made next
}

// openLabeller prepares the calling thread.
func (fs *FS) openLabeller(l *labeller) {
	if fs.opt.SecurityLabel == NotWanted {
		return
	}
	path := fmt.Sprintf("../task/%d/attr/fscreate", unix.Gettid()) // from /proc/self/fd
	n, err := unix.Openat(fs.proc.Int(), path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	l.fscreate = fd.New(n, "fscreate")
	if _, err := unix.Write(n, nil); err != nil { // no module listens
		l.close()
	}
}

func (l *labeller) close() {
	l.fscreate.Close()
	l.fscreate = nil
}

// presetLabel has the host label what the thread makes next, until endPreset, if it
// can.
func (fs *FS) presetLabel(t *thread, in *fuse.Create) {
	if len(in.Label) == 0 || t.fscreate == nil || fs.opt.XattrMap != nil || string(in.LabelAs) != selinuxLabel {
		return
	}
	_, err := unix.Write(t.fscreate.Int(), in.Label)
	t.preset = err == nil
}

// endPreset ends presetLabel. It reports whether what was made is still to be labelled.
func (fs *FS) endPreset(t *thread, in *fuse.Create) (missing bool) {
	if !t.preset {
		return len(in.Label) > 0
	}
	t.preset = false
	_, err := unix.Write(t.fscreate.Int(), nil)
	if e, bad := err.(syscall.Errno); bad {
		fs.must(e, "label of new files")
	}
	return false
}

// setLabel labels the object of a descriptor. It uses t.name.
func (fs *FS) setLabel(t *thread, n int, in *fuse.Create) syscall.Errno {
	p, e := fs.xattrName(t, in.LabelAs, xattrSet)
	if e != 0 {
		return e
	}
	return setxattr(t.link(n), p, in.Label, 0)
}

// label labels what was just made below d, or removes it; remove is 0 or AT_REMOVEDIR.
// t.name holds the name, before and after.
func (fs *FS) label(t *thread, d *node, name []byte, in *fuse.Create, remove int) syscall.Errno {
	n, e := fs.open(t, d.fd, &t.name[0], unix.O_PATH|unix.O_NOFOLLOW, 0)
	if e == 0 {
		e = fs.setLabel(t, n, in)
		unix.Close(n)
	}
	p, _ := cname(&t.name, name)
	if e != 0 {
		unlinkat(d.fd, p, remove)
	}
	return e
}

// createLabelled makes a regular file below d that is not seen before it is labelled;
// ok is false if the host has no files without a name. t.name holds the name, before
// and after.
func (fs *FS) createLabelled(t *thread, c *fuse.Context, d *node, name []byte, flags int, in *fuse.Create) (n int, e syscall.Errno, ok bool) {
	if e := fs.become(t, c, in.Umask); e != 0 {
		return -1, e, true
	}
	readOnly := flags&unix.O_ACCMODE == unix.O_RDONLY
	how := flags&^unix.O_TRUNC | unix.O_TMPFILE | unix.O_CLOEXEC
	if readOnly {
		how |= unix.O_RDWR // a file without a name must be open for writing
	}
	n, e = openat(d.fd, cstring(dot), how, in.Mode&0o7777)
	fs.restore(t)
	if e != 0 {
		return -1, e, e != unix.EOPNOTSUPP && e != unix.EISDIR
	}
	e = fs.setLabel(t, n, in)
	p, _ := cname(&t.name, name)
	if e == 0 {
		e = linkat(fs.proc.Int(), t.link(n), d.fd, p, unix.AT_SYMLINK_FOLLOW)
	}
	if e != 0 {
		unix.Close(n)
		return -1, e, true
	}
	if readOnly {
		if r, e := fs.reopen(t, n, flags&^unix.O_TRUNC); e == 0 {
			unix.Close(n)
			n = r
		} // else its mode forbids even this, and the guest alone sees to it
	}
	return n, 0, true
}
