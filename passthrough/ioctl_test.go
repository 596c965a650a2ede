package passthrough

import (
	"encoding/binary"
	"errors"
	"math"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// ioctl runs a command; an error of the host is its negative result.
func (g *guest) ioctl(node fuse.NodeID, h fuse.Handle, cmd uint32, in []byte, room int) ([]byte, int, error) {
	out := make([]byte, room)
	result, n, err := g.fs.Ioctl(g.c, node, h, cmd, in, out)
	return out[:n], result, err
}

// le is numbers as bytes.
func le(numbers ...uint32) []byte {
	var b []byte
	for _, n := range numbers {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	return b
}

func TestH185Flags(t *testing.T) {
	const nodump = 0x40 // FS_NODUMP_FL
	g := newGuest(t)
	node, h := g.made("f", unix.O_RDWR)
	d := g.opendir(fuse.RootID)
	for _, x := range []struct {
		name     string
		node     fuse.NodeID
		h        fuse.Handle
		get, set uint32
	}{
		{"file", node, h, fsGetFlags, fsSetFlags},
		{"file, 32-bit", node, h, fsGetFlags32, fsSetFlags32},
		{"directory", fuse.RootID, d, fsGetFlags, fsSetFlags},
	} {
		old, result, err := g.ioctl(x.node, x.h, x.get, nil, 4)
		if err != nil || result != 0 || len(old) != 4 {
			t.Fatalf("%s: FS_IOC_GETFLAGS = %d, %d bytes, %v; want 0, 4 bytes (does the file system of TMPDIR have flags?)", x.name, result, len(old), err)
		}
		changed := le(word(old, 0) ^ nodump)
		_, result, err = g.ioctl(x.node, x.h, x.set, changed, 0)
		must(t, err)
		same(t, x.name+": FS_IOC_SETFLAGS", result, 0)
		now, _, err := g.ioctl(x.node, x.h, x.get, nil, 4)
		must(t, err)
		same(t, x.name+": flags", word(now, 0), word(changed, 0))
	}
	for name, x := range map[string]struct {
		cmd  uint32
		in   []byte
		room int
		err  syscall.Errno
	}{
		"GETFLAGS without room": {fsGetFlags, nil, 0, unix.ENOMEM},
		"GETFLAGS, 3 bytes":     {fsGetFlags, nil, 3, unix.ENOMEM},
		"SETFLAGS, 3 bytes":     {fsSetFlags, le(0)[:3], 0, unix.ENOMEM},
		"SETFLAGS PROJINHERIT":  {fsSetFlags, le(flagProjinherit), 0, unix.EPERM},
		"FIBMAP":                {1, le(0), 4, unix.ENOTTY},
		"TCGETS":                {unix.TCGETS, nil, 64, unix.ENOTTY},
	} {
		_, _, err := g.ioctl(node, h, x.cmd, x.in, x.room)
		want(t, name, err, x.err)
	}
	_, _, err := g.ioctl(fuse.RootID, h, fsGetFlags, nil, 4)
	want(t, "H099 handle of another node", err, unix.EBADF)
}

func TestH186Fsxattr(t *testing.T) {
	g := newGuest(t)
	node, h := g.made("f", unix.O_RDWR)
	_, _, err := g.ioctl(node, h, fsGetXattr, nil, 27)
	want(t, "FSGETXATTR, 27 bytes", err, unix.ENOMEM)
	x, result, err := g.ioctl(node, h, fsGetXattr, nil, 100)
	if err != nil || result != 0 || len(x) != fsxattrSize {
		t.Fatalf("FS_IOC_FSGETXATTR = %d, %d bytes, %v; want 0, %d bytes", result, len(x), err, fsxattrSize)
	}
	_, _, err = g.ioctl(node, h, fsSetXattr, x[:20], 0)
	want(t, "FSSETXATTR, 20 bytes", err, unix.EINVAL)

	const nodump = 0x80 // FS_XFLAG_NODUMP
	changed := append(le(word(x, 0)^nodump), x[4:]...)
	_, result, err = g.ioctl(node, h, fsSetXattr, changed, 0)
	must(t, err)
	same(t, "FS_IOC_FSSETXATTR", result, 0)
	x, _, err = g.ioctl(node, h, fsGetXattr, nil, fsxattrSize)
	must(t, err)
	same(t, "fsx_xflags", word(x, 0), word(changed, 0))

	binary.NativeEndian.PutUint32(x[fsxattrProjid:], word(x, fsxattrProjid)+1)
	_, _, err = g.ioctl(node, h, fsSetXattr, x, 0)
	want(t, "another project id", err, unix.EPERM)
	_, _, err = g.ioctl(node, h, fsSetXattr, append(le(word(changed, 0)^xflagProjinherit), changed[4:]...), 0)
	want(t, "inheriting the project id", err, unix.EPERM)

	// Allowed, it is up to the host.
	g.fs.opt.AllowProjid = true
	_, result, err = g.ioctl(node, h, fsSetXattr, x, 0)
	must(t, err)
	if e := syscall.Errno(-result); result != 0 && e != unix.EINVAL && e != unix.EOPNOTSUPP && e != unix.EPERM {
		t.Errorf("FS_IOC_FSSETXATTR(projid) = %d; want 0 or what a host without project ids says", result)
	}
}

func TestH187Verity(t *testing.T) {
	g := newGuest(t)
	node, h := g.made("f", unix.O_RDWR)
	r := g.open(node, unix.O_RDONLY)
	d := g.opendir(fuse.RootID)
	arg := func(saltLen, sigLen uint32, extra int) []byte {
		b := make([]byte, verityArgSize+extra)
		copy(b, le(1, 1, 4096)) // version, SHA-256, block size
		binary.NativeEndian.PutUint32(b[verityArgSaltLen:], saltLen)
		binary.NativeEndian.PutUint32(b[verityArgSigLen:], sigLen)
		copy(b[verityArgSalt:], "\xff\xff\xff\xff\xff\xff\xff\xff") // of the guest: never used
		return b
	}
	for name, x := range map[string]struct {
		node fuse.NodeID
		h    fuse.Handle
		in   []byte
		err  syscall.Errno
	}{
		"directory":         {fuse.RootID, d, arg(0, 0, 0), unix.EISDIR},
		"short argument":    {node, r, arg(0, 0, 0)[:127], unix.EINVAL},
		"salt of 2^31":      {node, r, arg(1<<31, 0, 8), unix.ENOMEM},
		"signature of 2^31": {node, r, arg(0, 1<<31, 8), unix.ENOMEM},
		"salt is missing":   {node, r, arg(16, 0, 8), unix.EINVAL},
		"signature is cut":  {node, r, arg(4, 5, 8), unix.EINVAL},
	} {
		_, _, err := g.ioctl(x.node, x.h, fsEnableVerity, x.in, 0)
		want(t, name, err, x.err)
	}
	g.c.MayBlock = false
	if _, _, err := g.ioctl(node, r, fsEnableVerity, arg(4, 4, 8), 0); !errors.Is(err, fuse.ErrWouldBlock) {
		t.Errorf("FS_IOC_ENABLE_VERITY where nothing may block = %v; want ErrWouldBlock", err)
	}
	g.c.MayBlock = true

	// Is there verity here? If so all of it works, and only once nobody can write.
	_, result, err := g.ioctl(node, h, fsEnableVerity, arg(4, 0, 4), 0)
	must(t, err)
	lacks := func(result int) bool {
		e := syscall.Errno(-result)
		return e == unix.EOPNOTSUPP || e == unix.ENOTTY
	}
	if !lacks(result) {
		same(t, "verity of a file that is open for writing", syscall.Errno(-result), unix.ETXTBSY)
		must(t, g.release(node, h))
		_, result, err = g.ioctl(node, r, fsEnableVerity, arg(4, 0, 4), 0)
		must(t, err)
		same(t, "FS_IOC_ENABLE_VERITY", result, 0)
	}
	for _, room := range []int{4 + 64, 4} {
		b, result, err := g.ioctl(node, r, fsMeasure, []byte{0, 0, 64, 0}, room)
		must(t, err)
		switch e := syscall.Errno(-result); {
		case lacks(result), e == unix.ENODATA:
		case room == 4:
			same(t, "digest without room", e, unix.EOVERFLOW)
		default:
			same(t, "length of a SHA-256 digest", len(b), 4+32)
		}
	}
	_, _, err = g.ioctl(node, r, fsMeasure, []byte{0, 0, 64}, 68)
	want(t, "FS_IOC_MEASURE_VERITY, 3 bytes", err, unix.EINVAL)
}

func TestEncryptionPolicy(t *testing.T) {
	g := newGuest(t)
	node, h := g.made("f", unix.O_RDWR)
	_, _, err := g.ioctl(node, h, fsGetPolicy, make([]byte, 7), 32)
	want(t, "policy without its size", err, unix.EINVAL)
	in := binary.NativeEndian.AppendUint64(nil, math.MaxUint64)
	_, result, err := g.ioctl(node, h, fsGetPolicy, in, 32)
	must(t, err)
	switch e := syscall.Errno(-result); e {
	case unix.ENODATA, unix.EOPNOTSUPP, unix.ENOTTY: // the file has none
	default:
		t.Errorf("FS_IOC_GET_ENCRYPTION_POLICY_EX = %v; want that the file has no policy", e)
	}
}
