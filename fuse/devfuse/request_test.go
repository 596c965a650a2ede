package devfuse

import (
	"syscall"
	"testing"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/internal/fsclient"
	"vfiofs/internal/testkit"
)

// message is a request with arguments.
func message(op fuse.Opcode, args ...any) []byte {
	return fusetest.NewClient(nil).Message(op, 1, args...)
}

func TestParse(t *testing.T) {
	in := message(fuse.OpLookup, "name")
	r, err := parse(in)
	testkit.Check(t, err)
	if r.op != fuse.OpLookup || r.unique != le.Uint64(in[8:]) {
		t.Errorf("parse() = %v, %d; want LOOKUP, %d", r.op, r.unique, le.Uint64(in[8:]))
	}
	for _, bad := range [][]byte{nil, in[:39], in[:len(in)-1], append(in, 0)} {
		if _, err := parse(bad); err == nil {
			t.Errorf("parse() of %d bytes that say %d = nil; want an error", len(bad), len(in))
		}
	}
}

func TestReplyRoom(t *testing.T) {
	xattr := func(size uint32) fuse.GetXattrIn { return fuse.GetXattrIn{Size: size} }
	for _, test := range []struct {
		name string
		in   []byte
		want int // payload
	}{
		{"LOOKUP", message(fuse.OpLookup, "name"), 128},
		{"CREATE", message(fuse.OpCreate, make([]byte, 16), "name"), 144},
		{"UNLINK", message(fuse.OpUnlink, "name"), 0},
		{"READLINK", message(fuse.OpReadLink), 4095},
		{"WRITE", message(fuse.OpWrite, make([]byte, 40)), 8},
		{"READ", message(fuse.OpRead, fuse.ReadIn{Size: 12345}), 12345},
		{"READ of too much", message(fuse.OpRead, fuse.ReadIn{Size: 1 << 31}), data},
		{"READ cut short", message(fuse.OpRead, uint64(1)), 0},
		{"READDIRPLUS", message(fuse.OpReadDirPlus, fuse.ReadIn{Size: 4096}), 4096},
		{"GETXATTR of the size", message(fuse.OpGetXattr, xattr(0), "user.a"), 8},
		{"GETXATTR", message(fuse.OpGetXattr, xattr(100), "user.a"), 100},
		{"LISTXATTR", message(fuse.OpListXattr, xattr(65536)), 65536},
		{"IOCTL", message(fuse.OpIoctl, uint64(1), uint32(0), uint32(2), uint64(3), uint32(4), uint32(500)), 16 + 500},
		{"unknown", message(1000), data},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := parse(test.in)
			testkit.Check(t, err)
			if got := r.replyRoom(test.in); got != fsclient.OutHead+test.want {
				t.Errorf("replyRoom() = %d; want %d for the header and %d", got, fsclient.OutHead, test.want)
			}
		})
	}
	for _, op := range []fuse.Opcode{fuse.OpForget, fuse.OpBatchForget, fuse.OpInterrupt} {
		r := request{op: op}
		if got := r.replyRoom(nil); got != 0 {
			t.Errorf("replyRoom() of %v = %d; want 0", op, got)
		}
	}
}

// head makes the header of a reply.
func head(size, errno int32, unique uint64) (h [fsclient.OutHead]byte) {
	le.PutUint32(h[:], uint32(size))
	le.PutUint32(h[4:], uint32(-errno))
	le.PutUint64(h[8:], unique)
	return h
}

func TestCheckReply(t *testing.T) {
	for _, test := range []struct {
		name  string
		n     int // used length
		head  [fsclient.OutHead]byte
		errno syscall.Errno
		ok    bool
	}{
		{"success", 24, head(24, 0, 7), 0, true},
		{"error", 16, head(16, 2, 7), syscall.ENOENT, true},
		{"nothing", 0, head(0, 0, 0), 0, false},
		{"part of a header", 8, head(8, 0, 7), 0, false},
		{"another length", 24, head(23, 0, 7), 0, false},
		{"another request", 16, head(16, 0, 9), 0, false},
		{"a notification", 16, head(16, -2, 0), 0, false},
		{"negative error", 16, head(16, -2, 7), 0, false},
		{"error with payload", 24, head(24, 2, 7), 0, false},
		{"error too large", 16, head(16, 512, 7), 0, false},
		{"smallest number", 16, head(16, -1<<31, 7), 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := request{unique: 7, head: test.head}
			if errno, ok := r.check(test.n); errno != test.errno || ok != test.ok {
				t.Errorf("check() = %v, %v; want %v, %v", errno, ok, test.errno, test.ok)
			}
			r.fail()
			if errno, ok := r.check(fsclient.OutHead); errno != syscall.EIO || !ok {
				t.Errorf("check() after fail() = %v, %v; want %v, true", errno, ok, syscall.EIO)
			}
		})
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(message(fuse.OpRead, fuse.ReadIn{Size: 100}))
	f.Add(message(fuse.OpIoctl, make([]byte, 32)))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := parse(in)
		if err != nil {
			return
		}
		if room := r.replyRoom(in); room < 0 || room > fsclient.OutHead+data || (room == 0) != r.quiet() {
			t.Errorf("replyRoom() of %v = %d", r.op, room)
		}
	})
}
