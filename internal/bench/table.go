package bench

import (
	"fmt"
	"io"
	"math"
)

// A Table prints results for people, as they come.
type Table struct {
	w    io.Writer
	last Client
}

// NewTable returns a table that goes to w.
func NewTable(w io.Writer) *Table { return &Table{w: w} }

// tableHead and tableRow are its columns.
const (
	tableHead = "%-16s %5s  %-14s %11s %4s  %8s %8s %8s  %8s %7s  %6s %6s\n"
	tableRow  = "%-16s %5s  %-14s %11s %3.0f%%  %8s %8s %8s  %8s %7.2f  %6s %6s%s\n"
)

// Add prints one case: a line for each backend, of variants the best.
func (t *Table) Add(r Result) error {
	if r.Client != t.last {
		t.last = r.Client
		if _, err := fmt.Fprintf(t.w, "\nClient that %s\n\n"+tableHead, clientText(r.Client),
			"workload", "depth", "backend", "rate", "±", "p50", "p99", "p99.9", "CPU/op", "sw/op", "rate", "CPU"); err != nil {
			return err
		}
	}
	name, depth := r.Workload, fmt.Sprint(r.Depth)
	if r.Queues > 1 {
		depth = fmt.Sprintf("%dx%d", r.Depth, r.Queues)
	}
	for _, m := range r.Backends {
		if !m.Best {
			continue
		}
		remark := ""
		if m.Errors > 0 {
			remark = fmt.Sprintf("  ! %d errors: %s", m.Errors, m.Errno)
		}
		if _, err := fmt.Fprintf(t.w, tableRow, name, depth, m.Name, rateText(m.Rate, r.Data), 100*m.Spread,
			microsText(m.P50), microsText(m.P99), microsText(m.P999), microsText(m.CPU), m.Switches,
			ratioText(m.Ratio), ratioText(m.CPURatio), remark); err != nil {
			return err
		}
		name, depth = "", ""
	}
	return nil
}

// Legend prints what the columns are, and ratios over all cases.
func (t *Table) Legend(r *Report) error {
	reference := r.reference()
	text := fmt.Sprintf("\nMedians of %d rounds of %.2g s. ±: distance of the quartiles of the rate. p50, p99, p99.9: latency.\n"+
		"CPU/op: processor time of the backend's processes for one operation; sw/op: their context switches.\n", r.Rounds, r.Seconds)
	if len(r.Backends) > 1 {
		text += fmt.Sprintf("Last columns: rate and CPU/op over those of %s, the median of neighbouring rounds.\n", reference)
	}
	for _, b := range r.Backends[:len(r.Backends)-1] {
		rate, cpu := r.Means(b)
		text += fmt.Sprintf("Geometric means of all cases: %s has %.2f times the rate of %s, at %.2f of its CPU/op.\n", b, rate, reference, cpu)
	}
	for _, l := range r.Life {
		start, slowest, idle := l.texts()
		text += fmt.Sprintf("%s listens %s after its start (slowest of %d: %s); idle, it uses %s of a processor.\n", l.Name, start, len(l.Starts), slowest, idle)
	}
	_, err := io.WriteString(t.w, text)
	return err
}

// Means returns the geometric means over all cases of a backend's ratios.
func (r *Report) Means(backend string) (rate, cpu float64) {
	var rates, cpus []float64
	for _, result := range r.Results {
		for _, b := range result.Backends {
			if b.Best && b.base() == backend && b.Ratio > 0 {
				rates, cpus = append(rates, b.Ratio), append(cpus, b.CPURatio)
			}
		}
	}
	return geometricMean(rates), geometricMean(cpus)
}

// geometricMean leaves out what is 0, that is, not known.
func geometricMean(values []float64) float64 {
	sum, n := 0.0, 0.0
	for _, v := range values {
		if v > 0 {
			sum += math.Log(v)
			n++
		}
	}
	return math.Exp(sum / max(n, 1))
}

func clientText(c Client) string {
	if c == Poll {
		return "polls (a guest whose processors are busy)"
	}
	return "sleeps until it is called (a guest whose processors are idle)"
}

// rateText prints operations per second, or bytes per second of large transfers.
func rateText(rate float64, data int) string {
	if data >= 64<<10 {
		return prefixed(rate*float64(data)) + "B/s"
	}
	return prefixed(rate) + "/s"
}

// prefixed prints a number with three digits and a decimal prefix.
func prefixed(v float64) string {
	for _, p := range []string{"", "k", "M", "G"} {
		if v < 999.5 {
			return fmt.Sprintf("%.*f %s", decimals(v), v, p)
		}
		v /= 1000
	}
	return fmt.Sprintf("%.0f T", v)
}

// microsText prints microseconds.
func microsText(v float64) string {
	switch {
	case v == 0:
		return "-"
	case v >= 9995:
		return fmt.Sprintf("%.*f ms", decimals(v/1000), v/1000)
	}
	return fmt.Sprintf("%.*f µs", decimals(v), v)
}

// decimals returns how many digits after the point make three in all.
func decimals(v float64) int {
	switch {
	case v < 9.995:
		return 2
	case v < 99.95:
		return 1
	}
	return 0
}

func ratioText(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.2fx", v)
}
