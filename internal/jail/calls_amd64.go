package jail

import "golang.org/x/sys/unix"

// auditArch is what seccomp calls this architecture.
const auditArch = unix.AUDIT_ARCH_X86_64

// archCalls are calls that only this architecture has.
var archCalls = []rule{
	{name: "epoll_wait", nr: unix.SYS_EPOLL_WAIT, why: "rings"},
	{name: "newfstatat", nr: unix.SYS_NEWFSTATAT, why: "the standard library"},
	{name: "poll", nr: unix.SYS_POLL, why: "waits for one descriptor"},
	{name: "arch_prctl", nr: unix.SYS_ARCH_PRCTL, why: "new threads of C libraries"},
	{name: "time", nr: unix.SYS_TIME, why: "C libraries"},
}
