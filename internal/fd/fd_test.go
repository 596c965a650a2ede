package fd_test

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
)

func isOpen(n int) bool {
	_, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
	return err == nil
}

func TestClose(t *testing.T) {
	f, err := fd.NewEvent("bell")
	if err != nil {
		t.Fatal(err)
	}
	n := f.Int()
	if name := f.String(); !slices.Contains(fd.Open(), name) || !strings.HasPrefix(name, "bell(") {
		t.Errorf("Open() = %v; want it to list %s", fd.Open(), name)
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	}
	if isOpen(n) || f.Int() != -1 || len(fd.Open()) != 0 {
		t.Errorf("after Close: descriptor open %v, Int() = %d, Open() = %v; want false, -1, none", isOpen(n), f.Int(), fd.Open())
	}
	var none *fd.FD
	if err := none.Close(); err != nil {
		t.Errorf("Close() of nil = %v; want nil", err)
	}
}

func TestCloseOfWhatIsNotOpen(t *testing.T) {
	f := fd.New(1<<20, "nothing")
	if err := f.Close(); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("Close() = %v; want an error that names it", err)
	}
}

func TestEvent(t *testing.T) {
	f, err := fd.NewEvent("bell")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	readable := func() bool {
		p := []unix.PollFd{{Fd: int32(f.Int()), Events: unix.POLLIN}}
		n, _ := unix.Poll(p, 0)
		return n == 1
	}
	f.Drain() // empty: doesn't block
	if readable() {
		t.Error("a new event is readable")
	}
	for range 2 {
		if err := f.Signal(); err != nil {
			t.Fatal(err)
		}
	}
	if !readable() {
		t.Error("a signalled event isn't readable")
	}
	f.Drain()
	if readable() {
		t.Error("a drained event is readable")
	}

	// A full counter is signalled enough.
	if _, err := unix.Write(f.Int(), []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if err := f.Signal(); err != nil {
		t.Errorf("Signal() of a full counter = %v; want nil", err)
	}
}

func TestSignalFails(t *testing.T) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	unix.Close(p[1])
	f := fd.New(p[0], "reading end")
	defer f.Close()
	if err := f.Signal(); err == nil || !strings.Contains(err.Error(), "reading end") {
		t.Errorf("Signal() = %v; want an error that names it", err)
	}
}
