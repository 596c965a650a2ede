package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseFile(t *testing.T) {
	flags := newParser(io.Discard, io.Discard).serveFlags()
	for _, test := range []struct {
		text string
		want []string
		err  string
	}{
		{"", []string{}, ""},
		{"# a comment\n\n\tcache = always \n", []string{"--cache=always"}, ""},
		{"tag=a = b", []string{"--tag=a = b"}, ""},
		{"shared-dir = /srv/caf\xe9\r\nsocket=\n", []string{"--shared-dir=/srv/caf\xe9", "--socket="}, ""},
		{"translate-uid = map:0:1:1\ntranslate-uid = map:1:2:1", []string{"--translate-uid=map:0:1:1", "--translate-uid=map:1:2:1"}, ""},
		{"tag = t\nchache = auto\n", nil, `f:2: there is no option "chache"; did you mean "cache"?`},
		{"xatr = true", nil, `did you mean "xattr"?`},
		{"--cache = auto", nil, `did you mean "cache"?`},
		{"write-back = true", nil, `did you mean "writeback"?`},
		{"\xff\xfe = 1", nil, "f:1: this is no text"},
		{"xattr", nil, `f:1: "xattr" is not of the form name = value; an option without a value is written name = true`},
		{"migration-mode = find-paths", nil, "f:1: migration-mode: live migration"},
		{"config = other", nil, `there is no option "config"`},
		{"cfg = timeout=1", nil, `there is no option "cfg"`},
	} {
		got, err := parseFile("f", []byte(test.text), flags)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("parseFile(%q) = %v; want %q", test.text, err, test.err)
			}
			continue
		}
		if diff := cmp.Diff(test.want, texts(got)); err != nil || diff != "" {
			t.Errorf("parseFile(%q): %v (-want +got):\n%s", test.text, err, diff)
		}
	}
}

// FuzzParseFile parses what it gets. Each setting must be of a line.
func FuzzParseFile(f *testing.F) {
	f.Add([]byte("# comment\ncache = always\n\ntag=x"))
	f.Add([]byte("chache = 1"))
	f.Add([]byte("=\n\x00=\xff"))
	flags := newParser(io.Discard, io.Discard).serveFlags()
	f.Fuzz(func(t *testing.T, text []byte) {
		settings, err := parseFile("f", text, flags)
		if err != nil {
			return
		}
		lines := strings.Split(string(text), "\n")
		if len(settings) > len(lines) {
			t.Errorf("%d settings of %d lines", len(settings), len(lines))
		}
		for _, s := range settings {
			if !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, s.name) && strings.Contains(line, s.value) }) {
				t.Errorf("setting %q is in no line", s.arg())
			}
		}
	})
}

func TestFromFile(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{dir: "not a regular file", large: "not a regular file of at most", filepath.Join(dir, "missing"): "no such file"} {
		if _, err := fromFile(name, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("fromFile(%q) = %v; want %q", name, err, want)
		}
	}
	if got, err := fromFile("", nil); got != nil || err != nil {
		t.Errorf("fromFile of none = %v, %v", got, err)
	}
}

// TestPrecedence has an option at several places. The strongest comes first.
func TestPrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(file, []byte("cache = metadata\ntag = file\nsocket = file\ntranslate-uid = map:0:1:1\ntimeout = 3s\nonce = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"VFIOFS_CACHE=never", "VFIOFS_TAG=env", "VFIOFS_CONFIG=" + file, "VFIOFS_OTHER=1", "VFIOFS_NO_EQUALS", "PATH=/bin", "VFIOFS_ONCE=false"}
	for _, test := range []struct {
		name string
		args []string
		env  []string
		want string // cache, timeout, tag, socket, fd, rules of --translate-uid, once
	}{
		{"defaults", nil, nil, "auto - - \"\" - [] false"},
		{"environment", nil, env[:2], "never - env \"\" - [] false"},
		{"file", []string{"--config", file}, nil, "metadata 3s file \"file\" - [map:0:1:1] true"},
		{"environment over file", nil, env, "never 3s env \"file\" - [map:0:1:1] false"},
		{"another file", []string{"--config="}, env, "never - env \"\" - [] false"},
		{"cfg", []string{"--cfg", "cache=always"}, nil, "always 5s - \"\" - [] false"},
		{"cfg over all but its defaults", []string{"--cfg", "cache=always"}, env, "always 3s env \"file\" - [map:0:1:1] false"},
		{"arguments", []string{"--cache=auto", "--tag=arg", "--translate-uid=map:5:6:1", "--keep"}, env, "auto 3s arg \"file\" - [map:5:6:1] false"},
		{"arguments over cfg's defaults", []string{"--cfg=", "--timeout=1s"}, env, "never 1s env \"file\" - [map:0:1:1] false"},
		{"another socket", []string{"--fd=3"}, env, "never 3s env \"\" 3 [map:0:1:1] false"},
		{"the last of two", []string{"--tag=a", "--tag=b"}, nil, "auto - b \"\" - [] false"},
		{"with the command", []string{"serve", "--tag=a"}, env, "never 3s a \"file\" - [map:0:1:1] false"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newParser(io.Discard, io.Discard)
			if _, err := p.parse(append([]string{"vfiofs"}, test.args...), test.env); err != nil {
				t.Fatal(err)
			}
			if got := summary(&p.cli.Serve); got != test.want {
				t.Errorf("options are %s; want %s", got, test.want)
			}
		})
	}
}

// summary prints the options of TestPrecedence.
func summary(s *Serve) string {
	timeout, tag, number := "-", "-", "-"
	if s.Timeout != nil {
		timeout = s.Timeout.String()
	}
	if s.Tag != nil {
		tag = *s.Tag
	}
	if s.FD != nil {
		number = fmt.Sprint(*s.FD)
	}
	return fmt.Sprintf("%v %s %s %q %s %v %v", s.Cache, timeout, tag, s.Socket, number, s.TranslateUID, s.Once)
}

// TestWrongSettings has mistakes that are reported where they stand.
func TestWrongSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(file, []byte("# mine\ncache = sometimes\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args, env []string
		want      string
	}{
		{[]string{"--config", file}, nil, file + `:2: --cache: unknown cache policy "sometimes"`},
		{nil, []string{"VFIOFS_LOG_LEVEL=loud"}, "environment variable VFIOFS_LOG_LEVEL: --log-level must be one of"},
		{nil, []string{"VFIOFS_XATTR=perhaps"}, "environment variable VFIOFS_XATTR: --xattr"},
		{[]string{"--config", "/nonexistent"}, nil, "cannot read the options in a file: stat /nonexistent: no such file or directory; correct --config"},
		{[]string{"--cfg", "cache=never", "--cache=always"}, nil, "`--cache always` and `--cfg`, which says never, contradict each other"},
		{[]string{"--cfg", "posix_acl=false", "--posix-acl"}, nil, "contradict each other"},
		{[]string{"--cfg", "cache=nie"}, nil, "`cache` must be one of"},
	} {
		p := newParser(io.Discard, io.Discard)
		if _, err := p.parse(append([]string{"vfiofs"}, test.args...), test.env); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("parse(%q, %q) = %v; want %q", test.args, test.env, err, test.want)
		}
	}
	for _, args := range [][]string{{"--cfg", "cache=always:posix_acl=true:timeout=60", "--cache=always", "--posix-acl", "--timeout=1m"}} {
		if _, err := newParser(io.Discard, io.Discard).parse(append([]string{"vfiofs"}, args...), nil); err != nil {
			t.Errorf("parse(%q) = %v; want no contradiction", args, err)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"cache", "cache", 0}, {"chache", "cache", 1}, {"cahce", "cache", 2}, {"tag", "fd", 3}} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d; want %d", test.a, test.b, got, test.want)
		}
	}
}
