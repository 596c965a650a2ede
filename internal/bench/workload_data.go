package bench

import (
	"fmt"
	"syscall"

	"vfiofs/fuse"
)

// transfer is the workload of reading or writing pieces of size bytes of one file that
// is in the page cache.
func transfer(name string, random, write bool, size int) workload {
	verb, order, file := "READ", "one after the other", readFile
	if write {
		verb, file = "WRITE", writeFile
	}
	if random {
		order = "anywhere"
	}
	place := func() func(*lane) uint64 { return sequential(size) }
	if random {
		place = func() func(*lane) uint64 { return anywhere(size) }
	}
	return workload{
		name: name,
		what: fmt.Sprintf("%s of %d KiB, %s in a cached file of %d MiB", verb, size>>10, order, dataSize>>20),
		data: size, needs: []string{file}, direct: &direct{file, write, size, place},
		prepare: func(s *session) (*plan, error) {
			f, err := s.openData(write)
			if err != nil {
				return nil, err
			}
			one := f.readStep(size, place())
			if write {
				one = f.writeStep(size, place())
			}
			return &plan{steps: []step{one}, finish: f.close}, nil
		},
	}
}

// sequential lets all lanes together go through the file, and start again at its end.
func sequential(size int) func(*lane) uint64 {
	next := uint64(0)
	return func(*lane) uint64 {
		at := next
		if next += uint64(size); next >= dataSize {
			next = 0
		}
		return at
	}
}

// anywhere lets each lane choose at random.
func anywhere(size int) func(*lane) uint64 {
	return func(ln *lane) uint64 { return ln.random.Uint64N(uint64(dataSize/size)) * uint64(size) }
}

// A dataFile is the data file, open at a backend.
type dataFile struct {
	s      *session
	node   fuse.NodeID
	handle fuse.Handle
}

// openData opens the data file.
func (s *session) openData(write bool) (*dataFile, error) {
	name, flags := readFile, uint32(syscall.O_RDONLY)
	if write {
		name, flags = writeFile, syscall.O_RDWR
	}
	node, err := s.walk(name)
	if err != nil {
		return nil, err
	}
	handle, err := s.open(node, flags)
	return &dataFile{s, node, handle}, err
}

func (f *dataFile) close() error {
	return firstError(f.s.release(f.node, f.handle), f.s.forgetAll([]fuse.NodeID{f.node}, 1))
}

// readStep reads size bytes wherever place says.
func (f *dataFile) readStep(size int, place func(*lane) uint64) step {
	return step{
		fill: func(ln *lane) {
			ln.node, ln.handle = f.node, f.handle
			ln.readAt(fuse.OpRead, place(ln), size)
		},
		check: exactly(size),
	}
}

// writeStep writes size bytes wherever place says.
func (f *dataFile) writeStep(size int, place func(*lane) uint64) step {
	return step{
		fill: func(ln *lane) { ln.writeAt(f.node, f.handle, place(ln), size) },
		check: func(ln *lane) (bool, error) {
			if got := le.Uint32(ln.body()); ln.length != outHeader+8 || int(got) != size {
				return false, fmt.Errorf("wrote %d of %d bytes", got, size)
			}
			return false, nil
		},
	}
}

// writeAt begins WRITE of n bytes of the lane's payload.
func (ln *lane) writeAt(node fuse.NodeID, handle fuse.Handle, offset uint64, n int) {
	ln.begin(fuse.OpWrite, node, 40, 8)
	a := ln.args()
	clear(a[:40])
	le.PutUint64(a, uint64(handle))
	le.PutUint64(a[8:], offset)
	le.PutUint32(a[16:], uint32(n))
	ln.send(n)
}

// prepareMixed is a bit of everything.
func prepareMixed(s *session) (*plan, error) {
	in, err := s.openData(false)
	if err != nil {
		return nil, err
	}
	out, err := s.openData(true)
	if err != nil {
		return nil, err
	}
	nodes, err := s.files(someFiles)
	if err != nil {
		return nil, err
	}
	dir, err := s.walk(filesDir)
	if err != nil {
		return nil, err
	}
	known := newTally(numFiles)
	open, err := prepareOpen(s)
	if err != nil {
		return nil, err
	}
	read := []step{in.readStep(pageSize, anywhere(pageSize))}
	write := []step{out.writeStep(pageSize, anywhere(pageSize))}
	getAttr := []step{getAttrStep(nodes)}
	lookup := []step{lookupStep(dir, known)}
	return &plan{
		begin: func(ln *lane) []step {
			switch n := ln.random.UintN(100); {
			case n < 35:
				return read
			case n < 45:
				return write
			case n < 65:
				return getAttr
			case n < 85:
				return lookup
			default:
				return open.steps
			}
		},
		finish: func() error {
			return firstError(in.close(), out.close(), open.finish(), known.forget(s),
				s.forgetAll(nodes, 1), s.forgetAll([]fuse.NodeID{dir}, 1))
		},
	}, nil
}
