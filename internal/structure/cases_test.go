package structure

import (
	"os"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// TestSpecCases wants a test for each edge case of the specification.
func TestSpecCases(t *testing.T) {
	count := 0
	for _, r := range specCases() {
		count += r[1] - r[0] + 1
	}
	if count != 194 {
		t.Errorf("%d cases; want the 194 of fs-device.md H", count)
	}
	tree, err := Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range tree.Cases(specCases()) {
		t.Errorf("no test is named after %s (fs-device.md H)", name)
	}
}

func TestCases(t *testing.T) {
	const src = `package x
import "testing"
func Test` + `H001Function(t *testing.T) {
	t.Run("H` + `002 subtest", nil)
	for _, x := range []struct{ name string }{{"H` + `003 H` + `004 table"}} {
		check(t, "H` + `005 message", x) // H` + `006 comment
	}
}
func Fuzz` + `H007(f *testing.F) {}
func helper` + `H008() {}
`
	tree, err := Load(fstest.MapFS{
		"a/a_test.go":        {Data: []byte(src)},
		"a/a.go":             {Data: []byte("package x\n\nconst _ = \"H" + "009 no test\"\n")},
		"a/atest/hostile.go": {Data: []byte("package atest\n\nvar _ = []string{line(\"H" + "010 shared by tests\")}\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"H" + "005", "H" + "006", "H" + "008", "H" + "009", "H" + "011"}
	if diff := cmp.Diff(want, tree.Cases([][2]int{{1, 11}})); diff != "" {
		t.Errorf("Cases (-want +got):\n%s", diff)
	}
}
