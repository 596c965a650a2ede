package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// A mark is a number that vfiofs wants to reach, with each kind of client.
type mark struct {
	what        string
	in          comparison
	read        func([]finding) reading
	least, most float64 // what the number may be; 0: no limit
	limit       string  // the same for people, unless it is a plain ratio
	once        bool    // the kind of client makes no difference
}

// A comparison says in which reports the number is.
type comparison struct {
	backend, reference string // reference "": any
	files              string // the file system; "": any
	inodes             int    // at least so many were live; 0: none
}

// anyInodes is for what is read however many inodes were live.
const anyInodes = -1

// A reading is what a mark finds.
type reading struct {
	value float64
	text  string // instead of the value, as a ratio
	note  string // where, and under which circumstances
	void  string // why there is nothing to judge
}

// missing is the reading where there is none.
func missing() reading { return reading{void: "not measured"} }

// What marks are read from. The names are those that scripts/bench gives.
const (
	ours    = "vfiofs"
	theirs  = "virtiofsd"
	million = 1_000_000
)

// marks is the list. What the numbers are for is in the project's issue; those that do
// not hold are explained at the end of the page.
func marks() []mark {
	rival := comparison{backend: ours, reference: theirs}
	anywhere := comparison{backend: ours, reference: theirs, inodes: anyInodes}
	memory := comparison{backend: ours, reference: theirs, files: "tmpfs"}
	dry := comparison{backend: "vfiofs-poll-off", reference: theirs}
	plain := comparison{backend: ours, reference: "bare"}
	alone := comparison{backend: ours, reference: ours}
	vvu := comparison{backend: "vvu", reference: ours}
	many := comparison{backend: ours, inodes: million}
	own := comparison{backend: ours}
	return []mark{
		{what: "4K random read, depth 32", in: rival, read: ratioOf("rand-read-4k @32"), least: 1.8},
		{what: "4K random read, depth 1, where virtiofsd sleeps between requests", in: rival, read: lone("rand-read-4k @1", true), least: 6},
		{what: "4K random read, depth 1, where virtiofsd stays awake", in: rival, read: lone("rand-read-4k @1", false), least: 1.8},
		{what: "4K random read, depth 1, with polling off", in: dry, read: ratioOf("rand-read-4k @1"), least: 1},
		{what: "4K random write, depth 32", in: rival, read: ratioOf("rand-write-4k @32"), least: 1.25},
		{what: "4K random write, depth 1", in: rival, read: ratioOf("rand-write-4k @1"), least: 3},
		{what: "getattr, depth 32", in: rival, read: ratioOf("getattr @32"), least: 2.3},
		{what: "lookup, depth 8", in: rival, read: ratioOf("lookup @8"), least: 2},
		{what: "lookup and forget, depth 8", in: rival, read: ratioOf("lookup+forget @8"), least: 1.4},
		{what: "lookup of a name that isn't there, depth 8", in: rival, read: ratioOf("lookup-miss @8"), least: 1.3},
		{what: "open and release, depth 8", in: rival, read: ratioOf("open+release @8"), least: 1.5},
		{what: "create and unlink, depth 1", in: rival, read: ratioOf("create+unlink @1"), least: 2},
		{what: "create and unlink, depth 8, on tmpfs", in: memory, read: ratioOf("create+unlink @8"), least: 1.2},
		{what: "mkdir and rmdir, on tmpfs", in: memory, read: ratioOf("mkdir+rmdir @1"), least: 1.2},
		{what: "readdir of 1000 entries", in: rival, read: ratioOf("readdir @1"), least: 2},
		{what: "readdirplus of 10,000 entries", in: rival, read: ratioOf("readdirplus @1"), least: 2},
		{what: "walk over small files, depth 8", in: rival, read: ratioOf("walk @8"), least: 1.4},
		{what: "mixed", in: rival, read: lowest(func(f finding) bool { return f.Workload == "mixed" }), least: 1.5},
		{what: "1 MiB reads, depth 4", in: rival, read: ratioOf("seq-read-1m @4"), least: 1.2},
		{what: "1 MiB writes, depth 4", in: rival, read: ratioOf("seq-write-1m @4"), least: 1.15},
		{what: "1 MiB reads, over a loop of preadv", in: plain, read: ratioOf("seq-read-1m @4"), least: 0.9},
		{what: "1 MiB writes, over a loop of pwritev", in: plain, read: ratioOf("seq-write-1m @4"), least: 0.9},
		{what: "the least of all cases but null at depth 1 with a client that sleeps", in: anywhere, read: lowest(notNull), least: 1},
		{what: "processor time of an operation, geometric mean", in: rival, read: processorTime, most: 0.6},
		{what: "4 queues over 1, where 2 processors are free for the server", in: alone, read: queues(true), least: 1.8},
		{what: "2 and 4 queues over 1, the least", in: alone, read: queues(false), least: 1},
		{
			what: "the slowest in a thousand, with a million inodes live", in: many, read: tailLatency, most: 1,
			limit: "p99.9 ≤ 3 p50 + 1 ms",
		},
		{what: "virtio-vhost-user over a socket, reads and writes, the least", in: vvu, read: lowest(func(f finding) bool { return f.data && f.Depth > 1 }), least: 0.9},
		{what: "virtio-vhost-user over a socket, depth 1, the least", in: vvu, read: lowest(func(f finding) bool { return f.Depth == 1 }), least: 0.5},
		{what: "start to listening", in: own, read: life(start), most: 15, limit: "≤ 15 ms", once: true},
		{what: "an idle process uses no processor time", in: own, read: life(idle), most: 0.1, limit: "≤ 0.1 %", once: true},
	}
}

// A finding is a backend in one case, beside the reference.
type finding struct {
	Case
	data   bool // the operations carry payload
	report *Report
	m, ref Measured // the best variant of each
}

// ratio is that of the rates. Operations that fail are no operations: with them it is 0.
func (f finding) ratio() float64 {
	if f.m.Errors+f.ref.Errors > 0 {
		return 0
	}
	return f.m.Ratio
}

// matches reports whether a report is one of c.
func (c comparison) matches(r *Report) bool {
	alone := c.backend == c.reference
	return (c.reference == "" || c.reference == r.reference()) &&
		(!alone || len(r.Backends) == 1) &&
		(c.files == "" || c.files == r.Dir) &&
		r.Inodes >= c.inodes && (c.inodes != 0 || r.Inodes == 0)
}

// findings collects what reports hold of a comparison.
func (c comparison) findings(reports []*Report, client Client) []finding {
	var list []finding
	for _, r := range reports {
		if !c.matches(r) {
			continue
		}
		for _, result := range r.Results {
			f := finding{Case: result.Case, data: result.Data > 0, report: r}
			for _, m := range result.Backends {
				if m.Best && m.base() == c.backend {
					f.m = m
				}
				if m.Best && m.base() == r.reference() {
					f.ref = m
				}
			}
			if result.Client == client && f.m.Name != "" {
				list = append(list, f)
			}
		}
	}
	return list
}

// first returns what a case gave in the first report that has it, or nil.
func first(list []finding, label string) *finding {
	if i := slices.IndexFunc(list, func(f finding) bool { return f.label() == label }); i >= 0 {
		return &list[i]
	}
	return nil
}

// ratioOf reads the ratio of one case.
func ratioOf(label string) func([]finding) reading {
	return func(list []finding) reading {
		if f := first(list, label); f != nil {
			return reading{value: f.ratio()}
		}
		return missing()
	}
}

// sleepsAt is how many context switches of an operation say that the server slept
// between requests: to sleep is one at least, and to stay awake is none.
const sleepsAt = 0.5

// lone reads the ratio of one case in the rounds in which the reference slept, or in
// those in which it did not.
func lone(label string, asleep bool) func([]finding) reading {
	return func(list []finding) reading {
		f := first(list, label)
		if f == nil {
			return missing()
		}
		var a, b Measured
		for i := range min(len(f.m.Rounds), len(f.ref.Rounds)) {
			if (f.ref.Rounds[i].Switches >= sleepsAt) == asleep {
				a.Rounds, b.Rounds = append(a.Rounds, f.m.Rounds[i]), append(b.Rounds, f.ref.Rounds[i])
			}
		}
		if len(a.Rounds) == 0 {
			return reading{void: "did not happen"}
		}
		switches := median(values(b.Rounds, func(r Round) float64 { return r.Switches }))
		v := reading{
			value: pairs(&a, &b, func(r Round) float64 { return r.Rate }),
			note:  fmt.Sprintf("%d of %d rounds, sw/op %.2f", len(a.Rounds), len(f.m.Rounds), switches),
		}
		if f.ratio() == 0 {
			v.value = 0
		}
		return v
	}
}

// lowest reads the lowest ratio of some cases.
func lowest(of func(finding) bool) func([]finding) reading {
	return func(list []finding) reading {
		low := missing()
		for _, f := range list {
			if of(f) && (low.void != "" || f.ratio() < low.value) {
				low = reading{value: f.ratio(), note: f.label() + ", " + f.report.where()}
			}
		}
		return low
	}
}

// notNull leaves out the case in which a server has nothing to do but to be woken.
func notNull(f finding) bool { return f.label() != "null @1" || f.Client != Event }

// processorTime reads the mean over all cases, each once.
func processorTime(list []finding) reading {
	var ratios []float64
	seen := map[string]bool{}
	for _, f := range list {
		if !seen[f.label()] {
			seen[f.label()] = true
			ratios = append(ratios, f.m.CPURatio)
		}
	}
	if len(ratios) == 0 {
		return missing()
	}
	return reading{value: geometricMean(ratios)}
}

// freeEnough is how many processors the client leaves when two are free for the server:
// a little less, because it must run to be measured.
const freeEnough = 1.9

// free returns how many processors the client left to the server.
func (f finding) free() float64 { return float64(f.report.CPUs) - f.m.Client }

// queues reads the lowest rate with several queues over that with one and as many requests
// in flight, or if that was not measured, as many in flight as in each. Otherwise than
// ratios, the two are not neighbours in time. With room, 4 queues count, and only
// where two processors are free; elsewhere the reading only tells.
func queues(room bool) func([]finding) reading {
	return func(list []finding) reading {
		low := missing()
		most := 0.0 // processors free where it was too few
		for _, f := range list {
			one := f.Case
			one.Queues, one.Depth = 1, f.Depth*f.Queues
			base := first(list, one.label())
			if base == nil {
				one.Depth = f.Depth
				base = first(list, one.label())
			}
			if f.Queues == 1 || base == nil || base.m.Rate == 0 || room && f.Queues != 4 {
				continue
			}
			v := reading{value: f.m.Rate / base.m.Rate, note: fmt.Sprintf("%s, %.1f processors free", f.label(), f.free())}
			switch {
			case !room || f.free() >= freeEnough:
				if low.void != "" || v.value < low.value {
					low = v
				}
			case low.void != "" && f.free() > most:
				most = f.free()
				low.void = v.String()
			}
		}
		return low
	}
}

// tailLatency reads the worst p99.9 as a share of what it may be.
func tailLatency(list []finding) reading {
	worst := missing()
	for _, f := range list {
		if v := f.m.P999 / (3*f.m.P50 + 1000); worst.void != "" || v > worst.value {
			worst = reading{
				value: v, text: fmt.Sprintf("%s at a p50 of %s", microsText(f.m.P999), microsText(f.m.P50)),
				note: f.label(),
			}
		}
	}
	return worst
}

// life reads what the first report that has it says of a backend apart from requests.
func life(read func(*Life) reading) func([]finding) reading {
	return func(list []finding) reading {
		for _, f := range list {
			for _, l := range f.report.Life {
				if l.Name == f.m.Name {
					return read(&l)
				}
			}
		}
		return missing()
	}
}

// start reads the time until a backend listens, in ms.
func start(l *Life) reading {
	text, slowest, _ := l.texts()
	return reading{value: median(l.Starts), text: text, note: fmt.Sprintf("slowest of %d: %s", len(l.Starts), slowest)}
}

// idle reads the share of one processor that an idle backend uses, in %.
func idle(l *Life) reading {
	_, _, text := l.texts()
	return reading{value: 100 * l.Idle, text: text}
}

// String prints a reading as a cell of the table.
func (v reading) String() string {
	if v.void != "" {
		return v.void
	}
	text := v.text
	if text == "" {
		text = fmt.Sprintf("%.2fx", v.value)
	}
	if v.note != "" {
		text += " (" + v.note + ")"
	}
	return text
}

// String prints a mark's limit.
func (m mark) String() string {
	switch {
	case m.limit != "":
		return m.limit
	case m.most > 0:
		return fmt.Sprintf("≤ %gx", m.most)
	}
	return fmt.Sprintf("≥ %gx", m.least)
}

// holds says whether a mark holds for all of the readings that can be judged, and
// whether there are such. A number is judged as it is printed.
func (m mark) holds(readings ...reading) (yes, judged bool) {
	yes = true
	for _, v := range readings {
		if v.void != "" {
			continue
		}
		judged = true
		if value := math.Round(v.value*100) / 100; value < m.least || m.most > 0 && value > m.most {
			yes = false
		}
	}
	return yes, judged
}

// writeMarks writes the table of all marks.
func writeMarks(b *strings.Builder, reports []*Report) {
	b.WriteString("| what | mark | client that polls | client that sleeps | holds |\n|---|---|---|---|---|\n")
	for _, m := range marks() {
		poll := m.read(m.in.findings(reports, Poll))
		event := m.read(m.in.findings(reports, Event))
		if m.once {
			if poll.void != "" {
				poll = event
			}
			event = reading{void: "the same"}
		}
		verdict := "not judged"
		if yes, judged := m.holds(poll, event); judged {
			verdict = map[bool]string{true: "yes", false: "**no**"}[yes]
		}
		fmt.Fprintf(b, "| %s | %v | %v | %v | %s |\n", m.what, m, poll, event, verdict)
	}
}
