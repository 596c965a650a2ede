package escape

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/passthrough"
)

// An attempt tries to get out of the share.
type attempt struct {
	name string
	run  func(g *guest)
}

// attempts returns all of them.
func attempts() []attempt {
	return slices.Concat(nameAttempts(), linkAttempts(), magicAttempts(), objectAttempts(), movedAttempts(), mountAttempts(), raceAttempts())
}

// leastAttempts is how many there have to be.
const leastAttempts = 60

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range attempts() {
		if seen[a.name] {
			t.Errorf("two attempts are called %q", a.name)
		}
		seen[a.name] = true
	}
	if len(seen) < leastAttempts {
		t.Errorf("%d attempts; want at least %d", len(seen), leastAttempts)
	}
}

// TestLocal runs the attempts against servers in this process, so that the race detector
// sees them.
func TestLocal(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(*passthrough.Options)
	}{
		{"plain", func(*passthrough.Options) {}},
		{"with dots", func(o *passthrough.Options) { o.Export, o.RefuseProc = true, true }},
		{"descriptors closed, by handle", func(o *passthrough.Options) { o.MaxFDs = 24 }},
		{"descriptors closed, by name", func(o *passthrough.Options) {
			o.MaxFDs, o.FileHandles, o.Export, o.RefuseProc = 24, passthrough.HandlesNever, true, true
		}},
		{"any case", func(o *passthrough.Options) { o.ASCIICasefold = true }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 0)
			tryAll(t, w, local(t, w, test.edit))
		})
	}
}

// TestSandbox runs them against vfiofs in each of its sandboxes.
func TestSandbox(t *testing.T) {
	program := build(t)
	for _, test := range []struct {
		name, sandbox string
		uid           int
	}{
		{"none", "none", 0},
		{"chroot", "chroot", 0},
		{"namespace", "namespace", 0},
		{"none, as a user", "none", nobody},
		{"namespace, as a user", "namespace", nobody},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.uid != 0 && !privileged() {
				return // this user is the only one, and has been root above
			}
			t.Parallel()
			w := newWorld(t, test.uid)
			tryAll(t, w, process(t, w, program, test.sandbox))
		})
	}
}

func tryAll(t *testing.T, w *world, b *backend) {
	for _, a := range attempts() {
		t.Run(a.name, func(t *testing.T) {
			w.TB = t
			w.reset()
			g := newGuest(t, w, b)
			a.run(g)
			g.verdict()
		})
	}
}

// verdict is what the oracle says, and a proof that the guest has its share still.
func (g *guest) verdict() {
	g.Helper()
	if g.requests < 2 {
		g.Errorf("%d requests; want the attempt to send some", g.requests)
	}
	g.numbers = true
	if err := g.again(); err != nil {
		g.Fatalf("mount the share again: %v", err)
	}
	c, err := g.Create(root, "alive", unix.O_RDWR, 0o644)
	if err == nil {
		_, err = g.Write(c.Entry.Node, c.Open.Handle, 0, []byte("alive"))
	}
	var st unix.Stat_t
	if err2 := unix.Lstat(g.w.share("alive"), &st); err != nil || err2 != nil || st.Size != 5 || st.Ino != c.Entry.Attr.Ino {
		g.Errorf("the guest makes a file in the share: %v, %v; want it there", err, err2)
	}
	for _, text := range g.leaks {
		g.Errorf("%s", text)
	}
	for _, text := range g.w.changes() {
		g.Errorf("%s", text)
	}
}

// TestOracle has things go wrong on purpose.
func TestOracle(t *testing.T) {
	w := newWorld(t, 0)
	for name, change := range map[string]func() error{
		"content":     func() error { return unix.Truncate(w.outside("secret"), 3) },
		"mode":        func() error { return unix.Chmod(w.outside("dir"), 0o700) },
		"owner":       func() error { return unix.Lchown(w.outside("dir/link"), 1, 1) },
		"new name":    func() error { return unix.Mkdir(w.outside("empty/x"), 0o755) },
		"lost name":   func() error { return unix.Unlink(w.outside("dir/sub/secret")) },
		"moved":       func() error { return unix.Rename(w.outside("empty"), w.outside("full")) },
		"attribute":   func() error { return unix.Setxattr(w.outside("dir"), "user.x", nil, 0) },
		"hard link":   func() error { return unix.Link(w.outside("secret"), w.share("stolen")) },
		"modify time": func() error { return unix.Utimes(w.outside("secret"), make([]unix.Timeval, 2)) },
		"read": func() error {
			_, err := openRead(w.outside("secret"))
			return err
		},
		"listed": func() error {
			_, err := openRead(w.outside("dir"))
			return err
		},
	} {
		w.reset()
		if list := w.changes(); len(list) > 0 {
			t.Fatalf("%s: changes before: %q; want none", name, list)
		}
		if name == "owner" && !privileged() {
			continue // there is no other owner
		}
		w.must(change())
		if len(w.changes()) == 0 {
			t.Errorf("%s: no change seen; want one", name)
		}
	}
}

// openRead reads the start of a file or a directory, as anybody would.
func openRead(path string) (int, error) {
	n, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(n)
	b := make([]byte, 4096)
	got, err := unix.Read(n, b)
	if err == unix.EISDIR {
		got, err = unix.Getdents(n, b)
	}
	return got, err
}

// TestInspect shares what is outside, so that every reply gives something away.
func TestInspect(t *testing.T) {
	w := newWorld(t, 0)
	w.reset()
	b := local(t, w, func(o *passthrough.Options) { o.SharedDir = w.outside() })
	for name, look := range map[string]func(g *guest) error{
		"LOOKUP":   func(g *guest) error { _, err := g.Lookup(root, "secret"); return err },
		"GETATTR":  func(g *guest) error { _, err := g.GetAttr(root, 0); return err },
		"STATX":    func(g *guest) error { _, err := g.Statx(root, 0, unix.STATX_BASIC_STATS); return err },
		"GETXATTR": func(g *guest) error { _, err := g.GetXattr(g.find("dir"), "user.secret", 99); return err },
		"READLINK": func(g *guest) error { _, err := g.ReadLink(g.find("dir", "link"), 99); return err },
		"READDIR": func(g *guest) error {
			if !slices.Contains(g.list(g.find("dir")), canary) {
				return unix.ENOENT
			}
			return nil
		},
		"READ": func(g *guest) error {
			o, err := g.Open(g.find("secret"), unix.O_RDONLY)
			if err == nil {
				_, err = g.Read(g.find("secret"), o.Handle, 0, 99)
			}
			return err
		},
	} {
		g := newGuest(t, w, b)
		if err := look(g); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !slices.ContainsFunc(g.leaks, func(s string) bool { return strings.HasPrefix(s, name) }) {
			t.Errorf("%s: leaks found: %q; want one", name, g.leaks)
		}
	}
}
