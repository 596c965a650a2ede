package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Life is what a backend takes apart from requests.
type Life struct {
	Name   string    `json:"name"`   // with its variant
	Starts []float64 `json:"starts"` // times from the start of its process until its socket listens, ms
	Idle   float64   `json:"idle"`   // processors that it uses while it is connected and asked nothing
}

const (
	lookTick  = 200 * time.Microsecond // between looks for a socket that is timed
	quietTime = 500 * time.Millisecond // to come to rest after the last request
	idleTime  = time.Second            // in which an idle backend is watched
)

// lives reports whether a backend has a Life: it is one command that the benchmark runs.
func (b Backend) lives() bool { return len(b.Commands) == 1 }

// starts starts and ends each backend some times, in turns and without connecting to it.
// Files go to tmp.
func (o *Options) starts(ctx context.Context, tmp string, queues int) ([]Life, error) {
	var lives []Life
	var backends []Backend
	for _, b := range o.Backends {
		if b.lives() {
			backends = append(backends, b)
			lives = append(lives, Life{Name: b.Name})
		}
	}
	turns := 2*o.Rounds + 1
	tell := o.task("starting backends", turns*len(backends))
	for turn := range turns {
		for i, b := range backends {
			tell(turn*len(backends) + i)
			took, err := b.start(ctx, filepath.Join(tmp, fmt.Sprintf("start-%d-%d", turn, i)), o.Dir, queues)
			if err != nil {
				return nil, fmt.Errorf("backend %s: %w", b.Name, err)
			}
			lives[i].Starts = append(lives[i].Starts, micros(took)/1000)
		}
	}
	tell(turns * len(backends))
	return lives, nil
}

// start starts a backend, ends it as soon as it listens, and returns how long that took.
func (b Backend) start(ctx context.Context, place, dir string, queues int) (took time.Duration, err error) {
	r := &running{Backend: b}
	defer func() {
		err = firstError(err, r.end())
	}()
	begun := time.Now()
	if err := r.run(b.Commands[0], words(place, dir, queues), place+".log"); err != nil {
		return 0, err
	}
	if err := r.await(ctx, socketAt(place), lookTick); err != nil {
		return 0, r.explain(err)
	}
	return time.Since(begun), nil
}

// idle lets all backends come to rest, and adds to their lives what they use then.
func (f *field) idle(ctx context.Context) error {
	if err := pause(ctx, quietTime); err != nil {
		return err
	}
	before, err := f.usages()
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := pause(ctx, idleTime); err != nil {
		return err
	}
	took := time.Since(begun)
	after, err := f.usages()
	if err != nil {
		return err
	}
	for i := range f.lives {
		// A thread that ended meanwhile takes along what it had used before.
		f.lives[i].Idle = max(0, after[i].minus(before[i]).cpu.Seconds()/took.Seconds())
	}
	return nil
}

// usages returns the usage of each backend that has a Life.
func (f *field) usages() ([]usage, error) {
	var list []usage
	for _, r := range f.backends {
		if !r.lives() {
			continue
		}
		u, err := usageOf(r.pids)
		if err != nil {
			return nil, fmt.Errorf("backend %s: %w", r.Name, r.explain(err))
		}
		list = append(list, u)
	}
	return list, nil
}

// pause waits. It fails when ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// texts returns the median of the starts, the slowest of them, and the share of one
// processor when idle.
func (l *Life) texts() (start, slowest, idle string) {
	return fmt.Sprintf("%.2f ms", median(l.Starts)), fmt.Sprintf("%.2f ms", slices.Max(l.Starts)), fmt.Sprintf("%.2f %%", 100*l.Idle)
}

// life writes the table of what backends take apart from requests, if that was measured.
func (r *Report) life(b *strings.Builder) {
	if len(r.Life) == 0 {
		return
	}
	fmt.Fprintf(b, "\n### Start and idle\n\n| backend | start to listening | slowest of %d | idle |\n|---|--:|--:|--:|\n", len(r.Life[0].Starts))
	for _, l := range r.Life {
		start, slowest, idle := l.texts()
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", l.Name, start, slowest, idle)
	}
}
