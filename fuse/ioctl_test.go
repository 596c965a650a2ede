package fuse_test

import (
	"syscall"
	"testing"

	"vfiofs/fuse"
)

func TestIoctlFraming(t *testing.T) {
	c, _ := start(t)
	f, err := c.Create(fuse.RootID, "f", syscall.O_RDWR, 0o600)
	wantErr(t, err, 0, "Create()")
	for _, test := range []struct {
		name string
		in   fuse.IoctlIn
		data string
		room int // for the payload
		want string
		err  syscall.Errno
	}{
		{"data both ways", fuse.IoctlIn{Cmd: 1, InSize: 3, OutSize: 10}, "abc", 26, "cba", 0},
		{"less data than sent", fuse.IoctlIn{Cmd: 1, InSize: 2, OutSize: 10}, "abc", 26, "ba", 0},
		{"short room", fuse.IoctlIn{Cmd: 1, InSize: 3, OutSize: 1}, "abc", 17, "a", 0},
		{"host's error", fuse.IoctlIn{Cmd: 1, OutSize: 10}, "", 26, "", syscall.ENODATA},
		{"unknown command", fuse.IoctlIn{Cmd: 2, OutSize: 10}, "", 26, "", syscall.ENOTTY},
		{"unrestricted", fuse.IoctlIn{Cmd: 1, InSize: 3, OutSize: 10, Flags: fuse.IoctlAny}, "abc", 26, "", syscall.ENOTTY},
		{"less data than said", fuse.IoctlIn{Cmd: 1, InSize: 4, OutSize: 10}, "abc", 26, "", syscall.EINVAL},
		{"data of 2^32-1", fuse.IoctlIn{Cmd: 1, InSize: 1<<32 - 1, OutSize: 10}, "abc", 26, "", syscall.EINVAL},
		{"no room for what is asked", fuse.IoctlIn{Cmd: 1, InSize: 3, OutSize: 11}, "abc", 26, "", syscall.EOVERFLOW},
		{"room of 2^32-1", fuse.IoctlIn{Cmd: 1, InSize: 3, OutSize: 1<<32 - 1}, "abc", 26, "", syscall.EOVERFLOW},
		{"no room for the answer", fuse.IoctlIn{Cmd: 1}, "", 15, "", syscall.EIO},
	} {
		test.in.Handle = f.Open.Handle
		b, err := c.Call(fuse.OpIoctl, f.Entry.Node, test.room, test.in, []byte(test.data))
		if err == nil && len(b) >= 16 && int32(b[0])|int32(b[3])<<24 < 0 {
			err = syscall.Errno(256 - int(b[0]))
			if len(b) != 16 {
				t.Errorf("%s: an error has %d bytes of data", test.name, len(b)-16)
			}
		}
		wantErr(t, err, test.err, test.name)
		if err == nil && string(b[16:]) != test.want {
			t.Errorf("%s: data %q; want %q", test.name, b[16:], test.want)
		}
	}
	alive(t, c)
}

func TestStatxFraming(t *testing.T) {
	c, _ := start(t)
	for _, test := range []struct {
		name string
		in   fuse.StatxIn
		err  syscall.Errno
	}{
		{"handle without its flag", fuse.StatxIn{Handle: 99}, 0},
		{"handle", fuse.StatxIn{Handle: 99, Flags: fuse.GetAttrHandle}, syscall.EBADF},
		{"force sync", fuse.StatxIn{Sync: 0x2000}, 0},
		{"both kinds of sync", fuse.StatxIn{Sync: 0x6000}, syscall.EINVAL},
	} {
		_, err := c.Call(fuse.OpStatx, fuse.RootID, 288, test.in)
		wantErr(t, err, test.err, test.name)
	}
}
