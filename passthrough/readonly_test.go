package passthrough

import (
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/virtio/guestmem"
)

func readonly(o *Options) fuse.InitFlags {
	o.Readonly = true
	return 0
}

// TestH191Readonly has every operation that changes something.
func TestH191Readonly(t *testing.T) {
	g := newGuest(t, readonly)
	g.file("f", "data", 0o644)
	g.mkdir("d", 0o755)
	ro, c, root := g.fs.View(), g.c, fuse.RootID
	n := g.find("f").Node
	h := g.open(n, unix.O_RDWR)
	var e fuse.Entry
	var o fuse.Opened
	name := []byte("f")
	for op, err := range map[string]error{
		"SETATTR":         second(ro.SetAttr(c, n, &fuse.SetAttr{Valid: fuse.SetAttrMode}, new(fuse.Attr))),
		"SYMLINK":         ro.Symlink(c, root, name, name, new(fuse.Create), &e),
		"MKNOD":           ro.MkNod(c, root, name, new(fuse.Create), &e),
		"MKDIR":           ro.MkDir(c, root, name, new(fuse.Create), &e),
		"UNLINK":          ro.Unlink(c, root, name),
		"RMDIR":           ro.RmDir(c, root, []byte("d")),
		"RENAME":          ro.Rename(c, root, name, root, []byte("g"), 0),
		"LINK":            ro.Link(c, n, root, []byte("g"), &e),
		"WRITE":           second(ro.Write(c, n, h, guestmem.Vec{}, 0, new(fuse.WriteArgs))),
		"SETXATTR":        ro.SetXattr(c, n, []byte("user.a"), nil, 0, false),
		"REMOVEXATTR":     ro.RemoveXattr(c, n, []byte("user.a")),
		"FALLOCATE":       ro.Fallocate(c, n, h, 0, 10, 0),
		"COPY_FILE_RANGE": second(ro.CopyFileRange(c, fuse.FileRange{Node: n, Handle: h}, fuse.FileRange{Node: n, Handle: h}, 1, 0)),
		"TMPFILE":         ro.TmpFile(c, root, &fuse.Create{Flags: unix.O_RDWR}, &e, &o),
		"IOCTL SETFLAGS":  third(ro.Ioctl(c, n, h, fsSetFlags, make([]byte, 4), nil)),
		"IOCTL VERITY":    third(ro.Ioctl(c, n, h, fsEnableVerity, make([]byte, 128), nil)),
		"ACCESS W":        ro.Access(c, n, mayWrite),
		"OPEN WRONLY":     ro.Open(c, n, unix.O_WRONLY, false, &o),
		"OPEN RDWR":       ro.Open(c, n, unix.O_RDWR|unix.O_TRUNC, false, &o),
		"OPEN EXCL":       ro.Open(c, n, unix.O_EXCL, false, &o),
		"CREATE missing":  ro.Create(c, root, []byte("g"), new(fuse.Create), &e, &o),
		"CREATE to write": ro.Create(c, root, name, &fuse.Create{Flags: unix.O_WRONLY}, &e, &o),
	} {
		want(t, op, err, syscall.EROFS)
	}
	want(t, "OPEN TRUNC", ro.Open(c, n, unix.O_TRUNC, false, &o), syscall.EINVAL)
	want(t, "OPEN TMPFILE", ro.Open(c, n, unix.O_TMPFILE, false, &o), syscall.EINVAL)
	want(t, "unknown IOCTL", third(ro.Ioctl(c, n, h, 1, nil, nil)), syscall.ENOTTY)
	same(t, "content", g.content("f"), "data")
	if names, _ := os.ReadDir(g.dir); len(names) != 2 {
		t.Errorf("the directory has %v; want f and d", names)
	}

	// reading works
	must(t, ro.Open(c, n, unix.O_RDONLY, false, &o))
	same(t, "read", g.read(n, o.Handle, 0, 10), "data")
	must(t, ro.Flush(c, n, o.Handle))
	must(t, ro.Fsync(c, n, o.Handle, false))
	must(t, ro.Access(c, n, mayRead))
	if result, k, err := ro.Ioctl(c, n, h, fsGetFlags, nil, make([]byte, 4)); err != nil || result == 0 && k != 4 {
		t.Errorf("IOCTL GETFLAGS = %d, %d, %v", result, k, err)
	}
	must(t, ro.Create(c, root, name, &fuse.Create{Flags: unix.O_RDONLY}, &e, &o))
	same(t, "node of CREATE", e.Node, n)
	same(t, "read", g.read(n, o.Handle, 0, 10), "data")
	want(t, "CREATE of a directory", ro.Create(c, root, []byte("d"), new(fuse.Create), &e, &o), syscall.EISDIR)
	want(t, "CREATE of a bad name", ro.Create(c, root, []byte("."), new(fuse.Create), &e, &o), syscall.EINVAL)
}

func second[T any](_ T, err error) error        { return err }
func third[T, U any](_ T, _ U, err error) error { return err }

// TestReadonlyKnowsAll makes whoever adds an operation say whether it changes anything.
func TestReadonlyKnowsAll(t *testing.T) {
	harmless := []string{
		"AttachThread", "Destroy", "DetachThread", "DropHandleLocks", "DropLocks", "EndWait", "Flush", "Forget", "Fsync",
		"FsyncDir", "GetAttr", "GetLock", "GetXattr", "Init", "ListXattr", "Lookup", "Lseek", "Offer", "OpenDir",
		"Read", "ReadDir", "ReadLink", "Release", "ReleaseDir", "SetLock", "StatFS", "Statx", "SyncFS",
	}
	own := reflect.TypeFor[readOnly]()
	all := reflect.TypeFor[fuse.FileSystem]()
	for i := range all.NumMethod() {
		name := all.Method(i).Name
		m, _ := own.MethodByName(name)
		f := runtime.FuncForPC(m.Func.Pointer())
		file, _ := f.FileLine(f.Entry())
		declared := filepath.Base(file) == "readonly.go" // and not promoted
		if declared == slices.Contains(harmless, name) {
			t.Errorf("%s: refused %v; add it to readOnly if it changes anything, else to this test", name, declared)
		}
	}
}
