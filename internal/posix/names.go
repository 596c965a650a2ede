package posix

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// nameCases are the limits and odd forms of names and paths (path_resolution(7),
// limits.h(0P)), for every operation that takes one.
func nameCases() (cases []testcase) {
	// What an operation answers for a name that could exist but does not.
	ops := []struct{ op, missing string }{
		{"open-r", "ENOENT"},
		{"open-creat-excl", "ok"},
		{"open-path", "ENOENT"},
		{"creat", "ok"},
		{"mkdir", "ok"},
		{"mknod-file", "ok"},
		{"mknod-fifo", "ok"},
		{"symlink", "ok"},
		{"link-onto", "ok"},
		{"link-from", "ENOENT"},
		{"unlink", "ENOENT"},
		{"rmdir", "ENOENT"},
		{"chmod", "ENOENT"},
		{"lchown", "ENOENT"},
		{"truncate", "ENOENT"},
		{"lutimens", "ENOENT"},
		{"lstat", "ENOENT"},
		{"access", "ENOENT"},
		{"readlink", "ENOENT"},
		{"chdir", "ENOENT"},
		{"statfs", "ENOENT"},
		{"lgetxattr", "ENOENT"},
		{"lsetxattr", "ENOENT"},
		{"rename-away", "ENOENT"},
	}
	longest := strings.Repeat("n", 255)
	deep := strings.Repeat("./", 2040) // 4080 bytes
	for _, o := range ops {
		for _, x := range []struct{ label, path, want string }{
			{"empty", "", "ENOENT"},
			{"255-bytes", longest, o.missing},
			{"256-bytes", longest + "n", "ENAMETOOLONG"},
			{"256-bytes-before", longest + "n/x", "ENAMETOOLONG"},
			{"path-4095", deep + strings.Repeat("n", 15), o.missing},
			{"path-4096", deep + strings.Repeat("n", 16), "ENAMETOOLONG"},
			{"dot-slash", "./name", o.missing},
			{"double-slash", ".//name", o.missing},
			{"via-dotdot", "./dir/../x", "ENOENT"},
		} {
			cases = append(cases, testcase{
				name: fmt.Sprintf("name/%s/%s/%s", x.label, o.op, x.want),
				run:  func(e *env) { e.is("", e.pathOps()[o.op](x.path), x.want) },
			})
		}
	}
	// Names that the directory itself has, for operations that make something.
	for _, o := range []string{"open-creat-excl", "mkdir", "mknod-fifo", "symlink", "link-onto"} {
		for _, path := range []string{".", "..", "./", "../", "./.", "/"} {
			cases = append(cases, testcase{
				name: fmt.Sprintf("name/make-%s/%s/EEXIST", strings.NewReplacer("..", "dotdot", ".", "dot", "/", "-slash").Replace(path), o),
				run: func(e *env) {
					e.is("", e.pathOps()[o](path), "EEXIST")
				},
			})
		}
	}
	add := func(name string, run func(*env)) {
		cases = append(cases, testcase{name: "name/" + name, run: run})
	}
	for _, x := range []struct{ label, path, unlink, rmdir string }{
		{"dot", ".", "EISDIR", "EINVAL"},
		{"dotdot", "..", "EISDIR", "ENOTEMPTY"},
		{"d-dot", "d/.", "EISDIR", "EINVAL"},
		{"d-dotdot", "d/..", "EISDIR", "ENOTEMPTY"},
		{"root", "/", "EISDIR", "EBUSY"},
	} {
		add("remove-"+x.label, func(e *env) {
			e.must(unix.Mkdir("d", 0o755))
			e.is("unlink", unix.Unlink(x.path), x.unlink)
			e.is("rmdir", unix.Rmdir(x.path), x.rmdir)
			if x.path != "/" { // which may be another mount, and then EXDEV comes first
				e.is("rename", unix.Rename(x.path, "new"), "EBUSY")
			}
		})
	}
	add("longest-listed", func(e *env) {
		e.file(longest, "data")
		e.is("listed", e.list("."), longest)
		e.is("renamed", unix.Rename(longest, strings.Repeat("m", 255)), "ok")
		e.is("too-long", unix.Rename(strings.Repeat("m", 255), longest+"n"), "ENAMETOOLONG")
	})
	add("namemax", func(e *env) {
		var fs unix.Statfs_t
		e.must(unix.Statfs(".", &fs))
		e.is("f_namelen", fs.Namelen, 255)
	})
	add("deep", func(e *env) { // deeper than PATH_MAX, by steps
		for range 40 {
			e.must(unix.Mkdir(strings.Repeat("d", 200), 0o755))
			e.must(unix.Chdir(strings.Repeat("d", 200)))
		}
		e.file("f", "data")
		e.is("content", e.content("f"), "data")
		e.is("getcwd", drop(unix.Getcwd(make([]byte, 4096))), "ENAMETOOLONG")
	})
	for _, x := range []struct{ label, path, want string }{
		{"file-slash", "f/", "ENOTDIR"},
		{"file-slash-dot", "f/.", "ENOTDIR"},
		{"file-dotdot", "f/..", "ENOTDIR"},
		{"dir-slashes", "d///", "ok"},
		{"dir-dot", "d/./.", "ok"},
		{"dir-dotdot", "d/../d", "ok"},
		{"missing-dotdot", "x/../d", "ENOENT"},
	} {
		add("form/"+x.label, func(e *env) {
			e.file("f", "")
			e.must(unix.Mkdir("d", 0o755))
			var st unix.Stat_t
			e.is("stat", unix.Stat(x.path, &st), x.want)
			e.is("lstat", unix.Lstat(x.path, &st), x.want)
			e.is("open", e.tryOpen(x.path, unix.O_RDONLY), x.want)
			e.is("access", unix.Access(x.path, unix.R_OK), x.want)
			e.is("chmod", unix.Chmod(x.path, 0o755), x.want)
		})
	}
	for _, x := range []struct {
		label string
		path  string
		flags int
		want  string
	}{
		{"new-slash", "x/", unix.O_CREAT | unix.O_WRONLY, "EISDIR"},
		{"file-slash", "f/", unix.O_CREAT | unix.O_WRONLY, "EISDIR"},
		{"dir-slash", "d/", unix.O_CREAT | unix.O_WRONLY, "EISDIR"},
		{"file-slash-plain", "f/", unix.O_WRONLY, "ENOTDIR"},
	} {
		add("open-creat/"+x.label, func(e *env) {
			e.file("f", "")
			e.must(unix.Mkdir("d", 0o755))
			e.is(x.want, e.tryOpen(x.path, x.flags), x.want)
			e.is("nothing-new", e.list("."), "d f")
		})
	}
	return cases
}
