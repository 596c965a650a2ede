package posix

import (
	"os"

	"golang.org/x/sys/unix"
)

// Ids of the users and groups that cases act as. They own nothing on any system, and
// are small enough for every user namespace and id translation.
const (
	alice = 5001 // the owner, in group staff
	bob   = 5002 // somebody else
	staff = 6001 // alice's group
	guild = 6002 // a group that some users are in beside their own
	crowd = 6003 // bob's group
)

// A user is whom a thread acts as.
type user struct {
	uid, gid int
	groups   []int // supplementary
}

// as runs do as another user, without privileges, and returns what it returns. Only
// the calling thread changes.
func (e *env) as(u user, do func() error) error {
	e.must(become(u.uid, u.gid, u.groups))
	err := do()
	e.must(become(0, 0, nil))
	return err
}

// try is as for calls that the case only prepares.
func (e *env) try(u user, do func() error) { e.must(e.as(u, do)) }

// me returns the user and group that new files of the caller have.
func me() (uid, gid int) { return os.Geteuid(), os.Getegid() }

// become changes the real and effective ids of the calling thread. The saved user id
// stays 0, which is the way back; a thread without effective id 0 has no capabilities
// (capabilities(7), "Effect of user ID changes").
func become(uid, gid int, groups []int) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0); errno != 0 {
		return errno
	}
	if err := setGroups(groups); err != nil {
		return err
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), 0); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), 0); errno != 0 {
		return errno
	}
	return nil
}
