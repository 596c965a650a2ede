package fd

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestTarget(t *testing.T) {
	dir, err := OpenDir()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	n, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := New(n, "event")
	if got, err := f.Target(dir); got != "anon_inode:[eventfd]" || err != nil {
		t.Errorf("Target of an eventfd = %q, %v", got, err)
	}
	f.Close()
	if got, err := f.Target(dir); err == nil {
		t.Errorf("Target of a closed descriptor = %q; want an error", got)
	}
	// The way up is closed, if the kernel makes mounts for us.
	if up, err := unix.Openat(dir.Int(), "../cmdline", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		unix.Close(up)
		if unix.Geteuid() == 0 {
			t.Error("/proc can be reached from /proc/self/fd")
		}
	}
}
