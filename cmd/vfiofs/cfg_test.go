package main

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// texts returns settings as arguments.
func texts(settings []setting) []string {
	list := []string{}
	for _, s := range settings {
		list = append(list, s.arg())
	}
	return list
}

// TestH231Cfg has each key, and each thing that can be wrong with it.
func TestH231Cfg(t *testing.T) {
	for _, test := range []struct {
		cfg  string
		want []string
		err  string
	}{
		{"", []string{}, ""},
		{"timeout=5", []string{"--timeout=5s"}, ""},
		{"timeout=18446744073709551615", []string{"--timeout=9223372036s"}, ""},
		{"negative_timeout=1:timeout=0", []string{"--negative-timeout=1s", "--timeout=0s"}, ""},
		{"cache=ALWAYS", []string{"--cache=always"}, ""},
		{"cache_policy=Never", []string{"--cache=never"}, ""},
		{"cache=auto:cache=never", []string{"--cache=never"}, ""},
		{"writeback=true,ascii_casefold=true", []string{"--writeback=true", "--ascii-casefold=true"}, ""},
		{"writeback,timeout=1", []string{"--writeback=true", "--timeout=1s"}, ""},
		{"rewrite-security-xattrs=true", []string{"--rewrite-security-xattrs=true"}, ""},
		{"rewrite_security_xattrs=false", []string{"--rewrite-security-xattrs=false"}, ""},
		{"posix_acl=true:security_ctx=true", []string{"--posix-acl=auto", "--security-label=auto"}, ""},
		{"posix_acl=false:security_ctx=false", []string{"--posix-acl=false", "--security-label=false"}, ""},
		{"dax=false:use_dax=false:unmap_guest_memory_on_fork=true:max_dynamic_perm=0:max_dynamic_xattr=0:privileged_quota_uids=:ugid_map=", []string{}, ""},

		{"timeout", nil, "`cfg` options must be of the form `kind=value`: \"timeout\""},
		{"timeout=1:", nil, "must be of the form `kind=value`"},
		{"timeout=1,", nil, "must be of the form `kind=value`"},
		{"foo=1", nil, `unrecognized option for virtio-fs config: "foo"`},
		{"timeout=x", nil, "`timeout` must be an integer"},
		{"timeout=-1", nil, "`timeout` must be an integer"},
		{"negative_timeout=1s", nil, "`negative_timeout` must be an integer"},
		{"cache=sometimes", nil, "`cache` must be one of `never`, `always`, or `auto`"},
		{"cache=metadata", nil, "`cache` must be one of"},
		{"writeback=1", nil, "`writeback` must be a boolean"},
		{"ascii_casefold=TRUE", nil, "`ascii_casefold` must be a boolean"},
		{"posix_acl=", nil, "`posix_acl` must be a boolean"},
		{"dax=true", nil, "`dax`: DAX is not supported"},
		{"use_dax=true", nil, "`use_dax`: DAX is not supported"},
		{"dax=maybe", nil, "`dax` must be a boolean"},
		{"max_dynamic_perm=1", nil, "`max_dynamic_perm` is \"1\": only 0 is supported"},
		{"max_dynamic_xattr=x", nil, "only 0 is supported"},
		{"privileged_quota_uids=0 1", nil, "`privileged_quota_uids` is not supported"},
		{"ugid_map=1 2 3 4 5 /a", nil, "`ugid_map` is not supported: use --translate-uid"},
	} {
		got, err := parseCfg(test.cfg)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("parseCfg(%q) = %v; want %q", test.cfg, err, test.err)
			}
			continue
		}
		if diff := cmp.Diff(test.want, texts(got)); err != nil || diff != "" {
			t.Errorf("parseCfg(%q): %v (-want +got):\n%s", test.cfg, err, diff)
		}
	}
}

// FuzzParseCfg parses what it gets. What comes out must be options that serve takes.
func FuzzParseCfg(f *testing.F) {
	for _, seed := range []string{"", "timeout=5:cache=always", "writeback,posix_acl=false", "timeout=99999999999999999999", "=:=", "cache=never\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, cfg string) {
		settings, err := parseCfg(cfg)
		if err != nil {
			return
		}
		p := newParser(io.Discard, io.Discard)
		if _, err := p.parse(append([]string{"vfiofs", "serve"}, texts(settings)...), nil); err != nil {
			t.Errorf("parseCfg(%q) = %q: %v", cfg, texts(settings), err)
		}
	})
}
