package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"vfiofs/internal/idmap"
	"vfiofs/internal/jail"
	"vfiofs/passthrough"
)

// defaultSandbox returns the mode when none is asked for.
func defaultSandbox() jail.Mode {
	if jail.Supported {
		return jail.Namespace
	}
	return jail.None
}

// Confine holds the options of the jail that all servers have.
type Confine struct {
	Sandbox      jail.Mode     `group:"process" placeholder:"MODE" enum:"namespace,chroot,none" default:"${sandbox}" help:"Confine the process: namespace (sees the share and nothing else), chroot (needs root) or none. Default: ${default}."`
	Seccomp      jail.Action   `group:"process" placeholder:"ACTION" enum:"errno,kill,log,trap,none" default:"errno" help:"On a system call that serving never needs: errno, kill, log or trap; none allows all. Default: ${default}."`
	Landlock     jail.Landlock `hidden:"" group:"process" placeholder:"WHEN" enum:"auto,require,off" default:"auto" help:"Have the kernel's Landlock forbid files outside of the share, too: auto (as far as the kernel can; not for --sandbox none), require or off. Default: ${default}."`
	PrintSandbox string        `hidden:"" group:"process" placeholder:"FORMAT" enum:"text,json," default:"" help:"Print what confines the process to standard output, as text or json, and go on serving."`
}

// Rights holds the options of those that serve files: who they are, and what they may do.
type Rights struct {
	Modcaps []string `sep:"none" hidden:"" group:"process" placeholder:"LIST" help:"Keep other capabilities, for example +sys_admin:-mknod."`
	UIDMap  []string `name:"uid-map" sep:"none" hidden:"" group:"process" placeholder:"MAP" help:"User ids of the user namespace: \"INSIDE OUTSIDE COUNT,...\" or :INSIDE:OUTSIDE:COUNT:. Default: for root all as they are, for others their own and those of /etc/subuid."`
	GIDMap  []string `name:"gid-map" sep:"none" hidden:"" group:"process" placeholder:"MAP" help:"Likewise for group ids."`
	UID     uint32   `name:"uid" hidden:"" group:"process" placeholder:"N" help:"User id inside the user namespace to serve as. Default: 0 if it is mapped, else the caller's."`
	GID     uint32   `name:"gid" hidden:"" group:"process" placeholder:"N" help:"Likewise for the group id."`
}

// plan translates the command line for the jail.
func (s *Serve) plan() (*jail.Plan, error) {
	p := &jail.Plan{
		Mode: s.Sandbox, Root: s.SharedDir, UID: s.UID, GID: s.GID,
		Caps: jail.FileServer, Landlock: s.Landlock, Seccomp: s.Seccomp, Calls: jail.Socket,
	}
	if s.VFIO != "" {
		p.Calls = jail.Function
	}
	if path := s.socket(); path != "" {
		p.Removes = []string{filepath.Dir(path)}
	}
	var err error
	switch {
	case s.fileHandles() == passthrough.HandlesNever:
	case p.Landlock == jail.LandlockRequire:
		return nil, usage("`--inode-file-handles=mandatory` and `--landlock require` exclude each other: Landlock refuses files that were found by handle (fs-device.md F.10); drop one")
	default:
		p.Caps |= jail.FileHandles
		p.Landlock = jail.LandlockOff
	}
	for _, list := range s.Modcaps {
		if p.Caps, err = p.Caps.Modify(list); err != nil {
			return nil, usage("`--modcaps`: %w", err)
		}
	}
	if p.UIDMap, err = idmap.Parse(s.UIDMap...); err != nil {
		return nil, usage("`--uid-map`: %w", err)
	}
	if p.GIDMap, err = idmap.Parse(s.GIDMap...); err != nil {
		return nil, usage("`--gid-map`: %w", err)
	}
	return p, nil
}

// fileHandles settles whether files may be found by handle. The capability for that opens
// any file of the file system, in the share or not; so Landlock, which keeps those that
// are not closed, comes first where there is a choice.
func (s *Serve) fileHandles() passthrough.FileHandles {
	landlocked := s.Landlock == jail.LandlockRequire || s.Landlock == jail.LandlockAuto && s.Sandbox != jail.None
	if s.InodeFileHandles == passthrough.HandlesPrefer && landlocked {
		return passthrough.HandlesNever
	}
	return s.InodeFileHandles
}

// checkSandbox refuses what can't be confined.
func (s *Serve) checkSandbox() error {
	p, err := s.plan()
	if err != nil {
		return err
	}
	if err := p.Check(); err != nil {
		return usageError{err}
	}
	if info, err := os.Stat(s.SharedDir); err == nil && !info.IsDir() && s.Sandbox != jail.None {
		return usage("`--shared-dir` is %s, which is not a directory: name one", s.SharedDir)
	}
	return nil
}

// launch has the command line served in a jail, and returns what came of it. What has a
// path on the host is made here, because the server can't remove it.
func (s *Serve) launch(ctx context.Context, p *jail.Plan) (err error) {
	switch {
	case s.FD != nil:
		return exit(launchNotified(ctx, p, os.NewFile(uintptr(*s.FD), "--fd")))
	case s.VFIO != "":
		return exit(launchNotified(ctx, p))
	}
	from, err := s.openSocket(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	socket, err := from.File()
	switch {
	case err == nil:
	case ctx.Err() != nil: // told to end already, which closes the socket
		return nil
	default:
		return fmt.Errorf("pass the socket to the server: %w", err)
	}
	defer socket.Close()
	return exit(launchNotified(ctx, p, socket))
}

// openInside is open for a server in a jail.
func (s *Serve) openInside(ctx context.Context, cell *jail.Cell, rings int, log *slog.Logger) (source, error) {
	if cell == nil || s.socket() == "" {
		return s.open(ctx, rings, log)
	}
	n, err := cell.Take(0)
	if err != nil {
		return nil, err
	}
	return openFD(n)
}

// An exitCode is that of a server which has said itself what went wrong.
type exitCode int

// Error implements error.
func (e exitCode) Error() string { return fmt.Sprintf("the server ended with exit code %d", int(e)) }

// exit makes an error of what Launch returns.
func exit(code int, err error) error {
	if err == nil && code != 0 {
		return exitCode(code)
	}
	return err
}

// closeJail confines the process for good, and says so where the command line wants it.
func (c *Confine) closeJail(p *jail.Plan, cell *jail.Cell, stdout io.Writer, log *slog.Logger) error {
	report, err := p.Close(cell)
	if err != nil {
		return err
	}
	log.Debug("jailed", "sandbox", report.Mode, "landlock", report.Landlock, "seccomp", report.Seccomp, "capabilities", report.Effective)
	switch c.PrintSandbox {
	case "text":
		_, err = fmt.Fprint(stdout, report)
	case "json":
		err = json.NewEncoder(stdout).Encode(report)
	}
	return err
}
