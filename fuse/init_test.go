package fuse_test

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
)

func TestInitVersions(t *testing.T) {
	for _, test := range []struct {
		name         string
		major, minor uint32
		want         syscall.Errno
		wantMinor    uint32
		live         bool
	}{
		{"H050 major 6", 6, 45, syscall.EPROTO, 0, false},
		{"H050 major 8", 8, 0, 0, 45, false},
		{"H050 minor 26", 7, 26, syscall.EPROTO, 0, false},
		{"H050 minor 27", 7, 27, 0, 27, true},
		{"H050 minor 45", 7, 45, 0, 45, true},
		{"H050 minor 46", 7, 46, 0, 45, true},
		{"maximal", 7, 1<<32 - 1, 0, 45, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := fusetest.NewLocal(t, fusetest.NewMem(), fuse.Options{}).Client()
			b, err := c.Call(fuse.OpInit, 0, 64, fuse.InitIn{Major: test.major, Minor: test.minor, Flags: 1})
			wantErr(t, err, test.want, "INIT")
			if test.want == 0 {
				var out fuse.InitOut
				if _, err := fusetest.Unpack(b, &out); err != nil {
					t.Fatal(err)
				}
				if out.Major != 7 || out.Minor != test.wantMinor {
					t.Errorf("version = %d.%d; want 7.%d", out.Major, out.Minor, test.wantMinor)
				}
				if test.major > 7 && (out != fuse.InitOut{Major: 7, Minor: 45}) {
					t.Errorf("INIT of a newer major = %+v; want zeros after the version", out)
				}
			}
			_, err = c.StatFS(fuse.RootID)
			if got := err == nil; got != test.live {
				t.Errorf("StatFS() = %v; want success: %v", err, test.live)
			}
		})
	}
}

func TestInitLengths(t *testing.T) {
	m := fusetest.NewMem()
	m.Want |= fuse.SecurityCtx | fuse.DirectIOAllowMmap
	full := fusetest.Pack(fuse.InitIn{Major: 7, Minor: 31, Flags: uint32(fuse.InitExt | fuse.AsyncRead), Flags2: 1<<32 - 1})
	for _, test := range []struct {
		name  string
		body  []byte
		want  syscall.Errno
		flags fuse.InitFlags
	}{
		{"H051 16 bytes", full[:16], 0, fuse.InitExt | fuse.AsyncRead},
		{"64 bytes", full, 0, fuse.InitExt | fuse.AsyncRead | fuse.SecurityCtx | fuse.CreateSuppGroup | fuse.DirectIOAllowMmap | fuse.AllowIdmap},
		{"longer than known", append(bytes.Clone(full), 1, 2, 3), 0, fuse.InitExt | fuse.AsyncRead | fuse.SecurityCtx | fuse.CreateSuppGroup | fuse.DirectIOAllowMmap | fuse.AllowIdmap},
		{"8 bytes", full[:8], syscall.EINVAL, 0},
		{"8 bytes of a newer major", []byte{8, 0, 0, 0, 0, 0, 0, 0}, 0, 0},
		{"7 bytes", full[:7], syscall.EINVAL, 0},
		{"nothing", nil, syscall.EINVAL, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := fusetest.NewLocal(t, m, fuse.Options{}).Client()
			b, err := c.Call(fuse.OpInit, 0, 64, test.body)
			wantErr(t, err, test.want, "INIT")
			if err != nil {
				return
			}
			var out fuse.InitOut
			if _, err := fusetest.Unpack(b, &out); err != nil {
				t.Fatal(err)
			}
			if got := fuse.InitFlags(out.Flags) | fuse.InitFlags(out.Flags2)<<32; got != test.flags {
				t.Errorf("flags = %#x; want %#x", got, test.flags)
			}
		})
	}
}

func TestInitFlags(t *testing.T) {
	m := fusetest.NewMem()
	m.Want = fuse.DoReaddirplus | fuse.SecurityCtx | fuse.WritebackCache
	c := fusetest.NewLocal(t, m, fuse.Options{}).Client()
	ours := m.Want | fuse.AsyncRead | fuse.AtomicOTrunc | fuse.BigWrites | fuse.AutoInvalData | fuse.AsyncDIO |
		fuse.ParallelDirops | fuse.MaxPages | fuse.InitExt | fuse.CreateSuppGroup | fuse.AllowIdmap

	random := rand.New(rand.NewPCG(1, 2))
	offers := []fuse.InitFlags{0, 1<<64 - 1, fuse.InitExt, fuse.SecurityCtx, 1 << 31}
	for range 500 {
		offers = append(offers, fuse.InitFlags(random.Uint64()))
	}
	for _, offer := range offers {
		if _, err := c.Init(offer); err != nil {
			t.Fatalf("Init(%#x) = %v; want success", offer, err)
		}
		want := offer & ours
		if offer&fuse.InitExt == 0 {
			want &= 1<<32 - 1
		}
		if c.Flags != want {
			t.Errorf("H052 Init(%#x) = flags %#x; want %#x", offer, c.Flags, want)
		}
	}
}

func TestInitNeeds(t *testing.T) {
	const acl = fuse.PosixACL | fuse.DontMask | fuse.SetxattrExt
	for _, test := range []struct {
		name       string
		want, need fuse.InitFlags
		offer      fuse.InitFlags
		err        syscall.Errno
		acl        fuse.InitFlags
		log        string
	}{
		{"H053 required, complete", 0, acl, fusetest.AllFlags, 0, acl, ""},
		{"H053 required, SETXATTR_EXT missing", acl, acl, fusetest.AllFlags &^ fuse.SetxattrExt, syscall.EPROTO, 0, "lacks FUSE features that the options require"},
		{"H053 wanted, SETXATTR_EXT missing", acl, 0, fusetest.AllFlags &^ fuse.SetxattrExt, 0, 0, "going on without them"},
		{"required label missing", 0, fuse.SecurityCtx, fusetest.AllFlags &^ fuse.SecurityCtx, syscall.EPROTO, 0, "lacks FUSE features that the options require"},
		{"required label without INIT_EXT", 0, fuse.SecurityCtx, fusetest.AllFlags &^ fuse.InitExt, syscall.EPROTO, 0, "lacks FUSE features that the options require"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var text bytes.Buffer
			m := fusetest.NewMem()
			m.Want, m.Need = test.want, test.need
			c := fusetest.NewLocal(t, m, fuse.Options{Log: slog.New(slog.NewTextHandler(&text, nil))}).Client()
			_, err := c.Init(test.offer)
			wantErr(t, err, test.err, "Init()")
			if got := c.Flags & acl; got != test.acl {
				t.Errorf("ACL flags = %#x; want %#x", got, test.acl)
			}
			if got, want := strings.Count(text.String(), "\n"), min(len(test.log), 1); got != want || !strings.Contains(text.String(), test.log) {
				t.Errorf("log = %q; want %d line with %q", text.String(), want, test.log)
			}
		})
	}
}

func TestH054InitTwice(t *testing.T) {
	c, _ := start(t)
	f, err := c.Create(fuse.RootID, "f", syscall.O_RDWR, 0o600)
	wantErr(t, err, 0, "Create()")
	_, err = c.Init(fusetest.AllFlags)
	wantErr(t, err, 0, "second Init()")
	_, err = c.GetAttr(f.Entry.Node, 0)
	wantErr(t, err, syscall.EBADF, "GetAttr(node of before)")
	_, err = c.Read(f.Entry.Node, f.Open.Handle, 0, 1)
	wantErr(t, err, syscall.EBADF, "Read(handle of before)")
	alive(t, c)

	_, err = c.Call(fuse.OpInit, 0, 64, fuse.InitIn{Major: 7, Minor: 5})
	wantErr(t, err, syscall.EPROTO, "INIT of an old guest")
	_, err = c.GetAttr(fuse.RootID, 0)
	wantErr(t, err, syscall.ENOTCONN, "GetAttr() after an INIT that failed")
}

func TestH055Destroy(t *testing.T) {
	c, _ := start(t)
	out, err := c.Transport(c.Message(fuse.OpDestroy, 0), 16)
	wantErr(t, err, 0, "DESTROY")
	if len(out) != 16 || binary.LittleEndian.Uint32(out) != 16 || binary.LittleEndian.Uint32(out[4:]) != 0 {
		t.Errorf("reply to DESTROY = %v; want 16 bytes of success", out)
	}
	_, err = c.GetAttr(fuse.RootID, 0)
	wantErr(t, err, syscall.ENOTCONN, "GetAttr() after DESTROY")
	wantErr(t, c.Destroy(), 0, "second DESTROY")
	_, err = c.Init(fusetest.AllFlags)
	wantErr(t, err, 0, "Init() after DESTROY")
	alive(t, c)
}

func TestH056BeforeInit(t *testing.T) {
	m := fusetest.NewMem()
	l := fusetest.NewLocal(t, m, fuse.Options{})
	c := l.Client()
	check := func(when string) {
		t.Helper()
		_, err := c.GetAttr(fuse.RootID, 0)
		wantErr(t, err, syscall.ENOTCONN, when+": GetAttr()")
		_, err = c.Call(54, fuse.RootID, 0)
		wantErr(t, err, syscall.ENOTCONN, when+": unknown opcode")
		wantErr(t, c.SyncFS(fuse.RootID), syscall.ENOTCONN, when+": SyncFS()")
		wantErr(t, c.Forget(fuse.RootID, 1), 0, when+": Forget()")
		wantErr(t, c.BatchForget(fuse.ForgetOne{Node: 1, Lookups: 1}), 0, when+": BatchForget()")
		wantErr(t, c.Destroy(), 0, when+": Destroy()")
	}
	check("at the start")
	_, err := c.Init(fusetest.AllFlags)
	wantErr(t, err, 0, "Init()")
	alive(t, c)
	l.Server.Reset()
	check("after Reset")
	_, err = c.Init(fusetest.AllFlags)
	wantErr(t, err, 0, "Init() after Reset")
	alive(t, c)
}

func TestH057InitReply(t *testing.T) {
	c := fusetest.NewLocal(t, fusetest.NewMem(), fuse.Options{}).Client()
	got, err := c.Init(fuse.InitExt | fuse.MaxPages | fuse.AllowIdmap)
	wantErr(t, err, 0, "Init()")
	want := fuse.InitOut{
		Major: 7, Minor: 45, MaxReadahead: 128 << 10, Flags: 1<<30 | 1<<22, MaxBackground: 65535,
		CongestionThreshold: 49149, MaxWrite: 1 << 20, TimeGran: 1, MaxPages: 256, Flags2: 1 << 8,
	}
	if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(fuse.InitOut{})); d != "" {
		t.Errorf("INIT reply differs (-want +got):\n%s", d)
	}
}

func FuzzInit(f *testing.F) {
	f.Add(fusetest.Pack(fuse.InitIn{Major: 7, Minor: 45, Flags: 1<<32 - 1, Flags2: 1<<32 - 1}), uint64(0), uint64(0))
	f.Add(fusetest.Pack(fuse.InitIn{Major: 7, Minor: 31})[:16], uint64(1<<32), uint64(1))
	f.Add(fusetest.Pack(fuse.InitIn{Major: 7, Minor: 45, Flags: uint32(fuse.PosixACL | fuse.DontMask)}), uint64(fuse.PosixACL), uint64(fuse.DontMask))
	f.Add([]byte{8, 0, 0, 0, 0, 0, 0, 0}, uint64(1<<63), uint64(0))
	f.Fuzz(func(t *testing.T, body []byte, want, need uint64) {
		m := fusetest.NewMem()
		m.Want, m.Need = fuse.InitFlags(want), fuse.InitFlags(need)
		c := fusetest.NewClient(direct(t, m, 0))
		b, err := c.Call(fuse.OpInit, 0, 64, body)
		if err != nil {
			return
		}
		var in fuse.InitIn
		var out fuse.InitOut
		if _, err := fusetest.Unpack(append(bytes.Clone(body), make([]byte, 64)...), &in); err != nil {
			t.Fatal(err)
		}
		if _, err := fusetest.Unpack(b, &out); err != nil {
			t.Fatal(err)
		}
		offered := fuse.InitFlags(in.Flags)
		if offered&fuse.InitExt != 0 {
			offered |= fuse.InitFlags(in.Flags2) << 32
		}
		got := fuse.InitFlags(out.Flags) | fuse.InitFlags(out.Flags2)<<32
		if got&^offered != 0 {
			t.Errorf("flags = %#x; want nothing beyond the offer %#x", got, offered)
		}
		if in.Major == 7 && m.Need&^got != 0 {
			t.Errorf("flags = %#x; want all of %#x, which are needed", got, m.Need)
		}
	})
}

// direct returns a transport that serves on the calling goroutine, which is faster
// than fusetest.Local and checks as much.
func direct(t testing.TB, fs fuse.FileSystem, cut int) fusetest.Transport {
	thread, err := fuse.NewServer(fs, fuse.Options{}).NewThread()
	if err != nil {
		t.Fatal(err)
	}
	var r fuse.Request
	return func(in []byte, outSize int) ([]byte, error) {
		request, reply := fusetest.NewScattered(in, cut), fusetest.NewReply(outSize, cut)
		r.In, r.Out = request.Vec, reply.Vec
		used, _ := thread.Serve(&r, true)
		return reply.Reply(used)
	}
}
