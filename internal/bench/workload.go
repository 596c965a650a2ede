package bench

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"vfiofs/fuse"
)

// A workload is a stream of operations, each of one or more requests.
type workload struct {
	name string
	what string // one operation, for people
	data int    // payload bytes of one operation; 0: none
	// needs are the parts of the shared directory that it uses.
	needs []string
	live  bool // it uses the files that Options.Inodes makes known
	// direct says how to do the same without a server; nil: there is no way.
	direct *direct
	// prepare looks up and opens what the operations need, and returns them.
	prepare func(*session) (*plan, error)
}

// A plan is a workload at one backend.
type plan struct {
	// begin is called before each operation and returns its steps; nil: always steps.
	begin func(*lane) []step
	steps []step
	// finish gives back what prepare and the operations took; may be nil.
	finish func() error
}

// workloads returns all workloads but the ones that transfer returns.
func workloads() []workload {
	return []workload{
		{name: "null", what: "an unknown opcode, answered ENOSYS", prepare: prepareNull},
		{name: "getattr", what: "GETATTR, among 256 files", needs: []string{filesDir}, prepare: prepareGetAttr},
		{name: "getattr-live", what: "GETATTR, anywhere among the files of --inodes", live: true, prepare: prepareGetAttrLive},
		{name: "statfs", what: "STATFS", prepare: prepareStatFS},
		{name: "lookup", what: "LOOKUP, among 4096 files that stay known", needs: []string{filesDir}, prepare: prepareLookup},
		{name: "lookup-miss", what: "LOOKUP of names that don't exist", needs: []string{filesDir}, prepare: prepareMiss},
		{name: "lookup+forget", what: "LOOKUP, FORGET", needs: []string{filesDir}, prepare: prepareLookupForget},
		{name: "getxattr-miss", what: "GETXATTR of an attribute that doesn't exist", needs: []string{filesDir}, prepare: prepareGetXattr},
		{name: "open+release", what: "OPEN, RELEASE, among 256 files", needs: []string{filesDir}, prepare: prepareOpen},
		{name: "create+unlink", what: "CREATE, RELEASE, UNLINK, FORGET", needs: []string{scratchDir}, prepare: prepareCreate},
		{name: "mkdir+rmdir", what: "MKDIR, RMDIR, FORGET", needs: []string{scratchDir}, prepare: prepareMkDir},
		{name: "walk", what: "LOOKUP, OPEN, READ 4 KiB, RELEASE, FORGET of one small file after another", needs: []string{treeDir}, prepare: prepareWalk},
		{name: "readdir", what: "OPENDIR, READDIR to the end of 1000 entries, RELEASEDIR", needs: []string{smallDir}, prepare: prepareReadDir},
		{name: "readdir-changed", what: "SETATTR of the directory, so that no server knows it any more, and readdir", needs: []string{smallDir}, prepare: prepareReadDirChanged},
		{name: "readdirplus", what: "OPENDIR, READDIRPLUS to the end of 10,000 entries, RELEASEDIR", needs: []string{bigDir}, prepare: prepareReadDirPlus},
		{name: "mixed", what: "35 % read 4K, 10 % write 4K, 20 % getattr, 20 % lookup, 15 % open+release", needs: []string{filesDir, readFile, writeFile}, prepare: prepareMixed},
	}
}

// find returns a workload by its name. Transfers are made up as they are asked for:
// rand- or seq-, read- or write-, and a size from 4k to 1m.
func find(name string) (workload, error) {
	for _, w := range workloads() {
		if w.name == name {
			return w, nil
		}
	}
	parts := strings.Split(name, "-")
	if len(parts) == 3 && (parts[0] == "rand" || parts[0] == "seq") && (parts[1] == "read" || parts[1] == "write") {
		if size, ok := parseSize(parts[2]); ok {
			return transfer(name, parts[0] == "rand", parts[1] == "write", size), nil
		}
	}
	var names []string
	for _, w := range workloads() {
		names = append(names, w.name)
	}
	return workload{}, fmt.Errorf("no workload %q: there are %s, and (rand|seq)-(read|write)-SIZE with a SIZE from 4k to 1m, for example rand-read-4k",
		name, strings.Join(names, ", "))
}

// parseSize parses 4k to 1m: a power of two.
func parseSize(s string) (int, bool) {
	shift := 10
	number, ok := strings.CutSuffix(s, "k")
	if !ok {
		if number, ok = strings.CutSuffix(s, "m"); !ok {
			return 0, false
		}
		shift = 20
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > maxData>>10 {
		return 0, false
	}
	n <<= shift
	return n, n >= pageSize && n <= maxData && n&(n-1) == 0
}

// opNull is an opcode that no version of FUSE has.
const opNull fuse.Opcode = 4000

func prepareNull(*session) (*plan, error) {
	return &plan{steps: []step{{
		fill:  func(ln *lane) { ln.begin(opNull, fuse.RootID, 0, 0) },
		errno: syscall.ENOSYS,
	}}}, nil
}

func prepareStatFS(*session) (*plan, error) {
	return &plan{steps: []step{{
		fill:  func(ln *lane) { ln.begin(fuse.OpStatFS, fuse.RootID, 0, 80) },
		check: exactly(80),
	}}}, nil
}

// exactly checks the number of payload bytes of a reply.
func exactly(n int) func(*lane) (bool, error) {
	return func(ln *lane) (bool, error) {
		if got := ln.length - outHeader; got != n {
			return false, fmt.Errorf("answered with %d bytes; want %d", got, n)
		}
		return false, nil
	}
}

// someFiles is how many files a workload uses that doesn't want to use many.
const someFiles = 256

func prepareGetAttr(s *session) (*plan, error) {
	nodes, err := s.files(someFiles)
	if err != nil {
		return nil, err
	}
	return &plan{steps: []step{getAttrStep(nodes)}, finish: func() error { return s.forgetAll(nodes, 1) }}, nil
}

func getAttrStep(nodes []fuse.NodeID) step {
	return step{
		fill: func(ln *lane) {
			ln.begin(fuse.OpGetAttr, nodes[ln.next(len(nodes))], 16, 104)
			clear(ln.args()[:16])
		},
		check: exactly(104),
	}
}

func prepareLookup(s *session) (*plan, error) {
	dir, err := s.walk(filesDir)
	if err != nil {
		return nil, err
	}
	known := newTally(numFiles)
	return &plan{steps: []step{lookupStep(dir, known)}, finish: func() error {
		return firstError(known.forget(s), s.forgetAll([]fuse.NodeID{dir}, 1))
	}}, nil
}

// lookupStep looks up files of the directory of files, which stay known.
func lookupStep(dir fuse.NodeID, known *tally) step {
	return step{
		fill: func(ln *lane) {
			ln.index = ln.next(numFiles)
			n := name(ln.args(), 'f', ln.index)
			ln.begin(fuse.OpLookup, dir, n, entrySize)
		},
		check: func(ln *lane) (bool, error) {
			return false, firstError(ln.entry(), known.count(ln.index, ln.node))
		},
	}
}

func prepareMiss(s *session) (*plan, error) {
	dir, err := s.walk(filesDir)
	if err != nil {
		return nil, err
	}
	return &plan{
		steps: []step{{
			fill: func(ln *lane) {
				n := name(ln.args(), 'x', ln.next(numFiles))
				ln.begin(fuse.OpLookup, dir, n, entrySize)
			},
			errno: syscall.ENOENT,
		}},
		finish: func() error { return s.forgetAll([]fuse.NodeID{dir}, 1) },
	}, nil
}

func prepareLookupForget(s *session) (*plan, error) {
	dir, err := s.walk(filesDir)
	if err != nil {
		return nil, err
	}
	return &plan{
		steps: []step{
			{
				fill: func(ln *lane) {
					n := name(ln.args(), 'f', ln.next(numFiles))
					ln.begin(fuse.OpLookup, dir, n, entrySize)
				},
				check: takeEntry,
			},
			forgetStep(),
		},
		finish: func() error { return s.forgetAll([]fuse.NodeID{dir}, 1) },
	}, nil
}

// entrySize is the length of fuse_entry_out.
const entrySize = 128

// takeEntry takes the node out of a reply that is an entry.
func takeEntry(ln *lane) (bool, error) { return false, ln.entry() }

// entry takes the node out of a reply that begins with an entry.
func (ln *lane) entry() error {
	if ln.length < outHeader+entrySize {
		return fmt.Errorf("answered with %d bytes; want an entry of %d", ln.length-outHeader, entrySize)
	}
	if ln.node = fuse.NodeID(le.Uint64(ln.body())); ln.node == 0 {
		return fmt.Errorf("answered with node 0")
	}
	return nil
}

// forgetStep forgets one lookup of the lane's node, on the hiprio ring as Linux does.
func forgetStep() step {
	return step{fill: func(ln *lane) {
		ln.quiet(fuse.OpForget, ln.node, 8)
		le.PutUint64(ln.args(), 1)
	}}
}

func prepareGetXattr(s *session) (*plan, error) {
	nodes, err := s.files(someFiles)
	if err != nil {
		return nil, err
	}
	const attr = "user.vfiofs.none\x00"
	return &plan{
		steps: []step{{
			fill: func(ln *lane) {
				le.PutUint64(ln.args(), pageSize)
				copy(ln.args()[8:], attr)
				ln.begin(fuse.OpGetXattr, nodes[ln.next(len(nodes))], 8+len(attr), 256)
			},
			errno: syscall.ENODATA,
		}},
		finish: func() error { return s.forgetAll(nodes, 1) },
	}, nil
}

func prepareOpen(s *session) (*plan, error) {
	nodes, err := s.files(someFiles)
	if err != nil {
		return nil, err
	}
	return &plan{
		steps: []step{
			{fill: func(ln *lane) {
				ln.node = nodes[ln.next(len(nodes))]
				ln.open(fuse.OpOpen)
			}, check: takeHandle},
			{fill: func(ln *lane) { ln.release(fuse.OpRelease) }},
		},
		finish: func() error { return s.forgetAll(nodes, 1) },
	}, nil
}

// open begins OPEN or OPENDIR of the lane's node, for reading.
func (ln *lane) open(op fuse.Opcode) {
	ln.begin(op, ln.node, 8, openSize)
	le.PutUint64(ln.args(), uint64(syscall.O_RDONLY))
}

// openSize is the length of fuse_open_out.
const openSize = 16

// takeHandle takes the handle out of a reply to OPEN and OPENDIR.
func takeHandle(ln *lane) (bool, error) {
	if ln.length != outHeader+openSize {
		return false, fmt.Errorf("answered with %d bytes; want %d", ln.length-outHeader, openSize)
	}
	ln.handle = fuse.Handle(le.Uint64(ln.body()))
	return false, nil
}

// release begins RELEASE or RELEASEDIR of the lane's handle.
func (ln *lane) release(op fuse.Opcode) {
	ln.begin(op, ln.node, 24, 0)
	clear(ln.args()[:24])
	le.PutUint64(ln.args(), uint64(ln.handle))
}

// A tally counts the lookups of nodes that stay known.
type tally struct {
	nodes   []fuse.NodeID
	lookups []uint64
}

func newTally(n int) *tally { return &tally{make([]fuse.NodeID, n), make([]uint64, n)} }

// count counts a lookup. A file that is known must not get another node.
func (t *tally) count(i int, node fuse.NodeID) error {
	if t.nodes[i] != 0 && t.nodes[i] != node {
		return fmt.Errorf("file %d is node %d, and was node %d", i, node, t.nodes[i])
	}
	t.nodes[i] = node
	t.lookups[i]++
	return nil
}

// forget gives all lookups back.
func (t *tally) forget(s *session) error {
	for i, n := range t.lookups {
		if n == 0 {
			continue
		}
		if err := s.forget(t.nodes[i], n); err != nil {
			return err
		}
	}
	return nil
}

// firstError returns the first of errs that is one.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Catalogue lists all workloads, one a line, for a help text.
func Catalogue() string {
	var b strings.Builder
	for _, w := range workloads() {
		fmt.Fprintf(&b, "  %-15s %s\n", w.name, w.what)
	}
	fmt.Fprintf(&b, "  %-15s READ or WRITE of 4k to 1m, random or one after the other, in a cached file\n", "rand-read-4k")
	return b.String()
}
