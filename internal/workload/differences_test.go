package workload

// differences is the table of what differs on purpose; docs/virtiofsd.md tells users.
var differences = []difference{
	{
		what: `.*(tmpfile|tmplink).*`, theirs: `ENOTSUP|`,
		why: "O_TMPFILE works; virtiofsd does not know the operation",
	},
	{
		what: `.*FS_IOC_GETFLAGS of .*`, theirs: `ENOTTY`,
		why: "flags of inodes can be read; virtiofsd knows no ioctl",
	},
	{
		what: `user1000: whiteout|host: user1000/r1`, ours: `20000 1000:1000 .*`, theirs: `20000 0:0 .*`,
		why: "a whiteout belongs to who renames, as on a local file system; virtiofsd makes root own it",
	},
	{
		options: `.*cache=(metadata|always).*`, what: `INIT`,
		why: "CACHE_SYMLINKS, and NO_OPENDIR_SUPPORT with always, save requests for what the policy allows the guest to keep",
	},
	{
		options: `--no-announce-submounts`, what: `INIT`,
		why: "SUBMOUNTS is not agreed on if nothing will be announced",
	},
	{
		options: `.*forbid-guest.*`, ours: `EPERM`, theirs: `EIO`,
		why: "a forbidden id is a matter of permission, not a broken disk",
	},
	{
		options: `--xattrmap=:map::user.virtiofs.:`, what: `.*security.capability (then )?on .*`,
		why: "only what removes a capability on a local file system removes a renamed one; virtiofsd does at each setxattr",
	},
	{
		options: `.*(xattr|posix.acl|security-label).*`, what: `user0: .*(trusted.t|security.test) .*|user.*: has trusted.d .*`,
		why: "without a sandbox capabilities stay as they are; virtiofsd gives up CAP_SYS_ADMIN, which trusted.* and security.* need, in each mode",
	},
	{
		options: `--sandbox=(chroot|namespace).*`, what: `INIT`,
		why: `EXPORT_SUPPORT: "." and ".." of an inode can be looked up, for NFS servers in the guest`,
	},
	{
		options: `.*killpriv.v2.*`, what: `host: bits/user.*-(append|fallocate|write)|user.*: (append|fallocate|write) on .* leaves`,
		ours: `100.*`, theirs: `10[46].*`,
		why: "before fallocate, and before a write to a file with capabilities, Linux asks for the end of set-id bits by a SETATTR that changes nothing and hides the user; virtiofsd leaves the bits, also when the user is not root",
	},
	{
		options: `--rlimit-nofile=2000`, what: `limit of open files`,
		why: "a limit that is higher already stays",
	},
}
