package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"vfiofs/internal/idmap"
)

// An identity is who the server is in its user namespace. The zero value stands for no
// user namespace.
type identity struct {
	Launcher       int // its pid
	User           bool
	UIDMap, GIDMap idmap.Map
	UID, GID       uint32
}

// identity chooses the maps and the ids inside (fs-device.md A.3.6).
func (p *Plan) identity() (identity, error) {
	id := identity{User: true, UIDMap: p.UIDMap, GIDMap: p.GIDMap}
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	if id.UIDMap == nil && id.GIDMap == nil && uid != 0 {
		id.UIDMap, id.GIDMap, _ = subordinates(uid, gid)
	}
	if id.UIDMap == nil {
		id.UIDMap = ownMap(uid)
	}
	if id.GIDMap == nil {
		id.GIDMap = ownMap(gid)
	}
	var ok bool
	if id.UID, ok = id.UIDMap.Choose(p.UID, uid); !ok {
		return id, unmapped("uid", p.UID)
	}
	if id.GID, ok = id.GIDMap.Choose(p.GID, gid); !ok {
		return id, unmapped("gid", p.GID)
	}
	return id, nil
}

// ownMap is the map of those who can't or need not ask for more: root has all ids, others
// their own.
func ownMap(own uint32) idmap.Map {
	if os.Geteuid() == 0 {
		return idmap.Map{{Inside: 0, Outside: 0, Count: 1<<32 - 1}}
	}
	return idmap.Map{{Inside: own, Outside: own, Count: 1}}
}

// unmapped is the error for a server without an id.
func unmapped(kind string, asked uint32) error {
	if asked != 0 {
		return fmt.Errorf("--%s is %d, which --%s-map does not map: pass an id that is inside, or extend the map", kind, asked, kind)
	}
	return fmt.Errorf("neither id 0 nor the caller is mapped in --%s-map; pass --%s", kind, kind)
}

// subordinates returns maps of the caller's own ids and those that /etc/subuid and
// /etc/subgid lend, or an error if there are none or no programs to map them.
func subordinates(uid, gid uint32) (uids, gids idmap.Map, err error) {
	for _, program := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, nil, err
		}
	}
	names := []string{strconv.FormatUint(uint64(uid), 10)}
	if u, err := user.LookupId(names[0]); err == nil {
		names = append(names, u.Username)
	}
	uids, gids = subordinate("/etc/subuid", names, uid), subordinate("/etc/subgid", names, gid)
	switch name := names[len(names)-1]; {
	case uids == nil:
		return nil, nil, fmt.Errorf("/etc/subuid lends no ids to %s", name)
	case gids == nil:
		return nil, nil, fmt.Errorf("/etc/subgid lends no ids to %s", name)
	}
	return uids, gids, nil
}

// send makes the id maps of process pid, and tells it to go on.
func (id identity) send(pid int, lifeline io.Writer) error {
	if id.User {
		// The order is the kernel's: setgroups is settled by the map of groups.
		if err := writeMap("gid", pid, id.GIDMap, uint32(os.Getegid())); err != nil {
			return err
		}
		if err := writeMap("uid", pid, id.UIDMap, uint32(os.Geteuid())); err != nil {
			return err
		}
	}
	id.Launcher = os.Getpid()
	line, err := json.Marshal(id)
	if err != nil {
		return err
	}
	if _, err := lifeline.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("speak to the server: %w", err)
	}
	return nil
}

// writeMap makes one of the maps of process pid. What the caller may not write is written
// by the programs that /etc/subuid and /etc/subgid belong to.
func writeMap(kind string, pid int, m idmap.Map, own uint32) error {
	root := os.Geteuid() == 0
	if !root && (len(m) != 1 || m[0].Count != 1 || m[0].Outside != own) {
		args := []string{strconv.Itoa(pid)}
		for _, e := range m {
			args = append(args, fmt.Sprint(e.Inside), fmt.Sprint(e.Outside), fmt.Sprint(e.Count))
		}
		out, err := exec.Command("new"+kind+"map", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("new%smap for --%s-map: %w: %s; install it (package uidmap), and see that /etc/sub%s lends these ids to you", kind, kind, err, out, kind)
		}
		return nil
	}
	dir := fmt.Sprintf("/proc/%d/", pid)
	if kind == "gid" && !root {
		if err := os.WriteFile(dir+"setgroups", []byte("deny"), 0); err != nil {
			return fmt.Errorf("give up setgroups for --gid-map: %w", err)
		}
	}
	if err := os.WriteFile(dir+kind+"_map", []byte(m.String()), 0); err != nil {
		hint := ""
		if errors.Is(err, unix.EPERM) {
			hint = "; some of its ids are not ours to give: are we in a container with fewer?"
		}
		return fmt.Errorf("write --%s-map: %w%s", kind, err, hint)
	}
	return nil
}

// assume makes all threads of the server have its ids.
func (id identity) assume() error {
	if !id.User {
		return nil
	}
	if err := fixCaps(); err != nil {
		return err
	}
	if err := syscall.Setresgid(int(id.GID), int(id.GID), int(id.GID)); err != nil {
		return fmt.Errorf("become group %d of --gid-map: %w", id.GID, err)
	}
	if err := syscall.Setresuid(int(id.UID), int(id.UID), int(id.UID)); err != nil {
		return fmt.Errorf("become user %d of --uid-map: %w", id.UID, err)
	}
	return nil
}
