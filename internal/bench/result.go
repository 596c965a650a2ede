package bench

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Report is everything that a run has measured.
type Report struct {
	Date     string   `json:"date"`    // UTC
	Command  string   `json:"command"` // that made it
	Machine  string   `json:"machine"`
	CPUs     int      `json:"cpus"`
	Rounds   int      `json:"rounds"`
	Seconds  float64  `json:"seconds"` // of a round
	Inodes   int      `json:"inodes"`  // that each backend knew before it was measured
	Pinned   bool     `json:"pinned"`  // clients that poll, and backends, each to processors of their own
	Dir      string   `json:"filesystem"`
	Backends []string `json:"backends"` // names, without variants; the last is the reference
	Commands []string `json:"commands"` // of each backend and variant
	Results  []Result `json:"results"`
	Life     []Life   `json:"life,omitempty"` // of each backend and variant that is one command
}

// A Result is what one case gave.
type Result struct {
	Case
	What     string     `json:"what"` // one operation
	Data     int        `json:"data"` // payload bytes of an operation
	Backends []Measured `json:"backends"`
}

// A Measured is one backend in one case: medians of its rounds.
type Measured struct {
	Name     string  `json:"name"` // with its variant
	Rate     float64 `json:"rate"` // operations/s
	Spread   float64 `json:"spread"`
	P50      float64 `json:"p50"`      // of latency, µs
	P99      float64 `json:"p99"`      // µs
	P999     float64 `json:"p999"`     // µs
	CPU      float64 `json:"cpu"`      // of the backend's processes for an operation, µs
	Switches float64 `json:"switches"` // context switches for an operation
	Client   float64 `json:"client"`   // processors that the client used, 0 to 1
	Errors   int     `json:"errors"`   // operations that failed, in all rounds
	Errno    string  `json:"errno,omitempty"`
	Best     bool    `json:"best"` // of its variants
	// Ratio is this rate over the reference's, the median of pairs of rounds, and CPURatio
	// the same of CPU. Both are 0 at the reference itself.
	Ratio    float64 `json:"ratio"`
	CPURatio float64 `json:"cpuRatio"`
	Rounds   []Round `json:"rounds"`
}

// A Round is one turn of a backend. Units are those of Measured.
type Round struct {
	Rate     float64 `json:"rate"`
	P50      float64 `json:"p50"`
	P99      float64 `json:"p99"`
	P999     float64 `json:"p999"`
	CPU      float64 `json:"cpu"`
	Switches float64 `json:"switches"`
	Client   float64 `json:"client"`

	errors int
	errno  string
}

func newReport(o Options) *Report {
	r := &Report{
		Date: time.Now().UTC().Format("2006-01-02 15:04"), Command: o.Command, Machine: machine(), CPUs: runtime.NumCPU(),
		Rounds: o.Rounds, Seconds: o.Time.Seconds(), Inodes: o.Inodes, Pinned: o.Pin, Dir: fileSystem(o.Dir),
	}
	for _, b := range o.Backends {
		if !slices.Contains(r.Backends, b.base()) {
			r.Backends = append(r.Backends, b.base())
		}
		command := b.Socket
		if b.Bare {
			command = "preadv and pwritev, by the client"
		}
		for i, argv := range b.Commands {
			if i > 0 {
				command += "; "
			}
			command += filepath.Base(argv[0]) + " " + strings.Join(argv[1:], " ")
		}
		r.Commands = append(r.Commands, b.Name+": "+command)
	}
	return r
}

// machine says what this is: processor and kernel.
func machine() string {
	name := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				name = strings.TrimSpace(value)
				break
			}
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		name += ", Linux " + unix.ByteSliceToString(u.Release[:])
	}
	return name
}

// fileSystem names the file system that dir is or will be on.
func fileSystem(dir string) string {
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
	}
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil && unix.Statfs(parent(dir), &s) != nil {
		return "unknown"
	}
	if n, ok := names[s.Type]; ok {
		return n
	}
	return "another file system"
}

func parent(dir string) string {
	dir = strings.TrimRight(dir, "/")
	return dir[:strings.LastIndexByte(dir, '/')+1] + "."
}

// newRound computes a round of what was counted and used.
func newRound(c *counts, server, client usage) Round {
	ops := max(1, float64(c.done))
	r := Round{
		Rate:     float64(c.done) / c.took.Seconds(),
		P50:      micros(c.times.quantile(0.5)),
		P99:      micros(c.times.quantile(0.99)),
		P999:     micros(c.times.quantile(0.999)),
		CPU:      micros(server.cpu) / ops,
		Switches: float64(server.switches) / ops,
		Client:   client.cpu.Seconds() / c.took.Seconds(),
		errors:   c.failed,
	}
	if c.failed > 0 {
		r.errno = c.errno.Error()
	}
	return r
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// add adds a round.
func (m *Measured) add(r Round) {
	m.Rounds = append(m.Rounds, r)
	m.Errors += r.errors
	if r.errno != "" {
		m.Errno = r.errno
	}
}

// conclude computes the medians.
func (m *Measured) conclude() {
	of := func(f func(Round) float64) float64 { return median(values(m.Rounds, f)) }
	rate := func(r Round) float64 { return r.Rate }
	m.Rate = of(rate)
	m.Spread = spread(values(m.Rounds, rate))
	m.P50 = of(func(r Round) float64 { return r.P50 })
	m.P99 = of(func(r Round) float64 { return r.P99 })
	m.P999 = of(func(r Round) float64 { return r.P999 })
	m.CPU = of(func(r Round) float64 { return r.CPU })
	m.Switches = of(func(r Round) float64 { return r.Switches })
	m.Client = of(func(r Round) float64 { return r.Client })
}

// base returns the name without the variant.
func (m *Measured) base() string { return Backend{Name: m.Name}.base() }

// compare finds the best variant of each backend, and the ratios to the best of the
// last one.
func (r *Result) compare() {
	best := map[string]*Measured{}
	for i := range r.Backends {
		m := &r.Backends[i]
		if b := best[m.base()]; b == nil || m.Rate > b.Rate {
			best[m.base()] = m
		}
	}
	reference := best[r.Backends[len(r.Backends)-1].base()]
	for i := range r.Backends {
		m := &r.Backends[i]
		m.Best = best[m.base()] == m
		if m.base() != reference.base() {
			m.Ratio = pairs(m, reference, func(r Round) float64 { return r.Rate })
			m.CPURatio = pairs(m, reference, func(r Round) float64 { return r.CPU })
		}
	}
}

// pairs returns the median ratio of rounds that were neighbours.
func pairs(a, b *Measured, f func(Round) float64) float64 {
	var ratios []float64
	for i := range min(len(a.Rounds), len(b.Rounds)) {
		if d := f(b.Rounds[i]); d > 0 {
			ratios = append(ratios, f(a.Rounds[i])/d)
		}
	}
	return median(ratios)
}

// values returns one number of each round, sorted.
func values(rounds []Round, f func(Round) float64) []float64 {
	var v []float64
	for _, r := range rounds {
		v = append(v, f(r))
	}
	slices.Sort(v)
	return v
}

// median returns the middle of v, or 0 if it is empty.
func median(v []float64) float64 { return quantileOf(v, 0.5) }

// spread returns the distance of the quartiles of v as a share of its median.
func spread(v []float64) float64 {
	m := median(v)
	if m == 0 {
		return 0
	}
	return (quantileOf(v, 0.75) - quantileOf(v, 0.25)) / m
}

// quantileOf returns a quantile of v, between neighbours if need be.
func quantileOf(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	at := q * float64(len(v)-1)
	i := int(at)
	if i+1 == len(v) {
		return v[i]
	}
	return v[i] + (at-float64(i))*(v[i+1]-v[i])
}
