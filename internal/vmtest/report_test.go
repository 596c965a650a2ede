package vmtest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// guestOutput is what a test binary prints with -test.v=test2json.
const guestOutput = "" +
	"\x16=== RUN   TestA\n" +
	"\x16=== RUN   TestA/one\n" +
	"    a_test.go:9: a note\n" +
	"\x16=== RUN   TestA/two/b\n" +
	"\x16--- FAIL: TestA (0.50s)\n" +
	"    \x16--- PASS: TestA/one (0.20s)\n" +
	"    \x16--- SKIP: TestA/two/b (0.30s)\n" +
	"\x16=== RUN   TestB\n" +
	"panic: test timed out\n"

func TestParseTests(t *testing.T) {
	root, err := parseTests([]byte(guestOutput))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	var walk func(prefix string, r *testResult)
	walk = func(prefix string, r *testResult) {
		for _, sub := range r.subtests {
			got = append(got, prefix+sub.name+": "+sub.action+": "+strings.TrimSpace(sub.output.String()))
			walk(prefix+sub.name+" > ", sub)
		}
	}
	walk("", root)
	want := []string{
		"TestA: fail: ",
		"TestA > one: pass: a_test.go:9: a note",
		"TestA > two/b: skip: ",
		"TestB: : panic: test timed out",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tests (-want +got):\n%s", diff)
	}
}

func TestTest(t *testing.T) {
	got := Test("posix", "suite", "^TestPosix$", "-dir=/mnt").Args
	want := []string{"/bin/suite", "-test.v=test2json", "-test.timeout=20m", "-test.run=^TestPosix$", "-dir=/mnt"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Test() (-want +got):\n%s", diff)
	}
}
