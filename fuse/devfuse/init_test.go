package devfuse

import (
	"encoding/binary"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/fuse"
	"vfiofs/internal/testkit"
)

// Flags that package fuse has no names for.
const (
	spliceRead  fuse.InitFlags = 1 << 9
	inodeDAX    fuse.InitFlags = 1 << 33
	expireOnly  fuse.InitFlags = 1 << 35
	passthrough fuse.InitFlags = 1 << 37
	resend      fuse.InitFlags = 1 << 39
	ioUring     fuse.InitFlags = 1 << 41
	timeouts    fuse.InitFlags = 1 << 42
)

// linuxOffer is what Linux 6.18 offers (linux fs/fuse/inode.c: fuse_new_init).
const linuxOffer fuse.InitFlags = 0x5fd_73ff_fffb

func TestAnswer(t *testing.T) {
	const base = fuse.AsyncRead | fuse.BigWrites | fuse.MaxPages | fuse.InitExt
	for _, test := range []struct {
		name  string
		offer fuse.InitFlags
		flags fuse.InitFlags // that the backend answers
		edit  func(*fuse.InitOut)
		want  fuse.InitFlags
		limit func(*fuse.InitOut)
	}{
		{name: "as is", offer: linuxOffer, flags: base | fuse.AllowIdmap | fuse.PosixACL | timeouts, want: base | fuse.AllowIdmap | fuse.PosixACL | timeouts},
		{name: "submounts", offer: linuxOffer, flags: base | fuse.Submounts, want: base},
		{name: "notifications", offer: linuxOffer, flags: base | expireOnly | resend, want: base},
		{name: "splice", offer: linuxOffer, flags: base | spliceRead, want: base},
		{name: "passthrough and io_uring", offer: linuxOffer, flags: base | passthrough | ioUring, want: base},
		{name: "DAX", offer: ^fuse.InitFlags(0), flags: base | fuse.MapAlignment | inodeDAX, want: base},
		{name: "never offered", offer: base, flags: base | fuse.WritebackCache | fuse.SecurityCtx, want: base},
		{
			name: "flags2 without INIT_EXT", offer: linuxOffer, flags: fuse.AsyncRead | fuse.SecurityCtx, want: fuse.AsyncRead,
			edit: func(o *fuse.InitOut) { o.MaxWrite, o.MaxPages = 4096, 1 },
		},
		{
			name: "limits", offer: linuxOffer, flags: base, want: base,
			edit: func(o *fuse.InitOut) {
				o.MaxWrite, o.MaxPages, o.MapAlignment, o.MaxStackDepth = 16<<20, 4096, 21, 2
			},
			limit: func(o *fuse.InitOut) {
				o.MaxWrite, o.MaxPages, o.MapAlignment, o.MaxStackDepth = 1<<20, 256, 0, 0
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			out := fuse.InitOut{
				Major: 7, Minor: 45, MaxReadahead: 1 << 17, MaxBackground: 99, CongestionThreshold: 33,
				MaxWrite: 1 << 20, TimeGran: 1, MaxPages: 256, RequestTimeout: 77,
				Flags: uint32(test.flags), Flags2: uint32(test.flags >> 32),
			}
			if test.edit != nil {
				test.edit(&out)
			}
			want := out
			want.Flags, want.Flags2 = uint32(test.want), uint32(test.want>>32)
			if test.limit != nil {
				test.limit(&want)
			}
			b, err := binary.Append(nil, le, &out)
			testkit.Check(t, err)
			testkit.Check(t, limitAnswer(test.offer, b))
			var got fuse.InitOut
			if _, err := binary.Decode(b, le, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("answer to the kernel (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnswerRefused(t *testing.T) {
	if err := limitAnswer(linuxOffer, make([]byte, initOutMin-1)); err == nil || !strings.Contains(err.Error(), "23 bytes") {
		t.Errorf("limitAnswer() of 23 bytes = %v; want an error that says so", err)
	}
	if err := limitAnswer(linuxOffer, make([]byte, initOutSize+1)); err == nil {
		t.Error("limitAnswer() of 65 bytes = nil; want an error")
	}
	if err := limitAnswer(linuxOffer, make([]byte, initOutSize)); !errors.Is(err, syscall.EPROTO) {
		t.Errorf("limitAnswer() of version 0 = %v; want %v", err, syscall.EPROTO)
	}
	short := make([]byte, initOutMin) // of a server that speaks 7.22
	le.PutUint32(short, 7)
	le.PutUint32(short[20:], 8<<20)
	testkit.Check(t, limitAnswer(linuxOffer, short))
	if got := le.Uint32(short[20:]); got != maxWrite {
		t.Errorf("max_write of a short answer = %d; want %d", got, maxWrite)
	}
}

func TestOffer(t *testing.T) {
	// INIT as Linux 6.18 sends it through /dev/fuse.
	in := []byte{
		104, 0, 0, 0, 26, 0, 0, 0, // len, opcode
		2, 0, 0, 0, 0, 0, 0, 0, // unique
		0, 0, 0, 0, 0, 0, 0, 0, // nodeid
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // uid, gid, pid, extensions
		7, 0, 0, 0, 45, 0, 0, 0, 0, 0, 2, 0, // major, minor, max_readahead
		0xfb, 0xff, 0xff, 0x73, // flags
		0xfd, 0x05, 0, 0, // flags2
	}
	in = append(in, make([]byte, 104-len(in))...)
	offer, err := extendOffer(in)
	testkit.Check(t, err)
	if offer != linuxOffer {
		t.Errorf("offer = %#x; want %#x", uint64(offer), uint64(linuxOffer))
	}
	if got := fuse.InitFlags(le.Uint32(in[52:])); got != 0x7bfffffb {
		t.Errorf("flags to the backend = %#x; want those of the kernel and SUBMOUNTS", uint64(got))
	}
	if _, err := extendOffer(in[:50]); err == nil {
		t.Error("extendOffer() of a request cut short = nil; want an error")
	}
	in[4] = 1
	if _, err := extendOffer(in); err == nil {
		t.Error("extendOffer() of LOOKUP = nil; want an error")
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(uint64(linuxOffer), make([]byte, initOutSize))
	f.Add(uint64(fuse.AsyncRead), []byte{7, 0, 0, 0, 31, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, offer uint64, out []byte) {
		size := len(out)
		if limitAnswer(fuse.InitFlags(offer), out) != nil {
			return
		}
		if len(out) != size {
			t.Fatalf("the answer grew from %d to %d bytes", size, len(out))
		}
		var whole [initOutSize]byte
		copy(whole[:], out)
		flags := fuse.InitFlags(le.Uint32(whole[12:])) | fuse.InitFlags(le.Uint32(whole[32:]))<<32
		if bad := flags & (dropped | ^fuse.InitFlags(offer)); bad != 0 {
			t.Errorf("flags %#x pass", uint64(bad))
		}
		if n := le.Uint32(whole[20:]); n > maxWrite {
			t.Errorf("max_write %d passes", n)
		}
	})
}
