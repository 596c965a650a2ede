package workload

import (
	"math/rand/v2"

	"golang.org/x/sys/unix"
)

// weight is how often a kind of operation is chosen.
type weight struct {
	kind   kind
	weight int
	needs  need
}

// need says which configurations an operation is for.
type need int

const (
	always     need = iota
	hasHost         // the shared directory can be reached
	isCoherent      // and what is done there is seen at once
)

// weights is a table: every kind of operation, and how often it is chosen.
var weights = []weight{
	{opOpen, 14, always},
	{opClose, 4, always},
	{opRead, 14, always},
	{opWrite, 20, always},
	{opMap, 5, always},
	{opUnmap, 2, always},
	{opMapRead, 8, always},
	{opMapWrite, 10, always},
	{opSync, 5, always},
	{opTruncate, 5, always},
	{opFtruncate, 6, always},
	{opAllocate, 14, always},
	{opCopy, 7, always},
	{opRename, 4, always},
	{opLink, 3, always},
	{opUnlink, 3, always},
	{opSeek, 5, always},
	{opStat, 5, always},
	{opHostRead, 5, hasHost},
	{opHostWrite, 8, isCoherent},
	{opHostTruncate, 3, isCoherent},
	{opHostRename, 3, isCoherent},
	{opHostUnlink, 2, isCoherent},
}

// A generator makes operations. It looks at the model, so that most of them do something.
type generator struct {
	*rand.Rand
	c *checker
}

// next returns an operation.
func (g generator) next() Op {
	op := Op{kind: g.kind(), fill: g.Uint32()}
	switch op.kind {
	case opOpen:
		op.a, op.b, op.how = g.name(), g.IntN(handleCount), g.openFlags()
	case opTruncate, opHostTruncate:
		op.a, op.size = g.name(), g.offset(nil)
	case opRename:
		op.a, op.b = g.name(), g.name()
		op.how = pick(g, 0, 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE)
	case opLink, opHostRename:
		op.a, op.b = g.name(), g.name()
	case opUnlink, opStat, opHostRead, opHostUnlink:
		op.a = g.name()
	case opHostWrite:
		op.a = g.name()
		op.off, op.size = g.span(g.c.names[op.a], false)
	default:
		g.onHandle(&op)
	}
	if op.kind != opWrite && op.kind != opMapWrite && op.kind != opHostWrite {
		op.fill = 0
	}
	return op
}

// onHandle completes an operation on a descriptor.
func (g generator) onHandle(op *Op) {
	op.a = g.handle()
	h := g.c.handles[op.a]
	var f *file
	direct := false
	if h != nil {
		f, direct = h.file, h.flags&unix.O_DIRECT != 0 && g.IntN(8) != 0
	}
	op.off, op.size = g.span(f, direct)
	switch op.kind {
	case opRead, opWrite:
		op.how = pick(g, 1, 1, 1, 2, 3, 7)
	case opSync:
		op.how = g.IntN(3)
	case opAllocate:
		op.how = pick(g, 0, unix.FALLOC_FL_KEEP_SIZE,
			unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE,
			unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE)
		if op.how&(unix.FALLOC_FL_COLLAPSE_RANGE|unix.FALLOC_FL_INSERT_RANGE) != 0 && g.IntN(8) != 0 {
			op.off, op.size = op.off&^(pageSize-1), op.size&^(pageSize-1)
		}
	case opCopy:
		op.b = g.handle()
		op.to = g.offset(f)
		if direct {
			op.to &^= pageSize - 1
		}
	case opSeek:
		op.how = pick(g, unix.SEEK_DATA, unix.SEEK_HOLE)
	case opFtruncate:
		op.size = g.offset(f)
		op.off = 0
	case opClose, opMap, opUnmap:
		op.off, op.size = 0, 0
	}
}

// kind chooses by weight among what the configuration allows.
func (g generator) kind() kind {
	allowed := func(w weight) bool {
		return w.needs == always || w.needs == hasHost && g.c.Host != "" || w.needs == isCoherent && g.c.Coherent
	}
	sum := 0
	for _, w := range weights {
		if allowed(w) {
			sum += w.weight
		}
	}
	n := g.IntN(sum)
	for _, w := range weights {
		if !allowed(w) {
			continue
		}
		if n -= w.weight; n < 0 {
			return w.kind
		}
	}
	panic("weights do not add up")
}

func pick[T any](g generator, of ...T) T { return of[g.IntN(len(of))] }

// name returns a name, most often one that exists.
func (g generator) name() int {
	n := g.IntN(nameCount)
	for range 3 {
		if g.c.names[n] != nil {
			break
		}
		n = g.IntN(nameCount)
	}
	return n
}

// handle returns a descriptor, most often an open one.
func (g generator) handle() int {
	n := g.IntN(handleCount)
	for range 4 {
		if g.c.handles[n] != nil {
			break
		}
		n = g.IntN(handleCount)
	}
	return n
}

func (g generator) openFlags() int {
	how := pick(g, unix.O_RDWR, unix.O_RDWR, unix.O_RDWR, unix.O_RDONLY, unix.O_WRONLY)
	if g.IntN(4) != 0 {
		how |= unix.O_CREAT
		if g.IntN(8) == 0 {
			how |= unix.O_EXCL
		}
	}
	if g.IntN(5) == 0 {
		how |= unix.O_APPEND
	}
	if g.IntN(6) == 0 && how&unix.O_ACCMODE != unix.O_RDONLY {
		how |= unix.O_TRUNC
	}
	direct := 8
	if g.c.Direct {
		direct = 2
	}
	if g.IntN(direct) == 0 {
		how |= unix.O_DIRECT
	}
	return how
}

// offset returns a position: at, or close to, the edge of a page, the end of the file,
// or anywhere.
func (g generator) offset(f *file) int64 {
	switch g.IntN(8) {
	case 0, 1, 2:
		return int64(g.IntN(maxSize/pageSize)) * pageSize
	case 3:
		return max(0, int64(g.IntN(maxSize/pageSize))*pageSize+int64(g.IntN(3))-1)
	case 4, 5:
		if f != nil {
			return min(maxSize, max(0, f.size()+int64(g.IntN(3))-1))
		}
	}
	return int64(g.IntN(maxSize))
}

// span returns a range that ends within maxSize.
func (g generator) span(f *file, aligned bool) (off, n int64) {
	off = g.offset(f)
	switch g.IntN(6) {
	case 0:
		n = int64(g.IntN(32))
	case 1:
		n = int64(g.IntN(maxSize))
	case 2, 3:
		n = int64(1+g.IntN(8)) * pageSize
	default:
		n = int64(g.IntN(4 * pageSize))
	}
	n = min(n, maxSize-off)
	if aligned {
		off, n = off&^(pageSize-1), n&^(pageSize-1)
	}
	return off, n
}
