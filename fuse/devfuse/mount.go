package devfuse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
)

// devicePath is the kernel's side of every FUSE mount.
const devicePath = "/dev/fuse"

// ioctlClone is FUSE_DEV_IOC_CLONE, _IOR(229, 0, uint32_t) of linux/fuse.h.
const ioctlClone = 0x8004e500

// openDevice opens /dev/fuse for a new connection.
func openDevice() (*fd.FD, error) {
	n, err := unix.Open(devicePath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case err == nil:
		return fd.New(n, devicePath), nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("%s: %w: this kernel has no FUSE, or the container lacks the device (modprobe fuse; docker run --device %s)", devicePath, err, devicePath)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("%s: %w: run this as root, or let this user use it (chmod 666 %s)", devicePath, err, devicePath)
	}
	return nil, fmt.Errorf("%s: %w", devicePath, err)
}

// clone opens /dev/fuse once more for the connection of dev.
func clone(dev *fd.FD) (*fd.FD, error) {
	c, err := openDevice()
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlSetPointerInt(c.Int(), ioctlClone, dev.Int()); err != nil {
		return nil, errors.Join(fmt.Errorf("clone %s: %w", devicePath, err), c.Close())
	}
	return c, nil
}

// mount mounts the connection of dev on the directory dir.
func mount(dev *fd.FD, dir string, o Options) (place, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return place{}, fmt.Errorf("mount point: %w", err)
	}
	if info, err := os.Stat(dir); err != nil {
		return place{}, fmt.Errorf("mount point: %w (if a mount that crashed is left: umount -l %s)", err, dir)
	} else if !info.IsDir() {
		return place{}, fmt.Errorf("mount point %s: not a directory", dir)
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if o.Trusted {
		flags = 0
	}
	if o.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	// What virtio-fs always has (linux fs/fuse/virtio_fs.c: virtio_fs_ctx_set_defaults), but
	// reads that fit a slot.
	opts := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,default_permissions,allow_other,max_read=%d",
		dev.Int(), unix.S_IFDIR, os.Geteuid(), os.Getegid(), maxWrite)
	err = unix.Mount(o.Source, dir, "fuse.vfiofs", flags, opts)
	switch {
	case errors.Is(err, unix.EPERM):
		return place{}, fmt.Errorf("mount on %s: %w: run this as root, or in a user namespace of its own "+
			"(unshare --user --map-root-user --mount vfiofs mount ...); fusermount3 is not used", dir, err)
	case err != nil:
		return place{}, fmt.Errorf("mount on %s: %w", dir, err)
	}
	id, err := mountID(dir)
	if err != nil {
		return place{}, errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
	}
	return place{dir, id}, nil
}

// mountID returns the id of what is mounted on dir, and asks no server for it.
func mountID(dir string) (uint64, error) {
	var st unix.Statx_t
	const flags = unix.AT_NO_AUTOMOUNT | unix.AT_SYMLINK_NOFOLLOW | unix.AT_STATX_DONT_SYNC
	if err := unix.Statx(unix.AT_FDCWD, dir, flags, unix.STATX_MNT_ID, &st); err != nil {
		return 0, fmt.Errorf("statx %s: %w", dir, err)
	}
	return st.Mnt_id, nil
}
