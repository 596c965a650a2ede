package main

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/passthrough"
)

// TestModernize has spellings of others, and what they become.
func TestModernize(t *testing.T) {
	for _, test := range []struct {
		args, want []string
		notes      int
		err        string
	}{
		{args: []string{"--tag", "t"}, want: []string{"--tag", "t"}},
		{args: []string{"device", "fs", "--tag", "t", "--disable-sandbox"}, want: []string{"serve", "--tag", "t", "--sandbox=none"}},
		{args: []string{"-d", "-f"}, want: []string{"--log-level=debug"}, notes: 2},
		{args: []string{"-o", "xattr,source=/x"}, want: []string{"--xattr", "--shared-dir=/x"}, notes: 2},
		{args: []string{"-osource=/x", "-o", "no_xattr"}, want: []string{"--shared-dir=/x", "--no-xattr"}, notes: 2},
		{args: []string{"--inode-file-handles=fallback"}, want: []string{"--inode-file-handles=prefer"}, notes: 1},
		{args: []string{"--", "-d", "-o"}, want: []string{"--", "-d", "-o"}},
		{args: []string{"mount", "-o", "ro"}, want: []string{"mount", "-o", "ro"}},
		{args: []string{"device", "block"}, want: []string{"device", "block"}},
		{args: []string{"-o"}, err: "`-o` needs a list"},
		{args: []string{"--inode-file-handles", "never"}, err: "`--inode-file-handles` needs its value after an equals sign"},
		{args: []string{"--migration-mode=find-paths"}, err: "`--migration-mode`: live migration of the device's state is not supported"},
		{args: []string{"--migration-on-error", "abort"}, err: "live migration"},
		{args: []string{"--migration-verify-handles"}, err: "live migration"},
		{args: []string{"--migration-confirm-paths"}, err: "live migration"},
		{args: []string{"device", "fs", "--allowlist-socket-path", "/s"}, err: "bind mounts"},
		{args: []string{"device", "fs", "--skip-pivot-root"}, err: "--sandbox none"},
	} {
		got, notes, err := modernize(test.args)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("modernize(%q) = %v; want %q", test.args, err, test.err)
			}
			continue
		}
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" || len(notes) != test.notes {
			t.Errorf("modernize(%q): %v, notes %q, want %d (-want +got):\n%s", test.args, err, notes, test.notes, diff)
		}
	}
}

// TestH242Legacy has every token of -o. What each becomes is an option that there is.
func TestH242Legacy(t *testing.T) {
	for option, want := range map[string]string{
		"source=/x=y":        "--shared-dir=/x=y",
		"cache=auto":         "--cache=auto",
		"cache=always":       "--cache=always",
		"cache=none":         "--cache=none",
		"cache=metadata":     "--cache=metadata",
		"loglevel=debug":     "--log-level=debug",
		"loglevel=info":      "--log-level=info",
		"loglevel=warn":      "--log-level=warn",
		"loglevel=err":       "--log-level=error",
		"sandbox=namespace":  "--sandbox=namespace",
		"sandbox=chroot":     "--sandbox=chroot",
		"modcaps=+sys_admin": "--modcaps=+sys_admin",
		"xattrmap=:map::a:":  "--xattrmap=:map::a:",
		"xattr":              "--xattr",
		"no_xattr":           "--no-xattr",
		"readdirplus":        "--readdirplus",
		"no_readdirplus":     "--no-readdirplus",
		"writeback":          "--writeback",
		"no_writeback":       "--no-writeback",
		"announce_submounts": "--announce-submounts",
		"killpriv_v2":        "--killpriv-v2",
		"no_killpriv_v2":     "--no-killpriv-v2",
		"posix_acl":          "--posix-acl",
		"no_posix_acl":       "--no-posix-acl",
		"security_label":     "--security-label",
		"no_security_label":  "--no-security-label",
		"allow_direct_io":    "--allow-direct-io",
		"no_allow_direct_io": "--no-allow-direct-io",
		"no_posix_lock":      "",
		"no_flock":           "",
	} {
		got, err := legacy(option)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("legacy(%q) = %q, %v; want %q", option, got, err, want)
			continue
		}
		if _, err := newParser(io.Discard, io.Discard).parse([]string{"vfiofs", "-o", option}, nil); err != nil {
			t.Errorf("-o %s: %v", option, err)
		}
	}
	for _, option := range []string{"flock", "posix_lock", "", "foo", "source", "xattr=1", "announce-submounts", "loglevel"} {
		_, err := legacy(option)
		if want := "Invalid compat argument '-o " + option + "'"; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("legacy(%q) = %v; want %s", option, err, want)
		}
	}
	if _, err := legacy("flock"); !strings.Contains(err.Error(), ": use --flock.") {
		t.Errorf("legacy(flock) = %v; want that it names --flock", err)
	}
}

// TestH243FileHandles needs its value behind an equals sign, as virtiofsd does.
func TestH243FileHandles(t *testing.T) {
	for text, want := range map[string]passthrough.FileHandles{
		"never": passthrough.HandlesNever, "prefer": passthrough.HandlesPrefer, "fallback": passthrough.HandlesPrefer, "mandatory": passthrough.HandlesMandatory,
	} {
		p := newParser(io.Discard, io.Discard)
		if _, err := p.parse([]string{"vfiofs", "--inode-file-handles=" + text}, nil); err != nil || p.cli.Serve.InodeFileHandles != want {
			t.Errorf("--inode-file-handles=%s is %v, %v; want %v", text, p.cli.Serve.InodeFileHandles, err, want)
		}
	}
	for _, args := range [][]string{{"--inode-file-handles", "never"}, {"--inode-file-handles"}, {"--inode-file-handles="}, {"--inode-file-handles=some"}} {
		if _, err := newParser(io.Discard, io.Discard).parse(append([]string{"vfiofs"}, args...), nil); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

// FuzzModernize gets arguments, by line.
func FuzzModernize(f *testing.F) {
	for _, seed := range []string{"-o\nxattr,source=/x", "device\nfs\n-d", "-o", "--\n-o", "-oo=", "--inode-file-handles", "-o\n,"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Split(text, "\n")
		modern, _, err := modernize(slices.Clone(args))
		if err != nil {
			return
		}
		again, _, err := modernize(slices.Clone(modern))
		if diff := cmp.Diff(modern, again); err != nil || diff != "" {
			t.Errorf("modernize(%q) = %q, which is not modern: %v\n%s", args, modern, err, diff)
		}
	})
}

// TestH241Capabilities needs no other option, and takes any.
func TestH241Capabilities(t *testing.T) {
	for _, args := range [][]string{{"--print-capabilities"}, {"--fd=99", "--print-capabilities", "--shared-dir", "/nonexistent"}} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), append([]string{"virtiofsd"}, args...), &stdout, &stderr); code != exitOK || stderr.Len() != 0 {
			t.Errorf("exit code is %d, stderr %q; want 0 and nothing", code, &stderr)
		}
		var got struct {
			Type     string
			Features []string
		}
		if err := json.Unmarshal(stdout.Bytes(), &got); err != nil || got.Type != "fs" || !slices.Contains(got.Features, "separate-options") || slices.Contains(got.Features, "migrate-precopy") {
			t.Errorf("capabilities = %s, %v; want type fs, separate options and no migration", &stdout, err)
		}
	}
}
