package posix

import (
	"strings"

	"golang.org/x/sys/unix"
)

// linkCases are hard and symbolic links.
func linkCases() (cases []testcase) {
	add := func(name string, run func(*env)) {
		cases = append(cases, testcase{name: "link/" + name, run: run})
	}
	for _, kind := range []string{"file", "dangling", "fifo", "socket", "char", "block"} {
		cases = append(cases, testcase{name: "link/" + kind, root: isDevice(kind), run: func(e *env) {
			e.make(kind, "a")
			e.is("nlink-before", e.stat("a").Nlink, 1)
			e.is("link", unix.Link("a", "b"), "ok")
			a, b := e.stat("a"), e.stat("b")
			e.is("same-inode", a.Ino == b.Ino, true)
			e.is("same-type", b.Mode, a.Mode)
			e.is("nlink", a.Nlink, 2)
			e.is("unlink", unix.Unlink("a"), "ok")
			e.is("first-gone", e.identity("a"), "ENOENT")
			e.is("nlink-after", e.stat("b").Nlink, 1)
		}})
	}
	add("content-shared", func(e *env) {
		e.file("a", "data")
		e.must(unix.Link("a", "b"))
		e.must(drop(unix.Write(e.open("a", unix.O_WRONLY), []byte("XY"))))
		e.is("content", e.content("b"), "XYta")
		e.must(unix.Chmod("b", 0o600))
		e.is("mode", e.mode("a"), "0600")
		e.must(unix.Truncate("b", 1))
		e.is("size", e.stat("a").Size, 1)
		e.must(unix.Setxattr("a", "user.a", []byte("v"), 0))
		n, err := unix.Getxattr("b", "user.a", nil)
		e.is("xattr", err, "ok")
		e.is("xattr-size", n, 1)
	})
	add("many", func(e *env) {
		e.file("f", "data")
		for i := range 100 {
			e.must(unix.Link("f", strings.Repeat("l", i+1)))
		}
		e.is("nlink", e.stat("f").Nlink, 101)
		e.is("listed", len(e.names(".")), 101)
	})
	add("other-dir", func(e *env) {
		e.must(unix.Mkdir("d", 0o755))
		e.file("f", "data")
		e.must(unix.Link("f", "d/g"))
		e.must(unix.Unlink("f"))
		e.is("content", e.content("d/g"), "data")
	})
	add("unlinked-open-file", func(e *env) { // linkat(2), AT_EMPTY_PATH and ENOENT
		e.file("f", "data")
		fd := e.open("f", unix.O_RDWR)
		e.must(unix.Unlink("f"))
		e.is("ENOENT", unix.Linkat(unix.AT_FDCWD, procPath(fd), unix.AT_FDCWD, "g", unix.AT_SYMLINK_FOLLOW), "ENOENT")
	})
	add("bad-flags", func(e *env) {
		e.file("f", "data")
		e.is("EINVAL", unix.Linkat(unix.AT_FDCWD, "f", unix.AT_FDCWD, "g", 1<<20), "EINVAL")
	})
	return append(cases, symlinkCases()...)
}

// symlinkCases are symbolic links: their text, size and where they lead.
func symlinkCases() (cases []testcase) {
	add := func(name string, run func(*env)) {
		cases = append(cases, testcase{name: "symlink/" + name, run: run})
	}
	for _, x := range []struct{ label, target string }{
		{"short", "x"},
		{"absolute", "/nowhere/at/all"},
		{"dots", "../.././x"},
		{"slashes", "//a///b//"},
		{"newline", "a\nb"},
		{"not-utf8", "\xff\xfe\x80"},
		{"59-bytes", strings.Repeat("n", 59)},
		{"60-bytes", strings.Repeat("n", 60)},
		{"256-bytes", strings.Repeat("n", 256)},
		{"1024-bytes", strings.Repeat("n", 1024)},
		{"4000-bytes", strings.Repeat("n/", 2000)},
		{"4095-bytes", strings.Repeat("n", 4095)},
	} {
		add("text-"+x.label, func(e *env) {
			e.is("symlink", unix.Symlink(x.target, "l"), "ok")
			buf := make([]byte, 8192)
			n, err := unix.Readlink("l", buf)
			e.is("readlink", err, "ok")
			e.is("same", string(buf[:max(n, 0)]) == x.target, true)
			e.is("size", e.stat("l").Size, len(x.target))
			e.is("mode", e.mode("l"), "0777")
			n, err = unix.Readlink("l", buf[:1])
			e.is("cut", drop(n, err), "ok")
			e.is("cut-to", n, 1)
		})
	}
	add("empty", func(e *env) { e.is("ENOENT", unix.Symlink("", "l"), "ENOENT") })
	add("4096-bytes", func(e *env) {
		e.is("ENAMETOOLONG", unix.Symlink(strings.Repeat("n", 4096), "l"), "ENAMETOOLONG")
	})
	add("readlink-size-0", func(e *env) {
		e.must(unix.Symlink("x", "l"))
		e.is("EINVAL", drop(unix.Readlink("l", nil)), "EINVAL")
	})
	// path_resolution(7): at most 40 links in one walk.
	for _, x := range []struct {
		label string
		count int
		want  string
	}{{"40", 40, "ok"}, {"41", 41, "ELOOP"}} {
		add("chain-of-"+x.label, func(e *env) {
			e.file("f", "data")
			last := "f"
			for i := range x.count {
				next := strings.Repeat("l", i+1)
				e.must(unix.Symlink(last, next))
				last = next
			}
			e.is(x.want, e.tryOpen(last, unix.O_RDONLY), x.want)
		})
	}
	add("two-in-a-loop", func(e *env) {
		e.must(unix.Symlink("a", "b"))
		e.must(unix.Symlink("b", "a"))
		e.is("open", e.tryOpen("a", unix.O_RDONLY), "ELOOP")
		e.is("lstat", drop(e.stat("a"), nil), "ok")
		e.is("unlink", unix.Unlink("a"), "ok")
		e.is("then", e.tryOpen("b", unix.O_RDONLY), "ENOENT")
	})
	add("relative-to-its-directory", func(e *env) {
		e.must(unix.Mkdir("d", 0o755))
		e.file("d/f", "data")
		e.must(unix.Symlink("f", "d/l"))
		e.must(unix.Symlink("d", "e"))
		e.is("content", e.content("e/l"), "data")
		e.is("dotdot", e.content("e/../d/f"), "data")
	})
	add("moved", func(e *env) {
		e.must(unix.Mkdir("d", 0o755))
		e.file("f", "here")
		e.file("d/f", "there")
		e.must(unix.Symlink("f", "l"))
		e.is("before", e.content("l"), "here")
		e.must(unix.Rename("l", "d/l"))
		e.is("after", e.content("d/l"), "there")
	})
	add("retargeted", func(e *env) {
		e.file("a", "a")
		e.file("b", "b")
		for i, target := range []string{"a", "b", "a"} {
			e.must(unix.Symlink(target, "new"))
			e.must(unix.Rename("new", "l"))
			e.is("content-"+string(rune('1'+i)), e.content("l"), target)
		}
	})
	add("to-proc", func(e *env) {
		e.must(unix.Symlink("/proc/version", "l"))
		e.is("follows", strings.HasPrefix(e.content("l"), "Linux"), true)
	})
	return cases
}
