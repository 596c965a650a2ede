package passthrough

import (
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// asDaemonOf returns a guest whose thread is an ordinary user's for good, as if the
// daemon had been started by that user.
func (g *guest) asDaemonOf(uid uint32) *guest {
	g.Helper()
	needRoot(g)
	runtime.LockOSThread()
	if _, e := call(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, 0, 0, 0); e != 0 {
		unable(g, "needs CAP_SETPCAP: "+e.Error())
	}
	id := uintptr(uid)
	for _, nr := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
		if _, _, e := syscall.RawSyscall(nr, id, id, id); e != 0 {
			g.Fatalf("become user %d: %v", uid, e)
		}
	}
	return g.thread(g.TB)
}

func TestOrdinaryUser(t *testing.T) {
	needRoot(t)
	base := newGuest(t)
	must(t, os.Chown(base.dir, 1000, 1000))
	base.mkdir("x-only", 0o711)
	base.file("x-only/f", "data", 0o644)
	base.file("foreign", "data", 0o666)
	base.file("secret", "data", 0o600)

	t.Run("H077 search without read", func(t *testing.T) {
		base := *base
		base.TB = t
		g := base.asDaemonOf(1000)
		n := g.find("x-only/f").Node
		same(t, "data", g.read(n, g.open(n, 0), 0, 10), "data")
		var o fuse.Opened
		err := g.fs.OpenDir(g.c, g.find("x-only").Node, 0, &o)
		want(t, "OpenDir", err, unix.EACCES)
		_, err = g.openErr(g.find("secret").Node, 0)
		want(t, "Open", err, unix.EACCES)
		must(t, g.fs.SyncFS(g.c, g.find("x-only").Node)) // H121: by the root
	})
	t.Run("H084 owner", func(t *testing.T) {
		base := *base
		base.TB = t
		g := base.asDaemonOf(1000)
		for _, uid := range []uint32{0, 1000} { // guest root is the daemon's user
			_, err := g.as(uid, uid, 5).mkdirat(fuse.RootID, "d", 0o755)
			must(t, err)
			same(t, "owner", g.find("d").Attr.UID, 1000)
			must(t, g.fs.RmDir(g.c, fuse.RootID, []byte("d")))
		}
		_, err := g.as(1001, 1000).mkdirat(fuse.RootID, "d", 0o755)
		want(t, "MkDir as another user", err, unix.EPERM)
		_, err = g.as(1000, 1001).mkdirat(fuse.RootID, "d", 0o755)
		want(t, "MkDir as another group", err, unix.EPERM)
	})
	t.Run("H094 noatime", func(t *testing.T) {
		base := *base
		base.TB = t
		g := base.asDaemonOf(1000)
		n := g.find("foreign").Node
		g.open(n, unix.O_NOATIME)
		g.fs.opt.PreserveNoatime = true
		defer func() { g.fs.opt.PreserveNoatime = false }()
		_, err := g.openErr(n, unix.O_NOATIME)
		want(t, "Open", err, unix.EPERM)
	})
	t.Run("H170 xattr of an unreadable file", func(t *testing.T) {
		base := *base
		base.TB = t
		base.file("mine", "", 0)
		must(t, os.Chown(base.path("mine"), 1000, 1000))
		g := base.asDaemonOf(1000)
		n := g.find("mine").Node
		_, err := g.getx(n, "trusted.a", 10)
		want(t, "GetXattr", err, unix.ENODATA)
		if _, err := g.fs.ListXattr(g.c, n, nil); err != nil {
			t.Errorf("ListXattr = %v; want success", err)
		}
	})
}

func TestNeedsItsOwnThread(t *testing.T) {
	wd, err := syscall.Getwd()
	must(t, err)
	newGuest(t)
	done := make(chan string)
	go func() { // on another thread
		wd, _ := syscall.Getwd()
		done <- wd
	}()
	same(t, "current directory of other threads", <-done, wd)
}
