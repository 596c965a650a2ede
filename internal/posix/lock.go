package posix

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// stranger runs do as another process would: on a thread with a descriptor table of
// its own, which is what owns POSIX locks (fcntl(2); linux fs/locks.c: the owner is the
// files_struct). Descriptors of the case keep their numbers there. done gets the
// result; tid is the thread.
func (e *env) stranger(do func() error) (tid int, done <-chan error) {
	dir := e.open(".", unix.O_RDONLY)
	result := make(chan error, 1)
	started := make(chan int, 1)
	go func() {
		runtime.LockOSThread()
		started <- unix.Gettid()
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_FILES)
		if err == nil {
			err = unix.Fchdir(dir)
		}
		if err == nil {
			err = do()
		}
		// The table is closed with the thread, which is later than the caller may
		// look: what do opens it closes itself, if locks depend on it.
		result <- err
	}()
	return <-started, result
}

// strange runs do as a stranger and waits for it.
func (e *env) strange(do func() error) error {
	_, done := e.stranger(do)
	return <-done
}

// awaitCall returns when a thread sleeps in a system call, or has ended.
func awaitCall(tid int, number uintptr, done <-chan error) error {
	want := []byte(strconv.Itoa(int(number)) + " ")
	for len(done) == 0 {
		line, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/syscall", tid))
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH), bytes.HasPrefix(line, want):
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

// setlk sets a lock of some kind on a range.
func setlk(fd, cmd int, kind int16, start, length int64) error {
	return unix.FcntlFlock(uintptr(fd), cmd, &unix.Flock_t{Type: kind, Start: start, Len: length})
}

// soon repeats do while the answer is EAGAIN, for some seconds: close(2) of a FUSE file
// returns before the server has let go of its locks (linux fs/fuse/file.c:
// fuse_file_put).
func soon(do func() error) error {
	end := time.Now().Add(5 * time.Second)
	for {
		if err := do(); err != unix.EAGAIN || time.Now().After(end) {
			return err
		}
	}
}

// lockKinds are the modes of record locks.
var lockKinds = []struct {
	name string
	kind int16
}{{"none", unix.F_UNLCK}, {"read", unix.F_RDLCK}, {"write", unix.F_WRLCK}}

// conflict is what a lock of one kind answers where another is held.
func conflict(held, wanted int16) string {
	if held == unix.F_UNLCK || held == unix.F_RDLCK && wanted == unix.F_RDLCK {
		return "ok"
	}
	return "EAGAIN"
}

// lockCases are record locks of processes and of open file descriptions (fcntl(2)), and
// flock(2).
func lockCases() (cases []testcase) {
	add := func(name string, run func(e *env, fd int)) {
		cases = append(cases, testcase{name: "lock/" + name, run: func(e *env) {
			e.file("f", "0123456789")
			run(e, e.open("f", unix.O_RDWR))
		}})
	}
	for _, held := range lockKinds {
		for _, wanted := range lockKinds[1:] {
			for _, r := range []struct {
				label         string
				start, length int64
				overlaps      bool
			}{
				{"same", 10, 10, true},
				{"inside", 12, 3, true},
				{"around", 0, 100, true},
				{"first-byte", 0, 11, true},
				{"last-byte", 19, 1, true},
				{"before", 0, 10, false},
				{"after", 20, 10, false},
				{"to-end", 15, 0, true},
				{"end-after", 20, 0, false},
			} {
				want := "ok"
				if r.overlaps {
					want = conflict(held.kind, wanted.kind)
				}
				name := held.name + "-then-" + wanted.name + "/" + r.label + "/" + want
				add("posix/"+name, func(e *env, fd int) {
					e.must(setlk(fd, unix.F_SETLK, held.kind, 10, 10))
					e.is("", e.strange(func() error { return setlk(fd, unix.F_SETLK, wanted.kind, r.start, r.length) }), want)
				})
				add("ofd/"+name, func(e *env, fd int) {
					e.must(setlk(fd, unix.F_OFD_SETLK, held.kind, 10, 10))
					e.is("", setlk(e.open("f", unix.O_RDWR), unix.F_OFD_SETLK, wanted.kind, r.start, r.length), want)
				})
			}
			name := held.name + "-then-" + wanted.name
			want := conflict(held.kind, wanted.kind)
			add("posix-ofd/"+name, func(e *env, fd int) {
				e.must(setlk(fd, unix.F_SETLK, held.kind, 10, 10))
				e.is(want, setlk(e.open("f", unix.O_RDWR), unix.F_OFD_SETLK, wanted.kind, 15, 1), want)
			})
			add("posix-own/"+name, func(e *env, fd int) { // one's own lock is replaced
				e.must(setlk(fd, unix.F_SETLK, held.kind, 10, 10))
				e.is("ok", setlk(e.open("f", unix.O_RDWR), unix.F_SETLK, wanted.kind, 0, 0), "ok")
			})
			add("ofd-dup/"+name, func(e *env, fd int) {
				other := e.fd(unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0))
				e.must(setlk(fd, unix.F_OFD_SETLK, held.kind, 10, 10))
				e.is("ok", setlk(other, unix.F_OFD_SETLK, wanted.kind, 0, 0), "ok")
			})
			add("getlk/"+name, func(e *env, fd int) {
				e.must(setlk(fd, unix.F_SETLK, held.kind, 10, 10))
				lk := unix.Flock_t{Type: wanted.kind, Start: 15}
				e.is("getlk", e.strange(func() error { return unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &lk) }), "ok")
				if want == "ok" {
					e.is("type", lk.Type, unix.F_UNLCK)
					return
				}
				e.is("type", lk.Type, held.kind)
				e.is("start", lk.Start, 10)
				e.is("length", lk.Len, 10)
				e.is("whence", lk.Whence, unix.SEEK_SET)
			})
			add("wait/"+name, func(e *env, fd int) {
				e.must(setlk(fd, unix.F_SETLK, held.kind, 0, 0))
				tid, done := e.stranger(func() error { return setlk(fd, unix.F_SETLKW, wanted.kind, 0, 0) })
				if want != "ok" {
					e.must(awaitCall(tid, unix.SYS_FCNTL, done))
					e.is("waits", len(done) == 0, true)
				}
				e.must(setlk(fd, unix.F_SETLK, unix.F_UNLCK, 0, 0))
				e.is("granted", <-done, "ok")
			})
		}
	}
	add("posix/unlock-in-the-middle", func(e *env, fd int) {
		e.must(setlk(fd, unix.F_SETLK, unix.F_WRLCK, 0, 30))
		e.must(setlk(fd, unix.F_SETLK, unix.F_UNLCK, 10, 10))
		for _, x := range []struct {
			start int64
			want  string
		}{{0, "EAGAIN"}, {9, "EAGAIN"}, {10, "ok"}, {19, "ok"}, {20, "EAGAIN"}, {29, "EAGAIN"}, {30, "ok"}} {
			e.is(fmt.Sprint("byte-", x.start), e.strange(func() error { return setlk(fd, unix.F_SETLK, unix.F_RDLCK, x.start, 1) }), x.want)
		}
	})
	add("posix/downgrade-part", func(e *env, fd int) {
		e.must(setlk(fd, unix.F_SETLK, unix.F_WRLCK, 0, 20))
		e.must(setlk(fd, unix.F_SETLK, unix.F_RDLCK, 0, 10))
		e.is("read-of-read", e.strange(func() error { return setlk(fd, unix.F_SETLK, unix.F_RDLCK, 0, 10) }), "ok")
		e.is("write-of-read", e.strange(func() error { return setlk(fd, unix.F_SETLK, unix.F_WRLCK, 0, 10) }), "EAGAIN")
		e.is("read-of-write", e.strange(func() error { return setlk(fd, unix.F_SETLK, unix.F_RDLCK, 10, 10) }), "EAGAIN")
	})
	add("posix/close-of-any-descriptor", func(e *env, fd int) {
		e.must(setlk(fd, unix.F_SETLK, unix.F_WRLCK, 0, 0))
		other := e.open("f", unix.O_RDONLY)
		e.forget(other)
		e.must(unix.Close(other))
		e.is("released", e.strange(func() error { return setlk(fd, unix.F_SETLK, unix.F_WRLCK, 0, 0) }), "ok")
	})
	add("ofd/close-of-last-descriptor", func(e *env, fd int) {
		e.must(setlk(fd, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 0))
		other := e.open("f", unix.O_RDWR)
		dup := e.fd(unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0))
		e.forget(fd)
		e.must(unix.Close(fd))
		e.is("dup-holds", setlk(other, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 0), "EAGAIN")
		e.forget(dup)
		e.must(unix.Close(dup))
		e.is("released", soon(func() error { return setlk(other, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 0) }), "ok")
	})
	add("posix/ends-with-process", func(e *env, fd int) {
		e.must(e.strange(func() error {
			if err := setlk(fd, unix.F_SETLK, unix.F_WRLCK, 0, 0); err != nil {
				return err
			}
			return unix.Close(fd) // closes the stranger's copy
		}))
		e.is("free", setlk(fd, unix.F_SETLK, unix.F_WRLCK, 0, 0), "ok")
	})
	for _, x := range []struct {
		label string
		lock  unix.Flock_t
		want  string
	}{
		{"from-current", unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_CUR, Start: 2, Len: 2}, "ok"},
		{"from-end", unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_END, Start: -2, Len: 2}, "ok"},
		{"negative-length", unix.Flock_t{Type: unix.F_WRLCK, Start: 5, Len: -2}, "ok"},
		{"before-start", unix.Flock_t{Type: unix.F_WRLCK, Start: -1, Len: 1}, "EINVAL"},
		{"negative-too-long", unix.Flock_t{Type: unix.F_WRLCK, Start: 1, Len: -2}, "EINVAL"},
		{"bad-whence", unix.Flock_t{Type: unix.F_WRLCK, Whence: 9}, "EINVAL"},
		{"bad-type", unix.Flock_t{Type: 9}, "EINVAL"},
		{"overflow", unix.Flock_t{Type: unix.F_WRLCK, Start: 1<<63 - 1, Len: 2}, "EOVERFLOW"},
		{"last-byte", unix.Flock_t{Type: unix.F_WRLCK, Start: 1<<63 - 1, Len: 1}, "ok"},
	} {
		add("range/"+x.label, func(e *env, fd int) {
			lk := x.lock
			e.is("posix", unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &lk), x.want)
			lk = x.lock
			e.is("ofd", unix.FcntlFlock(uintptr(e.other("0123456789", unix.O_RDWR)), unix.F_OFD_SETLK, &lk), x.want)
		})
	}
	add("ofd/pid-not-zero", func(e *env, fd int) {
		e.is("EINVAL", unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Pid: 1}), "EINVAL")
	})
	return append(cases, flockCases()...)
}

// flockCases are locks of whole files that belong to an open file description.
func flockCases() (cases []testcase) {
	add := func(name string, run func(e *env, fd, other int)) {
		cases = append(cases, testcase{name: "flock/" + name, run: func(e *env) {
			e.file("f", "data")
			run(e, e.open("f", unix.O_RDONLY), e.open("f", unix.O_RDONLY))
		}})
	}
	how := map[int16]int{unix.F_UNLCK: unix.LOCK_UN, unix.F_RDLCK: unix.LOCK_SH, unix.F_WRLCK: unix.LOCK_EX}
	for _, held := range lockKinds {
		for _, wanted := range lockKinds[1:] {
			want := conflict(held.kind, wanted.kind)
			name := held.name + "-then-" + wanted.name
			add(name, func(e *env, fd, other int) {
				e.must(unix.Flock(fd, how[held.kind]))
				e.is(want, unix.Flock(other, how[wanted.kind]|unix.LOCK_NB), want)
			})
			add("own/"+name, func(e *env, fd, _ int) {
				e.must(unix.Flock(fd, how[held.kind]))
				e.is("ok", unix.Flock(fd, how[wanted.kind]|unix.LOCK_NB), "ok")
			})
			add("record-lock-apart/"+name, func(e *env, fd, _ int) {
				rw := e.open("f", unix.O_RDWR)
				e.must(unix.Flock(fd, how[held.kind]))
				e.is("ok", setlk(rw, unix.F_OFD_SETLK, wanted.kind, 0, 0), "ok")
			})
			add("wait/"+name, func(e *env, fd, other int) {
				e.must(unix.Flock(fd, how[held.kind]))
				tid, done := e.stranger(func() error { return unix.Flock(other, how[wanted.kind]) })
				if want != "ok" {
					e.must(awaitCall(tid, unix.SYS_FLOCK, done))
					e.is("waits", len(done) == 0, true)
				}
				e.must(unix.Flock(fd, unix.LOCK_UN))
				e.is("granted", <-done, "ok")
			})
		}
	}
	add("dup-shares", func(e *env, fd, other int) {
		dup := e.fd(unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0))
		e.must(unix.Flock(fd, unix.LOCK_EX))
		e.is("dup", unix.Flock(dup, unix.LOCK_SH|unix.LOCK_NB), "ok")
		e.is("downgraded", unix.Flock(other, unix.LOCK_SH|unix.LOCK_NB), "ok")
		e.must(unix.Flock(dup, unix.LOCK_UN))
		e.is("unlocked", unix.Flock(other, unix.LOCK_EX|unix.LOCK_NB), "ok")
	})
	add("close-releases", func(e *env, fd, other int) {
		e.must(unix.Flock(fd, unix.LOCK_EX))
		e.forget(fd)
		e.must(unix.Close(fd))
		e.is("free", soon(func() error { return unix.Flock(other, unix.LOCK_EX|unix.LOCK_NB) }), "ok")
	})
	add("close-of-other-keeps", func(e *env, fd, other int) {
		e.must(unix.Flock(fd, unix.LOCK_EX))
		third := e.open("f", unix.O_RDONLY)
		e.forget(third)
		e.must(unix.Close(third))
		e.is("held", unix.Flock(other, unix.LOCK_SH|unix.LOCK_NB), "EAGAIN")
	})
	add("directory", func(e *env, _, _ int) {
		a, b := e.open(".", unix.O_RDONLY), e.open(".", unix.O_RDONLY)
		e.is("lock", unix.Flock(a, unix.LOCK_EX|unix.LOCK_NB), "ok")
		e.is("other", unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB), "EAGAIN")
	})
	add("follows-rename", func(e *env, fd, _ int) {
		e.must(unix.Flock(fd, unix.LOCK_EX))
		e.must(unix.Rename("f", "g"))
		e.is("new-name", unix.Flock(e.open("g", unix.O_RDONLY), unix.LOCK_SH|unix.LOCK_NB), "EAGAIN")
		e.file("f", "")
		e.is("new-file", unix.Flock(e.open("f", unix.O_RDONLY), unix.LOCK_EX|unix.LOCK_NB), "ok")
	})
	return cases
}
