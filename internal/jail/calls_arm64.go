package jail

import "golang.org/x/sys/unix"

// auditArch is what seccomp calls this architecture.
const auditArch = unix.AUDIT_ARCH_AARCH64

// archCalls are calls that have another name on this architecture.
var archCalls = []rule{
	{name: "newfstatat", nr: unix.SYS_FSTATAT, why: "the standard library"},
}
