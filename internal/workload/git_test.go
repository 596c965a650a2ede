package workload

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vfiofs/fuse/devfuse/mounttest"
)

// TestGit clones a repository onto the mount, checks every object, and goes back and
// forth in its history.
func TestGit(t *testing.T) {
	files, commits := 4_000, 400
	if *full {
		files, commits = 25_000, 2_500
	}
	m := mount(t, mounttest.Vfiofs(t, "--xattr"))
	gitWorkload(t, m.Dir, m.host, files, commits)
}

func gitWorkload(t *testing.T, dir, host string, files, commits int) {
	source := filepath.Join(t.TempDir(), "source.git")
	began := time.Now()
	gitGenerate(t, source, files, commits)
	t.Logf("%d files in %d commits: made in %.1f s", files, commits, time.Since(began).Seconds())

	began = time.Now()
	clone := filepath.Join(dir, "clone")
	git(t, "", "clone", "-q", "file://"+source, clone)
	t.Logf("cloned in %.1f s", time.Since(began).Seconds())
	git(t, clone, "fsck", "--full", "--strict", "--no-progress")
	clean := func(when string) {
		t.Helper()
		if out := git(t, clone, "status", "--porcelain"); out != "" {
			t.Errorf("git status %s:\n%.2000s", when, out)
		}
	}
	clean("after the clone")
	git(t, clone, "checkout", "-q", fmt.Sprintf("HEAD~%d", commits/2))
	clean("half-way back")
	git(t, clone, "checkout", "-q", "main")
	clean("at the end again")

	// An index without stat data makes git read every file.
	for _, where := range []string{clone, filepath.Join(host, "clone")} {
		index := "GIT_INDEX_FILE=" + filepath.Join(t.TempDir(), "index")
		gitEnv(t, where, []string{index}, "read-tree", "HEAD")
		gitEnv(t, where, []string{index}, "update-index", "-q", "--refresh")
		gitEnv(t, where, []string{index}, "diff-files", "--exit-code", "--stat")
	}
	t.Logf("all checked after %.1f s", time.Since(began).Seconds())
}

// gitGenerate makes a repository with a line of commits, each of which adds files and
// changes older ones.
func gitGenerate(t *testing.T, dir string, files, commits int) {
	git(t, "", "init", "-q", "--bare", "--initial-branch=main", dir)
	cmd := gitCommand(dir, nil, "fast-import", "--quiet")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriterSize(in, 1<<20)
	gitHistory(w, files, commits)
	err = w.Flush()
	in.Close()
	if waitErr := cmd.Wait(); waitErr != nil || err != nil {
		t.Fatalf("git fast-import: %v, %v\n%s", waitErr, err, out.String())
	}
}

// gitHistory writes a stream for git fast-import (git-fast-import(1)).
func gitHistory(w io.Writer, files, commits int) {
	r := rand.New(rand.NewPCG(4, 2))
	path := func(n int) string { return fmt.Sprintf("dir%02d/sub%03d/file%06d.txt", n%40, n%700, n) }
	put := func(n int) {
		mode := "100644"
		if n%17 == 0 {
			mode = "100755"
		}
		var body strings.Builder
		for range 5 + r.IntN(40) {
			fmt.Fprintf(&body, "%x of file %d\n", r.Uint64(), n)
		}
		text := body.String()
		if n%101 == 0 {
			mode, text = "120000", "../sub001/file000001.txt"
		}
		fmt.Fprintf(w, "M %s inline %s\ndata %d\n%s\n", mode, path(n), len(text), text)
	}
	next := 0
	for c := range commits {
		message := fmt.Sprintf("change %d", c)
		fmt.Fprintf(w, "commit refs/heads/main\ncommitter A U Thor <a@example.org> %d +0000\ndata %d\n%s\n", 1_700_000_000+60*c, len(message), message)
		for older := next; next < (c+1)*files/commits; next++ {
			put(next)
			if older > 0 && next%4 == 0 {
				put(r.IntN(older))
			}
		}
	}
	fmt.Fprintln(w, "done")
}

func gitCommand(dir string, env []string, args ...string) *exec.Cmd {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "LC_ALL=C",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

func gitEnv(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	needProgram(t, "git", "git")
	out, err := gitCommand(dir, env, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %v in %q: %v\n%.3000s", args, dir, err, out)
	}
	return string(out)
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	return gitEnv(t, dir, nil, args...)
}
