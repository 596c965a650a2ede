package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vfiofs/internal/testkit"
)

// TestLife tells a backend that starts late and never rests from one that does not, and
// leaves no process behind.
func TestLife(t *testing.T) {
	o := options(t, backend(t, "light", "right"), backend(t, "heavy", "heavy"), Backend{Name: "bare", Bare: true})
	o.Cases, o.Life = []Case{{"rand-read-4k", 1, 1, Poll}}, true
	var done []int
	o.Progress = func(p Progress) {
		if p.Task == "starting backends" {
			done = append(done, p.Done, p.Total)
		}
	}
	report, err := Run(t.Context(), o)
	testkit.Check(t, err)
	if diff := cmp.Diff([]int{0, 6, 1, 6, 2, 6, 3, 6, 4, 6, 5, 6, 6, 6}, done); diff != "" {
		t.Errorf("starts, as the progress says (-want +got):\n%s", diff)
	}
	if len(report.Life) != 2 || report.Life[0].Name != "light" || report.Life[1].Name != "heavy" {
		t.Fatalf("the report has %+v; want light and heavy, which are commands", report.Life)
	}
	light, heavy := report.Life[0], report.Life[1]
	if len(light.Starts) != 3 || len(heavy.Starts) != 3 {
		t.Errorf("%d and %d starts; want 3 each", len(light.Starts), len(heavy.Starts))
	}
	late := micros(heavyStart) / 1000
	for i := range heavy.Starts {
		if light.Starts[i] <= 0 || heavy.Starts[i] < late {
			t.Errorf("start %d took %v and %v ms; want some, and %v ms at least", i, light.Starts[i], heavy.Starts[i], late)
		}
	}
	if light.Idle >= heavy.Idle {
		t.Errorf("idle, the light one uses %v of a processor and the heavy one %v", light.Idle, heavy.Idle)
	}
	if all := family([]int{os.Getpid()}); len(all) != 1 {
		t.Errorf("after the run, processes %v are there", all[1:])
	}
}

// TestLifeText: what was measured comes through JSON to the page, and to the legend.
func TestLifeText(t *testing.T) {
	lives := []Life{{"vfiofs", []float64{12, 9.126, 8}, 0.00041}, {"virtiofsd/pool0", []float64{4, 5, 30}, 1.5}}
	r := report("ext4", 0, result("null", 1, 1, Poll, measured("vfiofs", 0, 2), measured("virtiofsd/pool0", 0, 1)))
	for _, c := range []struct {
		name         string
		life         []Life
		page, legend string
	}{
		{"not measured", nil, "", ""},
		{
			"measured", lives,
			"### Start and idle\n\n| backend | start to listening | slowest of 3 | idle |\n|---|--:|--:|--:|\n" +
				"| vfiofs | 9.13 ms | 12.00 ms | 0.04 % |\n| virtiofsd/pool0 | 5.00 ms | 30.00 ms | 150.00 % |\n\n",
			"vfiofs listens 9.13 ms after its start (slowest of 3: 12.00 ms); idle, it uses 0.04 % of a processor.\n" +
				"virtiofsd/pool0 listens 5.00 ms after its start (slowest of 3: 30.00 ms); idle, it uses 150.00 % of a processor.\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.Life = c.life
			text, err := json.Marshal(r)
			testkit.Check(t, err)
			if got := bytes.Contains(text, []byte(`"life":`)); got != (c.life != nil) {
				t.Errorf("that JSON has it is %v: %s", got, text)
			}
			dir := t.TempDir()
			testkit.Check(t, os.WriteFile(filepath.Join(dir, "r.json"), text, 0o600))
			read, err := ReadReport(filepath.Join(dir, "r.json"))
			testkit.Check(t, err)
			if diff := cmp.Diff(c.life, read.Life); diff != "" {
				t.Errorf("through JSON (-want +got):\n%s", diff)
			}
			testkit.Check(t, WritePage(filepath.Join(dir, "p.md"), []*Report{read}))
			page, err := os.ReadFile(filepath.Join(dir, "p.md"))
			testkit.Check(t, err)
			_, section, _ := strings.Cut(string(page), "](p-1-vfiofs.svg)\n\n")
			section, _, _ = strings.Cut(section, "### Client that")
			if diff := cmp.Diff(c.page, section); diff != "" {
				t.Errorf("page (-want +got):\n%s", diff)
			}
			var legend bytes.Buffer
			testkit.Check(t, NewTable(&legend).Legend(read))
			if _, got, _ := strings.Cut(legend.String(), "of its CPU/op.\n"); got != c.legend {
				t.Errorf("legend ends with\n%s; want\n%s", got, c.legend)
			}
		})
	}
}

func TestLifeFailures(t *testing.T) {
	o := options(t, backend(t, "good", "right"), backend(t, "x", "dead"))
	o.Life = true
	if _, err := o.starts(t.Context(), t.TempDir(), 1); err == nil || !strings.HasPrefix(err.Error(), "backend x: ") || !strings.Contains(err.Error(), "does not like you") {
		t.Errorf("starts of a dead backend = %v", err)
	}
	o.Backends = []Backend{{Name: "x", Commands: [][]string{{"/nonexistent"}}}}
	if _, err := o.starts(t.Context(), t.TempDir(), 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("starts of no program = %v", err)
	}
	cause := errors.New("enough")
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	o.Backends = []Backend{backend(t, "good", "right")}
	if _, err := o.starts(ended, t.TempDir(), 1); !errors.Is(err, cause) {
		t.Errorf("starts after the end = %v; want %v", err, cause)
	}
	o.Life = false
	err := withField(t.Context(), o, func(f *field) error {
		if err := f.idle(ended); !errors.Is(err, cause) {
			t.Errorf("idle after the end = %v; want %v", err, cause)
		}
		p := f.backends[0].cmds[0]
		p.Process.Kill()
		<-p.ended
		if _, err := f.usages(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("usages of a backend that was killed = %v", err)
		}
		return nil
	})
	if err != nil && !strings.Contains(err.Error(), "DESTROY") {
		t.Error(err)
	}
}

// heavyStart is how long the heavy backend takes before it listens, at least.
const heavyStart = 30 * time.Millisecond

// spin keeps a processor busy.
func spin(d time.Duration) {
	n := 0
	for start := time.Now(); time.Since(start) < d; {
		n++
	}
}
