package workload

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"vfiofs/fuse/devfuse/mounttest"
)

const sqliteWriters = 8

// TestSqlite lets eight processes write to one database, while a ninth is killed in the
// middle of its work, and checks that nothing is lost or half done.
func TestSqlite(t *testing.T) {
	each, share := 60, shmDir // a disk would only be waited for
	if *full {
		each, share = 500, func(t *testing.T) string { return t.TempDir() }
	}
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			m := mountOf(t, mounttest.Vfiofs(t, "--posix-lock"), share(t))
			sqliteWorkload(t, mode, each, filepath.Join(m.host, "db"), []string{filepath.Join(m.Dir, "db")})
		})
	}
	// Without a cache two mounts of one share are one file system. WAL is not for that:
	// its index is shared memory (sqlite.org/wal.html).
	t.Run("delete mode on two mounts", func(t *testing.T) {
		b := mounttest.Vfiofs(t, "--posix-lock", "--cache=never")
		m := mountOf(t, b, share(t))
		other := mountOf(t, b, m.host)
		sqliteWorkload(t, "delete", each, filepath.Join(m.host, "db"), []string{filepath.Join(m.Dir, "db"), filepath.Join(other.Dir, "db")})
	})
}

// sqliteWorkload writes through the paths in turn, and checks through each and on the
// host.
func sqliteWorkload(t *testing.T, mode string, each int, host string, paths []string) {
	needProgram(t, "sqlite3", "sqlite3")
	got := sqlite(t, paths[0], "PRAGMA journal_mode="+mode+`;
		CREATE TABLE log(writer INT, n INT, body TEXT, PRIMARY KEY(writer, n));
		CREATE INDEX bodies ON log(body);
		CREATE TABLE total(n INT); INSERT INTO total VALUES(0);`)
	if strings.TrimSpace(got) != mode {
		t.Fatalf("journal mode %q; want %s", got, mode)
	}
	began := time.Now()
	victim := sqliteCommand(paths[0], sqliteScript(sqliteWriters, 100_000))
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range sqliteWriters {
		wg.Go(func() {
			cmd := sqliteCommand(paths[w%len(paths)], sqliteScript(w, each))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("writer %d: %v\n%.1000s", w, err, out)
			}
			if w == 0 {
				victim.Process.Kill()
			}
		})
	}
	wg.Wait()
	victim.Wait()
	t.Logf("%d writers, %d transactions each: %.1f s", sqliteWriters, each, time.Since(began).Seconds())

	// The last one has to roll back, or to recover, what the killed writer left. The host
	// looks when nobody writes any more.
	for _, path := range append(paths, host) {
		if got := sqlite(t, path, "PRAGMA integrity_check;"); strings.TrimSpace(got) != "ok" {
			t.Errorf("integrity_check of %s:\n%.2000s", path, got)
		}
		got := strings.Fields(sqlite(t, path, fmt.Sprintf("SELECT count(*) FROM log WHERE writer < %d; SELECT count(*) FROM log; SELECT n FROM total;", sqliteWriters)))
		if len(got) != 3 || got[0] != strconv.Itoa(sqliteWriters*each) || got[1] != got[2] {
			t.Errorf("%s has %v rows of the writers, rows, and transactions; want %d, and the last two equal", path, got, sqliteWriters*each)
		}
	}
}

// sqliteScript is what a writer does: each transaction adds a row and counts it.
func sqliteScript(writer, transactions int) string {
	var b strings.Builder
	b.WriteString(".bail on\n.timeout 120000\n")
	for n := range transactions {
		fmt.Fprintf(&b, "BEGIN IMMEDIATE; INSERT INTO log VALUES(%d, %d, hex(randomblob(%d))); UPDATE total SET n = n + 1; COMMIT;\n", writer, n, 50+n%700)
	}
	return b.String()
}

func sqliteCommand(path, script string) *exec.Cmd {
	cmd := exec.Command("sqlite3", "-batch", "-init", "/dev/null", path)
	cmd.Stdin = strings.NewReader(script)
	return cmd
}

func sqlite(t *testing.T, path, script string) string {
	t.Helper()
	out, err := sqliteCommand(path, ".timeout 60000\n"+script).CombinedOutput()
	if err != nil {
		t.Fatalf("sqlite3 %s: %v\n%.2000s", path, err, out)
	}
	return string(out)
}
