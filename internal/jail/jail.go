// Package jail confines the process that serves a guest, so that whoever takes it over
// owns the share and nothing else.
//
//	 launcher (what the user started)        server (the same program again)
//	┌──────────────────────────────────┐    ┌───────────────────────────────────────────┐
//	│ bind sockets, choose id maps     │    │ Enter: wait for the maps, take ids, mount │
//	│ Launch: clone(NEWUSER, NEWPID…) ─┼───►│ open files, functions, everything         │
//	│         write the maps, "go" ────┼───►│ Close: groups, root, capabilities,        │
//	│ drop capabilities, wait          │    │        no_new_privs, Landlock, seccomp    │
//	│ exit with the server's code ◄────┼────┤ serve                                     │
//	└──────────────────────────────────┘    └───────────────────────────────────────────┘
//	                    lifeline: a pipe, whose end tells the server to end
//
// A Go program has threads before main, so it can't enter namespaces: it has to be
// started in them. That is all that Launch does beside waiting; the server is the same
// command line, which finds itself in a Cell. With Mode None there is no launcher, and
// Close applies what needs no other process. Each layer is a file: namespace.go,
// maps.go, root.go, caps.go, landlock.go, seccomp.go with its table calls.go; probe.go
// says which of them can be had. Layers fail closed: what was asked for and can't be had
// is an error, which names the layer, the cause, and the option that turns it off.
//
// Attributes of threads are set on all threads of the process, by a signal to each, and
// threads that come later inherit them; what can be inherited from the launcher is set
// there, on one. No other goroutine may be changing its thread's credentials while Close
// runs, nor have its own root directory: Close comes before the threads that serve. The
// runtime can't reach all threads in builds with cgo (the race detector): those know
// Mode None only.
//
// The launcher owns the sockets' paths and the pipe; the server owns the descriptors that
// it was given. There are no locks.
//
// Spec: fs-device.md A.3 (ids), F (all).
package jail

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/idmap"
)

// A Mode says how the process loses sight of the host (fs-device.md F.2).
type Mode string

// Supported reports whether this build can do more than None.
const Supported = !usesCgo

// The modes.
const (
	Namespace Mode = "namespace" // namespaces of its own, pivot_root into the share
	Chroot    Mode = "chroot"    // chroot into the share; needs root
	None      Mode = "none"      // the host as it is
)

// A Plan is what was asked for. Launcher and server have equal ones. The zero Plan asks
// for nothing.
type Plan struct {
	Mode Mode
	// Root is the directory that becomes "/". Empty stands for an empty directory that
	// nothing can be made in.
	Root string
	// UIDMap and GIDMap are those of the user namespace; nil chooses. UID and GID are the
	// ids inside that the server runs as; 0 chooses (fs-device.md A.3.6).
	UIDMap, GIDMap idmap.Map
	UID, GID       uint32

	Caps     Caps // the capabilities to keep, of those that there are
	Landlock Landlock
	// Removes are directories below which files may be removed even so, for processes
	// that clean up after themselves. Only in Mode None are they reachable.
	Removes []string
	Seccomp Action
	Calls   Profile
}

// Jailed reports whether there is a launcher.
func (p *Plan) Jailed() bool { return p.Mode == Namespace || p.Mode == Chroot }

// userNamespace reports whether the server gets a user namespace (fs-device.md A.3.7).
func (p *Plan) userNamespace() bool {
	return p.Mode == Namespace &&
		(os.Geteuid() != 0 || p.UIDMap != nil || p.GIDMap != nil || p.UID != 0 || p.GID != 0)
}

// Check refuses what can't work before anything is made.
func (p *Plan) Check() error {
	if !Supported && p.Jailed() {
		return fmt.Errorf("--sandbox %s is not in this build: build vfiofs with CGO_ENABLED=0, or pass --sandbox none", p.Mode)
	}
	if p.Mode != Namespace && (p.UIDMap != nil || p.GIDMap != nil || p.UID != 0 || p.GID != 0) {
		return errors.New("`--uid-map`, `--gid-map`, `--uid` and `--gid` need a user namespace: pass --sandbox namespace, or drop them")
	}
	if p.Mode == Chroot && os.Geteuid() != 0 {
		return errors.New("`--sandbox chroot` needs root: pass --sandbox namespace, which does not, or --sandbox none")
	}
	if p.userNamespace() {
		if _, err := p.identity(); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the jail: from here on the process can do what its Plan says, for good.
// It is called by the server once everything is open, and before the threads that serve
// exist. c is nil if there is no launcher, which is right for Mode None only.
func (p *Plan) Close(c *Cell) (*Report, error) {
	if p.Jailed() != (c != nil) {
		return nil, errors.New("jail: launcher and server disagree about --sandbox")
	}
	r := &Report{Mode: p.Mode, Root: "the host's"}
	if c != nil {
		if err := p.closeCell(c, r); err != nil {
			return nil, err
		}
	}
	if err := p.landlock(r); err != nil {
		return nil, err
	}
	if err := p.seccomp(r); err != nil {
		return nil, err
	}
	return r, r.read()
}

// closeCell does what needs capabilities, and gives them up.
func (p *Plan) closeCell(c *Cell, r *Report) error {
	_, _ = time.Now().Zone() // has Go load the time zone while it can be found (H244)
	// Without CAP_SETGID, or where the namespace forbids it, groups stay.
	if err := syscall.Setgroups(nil); err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("drop supplementary groups: %w", err)
	}
	if err := p.changeRoot(r); err != nil {
		return err
	}
	if err := bound(p.Caps); err != nil {
		return err
	}
	if err := keepOnly(p.Caps); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	r.identity = c.identity
	// The kernel forgot it when the credentials changed (fs-device.md F.4.9).
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0); err != nil {
		return fmt.Errorf("ask to be killed with the launcher: %w", err)
	}
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}
