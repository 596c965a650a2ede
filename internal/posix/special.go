package posix

import "golang.org/x/sys/unix"

// specialCases are FIFOs, sockets and devices: the file system keeps their names, and
// the kernel that opens them the rest (fifo(7), unix(7)).
func specialCases() (cases []testcase) {
	add := func(name string, root bool, run func(*env)) {
		cases = append(cases, testcase{name: "special/" + name, root: root, run: run})
	}
	fifo := func(e *env) (r, w int) {
		e.make("fifo", "p")
		r = e.open("p", unix.O_RDONLY|unix.O_NONBLOCK)
		return r, e.open("p", unix.O_WRONLY|unix.O_NONBLOCK)
	}
	add("fifo/data", false, func(e *env) {
		r, w := fifo(e)
		n, err := unix.Write(w, []byte("data"))
		e.is("write", err, "ok")
		e.is("written", n, 4)
		buf := make([]byte, 9)
		n, err = unix.Read(r, buf)
		e.is("read", err, "ok")
		e.is("bytes", buf[:max(n, 0)], []byte("data"))
		e.is("empty", drop(unix.Read(r, buf)), "EAGAIN")
		e.is("size", e.stat("p").Size, 0)
	})
	add("fifo/eof", false, func(e *env) {
		r, w := fifo(e)
		e.forget(w)
		e.must(unix.Close(w))
		n, err := unix.Read(r, make([]byte, 9))
		e.is("read", err, "ok")
		e.is("bytes", n, 0)
	})
	add("fifo/two-opens-one-pipe", false, func(e *env) {
		_, w := fifo(e)
		other := e.open("p", unix.O_RDONLY|unix.O_NONBLOCK)
		e.must(drop(unix.Write(w, []byte("x"))))
		n, err := unix.Read(other, make([]byte, 9))
		e.is("read", err, "ok")
		e.is("bytes", n, 1)
	})
	add("fifo/waits-for-the-other-end", false, func(e *env) {
		e.make("fifo", "p")
		tid, done := e.stranger(func() error { return drop(unix.Open("p", unix.O_RDONLY|unix.O_CLOEXEC, 0)) })
		e.must(awaitCall(tid, unix.SYS_OPENAT, done))
		e.is("waits", len(done), 0)
		e.open("p", unix.O_WRONLY)
		e.is("opened", <-done, "ok")
	})
	add("fifo/renamed", false, func(e *env) {
		r, _ := fifo(e)
		e.must(unix.Rename("p", "q"))
		e.must(drop(unix.Write(e.open("q", unix.O_WRONLY|unix.O_NONBLOCK), []byte("x"))))
		n, err := unix.Read(r, make([]byte, 9))
		e.is("read", err, "ok")
		e.is("bytes", n, 1)
	})
	add("fifo/hard-link", false, func(e *env) {
		r, _ := fifo(e)
		e.must(unix.Link("p", "q"))
		e.must(drop(unix.Write(e.open("q", unix.O_WRONLY|unix.O_NONBLOCK), []byte("x"))))
		e.is("read", drop(unix.Read(r, make([]byte, 9))), "ok")
	})
	add("fifo/removed", false, func(e *env) {
		r, w := fifo(e)
		e.must(unix.Unlink("p"))
		e.must(drop(unix.Write(w, []byte("x"))))
		e.is("read", drop(unix.Read(r, make([]byte, 9))), "ok")
	})
	listen := func(e *env, name string) int {
		fd := e.socket()
		e.must(unix.Bind(fd, &unix.SockaddrUnix{Name: name}))
		e.must(unix.Listen(fd, 9))
		return fd
	}
	connect := func(e *env, name string) error { return unix.Connect(e.socket(), &unix.SockaddrUnix{Name: name}) }
	add("socket/data", false, func(e *env) {
		server := listen(e, "s")
		client := e.socket()
		e.is("connect", unix.Connect(client, &unix.SockaddrUnix{Name: "s"}), "ok")
		conn, _, err := unix.Accept4(server, unix.SOCK_CLOEXEC)
		e.is("accept", err, "ok")
		e.fd(conn, err)
		e.must(drop(unix.Write(client, []byte("data"))))
		buf := make([]byte, 9)
		n, err := unix.Read(conn, buf)
		e.is("read", err, "ok")
		e.is("bytes", buf[:max(n, 0)], []byte("data"))
	})
	add("socket/name", false, func(e *env) {
		listen(e, "s")
		e.is("type", e.stat("s").Mode&unix.S_IFMT == unix.S_IFSOCK, true)
		e.is("bind-again", unix.Bind(e.socket(), &unix.SockaddrUnix{Name: "s"}), "EADDRINUSE")
		e.must(unix.Rename("s", "t"))
		e.is("renamed", connect(e, "t"), "ok")
		e.is("old-name", connect(e, "s"), "ENOENT")
		e.must(unix.Link("t", "u"))
		e.is("hard-link", connect(e, "u"), "ok")
		e.must(unix.Symlink("u", "v"))
		e.is("link", connect(e, "v"), "ok")
	})
	add("socket/closed", false, func(e *env) {
		fd := listen(e, "s")
		e.forget(fd)
		e.must(unix.Close(fd))
		e.is("connect", connect(e, "s"), "ECONNREFUSED")
		e.is("still-there", drop(e.stat("s"), nil), "ok")
	})
	add("socket/removed", false, func(e *env) {
		listen(e, "s")
		e.must(unix.Unlink("s"))
		e.is("connect", connect(e, "s"), "ENOENT")
		listen(e, "s")
		e.is("bound-again", connect(e, "s"), "ok")
	})
	add("socket/permission", true, func(e *env) { // unix(7): connecting needs write permission
		listen(e, "s")
		e.must(unix.Chmod("s", 0o755))
		other := func() error { return connect(e, "s") }
		e.is("read-only", e.as(user{bob, crowd, nil}, other), "EACCES")
		e.must(unix.Chmod("s", 0o722))
		e.is("writable", e.as(user{bob, crowd, nil}, other), "ok")
	})
	add("socket/datagram", false, func(e *env) {
		a := e.fd(unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
		b := e.fd(unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
		e.must(unix.Bind(a, &unix.SockaddrUnix{Name: "s"}))
		e.is("send", unix.Sendto(b, []byte("data"), 0, &unix.SockaddrUnix{Name: "s"}), "ok")
		buf := make([]byte, 9)
		n, err := unix.Read(a, buf)
		e.is("read", err, "ok")
		e.is("bytes", n, 4)
	})
	add("device/null", true, func(e *env) {
		e.make("char", "null")
		fd := e.open("null", unix.O_RDWR)
		n, err := unix.Write(fd, []byte("data"))
		e.is("write", err, "ok")
		e.is("written", n, 4)
		n, err = unix.Read(fd, make([]byte, 4))
		e.is("read", err, "ok")
		e.is("bytes", n, 0)
		var st unix.Stat_t
		e.must(unix.Fstat(fd, &st))
		e.is("rdev", st.Rdev == unix.Mkdev(1, 3), true)
	})
	for _, x := range []struct {
		label        string
		major, minor uint32
	}{{"0-0", 0, 0}, {"1-3", 1, 3}, {"255-255", 255, 255}, {"5-300", 5, 300}, {"4095-1048575", 4095, 1<<20 - 1}} {
		for _, kind := range []uint32{unix.S_IFCHR, unix.S_IFBLK} {
			name := "device/number-" + x.label + map[uint32]string{unix.S_IFCHR: "-char", unix.S_IFBLK: "-block"}[kind]
			add(name, true, func(e *env) {
				e.is("mknod", unix.Mknod("n", kind|0o600, int(unix.Mkdev(x.major, x.minor))), "ok")
				st := e.stat("n")
				e.is("major", unix.Major(uint64(st.Rdev)), x.major)
				e.is("minor", unix.Minor(uint64(st.Rdev)), x.minor)
			})
		}
	}
	return cases
}
