// Package passthrough serves a directory of the host: it implements
// fuse.FileSystem with the host's own system calls.
//
//	 guest              FS                                       host
//	NodeID ──► nodes  slot | generation<<32 ──► O_PATH fd ──┐
//	             ▲    (dev, ino, mount) ──► slot   ▲        ├─ reopen by /proc/self/fd
//	             │    clock ──► evict: way back ───┘        │
//	Lookup ──────┤      file handle, or parent and name     │
//	(dir, name)  └ hints ──► slot, if statx agrees          ▼
//	Handle ──► handles slot | generation<<32 ──────────► open fd ──► data
//	Caller ──► thread   effective uid, gid, groups, umask for one creating call
//
// An inode of the guest is an O_PATH descriptor, as long as it is used often: those used
// least recently are closed and opened again when they are needed (evict.go, revive.go),
// so that a guest may know millions. A file that is not new begins without one, as most are
// only looked at (lazy.go). An open file or directory, and what has no name
// any more, keeps its descriptor. A descriptor is found by a single name below
// another such descriptor, looked at through the descriptor, and opened through
// /proc/self/fd, so nothing is ever resolved twice and no path of the host is ever
// followed for a guest. Permission checks on objects that exist are the guest
// kernel's work; the server only gives new objects their owner.
//
// Nodes and handles live in slabs of slots. An id is the slot's
// number and its generation, which grows each time the slot is emptied: an id finds
// its slot without a map, and is never used twice. Each slot counts the requests
// that use it now. FORGET and RELEASE only mark a slot; its descriptor is closed,
// and the slot reused, when the last user leaves. So a descriptor number never
// changes its meaning under a running request. That of a file which was only read is kept
// for a moment, because the next OPEN may want it (spare.go).
//
// Every thread that serves requests belongs to its goroutine and has, from
// AttachThread on, credentials, a umask and a current directory of its own. The
// current directory is /proc/self/fd, where "7" names descriptor 7: calls that take
// no directory descriptor (the xattr family) work on it. All memory that a system
// call needs is in the thread, so that requests allocate nothing.
//
// The tables have no pointers (index.go, arena.go), so the garbage collector does not
// look inside.
//
// Lock order: handle.mu (position of a directory handle) or FS.appends, then
// shard.mu (identity map, lookup counts and ways back), then clock.mu (open nodes) or
// slab.mu (free slots); mounts.mu alone. None but handle.mu and FS.appends is held
// during a system call. lockNode.mu
// (locks of one file), then locks.mu or slab.mu.
//
// Spec: fs-device.md E (semantics), D.5 (flags), D.7 (what guests check), F.5
// (threads), F.10 (file handles), G.2 (cache policies).
package passthrough

import (
	"fmt"
	"log/slog"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/fd"
)

// Options say what is served and how. Only SharedDir is required.
type Options struct {
	SharedDir string
	Cache     Cache
	// Timeout replaces the policy's time that the guest may trust names and attributes.
	Timeout *time.Duration
	// NegativeTimeout is how long the guest may trust that a name does not exist.
	NegativeTimeout time.Duration

	Writeback         bool // the guest may collect writes
	Readonly          bool // the guest may change nothing; see View
	ASCIICasefold     bool // names are found in any case; see View
	XAttr             bool // extended attributes
	NoReaddirplus     bool
	AnnounceSubmounts bool // tell the guest where other file systems begin
	AllowDirectIO     bool // pass O_DIRECT on
	PreserveNoatime   bool // pass O_NOATIME on
	PosixLocks        bool // fcntl locks of the guest are locks of the host (lock.go)
	Flock             bool // flock locks likewise
	// XattrMap renames extended attributes; nil leaves them as they are.
	XattrMap *XattrMap
	// TranslateUID and TranslateGID say how ids differ between guest and host. ACLs would
	// keep untranslated ones, so these exclude them (E.4.6).
	TranslateUID, TranslateGID IDMap

	AllowMmap     bool // shared mappings of files that bypass the guest's page cache
	KillprivV2    bool // the guest says when set-user-ID bits go (killpriv.go)
	PosixACL      Demand
	SecurityLabel Demand // new objects get the label that the guest sends (label.go)
	Export        bool   // "." and ".." can be looked up: the guest may export the share again

	AllowProjid bool // the guest may change project ids, which quotas of the host go by

	// RefuseProc keeps files of procfs closed (F.9).
	RefuseProc bool

	// MaxFDs limits the descriptors that a guest may keep open; 0 derives it from
	// RLIMIT_NOFILE. Inodes use three quarters of them at most, and no more than 3072;
	// those used least recently do without. Files that were just closed use a sixteenth,
	// and no more than 256.
	MaxFDs int
	// FileHandles says how inodes without a descriptor are found again.
	FileHandles FileHandles
	Log         *slog.Logger // nil discards
}

// A Demand says whether a feature may be missing from the guest.
type Demand int

// How much a feature is wanted.
const (
	NotWanted Demand = iota
	IfOffered        // the share does without if it is missing
	Required         // INIT fails if it is missing
)

// offer adds flags to what is wanted, or needed.
func (d Demand) offer(want, need *fuse.InitFlags, flags fuse.InitFlags) {
	switch d {
	case IfOffered:
		*want |= flags
	case Required:
		*need |= flags
	}
}

// An FS is a shared directory. It implements fuse.FileSystem.
type FS struct {
	opt    Options
	log    *slog.Logger
	policy policy
	host   host
	proc   *fd.FD // /proc/self/fd, O_PATH
	root   *fd.FD // the shared directory, O_PATH

	rootKey key

	flags    atomic.Uint64 // fuse.InitFlags that were negotiated
	budget   budget
	nodes    nodes
	hints    hints
	handles  handles
	spares   spares
	listings listings
	exported atomic.Bool // the guest has looked "." or ".." up
	locks    locks
	// appends serialises appending writes by node, for hosts without RWF_APPEND.
	appends  [16]sync.Mutex
	troubles [3]atomic.Int64 // when each trouble was last logged, Unix seconds
}

var _ fuse.FileSystem = (*FS)(nil)

// New opens the shared directory and finds out what the host can do.
//
// It sets the umask of the process to 0 and ignores SIGXFSZ: modes come complete
// from the guest (fs-device.md E.5), and a file size limit is an errno (E.10.7).
func New(opt Options) (*FS, error) {
	fs := &FS{opt: opt, log: opt.Log, policy: opt.Cache.policy()}
	if fs.log == nil {
		fs.log = slog.New(slog.DiscardHandler)
	}
	if opt.Timeout != nil {
		fs.policy.valid = *opt.Timeout
	}
	ok := false
	defer func() {
		if !ok {
			fs.Close()
		}
	}()

	var err error
	if fs.proc, err = fd.OpenDir(); err != nil {
		return nil, fmt.Errorf("open /proc/self/fd: %w (files are reopened there: mount proc on /proc)", err)
	}
	n, err := unix.Open(opt.SharedDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open shared directory %q: %w (%s)", opt.SharedDir, err, remedy(err))
	}
	fs.root = fd.New(n, "shared directory")

	if fs.host, err = probe(n); err != nil {
		return nil, fmt.Errorf("shared directory %q: %w", opt.SharedDir, err)
	}
	var st unix.Statx_t
	if e := statx(n, &st, fs.host.statxMask); e != 0 {
		return nil, fmt.Errorf("stat shared directory %q: %w (%s)", opt.SharedDir, e, remedy(e))
	}
	limit, err := fdLimit(opt.MaxFDs)
	if err != nil {
		return nil, err
	}
	fs.budget.limit = limit
	fs.hints.init()
	fs.rootKey = keyOf(&st)
	fs.initNodes(n, fs.rootKey)
	fs.initHandles()
	fs.spares.init(&fs.budget, limit)
	if err := fs.probeHandles(); err != nil {
		return nil, fmt.Errorf("shared directory %q: %w", opt.SharedDir, err)
	}
	fs.locks.init(fs)

	unix.Umask(0)
	signal.Ignore(syscall.SIGXFSZ)
	ok = true
	return fs, nil
}

// remedy says what to do about an error at the shared directory.
func remedy(err error) string {
	switch err {
	case unix.ENOENT:
		return "create it first"
	case unix.ENOTDIR:
		return "name a directory"
	case unix.EACCES, unix.EPERM:
		return "give the daemon's user search permission on every part of the path"
	}
	return "check that the path can be reached"
}

// Close drops everything and closes the shared directory. No request may be running.
func (fs *FS) Close() error {
	fs.Destroy()
	fs.spares.close()
	fs.nodes.mounts.close()
	err := fs.root.Close()
	if err2 := fs.proc.Close(); err == nil {
		err = err2
	}
	return err
}

// Offer implements fuse.FileSystem (fs-device.md D.5).
func (fs *FS) Offer() (want, need fuse.InitFlags) {
	if fs.opt.AnnounceSubmounts {
		want |= fuse.Submounts
	}
	if fs.policy.readdirplus && !fs.opt.NoReaddirplus {
		want |= fuse.DoReaddirplus | fuse.ReaddirplusAuto
	}
	if fs.opt.Writeback {
		want |= fuse.WritebackCache
	}
	if fs.policy.symlinks {
		want |= fuse.CacheSymlinks
	}
	want |= fuse.HasIoctlDir
	if fs.opt.PosixLocks {
		want |= fuse.PosixLocks
	}
	if fs.opt.Flock {
		want |= fuse.FlockLocks
	}
	if fs.opt.AllowMmap {
		want |= fuse.DirectIOAllowMmap
	}
	if fs.opt.KillprivV2 {
		want |= fuse.HandleKillprivV2
	}
	if fs.opt.Export {
		want |= fuse.ExportSupport
	}
	if fs.opt.Cache == CacheAlways {
		want |= fuse.NoOpendirSupport
	}
	fs.opt.PosixACL.offer(&want, &need, fuse.PosixACL|fuse.DontMask|fuse.SetxattrExt)
	fs.opt.SecurityLabel.offer(&want, &need, fuse.SecurityCtx)
	return want, need
}

// Init implements fuse.FileSystem.
func (fs *FS) Init(flags fuse.InitFlags) {
	fs.Destroy()
	fs.flags.Store(uint64(flags))
}

// Destroy implements fuse.FileSystem. The root stays.
func (fs *FS) Destroy() {
	fs.exported.Store(false)
	fs.locks.dropAll()
	fs.handles.drop()
	fs.nodes.drop()
	fs.listings.drop()
}

// has reports whether all of the flags were negotiated.
func (fs *FS) has(flags fuse.InitFlags) bool {
	return fuse.InitFlags(fs.flags.Load())&flags == flags
}

// A trouble is a state of the host that its administrator should know about.
type trouble int

const (
	troubleFDs trouble = iota
	troubleSpace
	troubleGone
)

// warn logs a trouble, once per minute.
func (fs *FS) warn(k trouble, msg string, err error) {
	now := time.Now().Unix()
	last := fs.troubles[k].Load()
	if now-last < 60 || !fs.troubles[k].CompareAndSwap(last, now) {
		return
	}
	fs.log.Warn(msg, "dir", fs.opt.SharedDir, "err", err)
}

// errno turns what the host said into what a method returns, and tells the log what
// its administrator should know. fuse.Errno does the rest of fs-device.md E.18.
func (fs *FS) errno(e syscall.Errno) error {
	switch e {
	case 0:
		return nil
	case unix.EMFILE, unix.ENFILE:
		fs.warn(troubleFDs, "descriptor limit reached", e)
		return syscall.ENFILE
	case unix.ENOSPC, unix.EDQUOT:
		fs.warn(troubleSpace, "file system full", e)
	}
	return e
}
