package posix

import "golang.org/x/sys/unix"

// renameFlags are the forms of rename(2), and what each is called.
var renameFlags = []struct {
	name  string
	flags uint
}{
	{"plain", 0},
	{"noreplace", unix.RENAME_NOREPLACE},
	{"exchange", unix.RENAME_EXCHANGE},
	{"whiteout", unix.RENAME_WHITEOUT},
}

// rename renames within the working directory.
func rename(from, to string, flags uint) error {
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
}

// renameWant is the rule of rename(2) for an object of one kind and a new name that
// holds an object of another.
func renameWant(from, to string, flags uint) string {
	switch {
	case flags == unix.RENAME_EXCHANGE && to == "none":
		return "ENOENT"
	case flags == unix.RENAME_EXCHANGE || to == "none":
		return "ok"
	case flags == unix.RENAME_NOREPLACE:
		return "EEXIST"
	case isDir(from) && !isDir(to):
		return "ENOTDIR"
	case !isDir(from) && isDir(to):
		return "EISDIR"
	case to == "full":
		return "ENOTEMPTY"
	}
	return "ok"
}

// which says whether a path names what a or b was the identity of.
func (e *env) which(path string, a, b any) string {
	switch id := e.identity(path); id {
	case a:
		return "the old"
	case b:
		return "the new"
	default:
		if err, ok := id.(error); ok {
			return text(err)
		}
		return "something else"
	}
}

// identity is what follows an object when it moves.
func (e *env) identity(path string) any {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	return st.Ino
}

// renameCases rename every kind of object onto every other, in every form, and look
// where both are afterwards.
func renameCases() (cases []testcase) {
	for _, form := range renameFlags {
		for _, from := range []string{"file", "dir", "full", "dangling", "fifo", "socket", "char"} {
			for _, to := range []string{"none", "file", "dir", "full", "dangling", "fifo", "socket", "char"} {
				want := renameWant(from, to, form.flags)
				cases = append(cases, testcase{
					name: "rename/" + form.name + "/" + from + "-onto-" + to,
					root: isDevice(from) || isDevice(to) || form.flags == unix.RENAME_WHITEOUT,
					run: func(e *env) {
						e.make(from, "a")
						e.make(to, "b")
						a, b := e.identity("a"), e.identity("b")
						e.is(want, rename("a", "b", form.flags), want)
						was, is := "the old", "the new" // what both names hold now
						switch {
						case want != "ok":
						case form.flags == unix.RENAME_EXCHANGE:
							was, is = is, was
						case form.flags == unix.RENAME_WHITEOUT:
							was, is = "something else", was
							e.is("whiteout", e.whiteout("a"), true)
						default:
							was, is = "ENOENT", was
							if to == "none" {
								was = "the new" // which was nothing
							}
						}
						e.is("old-name", e.which("a", a, b), was)
						e.is("new-name", e.which("b", a, b), is)
					},
				})
			}
		}
	}
	return append(cases, append(renamePlaceCases(), renameFlagCases()...)...)
}

// whiteout reports whether a path is a whiteout: a character device 0:0.
func (e *env) whiteout(path string) bool {
	st := e.stat(path)
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// renamePlaceCases are renames where the place decides, and not the kinds.
func renamePlaceCases() (cases []testcase) {
	// Each is done in: d/ with e/ in it, file f with hard link g, link l to d.
	for _, t := range []struct{ name, from, to, plain, noreplace, exchange string }{
		{"into-itself", "d", "d/x", "EINVAL", "EINVAL", "ENOENT"},
		{"into-own-child", "d", "d/e/x", "EINVAL", "EINVAL", "ENOENT"},
		{"onto-own-child", "d", "d/e", "EINVAL", "EEXIST", "EINVAL"},
		{"onto-own-parent", "d/e", "d", "ENOTEMPTY", "EEXIST", "EINVAL"},
		{"file-onto-own-parent", "d/e/x", "d/e", "ENOENT", "ENOENT", "ENOENT"},
		{"hard-link", "f", "g", "ok", "EEXIST", "ok"},
		{"itself", "f", "f", "ok", "EEXIST", "ok"},
		{"itself-dir", "d", "d", "ok", "EEXIST", "ok"},
		{"itself-other-spelling", "f", "./f", "ok", "EEXIST", "ok"},
		{"from-dot", "d/.", "x", "EBUSY", "EBUSY", "EBUSY"},
		{"from-dotdot", "d/e/..", "x", "EBUSY", "EBUSY", "EBUSY"},
		{"to-dot", "f", "d/.", "EBUSY", "EEXIST", "EBUSY"},
		{"to-dotdot", "f", "d/e/..", "EBUSY", "EEXIST", "EBUSY"},
		{"from-empty", "", "x", "ENOENT", "ENOENT", "ENOENT"},
		{"to-empty", "f", "", "ENOENT", "ENOENT", "ENOENT"},
		{"file-to-slash", "f", "x/", "ENOTDIR", "ENOTDIR", "ENOENT"},
		{"dir-to-slash", "d", "x/", "ok", "ok", "ENOENT"},
		{"dir-from-slash", "d/", "x", "ok", "ok", "ENOENT"},
		{"file-from-slash", "f/", "x", "ENOTDIR", "ENOTDIR", "ENOENT"},
		{"no-such-parent", "f", "x/y", "ENOENT", "ENOENT", "ENOENT"},
		{"parent-is-file", "f", "g/y", "ENOTDIR", "ENOTDIR", "ENOTDIR"},
		{"through-link", "f", "l/y", "ok", "ok", "ENOENT"},
		{"between-dirs", "f", "d/y", "ok", "ok", "ENOENT"},
		{"dir-between-dirs", "d/e", "x", "ok", "ok", "ENOENT"},
		{"link-not-target", "l", "x", "ok", "ok", "ENOENT"},
	} {
		for _, form := range renameFlags[:3] {
			want := map[uint]string{
				0: t.plain, unix.RENAME_NOREPLACE: t.noreplace, unix.RENAME_EXCHANGE: t.exchange,
			}[form.flags]
			cases = append(cases, testcase{
				name: "rename/" + form.name + "/" + t.name,
				run: func(e *env) {
					e.must(unix.Mkdir("d", 0o755))
					e.must(unix.Mkdir("d/e", 0o755))
					e.file("f", "data")
					e.must(unix.Link("f", "g"))
					e.must(unix.Symlink("d", "l"))
					e.is(want, rename(t.from, t.to, form.flags), want)
					if t.name == "hard-link" {
						// POSIX: "shall return successfully and perform no other action".
						e.is("both-stay", e.list("."), "d f g l")
					}
				},
			})
		}
	}
	return cases
}

// renameFlagCases are what the flags of renameat2(2) do beside.
func renameFlagCases() (cases []testcase) {
	add := func(name string, root bool, run func(*env)) {
		cases = append(cases, testcase{name: "rename/" + name, root: root, run: run})
	}
	for _, x := range []struct {
		name  string
		flags uint
	}{
		{"noreplace-exchange", unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE},
		{"whiteout-exchange", unix.RENAME_WHITEOUT | unix.RENAME_EXCHANGE},
		{"unknown-8", 8},
		{"unknown-bit31", 1 << 31},
	} {
		add("flags/"+x.name, false, func(e *env) {
			e.file("a", "a")
			e.file("b", "b")
			e.is("EINVAL", rename("a", "b", x.flags), "EINVAL")
			e.is("old-stays", e.content("a"), "a")
			e.is("new-stays", e.content("b"), "b")
		})
	}
	add("whiteout/unlink", true, func(e *env) {
		e.file("a", "a")
		e.must(rename("a", "b", unix.RENAME_WHITEOUT))
		e.is("mode", e.mode("a"), "0000")
		e.is("nlink", e.stat("a").Nlink, 1)
		e.is("unlink", unix.Unlink("a"), "ok")
	})
	add("whiteout/noreplace", true, func(e *env) {
		e.file("a", "a")
		e.file("b", "b")
		flags := uint(unix.RENAME_WHITEOUT | unix.RENAME_NOREPLACE)
		e.is("onto-file", rename("a", "b", flags), "EEXIST")
		e.is("onto-none", rename("a", "c", flags), "ok")
		e.is("left", e.whiteout("a"), true)
	})
	add("nlink/dir-between-dirs", false, func(e *env) {
		for _, d := range []string{"a", "b", "a/d"} {
			e.must(unix.Mkdir(d, 0o755))
		}
		e.must(unix.Rename("a/d", "b/d"))
		e.is("from", e.stat("a").Nlink, 2)
		e.is("to", e.stat("b").Nlink, 3)
		e.is("dotdot", e.identity("b/d/..") == e.identity("b"), true)
	})
	add("nlink/onto-dir", false, func(e *env) {
		for _, d := range []string{"a", "b"} {
			e.must(unix.Mkdir(d, 0o755))
		}
		before := e.stat(".").Nlink
		e.must(unix.Rename("a", "b"))
		e.is("parent", e.stat(".").Nlink, before-1)
	})
	add("nlink/exchange-file-dir", false, func(e *env) {
		for _, d := range []string{"a", "b", "a/d"} {
			e.must(unix.Mkdir(d, 0o755))
		}
		e.file("b/f", "")
		e.must(rename("a/d", "b/f", unix.RENAME_EXCHANGE))
		e.is("from", e.stat("a").Nlink, 2)
		e.is("to", e.stat("b").Nlink, 3)
	})
	add("nlink/onto-hard-link", false, func(e *env) {
		e.file("a", "a")
		e.file("b", "b")
		e.must(unix.Link("b", "c"))
		e.must(unix.Rename("a", "b"))
		e.is("other-name", e.stat("c").Nlink, 1)
		e.is("content", e.content("c"), "b")
	})
	add("over-open-file", false, func(e *env) {
		e.file("a", "new")
		e.file("b", "old")
		fd := e.open("b", unix.O_RDWR)
		e.must(unix.Rename("a", "b"))
		buf := make([]byte, 3)
		e.is("read", drop(unix.Pread(fd, buf, 0)), "ok")
		e.is("old-content", string(buf), "old")
		e.is("new-content", e.content("b"), "new")
		var st unix.Stat_t
		e.must(unix.Fstat(fd, &st))
		e.is("nlink", st.Nlink, 0)
		e.is("write", drop(unix.Pwrite(fd, []byte("x"), 0)), "ok")
		e.is("new-untouched", e.content("b"), "new")
	})
	add("open-file-follows", false, func(e *env) {
		e.file("a", "")
		e.must(unix.Mkdir("d", 0o755))
		fd := e.open("a", unix.O_WRONLY)
		e.must(unix.Rename("a", "d/b"))
		e.must(drop(unix.Write(fd, []byte("data"))))
		e.is("content", e.content("d/b"), "data")
	})
	add("open-dir-follows", false, func(e *env) {
		e.must(unix.Mkdir("d", 0o755))
		fd := e.open("d", unix.O_RDONLY)
		e.must(unix.Rename("d", "x"))
		e.must(unix.Mkdirat(fd, "y", 0o755))
		e.is("listed", e.list("x"), "y")
	})
	add("cwd-follows", false, func(e *env) {
		e.must(unix.Mkdir("d", 0o755))
		e.must(unix.Mkdir("e", 0o755))
		e.must(unix.Chdir("d"))
		e.must(unix.Rename("../d", "../e/f"))
		e.file("x", "data")
		e.is("content", e.content("../f/x"), "data")
	})
	add("cross-device", true, func(e *env) {
		e.file("a", "data")
		e.is("EXDEV", unix.Rename("a", "/proc/vfiofs"), "EXDEV")
	})
	return cases
}
