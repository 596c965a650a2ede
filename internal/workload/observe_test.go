package workload

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// An observation is what one operation showed: an errno, or facts.
type observation struct{ What, Result string }

// An observer does operations on a tree that seedTree has made, and writes down
// everything that a process can tell.
type observer struct {
	root string // the mount
	mine string // a directory of the observing user
	seen []observation
}

// observerMain is a process that observes the mount which is its first argument, and
// prints what it has seen. The second is the name of its own directory.
func observerMain() {
	o := &observer{root: os.Args[1], mine: filepath.Join(os.Args[1], os.Args[2])}
	unix.Umask(0o027)
	for _, step := range []func(){
		o.tree, o.create, o.changes, o.privileges, o.owners, o.opens, o.maps, o.xattrs, o.acls,
		o.renames, o.space, o.locks, o.ioctls, o.refusals,
	} {
		step()
	}
	json.NewEncoder(os.Stdout).Encode(o.seen)
}

// note writes down the result of an operation.
func (o *observer) note(what string, err error, facts ...any) {
	text := result(err)
	if err == nil && len(facts) > 0 {
		text = strings.TrimSuffix(fmt.Sprintln(facts...), "\n")
	}
	o.seen = append(o.seen, observation{what, text})
}

func (o *observer) at(name string) string { return filepath.Join(o.root, name) }
func (o *observer) my(name string) string { return filepath.Join(o.mine, name) }

// attr returns what stat tells that does not depend on time and place.
func attr(path string) (string, error) {
	var st unix.Stat_t
	if err := ignoringEINTR(func() error { return unix.Lstat(path, &st) }); err != nil {
		return "", err
	}
	size := st.Size
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0
	}
	return fmt.Sprintf("%o %d:%d links %d size %d rdev %x", st.Mode, st.Uid, st.Gid, st.Nlink, size, st.Rdev), nil
}

// noteAttr writes down the attributes of a path.
func (o *observer) noteAttr(what, path string) {
	a, err := attr(path)
	o.note(what, err, a)
}

// tree looks at what was there before.
func (o *observer) tree() {
	for _, dir := range []string{"", "sub", "dir"} {
		entries, err := os.ReadDir(o.at(dir))
		entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), "user0-") })
		var names []string
		for _, e := range entries {
			names = append(names, e.Name()+" "+e.Type().String())
		}
		slices.Sort(names)
		o.note("readdir /"+dir, err, names)
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			o.noteAttr("stat "+path, o.at(path))
		}
	}
	var root, sub unix.Stat_t
	unix.Stat(o.root, &root)
	err := unix.Stat(o.at("sub"), &sub)
	o.note("is sub another device", err, root.Dev != sub.Dev)
	var fs unix.Statfs_t
	err = unix.Statfs(o.root, &fs)
	o.note("statfs", err, fs.Bsize, fs.Frsize, fs.Namelen)
	for _, name := range []string{"secret", "file", "mine", "suid", "dir"} {
		for _, how := range []uint32{unix.R_OK, unix.W_OK, unix.X_OK} {
			o.note(fmt.Sprintf("access %s %d", name, how), unix.Access(o.at(name), how))
		}
	}
}

// create makes every kind of object, in directories with different rules.
func (o *observer) create() {
	for _, dir := range []string{o.mine, o.at("setgid"), o.at("sticky"), o.at("dir")} {
		base := filepath.Base(dir)
		in := func(name string) string { return filepath.Join(dir, fmt.Sprintf("%s-%s", filepath.Base(o.mine), name)) }
		made := func(kind string, err error) {
			o.note(kind+" in "+base, err)
			if err == nil {
				o.noteAttr(kind+" in "+base+" has", in(kind))
			}
		}
		fd, err := unix.Open(in("open"), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o6777)
		unix.Close(fd)
		made("open", err)
		made("mkdir", unix.Mkdir(in("mkdir"), 0o2777))
		made("mkfifo", unix.Mknod(in("mkfifo"), unix.S_IFIFO|0o666, 0))
		made("mksock", unix.Mknod(in("mksock"), unix.S_IFSOCK|0o666, 0))
		made("mkreg", unix.Mknod(in("mkreg"), unix.S_IFREG|0o666, 0))
		made("mkchr", unix.Mknod(in("mkchr"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		made("symlink", unix.Symlink("no/where", in("symlink")))
		made("link", unix.Link(o.at("mine"), in("link")))
		fd, err = unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o666)
		o.note("tmpfile in "+base, err)
		if err == nil {
			made("tmplink", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, in("tmplink"), unix.AT_SYMLINK_FOLLOW))
			unix.Close(fd)
		}
	}
}

// file makes a file with some bytes in the observer's directory.
func (o *observer) file(name string, mode uint32, data string) string {
	path := o.my(name)
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR, mode)
	if err == nil {
		unix.Write(fd, []byte(data))
		unix.Close(fd)
		err = unix.Chmod(path, mode)
	}
	if err != nil {
		o.note("make "+name, err)
	}
	return path
}

// changes are contents, sizes and times.
func (o *observer) changes() {
	path := o.file("changes", 0o644, "0123456789")
	o.note("truncate", unix.Truncate(path, 5))
	o.noteAttr("truncated", path)
	b, err := os.ReadFile(path)
	o.note("read", err, string(b))
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND, 0)
	o.note("open to append", err)
	if err == nil {
		n, err := unix.Pwrite(fd, []byte("end"), 0)
		o.note("append", err, n)
		unix.Close(fd)
	}
	b, err = os.ReadFile(path)
	o.note("read again", err, string(b))
	o.note("utimes", unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Sec: 1, Nsec: 2}, {Sec: 3, Nsec: 4}}, 0))
	st, err := statx(path)
	o.note("times", err, st.Atime.Sec, st.Atime.Nsec, st.Mtime.Sec, st.Mtime.Nsec)
	o.note("unlink", unix.Unlink(o.my("link-of-nothing")))
	o.note("rmdir full", unix.Rmdir(o.mine))
	o.note("truncate mine", unix.Truncate(o.at("mine"), 3))
	o.note("truncate file", unix.Truncate(o.at("file"), 3))
	o.note("mkdir exists", unix.Mkdir(o.mine, 0o700))
}

// privileges looks at what writes, size changes and new owners do to bits that give
// privileges.
func (o *observer) privileges() {
	who := filepath.Base(o.mine)
	for _, mode := range []string{"6777", "2767", "4755"} {
		for _, how := range []string{"write", "truncate", "ftruncate", "opentrunc", "append", "fallocate", "chown", "writezero"} {
			path := o.at(fmt.Sprintf("bits/%s-%s-%s", who, mode, how))
			o.note(how+" on "+mode, breakBits(path, how))
			o.noteAttr(how+" on "+mode+" leaves", path)
			_, err := unix.Getxattr(path, "security.capability", make([]byte, 100))
			o.note(how+" on "+mode+" leaves capabilities", err)
		}
	}
}

func breakBits(path, how string) error {
	switch how {
	case "truncate":
		return unix.Truncate(path, 2)
	case "chown":
		return unix.Chown(path, -1, os.Getgid())
	}
	flags := unix.O_RDWR
	switch how {
	case "opentrunc":
		flags |= unix.O_TRUNC
	case "append":
		flags |= unix.O_APPEND
	}
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	switch how {
	case "ftruncate":
		return unix.Ftruncate(fd, 2)
	case "fallocate":
		return unix.Fallocate(fd, 0, 0, 100)
	case "write", "append":
		_, err = unix.Write(fd, []byte("x"))
	case "writezero":
		_, err = unix.Write(fd, nil)
	}
	return err
}

// owners changes modes and owners.
func (o *observer) owners() {
	for _, id := range []int{0, 1000, 1005, 2005, 3005, 70000} {
		path := o.file(fmt.Sprint("owner", id), 0o644, "")
		o.note(fmt.Sprint("chown ", id), unix.Chown(path, id, -1))
		o.noteAttr(fmt.Sprint("chowned ", id), path)
		o.note(fmt.Sprint("chgrp ", id), unix.Chown(path, -1, id))
		o.noteAttr(fmt.Sprint("chgrped ", id), path)
	}
	path := o.file("mode", 0o644, "")
	for _, mode := range []uint32{0o7777, 0o2755, 0o4711, 0} {
		o.note(fmt.Sprintf("chmod %o", mode), unix.Chmod(path, mode))
		o.noteAttr(fmt.Sprintf("chmodded %o", mode), path)
	}
	o.note("chmod of another's", unix.Chmod(o.at("mine"), 0o600))
	o.note("chmod of root's", unix.Chmod(o.at("file"), 0o600))
}

// opens tries flags of open.
func (o *observer) opens() {
	path := o.file("opens", 0o644, strings.Repeat("x", 10000))
	for _, how := range []struct {
		name  string
		flags int
	}{
		{"rdonly", unix.O_RDONLY},
		{"rdwr", unix.O_RDWR},
		{"trunc", unix.O_RDWR | unix.O_TRUNC},
		{"excl", unix.O_RDWR | unix.O_CREAT | unix.O_EXCL},
		{"directory", unix.O_DIRECTORY},
		{"direct", unix.O_RDWR | unix.O_DIRECT},
		{"noatime", unix.O_NOATIME},
		{"dsync", unix.O_RDWR | unix.O_DSYNC},
		{"sync", unix.O_RDWR | unix.O_SYNC},
	} {
		fd, err := unix.Open(path, how.flags, 0o644)
		o.note("open "+how.name, err)
		if err != nil {
			continue
		}
		n, err := unix.Pread(fd, make([]byte, 100), 1)
		o.note("unaligned read "+how.name, err, n)
		if how.flags&unix.O_ACCMODE == unix.O_RDWR {
			n, err = unix.Pwrite(fd, []byte("unaligned"), 1)
			o.note("unaligned write "+how.name, err, n)
		}
		unix.Close(fd)
	}
	for _, name := range []string{"symlink", "fifo", "null", "dir", "secret", "missing", "hole"} {
		fd, err := unix.Open(o.at(name), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		o.note("open "+name, err)
		unix.Close(fd)
	}
	// An old access time that a read would renew, with and without O_NOATIME.
	for _, flags := range []int{unix.O_NOATIME, 0} {
		unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Sec: 1}, {Sec: 3}}, 0)
		fd, err := unix.Open(path, unix.O_RDONLY|flags, 0)
		if err != nil {
			o.note(fmt.Sprintf("open for atime %o", flags), err)
			continue
		}
		unix.Read(fd, make([]byte, 10))
		unix.Close(fd)
		st, err := statx(path)
		o.note(fmt.Sprintf("read renews atime, flags %o", flags), err, st.Atime.Sec != 1)
	}
}

// maps writes and reads through mapped memory.
func (o *observer) maps() {
	path := o.file("maps", 0o644, strings.Repeat("m", 5000))
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		o.note("open to map", err)
		return
	}
	defer unix.Close(fd)
	private, err := unix.Mmap(fd, 0, 5000, unix.PROT_READ, unix.MAP_PRIVATE)
	o.note("mmap private", err)
	if err == nil {
		unix.Munmap(private)
	}
	shared, err := unix.Mmap(fd, 0, 5000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	o.note("mmap shared", err)
	if err != nil {
		return
	}
	o.note("write mapped", touch(shared[4990:], []byte("mapped")))
	o.note("msync", unix.Msync(shared, unix.MS_SYNC))
	unix.Munmap(shared)
	b := make([]byte, 6)
	n, err := unix.Pread(fd, b, 4990)
	o.note("read what was mapped", err, n, string(b))
}
