package passthrough

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/fd"
)

const testLabel = "trusted.label"

func labels(o *Options) fuse.InitFlags {
	o.SecurityLabel = Required
	return fuse.SecurityCtx
}

// creations are all ways to make something called name, with a label.
var creations = map[string]func(g *guest, name string, in *fuse.Create) (fuse.Entry, error){
	"file": func(g *guest, name string, in *fuse.Create) (fuse.Entry, error) {
		in.Mode, in.Flags = unix.S_IFREG|0o640, unix.O_RDWR
		return g.createIn(name, in)
	},
	"read-only file": func(g *guest, name string, in *fuse.Create) (fuse.Entry, error) {
		in.Mode, in.Flags = unix.S_IFREG|0o200, unix.O_RDONLY
		return g.createIn(name, in)
	},
	"temporary file": func(g *guest, name string, in *fuse.Create) (e fuse.Entry, err error) {
		in.Mode, in.Flags = unix.S_IFREG|0o600, unix.O_RDWR
		var o fuse.Opened
		if err = g.fs.TmpFile(g.c, fuse.RootID, in, &e, &o); err != nil {
			return e, err
		}
		must(g, g.release(e.Node, o.Handle))
		return g.link(e.Node, name)
	},
	"directory": func(g *guest, name string, in *fuse.Create) (e fuse.Entry, err error) {
		in.Mode = 0o750
		err = g.fs.MkDir(g.c, fuse.RootID, []byte(name), in, &e)
		return e, err
	},
	"node": func(g *guest, name string, in *fuse.Create) (e fuse.Entry, err error) {
		in.Mode = unix.S_IFIFO | 0o600
		err = g.fs.MkNod(g.c, fuse.RootID, []byte(name), in, &e)
		return e, err
	},
	"symbolic link": func(g *guest, name string, in *fuse.Create) (e fuse.Entry, err error) {
		err = g.fs.Symlink(g.c, fuse.RootID, []byte(name), []byte("to"), in, &e)
		return e, err
	},
}

// createIn is create that closes the file.
func (g *guest) createIn(name string, in *fuse.Create) (fuse.Entry, error) {
	e, o, err := g.create(name, *in)
	if err == nil {
		must(g, g.release(e.Node, o.Handle))
	}
	return e, err
}

func TestH179Label(t *testing.T) {
	needRoot(t)
	for kind, make := range creations {
		t.Run(kind, func(t *testing.T) {
			g := newGuest(t, labels)
			u := g.as(1000, 1001)
			e, err := make(u, "new", &fuse.Create{Label: []byte("secret"), LabelAs: []byte(testLabel)})
			must(t, err)
			buf := [100]byte{}
			n, err := unix.Lgetxattr(g.path("new"), testLabel, buf[:])
			must(t, err)
			same(t, "label", string(buf[:n]), "secret")
			st := g.host("new")
			same(t, "owner", [2]uint32{st.Uid, st.Gid}, [2]uint32{1000, 1001})
			same(t, "inode", e.Attr.Ino, st.Ino)
			same(t, "node", g.find("new").Node, e.Node)

			_, err = make(u, "plain", new(fuse.Create))
			must(t, err)
			if _, err := unix.Lgetxattr(g.path("plain"), testLabel, buf[:]); err != unix.ENODATA {
				t.Errorf("label of what was made without = %v; want ENODATA", err)
			}
		})
	}
}

// A label that cannot be set leaves nothing behind: no object, no descriptor.
func TestH179LabelFails(t *testing.T) {
	for kind, make := range creations {
		t.Run(kind, func(t *testing.T) {
			g := newGuest(t, labels)
			bad := func(name string) {
				t.Helper()
				// No module of that name exists, which the host knows.
				_, err := make(g, name, &fuse.Create{Label: []byte("x"), LabelAs: []byte("nothing.label")})
				want(t, "label of an unknown kind", err, unix.EOPNOTSUPP)
			}
			bad("new")
			before := fds(t)
			for i := range 50 {
				bad(fmt.Sprint("new", i))
			}
			same(t, "descriptors", fds(t), before)
			list, err := os.ReadDir(g.dir)
			must(t, err)
			same(t, "names in the directory", len(list), 0)
			_, err = make(g, strings.Repeat("n", 255), new(fuse.Create))
			must(t, err)
		})
	}
}

// Nothing is left either if there is no descriptor to set the label with.
func TestLabelWithoutDescriptors(t *testing.T) {
	g := newGuest(t, labels)
	in := fuse.Create{Label: []byte("x"), LabelAs: []byte(testLabel)}
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	for _, kind := range []string{"directory", "node", "symbolic link"} {
		must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}))
		_, err := creations[kind](g, "new", &in)
		must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
		want(t, kind, err, unix.ENFILE)
		list, err := os.ReadDir(g.dir)
		must(t, err)
		same(t, "names left by a "+kind, len(list), 0)
	}
}

// CREATE of a file that exists does not label it.
func TestLabelOfExisting(t *testing.T) {
	needRoot(t)
	g := newGuest(t, labels)
	g.file("f", "data", 0o644)
	in := fuse.Create{Mode: unix.S_IFREG | 0o644, Flags: unix.O_RDWR, Label: []byte("x"), LabelAs: []byte(testLabel)}
	_, _, err := g.create("f", in)
	must(t, err)
	if _, err := unix.Getxattr(g.path("f"), testLabel, nil); err != unix.ENODATA {
		t.Errorf("label = %v; want ENODATA", err)
	}
	same(t, "content", g.content("f"), "data")
	in.Flags |= unix.O_EXCL
	_, _, err = g.create("f", in)
	want(t, "exclusive create", err, unix.EEXIST)
}

// With SELinux the host is told the label before, and told to forget it after.
func TestLabelPreset(t *testing.T) {
	for kind, make := range creations {
		if kind == "temporary file" {
			continue // it is labelled before anybody can see it in any case
		}
		t.Run(kind, func(t *testing.T) {
			g := newGuest(t, labels)
			path := filepath.Join(t.TempDir(), "fscreate") // for the host's, which needs SELinux
			f, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY, 0o600)
			must(t, err)
			l := local(g.c)
			l.labeller.close()
			l.fscreate = fd.New(f, "fscreate")
			defer l.labeller.close()
			_, err = make(g, "new", &fuse.Create{Label: []byte("secret"), LabelAs: []byte(selinuxLabel)})
			must(t, err)
			told, err := os.ReadFile(path)
			must(t, err)
			same(t, "what the host was told", string(told), "secret")
			same(t, "label is still to come", l.preset, false)
			if _, err := unix.Lgetxattr(g.path("new"), selinuxLabel, nil); err == nil {
				t.Error("the label was set as well")
			}
		})
	}
}
