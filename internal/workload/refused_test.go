package workload

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vfiofs/fuse/devfuse/mounttest"
)

// TestOptionsRefused gives both backends what neither can do: both end before they
// listen, with a failure.
func TestOptionsRefused(t *testing.T) {
	for _, args := range [][]string{
		{"--cache=sometimes"},
		{"--sandbox=strong"},
		{"--inode-file-handles=maybe"},
		{"--thread-pool-size=many"},
		{"--rlimit-nofile=-1"},
		{"--posix-acl", "--translate-uid=map:1:2:3"},
		{"--translate-uid=map:1:2"},
		{"--translate-uid=swap:1:2:3"},
		{"--translate-uid=guest:1:100:10", "--translate-uid=guest:5:200:10"},
		{"--translate-gid=map:4294967290:1:10"},
		{"--xattrmap="},
		{"--xattrmap=:ok:all:user.:"},
		{"--xattrmap=:nice:all:::"},
		{"--xattrmap=:ok:both:::"},
		{"--xattrmap=:map::user.virtiofs.: :map::user.other.:"},
		{"--modcaps=sys_admin"},
		{"-o", "flock"},
		{"-o", "posix_lock"},
		{"-o", "nonsense"},
		{"--tag=" + strings.Repeat("t", 37)},
		{"--nonsense"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			for _, b := range []mounttest.Backend{mounttest.Vfiofs(t, args...), mounttest.Virtiofsd(t, args...)} {
				if code, out := startOnly(t, b); code == 0 || code == -1 {
					t.Errorf("%s ends with %d; want a refusal\n%.500s", b.Name, code, out)
				}
			}
		})
	}
}

// startOnly starts a backend that should end by itself, and returns its exit code, -1 if
// it had to be killed.
func startOnly(t *testing.T, b mounttest.Backend) (code int, output string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "socket")
	var argv []string
	for _, a := range b.Argv {
		argv = append(argv, strings.NewReplacer("{socket}", socket, "{dir}", os.TempDir()).Replace(a))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	out, _ := cmd.CombinedOutput()
	return cmd.ProcessState.ExitCode(), string(out)
}
