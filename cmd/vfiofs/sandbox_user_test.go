package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/internal/fsclient"
)

// shareAsUser has the made-up user 4711 serve $1/share at $1/s: only in a mount namespace
// of its own does the user exist, and borrow ids.
const shareAsUser = `set -e
for file in passwd subuid subgid; do mount --bind "$1/$file" "/etc/$file"; done
dir=$1; shift
unset GOCOVERDIR # the user can't write there
exec setpriv --reuid 4711 --regid 4711 --clear-groups -- "$dir/vfiofs" --socket "$dir/s" --tag t --shared-dir "$dir/share" "$@"`

// TestSandboxUser has an ordinary user share a directory with the ids of /etc/subuid and
// /etc/subgid, by means of the system's own newuidmap and newgidmap. Owners are right on
// both sides: guest root is the user, other guest users are borrowed ids.
func TestSandboxUser(t *testing.T) {
	needSubids(t)
	dir := publicDir(t)
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(program(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"passwd": string(passwd) + "vfiofs-user:x:4711:4711::/:/bin/false\n",
		"subuid": "vfiofs-user:200000:65536\n",
		"subgid": "vfiofs-user:300000:65536\n",
		"vfiofs": string(binary),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	share := filepath.Join(dir, "share")
	if err := errors.Join(os.Mkdir(share, 0o755), os.Chown(dir, 4711, 4711), os.Chown(share, 4711, 4711)); err != nil {
		t.Fatal(err)
	}

	launcher, report := jailed(t, "unshare", "--mount", "sh", "-c", shareAsUser, "sh", dir)
	const ids = "uid 0 of (0 4711 1, 1 200000 65536), gid 0 of (0 4711 1, 1 300000 65536)"
	if report["ids"] != ids {
		t.Errorf("ids of the server: %s; want %s", report["ids"], ids)
	}
	guest := dialGuest(t, filepath.Join(dir, "s"))

	for _, test := range []struct{ guest, uid, gid uint32 }{
		{0, 4711, 4711},
		{1000, 200999, 300999},
		{65536, 265535, 365535},
	} {
		name := fmt.Sprint(test.guest)
		guest.Caller.UID, guest.Caller.GID = test.guest, test.guest
		made, err := guest.Create(fuse.RootID, name, unix.O_RDWR, unix.S_IFREG|0o640)
		if err != nil {
			t.Errorf("guest user %s creates a file: %v", name, err)
			continue
		}
		if a := made.Entry.Attr; a.UID != test.guest || a.GID != test.guest {
			t.Errorf("file of guest user %s: the guest sees owner %d:%d", name, a.UID, a.GID)
		}
		wantOwner(t, filepath.Join(share, name), test.uid, test.gid)
	}

	// Guest root gives files away, and sees what the host has.
	guest.Caller.UID, guest.Caller.GID = 0, 0
	entry, err := guest.Lookup(fuse.RootID, "0")
	if err == nil {
		_, err = guest.SetAttr(entry.Node, fuse.SetAttrIn{Valid: fuse.SetAttrUID | fuse.SetAttrGID, UID: 5, GID: 6})
	}
	if err != nil {
		t.Errorf("guest root gives a file away: %v", err)
	}
	wantOwner(t, filepath.Join(share, "0"), 200004, 300005)
	for name, owner := range map[string][2]int{"lent": {200011, 300021}, "root's": {0, 0}} {
		path := filepath.Join(share, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o644), os.Chown(path, owner[0], owner[1])); err != nil {
			t.Fatal(err)
		}
	}
	for name, owner := range map[string][2]uint32{"lent": {12, 22}, "root's": {65534, 65534}} {
		entry, err := guest.Lookup(fuse.RootID, name)
		if a := entry.Attr; err != nil || [2]uint32{a.UID, a.GID} != owner {
			t.Errorf("guest sees owner %d:%d of file %q, %v; want %d", a.UID, a.GID, name, err, owner)
		}
	}
	stop(t, launcher)
}

// needSubids ends a test where ids can't be lent.
func needSubids(t *testing.T) {
	t.Helper()
	lacks := ""
	for _, name := range []string{"newuidmap", "newgidmap", "setpriv", "unshare"} {
		if _, err := exec.LookPath(name); err != nil {
			lacks = "needs packages uidmap and util-linux: " + err.Error()
		}
	}
	if os.Geteuid() != 0 {
		lacks = "needs root, to make a user"
	}
	if lacks == "" {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(lacks)
	}
	t.Skip(lacks)
}

// publicDir makes a directory that every user may enter, with a name short enough for sockets.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vfiofs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// dialGuest connects to a server as the kernel of a guest does.
func dialGuest(t *testing.T, socket string) *fusetest.Client {
	t.Helper()
	driver, err := fsclient.Dial(t.Context(), socket, fsclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { driver.Close() })
	ring, slot := driver.Ring(1), driver.Slots()[0]
	guest := fusetest.NewClient(func(in []byte, out int) ([]byte, error) {
		if !ring.Submit(slot, copy(slot.In, in), out) {
			return nil, errors.New("the ring is full")
		}
		if err := ring.Publish(); err != nil {
			return nil, err
		}
		if err := ring.Wait(10 * time.Second); err != nil {
			return nil, err
		}
		_, n, ok := ring.Reap()
		if !ok {
			return nil, fmt.Errorf("no reply (ring: %w)", ring.Err())
		}
		return append([]byte(nil), slot.Out[:n]...), nil
	})
	if _, err := guest.Init(fusetest.AllFlags); err != nil {
		t.Fatal(err)
	}
	return guest
}

// wantOwner checks who has a file of the host.
func wantOwner(t *testing.T, path string, uid, gid uint32) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Uid != uid || st.Gid != gid {
		t.Errorf("on the host, %s has owner %d:%d, %v; want %d:%d", filepath.Base(path), st.Uid, st.Gid, err, uid, gid)
	}
}
