package jail

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"vfiofs/internal/idmap"
)

// interpret runs a filter as the kernel does, for a call with lower argument words.
func interpret(t *testing.T, filter []unix.SockFilter, arch, nr uint32, args ...uint32) uint32 {
	t.Helper()
	data := map[uint32]uint32{offNumber: nr, offArch: arch}
	for i, arg := range args {
		data[offArgs+8*uint32(i)] = arg
	}
	var a uint32
	for pc := 0; pc < len(filter); pc++ {
		switch in := filter[pc]; in.Code {
		case bpfLoad:
			a = data[in.K]
		case bpfAnd:
			a &= in.K
		case bpfEqual:
			if a == in.K {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		case bpfRet:
			return in.K
		default:
			t.Fatalf("instruction %d: unknown code %#x", pc, in.Code)
		}
	}
	t.Fatal("the filter has no end")
	return 0
}

func TestFilter(t *testing.T) {
	const allow, deny = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_KILL_PROCESS
	for _, test := range []struct {
		name    string
		profile Profile
		arch    uint32
		nr      uint32
		args    []uint32
		want    uint32
	}{
		{"read a file", Socket, auditArch, unix.SYS_PREADV2, nil, allow},
		{"open a file", Function, auditArch, unix.SYS_OPENAT, nil, allow},
		{"open a file in the proxy", Proxy, auditArch, unix.SYS_OPENAT, nil, deny},
		{"another architecture", Socket, unix.AUDIT_ARCH_I386, unix.SYS_READ, nil, deny},
		{"x32", Socket, auditArch, 1<<30 | unix.SYS_READ, nil, deny},
		{"execve", Socket, auditArch, unix.SYS_EXECVE, nil, deny},
		{"socket", Socket, auditArch, unix.SYS_SOCKET, nil, deny},
		{"connect", Function, auditArch, unix.SYS_CONNECT, nil, deny},
		{"ptrace", Socket, auditArch, unix.SYS_PTRACE, nil, deny},
		{"mount", Socket, auditArch, unix.SYS_MOUNT, nil, deny},
		{"new thread", Socket, auditArch, unix.SYS_CLONE, []uint32{unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD}, allow},
		{"new process", Socket, auditArch, unix.SYS_CLONE, []uint32{uint32(unix.SIGCHLD)}, deny},
		{"new namespace", Socket, auditArch, unix.SYS_CLONE, []uint32{unix.CLONE_THREAD | unix.CLONE_VM | unix.CLONE_NEWUSER}, deny},
		{"clone3", Socket, auditArch, unix.SYS_CLONE3, nil, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{"unshare the umask", Socket, auditArch, unix.SYS_UNSHARE, []uint32{unix.CLONE_FS}, allow},
		{"unshare more", Socket, auditArch, unix.SYS_UNSHARE, []uint32{unix.CLONE_FS | unix.CLONE_NEWNS}, deny},
		{"map data", Socket, auditArch, unix.SYS_MMAP, []uint32{0, 0, unix.PROT_READ | unix.PROT_WRITE}, allow},
		{"map code", Socket, auditArch, unix.SYS_MMAP, []uint32{0, 0, unix.PROT_READ | unix.PROT_EXEC}, deny},
		{"make code", Socket, auditArch, unix.SYS_MPROTECT, []uint32{0, 0, unix.PROT_EXEC}, deny},
		{"signal ourselves", Socket, auditArch, unix.SYS_TGKILL, []uint32{uint32(os.Getpid())}, allow},
		{"signal others", Socket, auditArch, unix.SYS_TGKILL, []uint32{uint32(os.Getppid())}, deny},
		{"inode flags", Socket, auditArch, unix.SYS_IOCTL, []uint32{0, unix.FS_IOC_GETFLAGS}, allow},
		{"inode flags beside a function", Function, auditArch, unix.SYS_IOCTL, []uint32{0, unix.FS_IOC_GETFLAGS}, allow},
		{"VFIO", Function, auditArch, unix.SYS_IOCTL, []uint32{0, ';'<<8 | 100}, allow},
		{"VFIO without function", Socket, auditArch, unix.SYS_IOCTL, []uint32{0, ';'<<8 | 100}, deny},
		{"terminal input", Function, auditArch, unix.SYS_IOCTL, []uint32{0, unix.TIOCSTI}, deny},
		{"ask for no_new_privs", Proxy, auditArch, unix.SYS_PRCTL, []uint32{unix.PR_GET_NO_NEW_PRIVS}, allow},
		{"become dumpable", Proxy, auditArch, unix.SYS_PRCTL, []uint32{unix.PR_SET_DUMPABLE}, deny},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := interpret(t, assemble(test.profile.rules(), deny), test.arch, test.nr, test.args...); got != test.want {
				t.Errorf("verdict %#x; want %#x", got, test.want)
			}
		})
	}
}

// TestRules keeps the tables readable and small enough for the kernel.
func TestRules(t *testing.T) {
	for _, profile := range []Profile{Socket, Function, Proxy} {
		seen := make(map[uint32]string)
		for _, r := range profile.rules() {
			if r.why == "" || r.name == "" {
				t.Errorf("%s: rule %q: want a name and a reason", profile, r.name)
			}
			if other, ok := seen[r.nr]; ok && (r.values == nil || other != r.name) {
				t.Errorf("%s: rules %q and %q are for the same call", profile, other, r.name)
			}
			seen[r.nr] = r.name
		}
		if n := len(assemble(profile.rules(), 0)); n > 4096 {
			t.Errorf("%s: the filter has %d instructions; want 4096 at most", profile, n)
		}
	}
}

// FuzzFilter has calls with any numbers: those without a rule never pass.
func FuzzFilter(f *testing.F) {
	rules := Socket.rules()
	filter := assemble(rules, unix.SECCOMP_RET_TRAP)
	f.Add(uint32(auditArch), uint32(unix.SYS_READ), uint32(0), uint32(0), uint32(0))
	f.Add(uint32(auditArch), uint32(unix.SYS_CLONE), uint32(unix.CLONE_THREAD|unix.CLONE_VM), uint32(0), uint32(0))
	f.Fuzz(func(t *testing.T, arch, nr, a0, a1, a2 uint32) {
		args := []uint32{a0, a1, a2}
		want := uint32(unix.SECCOMP_RET_TRAP)
		for _, r := range rules {
			ok := r.values == nil
			for _, v := range r.values {
				ok = ok || args[r.arg]&r.mask == v
			}
			if arch == auditArch && nr == r.nr && ok {
				want = r.verdict()
			}
		}
		if got := interpret(t, filter, arch, nr, args...); got != want {
			t.Errorf("arch %#x call %d %x: verdict %#x; want %#x", arch, nr, args, got, want)
		}
	})
}

func TestModcaps(t *testing.T) {
	for _, test := range []struct{ list, want, err string }{
		{"+sys_admin", FileServer.String() + " sys_admin", ""},
		{"-mknod:-CAP_SETFCAP", "chown dac_override fowner fsetid setgid setuid", ""},
		{"+CAP_SYS_ADMIN:-sys_admin", FileServer.String(), ""},
		{"+frobnicate", "", `"+frobnicate": want + or - and the name`},
		{"mknod", "", "want + or -"},
		{"", "", "want + or -"},
		{"-", "", "want + or -"},
		{"+chown:", "", "want + or -"},
	} {
		got, err := FileServer.Modify(test.list)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("Modify(%q) = %v, %v; want an error with %q", test.list, got, err, test.err)
			}
			continue
		}
		have := strings.Fields(got.String())
		if diff := cmp.Diff(sorted(strings.Fields(test.want)), sorted(have)); err != nil || diff != "" {
			t.Errorf("Modify(%q): %v (-want +got):\n%s", test.list, err, diff)
		}
	}
	if got := Caps(0).String(); got != "none" {
		t.Errorf("no capabilities = %q; want none", got)
	}
	if got := Caps(1 << 60).String(); got != "60" {
		t.Errorf("unknown capability = %q; want its number", got)
	}
}

// sorted returns the words in order.
func sorted(words []string) map[string]bool {
	set := make(map[string]bool)
	for _, w := range words {
		set[w] = true
	}
	return set
}

// FuzzModcaps parses whatever it gets.
func FuzzModcaps(f *testing.F) {
	for _, seed := range []string{"", "+mknod", "-CAP_chown:+sys_admin", ":", "+cap_"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		if caps, err := FileServer.Modify(list); err != nil && caps != 0 {
			t.Errorf("Modify(%q) = %v with error %v", list, caps, err)
		}
	})
}

func TestSubids(t *testing.T) {
	const text = "alice:100000:65536\nbob:200000:10\n# comment\nalice:nonsense:1\nalice:300000:0\n1000:400000:5\nalice:100010:5\nalice:4294967295:10\n"
	for _, test := range []struct {
		names []string
		want  string
	}{
		{[]string{"1000", "alice"}, "0 1000 1\n1 100000 65536\n65537 400000 5\n"},
		{[]string{"1001", "bob"}, "0 1000 1\n1 200000 10\n"},
		{[]string{"carol"}, ""},
	} {
		path := filepath.Join(t.TempDir(), "subuid")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, subordinate(path, test.names, 1000).String()); diff != "" {
			t.Errorf("subordinate of %v (-want +got):\n%s", test.names, diff)
		}
	}
	if m := subordinate(filepath.Join(t.TempDir(), "missing"), []string{"alice"}, 0); m != nil {
		t.Errorf("subordinate of no file = %v; want none", m)
	}
}

// FuzzSubids parses whatever it gets, and maps only what the kernel takes.
func FuzzSubids(f *testing.F) {
	for _, seed := range []string{"", "a:1:2\n", "a:4294967295:1\na:0:4294967295\n", "a:100000:65536\na:100000:65536\n", "b:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m := parseSubids(text, []string{"a"}, 1000)
		if m == nil {
			return
		}
		if _, err := idmap.Parse(strings.ReplaceAll(strings.TrimSpace(m.String()), "\n", ",")); err != nil {
			t.Errorf("map of %q: %v", text, err)
		}
	})
}

// TestLandlockTable keeps what is allowed apart from what never is.
func TestLandlockTable(t *testing.T) {
	var share, elsewhere uint64
	for i, a := range landlockAccess {
		if a.version != i+1 {
			t.Errorf("line %d is version %d; want one line for each", i, a.version)
		}
		share |= a.share
		elsewhere |= a.elsewhere
	}
	if both := share & elsewhere; both != 0 {
		t.Errorf("rights %#x are allowed in the share and nowhere", both)
	}
	if elsewhere&unix.LANDLOCK_ACCESS_FS_EXECUTE == 0 {
		t.Error("programs may be run")
	}
}
