package bench

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vfiofs/fuse"
	"vfiofs/virtio/virtq"
)

// TestHistogram compares quantiles with those of a sorted list.
func TestHistogram(t *testing.T) {
	for i := range buckets {
		if start := bucketStart(i); bucketOf(start) != i {
			t.Fatalf("bucketOf(bucketStart(%d)) = %d", i, bucketOf(start))
		}
	}
	if i := bucketOf(math.MaxUint64); i != buckets-1 {
		t.Fatalf("the largest number belongs to bucket %d of %d", i, buckets)
	}
	var h, other histogram
	if h.quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	random := rand.New(rand.NewPCG(1, 2))
	var all []float64
	for i := range 10_000 {
		d := time.Duration(math.Exp(random.Float64() * 20))
		all = append(all, float64(d))
		if i%2 == 0 {
			h.add(d)
		} else {
			other.add(d)
		}
	}
	h.merge(&other)
	for _, q := range []float64{0, 0.1, 0.5, 0.99, 0.999, 1} {
		got, want := float64(h.quantile(q)), quantileOf(all, q)
		if math.Abs(got-want) > 0.05*want+1 {
			t.Errorf("quantile(%v) = %v; want %v", q, got, want)
		}
	}
	h.add(-1)
	h.reset()
	if h.total != 0 {
		t.Error("reset leaves something")
	}
}

func TestMedianAndSpread(t *testing.T) {
	v := []float64{5, 1, 3, 2, 4}
	if m := median(v); m != 3 {
		t.Errorf("median = %v; want 3", m)
	}
	if s := spread(v); math.Abs(s-2.0/3) > 1e-9 {
		t.Errorf("spread = %v; want 2/3", s)
	}
	if median(nil) != 0 || spread(nil) != 0 {
		t.Error("nothing has a median")
	}
	if m := median([]float64{1, 2}); m != 1.5 {
		t.Errorf("median of two = %v; want 1.5", m)
	}
}

// TestCompare: ratios are of neighbouring rounds, to the best variant.
func TestCompare(t *testing.T) {
	measured := func(name string, rates ...float64) Measured {
		m := Measured{Name: name}
		for _, r := range rates {
			m.add(Round{Rate: r, CPU: 1000 / r})
		}
		m.conclude()
		return m
	}
	r := Result{Backends: []Measured{
		measured("a", 200, 400, 800),
		measured("b/1", 50, 100, 200),
		measured("b/2", 100, 200, 400),
	}}
	r.compare()
	type short struct {
		Best            bool
		Ratio, CPURatio float64
	}
	var got []short
	for _, m := range r.Backends {
		got = append(got, short{m.Best, m.Ratio, m.CPURatio})
	}
	if diff := cmp.Diff([]short{{true, 2, 0.5}, {false, 0, 0}, {true, 0, 0}}, got); diff != "" {
		t.Errorf("compare (-want +got):\n%s", diff)
	}
	report := &Report{Backends: []string{"a", "b"}, Results: []Result{r, r}}
	if rate, cpu := report.Means("a"); rate != 2 || cpu != 0.5 {
		t.Errorf("means are %v and %v; want 2 and 0.5", rate, cpu)
	}
}

func TestTexts(t *testing.T) {
	for got, want := range map[string]string{
		rateText(1_234_567, 0):         "1.23 M/s",
		rateText(999.6, 4096):          "1.00 k/s",
		rateText(12_345, 1<<20):        "12.9 GB/s",
		rateText(0, 0):                 "0.00 /s",
		microsText(0):                  "-",
		microsText(12.34):              "12.3 µs",
		microsText(12_345):             "12.3 ms",
		ratioText(0):                   "",
		ratioText(1.239):               "1.24x",
		powerText(-2):                  "1/4",
		powerText(3):                   "8",
		prefixed(5e15):                 "5000 T",
		Case{"null", 8, 1, ""}.label(): "null @8",
		Case{"null", 8, 4, ""}.label(): "null @8x4",
	} {
		if got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

// checkSVG reads a plot as XML, and looks for marks of both clients.
func checkSVG(t *testing.T, name string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(strings.NewReader(string(text)))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for _, want := range []string{`circle class="poll"`, `circle class="event"`, "prefers-color-scheme: dark", "rand-read-4k @2"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("plot lacks %q", want)
		}
	}
	if strings.Contains(string(text), "NaN") || strings.Contains(string(text), "Inf") {
		t.Error("plot has numbers that are none")
	}
}

func TestReadReportRefuses(t *testing.T) {
	name := t.TempDir() + "/r"
	for _, text := range []string{"", "[]", "{}"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadReport(name); err == nil || !strings.Contains(err.Error(), "is not a report") {
			t.Errorf("ReadReport(%q) = %v", text, err)
		}
	}
	if _, err := ReadReport(name + "x"); err == nil {
		t.Error("a file that is not there is a report")
	}
}

// testLane returns a lane in ordinary memory, with a request that has a reply.
func testLane() *lane {
	ln := newLane(make([]byte, laneSize), 0x10000)
	ln.begin(fuse.OpGetAttr, 1, 16, 104)
	return ln
}

// TestReplies judges the frames of replies.
func TestReplies(t *testing.T) {
	for _, c := range []struct {
		name   string
		n      int
		size   uint32
		errno  int32
		unique uint64
		ok     bool
	}{
		{"right", 120, 120, 0, 2, true},
		{"an errno", 16, 16, -2, 2, true},
		{"used length differs", 100, 120, 0, 2, false},
		{"too short", 15, 15, 0, 2, false},
		{"other request", 16, 16, 0, 4, false},
		{"positive errno", 16, 16, 2, 2, false},
		{"errno out of range", 16, 16, -5000, 2, false},
		{"no reply", 0, 0, 0, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ln := testLane()
			le.PutUint32(ln.out, c.size)
			le.PutUint32(ln.out[4:], uint32(c.errno))
			le.PutUint64(ln.out[8:], c.unique)
			err := ln.finish(c.n)
			if (err == nil) != c.ok || err == nil && ln.errno != -c.errno {
				t.Errorf("finish = %v, errno %d", err, ln.errno)
			}
		})
	}
	ln := testLane()
	ln.quiet(fuse.OpForget, 1, 8)
	if err := ln.finish(16); err == nil {
		t.Error("a reply to FORGET is right")
	}
}

// TestLane: payload pages are never neighbours, and a request has the segments of Linux.
func TestLane(t *testing.T) {
	ln := testLane()
	ln.writeAt(5, 6, 7, 10_000)
	if got := le.Uint32(ln.in); got != inHeader+40+10_000 {
		t.Errorf("WRITE of 10000 bytes has length %d", got)
	}
	want := []virtq.Seg{
		{Addr: ln.inAt, Len: 40},
		{Addr: ln.inAt + 40, Len: 40},
		{Addr: ln.pages[0].at, Len: 4096},
		{Addr: ln.pages[1].at, Len: 4096},
		{Addr: ln.pages[2].at, Len: 1808},
	}
	if diff := cmp.Diff(want, ln.chain.Read); diff != "" {
		t.Errorf("readable part (-want +got):\n%s", diff)
	}
	if len(ln.pages) != maxData/pageSize {
		t.Errorf("a lane has %d pages", len(ln.pages))
	}
	for i := range ln.pages[1:] {
		if ln.pages[i+1].at == ln.pages[i].at+pageSize {
			t.Fatalf("pages %d and %d are neighbours", i, i+1)
		}
	}
}

func TestParseCases(t *testing.T) {
	for _, c := range []struct {
		text string
		want []Case
	}{
		{"null", []Case{{"null", 1, 1, Poll}, {"null", 32, 1, Poll}}},
		{"rand-read-64k", []Case{{"rand-read-64k", 1, 1, Poll}, {"rand-read-64k", 8, 1, Poll}}},
		{"mixed@7", []Case{{"mixed", 7, 1, Poll}}},
		{"seq-write-1m@4x2", []Case{{"seq-write-1m", 4, 2, Poll}}},
		{"nothing", nil},
		{"rand-read-2k", nil},
		{"rand-read-2m", nil},
		{"rand-read-5k", nil},
		{"rand-read-k", nil},
		{"rand-copy-4k", nil},
		{"null@x", nil},
		{"null@1x", nil},
	} {
		got, err := ParseCases(c.text, Poll)
		if diff := cmp.Diff(c.want, got); diff != "" || (err == nil) != (c.want != nil) {
			t.Errorf("ParseCases(%q): %v (-want +got):\n%s", c.text, err, diff)
		}
	}
	if n := len(Suite(false, Poll, Event)); n < 50 {
		t.Errorf("the suite has %d cases", n)
	}
	if n := len(Suite(true, Poll)); n != len(quick) {
		t.Errorf("the quick suite has %d cases", n)
	}
	for _, w := range workloads() {
		if !strings.Contains(Catalogue(), w.name) {
			t.Errorf("the catalogue lacks %s", w.name)
		}
	}
}

func FuzzParseCases(f *testing.F) {
	for _, s := range []string{"null", "rand-read-4k@32x4", "seq-write-1m@", "@", "x@1x1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		cases, err := ParseCases(text, Poll)
		if (err == nil) == (len(cases) == 0) {
			t.Errorf("%d cases and error %v", len(cases), err)
		}
	})
}

// FuzzEntries walks over directory entries that a hostile backend sent.
func FuzzEntries(f *testing.F) {
	entry := make([]byte, 32)
	le.PutUint64(entry[8:], 1)
	le.PutUint32(entry[16:], 5)
	copy(entry[24:], "hello")
	f.Add(entry, false)
	f.Add(append(make([]byte, entrySize), entry...), true)
	f.Add(entry[:30], false)
	f.Add(make([]byte, 200), true)
	ln := newLane(make([]byte, laneSize), 0)
	f.Fuzz(func(t *testing.T, b []byte, plus bool) {
		b = b[:min(len(b), dirRoom)]
		for i, rest := 0, b; len(rest) > 0; i++ {
			rest = rest[copy(ln.pages[i].mem, rest):]
		}
		count, _, err := ln.entries(len(b), plus, func(fuse.NodeID) {})
		if err == nil && count > len(b)/direntSize {
			t.Errorf("%d entries in %d bytes", count, len(b))
		}
	})
}
