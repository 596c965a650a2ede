package bench

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// pageHead begins the page.
const pageHead = `# Performance

<!-- Written by scripts/bench. Change that, or internal/bench/page.go, and not this file. -->

What vfiofs wants to reach, and what it reaches: medians of ratios to virtiofsd with
--sandbox=none and the best of its pool sizes, unless a line says otherwise; vfiofs has
its default jail. Why a line does not hold is said at the end of the page.

`

// pageMethod comes after the marks.
const pageMethod = `
## How it is measured

All numbers on this page were measured with

    scripts/bench

which is "vfiofs bench" with the reports below: the same streams of requests, sent to each
backend through vfiofs' own front-end, without a virtual machine. Backends take turns round
by round (A B A B), and share one directory and so one page cache. A number is the median of
all rounds; ± is the distance of the quartiles of the rate. "rate" and "CPU" in the last
columns are ratios to the reference, the median of neighbouring rounds. An operation that
failed would be shown with its errno; a wrong reply ends the benchmark.

* scripts/bench first empties the page cache, if it may, so that files lie in large folios.
* **depth** is the number of requests in flight.
* **CPU/op** is the processor time of all threads and children of the backend, for one
  operation, and **sw/op** its context switches. They say whether a backend slept between
  requests: with sw/op near 0 it happened to stay awake.
* A **client that polls** looks for replies all the time, as a guest with busy processors
  does; it and the backends have a processor each. A **client that sleeps** is called by
  each reply, as in a guest that has nothing else to do; nothing is pinned.
* Of backends with variants (name/variant) the best one counts, in each case anew.
* **Start to listening** is the time from starting a backend's process until its socket
  listens, which is looked for every 0.2 ms: the median of some starts, in turns (A B A B).
  **Idle** is the processor time that it uses in a second in which it is asked nothing: half
  a second after the last case, and still connected.
`

// WritePage writes a page of reports to a Markdown file, and their plots beside it.
func WritePage(name string, reports []*Report) error {
	var b strings.Builder
	b.WriteString(pageHead)
	writeMarks(&b, reports)
	b.WriteString(pageMethod)
	stem := strings.TrimSuffix(name, filepath.Ext(name))
	for i, r := range reports {
		fmt.Fprintf(&b, "\n## %s\n\n%s, %d processors; files on %s; %s UTC; %d rounds of %.2g s.\n",
			r.title(), r.Machine, r.CPUs, r.where(), r.Date, r.Rounds, r.Seconds)
		for _, backend := range r.Backends[:len(r.Backends)-1] {
			rate, cpu := r.Means(backend)
			fmt.Fprintf(&b, "Geometric means: %s has **%.2f** times the rate of %s, at **%.2f** of its processor time per operation.\n",
				backend, rate, r.reference(), cpu)
			plot := fmt.Sprintf("%s-%d-%s.svg", stem, i+1, backend)
			if err := writePlot(plot, r, backend); err != nil {
				return err
			}
			fmt.Fprintf(&b, "\n![%s compared with %s](%s)\n", backend, r.reference(), filepath.Base(plot))
		}
		r.life(&b)
		for _, c := range r.clients() {
			b.WriteString("\n### Client that " + clientText(c) + "\n\n")
			r.markdown(&b, c)
			r.room(&b, c)
		}
		b.WriteString("\nCommand, and those of the backends:\n\n    " + r.Command + "\n\n")
		for _, c := range r.Commands {
			b.WriteString("    " + c + "\n")
		}
	}
	return os.WriteFile(name, []byte(b.String()), 0o644)
}

// title says what is compared.
func (r *Report) title() string {
	title := r.reference() + ", on " + r.where()
	if others := r.Backends[:len(r.Backends)-1]; len(others) > 0 {
		title = strings.Join(others, " and ") + " against " + title
	}
	return title
}

// where says what the files were on, and how many of them were live.
func (r *Report) where() string {
	if r.Inodes == 0 {
		return r.Dir
	}
	return fmt.Sprintf("%s, %d inodes live", r.Dir, r.Inodes)
}

// room says how many processors a client left to the backend, where that decides: with
// several queues.
func (r *Report) room(b *strings.Builder, c Client) {
	low, high := math.Inf(1), 0.0
	for _, result := range r.Results {
		for _, m := range result.Backends {
			if result.Client == c && result.Queues > 1 {
				free := finding{report: r, m: m}.free()
				low, high = min(low, free), max(high, free)
			}
		}
	}
	if high > 0 {
		fmt.Fprintf(b, "\nOf %d processors, the client left %.1f to %.1f to the backend where there were several queues.\n", r.CPUs, low, high)
	}
}

// markdown writes the table of one kind of client.
func (r *Report) markdown(b *strings.Builder, c Client) {
	b.WriteString("| workload | depth | backend | rate | ± | p50 | p99 | p99.9 | CPU/op | sw/op | rate | CPU |\n")
	b.WriteString("|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, result := range r.Results {
		if result.Client != c {
			continue
		}
		name, depth, _ := strings.Cut(result.label(), " @")
		for _, m := range result.Backends {
			if !m.Best {
				continue
			}
			ratio := ratioText(m.Ratio)
			if ratio != "" {
				ratio = "**" + ratio + "**"
			}
			rate := rateText(m.Rate, result.Data)
			if m.Errors > 0 {
				rate += fmt.Sprintf(" (%d errors: %s)", m.Errors, m.Errno)
			}
			fmt.Fprintf(b, "| %s | %s | %s | %s | %.0f %% | %s | %s | %s | %s | %.2f | %s | %s |\n",
				name, depth, m.Name, rate, 100*m.Spread, microsText(m.P50), microsText(m.P99), microsText(m.P999),
				microsText(m.CPU), m.Switches, ratio, ratioText(m.CPURatio))
			name, depth = "", ""
		}
	}
}

// writePlot writes one plot to a file.
func writePlot(name string, r *Report, backend string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := r.Plot(f, backend); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// ReadReport reads a report that was printed as JSON.
func ReadReport(name string) (*Report, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	r := new(Report)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s is not a report of vfiofs bench --json: %w", name, err)
	}
	if len(r.Backends) == 0 {
		return nil, fmt.Errorf("%s is not a report of vfiofs bench --json: it names no backends", name)
	}
	return r, nil
}
