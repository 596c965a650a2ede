package passthrough

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// creds are a thread's own credentials and what of them is replaced by the caller's
// now (fs-device.md E.4).
type creds struct {
	uid, gid uint32
	groups   []uint32
	// keepsCaps: SECBIT_NO_SETUID_FIXUP is set, so that capabilities survive a change of
	// the user (E.4.3, F.1.1).
	keepsCaps bool
	// setsGroups: the thread may change its supplementary groups.
	setsGroups bool

	asUID, asGID, asGroups, masked bool

	hostGroups []uint32 // memory for translated groups

	privs privs
}

// init reads the thread's credentials and makes its capabilities survive a switch.
func (t *creds) init() error {
	t.uid, t.gid = uint32(unix.Geteuid()), uint32(unix.Getegid())
	groups, err := unix.Getgroups()
	if err != nil {
		return fmt.Errorf("read supplementary groups: %w", err)
	}
	for _, g := range groups {
		t.groups = append(t.groups, uint32(g))
	}
	t.setsGroups = setgroups(t.groups) == 0

	const noFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP, linux/securebits.h
	if bits, e := call(unix.SYS_PRCTL, unix.PR_GET_SECUREBITS, 0, 0, 0); e == 0 {
		if bits&noFixup == 0 { // a jail has set it, and given up the right to
			_, e = call(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, uintptr(bits|noFixup), 0, 0)
		}
		t.keepsCaps = e == 0
	}
	t.privs.init()
	return nil
}

// become makes the thread act as a request's caller until restore. It is called right
// before a creating system call, so that the new object gets the right owner.
func (fs *FS) become(t *thread, c *fuse.Context, mask uint32) syscall.Errno {
	uid, gid, groups, e := fs.hostIDs(t, c)
	if e != 0 {
		return e
	}
	if groups != nil && t.setsGroups {
		if e := setgroups(groups); e != 0 {
			return e
		}
		t.asGroups = true
	}
	// To root there is no switch: the server is root, or its own user stands for it
	// (E.4.2.5).
	if gid != 0 && gid != t.gid {
		if e := setegid(gid); e != 0 {
			fs.restore(t)
			return e
		}
		t.asGID = true
	}
	if uid != 0 && uid != t.uid {
		if e := seteuid(uid); e != 0 {
			fs.restore(t)
			return e
		}
		t.asUID = true
		// The host checks permissions now, but does not know all groups of the caller
		// unless the guest sends them.
		if !t.keepsCaps && t.uid == 0 && !fs.has(fuse.CreateSuppGroup) {
			if e := raise(unix.CAP_DAC_OVERRIDE); e != 0 && e != unix.EPERM {
				fs.restore(t)
				return e
			}
		}
	}
	if fs.has(fuse.DontMask) && mask&0o777 != 0 {
		umask(mask & 0o777)
		t.masked = true
	}
	return 0
}

// restore ends become.
func (fs *FS) restore(t *thread) {
	if t.masked {
		umask(0)
		t.masked = false
	}
	if t.asUID {
		fs.must(seteuid(t.uid), "user")
		t.asUID = false
	}
	if t.asGID {
		fs.must(setegid(t.gid), "group")
		t.asGID = false
	}
	if t.asGroups {
		fs.must(setgroups(t.groups), "supplementary groups")
		t.asGroups = false
	}
}

// must ends the process if a thread cannot get its own credentials back: it would
// serve other requests with a guest user's (E.4.2.2, F.5).
func (fs *FS) must(e syscall.Errno, what string) {
	if e == 0 {
		return
	}
	fs.log.Error("cannot restore the server's credentials", "what", what, "err", e)
	syscall.Exit(70)
}
