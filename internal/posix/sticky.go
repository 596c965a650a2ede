package posix

import "golang.org/x/sys/unix"

// stickyCases are what somebody may remove from a directory that all may write to,
// with and without the sticky bit (inode(7), S_ISVTX): the owner of the entry and the
// owner of the directory may, and root.
func stickyCases() (cases []testcase) {
	ops := []struct {
		name string
		do   func() error
	}{
		{"unlink", func() error { return unix.Unlink("d/f") }},
		{"rmdir", func() error { return unix.Rmdir("d/e") }},
		{"rename-file", func() error { return unix.Rename("d/f", "d/new") }},
		{"rename-dir", func() error { return unix.Rename("d/e", "d/new") }},
		{"rename-out", func() error { return unix.Rename("d/f", "open/new") }},
		{"rename-onto", func() error { return unix.Rename("open/g", "d/f") }},
		{"rename-link-onto", func() error { return unix.Rename("open/g", "d/l") }},
		{"exchange", func() error { return rename("open/g", "d/f", unix.RENAME_EXCHANGE) }},
		{"link-then-unlink", func() error {
			if err := unix.Link("d/f", "d/other"); err != nil {
				return err
			}
			return unix.Unlink("d/other")
		}},
	}
	for _, dir := range []struct {
		name string
		mode uint32
	}{{"sticky", 0o1777}, {"plain", 0o777}, {"sticky-group", 0o1770}} {
		for _, owns := range []struct {
			name           string
			entry, dirName int // owners
		}{{"owns-entry", bob, alice}, {"owns-dir", alice, bob}, {"owns-both", bob, bob}, {"owns-none", alice, alice}} {
			for _, op := range ops {
				want := "ok"
				if dir.mode&unix.S_ISVTX != 0 && owns.name == "owns-none" {
					want = "EPERM"
				}
				cases = append(cases, testcase{name: "sticky/" + dir.name + "/" + op.name + "/" + owns.name + "/" + want, root: true, run: func(e *env) {
					for _, d := range []string{"d", "d/e", "open"} {
						e.must(unix.Mkdir(d, 0o777))
					}
					for _, f := range []string{"d/f", "open/g"} {
						e.file(f, "data")
						e.must(unix.Chmod(f, 0o666)) // fs.protected_hardlinks wants that
					}
					e.must(unix.Symlink("x", "d/l"))
					for _, p := range []string{"d/f", "d/e", "d/l"} {
						e.must(unix.Lchown(p, owns.entry, staff))
					}
					e.must(unix.Chown("d", owns.dirName, staff))
					e.must(unix.Chmod("d", dir.mode))
					e.is("", e.as(user{bob, crowd, []int{staff}}, op.do), want)
					e.must(unix.Access("d", unix.F_OK))
				}})
			}
		}
	}
	for _, op := range ops {
		cases = append(cases, testcase{name: "sticky/root/" + op.name, root: true, run: func(e *env) {
			for _, d := range []string{"d", "d/e", "open"} {
				e.must(unix.Mkdir(d, 0o777))
			}
			e.file("d/f", "data")
			e.file("open/g", "data")
			e.must(unix.Symlink("x", "d/l"))
			for _, p := range []string{"d", "d/e", "d/f", "d/l"} {
				e.must(unix.Lchown(p, alice, staff))
			}
			e.must(unix.Chmod("d", 0o1777))
			e.is("", op.do(), "ok")
		}})
	}
	return cases
}
