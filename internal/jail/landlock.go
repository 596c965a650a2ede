package jail

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Landlock says whether the kernel's Landlock is to be used.
type Landlock string

// What there is to choose.
const (
	LandlockOff     Landlock = "off"
	LandlockAuto    Landlock = "auto"    // as far as the kernel can, except in Mode None
	LandlockRequire Landlock = "require" // or an error
)

// landlockNeeded is the version below which Landlock does harm: the first forbids to
// move files between directories.
const landlockNeeded = 2

// landlockAccess are the rights that a version added, and with them what is forbidden
// wherever no rule allows it (Documentation/userspace-api/landlock.rst). Running programs
// is not for anybody.
var landlockAccess = [...]struct {
	version    int
	share      uint64 // allowed in the share
	elsewhere  uint64 // allowed nowhere
	net, scope uint64 // allowed never
	size       uintptr
}{
	{
		1, unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR |
			unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR |
			unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
			unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM,
		unix.LANDLOCK_ACCESS_FS_EXECUTE, 0, 0, 8,
	},
	{2, unix.LANDLOCK_ACCESS_FS_REFER, 0, 0, 0, 8},
	{3, unix.LANDLOCK_ACCESS_FS_TRUNCATE, 0, 0, 0, 8},
	{4, 0, 0, unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, 0, 16},
	{5, 0, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, 0, 0, 16},
	// Signals are left out: before Linux 6.15 threads could not signal each other, which
	// the Go runtime has to.
	{6, 0, 0, 0, unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, 24},
}

// landlock forbids all threads to open files outside of the share. The share is the root
// directory by now, unless the mode is None.
func (p *Plan) landlock(r *Report) error {
	r.Landlock = "off"
	if p.Landlock != LandlockRequire && !(p.Landlock == LandlockAuto && p.Jailed()) {
		return nil
	}
	version, err := landlockVersion()
	switch {
	case err == nil && version >= landlockNeeded:
	case p.Landlock == LandlockRequire && err != nil:
		return fmt.Errorf("--landlock require: this kernel has none: %w; boot with lsm=landlock,… or pass --landlock auto", err)
	case p.Landlock == LandlockRequire:
		return fmt.Errorf("--landlock require: this kernel has version %d, which can't move files between directories; want Linux 5.19, or pass --landlock auto", version)
	default:
		r.Landlock = "not in this kernel"
		return nil
	}
	var attr unix.LandlockRulesetAttr
	var share uint64
	var size uintptr
	for _, a := range landlockAccess {
		if a.version <= version {
			attr.Handled_access_fs |= a.share | a.elsewhere
			attr.Handled_access_net |= a.net
			attr.Scoped |= a.scope
			share |= a.share
			size = a.size
		}
	}
	rules, err := landlockRuleset(&attr, size)
	if err != nil {
		return fmt.Errorf("landlock: make rules: %w; pass --landlock off if it can't be had", err)
	}
	defer unix.Close(rules)
	if root := p.visibleRoot(); root != "" {
		if err := allowBelow(rules, root, share); err != nil {
			return err
		}
	}
	if !p.Jailed() {
		for _, dir := range p.Removes {
			if err := allowBelow(rules, dir, unix.LANDLOCK_ACCESS_FS_REMOVE_FILE); err != nil {
				return err
			}
		}
	}
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("landlock: set no_new_privs on all threads: %w; pass --landlock off", err)
	}
	if err := allThreads(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(rules), 0, 0); err != nil {
		hint := ""
		if errors.Is(err, unix.E2BIG) {
			hint = " (16 levels are in force already)"
		}
		return fmt.Errorf("landlock: %w%s; pass --landlock off if it can't be had", err, hint)
	}
	r.Landlock = fmt.Sprintf("version %d", version)
	return nil
}

// visibleRoot returns where the share is once the root directory has changed, or "" if
// there is nothing to be seen.
func (p *Plan) visibleRoot() string {
	if !p.Jailed() || p.Root == "" {
		return p.Root
	}
	return "/"
}

// allowBelow adds a rule for what is below dir.
func allowBelow(rules int, dir string, access uint64) error {
	n, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("landlock: open %s: %w", dir, err)
	}
	defer unix.Close(n)
	if err := landlockAllow(rules, n, access); err != nil {
		return fmt.Errorf("landlock: allow %s: %w", dir, err)
	}
	return nil
}
