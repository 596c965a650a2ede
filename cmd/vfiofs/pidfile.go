package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A pidFile says which process serves a socket, and its lock keeps others from doing so
// (fs-device.md G.1.6). It goes with the process.
type pidFile struct{ *os.File }

// lockPidFile makes the file beside a socket, or takes one that was left behind.
func lockPidFile(socket string) (*pidFile, error) {
	name := socket + ".pid"
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, fmt.Errorf("make the pid file: %w; choose another path for the socket", err)
		}
		p := &pidFile{f}
		switch err := p.lock(); {
		case err == nil:
			return p, nil
		case errors.Is(err, os.ErrNotExist): // its owner has just left
			f.Close()
		default:
			f.Close()
			return nil, fmt.Errorf("pid file %s: %w", name, err)
		}
	}
}

// lock takes the file, and writes our number to it.
func (p *pidFile) lock() error {
	err := unix.Flock(int(p.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return errors.New("another instance is running; end it, or choose another path for the socket")
	}
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	if err := p.current(); err != nil {
		return err
	}
	if err := p.Truncate(0); err != nil {
		return err
	}
	_, err = fmt.Fprintln(p, os.Getpid())
	return err
}

// current returns os.ErrNotExist if the name does not lead to this file.
func (p *pidFile) current() error {
	mine, err := p.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Lstat(p.Name()); err != nil || !os.SameFile(mine, there) {
		return os.ErrNotExist
	}
	return nil
}

// Close removes the file, and the lock with it.
func (p *pidFile) Close() error {
	var err error
	if p.current() == nil {
		err = os.Remove(p.Name())
	}
	return errors.Join(err, p.File.Close())
}
