package posix

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// An entry is one entry of a directory as getdents64(2) gives it.
type entry struct {
	ino  uint64
	next int64 // the offset to seek to for what follows
	kind byte  // DT_*
	name string
}

// entries reads a directory to its end with buffers of size bytes.
func (e *env) entries(fd, size int) (list []entry) {
	buf := make([]byte, size)
	for {
		n, err := unix.Getdents(fd, buf)
		e.must(err)
		if n == 0 {
			return list
		}
		list = append(list, parseEntries(buf[:n])...)
	}
}

// parseEntries decodes struct linux_dirent64 (getdents(2)); what is cut off is left out.
func parseEntries(b []byte) (list []entry) {
	for len(b) >= 19 {
		size := int(binary.NativeEndian.Uint16(b[16:]))
		if size < 19 || size > len(b) {
			break
		}
		name, _, _ := strings.Cut(string(b[19:size]), "\x00")
		list = append(list, entry{
			ino:  binary.NativeEndian.Uint64(b),
			next: int64(binary.NativeEndian.Uint64(b[8:])),
			kind: b[18],
			name: name,
		})
		b = b[size:]
	}
	return list
}

// list returns the names in a directory in order, without "." and "..".
func (e *env) list(path string) string { return strings.Join(e.names(path), " ") }

// names returns the names in a directory in order, without "." and "..".
func (e *env) names(path string) (names []string) {
	for _, x := range e.entries(e.open(path, unix.O_RDONLY|unix.O_DIRECTORY), 1<<16) {
		if x.name != "." && x.name != ".." {
			names = append(names, x.name)
		}
	}
	slices.Sort(names)
	return names
}

// dtype returns the DT_* of a kind: the type bits of its mode, shifted.
func dtype(kind string) byte { return byte(typeOf(kind) >> 12) }

// directoryCases are reading and seeking in directories.
func directoryCases() (cases []testcase) {
	add := func(name string, run func(*env)) {
		cases = append(cases, testcase{name: "dir/" + name, run: run})
	}
	for _, kind := range []string{"file", "dir", "full", "link", "dlink", "dangling", "loop", "fifo", "socket", "char", "block"} {
		cases = append(cases, testcase{name: "dir/entry-" + kind, root: isDevice(kind), run: func(e *env) {
			e.make(kind, "object")
			for _, x := range e.entries(e.open(".", unix.O_RDONLY), 1<<16) {
				if x.name == "object" {
					e.is("type", x.kind, dtype(kind))
					e.is("inode", x.ino == e.stat("object").Ino, true)
					return
				}
			}
			e.is("type", "not listed", dtype(kind))
		}})
	}
	add("dots", func(e *env) {
		e.must(unix.Mkdir("d", 0o755))
		for _, x := range e.entries(e.open("d", unix.O_RDONLY), 1<<16) {
			of := map[string]string{".": "d", "..": "."}[x.name]
			e.is(x.name+"-type", x.kind, unix.DT_DIR)
			e.is(x.name+"-inode", x.ino == e.stat(of).Ino, true)
		}
		e.is("count", len(e.entries(e.open("d", unix.O_RDONLY), 1<<16)), 2)
	})
	for _, count := range []int{0, 1, 100, 700} {
		for _, size := range []int{512, 4096, 1 << 16} {
			add(fmt.Sprintf("all-of-%d-by-%d", count, size), func(e *env) {
				for i := range count {
					e.must(unix.Mknod(fmt.Sprintf("name-%04d", i), unix.S_IFIFO|0o600, 0))
				}
				seen := map[string]int{}
				for _, x := range e.entries(e.open(".", unix.O_RDONLY), size) {
					seen[x.name]++
				}
				e.is("names", len(seen), count+2)
				twice := 0
				for _, n := range seen {
					twice += n - 1
				}
				e.is("twice", twice, 0)
			})
		}
	}
	many := func(e *env) int {
		for i := range 200 {
			e.must(unix.Mkdir(fmt.Sprintf("name-%03d", i), 0o755))
		}
		return e.open(".", unix.O_RDONLY)
	}
	add("seek-to-each", func(e *env) {
		fd := many(e)
		list := e.entries(fd, 1024)
		wrong := 0
		for i, x := range list[:len(list)-1] {
			e.must(drop(unix.Seek(fd, x.next, unix.SEEK_SET)))
			buf := make([]byte, 1024)
			n, err := unix.Getdents(fd, buf)
			e.must(err)
			if got := parseEntries(buf[:n]); len(got) == 0 || got[0].name != list[i+1].name {
				wrong++
			}
		}
		e.is("wrong", wrong, 0)
	})
	add("seek-to-end", func(e *env) {
		fd := many(e)
		list := e.entries(fd, 1024)
		e.must(drop(unix.Seek(fd, list[len(list)-1].next, unix.SEEK_SET)))
		e.is("rest", len(e.entries(fd, 1024)), 0)
	})
	add("rewind-twice", func(e *env) {
		fd := many(e)
		first := e.entries(fd, 1024)
		e.must(drop(unix.Seek(fd, 0, unix.SEEK_SET)))
		e.is("same", slices.Equal(first, e.entries(fd, 4096)), true)
	})
	add("rewind-sees-new", func(e *env) { // rewinddir(3)
		fd := e.open(".", unix.O_RDONLY)
		e.must(unix.Mkdir("old", 0o755))
		e.entries(fd, 1024)
		e.must(unix.Mkdir("new", 0o755))
		e.must(unix.Rmdir("old"))
		e.must(drop(unix.Seek(fd, 0, unix.SEEK_SET)))
		list := e.entries(fd, 1024)
		has := func(name string) bool { return slices.ContainsFunc(list, func(x entry) bool { return x.name == name }) }
		e.is("new", has("new"), true)
		e.is("old", has("old"), false)
	})
	add("remove-while-reading", func(e *env) { // what rm -r does
		fd := many(e)
		removed := 0
		buf := make([]byte, 512)
		for {
			n, err := unix.Getdents(fd, buf)
			e.must(err)
			if n == 0 {
				break
			}
			for _, x := range parseEntries(buf[:n]) {
				if x.name[0] != '.' {
					e.must(unix.Rmdir(x.name))
					removed++
				}
			}
		}
		e.is("removed", removed, 200)
		e.is("left", e.list("."), "")
	})
	add("small-buffer", func(e *env) {
		e.must(unix.Mkdir(strings.Repeat("n", 255), 0o755))
		fd := e.open(".", unix.O_RDONLY)
		e.is("too-small-for-one", drop(unix.Getdents(fd, make([]byte, 8))), "EINVAL")
		e.is("then-all", len(e.entries(fd, 280)), 3)
	})
	add("two-streams", func(e *env) {
		fd := many(e)
		other := e.open(".", unix.O_RDONLY)
		buf := make([]byte, 512)
		e.must(drop(unix.Getdents(fd, buf)))
		e.is("other-sees-all", len(e.entries(other, 512)), 202)
	})
	add("read-updates-after-rename", func(e *env) {
		e.file("a", "")
		e.list(".")
		e.must(unix.Rename("a", "b"))
		e.is("names", e.list("."), "b")
		e.must(unix.Unlink("b"))
		e.is("empty", e.list("."), "")
	})
	for _, x := range []struct{ label, name string }{
		{"utf8", "caf\u00e9"},
		{"not-utf8", "\xff\xfe"},
		{"newline", "a\nb"},
		{"space-first", " a"},
		{"space-last", "a "},
		{"control", "\x01"},
		{"option", "-rf"},
		{"glob", "*?["},
		{"backslash", "\\"},
		{"dot-last", "con."},
		{"three-dots", "..."},
		{"hidden", ".a"},
		{"255-bytes-of-utf8", strings.Repeat("\u4e2d", 85)},
	} {
		add("name-"+x.label, func(e *env) {
			e.file(x.name, "data")
			e.is("listed", e.list("."), x.name)
			e.is("content", e.content(x.name), "data")
			e.is("rename", unix.Rename(x.name, x.name[:len(x.name)-1]+"_"), "ok")
			e.is("renamed", e.list("."), x.name[:len(x.name)-1]+"_")
		})
	}
	add("case-matters", func(e *env) {
		e.file("name", "lower")
		e.is("missing", unix.Access("NAME", unix.F_OK), "ENOENT")
		e.file("NAME", "upper")
		e.is("lower", e.content("name"), "lower")
		e.is("upper", e.content("NAME"), "upper")
	})
	add("normal-forms-differ", func(e *env) {
		e.file("caf\u00e9", "one")
		e.file("cafe\u0301", "two")
		e.is("composed", e.content("caf\u00e9"), "one")
	})
	return cases
}
