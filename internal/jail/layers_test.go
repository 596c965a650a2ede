package jail

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nobody is an ordinary user without any entry in /etc.
const nobody = 65533

// full is the plan of a server with everything on.
func full(mode Mode, root string) Plan {
	return Plan{Mode: mode, Root: root, Caps: FileServer, Landlock: LandlockAuto, Seccomp: SeccompErrno, Calls: Socket}
}

// TestAttempts has servers misbehave: whatever they try fails, with all layers and
// without the filter of system calls.
func TestAttempts(t *testing.T) {
	// Process 1 is the server itself, and it has no parent.
	unfiltered := []string{"fork", "make a socket", "make a jail", "map code", "new user namespace", "io_uring", "keys", "kill the parent", "read other memory"}
	for _, test := range []struct {
		mode    Mode
		uid     uint32
		seccomp Action
		allowed []string // what the other layers can't forbid, and needn't
	}{
		{Namespace, 0, SeccompErrno, nil},
		{Namespace, nobody, SeccompErrno, nil},
		{Chroot, 0, SeccompErrno, nil},
		{Namespace, 0, SeccompNone, unfiltered},
		{Namespace, nobody, SeccompNone, unfiltered},
	} {
		t.Run(fmt.Sprintf("%s, user %d, seccomp %s", test.mode, test.uid, test.seccomp), func(t *testing.T) {
			plan := full(test.mode, share(t, test.uid))
			plan.Seccomp = test.seccomp
			j := start(t, plan, test.uid)
			for _, name := range slices.Sorted(maps.Keys(attempts)) {
				if slices.Contains(test.allowed, name) {
					continue
				}
				allowed := strings.HasPrefix(name, "share")
				if got := j.attempt(name); (got == "") != allowed {
					t.Errorf("%s: error %q; want success %v", name, got, allowed)
				}
			}
			if _, err := os.Stat(filepath.Join(plan.Root, "moved")); err != nil {
				t.Errorf("the file that the server made: %v", err)
			}
		})
	}
}

// TestSeccompOnly has a server without any other layer.
func TestSeccompOnly(t *testing.T) {
	j := start(t, Plan{Mode: None, Seccomp: SeccompErrno, Calls: Socket}, 0)
	for _, name := range []string{"run a program", "fork", "make a socket", "connect by TCP", "trace the parent", "mount", "make a jail", "map code", "new user namespace"} {
		if got := j.attempt(name); got != unix.EPERM.Error() {
			t.Errorf("%s: error %q; want %v", name, got, unix.EPERM)
		}
	}
	if got := j.attempt("read /etc/passwd"); got != "" {
		t.Errorf("read /etc/passwd: %v; want it to work with --sandbox none", got)
	}
}

// TestLandlockOnly has it confine a server that sees the whole host.
func TestLandlockOnly(t *testing.T) {
	dir := share(t, 0)
	plan := Plan{Mode: None, Root: dir, Landlock: LandlockRequire, Removes: []string{filepath.Dir(dir)}}
	j := start(t, plan, 0)
	for _, name := range []string{"read /etc/passwd", "write to /tmp", "run a program", "mount"} {
		if got := j.attempt(name); got == "" {
			t.Errorf("%s: works; want it refused", name)
		}
	}
}

// TestActions has what --seccomp says about calls that are not allowed.
func TestActions(t *testing.T) {
	for _, test := range []struct {
		action Action
		want   string
	}{
		{SeccompErrno, "operation not permitted"},
		{SeccompKill, "dead: signal: bad system call"},
		{SeccompTrap, "dead: exit status 2"},
		{SeccompLog, ""},
		{SeccompNone, ""},
	} {
		j := start(t, Plan{Mode: None, Seccomp: test.action, Calls: Socket}, 0)
		if got := j.attempt("make a socket"); !strings.HasPrefix(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("--seccomp %s: error %q; want %q", test.action, got, test.want)
		}
	}
}

// TestThreadsH235 looks at the server from the outside: what is in force is so on every
// thread, and the report tells the truth.
func TestThreadsH235(t *testing.T) {
	for _, test := range []struct {
		mode Mode
		uid  uint32
	}{{Namespace, 0}, {Namespace, nobody}, {Chroot, 0}} {
		t.Run(fmt.Sprintf("%s, user %d", test.mode, test.uid), func(t *testing.T) {
			dir := share(t, test.uid)
			j := start(t, full(test.mode, dir), test.uid)
			if got := j.attempt("share 4: new threads"); got != "" {
				t.Fatal(got)
			}
			caps := fmt.Sprintf("%016x", uint64(FileServer))
			threads := j.status()
			for _, s := range threads {
				for name, want := range map[string]string{
					"CapEff": caps, "CapPrm": caps, "CapBnd": caps, "CapInh": "0000000000000000", "CapAmb": "0000000000000000",
					"NoNewPrivs": "1", "Seccomp": "2",
				} {
					if s[name] != want {
						t.Errorf("thread %s of %d: %s is %s; want %s", s["Pid"], len(threads), name, s[name], want)
					}
				}
			}
			if got := j.report["capabilities"]; got != FileServer.String() {
				t.Errorf("report: capabilities %q; want %q", got, FileServer)
			}
			j.checkNamespaces(test.mode, test.uid != 0)
			if root := j.root(); !sameFile(t, root, dir) {
				t.Errorf("root directory of the server is not the share")
			}
			if got := j.limit("Max core file size"); got != "0 0 bytes" {
				t.Errorf("limit of core files: %q; want 0", got)
			}
		})
	}
}

// checkNamespaces compares the server's namespaces with ours.
func (j *jailed) checkNamespaces(mode Mode, user bool) {
	j.t.Helper()
	for _, name := range []string{"user", "pid", "mnt", "net", "ipc", "uts"} {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", j.server, name))
		if err != nil {
			j.t.Fatal(err)
		}
		ours, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			j.t.Fatal(err)
		}
		if want := mode == Namespace && (name != "user" || user); (theirs != ours) != want {
			j.t.Errorf("namespace %s: own %v; want %v", name, theirs != ours, want)
		}
	}
}

// root is a path to the server's root directory.
func (j *jailed) root() string { return fmt.Sprintf("/proc/%d/root/.", j.server) }

// limit returns a line of the server's limits.
func (j *jailed) limit(name string) string {
	j.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", j.server))
	if err != nil {
		j.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.Join(strings.Fields(rest), " ")
		}
	}
	return ""
}

// sameFile compares what two paths lead to.
func sameFile(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := os.Stat(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.Stat(b)
	if err != nil {
		t.Fatal(err)
	}
	return os.SameFile(x, y)
}

// TestEmptyRoot has a server without any files, as the proxy is.
func TestEmptyRoot(t *testing.T) {
	j := start(t, Plan{Mode: Namespace, Landlock: LandlockAuto, Seccomp: SeccompErrno, Calls: Proxy}, 0)
	if entries, err := os.ReadDir(j.root()); err != nil || len(entries) != 0 {
		t.Errorf("root directory: %v, %v; want it empty", entries, err)
	}
	for _, name := range []string{"share 1: make a file", "read /etc/passwd", "make a socket"} {
		if got := j.attempt(name); got == "" {
			t.Errorf("%s: works; want it refused", name)
		}
	}
	if got := j.report["capabilities"]; got != "none" {
		t.Errorf("capabilities %q; want none", got)
	}
}

// TestMountsH236 mounts on the host below the share of a running server, which sees it.
func TestMountsH236(t *testing.T) {
	dir := share(t, 0)
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	// A tree whose mounts spread, as it is on hosts with systemd.
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	j := start(t, full(Namespace, dir), 0)
	if err := unix.Mount("none", filepath.Join(dir, "sub"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sub", "late"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(j.root(), "sub/late")); err != nil {
		t.Errorf("a file system mounted on the host later: %v", err)
	}
}

// TestDeathH234 ends one of the two processes, and the other follows.
func TestDeathH234(t *testing.T) {
	t.Run("server killed", func(t *testing.T) {
		j := start(t, full(Namespace, share(t, 0)), 0)
		if err := unix.Kill(j.server, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := j.cmd.Wait(); j.cmd.ProcessState.ExitCode() != 128+int(unix.SIGKILL) {
			t.Errorf("launcher: %v; want exit code 137", err)
		}
	})
	t.Run("server ends", func(t *testing.T) {
		j := start(t, full(Namespace, share(t, 0)), 0)
		j.in.Close()
		if err := j.cmd.Wait(); err != nil {
			t.Errorf("launcher: %v; want exit code 0", err)
		}
	})
	for _, uid := range []uint32{0, nobody} {
		t.Run(fmt.Sprintf("launcher killed, user %d", uid), func(t *testing.T) {
			j := start(t, full(Namespace, share(t, uid)), uid)
			server, err := unix.PidfdOpen(j.server, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(server)
			if err := j.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			dead := []unix.PollFd{{Fd: int32(server), Events: unix.POLLIN}}
			for begin := time.Now(); dead[0].Revents == 0; {
				if time.Since(begin) > time.Second {
					t.Fatal("the server lives on without its launcher")
				}
				if _, err := unix.Poll(dead, 1000); err != nil && err != unix.EINTR {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestRefused has plans that can't be had: they fail, and say what to do.
func TestRefused(t *testing.T) {
	dir := share(t, nobody)
	for _, test := range []struct {
		name string
		plan Plan
		uid  uint32
		want string
	}{
		{"chroot as a user H237", Plan{Mode: Chroot, Root: dir}, nobody, "`--sandbox chroot` needs root"},
		{"maps without namespace", Plan{Mode: None, UID: 5}, 0, "need a user namespace"},
		{"own id unmapped", Plan{Mode: Namespace, Root: dir, UIDMap: mustParse(t, "5 100000 1")}, nobody, "neither id 0 nor the caller is mapped in --uid-map; pass --uid"},
		{"asked id unmapped", Plan{Mode: Namespace, Root: dir, GID: 7}, nobody, "--gid is 7, which --gid-map does not map"},
		{"no newuidmap", Plan{Mode: Namespace, Root: dir, UIDMap: mustParse(t, "0 100000 65536")}, nobody, "newuidmap for --uid-map"},
		{"missing directory", Plan{Mode: Namespace, Root: dir + "/missing"}, 0, "--sandbox namespace: mount the shared directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			j, out := tryStart(t, test.plan, test.uid)
			if j != nil || !strings.Contains(out, test.want) {
				t.Errorf("start: %q; want %q", out, test.want)
			}
		})
	}
}

// TestMaps has servers in user namespaces with maps of all kinds: files that the server
// makes belong to whom the map says.
func TestMaps(t *testing.T) {
	for _, test := range []struct {
		name     string
		uid      uint32
		uids     string
		asked    uint32
		owner    uint32 // of the file, on the host
		programs bool
	}{
		{"root, shifted H232", 0, "0 100000 65536", 0, 100000, false},
		{"root, as user 5", 0, "", 5, 5, false},
		{"user, own id H238", nobody, "", 0, nobody, false},
		{"user, as root", nobody, ":0:65533:1:", 0, nobody, false},
		{"user, lent ids", nobody, "0 65533 1,1 100000 65536", 0, nobody, true},
		{"user, as a lent id", nobody, "0 65533 1,1 100000 65536", 3, 100002, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.programs {
				t.Setenv("PATH", mapPrograms(t)+":"+os.Getenv("PATH"))
			}
			dir := share(t, test.owner)
			plan := full(Namespace, dir)
			plan.UID, plan.GID = test.asked, test.asked
			if test.uids != "" {
				plan.UIDMap = mustParse(t, test.uids)
				plan.GIDMap = plan.UIDMap
			}
			j := start(t, plan, test.uid)
			if got := j.attempt("share 1: make a file"); got != "" {
				t.Fatalf("make a file: %s; report %v", got, j.report)
			}
			info, err := os.Stat(filepath.Join(dir, "made"))
			if err != nil {
				t.Fatal(err)
			}
			if st := info.Sys().(*syscall.Stat_t); st.Uid != test.owner || st.Gid != test.owner {
				t.Errorf("owner %d:%d; want %d; report %v", st.Uid, st.Gid, test.owner, j.report)
			}
		})
	}
}
