package vmtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Find returns the lab, or skips the test if there is none; with VFIOFS_VM=1, and in
// CI, a missing lab fails the test. Without either variable VM tests do not run: they
// take minutes, and belong after the unit tests.
func Find(t testing.TB) *Lab {
	t.Helper()
	wanted := os.Getenv("VFIOFS_VM") == "1" || os.Getenv("CI") == "true"
	if !wanted {
		t.Skip("VM tests run with VFIOFS_VM=1 (after scripts/lab)")
	}
	lab, err := FindLab()
	if err != nil {
		t.Fatal(err)
	}
	return lab
}

// Start boots a guest that ends with the test at the latest.
func Start(t testing.TB, lab *Lab, vm VM) *Machine {
	t.Helper()
	began := time.Now()
	m, err := Boot(t.Context(), lab, vm)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	t.Logf("%s: up %.1f s after we began to build it", m.vm.Name, time.Since(began).Seconds())
	return m
}

// Report makes each test that a step ran in the guest a subtest of t. The step must
// have ended, and must have been made by Test.
func (m *Machine) Report(t *testing.T, step string) {
	t.Helper()
	out, err := m.Output(step)
	if err != nil {
		t.Fatal(err)
	}
	root, err := parseTests(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range root.subtests {
		r.replay(t)
	}
	status, took, ended := m.Status(step)
	t.Logf("%s: step %s took %.1f s in the guest", m.vm.Name, step, took.Seconds())
	switch {
	case !ended:
		t.Error(m.errorf("step %s has not ended", step))
	case len(root.subtests) == 0:
		t.Errorf("step %s ran no test, exit status %d:\n%s", step, status, out)
	case status != 0 && !t.Failed():
		t.Errorf("step %s: exit status %d, though no test failed:\n%s", step, status, out)
	}
}

// A testResult is one test of the guest.
type testResult struct {
	name     string // last element
	action   string // "pass", "fail", "skip", or "" if it never ended
	seconds  float64
	output   strings.Builder
	subtests []*testResult
}

// parseTests turns the output of a test binary, run with -test.v=test2json, into a
// tree. The root stands for the whole binary.
func parseTests(out []byte) (*testResult, error) {
	cmd := exec.Command("go", "tool", "test2json")
	cmd.Stdin = bytes.NewReader(out)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	events, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go tool test2json: %w\n%s", err, stderr.Bytes())
	}
	root := &testResult{}
	tests := map[string]*testResult{"": root}
	for line := range bytes.Lines(events) {
		var e struct {
			Action, Test, Output string
			Elapsed              float64 // seconds
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("go tool test2json: %w", err)
		}
		r := tests[e.Test]
		if r == nil {
			parent, name := "", e.Test
			for i, c := range e.Test { // the longest prefix that is a test; names may hold slashes
				if c == '/' && tests[e.Test[:i]] != nil {
					parent, name = e.Test[:i], e.Test[i+1:]
				}
			}
			r = &testResult{name: name}
			tests[e.Test] = r
			tests[parent].subtests = append(tests[parent].subtests, r)
		}
		switch e.Action {
		case "pass", "fail", "skip":
			r.action, r.seconds = e.Action, e.Elapsed
		case "output":
			if text := strings.TrimSpace(e.Output); !strings.HasPrefix(text, "=== ") && !strings.HasPrefix(text, "--- ") {
				r.output.WriteString(e.Output)
			}
		}
	}
	return root, nil
}

// replay runs a subtest that does what the test in the guest did.
func (r *testResult) replay(t *testing.T) {
	t.Run(r.name, func(t *testing.T) {
		for _, sub := range r.subtests {
			sub.replay(t)
		}
		t.Log(strings.TrimSpace(fmt.Sprintf("%.2f s in the guest\n%s", r.seconds, r.output.String())))
		switch r.action {
		case "pass":
		case "skip":
			t.Skip("skipped in the guest")
		case "fail":
			t.Fail()
		default:
			t.Error("did not end in the guest")
		}
	})
}
