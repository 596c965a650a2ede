package posix

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// dirVariable names a directory in which the suite runs, as a program:
//
//	VFIOFS_POSIX_DIR=/mnt go test -v -run '^TestLocal$' ./internal/posix
const dirVariable = "VFIOFS_POSIX_DIR"

// collect runs some cases, and checks that every assertion has a name of its own.
func collect(t *testing.T, cases []testcase, dir string) (results []Result) {
	t.Helper()
	seen := map[string]bool{}
	err := run(cases, dir, func(r Result) {
		if seen[r.Name] {
			t.Errorf("two assertions are called %s", r.Name)
		}
		seen[r.Name] = true
		results = append(results, r)
	})
	if err != nil {
		t.Fatal(err)
	}
	return results
}

// A suite is some cases and where they run.
type suite struct {
	name  string
	cases []testcase
	dir   string
}

// together runs suites at the same time, since each waits for its file system more than
// for a processor. They have nothing in common but the process.
func together(t *testing.T, suites ...suite) [][]Result {
	t.Helper()
	results := make([][]Result, len(suites))
	t.Run("suites", func(t *testing.T) {
		for i, s := range suites {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				results[i] = collect(t, s.cases, s.dir)
			})
		}
	})
	return results
}

// without returns the cases whose names are not in a list.
func without(cases []testcase, names ...string) []testcase {
	return slices.DeleteFunc(cases, func(c testcase) bool { return slices.Contains(names, c.name) })
}

// TestLocal runs the suite on a local file system, which is what the manual pages are
// about: nothing differs, and a second run finds the same.
func TestLocal(t *testing.T) {
	t.Parallel()
	dir := os.Getenv(dirVariable)
	once := dir != "" || testing.Short() // enough for looking at a directory, and under the race detector
	if dir == "" {
		dir = t.TempDir()
	}
	suites := []suite{{"first", all(), dir}}
	if !once {
		suites = append(suites, suite{"second", all(), t.TempDir()})
	}
	runs := together(t, suites...)
	results := runs[0]
	for _, r := range results {
		if t.Log(r); !r.OK() {
			t.Fail()
		}
	}
	least := 2000
	if os.Geteuid() == 0 {
		least = 9000
	}
	if len(results) < least {
		t.Errorf("%d assertions; want %d or more", len(results), least)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 && os.Getenv(dirVariable) == "" {
		t.Errorf("the suite left %d entries, error %v; want nothing", len(left), err)
	}
	if !once && !slices.Equal(results, runs[1]) {
		t.Errorf("a second run is not like the first: -first +second\n%s", cmp.Diff(results, runs[1]))
	}
}

// TestUser runs the suite as an ordinary user: the cases that need root are not in it,
// and nothing differs.
func TestUser(t *testing.T) {
	if os.Geteuid() != 0 {
		return // then TestLocal is this test
	}
	t.Parallel()
	dir, err := os.MkdirTemp("", "posix") // below a directory that everybody may enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chown(dir, alice, staff); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestLocal$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(cmd.Environ(), dirVariable+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: alice, Gid: staff}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		var differs []string
		for line := range strings.Lines(string(out)) {
			if !strings.Contains(line, ": ok ") {
				differs = append(differs, line)
			}
		}
		t.Errorf("as uid %d: %v\n%s", alice, err, strings.Join(differs, ""))
	}
}

// TestTables checks that tables have a whole line for every operation, and that no
// operation is left out.
func TestTables(t *testing.T) {
	e := &env{}
	rows := func(tables ...string) map[string]int {
		n := map[string]int{}
		for _, table := range tables {
			width := 0
			for line := range strings.Lines(table) {
				words := strings.Fields(line)
				switch {
				case len(words) == 0:
				case width == 0:
					width = len(words)
				case len(words) != width+1:
					t.Errorf("line %q has %d fields; want %d", line, len(words)-1, width)
				default:
					n[words[0]]++
				}
			}
		}
		return n
	}
	check := func(name string, rows map[string]int, has func(op string) bool, ops int) {
		for row, n := range rows {
			if n != 1 || !has(row) {
				t.Errorf("%s: row %s is there %d times; has an operation: %v", name, row, n, has(row))
			}
		}
		if len(rows) != ops {
			t.Errorf("%s: %d rows for %d operations", name, len(rows), ops)
		}
	}
	paths, fds, times := e.pathOps(), e.descriptorOps(), e.timeOps()
	check("pathTable", rows(pathTable, pathRootTable), func(op string) bool { return paths[op] != nil }, len(paths))
	check("descriptorTable", rows(descriptorTable), func(op string) bool { return fds[op] != nil }, len(fds))
	check("timeTable", rows(timeTable), func(op string) bool { return times[op] != nil }, len(times))
}

// TestDiffers checks that what goes wrong is said, whatever it is.
func TestDiffers(t *testing.T) {
	cases := []testcase{
		{name: "right", run: func(e *env) { e.is("a", nil, "ok") }},
		{name: "wrong", run: func(e *env) { e.is("a", unix.ENOENT, "EEXIST") }},
		{name: "number", run: func(e *env) { e.is("", 1, 2) }},
		{name: "stuck", run: func(e *env) {
			e.open("missing", unix.O_RDONLY)
			e.is("never", 1, 1)
		}},
		{name: "kind", run: func(e *env) { e.make("no such kind", "f") }},
		{name: "odd errno", run: func(e *env) { e.is("", unix.Errno(4000), "ok") }},
	}
	want := []string{
		"ok right/a",
		"differs wrong/a: got ENOENT want EEXIST",
		"differs number: got 1 want 2",
		"differs stuck: got set-up failed: ENOENT want ok",
		"differs kind: got set-up failed: EINVAL want ok",
		"differs odd errno: got errno 4000 want ok",
	}
	var got []string
	for _, r := range collect(t, cases, t.TempDir()) {
		got = append(got, r.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("results %q; want %q", got, want)
	}
	if err := Run(t.TempDir()+"/missing", func(Result) {}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Run in a missing directory = %v; want ErrNotExist", err)
	}
}

// FuzzCells reads any table.
func FuzzCells(f *testing.F) {
	f.Add("a b\nx - EPERM\ny . -\n")
	f.Add("a b\nx -")
	f.Fuzz(func(t *testing.T, table string) {
		for _, c := range cells(table) {
			if c.row == "" || c.column == "" || c.want == "" || c.want == "-" || c.want == "." {
				t.Errorf("cell %q", c)
			}
		}
	})
}

// FuzzEntries reads any bytes as directory entries.
func FuzzEntries(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x18\x00\x08name\x00"))
	f.Add([]byte{16: 19, 18: 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		size := 0
		for _, x := range parseEntries(b) {
			size += 19 + len(x.name)
		}
		if size > len(b) {
			t.Errorf("%d bytes of entries in %d bytes", size, len(b))
		}
	})
}
