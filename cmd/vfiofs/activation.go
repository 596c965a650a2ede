package main

import (
	"os"
	"strconv"

	"vfiofs/internal/jail"
)

// listenFD is the first descriptor that a service manager passes (sd_listen_fds(3)).
const listenFD = 3

// activate makes --fd of a socket that the service manager has passed. A jailed server
// has it from its launcher, at the same number.
//
// This is all of the protocol that we need. The activation package of go-systemd would
// add crypto/tls to the program, 1.7 MB of it, and files that close when they are
// collected.
func (s *Serve) activate(cell *jail.Cell) error {
	given := s.socket() != "" || s.FD != nil || s.VFIO != ""
	if cell != nil {
		if given {
			return nil
		}
		n, err := cell.Take(0)
		s.FD = &n
		return err
	}
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil
	}
	count := os.Getenv("LISTEN_FDS")
	switch {
	case given:
		return usage("the service manager has passed a socket (LISTEN_FDS=%s), and the command line names another: drop `--socket`, `--socket-path`, `--fd` or `--vfio`, or the socket unit", count)
	case count != "1":
		return usage("LISTEN_FDS is %q: a share has one socket; write one ListenStream= into the socket unit", count)
	}
	n := listenFD
	s.FD = &n
	return nil
}

// passed returns how many descriptors a launcher passes beside that of the notifier.
func (s *Serve) passed() int {
	if s.VFIO != "" {
		return 0
	}
	return 1
}
