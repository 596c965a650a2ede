package workload

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/devfuse/mounttest"
	"vfiofs/internal/fsclient"
	"vfiofs/internal/vmtest"
)

// optionCases are options that virtiofsd and vfiofs both know, as arguments for both.
var optionCases = [][]string{
	{},
	{"--cache=never"},
	{"--cache=metadata"},
	{"--cache=always"},
	{"--cache=never", "--allow-mmap"},
	{"--cache=metadata", "--allow-mmap"},
	{"--writeback"},
	{"--cache=always", "--writeback"},
	{"--xattr"},
	{"--xattrmap=:map::user.virtiofs.:"},
	{"--xattrmap=:map:trusted.:user.virtiofs.:"},
	{"--xattrmap=:prefix:all:trusted.:user.virtiofs.::bad:all:trusted.:user.virtiofs.::ok:all:::"},
	{"--xattrmap=/prefix/all/trusted./user.virtiofs./ /bad/server//trusted./ /bad/client/user.virtiofs.// /ok/all///"},
	{"--xattrmap=:unsupported:client:security.:security.: :ok:all:::"},
	{"--xattrmap=:prefix:client:user.:user.virtiofs.user.: :prefix:server::user.virtiofs.: :ok:all:::"},
	{"--posix-acl"},
	{"--security-label"},
	{"--announce-submounts"},
	{"--no-announce-submounts"},
	{"--readonly"},
	{"--readonly", "--xattr"},
	{"--allow-direct-io"},
	{"--killpriv-v2"},
	{"--killpriv-v2", "--xattr"},
	{"--no-killpriv-v2"},
	{"--no-readdirplus"},
	{"--translate-uid=guest:1000:3000:10", "--translate-gid=guest:1000:3000:10"},
	{"--translate-uid=host:1000:3000:10", "--translate-gid=host:1000:3000:10"},
	{"--translate-uid=squash-guest:1000:3000:10", "--translate-gid=squash-guest:1000:3000:10"},
	{"--translate-uid=squash-host:1000:3000:10", "--translate-gid=squash-host:1000:3000:10"},
	{"--translate-uid=forbid-guest:1000:10", "--translate-gid=forbid-guest:1000:10"},
	{"--translate-uid=map:1000:2000:10", "--translate-gid=map:1000:2000:10"},
	{"--translate-uid=map:0:5000:1", "--translate-uid=map:1000:2000:10", "--translate-gid=map:0:5000:1"},
	{"--preserve-noatime"},
	{"--inode-file-handles=never"},
	{"--inode-file-handles=prefer"},
	{"--inode-file-handles=mandatory"},
	{"--thread-pool-size=0"},
	{"--thread-pool-size=4"},
	{"--rlimit-nofile=2000"},
	{"--rlimit-nofile=0"},
	{"--sandbox=none"},
	{"--sandbox=chroot"},
	{"--sandbox=namespace"},
	{"--sandbox=chroot", "--xattr"},
	{"--sandbox=namespace", "--xattr"},
	{"-o", "cache=none,xattr,no_readdirplus"},
	{"-o", "cache=always,writeback,no_posix_lock,no_flock"},
	{"-o", "posix_acl", "-o", "killpriv_v2,allow_direct_io,announce_submounts"},
}

// A difference is something that vfiofs does otherwise than virtiofsd, on purpose.
type difference struct {
	options string // regular expression for the arguments, joined by spaces
	what    string // regular expression for what was observed
	ours    string // regular expression for our result; "" for any
	theirs  string // likewise for virtiofsd's
	why     string
}

// TestOptionsLikeVirtiofsd gives both backends the same tree and the same option, and
// lets the same processes observe both mounts. What differs must be in the table.
func TestOptionsLikeVirtiofsd(t *testing.T) {
	met := make([]bool, len(differences))
	ran := 0
	for _, args := range optionCases {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			mine := args
			if !strings.Contains(strings.Join(args, " "), "--sandbox") {
				mine = append([]string{"--sandbox=none"}, args...) // as mounttest does for virtiofsd
			}
			ours := observe(t, mounttest.Vfiofs(t, mine...))
			theirs := observe(t, mounttest.Virtiofsd(t, args...))
			compareObservations(t, strings.Join(args, " "), ours, theirs, met)
			ran++
		})
	}
	for i, d := range differences {
		if ran == len(optionCases) && !met[i] {
			t.Errorf("nothing differs any more as in the table: %q %q (%s)", d.options, d.what, d.why)
		}
	}
}

// compareObservations fails the test for each difference that is not in the table, and
// marks those that are.
func compareObservations(t *testing.T, options string, ours, theirs map[string]string, met []bool) {
	t.Helper()
	t.Logf("%d observations", len(ours))
	what := slices.Sorted(maps.Keys(ours))
	for w := range theirs {
		if _, ok := ours[w]; !ok {
			what = append(what, w)
		}
	}
	for _, w := range what {
		if ours[w] == theirs[w] {
			continue
		}
		known := false
		for i, d := range differences {
			if matches(d.options, options) && matches(d.what, w) && matches(d.ours, ours[w]) && matches(d.theirs, theirs[w]) {
				known, met[i] = true, true
			}
		}
		if !known {
			t.Errorf("%s:\n  vfiofs    %s\n  virtiofsd %s", w, ours[w], theirs[w])
		}
	}
}

// matches reports whether all of text is what a regular expression of the table wants.
func matches(expression, text string) bool {
	return expression == "" || regexp.MustCompile("^(?:"+expression+")$").MatchString(text)
}

// observe returns what there is to see of a backend: what it agrees on, what two users
// see on its mount, and what they leave in the shared directory.
func observe(t *testing.T, b mounttest.Backend) map[string]string {
	t.Helper()
	host := t.TempDir()
	if err := os.Chmod(host, 0o755); err != nil {
		t.Fatal(err)
	}
	seedTree(t, host)
	seen := agreed(t, b, host)
	m := mountOf(t, b, host)
	seen["limit of open files"] = openLimit(t, m.BackendPID())
	for _, user := range []uint32{0, 1000} {
		who := fmt.Sprintf("user%d", user)
		cmd := agentCommand("observer", m.Dir, who)
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: user, Gid: user, Groups: []uint32{}}
		out, err := cmd.Output()
		var observations []observation
		if err == nil {
			err = json.Unmarshal(out, &observations)
		}
		if err != nil {
			t.Fatalf("observer of %s as %d: %v", b.Name, user, err)
		}
		for _, o := range observations {
			seen[who+": "+o.What] = o.Result
		}
	}
	m.Stop()
	tree, err := readTree(host)
	if err != nil {
		t.Fatal(err)
	}
	for path, e := range tree {
		if e.Same == path {
			e.Same = ""
		}
		seen["host: "+path] = fmt.Sprintf("%o %d:%d size %d rdev %x link %q hash %.4x same %q xattrs %q", e.Mode, e.UID, e.GID, e.Size, e.Rdev, e.Link, e.Hash, e.Same, e.Xattrs)
	}
	return seen
}

// openLimit returns a process's limits of open files, soft and hard.
func openLimit(t *testing.T, pid int) string {
	t.Helper()
	var l unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &l); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(l.Cur, " ", l.Max)
}

// guestOffer is what Linux 6.18 offers a virtio-fs device in INIT (linux
// fs/fuse/inode.c: fuse_new_init, without DAX): not bits 2, 26 and 31.
const guestOffer = 1<<32 - 1&^(1<<2|1<<26|1<<31) |
	1<<32 | 1<<34 | 1<<35 | 1<<36 | 1<<38 | 1<<39 | 1<<40 | 1<<42

// agreed asks a backend, without a mount, what a mount does not show: the flags in its
// answer to INIT, and how it announces a mount point.
func agreed(t *testing.T, b mounttest.Backend, host string) map[string]string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agreed") // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "socket")
	var argv []string
	for _, a := range b.Argv {
		argv = append(argv, strings.NewReplacer("{socket}", socket, "{dir}", host).Replace(a))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !vmtest.Listening(socket) {
		<-tick.C
		if unix.Kill(cmd.Process.Pid, 0) != nil || ctx.Err() != nil || ended(cmd.Process.Pid) {
			cancel()
			cmd.Wait()
			t.Fatalf("%s does not listen:\n%s", b.Name, log.String())
		}
	}
	seen, err := askBackend(ctx, socket)
	if waitErr := cmd.Wait(); err != nil || waitErr != nil {
		t.Fatalf("%s: INIT: %v; it ended with %v\n%s", b.Name, err, waitErr, log.String())
	}
	return seen
}

// ended reports whether a child is a zombie.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}

// askBackend sends INIT, and LOOKUP of the mount point.
func askBackend(ctx context.Context, socket string) (map[string]string, error) {
	c, err := fsclient.Dial(ctx, socket, fsclient.Options{Queues: 1, Slots: 1, Data: pageSize})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	le := binary.LittleEndian
	in := make([]byte, 64) // fuse_init_in
	le.PutUint32(in, 7)
	le.PutUint32(in[4:], 45)
	le.PutUint32(in[12:], guestOffer&0xffffffff)
	le.PutUint32(in[16:], guestOffer>>32)
	init, err := ask(c, fuse.OpInit, 0, in, 64)
	if err != nil {
		return nil, err
	}
	flags := uint64(le.Uint32(init[12:])) | uint64(le.Uint32(init[32:]))<<32
	var bits []int
	for i := range 64 {
		if flags>>i&1 != 0 {
			bits = append(bits, i)
		}
	}
	entry, err := ask(c, fuse.OpLookup, 1, []byte("sub\x00"), 128)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"INIT":                    fmt.Sprintf("bits %v", bits),
		"LOOKUP of a mount point": fmt.Sprintf("attribute flags %#x", le.Uint32(entry[40+84:])), // fuse_entry_out.attr.flags
	}, nil
}

// ask sends one request, and returns the answer without its header.
func ask(c *fsclient.Client, op fuse.Opcode, node uint64, in []byte, out int) ([]byte, error) {
	const inHead, outHead = 40, 16 // fuse_in_header, fuse_out_header
	slot, ring, le := c.Slots()[0], c.Ring(1), binary.LittleEndian
	clear(slot.In[:inHead])
	le.PutUint32(slot.In, uint32(inHead+len(in)))
	le.PutUint32(slot.In[4:], uint32(op))
	le.PutUint64(slot.In[8:], 1)
	le.PutUint64(slot.In[16:], node)
	copy(slot.In[inHead:], in)
	if !ring.Submit(slot, inHead+len(in), outHead+out) {
		return nil, fmt.Errorf("%v does not fit the ring: %w", op, ring.Err())
	}
	if err := ring.Publish(); err != nil {
		return nil, err
	}
	for {
		_, n, ok := ring.Reap()
		if !ok {
			if err := ring.Wait(10 * time.Second); err != nil {
				return nil, fmt.Errorf("%v: %w", op, err)
			}
			continue
		}
		if errno := int32(le.Uint32(slot.Out[4:])); errno != 0 || n < outHead+out {
			return nil, fmt.Errorf("%v: answer of %d bytes, error %d", op, n, errno)
		}
		return slices.Clone(slot.Out[outHead : outHead+out]), nil
	}
}
