package escape

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/internal/fsclient"
	"vfiofs/passthrough"
)

// patience is how long a server may take for what it should do at once.
const patience = 20 * time.Second

// A backend is a server of a world's share.
type backend struct {
	transport fusetest.Transport
	jailed    bool // it sees nothing but the share
	export    bool // it lets "." and ".." be looked up
	pid       int  // of the server, as it sees itself; 0 if that is not known
}

// local serves in this process.
func local(t testing.TB, w *world, edit func(*passthrough.Options)) *backend {
	t.Helper()
	o := passthrough.Options{SharedDir: w.share(), XAttr: true, AnnounceSubmounts: true, PosixLocks: true, Flock: true}
	edit(&o)
	fs, err := passthrough.New(o)
	w.must(err)
	t.Cleanup(func() { w.must(fs.Close()) })
	server := fusetest.NewLocal(t, fs.View(), fuse.Options{})
	t.Cleanup(func() {
		if n := server.Server.Panics(); n > 0 {
			t.Errorf("%d panics; want none", n)
		}
	})
	return &backend{transport: server.Transport, export: o.Export, jailed: o.RefuseProc, pid: os.Getpid()}
}

// process starts vfiofs with a sandbox as the user that owns the share, and connects.
func process(t testing.TB, w *world, program, sandbox string) *backend {
	t.Helper()
	dir, err := os.MkdirTemp("", "escape")
	w.must(err)
	t.Cleanup(func() { w.must(os.RemoveAll(dir)) })
	w.must(os.Chown(dir, w.uid, w.uid))
	log, err := os.Create(filepath.Join(dir, "log"))
	w.must(err)
	defer log.Close()
	socket := filepath.Join(dir, "socket")
	cmd := exec.Command(program, "--socket", socket, "--shared-dir", w.share(), "--tag", "escape", "--sandbox", sandbox,
		"--xattr", "--posix-lock", "--flock", "--num-request-queues", "1", "--log-level", "warn", "--once")
	cmd.Stdout, cmd.Stderr = log, log
	if w.uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(w.uid), Gid: uint32(w.uid)}}
	}
	w.must(cmd.Start())
	exited := make(chan error, 2) // for connect, and for the end
	go func() {
		err := cmd.Wait()
		exited <- err
		exited <- err
	}()
	t.Cleanup(func() {
		select {
		case err := <-exited:
			if err != nil {
				t.Errorf("vfiofs ended: %v", err)
			}
		case <-time.After(patience):
			cmd.Process.Kill()
			<-exited
			t.Errorf("vfiofs did not end in %v", patience)
		}
		if b, err := os.ReadFile(log.Name()); err != nil || t.Failed() {
			t.Logf("log of vfiofs: %s (%v)", b, err)
		}
	})
	c := connect(t, socket, exited)
	t.Cleanup(func() { w.must(c.Close()) })
	b := &backend{jailed: sandbox != "none", export: sandbox != "none", pid: cmd.Process.Pid}
	if sandbox == "namespace" {
		b.pid = 1
	}
	if sandbox == "chroot" {
		b.pid = 0
	}
	ring, hiprio, slot := c.Ring(1), c.Ring(0), c.Slots()[0]
	b.transport = func(in []byte, out int) ([]byte, error) {
		r := ring
		if out == 0 {
			r = hiprio
		}
		copy(slot.In, in)
		if !r.Submit(slot, len(in), out) {
			return nil, errors.New("the ring is full")
		}
		if err := r.Publish(); err != nil {
			return nil, err
		}
		if err := r.Wait(patience); err != nil {
			return nil, err
		}
		s, n, ok := r.Reap()
		if !ok || s != slot {
			return nil, fmt.Errorf("the ring is broken: %v", r.Err())
		}
		return append([]byte(nil), slot.Out[:n]...), nil
	}
	return b
}

// connect waits until a server listens.
func connect(t testing.TB, socket string, exited <-chan error) *fsclient.Client {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithDeadline(t.Context(), end)
		c, err := fsclient.Dial(ctx, socket, fsclient.Options{Queues: 1, Slots: 1, Data: 128 << 10})
		cancel()
		if err == nil {
			return c
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatal(err)
		}
		select {
		case err := <-exited:
			t.Fatalf("vfiofs ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
