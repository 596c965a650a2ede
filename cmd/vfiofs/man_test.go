package main

import (
	"bytes"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// output runs a command line that must succeed, and returns what it prints.
func output(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), append([]string{"vfiofs"}, args...), &stdout, &stderr); code != exitOK {
		t.Fatalf("vfiofs %q = %d: %s", args, code, &stderr)
	}
	return stdout.String()
}

// pages returns the arguments of "vfiofs man" for all pages.
func pages() []string {
	names := []string{""}
	for _, child := range newParser(io.Discard, io.Discard).Model.Children {
		if hasPage(child) {
			names = append(names, child.Name)
		}
	}
	return names
}

// TestMan sees that each page has all options, and uses nothing of roff but what a page
// needs: text that begins with a dot would be taken for a macro, and be lost.
func TestMan(t *testing.T) {
	macro := regexp.MustCompile(`^\.(TH|SH|SS|TP|PP|B|br|nf|fi)( "[^"]*")*$`)
	escape := regexp.MustCompile(`\\(-|e|&|\(dq|f[BIR])`)
	for _, name := range pages() {
		t.Run("vfiofs"+name, func(t *testing.T) {
			text := output(t, "man", name)
			for line := range strings.Lines(text) {
				line = strings.TrimSuffix(line, "\n")
				if strings.HasPrefix(line, ".") && !macro.MatchString(line) {
					t.Errorf("line %q is no macro of ours", line)
				}
				if rest := escape.ReplaceAllString(line, ""); strings.ContainsAny(rest, `\`) || strings.HasPrefix(line, "'") {
					t.Errorf("line %q has an escape that is none of ours", line)
				}
			}
			app := newParser(io.Discard, io.Discard).Model.Node
			nodes := append([]*kong.Node{app}, app.Children...)
			for _, node := range nodes {
				if node != app && node.Name != name || node == app && name != "" {
					continue
				}
				for _, flag := range options(node) {
					if !strings.Contains(text, `\fB\-\-`+roff(flag.Name)+`\fR`) {
						t.Errorf("--%s is missing", flag.Name)
					}
				}
			}
			if man, err := exec.LookPath("groff"); err == nil {
				cmd := exec.Command(man, "-man", "-Tascii", "-z", "-ww")
				cmd.Stdin = strings.NewReader(text)
				if out, err := cmd.CombinedOutput(); err != nil || bytes.Contains(out, []byte("warning: macro")) {
					t.Errorf("groff: %v\n%s", err, out)
				}
			}
		})
	}
}

func TestManUnknown(t *testing.T) {
	var stderr bytes.Buffer
	if code := run(t.Context(), []string{"vfiofs", "man", "nothing"}, io.Discard, &stderr); code == exitOK || !strings.Contains(stderr.String(), `no command "nothing"`) {
		t.Errorf("man nothing = %d, %q; want a failure that names it", code, &stderr)
	}
}

func TestRoff(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{`a-b\c`, `a\-b\ec`},
		{".start", `\&.start`},
		{"'start", `\&'start`},
	} {
		if got := roff(test.text); got != test.want {
			t.Errorf("roff(%q) = %q; want %q", test.text, got, test.want)
		}
	}
}
