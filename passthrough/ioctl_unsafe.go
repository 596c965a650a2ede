package passthrough

import (
	"encoding/binary"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl runs a command that reads and writes arg. The caller makes arg as long as the
// command wants.
func ioctl(fd int, cmd uint32, arg []byte) syscall.Errno {
	for {
		// SAFETY: arg has the length that the command's number says.
		_, _, e := syscall.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(cmd), uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
		if e != unix.EINTR {
			return e
		}
	}
}

// enableVerity runs FS_IOC_ENABLE_VERITY: arg is a struct fsverity_enable_arg, whose
// two pointers are made to lead to salt and sig.
func enableVerity(fd int, arg, salt, sig []byte) syscall.Errno {
	var pin runtime.Pinner
	defer pin.Unpin()
	for _, p := range []struct {
		at   int
		data []byte
	}{{verityArgSalt, salt}, {verityArgSig, sig}} {
		var address uint64
		if len(p.data) > 0 {
			pin.Pin(&p.data[0])
			// SAFETY: what p.data is part of stays where it is until Unpin.
			address = uint64(uintptr(unsafe.Pointer(&p.data[0])))
		}
		binary.NativeEndian.PutUint64(arg[p.at:], address)
	}
	return ioctl(fd, fsEnableVerity, arg)
}
