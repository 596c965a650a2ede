package posix

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// mmapCases are mappings, and that they and read(2) and write(2) see one file.
func mmapCases() (cases []testcase) {
	const size = 3 * 4096
	add := func(name string, prot, flags int, run func(e *env, fd int, m []byte)) {
		cases = append(cases, testcase{name: "mmap/" + name, run: func(e *env) {
			e.file("f", string(pattern(size)))
			fd := e.open("f", unix.O_RDWR)
			m, err := unix.Mmap(fd, 0, size, prot, flags)
			e.must(err)
			defer unix.Munmap(m)
			run(e, fd, m)
		}})
	}
	const both = unix.PROT_READ | unix.PROT_WRITE
	add("shared-reads-file", unix.PROT_READ, unix.MAP_SHARED, func(e *env, _ int, m []byte) {
		e.is("same", bytes.Equal(m, pattern(size)), true)
	})
	add("private-reads-file", both, unix.MAP_PRIVATE, func(e *env, _ int, m []byte) {
		e.is("same", bytes.Equal(m, pattern(size)), true)
	})
	add("write-is-seen-in-mapping", unix.PROT_READ, unix.MAP_SHARED, func(e *env, fd int, m []byte) {
		_ = m[0]
		e.must(drop(unix.Pwrite(fd, []byte("new"), 4095)))
		e.is("bytes", m[4095:4098], []byte("new"))
	})
	add("mapping-is-seen-by-read", both, unix.MAP_SHARED, func(e *env, fd int, m []byte) {
		copy(m[4095:], "new")
		b := make([]byte, 3)
		e.must(drop(unix.Pread(fd, b, 4095)))
		e.is("same-descriptor", b, []byte("new"))
		e.must(drop(unix.Pread(e.open("f", unix.O_RDONLY), b, 4095)))
		e.is("other-descriptor", b, []byte("new"))
	})
	add("msync", both, unix.MAP_SHARED, func(e *env, _ int, m []byte) {
		m[0] = 'X'
		e.is("async", unix.Msync(m, unix.MS_ASYNC), "ok")
		e.is("sync", unix.Msync(m, unix.MS_SYNC), "ok")
		e.is("invalidate", unix.Msync(m, unix.MS_SYNC|unix.MS_INVALIDATE), "ok")
		e.is("both", unix.Msync(m, unix.MS_SYNC|unix.MS_ASYNC), "EINVAL")
		e.is("content", e.content("f")[:1], "X")
	})
	add("private-write-stays-private", both, unix.MAP_PRIVATE, func(e *env, fd int, m []byte) {
		m[0] ^= 0xff
		e.is("file", bytes.Equal(e.readAll(fd), pattern(size)), true)
	})
	add("two-mappings", both, unix.MAP_SHARED, func(e *env, _ int, m []byte) {
		other, err := unix.Mmap(e.open("f", unix.O_RDWR), 4096, 4096, both, unix.MAP_SHARED)
		e.must(err)
		defer unix.Munmap(other)
		m[4096] = 'X'
		e.is("first-to-second", other[0], byte('X'))
		other[1] = 'Y'
		e.is("second-to-first", m[4097], byte('Y'))
	})
	add("survives-close", both, unix.MAP_SHARED, func(e *env, fd int, m []byte) {
		e.forget(fd)
		e.is("close", unix.Close(fd), "ok")
		m[0] = 'X'
		e.is("msync", unix.Msync(m, unix.MS_SYNC), "ok")
		e.is("content", e.content("f")[:1], "X")
	})
	add("survives-unlink", both, unix.MAP_SHARED, func(e *env, fd int, m []byte) {
		e.must(unix.Unlink("f"))
		m[0] = 'X'
		e.is("msync", unix.Msync(m, unix.MS_SYNC), "ok")
		e.is("read", e.readAll(fd)[0], byte('X'))
	})
	add("tail-of-last-page", both, unix.MAP_SHARED, func(e *env, fd int, m []byte) {
		e.must(unix.Ftruncate(fd, 5000))
		e.is("zeros", bytes.Count(m[5000:8192], []byte{0}), 3192)
		m[5001] = 'X'
		e.is("msync", unix.Msync(m[4096:8192], unix.MS_SYNC), "ok")
		e.is("size", e.stat("f").Size, 5000)
	})
	add("grows-with-file", both, unix.MAP_SHARED, func(e *env, fd int, m []byte) {
		e.must(unix.Ftruncate(fd, 4096))
		e.must(unix.Ftruncate(fd, size))
		e.is("zeros", bytes.Count(m[4096:], []byte{0}), size-4096)
		m[size-1] = 'X'
		e.is("read", e.readAll(fd)[size-1], byte('X'))
	})
	add("truncate-open-is-seen", unix.PROT_READ, unix.MAP_SHARED, func(e *env, fd int, m []byte) {
		_ = m[0]
		e.must(drop(e.open("f", unix.O_WRONLY|unix.O_TRUNC), nil))
		e.must(drop(unix.Pwrite(fd, []byte("fresh"), 0)))
		e.is("bytes", m[:6], []byte("fresh\x00"))
	})
	add("fallocate-is-seen", both, unix.MAP_SHARED, func(e *env, fd int, m []byte) {
		m[0], m[4096] = 'X', 'Y'
		e.must(unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096))
		e.is("hole", m[0], byte(0))
		e.is("beside", m[4096], byte('Y'))
	})
	add("copy-is-seen", both, unix.MAP_SHARED, func(e *env, fd int, m []byte) {
		copy(m, "from")
		from, to := int64(0), int64(8192)
		e.must(drop(unix.CopyFileRange(fd, &from, fd, &to, 4, 0)))
		e.is("bytes", m[8192:8196], []byte("from"))
	})
	add("read-into-mapping", both, unix.MAP_SHARED, func(e *env, fd int, m []byte) {
		n, err := unix.Pread(fd, m[4096:8192], 0) // a file that is read into itself
		e.is("pread", err, "ok")
		e.is("read", n, 4096)
		e.is("bytes", bytes.Equal(m[4096:8192], pattern(4096)), true)
	})
	add("write-from-mapping", both, unix.MAP_SHARED, func(e *env, fd int, m []byte) {
		n, err := unix.Pwrite(fd, m[:4096], 8192)
		e.is("pwrite", err, "ok")
		e.is("written", n, 4096)
		e.is("bytes", bytes.Equal(m[8192:], pattern(4096)), true)
	})
	add("read-only-private-of-r", unix.PROT_READ, unix.MAP_PRIVATE, func(e *env, fd int, m []byte) {
		e.is("unaligned-offset", drop(unix.Mmap(fd, 1, 4096, unix.PROT_READ, unix.MAP_SHARED)), "EINVAL")
		e.is("length-0", drop(unix.Mmap(fd, 0, 0, unix.PROT_READ, unix.MAP_SHARED)), "EINVAL")
		e.is("same", bytes.Equal(m, pattern(size)), true)
	})
	add("exec", unix.PROT_READ, unix.MAP_PRIVATE, func(e *env, fd int, _ []byte) {
		b, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
		e.is("mmap", err, "ok")
		if err == nil {
			e.must(unix.Munmap(b))
		}
	})
	return cases
}
