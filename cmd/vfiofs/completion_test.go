package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestCompletionBash asks bash itself, which is there wherever our scripts run.
func TestCompletionBash(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "vfiofs.bash")
	if err := os.WriteFile(script, []byte(output(t, "completion", "bash")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "some dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	const ask = `
		source "$1"; shift
		compopt() { :; } # bash knows it in completions only
		COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
		_vfiofs
		printf '%s\n' "${COMPREPLY[@]}"`
	for _, test := range []struct {
		line []string // "=" is a word of its own for bash
		want string
	}{
		{[]string{"vfiofs", "pro"}, "proxy"},
		{[]string{"vfiofs", "--sandb"}, "--sandbox"},
		{[]string{"vfiofs", "--sandbox", "n"}, "namespace none"},
		{[]string{"vfiofs", "--sandbox", "="}, "namespace chroot none"},
		{[]string{"vfiofs", "--sandbox", "=", "c"}, "chroot"},
		{[]string{"vfiofs", "serve", "--cache", "a"}, "auto always"},
		{[]string{"vfiofs", "--no-x"}, "--no-xattr"},
		{[]string{"vfiofs", "--shared-dir", "so"}, "some dir"},
		{[]string{"vfiofs", "proxy", "--mem-p"}, "--mem-path"},
		{[]string{"vfiofs", "vfio", "b"}, "bind"},
		{[]string{"vfiofs", "vfio", "list", "--js"}, "--json"},
		{[]string{"vfiofs", "completion", ""}, "bash zsh fish"},
		{[]string{"vfiofs", "mount", "so"}, "some dir"},
		{[]string{"vfiofs", "--tag", "x"}, ""},
	} {
		cmd := exec.Command("bash", append([]string{"-uc", ask, "bash", script}, test.line...)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if got := strings.Join(strings.Split(strings.TrimSpace(string(out)), "\n"), " "); err != nil || got != test.want {
			t.Errorf("completion of %q = %q, %v; want %q", test.line, got, err, test.want)
		}
	}
}

// TestCompletion sees that every option is there for every shell, and that the quotes of
// help texts don't break what is inside.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		text := output(t, "completion", shell)
		walk(newParser(io.Discard, io.Discard).Model.Node, "", func(node *kong.Node, path string) {
			for _, flag := range options(node) {
				want := map[string]string{"bash": "--", "zsh": "--", "fish": " -l '"}[shell] + flag.Name
				if !strings.Contains(text, want) {
					t.Errorf("%s, command %q: %s is missing", shell, path, want)
				}
			}
		})
		for line := range strings.Lines(text) {
			if strings.Count(line, "'")%2 != 0 {
				t.Errorf("%s: quotes of line %q don't match", shell, line)
			}
		}
	}
}
