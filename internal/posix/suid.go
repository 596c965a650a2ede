package posix

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// suidOps change a file f that is open as fd; those that change its content take its
// S_ISUID and S_ISGID away, unless root does it.
var suidOps = []struct {
	name  string
	clear bool // clears the bits for ordinary users
	root  bool // and for root
	owner bool // only the owner may
	do    func(e *env, fd int) error
}{
	{"write", true, false, false, func(_ *env, fd int) error { return drop(unix.Write(fd, []byte("x"))) }},
	{"write-0", false, false, false, func(_ *env, fd int) error { return drop(unix.Write(fd, nil)) }},
	{"pwrite", true, false, false, func(_ *env, fd int) error { return drop(unix.Pwrite(fd, []byte("x"), 9)) }},
	{"writev", true, false, false, func(_ *env, fd int) error { return drop(unix.Writev(fd, [][]byte{{'x'}, {'y'}})) }},
	{"ftruncate", true, false, false, func(_ *env, fd int) error { return unix.Ftruncate(fd, 2) }},
	{"ftruncate-same", true, false, false, func(_ *env, fd int) error { return unix.Ftruncate(fd, 4) }},
	{"truncate", true, false, false, func(*env, int) error { return unix.Truncate("f", 2) }},
	{"truncate-longer", true, false, false, func(*env, int) error { return unix.Truncate("f", 9) }},
	{"open-trunc", true, false, false, func(e *env, _ int) error { return e.tryOpen("f", unix.O_WRONLY|unix.O_TRUNC) }},
	{"open", false, false, false, func(e *env, _ int) error { return e.tryOpen("f", unix.O_WRONLY) }},
	{"fallocate", true, false, false, func(_ *env, fd int) error { return unix.Fallocate(fd, 0, 0, 100) }},
	{"punch-hole", true, false, false, func(_ *env, fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 2)
	}},
	{"copy-file-range", true, false, false, func(e *env, fd int) error {
		return drop(unix.CopyFileRange(e.open("source", unix.O_RDONLY), nil, fd, nil, 4, 0))
	}},
	{"sendfile", true, false, false, func(e *env, fd int) error {
		return drop(unix.Sendfile(fd, e.open("source", unix.O_RDONLY), nil, 4))
	}},
	{"splice", true, false, false, func(e *env, fd int) error {
		r, _ := e.pipe("data")
		return drop(unix.Splice(r, nil, fd, nil, 4, 0))
	}},
	{"read", false, false, false, func(_ *env, fd int) error { return drop(unix.Pread(fd, make([]byte, 4), 0)) }},
	{"fsync", false, false, false, func(_ *env, fd int) error { return unix.Fsync(fd) }},
	{"utimens", false, false, true, func(*env, int) error { return unix.UtimesNanoAt(unix.AT_FDCWD, "f", make([]unix.Timespec, 2), 0) }},
	{"rename", false, false, false, func(*env, int) error { return unix.Rename("f", "f2") }},
	{"setxattr", false, false, true, func(*env, int) error { return unix.Setxattr("f", "user.a", nil, 0) }},
	{"chown", true, true, true, func(*env, int) error { return unix.Chown("f", -1, guild) }},
	{"chown-nothing", true, true, true, func(*env, int) error { return unix.Chown("f", -1, -1) }},
	{"fchown", true, true, true, func(_ *env, fd int) error { return unix.Fchown(fd, -1, guild) }},
}

// suidWant is the mode that is left of one after an operation that clears: S_ISUID
// goes; S_ISGID goes with the group's x bit, and without it if the caller is not in
// the group (it was a mark for mandatory locks; chown(2), write(2)).
func suidWant(mode uint32, inGroup bool) uint32 {
	want := mode &^ unix.S_ISUID
	if mode&unix.S_IXGRP != 0 || !inGroup {
		want &^= unix.S_ISGID
	}
	return want
}

// suidCases are which operations clear the set-id bits, for whom.
func suidCases() (cases []testcase) {
	for _, by := range []struct {
		name string
		who  user
	}{
		{"root", user{0, 0, nil}},
		{"owner", user{alice, staff, []int{guild}}},
		{"group", user{bob, staff, []int{guild}}},
		{"other", user{bob, crowd, []int{guild}}},
	} {
		for _, mode := range []uint32{0o4777, 0o2777, 0o6777, 0o2767, 0o6767, 0o1777} {
			for _, op := range suidOps {
				if op.owner && (by.name == "group" || by.name == "other") {
					continue
				}
				want := mode
				if op.root || op.clear && by.name != "root" {
					want = suidWant(mode, by.name != "other")
				}
				cases = append(cases, testcase{name: fmt.Sprintf("suid/%s/%s/%04o/%04o", op.name, by.name, mode, want), root: true, run: func(e *env) {
					e.file("source", "data")
					e.file("f", "data")
					e.must(unix.Chown("f", alice, staff))
					e.must(unix.Chmod("f", mode))
					e.must(unix.Chmod(".", 0o777))
					e.try(by.who, func() error { return op.do(e, e.open("f", unix.O_RDWR)) })
					path := "f"
					if op.name == "rename" {
						path = "f2"
					}
					e.is("", e.mode(path), octal(want))
				}})
			}
		}
	}
	for _, kind := range []string{"dir"} {
		cases = append(cases, testcase{name: "suid/chown-" + kind + "/keeps", root: true, run: func(e *env) {
			e.make(kind, "d")
			e.must(unix.Chmod("d", 0o6755))
			e.must(unix.Chown("d", alice, staff))
			e.is("mode", e.mode("d"), "6755")
		}})
	}
	return cases
}
