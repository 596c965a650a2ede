package workload

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse/devfuse/mounttest"
)

// whole returns a request for a lock on the whole file, which is refused if it cannot be
// had at once.
func whole(kind lockKind, how int16) lockRequest { return lockRequest{Kind: kind, Type: how} }

// part returns a request for a range.
func part(kind lockKind, how int16, start, n int64) lockRequest {
	return lockRequest{Kind: kind, Type: how, Start: start, Len: n}
}

var lockKinds = []lockKind{posixLock, ofdLock, flockLock}

// TestLocks has processes lock files through two mounts of one share, each with a
// backend of its own, and in the shared directory itself.
func TestLocks(t *testing.T) {
	b := mounttest.Vfiofs(t, "--posix-lock", "--flock")
	first := mount(t, b)
	second := mountOf(t, b, first.host)
	for _, sites := range []struct {
		name          string
		holder, other string
	}{
		{"two mounts", first.Dir, second.Dir},
		{"one mount", first.Dir, first.Dir},
		{"mount and host", first.Dir, first.host},
		{"host and mount", first.host, first.Dir},
	} {
		for _, kind := range lockKinds {
			t.Run(sites.name+"/"+string(kind), func(t *testing.T) {
				file := strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
				lockCases(t, kind, filepath.Join(sites.holder, file), filepath.Join(sites.other, file))
			})
		}
	}
}

// lockCases runs every case with a file that is at two paths.
func lockCases(t *testing.T, kind lockKind, path, other string) {
	cases := []struct {
		name string
		run  func(t *testing.T, kind lockKind, path, other string)
	}{
		{"exclude", lockExclude},
		{"ranges", lockRanges},
		{"wait is granted", lockGranted},
		{"waiters in turn", lockInTurn},
		{"wait ends by a signal", lockInterrupted},
		{"waiter is killed", lockWaiterKilled},
		{"holder is killed", lockHolderKilled},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, kind, fmt.Sprint(path, i), fmt.Sprint(other, i)) })
	}
}

func lockExclude(t *testing.T, kind lockKind, path, other string) {
	a, b := startLocker(t, path), startLocker(t, other)
	a.try(whole(kind, unix.F_WRLCK), "")
	b.try(whole(kind, unix.F_WRLCK), "EAGAIN")
	b.try(whole(kind, unix.F_RDLCK), "EAGAIN")
	a.try(whole(kind, unix.F_RDLCK), "")
	b.try(whole(kind, unix.F_RDLCK), "")
	b.try(whole(kind, unix.F_WRLCK), "EAGAIN")
	a.try(whole(kind, unix.F_UNLCK), "")
	b.try(whole(kind, unix.F_WRLCK), "")
	a.try(whole(kind, unix.F_RDLCK), "EAGAIN")
	b.try(whole(kind, unix.F_UNLCK), "")
}

func lockRanges(t *testing.T, kind lockKind, path, other string) {
	a, b := startLocker(t, path), startLocker(t, other)
	if kind == flockLock {
		// A lock of the other family is no obstacle (flock(2)).
		a.try(whole(flockLock, unix.F_WRLCK), "")
		b.try(whole(posixLock, unix.F_WRLCK), "")
		return
	}
	a.try(part(kind, unix.F_WRLCK, 10, 10), "")
	b.try(part(kind, unix.F_WRLCK, 0, 10), "")
	b.try(part(kind, unix.F_WRLCK, 20, 0), "")
	b.try(part(kind, unix.F_WRLCK, 19, 1), "EAGAIN")
	get := part(kind, unix.F_WRLCK, 5, 100)
	get.Get = true
	if got := b.try(get, ""); got.Type != unix.F_WRLCK || got.Start != 10 || got.Len != 10 {
		t.Errorf("F_GETLK = %+v; want a write lock of 10 bytes from 10", got)
	}
	a.try(part(kind, unix.F_UNLCK, 12, 4), "")
	b.try(part(kind, unix.F_WRLCK, 12, 4), "")
	b.try(part(kind, unix.F_WRLCK, 11, 4), "EAGAIN")
	get.Start, get.Len = 12, 1
	if got := b.try(get, ""); got.Type != unix.F_UNLCK {
		t.Errorf("F_GETLK of a free range = %+v; want F_UNLCK", got)
	}
}

func lockGranted(t *testing.T, kind lockKind, path, other string) {
	a, b := startLocker(t, path), startLocker(t, other)
	a.try(whole(kind, unix.F_WRLCK), "")
	b.wait(whole(kind, unix.F_WRLCK))
	a.try(whole(kind, unix.F_UNLCK), "")
	if got := b.reply(); got.Err != "" {
		t.Errorf("the waiter got %s; want the lock", got.Err)
	}
	a.try(whole(kind, unix.F_WRLCK), "EAGAIN")
}

// lockInTurn has four processes wait at once; each gets the lock.
func lockInTurn(t *testing.T, kind lockKind, path, other string) {
	a := startLocker(t, path)
	a.try(whole(kind, unix.F_WRLCK), "")
	var waiters []*locker
	for i := range 4 {
		w := startLocker(t, []string{path, other}[i%2])
		w.wait(whole(kind, unix.F_WRLCK))
		waiters = append(waiters, w)
	}
	a.try(whole(kind, unix.F_UNLCK), "")
	deadline := time.After(10 * time.Second)
	for range waiters {
		var got *locker
		select {
		case r := <-waiters[0].replies:
			got = waiters[0]
			checkGranted(t, r)
		case r := <-waiters[1].replies:
			got = waiters[1]
			checkGranted(t, r)
		case r := <-waiters[2].replies:
			got = waiters[2]
			checkGranted(t, r)
		case r := <-waiters[3].replies:
			got = waiters[3]
			checkGranted(t, r)
		case <-deadline:
			t.Fatal("not all waiters got the lock within 10 s")
		}
		a.try(whole(kind, unix.F_RDLCK), "EAGAIN")
		got.try(whole(kind, unix.F_UNLCK), "")
	}
	a.try(whole(kind, unix.F_WRLCK), "")
}

func checkGranted(t *testing.T, r lockReply) {
	t.Helper()
	if r.Err != "" {
		t.Errorf("a waiter got %s; want the lock", r.Err)
	}
}

// interruptible is a process that waits for a lock, and has a handler for SIGUSR1 that
// does not restart system calls. The Go runtime's own handlers always do.
const interruptible = `use POSIX; use Fcntl qw(:DEFAULT :flock);
	my ($path, $kind) = @ARGV; $| = 1;
	sigaction(SIGUSR1, POSIX::SigAction->new(sub {}, POSIX::SigSet->new, 0)) or die;
	open(my $f, "+<", $path) or die "$path: $!";
	print "ready\n";
	my $lock = pack("s s x4 q q i x4", F_WRLCK, 0, 0, 0, 0);
	my $ok = $kind eq "flock" ? flock($f, LOCK_EX) : fcntl($f, $kind eq "ofd" ? 38 : F_SETLKW, $lock);
	print $ok ? "granted\n" : $!{EINTR} ? "EINTR\n" : "$!\n";`

func lockInterrupted(t *testing.T, kind lockKind, path, other string) {
	needProgram(t, "perl", "perl-base")
	a, c := startLocker(t, path), startLocker(t, other)
	a.try(whole(kind, unix.F_WRLCK), "")
	cmd := exec.Command("perl", "-e", interruptible, other, string(kind))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(out)
	lines.Scan()
	number := unix.SYS_FCNTL
	if kind == flockLock {
		number = unix.SYS_FLOCK
	}
	a.inCall(cmd.Process.Pid, cmd.Process.Pid, number)
	time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() }) // or it would wait for ever
	cmd.Process.Signal(unix.SIGUSR1)
	lines.Scan()
	if lines.Text() != "EINTR" {
		t.Errorf("the waiter ends with %q after a signal; want EINTR", lines.Text())
	}
	// What was interrupted must not get the lock later.
	a.try(whole(kind, unix.F_UNLCK), "")
	c.try(whole(kind, unix.F_WRLCK), "")
}

func lockWaiterKilled(t *testing.T, kind lockKind, path, other string) {
	a, b, c := startLocker(t, path), startLocker(t, other), startLocker(t, other)
	a.try(whole(kind, unix.F_WRLCK), "")
	b.wait(whole(kind, unix.F_WRLCK))
	b.kill()
	a.try(whole(kind, unix.F_UNLCK), "")
	// The kernel tells the backend of the end of a process when nobody waits for it any more
	// (fs/fuse/file.c: fuse_release_common), so the lock may be lost for a moment.
	r := whole(kind, unix.F_WRLCK)
	r.Wait = true
	c.try(r, "")
}

func lockHolderKilled(t *testing.T, kind lockKind, path, other string) {
	a, b := startLocker(t, path), startLocker(t, other)
	a.try(whole(kind, unix.F_WRLCK), "")
	b.wait(whole(kind, unix.F_WRLCK))
	a.kill()
	if got := b.reply(); got.Err != "" {
		t.Errorf("the waiter got %s; want the lock", got.Err)
	}
}

// TestLocksBackendKilled kills the backend of a mount that holds locks: the other mount
// gets them.
func TestLocksBackendKilled(t *testing.T) {
	b := mounttest.Vfiofs(t, "--posix-lock", "--flock")
	for _, kind := range lockKinds {
		t.Run(string(kind), func(t *testing.T) {
			victim := mount(t, b)
			other := mountOf(t, b, victim.host)
			holder := startLocker(t, filepath.Join(victim.Dir, "lock"))
			holder.try(whole(kind, unix.F_WRLCK), "")
			waiter := startLocker(t, filepath.Join(other.Dir, "lock"))
			waiter.wait(whole(kind, unix.F_WRLCK))
			victim.KillBackend()
			if got := waiter.reply(); got.Err != "" {
				t.Errorf("the waiter got %s; want the lock", got.Err)
			}
		})
	}
}

// TestLocksLocal has no option given: locks are the guest kernel's own, and other mounts
// and the host know nothing of them.
func TestLocksLocal(t *testing.T) {
	b := mounttest.Vfiofs(t)
	first := mount(t, b)
	second := mountOf(t, b, first.host)
	for _, kind := range lockKinds {
		t.Run(string(kind), func(t *testing.T) {
			name := "local-" + string(kind)
			a := startLocker(t, filepath.Join(first.Dir, name))
			a.try(whole(kind, unix.F_WRLCK), "")
			startLocker(t, filepath.Join(first.Dir, name)).try(whole(kind, unix.F_WRLCK), "EAGAIN")
			startLocker(t, filepath.Join(second.Dir, name)).try(whole(kind, unix.F_WRLCK), "")
			startLocker(t, filepath.Join(first.host, name)).try(whole(kind, unix.F_WRLCK), "")
		})
	}
}
