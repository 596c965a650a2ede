package posix

import "golang.org/x/sys/unix"

// openCases are what the flags of open(2) do beyond success and failure.
func openCases() (cases []testcase) {
	add := func(name string, run func(*env)) {
		cases = append(cases, testcase{name: "open/" + name, run: run})
	}
	access := []struct {
		name  string
		flags int
		read  string // what read(2) on it answers
		write string
	}{
		{"r", unix.O_RDONLY, "ok", "EBADF"},
		{"w", unix.O_WRONLY, "EBADF", "ok"},
		{"rw", unix.O_RDWR, "ok", "ok"},
	}
	extra := []struct {
		name  string
		flags int
		after string // content of a file with "data" after opening and writing "XY"
	}{
		{"plain", 0, "XYta"},
		{"creat", unix.O_CREAT, "XYta"},
		{"append", unix.O_APPEND, "dataXY"},
		{"creat-append", unix.O_CREAT | unix.O_APPEND, "dataXY"},
		{"nofollow", unix.O_NOFOLLOW, "XYta"},
		{"noctty", unix.O_NOCTTY, "XYta"},
		{"nonblock", unix.O_NONBLOCK, "XYta"},
		{"sync", unix.O_SYNC, "XYta"},
		{"dsync", unix.O_DSYNC, "XYta"},
		{"async", unix.O_ASYNC, "XYta"},
		{"noatime", unix.O_NOATIME, "XYta"},
		{"largefile", unix.O_LARGEFILE, "XYta"},
		{"append-sync", unix.O_APPEND | unix.O_SYNC, "dataXY"},
		{"excl-alone", unix.O_EXCL, "XYta"},
	}
	for _, a := range access {
		for _, x := range extra {
			add(a.name+"-"+x.name, func(e *env) {
				e.file("f", "data")
				fd := e.fd(unix.Open("f", a.flags|x.flags|unix.O_CLOEXEC, 0o600))
				e.is("read", drop(unix.Pread(fd, make([]byte, 4), 0)), a.read)
				e.is("write", drop(unix.Write(fd, []byte("XY"))), a.write)
				want := x.after
				if a.write != "ok" {
					want = "data"
				}
				e.is("content", e.content("f"), want)
				e.is("mode-kept", e.mode("f"), "0644")
				flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
				e.must(err)
				e.is("accmode", flags&unix.O_ACCMODE, a.flags)
				e.is("append", flags&unix.O_APPEND != 0, x.flags&unix.O_APPEND != 0)
			})
		}
		add(a.name+"-trunc", func(e *env) {
			e.file("f", "data")
			e.open("f", a.flags|unix.O_TRUNC)
			e.is("size", e.stat("f").Size, 0)
		})
		add(a.name+"-creat-new", func(e *env) {
			fd := e.fd(unix.Open("f", a.flags|unix.O_CREAT|unix.O_CLOEXEC, 0o400))
			e.is("mode", e.mode("f"), "0400")
			// The mode is for later opens; this one may do what it asked for.
			e.is("read", drop(unix.Pread(fd, make([]byte, 4), 0)), a.read)
			e.is("write", drop(unix.Write(fd, []byte("XY"))), a.write)
		})
		add(a.name+"-creat-through-link", func(e *env) {
			e.make("dangling", "l")
			e.fd(unix.Open("l", a.flags|unix.O_CREAT|unix.O_CLOEXEC, 0o640))
			e.is("target-mode", e.mode("l-target"), "0640")
			e.is("link-stays", e.stat("l").Mode&unix.S_IFMT == unix.S_IFLNK, true)
		})
	}
	add("creat-excl-link-untouched", func(e *env) {
		e.make("dangling", "l")
		e.is("open", e.tryOpen("l", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL), "EEXIST")
		e.is("target", unix.Access("l-target", unix.F_OK), "ENOENT")
	})
	add("creat-suid", func(e *env) {
		e.fd(unix.Open("f", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o6755))
		e.is("mode", e.mode("f"), "6755")
	})
	add("creat-trunc-keeps-identity", func(e *env) {
		e.file("f", "data")
		before := e.stat("f").Ino
		e.open("f", unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
		e.is("inode", e.stat("f").Ino == before, true)
		e.is("size", e.stat("f").Size, 0)
	})
	add("append-moves-to-end", func(e *env) {
		e.file("f", "data")
		a, b := e.open("f", unix.O_WRONLY|unix.O_APPEND), e.open("f", unix.O_WRONLY|unix.O_APPEND)
		for _, fd := range []int{a, b, a, b} {
			e.must(drop(unix.Seek(fd, 0, unix.SEEK_SET)))
			e.must(drop(unix.Write(fd, []byte("+"))))
		}
		e.is("content", e.content("f"), "data++++")
	})
	add("append-pwrite", func(e *env) { // pwrite(2), BUGS: Linux appends
		e.file("f", "data")
		e.must(drop(unix.Pwrite(e.open("f", unix.O_WRONLY|unix.O_APPEND), []byte("+"), 0)))
		e.is("content", e.content("f"), "data+")
	})
	add("append-switched-on", func(e *env) {
		e.file("f", "data")
		fd := e.open("f", unix.O_WRONLY)
		e.must(drop(unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND)))
		e.must(drop(unix.Write(fd, []byte("+"))))
		e.must(drop(unix.FcntlInt(uintptr(fd), unix.F_SETFL, 0)))
		e.must(drop(unix.Pwrite(fd, []byte("X"), 0)))
		e.is("content", e.content("f"), "Xata+")
	})
	add("independent-offsets", func(e *env) {
		e.file("f", "data")
		a, b := e.open("f", unix.O_RDONLY), e.open("f", unix.O_RDONLY)
		buf := make([]byte, 2)
		e.must(drop(unix.Read(a, buf)))
		e.must(drop(unix.Read(b, buf)))
		e.is("second", string(buf), "da")
	})
	add("dup-shares-offset", func(e *env) {
		e.file("f", "data")
		a := e.open("f", unix.O_RDONLY)
		b := e.fd(unix.FcntlInt(uintptr(a), unix.F_DUPFD_CLOEXEC, 0))
		buf := make([]byte, 2)
		e.must(drop(unix.Read(a, buf)))
		e.must(drop(unix.Read(b, buf)))
		e.is("second", string(buf), "ta")
	})
	add("path-fd", func(e *env) {
		e.file("f", "data")
		fd := e.open("f", unix.O_PATH)
		var st unix.Stat_t
		e.must(unix.Unlink("f"))
		e.is("fstat", unix.Fstat(fd, &st), "ok")
		e.is("nlink", st.Nlink, 0)
		e.is("reopen", e.tryOpen(procPath(fd), unix.O_RDONLY), "ok")
	})
	return append(cases, append(tmpfileCases(), directCases()...)...)
}

// tmpfileCases are files without a name (open(2), O_TMPFILE).
func tmpfileCases() (cases []testcase) {
	add := func(name string, run func(*env)) {
		cases = append(cases, testcase{name: "tmpfile/" + name, run: run})
	}
	make := func(e *env, flags int) int {
		return e.fd(unix.Open(".", unix.O_TMPFILE|flags|unix.O_CLOEXEC, 0o640))
	}
	for _, a := range []struct {
		name        string
		flags       int
		read, write string
	}{{"w", unix.O_WRONLY, "EBADF", "ok"}, {"rw", unix.O_RDWR, "ok", "ok"}} {
		add(a.name, func(e *env) {
			fd := make(e, a.flags)
			var st unix.Stat_t
			e.is("fstat", unix.Fstat(fd, &st), "ok")
			e.is("nlink", st.Nlink, 0)
			e.is("mode", octal(st.Mode&0o7777), "0640")
			e.is("size", st.Size, 0)
			e.is("write", drop(unix.Write(fd, []byte("data"))), a.write)
			e.is("read", drop(unix.Pread(fd, []byte("data"), 0)), a.read)
			e.is("directory", e.list("."), "")
		})
	}
	link := func(e *env, fd int) error {
		return unix.Linkat(unix.AT_FDCWD, procPath(fd), unix.AT_FDCWD, "f", unix.AT_SYMLINK_FOLLOW)
	}
	add("link", func(e *env) {
		fd := make(e, unix.O_RDWR)
		e.must(drop(unix.Write(fd, []byte("data"))))
		e.is("linkat", link(e, fd), "ok")
		e.is("content", e.content("f"), "data")
		e.is("mode", e.mode("f"), "0640")
		e.is("nlink", e.stat("f").Nlink, 1)
		var st unix.Stat_t
		e.must(unix.Fstat(fd, &st))
		e.is("same-inode", st.Ino == e.stat("f").Ino, true)
		e.is("nlink-of-fd", st.Nlink, 1)
		e.is("again", link(e, fd), "EEXIST")
	})
	add("excl", func(e *env) {
		e.is("linkat", link(e, make(e, unix.O_RDWR|unix.O_EXCL)), "ENOENT")
		e.is("directory", e.list("."), "")
	})
	add("many", func(e *env) {
		a, b := make(e, unix.O_RDWR), make(e, unix.O_RDWR)
		e.must(drop(unix.Write(a, []byte("a"))))
		e.must(drop(unix.Write(b, []byte("b"))))
		buf := []byte{0}
		e.must(drop(unix.Pread(a, buf, 0)))
		e.is("first", string(buf), "a")
		var sa, sb unix.Stat_t
		e.must(unix.Fstat(a, &sa))
		e.must(unix.Fstat(b, &sb))
		e.is("different-inodes", sa.Ino != sb.Ino, true)
	})
	return cases
}

// directCases are O_DIRECT, with buffers and offsets that every disk likes.
func directCases() (cases []testcase) {
	const block = 4096
	// Memory from mmap is aligned as O_DIRECT wants it.
	aligned := func(e *env) []byte {
		b, err := unix.Mmap(-1, 0, 4*block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		e.must(err)
		return b
	}
	add := func(name string, run func(e *env, b []byte)) {
		cases = append(cases, testcase{name: "direct/" + name, run: func(e *env) {
			b := aligned(e)
			defer unix.Munmap(b)
			run(e, b)
		}})
	}
	add("write-read", func(e *env, b []byte) {
		e.file("f", "")
		fd := e.open("f", unix.O_RDWR|unix.O_DIRECT)
		b[0], b[2*block-1] = 1, 2
		n, err := unix.Pwrite(fd, b[:2*block], 0)
		e.is("pwrite", err, "ok")
		e.is("written", n, 2*block)
		clear(b)
		n, err = unix.Pread(fd, b, 0)
		e.is("pread", err, "ok")
		e.is("read", n, 2*block)
		e.is("bytes", []byte{b[0], b[2*block-1]}, []byte{1, 2})
		e.is("size", e.stat("f").Size, 2*block)
	})
	add("sees-buffered-write", func(e *env, b []byte) {
		e.file("f", "data")
		n, err := unix.Pread(e.open("f", unix.O_RDONLY|unix.O_DIRECT), b[:block], 0)
		e.is("pread", err, "ok")
		e.is("bytes", b[:n], []byte("data"))
	})
	add("seen-by-buffered-read", func(e *env, b []byte) {
		e.file("f", "data")
		e.content("f") // now it is in the page cache
		b[0] = 'D'
		e.must(drop(unix.Pwrite(e.open("f", unix.O_RDWR|unix.O_DIRECT), b[:block], 0)))
		e.is("byte", e.content("f")[:1], "D")
	})
	add("eof", func(e *env, b []byte) {
		e.file("f", "data")
		n, err := unix.Pread(e.open("f", unix.O_RDONLY|unix.O_DIRECT), b[:block], block)
		e.is("pread", err, "ok")
		e.is("read", n, 0)
	})
	return cases
}
