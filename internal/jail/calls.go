package jail

import "golang.org/x/sys/unix"

// The tables of system calls that pass, most frequent first, each with who needs it. They
// were found by running the tests with --seccomp log; what they have beside is what other
// kernels and Go versions need (fs-device.md F.7.1).

// fileCalls serve files. Those that only the slow paths of a handful of requests use are
// in alphabetical order at the end.
var fileCalls = []rule{
	{name: "preadv2", nr: unix.SYS_PREADV2, why: "READ"},
	{name: "pwritev2", nr: unix.SYS_PWRITEV2, why: "WRITE"},
	{name: "pwrite64", nr: unix.SYS_PWRITE64, why: "WRITE of one segment"},
	{name: "preadv", nr: unix.SYS_PREADV, why: "READ"},
	{name: "pwritev", nr: unix.SYS_PWRITEV, why: "WRITE"},
	{name: "openat2", nr: unix.SYS_OPENAT2, why: "LOOKUP, CREATE: confined to the parent"},
	{name: "openat", nr: unix.SYS_OPENAT, why: "OPEN by /proc/self/fd"},
	{name: "getdents64", nr: unix.SYS_GETDENTS64, why: "READDIR"},
	{name: "lseek", nr: unix.SYS_LSEEK, why: "READDIR, LSEEK"},
	{name: "getxattr", nr: unix.SYS_GETXATTR, why: "GETXATTR"},
	{name: "fstatfs", nr: unix.SYS_FSTATFS, why: "STATFS"},
	{name: "setresuid", nr: unix.SYS_SETRESUID, why: "new objects get their owner"},
	{name: "setresgid", nr: unix.SYS_SETRESGID, why: "new objects get their group"},
	{name: "setfsuid", nr: unix.SYS_SETFSUID, why: "new objects get their owner"},
	{name: "setfsgid", nr: unix.SYS_SETFSGID, why: "new objects get their group"},
	{name: "umask", nr: unix.SYS_UMASK, why: "new objects get their mode"},
	{name: "mkdirat", nr: unix.SYS_MKDIRAT, why: "MKDIR"},
	{name: "renameat2", nr: unix.SYS_RENAMEAT2, why: "RENAME"},
	{name: "fchmodat", nr: unix.SYS_FCHMODAT, why: "SETATTR of the mode"},
	{name: "fchownat", nr: unix.SYS_FCHOWNAT, why: "SETATTR of the owner"},
	{name: "utimensat", nr: unix.SYS_UTIMENSAT, why: "SETATTR of the times"},
	{name: "ftruncate", nr: unix.SYS_FTRUNCATE, why: "SETATTR of the size"},
	{name: "fsync", nr: unix.SYS_FSYNC, why: "FSYNC"},
	{name: "fdatasync", nr: unix.SYS_FDATASYNC, why: "FSYNC of data"},

	{name: "capset", nr: unix.SYS_CAPSET, why: "capabilities of a thread that changed its user; they never grow"},
	{name: "copy_file_range", nr: unix.SYS_COPY_FILE_RANGE, why: "COPY_FILE_RANGE"},
	{name: "faccessat2", nr: unix.SYS_FACCESSAT2, why: "ACCESS"},
	{name: "fallocate", nr: unix.SYS_FALLOCATE, why: "FALLOCATE"},
	{name: "fchdir", nr: unix.SYS_FCHDIR, why: "each thread lives in /proc/self/fd"},
	{name: "fchmod", nr: unix.SYS_FCHMOD, why: "SETATTR of an open file"},
	{name: "fchmodat2", nr: unix.SYS_FCHMODAT2, why: "SETATTR of the mode, Linux 6.6"},
	{name: "fchown", nr: unix.SYS_FCHOWN, why: "SETATTR of an open file"},
	{name: "fgetxattr", nr: unix.SYS_FGETXATTR, why: "GETXATTR of an open file"},
	{name: "flistxattr", nr: unix.SYS_FLISTXATTR, why: "LISTXATTR of an open file"},
	{name: "flock", nr: unix.SYS_FLOCK, why: "SETLK of flock"},
	{name: "fremovexattr", nr: unix.SYS_FREMOVEXATTR, why: "REMOVEXATTR of an open file"},
	{name: "fsetxattr", nr: unix.SYS_FSETXATTR, why: "SETXATTR of an open file"},
	{name: "getegid", nr: unix.SYS_GETEGID, why: "each thread notes its credentials"},
	{name: "geteuid", nr: unix.SYS_GETEUID, why: "the same"},
	{name: "getgroups", nr: unix.SYS_GETGROUPS, why: "the same"},
	{name: "getresgid", nr: unix.SYS_GETRESGID, why: "the same"},
	{name: "getresuid", nr: unix.SYS_GETRESUID, why: "the same"},
	{name: "getxattrat", nr: unix.SYS_GETXATTRAT, why: "GETXATTR, Linux 6.13"},
	{name: "ioctl", nr: unix.SYS_IOCTL, why: "IOCTL: inode flags, encryption policies, verity", arg: 1, mask: ^uint32(0), values: fileIoctls},
	{name: "linkat", nr: unix.SYS_LINKAT, why: "LINK"},
	{name: "listxattr", nr: unix.SYS_LISTXATTR, why: "LISTXATTR"},
	{name: "listxattrat", nr: unix.SYS_LISTXATTRAT, why: "LISTXATTR, Linux 6.13"},
	{name: "mknodat", nr: unix.SYS_MKNODAT, why: "MKNOD"},
	{name: "name_to_handle_at", nr: unix.SYS_NAME_TO_HANDLE_AT, why: "nodes without descriptors"},
	{name: "open_by_handle_at", nr: unix.SYS_OPEN_BY_HANDLE_AT, why: "nodes without descriptors; needs CAP_DAC_READ_SEARCH"},
	{name: "removexattr", nr: unix.SYS_REMOVEXATTR, why: "REMOVEXATTR"},
	{name: "removexattrat", nr: unix.SYS_REMOVEXATTRAT, why: "REMOVEXATTR, Linux 6.13"},
	{name: "setgroups", nr: unix.SYS_SETGROUPS, why: "new objects get the caller's groups checked"},
	{name: "setxattr", nr: unix.SYS_SETXATTR, why: "SETXATTR"},
	{name: "setxattrat", nr: unix.SYS_SETXATTRAT, why: "SETXATTR, Linux 6.13"},
	{name: "symlinkat", nr: unix.SYS_SYMLINKAT, why: "SYMLINK"},
	{name: "sync_file_range", nr: unix.SYS_SYNC_FILE_RANGE, why: "writes that start early"},
	{name: "syncfs", nr: unix.SYS_SYNCFS, why: "SYNCFS"},
	{name: "truncate", nr: unix.SYS_TRUNCATE, why: "SETATTR of the size without a handle"},
	{name: "unshare", nr: unix.SYS_UNSHARE, why: "each thread has its own umask", arg: 0, mask: ^uint32(0), values: []uint32{unix.CLONE_FS}},
}

// fileIoctls are the commands of IOCTL (fs-device.md E.17).
var fileIoctls = []uint32{
	unix.FS_IOC_GETFLAGS, unix.FS_IOC_SETFLAGS,
	0x801c581f, // FS_IOC_FSGETXATTR
	0x401c5820, // FS_IOC_FSSETXATTR
	unix.FS_IOC_SET_ENCRYPTION_POLICY, unix.FS_IOC_GET_ENCRYPTION_POLICY_EX,
	unix.FS_IOC_ENABLE_VERITY, 0xc0046686, // FS_IOC_MEASURE_VERITY
}

// threadFlags tell a new thread from a new process or namespace.
const threadFlags = unix.CLONE_THREAD | unix.CLONE_VM | unix.CLONE_NEWUSER | unix.CLONE_NEWNS |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// runtimeCalls keep a Go program going, and its rings.
var runtimeCalls = []rule{
	{name: "epoll_pwait", nr: unix.SYS_EPOLL_PWAIT, why: "rings and the Go runtime wait"},
	{name: "write", nr: unix.SYS_WRITE, why: "calls of rings; the log"},
	{name: "read", nr: unix.SYS_READ, why: "eventfds"},
	{name: "statx", nr: unix.SYS_STATX, why: "LOOKUP, GETATTR; which memory file is it?"},
	{name: "close", nr: unix.SYS_CLOSE, why: "FORGET, RELEASE; descriptors of peers"},
	{name: "pread64", nr: unix.SYS_PREAD64, why: "READ of one segment; the Go runtime reads cgroup limits"},
	{name: "futex", nr: unix.SYS_FUTEX, why: "locks of the Go runtime"},
	{name: "nanosleep", nr: unix.SYS_NANOSLEEP, why: "the Go runtime"},
	{name: "madvise", nr: unix.SYS_MADVISE, why: "the Go runtime's heap"},
	{name: "mmap", nr: unix.SYS_MMAP, why: "the heap, stacks, the guest's memory; nothing executable", arg: 2, mask: unix.PROT_EXEC, values: []uint32{0}},
	{name: "munmap", nr: unix.SYS_MUNMAP, why: "the guest's memory"},
	{name: "mprotect", nr: unix.SYS_MPROTECT, why: "the heap; nothing executable", arg: 2, mask: unix.PROT_EXEC, values: []uint32{0}},
	{name: "getpid", nr: unix.SYS_GETPID, why: "preemption"},
	{name: "gettid", nr: unix.SYS_GETTID, why: "preemption"},
	{name: "rt_sigreturn", nr: unix.SYS_RT_SIGRETURN, why: "signal handlers"},
	{name: "rt_sigprocmask", nr: unix.SYS_RT_SIGPROCMASK, why: "new threads"},
	{name: "rt_sigaction", nr: unix.SYS_RT_SIGACTION, why: "signal handlers"},
	{name: "sigaltstack", nr: unix.SYS_SIGALTSTACK, why: "new threads"},
	{name: "sched_yield", nr: unix.SYS_SCHED_YIELD, why: "locks of the Go runtime"},
	{name: "sched_getaffinity", nr: unix.SYS_SCHED_GETAFFINITY, why: "the number of processors"},
	{name: "clone", nr: unix.SYS_CLONE, why: "new threads; no processes", arg: 0, mask: threadFlags, values: []uint32{unix.CLONE_THREAD | unix.CLONE_VM}},
	{name: "clone3", nr: unix.SYS_CLONE3, why: "its flags can't be seen: C libraries then use clone", errno: unix.ENOSYS},
	{name: "clock_gettime", nr: unix.SYS_CLOCK_GETTIME, why: "time, where the vDSO has none"},
	{name: "clock_nanosleep", nr: unix.SYS_CLOCK_NANOSLEEP, why: "waits"},
	{name: "gettimeofday", nr: unix.SYS_GETTIMEOFDAY, why: "time, where the vDSO has none"},
	{name: "getrandom", nr: unix.SYS_GETRANDOM, why: "seeds of maps"},
	{name: "set_robust_list", nr: unix.SYS_SET_ROBUST_LIST, why: "new threads of C libraries"},
	{name: "rseq", nr: unix.SYS_RSEQ, why: "new threads of C libraries"},
	{name: "membarrier", nr: unix.SYS_MEMBARRIER, why: "the race detector"},
	{name: "brk", nr: unix.SYS_BRK, why: "C libraries"},
	{name: "mincore", nr: unix.SYS_MINCORE, why: "the Go runtime"},
	{name: "mremap", nr: unix.SYS_MREMAP, why: "C libraries"},
	{name: "exit", nr: unix.SYS_EXIT, why: "ends of threads"},
	{name: "exit_group", nr: unix.SYS_EXIT_GROUP, why: "the end"},
	{name: "restart_syscall", nr: unix.SYS_RESTART_SYSCALL, why: "waits that a stop interrupted"},
	{name: "capget", nr: unix.SYS_CAPGET, why: "what is in force"},
	{name: "readlinkat", nr: unix.SYS_READLINKAT, why: "READLINK; the kind of a peer's descriptor"},
	{name: "uname", nr: unix.SYS_UNAME, why: "features by kernel version"},
	{name: "getuid", nr: unix.SYS_GETUID, why: "the standard library"},
	{name: "getgid", nr: unix.SYS_GETGID, why: "the standard library"},
	{name: "fcntl", nr: unix.SYS_FCNTL, why: "the standard library; SETLK"},
	{name: "fstat", nr: unix.SYS_FSTAT, why: "GETATTR, the size of memory files"},
	{name: "prctl", nr: unix.SYS_PRCTL, why: "names of memory; what is in force", arg: 0, mask: ^uint32(0), values: []uint32{
		unix.PR_SET_VMA, unix.PR_GET_SECUREBITS, unix.PR_GET_NO_NEW_PRIVS, unix.PR_GET_SECCOMP, unix.PR_CAPBSET_READ,
	}},
	{name: "prlimit64", nr: unix.SYS_PRLIMIT64, why: "the limit of open files"},
}

// socketCalls talk to whoever is connected, and nobody else.
var socketCalls = []rule{
	{name: "recvmsg", nr: unix.SYS_RECVMSG, why: "messages"},
	{name: "sendmsg", nr: unix.SYS_SENDMSG, why: "replies"},
	{name: "recvfrom", nr: unix.SYS_RECVFROM, why: "messages"},
	{name: "sendto", nr: unix.SYS_SENDTO, why: "replies; --syslog"},
	{name: "accept4", nr: unix.SYS_ACCEPT4, why: "clients"},
	{name: "getsockname", nr: unix.SYS_GETSOCKNAME, why: "the standard library"},
	{name: "getpeername", nr: unix.SYS_GETPEERNAME, why: "the standard library"},
	{name: "getsockopt", nr: unix.SYS_GETSOCKOPT, why: "the standard library"},
	{name: "setsockopt", nr: unix.SYS_SETSOCKOPT, why: "buffers"},
	{name: "unlinkat", nr: unix.SYS_UNLINKAT, why: "UNLINK, RMDIR; our own sockets, without a jail"},
	{name: "shutdown", nr: unix.SYS_SHUTDOWN, why: "hanging up"},
	{name: "ppoll", nr: unix.SYS_PPOLL, why: "waits for one descriptor"},
	{name: "eventfd2", nr: unix.SYS_EVENTFD2, why: "rings"},
	{name: "epoll_create1", nr: unix.SYS_EPOLL_CREATE1, why: "rings"},
	{name: "epoll_ctl", nr: unix.SYS_EPOLL_CTL, why: "rings"},
	{name: "memfd_create", nr: unix.SYS_MEMFD_CREATE, why: "memory that is shared with the peer"},
	{name: "dup", nr: unix.SYS_DUP, why: "eventfds"},
	{name: "dup3", nr: unix.SYS_DUP3, why: "eventfds"},
	{name: "pipe2", nr: unix.SYS_PIPE2, why: "the Go runtime"},
	{name: "readv", nr: unix.SYS_READV, why: "messages"},
	{name: "writev", nr: unix.SYS_WRITEV, why: "replies"},
}

// functionCalls drive a PCI function.
var functionCalls = []rule{
	{name: "ioctl", nr: unix.SYS_IOCTL, why: "VFIO and iommufd", arg: 1, mask: 0xff00, values: []uint32{';' << 8}},
	{name: "mlock", nr: unix.SYS_MLOCK, why: "memory for DMA"},
	{name: "munlock", nr: unix.SYS_MUNLOCK, why: "memory for DMA"},
}
