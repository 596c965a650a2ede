package passthrough

import "golang.org/x/sys/unix"

// With HANDLE_KILLPRIV_V2 the guest says which opens, writes and truncations end the
// set-user-ID and set-group-ID bits of a file (fs-device.md E.10.5). The host's kernel
// knows how; it only leaves out processes that have CAP_FSETID. So the thread gives up
// that capability for the one system call. It ends file capabilities in any case.
//
// Linux says so with every write of an ordinary user, and a change of credentials takes
// the time of some writes: so a file without such bits is left alone. A bit that appears
// meanwhile stays, as it does if the guest clears it itself (linux fs/fuse/dir.c:
// fuse_setattr); what one guest does to one file is in order anyway.
//
// A set-group-ID bit without group execution goes, too. Local file systems leave it to
// members of the file's group, but guests with idmapped mounts do not say who writes.
//
// In a user namespace CAP_FSETID means nothing to files of the host: there the bits go
// with every write.

// privs are the capabilities of a thread.
type privs struct {
	caps   [2]unix.CapUserData
	fsetid bool // CAP_FSETID is among them, and effective
	ended  bool // but not just now
}

// init reads the capabilities of the calling thread.
func (p *privs) init() {
	const bit = 1 << unix.CAP_FSETID
	if capget(&p.caps) == 0 {
		p.fsetid = p.caps[0].Effective&bit != 0
	}
}

// killPrivs makes the calls up to keepPrivs clear set-user-ID and set-group-ID bits of
// the file fd, if kill is true.
func (fs *FS) killPrivs(t *thread, fd int, kill bool) {
	if !kill || !t.privs.fsetid {
		return
	}
	if e := statx(fd, &t.stat, unix.STATX_MODE); e == 0 && t.stat.Mode&(unix.S_ISUID|unix.S_ISGID) == 0 {
		return
	}
	less := t.privs.caps
	less[0].Effective &^= 1 << unix.CAP_FSETID
	if e := capset(&less); e != 0 {
		fs.log.Warn("cannot give up CAP_FSETID; set-user-ID bits of a file stay", "err", e)
		return
	}
	t.privs.ended = true
}

// keepPrivs ends killPrivs.
func (fs *FS) keepPrivs(t *thread) {
	if t.privs.ended {
		fs.must(capset(&t.privs.caps), "capabilities")
		t.privs.ended = false
	}
}
