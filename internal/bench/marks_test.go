package bench

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// measured makes a backend's part of a result with a round for each rate.
func measured(name string, switches float64, rates ...float64) Measured {
	m := Measured{Name: name}
	for _, r := range rates {
		m.add(Round{Rate: r, CPU: 1000 / r, Switches: switches, P50: 100, P999: 1000})
	}
	m.conclude()
	return m
}

// report makes a report on 4 processors; the last backend of each result is the reference.
func report(files string, inodes int, results ...Result) *Report {
	r := &Report{Dir: files, Inodes: inodes, CPUs: 4}
	for i := range results {
		results[i].compare()
	}
	for _, m := range results[0].Backends {
		if base := m.base(); len(r.Backends) == 0 || r.Backends[len(r.Backends)-1] != base {
			r.Backends = append(r.Backends, base)
		}
	}
	r.Results = results
	return r
}

func result(workload string, depth, queues int, client Client, backends ...Measured) Result {
	return Result{Case: Case{workload, depth, queues, client}, Backends: backends}
}

// rowOf returns the row of a mark in the table, without what it is.
func rowOf(t *testing.T, what string, reports ...*Report) string {
	t.Helper()
	var b strings.Builder
	writeMarks(&b, reports)
	for line := range strings.Lines(b.String()) {
		if row, ok := strings.CutPrefix(line, "| "+what+" | "); ok {
			return strings.TrimSuffix(row, " |\n")
		}
	}
	t.Fatalf("there is no mark %q:\n%s", what, &b)
	return ""
}

func TestMarks(t *testing.T) {
	pair := func(our, their, switches float64) []Measured {
		return []Measured{measured("vfiofs", 0, our), measured("virtiofsd/pool0", switches, their/2), measured("virtiofsd/pool1", switches, their)}
	}
	disk := report("ext4", 0,
		result("rand-read-4k", 1, 1, Poll, pair(700, 100, 1.25)...),
		result("rand-read-4k", 1, 1, Event, pair(180, 100, 0)...),
		result("rand-read-4k", 32, 1, Poll, pair(179.6, 100, 0)...),
		result("rand-read-4k", 32, 1, Event, pair(179.4, 100, 0)...),
		result("create+unlink", 8, 1, Poll, pair(90, 100, 0)...),
		result("null", 1, 1, Event, pair(50, 100, 1)...),
	)
	memory := report("tmpfs", 0, result("create+unlink", 8, 1, Poll, pair(120, 100, 0)...))
	failing := pair(500, 100, 0)
	failing[0].Errors = 1
	broken := report("ext4", 0, result("getattr", 32, 1, Poll, failing...))
	mixed := result("rand-read-4k", 1, 1, Poll, measured("vfiofs", 0, 600, 200, 800), measured("virtiofsd", 1, 100, 100, 100))
	mixed.Backends[1].Rounds[1].Switches = 0.1
	plain := report("ext4", 0,
		result("seq-read-1m", 4, 1, Poll, measured("vfiofs", 0, 89), measured("bare", 0, 100)),
		result("seq-read-1m", 4, 1, Event, measured("vfiofs", 0, 95), measured("bare", 0, 100)))
	busy := measured("vfiofs", 0, 220)
	busy.Client = 2.5
	alone := report("ext4", 0,
		result("rand-read-4k", 32, 1, Poll, measured("vfiofs", 0, 100)),
		result("rand-read-4k", 32, 2, Poll, measured("vfiofs", 0, 99)),
		result("rand-read-4k", 32, 4, Poll, measured("vfiofs", 0, 190)),
		result("rand-read-4k", 32, 1, Event, measured("vfiofs", 0, 100)),
		result("rand-read-4k", 32, 4, Event, busy))
	vvu := report("ext4", 0, result("rand-read-4k", 1, 1, Poll, measured("vvu", 0, 60), measured("vfiofs", 0, 100)))
	slow := measured("vfiofs", 0, 1)
	slow.P999 = 1301
	many := report("ext4", million,
		result("getattr", 32, 1, Poll, measured("vfiofs", 0, 1)),
		result("getattr-live", 32, 1, Event, slow))
	lively := func(idle float64, starts ...float64) *Report {
		r := report("ext4", 0,
			result("null", 1, 1, Poll, pair(2, 1, 0)...),
			result("null", 1, 1, Event, pair(2, 1, 0)...))
		r.Life = []Life{{"virtiofsd/pool1", []float64{1}, 1}, {"vfiofs", starts, idle}}
		return r
	}
	sleeping := lively(0, 1)
	sleeping.Results = sleeping.Results[1:]
	for _, c := range []struct {
		name, what, want string
		reports          []*Report
	}{
		{"nothing", "mixed", "≥ 1.5x | not measured | not measured | not judged", nil},
		{"as it is printed", "4K random read, depth 32", "≥ 1.8x | 1.80x | 1.79x | **no**", []*Report{disk}},
		{"asleep", "4K random read, depth 1, where virtiofsd sleeps between requests", "≥ 6x | 7.00x (1 of 1 rounds, sw/op 1.25) | did not happen | yes", []*Report{disk}},
		{"awake", "4K random read, depth 1, where virtiofsd stays awake", "≥ 1.8x | did not happen | 1.80x (1 of 1 rounds, sw/op 0.00) | yes", []*Report{disk}},
		{"now asleep", "4K random read, depth 1, where virtiofsd sleeps between requests", "≥ 6x | 7.00x (2 of 3 rounds, sw/op 1.00) | not measured | yes", []*Report{report("ext4", 0, mixed)}},
		{"now awake", "4K random read, depth 1, where virtiofsd stays awake", "≥ 1.8x | 2.00x (1 of 3 rounds, sw/op 0.10) | not measured | yes", []*Report{report("ext4", 0, mixed)}},
		{"on tmpfs", "create and unlink, depth 8, on tmpfs", "≥ 1.2x | 1.20x | not measured | yes", []*Report{disk, memory}},
		{"the least", "the least of all cases but null at depth 1 with a client that sleeps", "≥ 1x | 0.90x (create+unlink @8, ext4) | 1.79x (rand-read-4k @32, ext4) | **no**", []*Report{memory, disk}},
		{"errors", "getattr, depth 32", "≥ 2.3x | 0.00x | not measured | **no**", []*Report{broken}},
		{"processor time", "processor time of an operation, geometric mean", "≤ 0.6x | 0.83x | not measured | **no**", []*Report{memory}},
		{"bare", "1 MiB reads, over a loop of preadv", "≥ 0.9x | 0.89x | 0.95x | **no**", []*Report{plain}},
		{"queues", "4 queues over 1, where 2 processors are free for the server", "≥ 1.8x | 1.90x (rand-read-4k @32x4, 4.0 processors free) | 2.20x (rand-read-4k @32x4, 1.5 processors free) | yes", []*Report{vvu, alone}},
		{"queues anywhere", "2 and 4 queues over 1, the least", "≥ 1x | 0.99x (rand-read-4k @32x2, 4.0 processors free) | 2.20x (rand-read-4k @32x4, 1.5 processors free) | **no**", []*Report{alone}},
		{"vvu", "virtio-vhost-user over a socket, depth 1, the least", "≥ 0.5x | 0.60x (rand-read-4k @1, ext4) | not measured | yes", []*Report{alone, vvu}},
		{"many inodes", "the slowest in a thousand, with a million inodes live", "p99.9 ≤ 3 p50 + 1 ms | 1000 µs at a p50 of 100 µs (getattr @32) | 1301 µs at a p50 of 100 µs (getattr-live @32) | yes", []*Report{disk, many}},
		{"quick to start", "start to listening", "≤ 15 ms | 15.00 ms (slowest of 3: 90.00 ms) | the same | yes", []*Report{disk, lively(1, 9, 15.004, 90), lively(1, 99)}},
		{"slow to start", "start to listening", "≤ 15 ms | 15.01 ms (slowest of 3: 16.00 ms) | the same | **no**", []*Report{lively(0, 9, 15.006, 16)}},
		{"no start", "start to listening", "≤ 15 ms | not measured | the same | not judged", []*Report{disk}},
		{"idle", "an idle process uses no processor time", "≤ 0.1 % | 0.10 % | the same | yes", []*Report{lively(0.00104, 99)}},
		{"not idle", "an idle process uses no processor time", "≤ 0.1 % | 0.11 % | the same | **no**", []*Report{lively(0.00106, 1)}},
		{"only one client", "an idle process uses no processor time", "≤ 0.1 % | 0.00 % | the same | yes", []*Report{sleeping}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, rowOf(t, c.what, c.reports...)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.what, diff)
			}
		})
	}
}

// TestMarksAreOfTheSuite: scripts/bench measures what a mark of the main comparison reads.
func TestMarksAreOfTheSuite(t *testing.T) {
	for _, client := range []Client{Poll, Event} {
		r := &Report{Dir: "tmpfs", Backends: []string{ours, theirs}}
		for _, c := range Suite(false, client) {
			one := Result{Case: c, Backends: []Measured{measured(ours, 0, 2), measured(theirs, 0, 1)}}
			one.compare()
			r.Results = append(r.Results, one)
		}
		for _, m := range marks() {
			if m.in.backend != ours || m.in.reference != theirs {
				continue
			}
			if v := m.read(m.in.findings([]*Report{r}, client)); v.void == missing().void {
				t.Errorf("%s, client %s: the suite has nothing for it", m.what, client)
			}
		}
	}
}
