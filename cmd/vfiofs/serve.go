package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/syslog"
	"vfiofs/passthrough"
	"vfiofs/virtio"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtiofs"
	"vfiofs/virtio/vvu"
)

// Defaults and waits of the daemon.
const (
	// defaultWorkers is enough for a disk's queue depth; a waiting worker costs some
	// kilobytes and no processor time.
	defaultWorkers = 16
	maxWorkers     = 1024
	// drainTime is how long requests in progress may take when the daemon is told to end.
	drainTime = time.Second
	// acceptPause is the wait after an accept that failed for lack of resources.
	acceptPause = time.Second
)

// run is the daemon's life: check, open the share, bind, serve until ctx ends, clean
// up. What a client does wrong ends its connection and nothing else.
//
// With --sandbox it lives twice: as the launcher, which checks, binds and waits, and as
// the server, which finds itself in a cell and does the rest.
func (s *Serve) run(ctx context.Context, stdout, stderr io.Writer) error {
	plan, err := s.plan()
	if err != nil {
		return err
	}
	log, err := s.openLog(stderr, syslog.Path) // before the root directory changes
	if err != nil {
		return err
	}
	cell, err := plan.Enter()
	if err != nil {
		return err
	}
	if err := s.activate(cell); err != nil {
		return err
	}
	if cell == nil {
		if err := s.check(); err != nil {
			return err
		}
		s.warn(log)
		if err := raiseFileLimit(s.RlimitNofile, log); err != nil {
			return err
		}
		if s.VFIO != "" {
			raiseLockLimit()
		}
		if plan.Jailed() {
			return s.launch(ctx, plan)
		}
	} else {
		ctx = cell.Context(ctx)
	}
	tuneRuntime(s.NumRequestQueues)

	options, err := s.shareOptions(log)
	if err != nil {
		return err
	}
	fs, err := passthrough.New(options)
	if err != nil {
		return err
	}
	notify, err := newNotifier(cell, s.passed(), log)
	if err != nil {
		fs.Close()
		return err
	}
	from, err := s.openInside(ctx, cell, 1+s.NumRequestQueues, log)
	if err != nil {
		fs.Close()
		return err
	}
	// Threads that serve come after the jail: they have a root directory each.
	if err := s.closeJail(plan, cell, stdout, log); err != nil {
		return errors.Join(err, from.Close(), fs.Close())
	}
	device, err := virtiofs.New(fuse.NewServer(fs.View(), fuse.Options{Log: log, Slow: fs.Remote()}), virtiofs.Options{
		Tag:           s.tag(),
		RequestQueues: s.NumRequestQueues,
		Workers:       max(1, s.ThreadPoolSize),
		Poll:          time.Duration(s.Poll),
		Log:           log,
	})
	if err != nil {
		return errors.Join(err, from.Close(), fs.Close())
	}

	ended := make(chan error, 1)
	go func() {
		err := s.serveClients(ctx, from, device, notify, log)
		if closeErr := from.Close(); closeErr != nil {
			log.Warn("not released cleanly", s.where(), "err", closeErr)
		}
		device.Close()
		fs.Close()
		ended <- err
	}()
	return wait(ctx, ended, log)
}

// wait returns what ended tells. Once ctx is done it waits no longer than drainTime:
// a request that hangs in the host must not keep the process.
func wait(ctx context.Context, ended <-chan error, log *slog.Logger) error {
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	log.Info("ending", "cause", context.Cause(ctx))
	select {
	case err := <-ended:
		return err
	case <-time.After(drainTime):
		log.Warn("requests are still running; ending without them", "waited", drainTime)
		return nil
	}
}

// tag returns the tag, or "" when the front-end supplies configuration space.
func (s *Serve) tag() string {
	if s.Tag == nil {
		return ""
	}
	return *s.Tag
}

// socket returns the path to listen on, if there is one.
func (s *Serve) socket() string { return cmp.Or(s.Socket, s.SocketPath) }

// place returns where clients come from.
func (s *Serve) place() string {
	if s.FD != nil {
		return fmt.Sprintf("--fd %d", *s.FD)
	}
	return cmp.Or(s.VFIO, s.socket())
}

// exits reports whether the end of the first client is the end of the daemon. That is
// what launchers of virtiofsd wait for; our own users restart virtual machines instead.
func (s *Serve) exits() bool {
	return s.Once || !s.Keep && (s.FD != nil || s.SocketPath != "" || s.isVirtiofsd())
}

// isVirtiofsd reports whether somebody takes us for virtiofsd.
func (s *Serve) isVirtiofsd() bool { return s.name == "virtiofsd" }

// serveClients serves one client after the other until ctx ends, or only the first. It
// returns nil when ctx ended it.
func (s *Serve) serveClients(ctx context.Context, from source, device virtio.Device, notify *notifier, log *slog.Logger) error {
	s.sayWaiting(log)
	notify.tell(ready)
	defer notify.tell(stopping)
	go notify.watch(ctx)
	for {
		link, err := from.Accept(ctx)
		switch {
		case ctx.Err() != nil:
			if err == nil {
				link.Close()
			}
			return nil
		case err != nil && passing(err):
			log.Error("cannot accept a client; trying again", s.where(), "err", err)
			pause(ctx, acceptPause)
			continue
		case err != nil:
			return s.lost(fmt.Errorf("accept a client on %s: %w", s.place(), err))
		}
		log.Info("Client connected, servicing requests")
		notify.tell(serving)
		err = vhostuser.NewBackend(device, vhostuser.Options{Log: log}).Serve(ctx, notify.observe(link))
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, vvu.ErrGone):
			return s.lost(err)
		case s.exits():
			log.Info("Client disconnected, shutting down")
			return err
		case err != nil:
			log.Warn("client dropped; waiting for the next", "err", err)
		default:
			log.Info("client left; waiting for the next")
		}
		notify.tell(waiting)
	}
}

// sayWaiting tells that clients may come. Launchers wait for the words, at any log level,
// so that line is always written (launchers.md 2).
func (s *Serve) sayWaiting(log *slog.Logger) {
	text := "Waiting for vhost-user socket connection..."
	if s.VFIO != "" {
		text = "waiting for a client"
	}
	record := slog.NewRecord(time.Now(), slog.LevelInfo, text, 0)
	record.AddAttrs(s.where(), slog.String("tag", s.tag()), slog.String("dir", s.SharedDir))
	log.Handler().Handle(context.Background(), record)
}

// where is place for log lines.
func (s *Serve) where() slog.Attr {
	if s.VFIO != "" {
		return slog.String("function", s.VFIO)
	}
	return slog.String("socket", s.place())
}

// lost adds to the error of a function that is gone what helps.
func (s *Serve) lost(err error) error {
	if !errors.Is(err, vvu.ErrGone) {
		return err
	}
	return fmt.Errorf("%s is lost: %w; its proxy has ended: restart the proxy and this virtual machine, or whatever else provides the function, and then vfiofs", s.VFIO, err)
}

// passing reports whether an accept may succeed later.
func passing(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
