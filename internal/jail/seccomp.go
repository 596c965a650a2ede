package jail

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// An Action is what happens on a system call that the table does not have
// (fs-device.md F.7).
type Action string

// The actions.
const (
	SeccompErrno Action = "errno" // the call fails with EPERM
	SeccompKill  Action = "kill"  // the process ends
	SeccompTrap  Action = "trap"  // the process ends by SIGSYS and shows its stacks
	SeccompLog   Action = "log"   // the call goes through; the kernel's log has it
	SeccompNone  Action = "none"  // there is no filter
)

// verdicts maps actions to what a filter returns.
var verdicts = map[Action]uint32{
	SeccompErrno: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM),
	SeccompKill:  unix.SECCOMP_RET_KILL_PROCESS,
	SeccompTrap:  unix.SECCOMP_RET_TRAP,
	SeccompLog:   unix.SECCOMP_RET_LOG,
}

// A rule lets a system call pass.
type rule struct {
	name string
	nr   uint32
	why  string
	// errno makes the call fail with it, where a caller is to take another way.
	errno unix.Errno
	// values are what the lower four bytes of argument arg, and mask, may be; nil
	// stands for any.
	arg    int
	mask   uint32
	values []uint32
}

// verdict is what the filter returns for the call.
func (r *rule) verdict() uint32 {
	if r.errno != 0 {
		return unix.SECCOMP_RET_ERRNO | uint32(r.errno)
	}
	return unix.SECCOMP_RET_ALLOW
}

// A Profile says which system calls a server needs.
type Profile string

// The profiles.
const (
	Socket   Profile = "socket"   // serves files through a socket
	Function Profile = "function" // serves files through a PCI function
	Proxy    Profile = "proxy"    // relays messages and memory, and opens no files
)

// rules returns the rules of a profile, most frequent first.
func (p Profile) rules() []rule {
	self := []rule{
		{name: "tgkill", nr: unix.SYS_TGKILL, why: "the Go runtime preempts its threads", arg: 0, mask: ^uint32(0), values: []uint32{uint32(os.Getpid())}},
	}
	switch p {
	case Proxy:
		return slices.Concat(runtimeCalls, socketCalls, archCalls, self)
	case Function:
		return slices.Concat(fileCalls, runtimeCalls, socketCalls, functionCalls, archCalls, self)
	}
	return slices.Concat(fileCalls, runtimeCalls, socketCalls, archCalls, self)
}

// seccomp puts the filter on all threads.
func (p *Plan) seccomp(r *Report) error {
	if p.Seccomp == SeccompNone || p.Seccomp == "" {
		r.Seccomp = "off"
		return nil
	}
	// Needed by all that have no CAP_SYS_ADMIN. The filter takes it along to all threads.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	rules := p.Calls.rules()
	err := filterAll(assemble(rules, verdicts[p.Seccomp]))
	switch {
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("--seccomp %s: this kernel has no seccomp filters: %w; pass --seccomp none", p.Seccomp, err)
	case err != nil:
		return fmt.Errorf("--seccomp %s: %w; pass --seccomp none if it can't be had", p.Seccomp, err)
	}
	r.Seccomp = fmt.Sprintf("%s: %d calls pass", p.Seccomp, len(rules))
	return nil
}
