package jail

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// namespaces are those of every server of Mode Namespace.
const namespaces = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// namespaceError says why a server could not be started.
func (p *Plan) namespaceError(err error) error {
	if p.Mode != Namespace {
		return fmt.Errorf("start the server: %w", err)
	}
	cause := "pass --sandbox none, and confine vfiofs from outside"
	switch {
	case errors.Is(err, unix.EPERM) && p.userNamespace():
		cause = "user namespaces are switched off here (sysctls kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns; a container's seccomp profile): allow them, run as root, or " + cause
	case errors.Is(err, unix.EPERM):
		cause = "CAP_SYS_ADMIN is missing, as in most containers: give it to the container, run as an ordinary user where user namespaces are allowed, or " + cause
	case errors.Is(err, unix.ENOSPC):
		cause = "no more namespaces are allowed (sysctls user.max_*_namespaces): raise the limit, or " + cause
	case errors.Is(err, unix.EINVAL):
		cause = "this kernel was built without one of the namespaces: " + cause
	}
	return fmt.Errorf("--sandbox namespace: start the server in namespaces of its own: %w; %s", err, cause)
}

// mountRoot makes the root to be a mount of its own, so that it can become "/". Mounts
// that the host makes below it show up (fs-device.md H236); none goes the other way.
func (p *Plan) mountRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("--sandbox namespace: keep mounts to ourselves: %w; is a security module in the way? See the kernel's log, or pass --sandbox none", err)
	}
	switch p.Root {
	case "/":
		return nil
	case "":
		return nil // made by changeRoot
	}
	if err := unix.Mount(p.Root, p.Root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("--sandbox namespace: mount the shared directory %s on itself: %w; pass --sandbox none if it can't be had", p.Root, err)
	}
	return nil
}
