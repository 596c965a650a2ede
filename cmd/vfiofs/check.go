package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"vfiofs/virtio/virtiofs"
)

// maxSocketPath is what fits a sockaddr_un beside its NUL, in bytes (unix(7)).
const maxSocketPath = 107

// check refuses what cannot work before anything is opened or bound
// (fs-device.md A.1.1, A.6), and settles which of two spellings was used.
func (s *Serve) check() error {
	if s.Socket != "" && s.SocketPath != "" {
		return usage("`--socket-path` and `--socket` were both given and mean the same: drop one")
	}
	if s.Socket == "" && s.SocketPath != "" {
		s.Socket = s.SocketPath
	}
	switch {
	case s.Socket == "" && s.VFIO == "":
		return usage("exactly one of `--socket-path` (or `--socket`) or `--vfio` is required: say where to listen, for example --socket /run/fs.sock")
	case s.Socket != "" && s.VFIO != "":
		return usage("exactly one of `--socket-path` (or `--socket`) or `--vfio` is required: both were given; drop one")
	case s.VFIO != "" && !isFunction(s.VFIO):
		return usage("`--vfio` is %q: it must be a PCI address like 0000:00:07.0, or the path of a vfio-user socket with a / in it", s.VFIO)
	case s.VFIO != "" && s.Tag == nil:
		return usage("`--tag` is required with `--vfio`: the sibling may ask for it; choose a short name, for example --tag home")
	}
	if s.SharedDir == "" {
		return usage("`--shared-dir` is required: say which directory the guest shall see, for example --shared-dir /srv/home")
	}
	if err := checkTag(s.Tag); err != nil {
		return err
	}
	switch {
	case s.NumRequestQueues < 1 || s.NumRequestQueues > virtiofs.MaxRequestQueues:
		return usage("`--num-request-queues` is %d: a device has 1 to %d; one per guest processor is best", s.NumRequestQueues, virtiofs.MaxRequestQueues)
	case s.ThreadPoolSize < 0 || s.ThreadPoolSize > maxWorkers:
		return usage("`--thread-pool-size` is %d: it must be 0 to %d; leave it out for %d", s.ThreadPoolSize, maxWorkers, defaultWorkers)
	case s.Timeout != nil && *s.Timeout < 0:
		return usage("`--timeout` is %v: a time cannot be negative; 0s switches caching off", *s.Timeout)
	case s.NegativeTimeout < 0:
		return usage("`--negative-timeout` is %v: a time cannot be negative; 0s switches it off", s.NegativeTimeout)
	}
	switch s.Sandbox {
	case "none":
	case "namespace", "chroot":
		return usage("`--sandbox %s` is not available in this version, only none: confine the daemon from outside, for example with a container or a systemd unit, and pass --sandbox none", s.Sandbox)
	default:
		return usage("`--sandbox %s` is unknown: the only mode of this version is none", s.Sandbox)
	}
	return s.checkPlaces()
}

// checkTag refuses names that a guest cannot mount. No name at all is fine: then
// the front-end supplies one (fs-device.md A.6).
func checkTag(tag *string) error {
	if tag == nil {
		return nil
	}
	if err := virtiofs.CheckTag(*tag); err != nil {
		return usage("`--tag`: %w; choose a short name, for example --tag home", err)
	}
	if !utf8.ValidString(*tag) {
		return usage("`--tag`: %q is not valid UTF-8 (virtio 1.3, 5.11.4); choose a short name, for example --tag home", *tag)
	}
	return nil
}

// checkPlaces looks at the shared directory and at where the socket is or will be.
func (s *Serve) checkPlaces() error {
	if len(s.Socket) > maxSocketPath {
		return usage("socket path is too long: %d bytes (max supported: %d); choose a shorter one, for example under /run", len(s.Socket), maxSocketPath)
	}
	share, err := os.Stat(s.SharedDir)
	if err != nil {
		return fmt.Errorf("cannot open the shared directory: %w; create it or correct --shared-dir", err)
	}
	if s.VFIO != "" && !strings.Contains(s.VFIO, "/") {
		return nil // no socket
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(s.place()))
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	switch {
	case err != nil && s.VFIO != "":
		return fmt.Errorf("cannot find the socket %s: %w; start the proxy or correct --vfio", s.VFIO, err)
	case err != nil:
		return fmt.Errorf("cannot create the socket %s: %w; create its directory or correct --socket", s.Socket, err)
	}
	inside, err := isInside(dir, share)
	if err != nil {
		return fmt.Errorf("cannot look at the directories above the socket: %w", err)
	}
	if inside {
		return usage("the socket %s is inside the shared directory %s, where the guest could reach it: put it elsewhere, for example under /run", s.place(), s.SharedDir)
	}
	return nil
}

// isInside reports whether dir, absolute and without symbolic links, is top or
// below it.
func isInside(dir string, top os.FileInfo) (bool, error) {
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return false, err
		}
		if os.SameFile(info, top) {
			return true, nil
		}
		if dir == "/" {
			return false, nil
		}
		dir = filepath.Dir(dir)
	}
}
