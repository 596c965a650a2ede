package posix

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/fuse/devfuse/mounttest"
)

var update = flag.Bool("update", false, "write docs/posix.md as it is measured")

// docs is the page that holds the table of differences.
const docs = "../../docs/posix.md"

// deadly are cases that virtiofsd 1.13.2 doesn't survive: its worker panics, and whoever
// uses the mount waits for good (src/passthrough/mod.rs: from_utf8(...).unwrap()). They
// count as differences.
var deadly = []string{"xattr/set/not-utf8"}

// TestMount runs the suite on a local directory, and on the same file system through
// virtiofsd and through vfiofs, both with all that they can. We may differ from the
// local file system only where virtiofsd does, and in fewer places; the places are the
// table in docs/posix.md.
func TestMount(t *testing.T) {
	ours := mounttest.Vfiofs(t, "--xattr", "--posix-acl", "--allow-direct-io", "--posix-lock", "--flock", "--killpriv-v2", "--sandbox=none")
	// CAP_SYS_ADMIN is for trusted.* attributes, which virtiofsd has no right to by itself.
	theirs := mounttest.Virtiofsd(t, "--xattr", "--posix-acl", "--announce-submounts", "--allow-direct-io", "--killpriv-v2", "--modcaps=+sys_admin")
	runs := together(t,
		suite{"local", all(), t.TempDir()},
		suite{"vfiofs", all(), mounttest.Mount(t, ours, t.TempDir()).Dir},
		suite{"virtiofsd", without(all(), deadly...), mounttest.Mount(t, theirs, t.TempDir()).Dir},
	)
	local := runs[0]
	vfiofs, virtiofsd := diff(local, runs[1]), diff(local, runs[2])
	t.Logf("of %d assertions vfiofs differs in %d and virtiofsd in %d", len(local), len(vfiofs), len(virtiofsd))

	for name, d := range vfiofs {
		if _, ok := virtiofsd[name]; !ok {
			t.Errorf("%s = %s; want %s, as locally and with virtiofsd", name, d.got, d.local)
		}
	}
	if len(vfiofs) >= len(virtiofsd) {
		t.Errorf("vfiofs differs in %d places; want fewer than virtiofsd's %d", len(vfiofs), len(virtiofsd))
	}
	measured := table(local, vfiofs, virtiofsd)
	old, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	head, committed, ok := strings.Cut(string(old), marker)
	if !ok {
		t.Fatalf("%s has no line %q, after which the table stands", docs, marker)
	}
	if *update {
		if err := os.WriteFile(docs, []byte(head+marker+measured), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(places(committed), places(measured)); d != "" {
		t.Errorf("the table in %s is not what was measured (go test -update): -docs +measured\n%s", docs, d)
	}
}

// places returns the names in a table and who differs there; what exactly is answered
// may be the host file system's business.
func places(table string) (list []string) {
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, " | "); len(cells) == 4 {
			ours, theirs := cells[2] != "=", !strings.HasPrefix(cells[3], "= ")
			list = append(list, fmt.Sprintf("%s vfiofs differs: %v, virtiofsd: %v", cells[0], ours, theirs))
		}
	}
	return list
}

// marker is the line after which docs/posix.md is generated.
const marker = "<!-- written by go test ./internal/posix -update -->\n"

// A difference is what a mount answers where a local directory answers otherwise.
type difference struct{ local, got string }

// diff returns where results differ from those of a local directory. An assertion that
// was not reached differs too.
func diff(local, mount []Result) map[string]difference {
	got := map[string]string{}
	for _, r := range mount {
		got[r.Name] = r.Got
	}
	d := map[string]difference{}
	for _, r := range local {
		if g, ok := got[r.Name]; !ok {
			d[r.Name] = difference{r.Got, "not reached"}
		} else if g != r.Got {
			d[r.Name] = difference{r.Got, g}
		}
	}
	return d
}

// table prints differences in Markdown, in the order of the suite.
func table(local []Result, vfiofs, virtiofsd map[string]difference) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%d assertions; vfiofs differs in %d, virtiofsd in %d.\n", len(local), len(vfiofs), len(virtiofsd))
	b.WriteString("\n| assertion | local | vfiofs | virtiofsd |\n|---|---|---|---|\n")
	for _, r := range local {
		we, differ := vfiofs[r.Name]
		they, too := virtiofsd[r.Name]
		if !differ && !too {
			continue
		}
		cell := func(d difference, differs bool) string {
			if !differs {
				return "="
			}
			return strings.ReplaceAll(d.got, "|", "\\|")
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.Name, r.Got, cell(we, differ), cell(they, too))
	}
	return b.String()
}
