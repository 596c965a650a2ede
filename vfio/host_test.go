package vfio

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
)

// TestIoctl makes requests that every kernel has.
func TestIoctl(t *testing.T) {
	var p [2]int
	if err := unix.Pipe2(p[:], 0); err != nil {
		t.Fatal(err)
	}
	in, out := fd.New(p[0], "pipe"), fd.New(p[1], "pipe")
	defer in.Close()
	defer out.Close()
	unix.Write(out.Int(), make([]byte, 260))
	b := make([]byte, 4)
	if _, e := ioctl(in, unix.TIOCINQ, b); e != 0 || !bytes.Equal(b, []byte{4, 1, 0, 0}) {
		t.Errorf("TIOCINQ = %v, %v; want [4 1 0 0]", b, e)
	}
	const fioclex = 0x5451 // FIOCLEX
	_, e := ioctlInt(in, fioclex, 0)
	flags, err := unix.FcntlInt(uintptr(in.Int()), unix.F_GETFD, 0)
	if e != 0 || err != nil || flags != unix.FD_CLOEXEC {
		t.Errorf("FIOCLEX = %v, then flags = %#x, %v; want %#x", e, flags, err, unix.FD_CLOEXEC)
	}
	h := newHost("")
	if _, err := h.do(in, deviceGetInfo, deviceInfoRequest()); err == nil {
		t.Error("VFIO_DEVICE_GET_INFO on a pipe = nil; want an error")
	}
	if _, err := h.doInt(in, deviceReset, 0); err == nil {
		t.Error("VFIO_DEVICE_RESET on a pipe = nil; want an error")
	}
	if err := h.lockable(0); err != nil {
		t.Errorf("lockable(0) = %v; want nil", err)
	}
}
