// Package posix finds out where a file system differs from what the manual pages
// promise: some thousands of small assertions, each with a name that stays.
//
//	Run(dir) ── for each case ──► a directory of its own below dir
//	   │                            │ a thread of its own: cwd, umask, user ids
//	   │                            ▼
//	   │                       system calls on relative names
//	   └──◄── Result{"rename/plain/file-onto-dir/EISDIR", got, want}
//
// Most cases are cells of a table, operation by kind of object, or come out of loops
// over such sets with a rule that says what has to happen. A case makes all it needs,
// looks at nothing another case made, and runs on a thread that ends with it, so that a
// user id, umask or lock owner cannot leak into the next one. The cases of a run do not
// run in parallel; runs in different directories may.
//
// The specification is POSIX.1-2024 (System Interfaces) and, where Linux says more or
// otherwise, the Linux manual pages, sections 2 and 7; what those leave open is asserted
// as local Linux file systems do it. What virtio-fs adds is fs-device.md E and H.
//
// As root all cases run. For an ordinary user those that need other users, devices or
// privileges are not in the list.
package posix

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Result is one assertion: what was found where, and what the manual pages say.
type Result struct {
	Name string // stable and unique: topic/operation/object/...
	Got  string // an errno's name, "ok" or a value in print
	Want string
}

// OK reports whether the file system did what it should.
func (r Result) OK() bool { return r.Got == r.Want }

// String returns the result as a line: "ok NAME", or "differs NAME: got X want Y".
func (r Result) String() string {
	if r.OK() {
		return "ok " + r.Name
	}
	return fmt.Sprintf("differs %s: got %s want %s", r.Name, r.Got, r.Want)
}

// A testcase is a function that makes one or more assertions in an empty directory.
type testcase struct {
	name string // prefix of the names of its assertions
	root bool   // needs to be root
	run  func(*env)
}

// all returns every case, in the order in which they run.
func all() []testcase {
	return slices.Concat(
		pathCases(), underCases(), descriptorCases(),
		openCases(), nameCases(), renameCases(), linkCases(),
		filePermCases(), dirPermCases(), ownerCases(), stickyCases(), suidCases(),
		timeCases(), statCases(), directoryCases(), removedCases(),
		dataCases(), allocateCases(), copyCases(), mmapCases(),
		xattrCases(), aclCases(), lockCases(), specialCases(), flagCases(),
	)
}

// Run runs the suite in dir, which must exist, and reports each assertion as it is
// made. Its error says that the suite could not run, and not what the file system did.
func Run(dir string, report func(Result)) error { return run(all(), dir, report) }

// run runs some cases.
func run(cases []testcase, dir string, report func(Result)) error {
	root := os.Geteuid() == 0
	for i, c := range cases {
		if c.root && !root {
			continue
		}
		if err := runOne(c, filepath.Join(dir, strconv.Itoa(i)), report); err != nil {
			return fmt.Errorf("posix case %s: %w", c.name, err)
		}
	}
	return nil
}

// runOne runs a case in a new directory, on a new thread.
func runOne(c testcase, dir string, report func(Result)) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread is never unlocked: it ends with the goroutine, and takes along
		// its working directory, umask and ids.
		runtime.LockOSThread()
		if err = enter(dir); err != nil {
			return
		}
		e := &env{name: c.name, report: report}
		defer func() {
			e.close()
			// If it is the process's first thread it stays (runtime.LockOSThread), and
			// must not keep the file system busy.
			_ = unix.Chdir("/")
		}()
		c.run(e)
	}()
	<-done
	return cmp.Or(err, os.RemoveAll(dir))
}

// enter gives the calling thread a working directory and umask of its own.
func enter(dir string) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the working directory of a thread: %w", err)
	}
	unix.Umask(0)
	return os.NewSyscallError("chdir", unix.Chdir(dir))
}

// An env is what a case works with. It belongs to the case's thread.
type env struct {
	name   string
	report func(Result)
	fds    []int // closed when the case ends
}

// is asserts that got prints as want does. An empty label stands for the case itself.
func (e *env) is(label string, got, want any) {
	name := e.name
	if label != "" {
		name += "/" + label
	}
	e.report(Result{Name: name, Got: text(got), Want: text(want)})
}

// must ends the case, with a result that differs, if a step failed that is not what
// the case is about.
func (e *env) must(err error) {
	if err != nil {
		e.report(Result{Name: e.name, Got: "set-up failed: " + text(err), Want: "ok"})
		runtime.Goexit()
	}
}

// fd returns a descriptor that is closed with the case; err ends the case.
func (e *env) fd(fd int, err error) int {
	e.must(err)
	e.fds = append(e.fds, fd)
	return fd
}

// open is open(2) without a way to fail.
func (e *env) open(path string, flags int) int {
	return e.fd(unix.Open(path, flags|unix.O_CLOEXEC, 0o644))
}

// forget leaves the closing of a descriptor to the case.
func (e *env) forget(fd int) {
	e.fds = slices.DeleteFunc(e.fds, func(n int) bool { return n == fd })
}

// file makes a regular file with a content.
func (e *env) file(path, content string) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	e.must(err)
	_, err = unix.Write(fd, []byte(content))
	e.must(cmp.Or(err, unix.Close(fd)))
}

// content returns what a file holds, or the error's name.
func (e *env) content(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return text(err)
	}
	defer unix.Close(fd)
	b := make([]byte, 1<<16)
	n, err := unix.Read(fd, b)
	if err != nil {
		return text(err)
	}
	return string(b[:n])
}

// stat is lstat(2) without a way to fail.
func (e *env) stat(path string) (st unix.Stat_t) {
	e.must(unix.Lstat(path, &st))
	return st
}

// mode returns the permission bits of what a path names, as "0644".
func (e *env) mode(path string) string { return octal(e.stat(path).Mode & 0o7777) }

// close closes what the case has opened.
func (e *env) close() {
	for _, fd := range e.fds {
		unix.Close(fd)
	}
}

// octal prints permission bits.
func octal(mode uint32) string { return fmt.Sprintf("%04o", mode) }

// text prints a value: nil is "ok", an errno its name.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return "ok"
	case string:
		if q := strconv.QuoteToASCII(v); len(q) > len(v)+2 {
			return q // bytes that would not print
		}
		return v
	case unix.Errno:
		if v == unix.EOPNOTSUPP {
			return "EOPNOTSUPP" // and ENOTSUP, which is the same number
		}
		if name := unix.ErrnoName(v); name != "" {
			return name
		}
	case []byte:
		return strconv.Quote(string(v))
	case []string:
		return text(strings.Join(v, " "))
	}
	return fmt.Sprint(v)
}
