package workload

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// seedTree makes the tree that observers look at: all kinds of objects, owners and
// modes, a mount point, and a directory for each observer.
func seedTree(t *testing.T, root string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(root, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string, uid int, mode uint32, data string) {
		t.Helper()
		must(os.WriteFile(at(name), []byte(data), 0o600))
		must(os.Chown(at(name), uid, uid))
		must(unix.Chmod(at(name), mode))
	}
	dir := func(name string, uid int, mode uint32) {
		t.Helper()
		must(os.Mkdir(at(name), 0o700))
		must(os.Chown(at(name), uid, uid))
		must(unix.Chmod(at(name), mode))
	}

	dir("user0", 0, 0o755)
	dir("user1000", 1000, 0o755)
	dir("dir", 0, 0o755)
	dir("setgid", 2005, 0o2777)
	dir("sticky", 0, 0o1777)
	dir("sub", 0, 0o755)
	must(unix.Mount("workload", at("sub"), "tmpfs", 0, "mode=0777"))
	t.Cleanup(func() { unix.Unmount(at("sub"), unix.MNT_DETACH) })
	file("sub/file", 0, 0o644, "below a mount point")

	file("file", 0, 0o644, "everybody may read this")
	file("mine", 1000, 0o644, "of user 1000")
	file("suid", 1000, 0o4755, "")
	file("secret", 0, 0o600, "nobody may read this")
	file("tagged", 1000, 0o644, "")
	file("dir/inner", 0, 0o644, "inner")
	file("sticky/of-root", 0, 0o666, "")
	file("victim-user0", 1000, 0o644, "")
	file("victim-user1000", 1000, 0o644, "")
	for _, id := range []int{1005, 2005, 3005, 5000} {
		file(fmt.Sprintf("of-%d", id), id, 0o644, "")
	}
	must(os.Symlink("file", at("symlink")))
	must(unix.Mkfifo(at("fifo"), 0o666))
	must(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(os.Link(at("file"), at("hard")))
	file("hole", 1000, 0o644, "")
	fd, err := openAt(at("hole"), unix.O_WRONLY)
	must(err)
	_, err = unix.Pwrite(fd, []byte("data after a hole"), 1<<20)
	must(err)
	must(unix.Ftruncate(fd, 3<<20))
	must(unix.Close(fd))

	for name, value := range map[string]string{
		"user.a": "1", "user.virtiofs.user.b": "2", "user.virtiofs.trusted.c": "3", "trusted.d": "4",
	} {
		must(unix.Setxattr(at("tagged"), name, []byte(value), 0))
	}
	file("aclfile", 0, 0o640, "")
	must(unix.Setxattr(at("aclfile"), "system.posix_acl_access", aclOf(1000), 0))
	dir("acls", 0, 0o777)
	must(unix.Setxattr(at("acls"), "system.posix_acl_default", aclOf(1005), 0))

	dir("bits", 0, 0o755)
	for _, who := range []string{"user0", "user1000"} {
		for _, mode := range []uint32{0o6777, 0o2767, 0o4755} {
			for _, how := range []string{"write", "truncate", "ftruncate", "opentrunc", "append", "fallocate", "chown", "writezero"} {
				name := fmt.Sprintf("bits/%s-%o-%s", who, mode, how)
				file(name, 1000, mode, "privileged")
				must(unix.Setxattr(at(name), "security.capability", []byte(capability), 0))
			}
		}
	}
}
