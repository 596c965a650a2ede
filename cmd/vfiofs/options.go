package main

import (
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/alecthomas/kong"

	"vfiofs/internal/jail"
	"vfiofs/passthrough"
	"vfiofs/virtio/vvu"
)

// Serve holds the options of the serve command. Names and defaults that virtiofsd
// has too mean the same here (fs-device.md G.1). Help that takes one line is for every
// newcomer; the hidden ones are shown by --help-all.
type Serve struct {
	Socket      string  `group:"share" placeholder:"PATH" help:"Unix socket to listen on. One client may follow the other."`
	SocketPath  string  `group:"share" placeholder:"PATH" help:"The same, but exit when the client leaves, as virtiofsd does."`
	FD          *int    `name:"fd" group:"share" placeholder:"N" help:"Open socket to use, listening or connected. Exit when the client leaves."`
	SocketGroup string  `hidden:"" group:"share" placeholder:"NAME" help:"Group whose members may connect to the socket, too."`
	VFIO        string  `name:"vfio" group:"share" placeholder:"FUNCTION" help:"Serve a sibling VM through this PCI function, or vfio-user socket."`
	Tag         *string `group:"share" placeholder:"NAME" help:"Name the guest mounts the share by, 1 to 36 bytes. Required with --vfio."`
	SharedDir   string  `group:"share" placeholder:"DIR" help:"Directory that becomes the root of the share."`

	VVUMemRule vvu.MemRule `name:"vvu-mem-rule" hidden:"" group:"share" placeholder:"RULE" default:"auto" help:"Where the function of --vfio puts the sibling's memory: direct, sum, stack or gpa-linear. Default: ${default}, what it says or is known for."`

	Cache           passthrough.Cache `group:"cache" placeholder:"POLICY" values:"auto,always,metadata,never" default:"auto" help:"never, metadata, auto (1 s), always (no other writer). Default: ${default}."`
	Timeout         *time.Duration    `group:"cache" placeholder:"DURATION" help:"How long the guest keeps names and attributes, whatever the policy."`
	NegativeTimeout time.Duration     `group:"cache" placeholder:"DURATION" default:"0s" help:"How long it remembers that a name does not exist. Default: ${default}."`
	Writeback       bool              `negatable:"" group:"cache" help:"Let the guest collect writes. Only if nobody else writes there."`

	Readonly          bool                    `group:"files" help:"Refuse every change that the guest makes."`
	XAttr             bool                    `name:"xattr" negatable:"" group:"files" help:"Pass extended attributes through."`
	XattrMap          *string                 `name:"xattrmap" group:"files" placeholder:"RULES" help:"Rename or hide them, for example :map::user.virtiofs.:"`
	PosixACL          demand                  `name:"posix-acl" negatable:"" group:"files" help:"Pass POSIX ACLs through; =auto does without if the guest can't."`
	SecurityLabel     demand                  `negatable:"" group:"files" help:"Label new files as the guest says; =auto does without if it can't."`
	AnnounceSubmounts bool                    `negatable:"" default:"true" group:"files" help:"Show mounts inside the share as mounts in the guest. On by default."`
	PosixLock         bool                    `group:"files" help:"Make fcntl locks of the guest locks of the host."`
	Flock             bool                    `group:"files" help:"Make flock locks of the guest locks of the host."`
	InodeFileHandles  passthrough.FileHandles `placeholder:"MODE" values:"never,prefer,mandatory" default:"prefer" hidden:"" group:"files" help:"Find files whose descriptor was closed again by handle: never, prefer (where it works: not under Landlock, so not in a jail) or mandatory. Default: ${default}."`
	ASCIICasefold     bool                    `name:"ascii-casefold" hidden:"" group:"files" help:"Find names that differ in the case of ASCII letters only."`
	AllowDirectIO     bool                    `name:"allow-direct-io" negatable:"" group:"files" help:"Honour O_DIRECT on the host."`
	AllowMmap         bool                    `group:"files" help:"Allow shared mappings with --cache never and metadata, too."`
	PreserveNoatime   bool                    `hidden:"" group:"files" help:"Honour O_NOATIME on the host."`
	KillprivV2        bool                    `name:"killpriv-v2" negatable:"" hidden:"" group:"files" help:"Clear set-user-ID bits only when the guest says so: fewer requests for each write."`
	Readdirplus       bool                    `negatable:"" default:"true" hidden:"" group:"files" help:"List directories with attributes. On by default."`
	RewriteSecurity   bool                    `name:"rewrite-security-xattrs" hidden:"" group:"files" help:"Keep security.* attributes but SELinux's as user.virtiofs.security.* on the host (implies --xattr)."`
	TranslateUID      []string                `name:"translate-uid" sep:"none" hidden:"" group:"files" placeholder:"RULE" help:"Translate user ids: map|guest|host|squash-guest|squash-host:FROM:TO:COUNT, forbid-guest:FROM:COUNT. May be repeated."`
	TranslateGID      []string                `name:"translate-gid" sep:"none" hidden:"" group:"files" placeholder:"RULE" help:"Likewise for group ids."`
	Cfg               *string                 `hidden:"" group:"files" placeholder:"KEY=VALUE:..." help:"The options of crosvm's --cfg, with its defaults: timeout, cache, writeback, posix_acl and so on."`

	NumRequestQueues int       `group:"speed" placeholder:"N" default:"${queues}" help:"Request queues, 1 to 63. Default: one per processor, at most 8 (${default})."`
	ThreadPoolSize   int       `group:"speed" placeholder:"N" default:"${workers}" help:"Threads for what waits for a disk, 0 to 1024; 0 means 1. Default: ${default}."`
	Poll             pollLimit `group:"speed" placeholder:"LIMIT" default:"auto" help:"How long a queue's thread may look for requests before it sleeps: off, auto (up to 50 microseconds while requests come close together) or another number of microseconds. Default: ${default}."`

	Confine           `embed:""`
	Rights            `embed:""`
	RlimitNofile      *uint64 `group:"process" placeholder:"N" help:"Limit of open files; 0 keeps it. Default: 1000000, or what there is."`
	Once              bool    `group:"process" help:"Exit when the first client has left; with 1 if not in good order."`
	Keep              bool    `hidden:"" group:"process" help:"Wait for the next client although it is --socket-path or --fd."`
	LogLevel          string  `group:"process" placeholder:"LEVEL" enum:"error,warn,info,debug,trace,off" default:"info" help:"error, warn, info, debug, trace or off. Default: ${default}."`
	LogFormat         string  `group:"process" placeholder:"FORMAT" enum:"text,json" default:"text" help:"text or json, one line per event. Default: ${default}."`
	Syslog            bool    `hidden:"" group:"process" help:"Log to the system's log instead of standard error."`
	Config            string  `hidden:"" group:"process" placeholder:"FILE" help:"Read options from a file: lines like cache = always, and # for comments."`
	PrintCapabilities bool    `hidden:"" group:"process" help:"Print JSON for libvirt, and exit."`

	name  string   // what the program was called: it is virtiofsd to some
	notes []string // about old spellings, for the log
}

// defaultQueues returns the number of request queues when none is asked for.
func defaultQueues() int { return max(1, min(runtime.NumCPU(), 8)) }

// A demand is how much an option is wanted that the guest must know, too.
type demand passthrough.Demand

// demandNames is a table: the values of an option.
var demandNames = [...]string{passthrough.NotWanted: "false", passthrough.IfOffered: "auto", passthrough.Required: "true"}

// String returns the option's value.
func (d demand) String() string { return demandNames[d] }

// IsBool makes the value optional (kong.BoolMapperValue).
func (demand) IsBool() bool { return true }

// Decode parses the value, if there is one (kong.MapperValue).
func (d *demand) Decode(ctx *kong.DecodeContext) error {
	text := "true"
	if ctx.Scan.Peek().Type == kong.FlagValueToken {
		text = ctx.Scan.Pop().String()
	}
	for i, name := range demandNames {
		if name == text {
			*d = demand(i)
			return nil
		}
	}
	return fmt.Errorf("its value is %q: want true, false or auto", text)
}

// shareOptions translates the command line for the file system, and refuses rules that
// are wrong.
func (s *Serve) shareOptions(log *slog.Logger) (passthrough.Options, error) {
	names, err := s.xattrMap()
	if err != nil {
		return passthrough.Options{}, usage("`--xattrmap`: %w", err)
	}
	uids, err := passthrough.ParseIDMap(s.TranslateUID)
	if err != nil {
		return passthrough.Options{}, usage("`--translate-uid`: %w", err)
	}
	gids, err := passthrough.ParseIDMap(s.TranslateGID)
	if err != nil {
		return passthrough.Options{}, usage("`--translate-gid`: %w", err)
	}
	acl := s.PosixACL
	if len(s.TranslateUID)+len(s.TranslateGID) > 0 && acl == demand(passthrough.IfOffered) {
		acl = demand(passthrough.NotWanted)
	}
	return passthrough.Options{
		SharedDir:         s.SharedDir,
		Cache:             s.Cache,
		Timeout:           s.Timeout,
		NegativeTimeout:   s.NegativeTimeout,
		Writeback:         s.Writeback,
		Readonly:          s.Readonly,
		ASCIICasefold:     s.ASCIICasefold,
		XAttr:             s.XAttr || names != nil || acl != 0 || s.SecurityLabel != 0,
		XattrMap:          names,
		PosixACL:          passthrough.Demand(acl),
		SecurityLabel:     passthrough.Demand(s.SecurityLabel),
		TranslateUID:      uids,
		TranslateGID:      gids,
		NoReaddirplus:     !s.Readdirplus,
		AnnounceSubmounts: s.AnnounceSubmounts,
		AllowDirectIO:     s.AllowDirectIO,
		AllowMmap:         s.AllowMmap,
		KillprivV2:        s.KillprivV2,
		PosixLocks:        s.PosixLock,
		Flock:             s.Flock,
		FileHandles:       s.fileHandles(),
		Export:            s.Sandbox != jail.None, // nothing is above the root then (fs-device.md E.3.5)
		PreserveNoatime:   s.PreserveNoatime,
		RefuseProc:        s.Sandbox != jail.None,
		Log:               log,
	}, nil
}

// xattrMap returns the map of extended attributes, if there is one.
func (s *Serve) xattrMap() (*passthrough.XattrMap, error) {
	if s.XattrMap != nil {
		return passthrough.ParseXattrMap(*s.XattrMap)
	}
	if s.RewriteSecurity {
		return passthrough.RewriteSecurity(), nil
	}
	return nil, nil
}
