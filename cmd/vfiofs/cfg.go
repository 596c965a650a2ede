package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cfgDefaults are what --cfg changes by being there: the defaults of crosvm's device,
// as far as they differ (fs-device.md A.6.5, D.5, E.15.2).
func cfgDefaults() []setting {
	const place = "`--cfg`"
	return []setting{
		{"timeout", "5s", place},
		{"xattr", "true", place},
		{"posix-acl", "auto", place},
		{"security-label", "auto", place},
	}
}

// parseCfg reads the value of --cfg: key=value pairs between colons or commas
// (fs-device.md A.4). The last of several equal keys wins. It returns the settings of
// options that the pairs stand for.
func parseCfg(text string) ([]setting, error) {
	if text == "" {
		return nil, nil
	}
	separator := ":"
	if strings.Contains(text, ",") {
		separator = ","
	}
	var settings []setting
	for pair := range strings.SplitSeq(text, separator) {
		key, value, ok := strings.Cut(pair, "=")
		if !ok && separator == "," && key != "" {
			value, ok = "true", true // the comma form lets a bare key be true
		}
		if !ok {
			return nil, usage("`cfg` options must be of the form `kind=value`: %q is not", pair)
		}
		s, err := cfgSetting(key, value)
		if err != nil {
			return nil, err
		}
		if s.name != "" {
			s.place = "`--cfg`"
			settings = slices.DeleteFunc(settings, func(old setting) bool { return old.name == s.name })
			settings = append(settings, s)
		}
	}
	return settings, nil
}

// cfgSetting translates one pair. A setting without a name means that nothing is to be
// done.
func cfgSetting(key, value string) (setting, error) {
	var name string
	switch key {
	case "timeout", "negative_timeout":
		seconds, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return setting{}, usage("`%s` must be an integer: %q is no number of seconds", key, value)
		}
		seconds = min(seconds, math.MaxInt64/uint64(time.Second))
		return setting{name: strings.ReplaceAll(key, "_", "-"), value: fmt.Sprintf("%ds", seconds)}, nil
	case "cache", "cache_policy":
		policy := strings.ToLower(value)
		if policy != "never" && policy != "auto" && policy != "always" {
			return setting{}, usage("`cache` must be one of `never`, `always`, or `auto`: %q is not; --cache has more", value)
		}
		return setting{name: "cache", value: policy}, nil
	case "max_dynamic_perm", "max_dynamic_xattr":
		if value != "0" {
			return setting{}, usage("`%s` is %q: only 0 is supported, dynamic permissions are ChromeOS's own; leave it out", key, value)
		}
		return setting{}, nil
	case "privileged_quota_uids", "ugid_map":
		if value != "" {
			return setting{}, usage("`%s` is not supported: %s", key, map[string]string{
				"privileged_quota_uids": "quotas are set on the host; leave it out",
				"ugid_map":              "use --translate-uid and --translate-gid, or --uid-map and --gid-map",
			}[key])
		}
		return setting{}, nil
	case "posix_acl":
		name = "posix-acl"
	case "security_ctx":
		name = "security-label"
	case "ascii_casefold":
		name = "ascii-casefold"
	case "rewrite-security-xattrs", "rewrite_security_xattrs":
		name = "rewrite-security-xattrs"
	case "writeback":
		name = key
	case "dax", "use_dax", "unmap_guest_memory_on_fork": // nothing in a process that never forks
	default:
		return setting{}, usage("unrecognized option for virtio-fs config: %q", key)
	}
	if value != "true" && value != "false" {
		return setting{}, usage("`%s` must be a boolean: %q is neither true nor false", key, value)
	}
	if value == "true" && strings.HasSuffix(key, "dax") {
		return setting{}, usage("`%s`: DAX is not supported, it has no effect on a vhost-user device; leave it out", key)
	}
	if value == "true" && (name == "posix-acl" || name == "security-label") {
		value = "auto" // crosvm serves guests that lack it (fs-device.md D.5)
	}
	return setting{name: name, value: value}, nil
}
