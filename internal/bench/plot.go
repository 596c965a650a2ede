package bench

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// Sizes in a plot, in pixels.
const (
	plotLabel  = 170 // width of the names
	plotPanel  = 300 // width of a panel
	plotGap    = 40  // between the panels, and at the right
	plotRow    = 22
	plotTop    = 56
	plotBottom = 34
	plotWidth  = plotLabel + 2*(plotPanel+plotGap)
)

// plotStyle makes the plot readable on light and on dark pages.
const plotStyle = `<style>
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 }
.small { font-size: 11px; fill: #57606a }
.grid { stroke: #d0d7de; stroke-width: 1 }
.one { stroke: #57606a; stroke-width: 1.5 }
.stem { stroke: #8c959f; stroke-width: 1.5 }
.poll { fill: #0969da; stroke: #0969da; stroke-width: 2 }
.event { fill: #ffffff; stroke: #bc4c00; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.small { fill: #9198a1 }
.grid { stroke: #3d444d }
.one { stroke: #9198a1 }
.stem { stroke: #656c76 }
.poll { fill: #4493f8; stroke: #4493f8 }
.event { fill: #0d1117; stroke: #f0883e }
}
</style>
`

// A row of a plot is one workload and depth.
type row struct {
	label string
	dots  []dot
}

// A dot is what one kind of client gave.
type dot struct {
	client    Client
	rate, cpu float64
}

// Plot draws the ratios of one backend to the reference as SVG: rate on the left,
// processor time on the right, both on a logarithmic axis, one row for each workload and
// depth.
func (r *Report) Plot(w io.Writer, backend string) error {
	rows := r.rows(backend)
	height := plotTop + plotRow*len(rows) + plotBottom
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="img" aria-label="%s">`+"\n",
		plotWidth, height, html.EscapeString(backend+" compared with "+r.reference()))
	b.WriteString(plotStyle)
	panels := []struct {
		title, small string
		value        func(dot) float64
	}{
		{"rate", "right of the line: " + backend + " does more", func(m dot) float64 { return m.rate }},
		{"processor time of an operation", "left of the line: " + backend + " needs less", func(m dot) float64 { return m.cpu }},
	}
	for i, p := range panels {
		left := plotLabel + i*(plotPanel+plotGap)
		x := axis(&b, rows, p.value, left, height-plotBottom)
		fmt.Fprintf(&b, `<text class="title" x="%d" y="18">%s, %s / %s</text>`+"\n", left, p.title, html.EscapeString(backend), html.EscapeString(r.reference()))
		fmt.Fprintf(&b, `<text class="small" x="%d" y="36">%s</text>`+"\n", left, html.EscapeString(p.small))
		for k, row := range rows {
			y := plotTop + k*plotRow + plotRow/2
			if i == 0 {
				fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", plotLabel-12, y+4, html.EscapeString(row.label))
			}
			for _, m := range row.dots {
				v := p.value(m)
				if v <= 0 {
					continue
				}
				fmt.Fprintf(&b, `<line class="stem" x1="%.1f" y1="%d" x2="%.1f" y2="%[2]d"/>`+"\n", x(1), y, x(v))
			}
			for _, m := range row.dots {
				if v := p.value(m); v > 0 {
					fmt.Fprintf(&b, `<circle class="%s" cx="%.1f" cy="%d" r="5"><title>%s, %s client: %.2f</title></circle>`+"\n",
						m.client, x(v), y, html.EscapeString(row.label), m.client, v)
				}
			}
		}
	}
	legend(&b, r, height-8)
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// axis draws the grid of a panel that ends at y, and returns where values are.
func axis(b *strings.Builder, rows []row, value func(dot) float64, left, y int) func(float64) float64 {
	low, high := -1, 1 // powers of two
	for _, r := range rows {
		for _, m := range r.dots {
			if v := value(m); v > 0 {
				low = min(low, int(math.Floor(math.Log2(v))))
				high = max(high, int(math.Ceil(math.Log2(v))))
			}
		}
	}
	x := func(v float64) float64 {
		return float64(left) + plotPanel*(math.Log2(v)-float64(low))/float64(high-low)
	}
	for e := low; e <= high; e++ {
		class := "grid"
		if e == 0 {
			class = "one"
		}
		v := math.Exp2(float64(e))
		fmt.Fprintf(b, `<line class="%s" x1="%.1f" y1="%d" x2="%[2]f" y2="%d"/>`+"\n", class, x(v), plotTop-8, y)
		fmt.Fprintf(b, `<text class="small" x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(v), y+14, powerText(e))
	}
	return x
}

// powerText prints a power of two as a factor.
func powerText(e int) string {
	if e < 0 {
		return fmt.Sprintf("1/%d", 1<<-e)
	}
	return fmt.Sprintf("%d", 1<<e)
}

// legend says what the dots are, if there is more than one kind.
func legend(b *strings.Builder, r *Report, y int) {
	clients := r.clients()
	if len(clients) < 2 {
		return
	}
	x := plotLabel
	for _, c := range clients {
		fmt.Fprintf(b, `<circle class="%s" cx="%d" cy="%d" r="5"/><text class="small" x="%d" y="%d">client that %s</text>`+"\n",
			c, x, y-4, x+10, y, map[Client]string{Poll: "polls", Event: "sleeps"}[c])
		x += 140
	}
}

// rows collects what is plotted of a backend.
func (r *Report) rows(backend string) []row {
	var rows []row
	at := map[string]int{}
	for _, result := range r.Results {
		label := result.label()
		for _, m := range result.Backends {
			if !m.Best || m.base() != backend {
				continue
			}
			i, ok := at[label]
			if !ok {
				i = len(rows)
				at[label] = i
				rows = append(rows, row{label: label})
			}
			rows[i].dots = append(rows[i].dots, dot{result.Client, m.Ratio, m.CPURatio})
		}
	}
	return rows
}

// label names a case beside its client.
func (c Case) label() string {
	if c.Queues > 1 {
		return fmt.Sprintf("%s @%dx%d", c.Workload, c.Depth, c.Queues)
	}
	return fmt.Sprintf("%s @%d", c.Workload, c.Depth)
}

// reference is the backend that others are compared with.
func (r *Report) reference() string { return r.Backends[len(r.Backends)-1] }

// clients returns the kinds of clients that were used.
func (r *Report) clients() []Client {
	var list []Client
	for _, result := range r.Results {
		if len(list) == 0 || list[len(list)-1] != result.Client {
			list = append(list, result.Client)
		}
	}
	return list
}
