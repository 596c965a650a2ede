package passthrough

import (
	"encoding/binary"
	"syscall"

	"vfiofs/fuse"
)

// Commands of ioctl(2) that are passed on (fs-device.md E.17); linux/fs.h,
// linux/fscrypt.h and linux/fsverity.h. All others are ENOTTY.
const (
	fsGetFlags     = 0x80086601 // FS_IOC_GETFLAGS; an int, whatever the number says
	fsSetFlags     = 0x40086602 // FS_IOC_SETFLAGS
	fsGetFlags32   = 0x80046601 // FS_IOC32_GETFLAGS, from a 32-bit program
	fsSetFlags32   = 0x40046602 // FS_IOC32_SETFLAGS
	fsGetXattr     = 0x801c581f // FS_IOC_FSGETXATTR; struct fsxattr
	fsSetXattr     = 0x401c5820 // FS_IOC_FSSETXATTR
	fsGetPolicy    = 0xc0096616 // FS_IOC_GET_ENCRYPTION_POLICY_EX
	fsEnableVerity = 0x40806685 // FS_IOC_ENABLE_VERITY
	fsMeasure      = 0xc0046686 // FS_IOC_MEASURE_VERITY
)

// Sizes and offsets of their arguments.
const (
	flagsSize     = 4
	fsxattrSize   = 28
	fsxattrProjid = 12 // fsx_projid; fsx_xflags is at 0
	policySize    = 24 // struct fscrypt_policy_v2, the longest; v1 has 12
	digestHead    = 4  // struct fsverity_digest without the digest
	maxDigest     = 64 // SHA-512

	verityArgSize    = 128 // struct fsverity_enable_arg
	verityArgSaltLen = 12
	verityArgSalt    = 16
	verityArgSigLen  = 24
	verityArgSig     = 32
	maxVerityPart    = 1 << 20 // of salt and signature
)

// Flags that make new files inherit a project id: of FS_IOC_SETFLAGS and of fsx_xflags.
const (
	flagProjinherit  = 0x20000000 // FS_PROJINHERIT_FL
	xflagProjinherit = 0x200      // FS_XFLAG_PROJINHERIT
)

// Ioctl implements fuse.FileSystem. Errors of the host are a result; what is wrong
// with the request itself is an error.
func (fs *FS) Ioctl(c *fuse.Context, node fuse.NodeID, h fuse.Handle, cmd uint32, in, out []byte) (result, n int, err error) {
	f, err := fs.dirHandle(c, node, h)
	if err != nil {
		return 0, 0, err
	}
	defer fs.handles.put(f)
	t, fd := local(c), f.v.fd
	arg := t.buf[:]
	clear(arg[:verityArgSize])
	var host syscall.Errno
	switch cmd {
	case fsGetFlags, fsGetFlags32:
		if len(out) < flagsSize {
			return 0, 0, syscall.ENOMEM
		}
		host = ioctl(fd, fsGetFlags, arg)
		n = copy(out, arg[:flagsSize])
	case fsGetXattr:
		if len(out) < fsxattrSize {
			return 0, 0, syscall.ENOMEM
		}
		host = ioctl(fd, fsGetXattr, arg)
		n = copy(out, arg[:fsxattrSize])
	case fsSetFlags, fsSetFlags32:
		if len(in) < flagsSize {
			return 0, 0, syscall.ENOMEM
		}
		host, err = fs.setFlags(fd, in, arg)
	case fsSetXattr:
		if len(in) < fsxattrSize {
			return 0, 0, syscall.EINVAL
		}
		host, err = fs.setFsxattr(fd, in, arg)
	case fsGetPolicy:
		n, host, err = getPolicy(fd, in, out, arg)
	case fsEnableVerity:
		if !c.MayBlock { // it reads the whole file
			return 0, 0, fuse.ErrWouldBlock
		}
		host, err = setVerity(&f.v, in, arg)
	case fsMeasure:
		n, host, err = measureVerity(fd, in, out, arg)
	default:
		err = syscall.ENOTTY
	}
	if host != 0 {
		n = 0
	}
	return -int(host), n, err
}

// setFlags is FS_IOC_SETFLAGS.
func (fs *FS) setFlags(fd int, in, arg []byte) (host syscall.Errno, err error) {
	if !fs.opt.AllowProjid {
		if e := ioctl(fd, fsGetFlags, arg); e != 0 {
			return e, nil
		}
		if (word(arg, 0)^word(in, 0))&flagProjinherit != 0 {
			return 0, syscall.EPERM
		}
	}
	copy(arg, in[:flagsSize])
	return ioctl(fd, fsSetFlags, arg), nil
}

// setFsxattr is FS_IOC_FSSETXATTR.
func (fs *FS) setFsxattr(fd int, in, arg []byte) (host syscall.Errno, err error) {
	if !fs.opt.AllowProjid {
		if e := ioctl(fd, fsGetXattr, arg); e != 0 {
			return e, nil
		}
		if word(arg, fsxattrProjid) != word(in, fsxattrProjid) || (word(arg, 0)^word(in, 0))&xflagProjinherit != 0 {
			return 0, syscall.EPERM
		}
	}
	copy(arg, in[:fsxattrSize])
	return ioctl(fd, fsSetXattr, arg), nil
}

// getPolicy is FS_IOC_GET_ENCRYPTION_POLICY_EX: the room for the policy comes in, its
// size and the policy go out.
func getPolicy(fd int, in, out, arg []byte) (n int, host syscall.Errno, err error) {
	const head = 8
	if len(in) < head || len(out) < head {
		return 0, 0, syscall.EINVAL
	}
	room := min(binary.NativeEndian.Uint64(in), policySize, uint64(len(out)-head))
	binary.NativeEndian.PutUint64(arg, room)
	if host = ioctl(fd, fsGetPolicy, arg); host != 0 {
		return 0, host, nil
	}
	size := min(binary.NativeEndian.Uint64(arg), room)
	return copy(out, arg[:head+size]), 0, nil
}

// setVerity is FS_IOC_ENABLE_VERITY; the salt and the signature follow the argument.
func setVerity(f *handle, in, arg []byte) (host syscall.Errno, err error) {
	switch {
	case f.dir:
		return 0, syscall.EISDIR
	case len(in) < verityArgSize:
		return 0, syscall.EINVAL
	}
	arg = arg[:copy(arg, in[:verityArgSize])]
	saltLen, sigLen := word(arg, verityArgSaltLen), word(arg, verityArgSigLen)
	parts := in[verityArgSize:]
	switch {
	case saltLen > maxVerityPart || sigLen > maxVerityPart:
		return 0, syscall.ENOMEM
	case int(saltLen)+int(sigLen) > len(parts):
		return 0, syscall.EINVAL
	}
	return enableVerity(f.fd, arg, parts[:saltLen], parts[saltLen:saltLen+sigLen]), nil
}

// measureVerity is FS_IOC_MEASURE_VERITY: the room for the digest comes in, its kind,
// its size and the digest go out.
func measureVerity(fd int, in, out, arg []byte) (n int, host syscall.Errno, err error) {
	if len(in) < digestHead || len(out) < digestHead {
		return 0, 0, syscall.EINVAL
	}
	room := min(int(binary.NativeEndian.Uint16(in[2:])), maxDigest, len(out)-digestHead)
	binary.NativeEndian.PutUint16(arg[2:], uint16(room))
	if host = ioctl(fd, fsMeasure, arg); host != 0 {
		return 0, host, nil
	}
	size := min(int(binary.NativeEndian.Uint16(arg[2:])), room)
	return copy(out, arg[:digestHead+size]), 0, nil
}

// word returns the 32-bit number at an offset.
func word(b []byte, at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
