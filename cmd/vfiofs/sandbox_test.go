package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/jail"
	"vfiofs/passthrough"
)

// program returns a vfiofs that can jail itself: this test binary, or one without the
// race detector.
func program(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("vfiofs")
	if err != nil {
		t.Fatal(err)
	}
	if jail.Supported {
		return path
	}
	path = filepath.Join(t.TempDir(), "vfiofs")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	return path
}

// jailed starts a program that is to print what confines it, and returns that.
func jailed(t *testing.T, argv ...string) (launcher *exec.Cmd, report map[string]string) {
	t.Helper()
	launcher = exec.Command(argv[0], append(argv[1:], "--print-sandbox", "json", "--log-level", "error")...)
	launcher.Stderr = os.Stderr
	out, err := launcher.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := launcher.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		launcher.Process.Kill()
		launcher.Wait()
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &report)
	}
	if err != nil {
		t.Fatalf("%v: report %q: %v", launcher, line, err)
	}
	return launcher, report
}

// stop ends a program in good order.
func stop(t *testing.T, launcher *exec.Cmd) {
	t.Helper()
	if err := launcher.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := launcher.Wait(); err != nil {
		t.Errorf("%v after SIGTERM: %v; want exit code 0", launcher, err)
	}
}

// threads returns the fields of each thread of the launcher's server.
func threads(t *testing.T, launcher *exec.Cmd) []map[string]string {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", launcher.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, list := range lists {
		if text, err := os.ReadFile(list); err == nil {
			pids = append(pids, strings.Fields(string(text))...)
		}
	}
	if len(pids) != 1 {
		t.Fatalf("children of the launcher: %q; want one", pids)
	}
	paths, err := filepath.Glob("/proc/" + pids[0] + "/task/*/status")
	if err != nil || len(paths) == 0 {
		t.Fatalf("threads of the server: %v, %v", paths, err)
	}
	var all []map[string]string
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		fields := make(map[string]string)
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			fields[name] = strings.TrimSpace(value)
		}
		all = append(all, fields)
	}
	return all
}

// TestSandbox looks at the threads of a server that has a client, and so all its threads.
func TestSandbox(t *testing.T) {
	vfiofs := program(t)
	for _, test := range []struct {
		mode string
		caps jail.Caps
		args []string
	}{
		{"namespace", jail.FileServer, nil},
		{"namespace", jail.FileServer | jail.FileHandles, []string{"--inode-file-handles=mandatory"}},
		{"namespace", jail.FileServer &^ (1 << unix.CAP_MKNOD), []string{"--modcaps=-mknod"}},
		{"chroot", jail.FileServer, nil},
	} {
		t.Run(fmt.Sprint(test.mode, test.args), func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			args := append([]string{vfiofs, "--socket", socket, "--tag", "t", "--shared-dir", t.TempDir(), "--sandbox", test.mode}, test.args...)
			launcher, report := jailed(t, args...)
			conn, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := askFeatures(conn); err != nil {
				t.Fatal(err)
			}
			caps := fmt.Sprintf("%016x", uint64(test.caps))
			for _, thread := range threads(t, launcher) {
				for name, want := range map[string]string{"CapEff": caps, "CapBnd": caps, "NoNewPrivs": "1", "Seccomp": "2"} {
					if thread[name] != want {
						t.Errorf("thread %s: %s is %s; want %s", thread["Pid"], name, thread[name], want)
					}
				}
			}
			if report["sandbox"] != test.mode || report["capabilities"] != test.caps.String() {
				t.Errorf("report %v; want mode %s, capabilities %v", report, test.mode, test.caps)
			}
			stop(t, launcher)
			for _, name := range []string{socket, socket + ".pid"} {
				if _, err := os.Lstat(name); !os.IsNotExist(err) {
					t.Errorf("%s after the end: %v; want it removed", name, err)
				}
			}
		})
	}
}

// TestSandboxProxy has a jailed proxy and a jailed server work together.
func TestSandboxProxy(t *testing.T) {
	vfiofs, dir := program(t), t.TempDir()
	siblings, function := filepath.Join(dir, "siblings"), filepath.Join(dir, "function")
	proxy, report := jailed(t, vfiofs, "proxy", "--sandbox", "namespace", "--socket", siblings, "--device-socket", function, "--mem-size", "1M")
	if report["capabilities"] != "none" || report["root"] != "empty (pivot_root)" {
		t.Errorf("report of the proxy %v; want no capabilities and no files", report)
	}
	server, _ := jailed(t, vfiofs, "--vfio", function, "--tag", "home", "--shared-dir", t.TempDir(), "--sandbox", "namespace")
	for range 2 {
		sibling(t, siblings)
	}
	stop(t, server)
	stop(t, proxy)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestSandboxFD has launchers' descriptors keep their numbers, in a jail too.
func TestSandboxFD(t *testing.T) {
	vfiofs := program(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	server := exec.Command(vfiofs, "--fd", "3", "--tag", "t", "--shared-dir", t.TempDir(), "--sandbox", "namespace")
	server.ExtraFiles = []*os.File{theirs}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if err := askFeatures(ours); err != nil {
		t.Error(err)
	}
	ours.Close()
	if err := server.Wait(); err != nil {
		t.Errorf("after the client left: %v; want exit code 0", err)
	}
}

// TestSandboxRefused has command lines that can't be confined as they say.
func TestSandboxRefused(t *testing.T) {
	if !jail.Supported {
		return // another error comes first; the other build has this test
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	share := t.TempDir()
	for _, test := range []struct {
		args string
		want string
	}{
		{"--uid-map 0", "--uid-map`: id map"},
		{"--gid-map :0:0:0:", "--gid-map`: id map"},
		{"--sandbox none --uid 5", "need a user namespace"},
		{"--sandbox chroot --gid-map :0:0:1:", "need a user namespace"},
		{"--uid-map :0:100000:10: --uid 10", "--uid is 10, which --uid-map does not map"},
		{"--modcaps +frobnicate", "`--modcaps`: \"+frobnicate\""},
		{"--inode-file-handles=mandatory --landlock require", "exclude each other"},
		{"--seccomp maybe", "--seccomp must be one of"},
		{"--print-sandbox xml", "--print-sandbox must be one of"},
	} {
		socket := filepath.Join(t.TempDir(), "s")
		args := append([]string{"--socket", socket, "--shared-dir", share}, strings.Fields(test.args)...)
		out, err := exec.Command("vfiofs", args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), test.want) {
			t.Errorf("vfiofs %s: %v, %s; want an error with %q", test.args, err, out, test.want)
		}
		if _, err := os.Lstat(socket); !os.IsNotExist(err) {
			t.Errorf("vfiofs %s: the socket: %v; want none", test.args, err)
		}
	}
	out, err := exec.Command("vfiofs", "--socket", filepath.Join(t.TempDir(), "s"), "--shared-dir", file).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not a directory") {
		t.Errorf("share a file: %v, %s; want it refused", err, out)
	}
}

func TestFileHandles(t *testing.T) {
	const never, prefer, mandatory = passthrough.HandlesNever, passthrough.HandlesPrefer, passthrough.HandlesMandatory
	for _, test := range []struct {
		mode     jail.Mode
		landlock jail.Landlock
		asked    passthrough.FileHandles
		want     passthrough.FileHandles
	}{
		{jail.Namespace, jail.LandlockAuto, prefer, never},
		{jail.Namespace, jail.LandlockOff, prefer, prefer},
		{jail.None, jail.LandlockAuto, prefer, prefer},
		{jail.None, jail.LandlockRequire, prefer, never},
		{jail.Chroot, jail.LandlockAuto, mandatory, mandatory},
		{jail.Chroot, jail.LandlockOff, never, never},
	} {
		s := Serve{Confine: Confine{Sandbox: test.mode, Landlock: test.landlock}, InodeFileHandles: test.asked}
		if got := s.fileHandles(); got != test.want {
			t.Errorf("%v: file handles %v; want %v", test, got, test.want)
		}
		plan, err := s.plan()
		if err != nil {
			t.Fatal(err)
		}
		has := slices.Contains(strings.Fields(plan.Caps.String()), "dac_read_search")
		if has != (s.fileHandles() != never) || has && plan.Landlock != jail.LandlockOff {
			t.Errorf("%v: plan %+v; want the capability %v, and no Landlock with it", test, plan, !has)
		}
	}
}
