package main

import (
	"errors"
	"fmt"
	"os"

	"vfiofs/internal/jail"
)

// checkJail looks at what --sandbox, --seccomp and id maps are made of.
func (d *Doctor) checkJail() []finding {
	root := os.Geteuid() == 0
	f := []finding{d.checkNamespaces(root)}
	f = append(f, result("seccomp", jail.ProbeSeccomp(), "system calls can be filtered",
		"run a kernel with CONFIG_SECCOMP_FILTER, or pass --seccomp none", forSandbox))

	version, err := jail.ProbeLandlock()
	f = append(f, result("Landlock", err, fmt.Sprintf("version %d", version),
		"run Linux 5.19 or newer with landlock in lsm= of its command line; the rest of the jail stands without it"))
	return append(f, checkSubids(root))
}

// checkNamespaces makes what --sandbox namespace makes.
func (d *Doctor) checkNamespaces(root bool) finding {
	const allow = "allow user namespaces: sysctl user.max_user_namespaces=10000, kernel.unprivileged_userns_clone=1, " +
		"kernel.apparmor_restrict_unprivileged_userns=0, as far as they exist, and a container's seccomp profile"
	detail, fix := "root needs no user namespace", "give the container CAP_SYS_ADMIN"
	err := jail.ProbeNamespaces()
	if err != nil {
		err = fmt.Errorf("can't be made: %w", err)
	}
	if !root {
		detail, fix = "ordinary users may have them", allow
		// AppArmor lets us have them, and then takes the capabilities away.
		text, readErr := os.ReadFile(d.path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"))
		if err == nil && readErr == nil && string(text) == "1\n" {
			err = errors.New("AppArmor keeps ordinary users from using them")
		}
	}
	return result("namespaces", err, detail, fix+"; or pass --sandbox none and confine vfiofs from outside", forSandbox)
}

// checkSubids looks at the ids that guests can have beside root's.
func checkSubids(root bool) finding {
	if root {
		return result("id maps", nil, "root has all ids; --uid-map and --gid-map give others", "")
	}
	users, groups, err := jail.ProbeSubids()
	return result("id maps", err, fmt.Sprintf("%d users and %d groups are lent to us", users, groups),
		"install newuidmap and newgidmap (package uidmap) and run usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER; without them all files belong to one user")
}

// checkMount looks at what "vfiofs mount" needs.
func (d *Doctor) checkMount() []finding {
	f, err := os.OpenFile(d.path("/dev/fuse"), os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	return []finding{result("/dev/fuse", err, "can be opened", "modprobe fuse; pass /dev/fuse to a container (--device /dev/fuse)", forMount)}
}
