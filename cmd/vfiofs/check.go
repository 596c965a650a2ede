package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"vfiofs/passthrough"
	"vfiofs/virtio/virtiofs"
)

// maxSocketPath is what fits a sockaddr_un beside its NUL, in bytes (unix(7)).
const maxSocketPath = 107

// check refuses what cannot work before anything is opened or bound
// (fs-device.md A.1.1, A.6).
func (s *Serve) check() error {
	if err := s.checkSource(); err != nil {
		return err
	}
	if s.SharedDir == "" {
		return usage("`--shared-dir` is required: say which directory the guest shall see, for example --shared-dir /srv/home")
	}
	if err := checkTag(s.Tag); err != nil {
		return err
	}
	if err := s.checkFeatures(); err != nil {
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
	if err := s.checkPlaces(); err != nil {
		return err
	}
	return s.checkSandbox()
}

// checkSource refuses command lines that don't say clearly where clients come from.
func (s *Serve) checkSource() error {
	if s.Socket != "" && s.SocketPath != "" {
		return usage("`--socket-path` and `--socket` were both given and mean the same: drop one")
	}
	const want = "exactly one of `--socket-path` (or `--socket`), `--fd` or `--vfio` is required"
	given := 0
	for _, ok := range []bool{s.socket() != "", s.FD != nil, s.VFIO != ""} {
		if ok {
			given++
		}
	}
	switch {
	case given == 0:
		return usage(want + ": say where to listen, for example --socket /run/fs.sock")
	case given > 1:
		return usage(want+": %d were given; keep one", given)
	case s.VFIO != "" && !isFunction(s.VFIO):
		return usage("`--vfio` is %q: it must be a PCI address like 0000:00:07.0, or the path of a vfio-user socket with a / in it", s.VFIO)
	case s.VFIO != "" && s.Tag == nil:
		return usage("`--tag` is required with `--vfio`: the sibling may ask for it; choose a short name, for example --tag home")
	case s.SocketGroup != "" && s.socket() == "":
		return usage("`--socket-group` is for sockets that are made here: with `--fd` or `--vfio`, set the group where the socket is made")
	case s.Once && s.Keep:
		return usage("`--once` and `--keep` contradict each other: drop one")
	}
	if s.SocketGroup != "" {
		if _, err := groupID(s.SocketGroup); err != nil {
			return usageError{err}
		}
	}
	if s.FD == nil {
		return nil
	}
	listens, err := checkFD(*s.FD)
	if err == nil && s.Keep && !listens {
		err = usage("`--keep` with `--fd %d`: that socket is connected to one client, and there can be no other; pass one that listens", *s.FD)
	}
	return err
}

// checkFeatures refuses what the file system cannot do.
func (s *Serve) checkFeatures() error {
	switch translates := len(s.TranslateUID)+len(s.TranslateGID) > 0; {
	case translates && s.PosixACL == demand(passthrough.Required):
		return usage("`--posix-acl` and `--translate-uid` or `--translate-gid` exclude each other: ACLs hold ids that are not translated; drop one")
	case s.XattrMap != nil && s.RewriteSecurity:
		return usage("`--xattrmap` and `rewrite-security-xattrs` exclude each other: the latter is a map of its own; drop one")
	}
	_, err := s.shareOptions(nil)
	return err
}

// warn tells about what works, but not as one might think.
func (s *Serve) warn(log *slog.Logger) {
	for _, note := range s.notes {
		log.Warn(note)
	}
	if s.isVirtiofsd() && s.Socket != "" {
		log.Warn("--socket is deprecated: use --socket-path")
	}
	if s.Writeback && (s.Cache == passthrough.CacheNever || s.Cache == passthrough.CacheMetadata) {
		log.Warn("--writeback has no effect on files: this cache policy keeps no data", "cache", s.Cache)
	}
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
	if len(s.socket()) > maxSocketPath {
		return usage("socket path is too long: %d bytes (max supported: %d); choose a shorter one, for example under /run", len(s.socket()), maxSocketPath)
	}
	share, err := os.Stat(s.SharedDir)
	if err != nil {
		return fmt.Errorf("cannot open the shared directory: %w; create it or correct --shared-dir", err)
	}
	if s.FD != nil || s.VFIO != "" && !strings.Contains(s.VFIO, "/") {
		return nil // no socket of ours
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(s.place()))
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	switch {
	case err != nil && s.VFIO != "":
		return fmt.Errorf("cannot find the socket %s: %w; start the proxy or correct --vfio", s.VFIO, err)
	case err != nil:
		return fmt.Errorf("cannot create the socket %s: %w; create its directory or correct --socket", s.socket(), err)
	}
	inside, err := isInside(dir, share)
	if err != nil {
		return fmt.Errorf("cannot look at the directories above the socket: %w", err)
	}
	if inside && s.isVirtiofsd() {
		// Its users share "/" (virtme-ng), and it doesn't mind.
		s.notes = append(s.notes, fmt.Sprintf("the socket %s is inside the shared directory %s: the guest can remove it", s.place(), s.SharedDir))
		return nil
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
