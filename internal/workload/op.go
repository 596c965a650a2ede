package workload

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// kind is what an Op does. The names stand in traces.
type kind string

const (
	opOpen      kind = "open"      // name A into descriptor B, How: O_*
	opClose     kind = "close"     // descriptor A
	opRead      kind = "read"      // descriptor A, Off, Len; How: number of buffers
	opWrite     kind = "write"     // descriptor A, Off, Len, Fill; How: number of buffers
	opMap       kind = "map"       // descriptor A, the whole of a file, shared
	opUnmap     kind = "unmap"     // descriptor A
	opMapRead   kind = "mapread"   // mapping of descriptor A, Off, Len
	opMapWrite  kind = "mapwrite"  // mapping of descriptor A, Off, Len, Fill
	opSync      kind = "fsync"     // descriptor A; How: 1 is fdatasync, 2 msync
	opTruncate  kind = "truncate"  // name A to Len
	opFtruncate kind = "ftruncate" // descriptor A to Len
	opAllocate  kind = "fallocate" // descriptor A, Off, Len; How: FALLOC_FL_*
	opCopy      kind = "copy"      // descriptor A at Off to descriptor B at To, Len
	opRename    kind = "rename"    // name A to name B; How: RENAME_*
	opLink      kind = "link"      // name A, new name B
	opUnlink    kind = "unlink"    // name A
	opSeek      kind = "lseek"     // descriptor A, Off; How: SEEK_DATA or SEEK_HOLE
	opStat      kind = "stat"      // name A

	// The rest is done in the shared directory, behind the back of the mount.
	opHostRead     kind = "hostread"     // name A
	opHostWrite    kind = "hostwrite"    // name A, Off, Len, Fill
	opHostTruncate kind = "hosttruncate" // name A to Len
	opHostRename   kind = "hostrename"   // name A to name B
	opHostUnlink   kind = "hostunlink"   // name A
)

// An Op is one step of a run. A and B are numbers of names or descriptors.
type Op struct {
	kind kind
	a, b int
	off  int64 // bytes from the start of the file
	size int64 // bytes
	to   int64 // a second offset
	fill uint32
	how  int
}

// fields are what a line of a trace holds after the kind, in order.
func (op *Op) fields() []field {
	return []field{
		{"a", int64(op.a), func(v int64) { op.a = int(v) }},
		{"b", int64(op.b), func(v int64) { op.b = int(v) }},
		{"off", op.off, func(v int64) { op.off = v }},
		{"len", op.size, func(v int64) { op.size = v }},
		{"to", op.to, func(v int64) { op.to = v }},
		{"fill", int64(op.fill), func(v int64) { op.fill = uint32(v) }},
		{"how", int64(op.how), func(v int64) { op.how = int(v) }},
	}
}

// A field is one of the numbers of an Op, with its name in traces.
type field struct {
	name  string
	value int64
	set   func(int64)
}

// String returns the Op as a line of a trace, without its end. Fields that are zero are
// left out.
func (op Op) String() string {
	var b strings.Builder
	b.WriteString(string(op.kind))
	for _, f := range op.fields() {
		if f.value != 0 {
			fmt.Fprintf(&b, " %s=%d", f.name, f.value)
		}
	}
	return b.String()
}

// limits is a table: the largest values of each field that a trace may hold, so that it cannot
// lead a checker out of its slots. Everything is at least zero.
var limits = map[string]int64{
	"a": nameCount - 1, "b": nameCount - 1, "off": maxSize, "len": maxSize, "to": maxSize, "fill": 1<<32 - 1, "how": 1<<31 - 1,
}

// parseOp reads a line of a trace.
func parseOp(line string) (Op, error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return Op{}, fmt.Errorf("no operation in an empty line")
	}
	op := Op{kind: kind(words[0])}
	if !slices.ContainsFunc(weights, func(w weight) bool { return w.kind == op.kind }) {
		return Op{}, fmt.Errorf("unknown operation %q", words[0])
	}
	for _, word := range words[1:] {
		name, value, _ := strings.Cut(word, "=")
		v, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return Op{}, fmt.Errorf("%q in %q is not name=number", word, line)
		}
		i := slices.IndexFunc(op.fields(), func(f field) bool { return f.name == name })
		if i < 0 {
			return Op{}, fmt.Errorf("unknown field %q in %q", name, line)
		}
		if v < 0 || v > limits[name] {
			return Op{}, fmt.Errorf("%s=%d in %q is not within 0 and %d", name, v, line, limits[name])
		}
		op.fields()[i].set(v)
	}
	return op, nil
}

// ParseTrace reads a list of operations as a failed run has printed it: a line each;
// empty lines and what follows a # are ignored.
func ParseTrace(r io.Reader) ([]Op, error) {
	var ops []Op
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		op, err := parseOp(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		ops = append(ops, op)
	}
	return ops, lines.Err()
}
