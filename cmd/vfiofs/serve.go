package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
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
	// socketMode lets only our own user connect.
	socketMode = 0o700
	// drainTime is how long requests in progress may take when the daemon is told to end.
	drainTime = time.Second
	// acceptPause is the wait after an accept that failed for lack of resources.
	acceptPause = time.Second
)

// Serve holds the options of the serve command. Names and defaults that virtiofsd
// has too mean the same here (fs-device.md G.1).
type Serve struct {
	Socket     string  `group:"share" placeholder:"PATH" help:"Unix socket to listen on, also spelled --socket-path. A stale socket is replaced; the guest must not be able to reach it through the share."`
	SocketPath string  `hidden:"" group:"share" placeholder:"PATH"`
	VFIO       string  `name:"vfio" group:"share" placeholder:"FUNCTION" help:"Serve a sibling VM from inside this one, through a virtio-vhost-user PCI function instead of a socket: its address (0000:00:07.0), bound to vfio-pci, or the path of a vfio-user socket (with a / in it)."`
	Tag        *string `group:"share" placeholder:"NAME" help:"Name the guest mounts the share by, 1 to 36 bytes. Without it the virtual machine monitor must supply the name. Required with --vfio."`
	SharedDir  string  `group:"share" placeholder:"DIR" help:"Directory that becomes the root of the share."`

	VVUMemRule vvu.MemRule `name:"vvu-mem-rule" group:"share" placeholder:"RULE" default:"auto" help:"Where the function of --vfio puts the sibling's memory: direct, sum, stack or gpa-linear. Default: ${default}, what the function says or is known for."`

	Cache           passthrough.Cache `group:"cache" placeholder:"POLICY" default:"auto" help:"never: ask the host every time; metadata: keep names and attributes for a day, never data; auto: keep all for a second, data while a file stays open; always: keep everything (only when nobody else changes the share). Default: ${default}."`
	Timeout         *time.Duration    `group:"cache" placeholder:"DURATION" help:"How long the guest keeps names and attributes. Overrides the policy: 0s for never, 1s for auto, 24h for metadata and always."`
	NegativeTimeout time.Duration     `group:"cache" placeholder:"DURATION" default:"0s" help:"How long the guest remembers that a name does not exist. Default: ${default}, not at all."`
	Writeback       bool              `group:"cache" help:"Let the guest collect writes and send them later. Only when nobody else changes the share."`

	XAttr             bool `name:"xattr" group:"files" help:"Pass extended attributes through."`
	NoReaddirplus     bool `group:"files" help:"List directories without attributes."`
	AnnounceSubmounts bool `negatable:"" default:"true" group:"files" help:"Show file systems mounted inside the share as mount points of their own. On by default."`
	AllowDirectIO     bool `name:"allow-direct-io" group:"files" help:"Honour O_DIRECT on the host."`
	PreserveNoatime   bool `group:"files" help:"Honour O_NOATIME on the host."`

	NumRequestQueues int `group:"speed" placeholder:"N" default:"${queues}" help:"Request queues offered to the guest, 1 to 63, one thread each. Default: one per processor, at most 8 (here ${default})."`
	ThreadPoolSize   int `group:"speed" placeholder:"N" default:"${workers}" help:"Threads for operations that wait for a disk, 0 to 1024. 0 means 1: such operations never hold up a queue. Default: ${default}."`

	Sandbox      string  `group:"process" placeholder:"MODE" default:"none" help:"How the process confines itself. Only none is available in this version. Default: ${default}."`
	RlimitNofile *uint64 `group:"process" placeholder:"N" help:"Limit of open files; 0 leaves it as it is. Default: 1000000, or less if the system allows less."`
	Once         bool    `group:"process" help:"Exit when the first client has left: 0 if it left in good order, 1 otherwise."`
	LogLevel     string  `group:"process" placeholder:"LEVEL" enum:"error,warn,info,debug,trace,off" default:"info" help:"error, warn, info, debug, trace (a line per request) or off. Default: ${default}."`
	LogFormat    string  `group:"process" placeholder:"FORMAT" enum:"text,json" default:"text" help:"text or json, one line per event. Default: ${default}."`
}

// defaultQueues returns the number of request queues when none is asked for.
func defaultQueues() int { return max(1, min(runtime.NumCPU(), 8)) }

// run is the daemon's life: check, open the share, bind, serve until ctx ends, clean
// up. What a client does wrong ends its connection and nothing else.
func (s *Serve) run(ctx context.Context, stderr io.Writer) error {
	if err := s.check(); err != nil {
		return err
	}
	log := newLog(stderr, s.LogLevel, s.LogFormat)
	if err := raiseFileLimit(s.RlimitNofile, log); err != nil {
		return err
	}
	tuneRuntime(s.NumRequestQueues)

	fs, err := passthrough.New(s.shareOptions(log))
	if err != nil {
		return err
	}
	device, err := virtiofs.New(fuse.NewServer(fs, fuse.Options{Log: log}), virtiofs.Options{
		Tag:           s.tag(),
		RequestQueues: s.NumRequestQueues,
		Workers:       max(1, s.ThreadPoolSize),
		Log:           log,
	})
	if err != nil {
		fs.Close()
		return err
	}
	from, err := s.open(ctx, device.Queues(), log)
	if err != nil {
		device.Close()
		fs.Close()
		return err
	}

	ended := make(chan error, 1)
	go func() {
		err := s.serveClients(ctx, from, device, log)
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

// shareOptions translates the command line for the file system.
func (s *Serve) shareOptions(log *slog.Logger) passthrough.Options {
	return passthrough.Options{
		SharedDir:         s.SharedDir,
		Cache:             s.Cache,
		Timeout:           s.Timeout,
		NegativeTimeout:   s.NegativeTimeout,
		Writeback:         s.Writeback,
		XAttr:             s.XAttr,
		NoReaddirplus:     s.NoReaddirplus,
		AnnounceSubmounts: s.AnnounceSubmounts,
		AllowDirectIO:     s.AllowDirectIO,
		PreserveNoatime:   s.PreserveNoatime,
		Log:               log,
	}
}

// tag returns the tag, or "" when the front-end supplies configuration space.
func (s *Serve) tag() string {
	if s.Tag == nil {
		return ""
	}
	return *s.Tag
}

// place returns where clients come from.
func (s *Serve) place() string {
	if s.VFIO != "" {
		return s.VFIO
	}
	return s.Socket
}

// serveClients serves one client after the other until ctx ends, or only the first
// with --once. It returns nil when ctx ended it.
func (s *Serve) serveClients(ctx context.Context, from source, device virtio.Device, log *slog.Logger) error {
	log.Info("waiting for a client", s.where(), "tag", s.tag(), "dir", s.SharedDir)
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
		log.Info("client connected")
		err = vhostuser.NewBackend(device, vhostuser.Options{Log: log}).Serve(ctx, link)
		switch {
		case ctx.Err() != nil:
			return nil
		case s.Once, errors.Is(err, vvu.ErrGone):
			return s.lost(err)
		case err != nil:
			log.Warn("client dropped; waiting for the next", "err", err)
		default:
			log.Info("client left; waiting for the next")
		}
	}
}

// where is place for log lines.
func (s *Serve) where() slog.Attr {
	if s.VFIO != "" {
		return slog.String("function", s.VFIO)
	}
	return slog.String("socket", s.Socket)
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
