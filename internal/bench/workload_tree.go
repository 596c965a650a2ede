package bench

import (
	"fmt"
	"syscall"

	"vfiofs/fuse"
)

func prepareCreate(s *session) (*plan, error) {
	dir, err := s.walk(scratchDir)
	if err != nil {
		return nil, err
	}
	return &plan{
		steps: []step{
			{
				fill: func(ln *lane) {
					a := ln.args()
					le.PutUint32(a, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL)
					le.PutUint32(a[4:], syscall.S_IFREG|0o644)
					le.PutUint32(a[8:], 0o022)
					le.PutUint32(a[12:], 0)
					ln.index = ln.next(manyNames)
					ln.begin(fuse.OpCreate, dir, 16+name(a[16:], 'c', ln.index), entrySize+openSize)
				},
				check: func(ln *lane) (bool, error) {
					if ln.length != outHeader+entrySize+openSize {
						return false, fmt.Errorf("answered with %d bytes; want %d", ln.length-outHeader, entrySize+openSize)
					}
					ln.handle = fuse.Handle(le.Uint64(ln.body()[entrySize:]))
					return false, ln.entry()
				},
			},
			{fill: func(ln *lane) { ln.release(fuse.OpRelease) }},
			{fill: func(ln *lane) {
				ln.begin(fuse.OpUnlink, dir, name(ln.args(), 'c', ln.index), 0)
			}},
			forgetStep(),
		},
		finish: func() error { return s.forgetAll([]fuse.NodeID{dir}, 1) },
	}, nil
}

// manyNames is how many names are used before one comes again.
const manyNames = 1_000_000

func prepareMkDir(s *session) (*plan, error) {
	dir, err := s.walk(scratchDir)
	if err != nil {
		return nil, err
	}
	return &plan{
		steps: []step{
			{
				fill: func(ln *lane) {
					a := ln.args()
					le.PutUint32(a, 0o755)
					le.PutUint32(a[4:], 0o022)
					ln.index = ln.next(manyNames)
					ln.begin(fuse.OpMkDir, dir, 8+name(a[8:], 'd', ln.index), entrySize)
				},
				check: takeEntry,
			},
			{fill: func(ln *lane) {
				ln.begin(fuse.OpRmDir, dir, name(ln.args(), 'd', ln.index), 0)
			}},
			forgetStep(),
		},
		finish: func() error { return s.forgetAll([]fuse.NodeID{dir}, 1) },
	}, nil
}

// prepareWalk reads a tree of small files, as a compiler or a backup does.
func prepareWalk(s *session) (*plan, error) {
	dirs := make([]fuse.NodeID, treeDirs)
	for i := range dirs {
		var err error
		if dirs[i], err = s.walk(treeDir + "/" + nameOf('d', i)); err != nil {
			return nil, err
		}
	}
	return &plan{
		steps: []step{
			{
				fill: func(ln *lane) {
					i := ln.next(treeDirs * treeFiles)
					ln.begin(fuse.OpLookup, dirs[i/treeFiles], name(ln.args(), 'f', i%treeFiles), entrySize)
				},
				check: takeEntry,
			},
			{fill: func(ln *lane) { ln.open(fuse.OpOpen) }, check: takeHandle},
			{
				fill:  func(ln *lane) { ln.readAt(fuse.OpRead, 0, pageSize) },
				check: exactly(smallFile),
			},
			{fill: func(ln *lane) { ln.release(fuse.OpRelease) }},
			forgetStep(),
		},
		finish: func() error { return s.forgetAll(dirs, 1) },
	}, nil
}

// readAt begins READ, READDIR or READDIRPLUS of n bytes, into the lane's payload.
func (ln *lane) readAt(op fuse.Opcode, offset uint64, n int) {
	ln.begin(op, ln.node, 40, 0)
	a := ln.args()
	clear(a[:40])
	le.PutUint64(a, uint64(ln.handle))
	le.PutUint64(a[8:], offset)
	le.PutUint32(a[16:], uint32(n))
	ln.take(n)
}

// Rooms for directory entries: what Linux asks for at once has been one page for long,
// and is up to 128 KiB for large buffers since 6.16 (linux fs/fuse/readdir.c).
const dirRoom = 32 << 10

func prepareReadDir(s *session) (*plan, error) { return prepareList(s) }

// prepareReadDirChanged is prepareReadDir for a server that keeps what it has listed.
func prepareReadDirChanged(s *session) (*plan, error) {
	return prepareList(s, func(dir fuse.NodeID) step {
		return step{fill: func(ln *lane) {
			ln.begin(fuse.OpSetAttr, dir, setAttrSize, attrSize)
			a := ln.args()[:setAttrSize]
			clear(a)
			le.PutUint32(a, uint32(fuse.SetAttrMode))
			le.PutUint32(a[68:], syscall.S_IFDIR|0o755)
		}}
	})
}

// prepareList lists the small directory, after other steps.
func prepareList(s *session, before ...func(dir fuse.NodeID) step) (*plan, error) {
	dir, err := s.walk(smallDir)
	if err != nil {
		return nil, err
	}
	var steps []step
	for _, f := range before {
		steps = append(steps, f(dir))
	}
	return &plan{
		steps:  append(steps, listSteps(dir, fuse.OpReadDir, smallEntries)...),
		finish: func() error { return s.forgetAll([]fuse.NodeID{dir}, 1) },
	}, nil
}

// setAttrSize is the length of fuse_setattr_in, and attrSize that of fuse_attr_out.
const (
	setAttrSize = 88
	attrSize    = 104
)

func prepareReadDirPlus(s *session) (*plan, error) {
	dir, err := s.walk(bigDir)
	if err != nil {
		return nil, err
	}
	p := &plan{steps: listSteps(dir, fuse.OpReadDirPlus, bigEntries)}
	// A listing counts one lookup of each entry. The nodes are known, and stay the same,
	// from a first listing until all are forgotten.
	nodes, err := s.listNodes(dir)
	if err != nil {
		return nil, err
	}
	listings := uint64(1)
	check := p.steps[1].check
	p.steps[1].check = func(ln *lane) (bool, error) {
		again, err := check(ln)
		if !again && err == nil {
			listings++
		}
		return again, err
	}
	p.finish = func() error {
		return firstError(s.forgetAll(nodes, listings), s.forgetAll([]fuse.NodeID{dir}, 1))
	}
	return p, nil
}

// listSteps lists a directory that has entries beside "." and "..".
func listSteps(dir fuse.NodeID, op fuse.Opcode, entries int) []step {
	return []step{
		{
			fill: func(ln *lane) {
				ln.node, ln.offset, ln.index = dir, 0, 0
				ln.open(fuse.OpOpenDir)
			},
			check: takeHandle,
		},
		{
			fill: func(ln *lane) { ln.readAt(op, ln.offset, dirRoom) },
			check: func(ln *lane) (bool, error) {
				n := ln.length - outHeader
				count, last, err := ln.entries(n, op == fuse.OpReadDirPlus, nil)
				ln.index += count
				ln.offset = last
				if err == nil && n == 0 && ln.index != entries && ln.index != entries+2 {
					err = fmt.Errorf("listed %d entries; want %d, or two more", ln.index, entries)
				}
				return n > 0, err
			},
		},
		{fill: func(ln *lane) { ln.release(fuse.OpReleaseDir) }},
	}
}

// entries walks over the n bytes of directory entries in the lane's payload. It returns
// how many there are and where the next ones start, and gives their nodes to each.
func (ln *lane) entries(n int, plus bool, each func(fuse.NodeID)) (count int, next uint64, err error) {
	head := 0
	if plus {
		head = entrySize
	}
	for off := 0; off < n; count++ {
		if n-off < head+direntSize {
			return 0, 0, fmt.Errorf("an entry is cut off after %d bytes", n-off)
		}
		nameLen := int(ln.payload32(off + head + 16))
		if plus && each != nil {
			if node := fuse.NodeID(ln.payload64(off)); node != 0 {
				each(node)
			}
		}
		next = ln.payload64(off + head + 8)
		off += (head + direntSize + nameLen + 7) &^ 7
		if off > n || nameLen == 0 {
			return 0, 0, fmt.Errorf("an entry has a name of %d bytes", nameLen)
		}
	}
	return count, next, nil
}

// direntSize is the length of struct fuse_dirent without the name.
const direntSize = 24

// payload64 and payload32 read numbers of the payload; entries are aligned to 8 bytes,
// so none crosses a page.
func (ln *lane) payload64(off int) uint64 {
	return le.Uint64(ln.pages[off/pageSize].mem[off%pageSize:])
}

func (ln *lane) payload32(off int) uint32 {
	return le.Uint32(ln.pages[off/pageSize].mem[off%pageSize:])
}
