// Package bench measures vhost-user-fs backends with the same streams of requests,
// through our own front-end and without a virtual machine.
//
//	      ┌─ lane: steps of one operation after the other ─┐ one lane per request
//	      ▼                                                │ in flight
//	engine ─► fsclient.Ring ─► kick ─► ┌─────────┐         │
//	      ◄── fsclient.Ring ◄─ call ◄─ │ backend │ ────────┘
//	                                   └─────────┘ ◄─ /proc: processor time, switches
//
// A case is a workload, a depth, a number of queues and a kind of client: one that polls
// for completions, as a guest with busy processors does, or one that sleeps until it is
// called. All backends share one directory, so that they find the same files in the same
// page cache. They take turns, A B A B, so that what happens to the machine meanwhile
// happens to all; ratios are made of neighbours, and what is reported is the median of
// all rounds with the spread of its middle half.
//
// Three things may be added: a backend that is no server, which shows what the kernel
// leaves to reach (bare.go), a tree of files that all servers know (many.go), and what
// backends take apart from requests, to start and when idle (life.go). marks.go holds what
// the project wants to reach.
//
// An errno that isn't the right answer is counted; a reply that can't be right ends the
// benchmark. Preparing and warming up aren't timed. The engine's loop allocates nothing.
//
// Ownership: Run owns the processes, the sessions and the directory. A session, its
// lanes and the engine belong to one goroutine, which is locked to its thread. There are
// no locks.
//
// The package follows no specification of its own; requests are those of linux/fuse.h
// (fs-device.md D.3) as a Linux guest lays them out.
package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A Client says how completions are noticed.
type Client string

// Kinds of clients.
const (
	Poll  Client = "poll"  // looks at the rings all the time
	Event Client = "event" // sleeps until called
)

// A Case is what is measured at each backend.
type Case struct {
	Workload string `json:"workload"`
	Depth    int    `json:"depth"`  // requests in flight in each queue
	Queues   int    `json:"queues"` // request queues
	Client   Client `json:"client"`
}

// String names a case in messages.
func (c Case) String() string {
	return fmt.Sprintf("%s, depth %d, %d queues, %s client", c.Workload, c.Depth, c.Queues, c.Client)
}

// Options say what to measure and how.
type Options struct {
	Backends []Backend
	Cases    []Case
	Rounds   int           // of each backend in each case
	Time     time.Duration // of a round
	// Inodes is how many files each backend is asked for, and not told to forget, before
	// it is measured.
	Inodes int
	// Life is for measuring, beside the cases, what a backend of one command takes to start
	// and when it is idle. It is started 2*Rounds+1 times more.
	Life bool
	// Dir is the directory that all backends share. It is empty, or new; what it holds
	// afterwards is removed.
	Dir string
	// Pin binds a client that polls and the backends to different processors.
	Pin bool
	// Command is the command line to show in the report; may be "".
	Command string
	// Progress is called before each case and after each round; may be nil.
	Progress func(Progress)
	// Result is called after each case; may be nil.
	Result func(Result)

	staged bool // Dir holds what stage makes, and keeps it
}

// A Progress tells how far a benchmark is.
type Progress struct {
	// Task is what goes on before the first case, with Done of Total files or starts; ""
	// later.
	Task        string
	Done, Total int

	Case     Case
	Number   int // of the case, from 1
	Cases    int
	Backend  string // in its turn; "" while the case is prepared
	Round    int    // from 1
	Rounds   int
	Rate     float64 // of the round that has just ended, operations/s; 0: none has
	Duration time.Duration
}

// check refuses what can't be measured before anything is started.
func (o *Options) check() error {
	if len(o.Backends) == 0 {
		return errors.New("no backend to measure")
	}
	seen := map[string]bool{}
	for _, b := range o.Backends {
		switch {
		case b.Name == "" || seen[b.Name]:
			return fmt.Errorf("backend %q: each backend needs a name of its own", b.Name)
		case len(b.Commands) == 0 && b.Socket == "" && !b.Bare:
			return fmt.Errorf("backend %s: neither a command nor a socket", b.Name)
		}
		seen[b.Name] = true
	}
	for _, c := range o.Cases {
		w, err := find(c.Workload)
		if err != nil {
			return err
		}
		if w.live && o.Inodes == 0 {
			return fmt.Errorf("%s needs files that stay known: say how many with --inodes", w.name)
		}
		if i := slices.IndexFunc(o.Backends, func(b Backend) bool { return b.Bare }); i >= 0 && w.direct == nil {
			return fmt.Errorf("backend %s reads and writes a file without a server: it can't do %s, but for example rand-read-4k", o.Backends[i].Name, w.name)
		}
		if c.Depth < 1 || c.Depth*c.Queues > maxLanes || c.Queues < 1 || c.Queues > maxQueues {
			return fmt.Errorf("%v: want a depth from 1 on, 1 to %d queues, and at most %d requests in flight", c, maxQueues, maxLanes)
		}
	}
	if o.Rounds < 1 || o.Time <= 0 {
		return fmt.Errorf("%d rounds of %v measure nothing", o.Rounds, o.Time)
	}
	if o.Inodes < 0 || o.Inodes > maxInodes {
		return fmt.Errorf("%d inodes: want 0 to %d", o.Inodes, maxInodes)
	}
	return nil
}

// Limits of a case.
const (
	maxLanes  = 256
	maxQueues = 63
)

// A field is all backends, ready to be measured.
type field struct {
	Options
	cpus     unix.CPUSet // all that may be used
	backends []*running
	lives    []Life // with Life, of those that have one
}

// Run measures all cases. What was measured before an error is returned with it.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	report := newReport(o)
	err = withField(ctx, o, func(f *field) error {
		for i, c := range o.Cases {
			result, err := f.measure(ctx, i, c)
			if err != nil {
				return fmt.Errorf("%v: %w", c, err)
			}
			report.Results = append(report.Results, result)
			if o.Result != nil {
				o.Result(result)
			}
		}
		if o.Life {
			if err := f.idle(ctx); err != nil {
				return err
			}
			report.Life = f.lives
		}
		return nil
	})
	return report, err
}

// withField makes the files, starts all backends, calls f, and cleans up.
func withField(ctx context.Context, o Options, f func(*field) error) (err error) {
	if !o.staged {
		var clean, release func() error
		if clean, err = claim(o.Dir); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, clean()) }()
		if err := stage(o.Dir, o.needs()...); err != nil {
			return err
		}
		if slices.Contains(o.needs(), readFile) {
			if release, err = hold(filepath.Join(o.Dir, readFile)); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, release()) }()
		}
	}
	if o.Inodes > 0 {
		defer func() { err = errors.Join(err, removeMany(o.Dir, o.Inodes)) }()
	}
	tmp, err := os.MkdirTemp("", "vfiofs-bench-")
	if err != nil {
		return fmt.Errorf("make a place for sockets: %w", err)
	}
	defer os.RemoveAll(tmp)

	runtime.LockOSThread() // not unlocked: it may be pinned
	queues, lanes := 1, 1
	for _, c := range o.Cases {
		queues, lanes = max(queues, c.Queues), max(lanes, c.Depth*c.Queues)
	}
	if o.Inodes > 0 {
		lanes = max(lanes, manyDepth)
	}
	fl := &field{Options: o}
	if err := unix.SchedGetaffinity(0, &fl.cpus); err != nil {
		return fmt.Errorf("read the processors to use: %w", err)
	}
	defer func() {
		for _, r := range fl.backends {
			err = errors.Join(err, r.end())
		}
	}()
	if o.Life {
		if fl.lives, err = o.starts(ctx, tmp, queues); err != nil {
			return err
		}
	}
	for _, b := range o.Backends {
		r, err := launch(ctx, b, tmp, o.Dir, queues, lanes)
		if err != nil {
			return err
		}
		fl.backends = append(fl.backends, r)
	}
	if o.Inodes > 0 {
		if err := fl.fill(ctx); err != nil {
			return err
		}
	}
	return f(fl)
}

// fill makes the many files, and lets each backend know them.
func (f *field) fill(ctx context.Context) error {
	if err := stageMany(ctx, f.Dir, f.Inodes, f.task("making files", f.Inodes)); err != nil {
		return err
	}
	for _, r := range f.backends {
		if r.Bare {
			continue
		}
		if err := r.lookUpMany(ctx, f.Inodes, f.task(r.Name+" looks files up", f.Inodes)); err != nil {
			return fmt.Errorf("backend %s: %w", r.Name, r.explain(err))
		}
	}
	return nil
}

// needs returns the parts of the shared directory that the cases use; without cases, all.
func (o *Options) needs() []string {
	if len(o.Cases) == 0 {
		return parts[:]
	}
	var list []string
	for _, c := range o.Cases {
		if w, err := find(c.Workload); err == nil {
			list = append(list, w.needs...)
		}
	}
	return list
}

// claim makes dir, or checks that it is empty, and returns what empties it again.
func claim(dir string) (clean func() error, err error) {
	err = os.Mkdir(dir, 0o755)
	switch {
	case err == nil:
		return func() error { return os.RemoveAll(dir) }, nil
	case !os.IsExist(err):
		return nil, fmt.Errorf("make the shared directory: %w", err)
	}
	empty, err := isEmpty(dir)
	if err != nil {
		return nil, fmt.Errorf("look at the shared directory: %w", err)
	}
	if !empty {
		return nil, fmt.Errorf("the shared directory %s is not empty: name one that is, or that does not exist", dir)
	}
	return func() error {
		entries, err := os.ReadDir(dir)
		for _, e := range entries {
			err = errors.Join(err, os.RemoveAll(dir+"/"+e.Name()))
		}
		return err
	}, nil
}

// measure runs one case at all backends, in turns.
func (f *field) measure(ctx context.Context, number int, c Case) (Result, error) {
	p := Progress{Case: c, Number: number + 1, Cases: len(f.Cases), Rounds: f.Rounds, Duration: f.Time}
	f.tell(p)
	w, err := find(c.Workload)
	if err != nil {
		return Result{}, err
	}
	if err := f.place(c); err != nil {
		return Result{}, err
	}
	result := Result{Case: c, What: w.what, Data: w.data}
	streams := make([]stream, len(f.backends))
	for i, r := range f.backends {
		result.Backends = append(result.Backends, Measured{Name: r.Name})
		if streams[i], err = r.ready(w, c); err != nil {
			return result, fmt.Errorf("backend %s: prepare: %w", r.Name, r.explain(err))
		}
		defer streams[i].close()
	}
	for round := range f.Rounds {
		for i, r := range f.backends {
			if ctx.Err() != nil {
				return result, context.Cause(ctx)
			}
			p.Backend, p.Round = r.Name, round+1
			m, err := r.round(streams[i], f.Time)
			if err != nil {
				return result, fmt.Errorf("backend %s: %w", r.Name, r.explain(err))
			}
			result.Backends[i].add(m)
			p.Rate = m.Rate
			f.tell(p)
		}
	}
	for i, r := range f.backends {
		result.Backends[i].conclude()
		if err := streams[i].finish(); err != nil {
			return result, fmt.Errorf("backend %s: clean up: %w", r.Name, r.explain(err))
		}
	}
	result.compare()
	return result, nil
}

func (f *field) tell(p Progress) {
	if f.Progress != nil {
		f.Progress(p)
	}
}

// task returns what tells how far a task is.
func (o *Options) task(name string, total int) func(done int) {
	return func(done int) {
		if o.Progress != nil {
			o.Progress(Progress{Task: name, Done: done, Total: total})
		}
	}
}

// A stream is one case at one backend, ready to run.
type stream interface {
	// run carries operations out for a while, and counts them.
	run(time.Duration) (*counts, error)
	// finish gives back what the backend holds for the case.
	finish() error
	close()
}

// ready prepares a case.
func (r *running) ready(w workload, c Case) (stream, error) {
	if r.bare != nil {
		return r.bare.ready(w, c)
	}
	p, err := w.prepare(r.session)
	if err != nil {
		return nil, err
	}
	return newEngine(r.session, c, p)
}

// warmUp is the part of a round's time that comes before it, untimed.
const warmUp = 8

// round measures one round at a backend.
func (r *running) round(s stream, d time.Duration) (Round, error) {
	if _, err := s.run(d / warmUp); err != nil {
		return Round{}, err
	}
	server, client, err := r.usage()
	if err != nil {
		return Round{}, err
	}
	c, err := s.run(d)
	if err != nil {
		return Round{}, err
	}
	serverAfter, clientAfter, err := r.usage()
	if err != nil {
		return Round{}, err
	}
	return newRound(c, serverAfter.minus(server), clientAfter.minus(client)), nil
}

// usage is the usage of the backend's processes, if they are known, and that of the
// client. Without a server, what the client uses is the backend's.
func (r *running) usage() (server, client usage, err error) {
	if client, err = ownUsage(); err != nil {
		return server, client, err
	}
	if r.bare != nil {
		return client, usage{}, nil
	}
	if len(r.pids) > 0 {
		server, err = usageOf(r.pids)
	}
	return server, client, err
}

// place puts client and backends on the processors that the case wants.
func (f *field) place(c Case) error {
	client, server := f.cpus, f.cpus
	if f.Pin && c.Client == Poll {
		if client.Count() < 2 {
			return errors.New("to pin client and backend, there must be two processors at least: use --pin=off")
		}
		last := 0
		for i := range len(client) * 64 {
			if client.IsSet(i) {
				last = i
			}
		}
		client.Zero()
		client.Set(last)
		server.Clear(last)
	}
	if err := unix.SchedSetaffinity(0, &client); err != nil {
		return fmt.Errorf("pin the client: %w", err)
	}
	for _, r := range f.backends {
		if err := pin(r.pids, &server); err != nil {
			return err
		}
	}
	return nil
}
