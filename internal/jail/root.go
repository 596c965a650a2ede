package jail

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// emptyRoot is where an empty directory is mounted: every system has it, and nothing of
// it is needed any more.
const emptyRoot = "/proc"

// changeRoot makes Root the root directory of all threads, and the rest unreachable.
func (p *Plan) changeRoot(r *Report) error {
	root := p.Root
	switch {
	case p.Mode == Chroot:
		if err := chroot(root); err != nil {
			return fmt.Errorf("--sandbox chroot: make %s the root directory: %w; pass --sandbox none if CAP_SYS_CHROOT can't be had", root, err)
		}
		r.Root = root + " (chroot)"
		return nil
	case root == "/":
		r.Root = "/, which is the share"
		return unix.Chdir("/")
	case root == "":
		root = emptyRoot
		if err := unix.Mount("none", root, "tmpfs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, "size=4k,nr_inodes=1,mode=0555"); err != nil {
			return fmt.Errorf("--sandbox namespace: mount an empty directory: %w", err)
		}
		r.Root = "empty"
	default:
		r.Root = root
	}
	how, err := pivot(root)
	if err != nil {
		return fmt.Errorf("--sandbox namespace: make %s the root directory: %w; pass --sandbox none if it can't be had", root, err)
	}
	r.Root += " (" + how + ")"
	return nil
}

// chroot makes dir the root directory and the current one.
func chroot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// pivot makes dir, a mount, the root directory, and takes the old root away. Nothing
// that the server needs is in the mount's own flags: nobody opens devices or runs
// programs there. It says how it was done.
func pivot(dir string) (how string, err error) {
	oldRoot, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(oldRoot)
	if err := unix.Chdir(dir); err != nil {
		return "", err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	if err := unix.MountSetattr(unix.AT_FDCWD, ".", unix.AT_RECURSIVE, &attr); err != nil && !errors.Is(err, unix.ENOSYS) {
		return "", fmt.Errorf("forbid devices and programs: %w", err)
	}
	// Both names are the same directory: the old root ends up on top of the new one, where
	// it is easy to unmount (pivot_root(2), "pivot_root(".", ".")").
	switch err := unix.PivotRoot(".", "."); {
	case err == nil:
	case errors.Is(err, unix.EINVAL):
		// The root is the kernel's initial one, as in an initramfs: it can't be taken away,
		// but covered.
		if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
			return "", err
		}
		return "moved over an initial root", chroot(".")
	default:
		return "", err
	}
	if err := unix.Fchdir(oldRoot); err != nil {
		return "", err
	}
	if err := unix.Mount("", ".", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return "", err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return "", fmt.Errorf("unmount the old root: %w", err)
	}
	return "pivot_root", unix.Chdir("/")
}
