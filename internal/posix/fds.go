package posix

import "golang.org/x/sys/unix"

// descriptorTable says what a system call answers that is given a descriptor: a
// regular file opened for reading, writing or both, with O_PATH, a directory, a
// directory with O_PATH, a FIFO with a reader and writer, the null device, and a
// symbolic link with O_PATH.
const descriptorTable = `
                 r      w      rw     path   dir     dpath   fifo   null    plink
read             -      EBADF  -      EBADF  EISDIR  EBADF   EAGAIN -       EBADF
read-0           -      EBADF  -      EBADF  EISDIR  EBADF   -      -       EBADF
write            EBADF  -      -      EBADF  EBADF   EBADF   -      -       EBADF
write-0          EBADF  -      -      EBADF  EBADF   EBADF   -      -       EBADF
pread            -      EBADF  -      EBADF  EISDIR  EBADF   ESPIPE -       EBADF
pread-negative   EINVAL EINVAL EINVAL EINVAL EINVAL  EINVAL  EINVAL EINVAL  EINVAL
pwrite           EBADF  -      -      EBADF  EBADF   EBADF   ESPIPE -       EBADF
readv            -      EBADF  -      EBADF  EISDIR  EBADF   EAGAIN -       EBADF
writev           EBADF  -      -      EBADF  EBADF   EBADF   -      -       EBADF
preadv           -      EBADF  -      EBADF  EISDIR  EBADF   ESPIPE -       EBADF
pwritev          EBADF  -      -      EBADF  EBADF   EBADF   ESPIPE -       EBADF
preadv2-hipri    -      EBADF  -      EBADF  EISDIR  EBADF   .      .       EBADF
preadv2-unknown  EOPNOTSUPP EBADF EOPNOTSUPP EBADF . EBADF   .      .       EBADF
pwritev2-append  EBADF  -      -      EBADF  EBADF   EBADF   .      .       EBADF
pwritev2-dsync   EBADF  -      -      EBADF  EBADF   EBADF   .      .       EBADF
pwritev2-sync    EBADF  -      -      EBADF  EBADF   EBADF   .      .       EBADF
lseek-set        -      -      -      EBADF  -       EBADF   ESPIPE -       EBADF
lseek-negative   EINVAL EINVAL EINVAL EBADF  EINVAL  EBADF   ESPIPE .       EBADF
lseek-whence     EINVAL EINVAL EINVAL EBADF  EINVAL  EBADF   EINVAL EINVAL  EBADF
lseek-data       -      -      -      EBADF  .       EBADF   ESPIPE .       EBADF
lseek-data-eof   ENXIO  ENXIO  ENXIO  EBADF  .       EBADF   ESPIPE .       EBADF
lseek-hole       -      -      -      EBADF  .       EBADF   ESPIPE .       EBADF
ftruncate        EINVAL -      -      EBADF  EINVAL  EBADF   EINVAL EINVAL  EBADF
ftruncate-less   EINVAL EINVAL EINVAL EINVAL EINVAL  EINVAL  EINVAL EINVAL  EINVAL
fallocate        EBADF  -      -      EBADF  EBADF   EBADF   ESPIPE ENODEV  EBADF
fchmod           -      -      -      EBADF  -       EBADF   -      -       EBADF
fchmodat-empty   -      -      -      -      -       -       -      -       EOPNOTSUPP
fchown           -      -      -      EBADF  -       EBADF   -      -       EBADF
fchownat-empty   -      -      -      -      -       -       -      -       -
utimensat-empty  -      -      -      -      -       -       -      -       -
fstat            -      -      -      -      -       -       -      -       -
statx-empty      -      -      -      -      -       -       -      -       -
fstatfs          -      -      -      -      -       -       -      -       -
fsync            -      -      -      EBADF  -       EBADF   EINVAL EINVAL  EBADF
fdatasync        -      -      -      EBADF  -       EBADF   EINVAL EINVAL  EBADF
syncfs           -      -      -      EBADF  -       EBADF   -      -       EBADF
sync-range       -      -      -      EBADF  -       EBADF   ESPIPE ESPIPE  EBADF
fadvise          -      -      -      EBADF  -       EBADF   ESPIPE -       EBADF
fgetxattr        ENODATA ENODATA ENODATA EBADF ENODATA EBADF ENODATA ENODATA EBADF
fsetxattr        -      -      -      EBADF  -       EBADF   EPERM  EPERM   EBADF
flistxattr       -      -      -      EBADF  -       EBADF   -      -       EBADF
fremovexattr     ENODATA ENODATA ENODATA EBADF ENODATA EBADF EPERM  EPERM   EBADF
getdents         ENOTDIR ENOTDIR ENOTDIR EBADF -     EBADF   ENOTDIR ENOTDIR EBADF
mmap-read        -      EACCES -      EBADF  ENODEV  EBADF   ENODEV ENODEV  EBADF
mmap-shared      EACCES EACCES -      EBADF  EACCES  EBADF   ENODEV ENODEV  EBADF
mmap-private     -      EACCES -      EBADF  ENODEV  EBADF   ENODEV ENODEV  EBADF
getflags         -      -      -      EBADF  -       EBADF   ENOTTY ENOTTY  EBADF
ioctl-unknown    ENOTTY ENOTTY ENOTTY EBADF  ENOTTY  EBADF   ENOTTY ENOTTY  EBADF
getfl            -      -      -      -      -       -       -      -       -
setfl-append     -      -      -      EBADF  -       EBADF   -      -       EBADF
dup              -      -      -      -      -       -       -      -       -
poll             -      -      -      EBADF  -       EBADF   -      -       EBADF
flock-sh         -      -      -      EBADF  -       EBADF   -      -       EBADF
flock-ex         -      -      -      EBADF  -       EBADF   -      -       EBADF
flock-bad        EINVAL EINVAL EINVAL EINVAL EINVAL  EINVAL  EINVAL EINVAL  EINVAL
setlk-read       -      EBADF  -      EBADF  -       EBADF   -      -       EBADF
setlk-write      EBADF  -      -      EBADF  EBADF   EBADF   -      -       EBADF
ofd-read         -      EBADF  -      EBADF  -       EBADF   -      -       EBADF
ofd-write        EBADF  -      -      EBADF  EBADF   EBADF   -      -       EBADF
getlk            -      -      -      EBADF  -       EBADF   -      -       EBADF
setlk-bad        EINVAL EINVAL EINVAL EBADF  EINVAL  EBADF   EINVAL EINVAL  EBADF
copy-from        -      EBADF  -      EBADF  EISDIR  EBADF   EINVAL EINVAL  EBADF
copy-to          EBADF  -      -      EBADF  EISDIR  EBADF   EINVAL EINVAL  EBADF
sendfile-from    -      EBADF  -      EBADF  .       EBADF   .      .       EBADF
sendfile-to      EBADF  -      -      EBADF  EBADF   EBADF   .      -       EBADF
splice-from      -      EBADF  -      EBADF  .       EBADF   .      .       EBADF
splice-to        EBADF  -      -      EBADF  EBADF   EBADF   .      -       EBADF
fchdir           ENOTDIR ENOTDIR ENOTDIR ENOTDIR -   -       ENOTDIR ENOTDIR ENOTDIR
openat           ENOTDIR ENOTDIR ENOTDIR ENOTDIR ENOENT ENOENT ENOTDIR ENOTDIR ENOTDIR
mkdirat          ENOTDIR ENOTDIR ENOTDIR ENOTDIR -   -       ENOTDIR ENOTDIR ENOTDIR
mknodat          ENOTDIR ENOTDIR ENOTDIR ENOTDIR -   -       ENOTDIR ENOTDIR ENOTDIR
symlinkat        ENOTDIR ENOTDIR ENOTDIR ENOTDIR -   -       ENOTDIR ENOTDIR ENOTDIR
linkat           ENOTDIR ENOTDIR ENOTDIR ENOTDIR -   -       ENOTDIR ENOTDIR ENOTDIR
unlinkat         ENOTDIR ENOTDIR ENOTDIR ENOTDIR ENOENT ENOENT ENOTDIR ENOTDIR ENOTDIR
renameat         ENOTDIR ENOTDIR ENOTDIR ENOTDIR ENOENT ENOENT ENOTDIR ENOTDIR ENOTDIR
fstatat          ENOTDIR ENOTDIR ENOTDIR ENOTDIR ENOENT ENOENT ENOTDIR ENOTDIR ENOTDIR
readlinkat       ENOTDIR ENOTDIR ENOTDIR ENOTDIR ENOENT ENOENT ENOTDIR ENOTDIR ENOTDIR
readlinkat-empty ENOENT ENOENT ENOENT ENOENT ENOENT  ENOENT  ENOENT ENOENT  -
reopen-proc      -      -      -      -      -       -       -      -       ELOOP
link-proc        -      -      -      -      EPERM   EPERM   -      -       -
`

// descriptor opens a column of descriptorTable.
func (e *env) descriptor(column string) int {
	switch column {
	case "dir", "dpath":
		e.make("dir", "object")
	case "fifo":
		e.make("fifo", "object")
	case "null":
		e.make("char", "object")
	case "plink":
		e.make("link", "object")
	default:
		e.make("file", "object")
	}
	return e.open("object", map[string]int{
		"r": unix.O_RDONLY, "w": unix.O_WRONLY, "rw": unix.O_RDWR, "path": unix.O_PATH,
		"dir": unix.O_RDONLY | unix.O_DIRECTORY, "dpath": unix.O_PATH | unix.O_DIRECTORY,
		"fifo": unix.O_RDWR | unix.O_NONBLOCK, "null": unix.O_RDWR, "plink": unix.O_PATH | unix.O_NOFOLLOW,
	}[column])
}

// descriptorCases are the cells of descriptorTable.
func descriptorCases() (cases []testcase) {
	for _, c := range cells(descriptorTable) {
		cases = append(cases, testcase{
			name: "fd/" + c.row + "/" + c.column + "/" + c.want,
			root: c.column == "null",
			run: func(e *env) {
				fd := e.descriptor(c.column)
				e.is("", e.descriptorOps()[c.row](fd), c.want)
			},
		})
	}
	return cases
}
