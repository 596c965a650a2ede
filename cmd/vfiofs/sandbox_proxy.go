package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/jail"
	"vfiofs/internal/unixsock"
	"vfiofs/virtio/vvu/proxy"
)

// plan translates the command line for the proxy's jail: it has no files at all, and what
// it serves is in the descriptors that its launcher passes.
func (p *Proxy) plan() *jail.Plan {
	return &jail.Plan{
		Mode: p.Sandbox, Landlock: p.Landlock, Seccomp: p.Seccomp, Calls: jail.Proxy,
		Removes: []string{filepath.Dir(p.Socket), filepath.Dir(p.DeviceSocket)},
	}
}

// checkSandbox refuses what the proxy can't be confined by.
func (p *Proxy) checkSandbox(plan *jail.Plan) error {
	if p.Sandbox == jail.Chroot {
		return usage("`--sandbox chroot` has no directory to go to: the proxy serves none; pass --sandbox namespace or none")
	}
	if err := plan.Check(); err != nil {
		return usageError{err}
	}
	return nil
}

// launch has the proxy run in a jail, and returns what came of it.
func (p *Proxy) launch(ctx context.Context, plan *jail.Plan, memory *proxy.Memory, sockets ...*unixsock.Listener) (err error) {
	file, err := memory.File()
	if err != nil {
		return err
	}
	files := []*os.File{file}
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	for _, socket := range sockets {
		f, err := socket.File()
		if err != nil {
			return fmt.Errorf("pass a socket to the proxy: %w", err)
		}
		files = append(files, f)
	}
	return exit(launchNotified(ctx, plan, files...))
}

// memoryInside opens the memory file that the launcher has opened.
func memoryInside(cell *jail.Cell) (*proxy.Memory, error) {
	n, err := cell.Take(0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(n)
	memory, err := proxy.OpenMemory(fmt.Sprintf("/proc/self/fd/%d", n), 0)
	if err == nil {
		// VMMs open what the launcher has open.
		memory.SetPath(fmt.Sprintf("/proc/%d/fd/%d", cell.Launcher(), n))
	}
	return memory, err
}

// listenInside listens on a socket that the launcher has bound.
func listenInside(cell *jail.Cell, n int) (*unixsock.Listener, error) {
	n, err := cell.Take(n)
	if err != nil {
		return nil, err
	}
	return unixsock.ListenFD(fd.New(n, "socket of the launcher"))
}
