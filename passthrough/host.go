package passthrough

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// A host is what the kernel and the shared file system can do.
type host struct {
	openat2   bool   // Linux 5.6
	statxMask uint32 // basic attributes, the time of birth, and the best mount id there is
	proc      bool   // the root is on procfs
	inline    inline // how file data may be read on a thread that must not block
	ready     bool   // attributes of inodes of the root's mount are in memory
	quiet     bool   // files of the root's mount may be closed late (spare.go)
}

// probe asks the kernel, with the shared directory's descriptor as the subject.
func probe(root int) (host, error) {
	h := host{statxMask: unix.STATX_BASIC_STATS}

	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	n, e := openat2(root, cstring(dot), &how)
	switch e {
	case 0:
		unix.Close(n)
		h.openat2 = true
	case unix.ENOSYS, unix.EPERM: // EPERM: refused by a container's seccomp filter
	default:
		return h, fmt.Errorf("probe openat2: %w", e)
	}

	// Mount ids tell bind mounts of one directory apart. The unique ones (Linux 6.8)
	// are never used again, the others (5.8) may be.
	var st unix.Statx_t
	for _, id := range []uint32{unix.STATX_MNT_ID_UNIQUE, unix.STATX_MNT_ID} {
		if e := statx(root, &st, id); e == 0 && st.Mask&id != 0 {
			h.statxMask |= id
			break
		}
	}

	var sf unix.Statfs_t
	if e := fstatfs(root, &sf); e != 0 {
		return h, fmt.Errorf("statfs: %w", e)
	}
	h.proc = sf.Type == unix.PROC_SUPER_MAGIC
	h.quiet = quiet(int64(sf.Type)) && h.statxMask != unix.STATX_BASIC_STATS // it takes mount ids
	h.ready = ready(int64(sf.Type))
	h.inline = inlineNowait
	if remote(int64(sf.Type)) {
		h.inline = inlineNever
	}
	h.statxMask |= unix.STATX_BTIME
	return h, nil
}

// remote reports whether a file system of this type may keep a thread waiting for
// another machine or another process.
func remote(magic int64) bool {
	switch magic {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC,
		unix.FUSE_SUPER_MAGIC, unix.V9FS_MAGIC, unix.CEPH_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.CODA_SUPER_MAGIC:
		return true
	}
	return false
}

// ready reports whether a file system of this type has the attributes of an open file in
// memory. An overlay may have to ask what is below it.
func ready(magic int64) bool {
	switch magic {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.TMPFS_MAGIC:
		return true
	}
	return false
}

// ready reports whether the attributes of a node are in memory.
func (fs *FS) ready(n *node) bool { return fs.host.ready && n.key.mnt == fs.rootKey.mnt }

// reserved descriptors are the server's own: memory slots, eventfds, temporary ones
// (fs-device.md E.1.8).
const reserved = 509 + 100 + 64

// fdLimit returns how many descriptors a guest may keep open.
func fdLimit(limit int) (int64, error) {
	if limit > 0 {
		return int64(limit), nil
	}
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("read RLIMIT_NOFILE: %w", err)
	}
	// A small limit still leaves the guest a part that it can work with.
	n := int64(min(r.Cur, 1<<31))
	return max(n-reserved, n/4), nil
}
