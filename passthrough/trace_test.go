package passthrough

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// The number of system calls per operation is a promise (fs-device.md E, and the reason
// that hints exist), so a test counts them as strace would: it traces the one thread
// of a child process that runs the operations.

// A counted is an operation and how many system calls it may take.
type counted struct {
	name  string
	calls int
	run   func()
}

// traceRuns is how often each operation runs while it is counted.
const traceRuns = 20

// countedOps prepares the operations in a new share.
func countedOps(t *testing.T) []counted {
	g := newGuest(t)
	g.file("f", "0123456789", 0o644)
	g.file("other", "", 0o644)
	g.mkdir("d", 0o755)
	d := g.find("d").Node
	for i := range 8 {
		g.file(fmt.Sprintf("d/%d", i), "", 0o644)
		g.find(fmt.Sprintf("d/%d", i))
	}
	n, dh := g.find("f").Node, g.opendir(d)
	h := g.open(n, unix.O_RDWR)
	g.lookup(fuse.RootID, "gone")

	s := smallGuest(t, HandlesPrefer)
	s.file("f", "x", 0o644)
	s.isEvicted(s.find("f").Node)

	old := smallGuest(t, HandlesPrefer)
	old.file("f", "x", 0o644)
	on := old.find("f").Node
	old.fs.nodes.old = 0
	old.isEvicted(on)

	lazy := newGuest(t)
	lazy.lazy()
	lazy.file("other", "", 0o644)
	lazy.file("f", "x", 0o644)
	lazy.find("f")
	lazy.mkdir("d", 0o755)
	ld := lazy.find("d").Node
	ldh := lazy.opendir(ld)
	for i := range 8 {
		lazy.file(fmt.Sprintf("d/%d", i), "", 0o644)
	}
	used := newGuest(t) // its files are looked up to be opened
	used.fs.host.ready, used.fs.nodes.old = true, 0
	used.file("f", "x", 0o644)
	young := newGuest(t)
	young.file("f", "x", 0o644)

	v := vec(make([]byte, 10))
	var (
		e     fuse.Entry
		o     fuse.Opened
		a     fuse.Attr
		st    fuse.StatFS
		dbuf  fuse.DirBuffer
		in    = fuse.Create{Mode: 0o644, Flags: unix.O_RDWR}
		f     = []byte("f")
		other = []byte("other")
		gone  = []byte("gone")
		made  = []byte("made")
	)
	cycle := func(g *guest) func() {
		return func() {
			must(t, g.fs.Lookup(g.c, fuse.RootID, f, &e))
			must(t, g.fs.Open(g.c, e.Node, unix.O_RDONLY, false, &o))
			_, err := g.fs.Read(g.c, e.Node, o.Handle, v, 0)
			must(t, err)
			must(t, g.release(e.Node, o.Handle))
			g.forget(e.Node, 1)
		}
	}
	return []counted{
		{"lookup of a known name", 1, func() { must(t, g.fs.Lookup(g.c, fuse.RootID, f, &e)) }},
		{"lookup of a missing name", 1, func() { want(t, "Lookup", g.fs.Lookup(g.c, fuse.RootID, gone, &e), unix.ENOENT) }},
		{"lookup of a new name and forget", 3, func() {
			must(t, g.fs.Lookup(g.c, fuse.RootID, other, &e))
			g.forget(e.Node, 1)
		}},
		{"lookup of a new name of an old file and forget", 1, func() {
			must(t, lazy.fs.Lookup(lazy.c, fuse.RootID, other, &e))
			lazy.forget(e.Node, 1)
		}},
		{"lookup of a known name of an old file", 1, func() { must(t, lazy.fs.Lookup(lazy.c, fuse.RootID, f, &e)) }},
		{"lookup, open, read, release, forget of a young file", 7, cycle(young)},
		{"lookup, open, read, release, forget of an old file", 7, cycle(used)},
		{"lookup of an evicted node", 1, func() { must(t, old.fs.Lookup(old.c, fuse.RootID, f, &e)) }},
		{"lookup of an evicted node that is young", 2, func() { must(t, s.fs.Lookup(s.c, fuse.RootID, f, &e)) }},
		{"getattr of an evicted node", 1, func() { _, err := old.fs.GetAttr(old.c, on, 0, &a); must(t, err) }},
		{"getattr", 1, func() { _, err := g.fs.GetAttr(g.c, n, 0, &a); must(t, err) }},
		{"statfs", 1, func() { must(t, g.fs.StatFS(g.c, n, &st)) }},
		{"open and release", 2, func() {
			must(t, g.fs.Open(g.c, n, unix.O_RDWR, false, &o))
			must(t, g.release(n, o.Handle))
		}},
		{"open and release of a file that was just released", 0, func() {
			must(t, g.fs.Open(g.c, n, unix.O_RDONLY, false, &o))
			must(t, g.release(n, o.Handle))
		}},
		{"read", 1, func() { _, err := g.fs.Read(g.c, n, h, v, 0); must(t, err) }},
		{"write", 1, func() { _, err := g.fs.Write(g.c, n, h, v, 0, new(fuse.WriteArgs)); must(t, err) }},
		{"create, release, unlink, forget", 6, func() {
			must(t, g.fs.Create(g.c, fuse.RootID, made, &in, &e, &o))
			must(t, g.release(e.Node, o.Handle))
			must(t, g.fs.Unlink(g.c, fuse.RootID, made))
			g.forget(e.Node, 1)
		}},
		// fstat, lseek, getdents, and once more for the end of the directory.
		{"readdirplus of 8 known entries", 8 + 4, func() {
			dbuf.Reset(4096)
			must(t, g.fs.ReadDir(g.c, d, dh, 0, true, &dbuf))
		}},
		{"readdirplus of 8 new names of old files and forget, listed before", 8 + 1, func() {
			list, err := lazy.readdir(ld, ldh, 0, 4096, true)
			must(t, err)
			for _, x := range list {
				lazy.forget(x.node, 1)
			}
		}},
	}
}

const traceEnv = "VFIOFS_TEST_TRACED"

// mark is a system call that does nothing and that the tracer knows.
func mark(n int) { call(unix.SYS_FCNTL, ^uintptr(0), uintptr(0x7fac0000+n), 0, 0) }

// traced is the child: it runs what is counted between marks.
func traced(t *testing.T) {
	runtime.LockOSThread()
	ops := countedOps(t)
	for _, op := range ops { // whatever happens only the first time
		op.run()
		op.run()
	}
	fmt.Println(unix.Gettid())
	unix.Read(0, make([]byte, 1)) // until the tracer is there
	for i, op := range ops {
		mark(2 * i)
		for range traceRuns {
			op.run()
		}
		mark(2*i + 1)
	}
}

func TestSystemCalls(t *testing.T) {
	if os.Getenv(traceEnv) != "" {
		traced(t)
		return
	}
	runtime.LockOSThread() // ptrace belongs to a thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command(os.Args[0], "-test.run=^TestSystemCalls$", "-test.v")
	// It is killed, and cleans nothing up. The Go runtime's own calls are not counted: those
	// of the collector, and the return from the signal that interrupts a long run.
	cmd.Env = append(os.Environ(), traceEnv+"=1", "TMPDIR="+t.TempDir(), "GOGC=off", "GODEBUG=asyncpreemptoff=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	var tid int
	lines := bufio.NewScanner(out)
	var said []string
	for tid == 0 && lines.Scan() {
		said = append(said, lines.Text())
		fmt.Sscan(lines.Text(), &tid)
	}
	if tid == 0 {
		t.Fatalf("the child did not start:\n%s", strings.Join(said, "\n"))
	}
	if err := unix.PtraceSeize(tid); err != nil {
		unable(t, "needs ptrace(2): "+err.Error())
	}
	must(t, unix.PtraceInterrupt(tid))
	var ws unix.WaitStatus
	_, err = unix.Wait4(tid, &ws, unix.WALL, nil)
	must(t, err)
	must(t, unix.PtraceSetOptions(tid, unix.PTRACE_O_TRACESYSGOOD))
	must(t, unix.PtraceSyscall(tid, 0))
	_, err = in.Write([]byte{1})
	must(t, err)

	names := countedOps(t)
	counts := countCalls(t, tid, len(names))
	for i, op := range names {
		if got := counts[i]; got > op.calls*traceRuns {
			t.Errorf("%s: %d system calls in %d runs; want at most %d each", op.name, got, traceRuns, op.calls)
		} else {
			t.Logf("%s: %.2f system calls", op.name, float64(got)/traceRuns)
		}
	}
}

// countCalls follows a thread until its last mark.
func countCalls(t *testing.T, tid, ops int) []int {
	t.Helper()
	// Of the Go runtime, at any time.
	runtimes := []uint64{
		unix.SYS_FUTEX, unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGPROCMASK, unix.SYS_TGKILL, unix.SYS_GETPID,
		unix.SYS_NANOSLEEP, unix.SYS_MADVISE, unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_SCHED_YIELD, unix.SYS_CLONE,
	}
	counts := make([]int, ops)
	now := -1
	for {
		var ws unix.WaitStatus
		if _, err := unix.Wait4(tid, &ws, unix.WALL, nil); err != nil || ws.Exited() || ws.Signaled() {
			t.Fatalf("the traced thread ended: %v, %v", ws, err)
		}
		sig := 0
		switch stop := ws.StopSignal(); {
		case stop == syscall.SIGTRAP|0x80:
			nr, args, entry := syscallInfo(t, tid)
			switch {
			case !entry:
			case nr == unix.SYS_FCNTL && args[0] == uint64(^uintptr(0)) && args[1]&^0xffff == 0x7fac0000:
				now = int(args[1] & 0xffff)
				if now == 2*ops-1 {
					must(t, unix.PtraceDetach(tid))
					return counts
				}
			case now >= 0 && now%2 == 0 && !slices.Contains(runtimes, nr):
				counts[now/2]++
			}
		case int(ws)>>16 == 0: // a signal, and not an event of ptrace
			sig = int(stop)
		}
		must(t, unix.PtraceSyscall(tid, sig))
	}
}

// syscallInfo returns the system call at which a traced thread has stopped.
func syscallInfo(t *testing.T, tid int) (nr uint64, args [6]uint64, entry bool) {
	t.Helper()
	var info struct { // struct ptrace_syscall_info
		op     uint8
		_      [3]uint8
		arch   uint32
		ip, sp uint64
		nr     uint64
		args   [6]uint64
		_      [2]uint64
	}
	_, _, e := syscall.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if e != 0 {
		t.Fatalf("PTRACE_GET_SYSCALL_INFO: %v (it needs Linux 5.3)", e)
	}
	return info.nr, info.args, info.op == unix.PTRACE_SYSCALL_INFO_ENTRY
}
