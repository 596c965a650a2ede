package main

import (
	"fmt"
	"io"
	"strings"
)

// printCapabilities prints what libvirt and Incus ask for before they choose their options
// (fs-device.md G.1.1).
func printCapabilities(stdout io.Writer) error {
	_, err := io.WriteString(stdout, `{
  "type": "fs",
  "features": [
    "separate-options",
    "posix-acl-negotiation-mode"
  ]
}
`)
	return err
}

// refused are options of virtiofsd and crosvm that are not supported, and what to do
// instead. It is a table.
func refused(name string) string {
	const migration = "live migration of the device's state is not supported: unmount in the guest, migrate, and mount again, or leave it out"
	return map[string]string{
		"migration-mode":           migration,
		"migration-on-error":       migration,
		"migration-verify-handles": migration,
		"migration-confirm-paths":  migration,
		"allowlist-socket-path":    "lists of allowed paths are not supported: share a directory that holds bind mounts of them",
		"skip-pivot-root":          "the root directory is part of the confinement: use --sandbox none to have none, or --sandbox chroot",
	}[name]
}

// modernize translates old and foreign spellings among the arguments into options of
// ours: virtiofsd's -o, -d and -f (fs-device.md G.1.4), crosvm's "device fs". The notes are for
// the log.
func modernize(args []string) (modern, notes []string, err error) {
	if len(args) >= 2 && args[0] == "device" && args[1] == "fs" {
		args = append([]string{"serve"}, args[2:]...)
	}
	if len(args) > 0 && args[0] != "serve" && !strings.HasPrefix(args[0], "-") {
		return args, nil, nil // another command
	}
	note := func(old, use string) { notes = append(notes, old+" is deprecated: use "+use) }
	for i := 0; i < len(args); i++ {
		name, _, hasValue := strings.Cut(args[i], "=")
		long, isLong := strings.CutPrefix(name, "--")
		switch reason := refused(long); {
		case args[i] == "--":
			return append(modern, args[i:]...), notes, nil
		case isLong && reason != "":
			return nil, nil, usage("`%s`: %s", name, reason)
		case name == "--inode-file-handles" && !hasValue:
			return nil, nil, usage("`--inode-file-handles` needs its value after an equals sign: write --inode-file-handles=prefer")
		case args[i] == "--inode-file-handles=fallback":
			note("fallback", "--inode-file-handles=prefer")
			modern = append(modern, "--inode-file-handles=prefer")
		case args[i] == "--disable-sandbox":
			modern = append(modern, "--sandbox=none")
		case args[i] == "-d":
			note("-d", "--log-level debug")
			modern = append(modern, "--log-level=debug")
		case args[i] == "-f":
			note("-f", "nothing: the process always stays in the foreground")
		case args[i] == "-o" && i+1 == len(args):
			return nil, nil, usage("`-o` needs a list, for example -o source=/srv/home,cache=auto; better: --shared-dir /srv/home")
		case strings.HasPrefix(args[i], "-o"):
			list := args[i][2:]
			if list == "" {
				i++
				list = args[i]
			}
			for option := range strings.SplitSeq(list, ",") {
				flags, err := legacy(option)
				if err != nil {
					return nil, nil, err
				}
				note("-o "+option, strings.Join(flags, " "))
				modern = append(modern, flags...)
			}
		default:
			modern = append(modern, args[i])
		}
	}
	return modern, notes, nil
}

// legacy translates one element of -o. Some mean nothing any more.
func legacy(option string) ([]string, error) {
	name, value, hasValue := strings.Cut(option, "=")
	if hasValue {
		switch name {
		case "source":
			return []string{"--shared-dir=" + value}, nil
		case "loglevel":
			if value == "err" {
				value = "error"
			}
			return []string{"--log-level=" + value}, nil
		case "cache", "sandbox", "modcaps", "xattrmap":
			return []string{"--" + option}, nil
		}
	}
	switch option {
	case "no_posix_lock", "no_flock":
		return nil, nil
	case "announce_submounts",
		"xattr", "no_xattr",
		"readdirplus", "no_readdirplus",
		"writeback", "no_writeback",
		"killpriv_v2", "no_killpriv_v2",
		"posix_acl", "no_posix_acl",
		"security_label", "no_security_label",
		"allow_direct_io", "no_allow_direct_io":
		return []string{"--" + strings.ReplaceAll(option, "_", "-")}, nil
	}
	help := "see --help-all"
	switch option {
	case "flock", "posix_lock":
		help = fmt.Sprintf("use --%s", strings.ReplaceAll(option, "_", "-"))
	}
	return nil, usage("Invalid compat argument '-o %s': %s. Use --shared-dir DIR for source, --cache, --log-level, --sandbox, --modcaps, --xattrmap, --xattr, --writeback, --posix-acl and so on for the others", option, help)
}
