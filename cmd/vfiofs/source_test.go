package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/vfio/vfiouser"
	"vfiofs/virtio"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/vvu"
	"vfiofs/virtio/vvu/proxy"
)

// startProxy serves a function at the vfio-user socket that it returns, to one client.
// Siblings connect to the other socket. stop ends the proxy.
func startProxy(t *testing.T) (function, socket string, stop func()) {
	t.Helper()
	dir := t.TempDir()
	function, socket = filepath.Join(dir, "function"), filepath.Join(dir, "siblings")
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	memory, err := proxy.NewMemory(1 << 20)
	fatal(err)
	listener, err := listen(nil, 0, "--socket", socket)
	fatal(err)
	model, err := proxy.New(proxy.Options{Listener: listener, Memory: memory})
	fatal(err)
	l, err := net.Listen("unix", function)
	fatal(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		vfiouser.NewServer(model, vfiouser.Options{}).Serve(ctx, conn.(*net.UnixConn))
	}()
	var ended bool
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		err := errors.Join(l.Close(), listener.Close())
		<-done
		if err := errors.Join(err, model.Close(), memory.Close()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return function, socket, stop
}

// daemon runs vfiofs; the result is its exit code.
func daemon(ctx context.Context, stderr *bytes.Buffer, args ...string) <-chan int {
	done := make(chan int, 1)
	// A jail would be that of all tests.
	args = append([]string{"vfiofs", "--sandbox", "none", "--seccomp", "none"}, args...)
	go func() { done <- run(ctx, args, stderr, stderr) }()
	return done
}

// sibling connects to socket and checks that there is a file system behind it.
func sibling(t *testing.T, socket string) {
	t.Helper()
	var f *vhostuser.Frontend
	for end := time.Now().Add(10 * time.Second); ; {
		var err error
		if f, err = vhostuser.Dial(socket); err == nil {
			break
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNREFUSED) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
	defer f.Close()
	if err := f.Negotiate(virtio.FeatureVersion1|vhostuser.FeatureProtocolFeatures, vhostuser.ProtocolMQ|vhostuser.ProtocolConfig); err != nil {
		t.Fatal(err)
	}
	config, err := f.Config(0, 40)
	if err != nil || !bytes.HasPrefix(config, []byte("home\x00")) {
		t.Errorf("configuration = %q, %v; want the tag home", config, err)
	}
}

func TestServeFunction(t *testing.T) {
	t.Run("one sibling after the other", func(t *testing.T) {
		function, socket, _ := startProxy(t)
		ctx, cancel := context.WithCancel(t.Context())
		var stderr bytes.Buffer
		done := daemon(ctx, &stderr, "--vfio", function, "--tag", "home", "--shared-dir", t.TempDir())
		for range 3 {
			sibling(t, socket)
		}
		cancel()
		if code := <-done; code != exitOK {
			t.Errorf("exit code is %d; want 0; log:\n%s", code, &stderr)
		}
		if !strings.Contains(stderr.String(), "function="+function) {
			t.Errorf("log doesn't name the function:\n%s", &stderr)
		}
	})
	t.Run("once", func(t *testing.T) {
		function, socket, _ := startProxy(t)
		var stderr bytes.Buffer
		done := daemon(t.Context(), &stderr, "--vfio", function, "--tag", "home", "--shared-dir", t.TempDir(), "--once")
		sibling(t, socket)
		if code := <-done; code != exitOK {
			t.Errorf("exit code is %d; want 0; log:\n%s", code, &stderr)
		}
	})
	t.Run("proxy ends", func(t *testing.T) {
		function, socket, stop := startProxy(t)
		var stderr bytes.Buffer
		done := daemon(t.Context(), &stderr, "--vfio", function, "--tag", "home", "--shared-dir", t.TempDir())
		sibling(t, socket)
		stop()
		if code := <-done; code != exitFailed {
			t.Errorf("exit code is %d; want 1", code)
		}
		if !strings.Contains(stderr.String(), function+" is lost: ") {
			t.Errorf("log doesn't say that the function is lost:\n%s", &stderr)
		}
	})
}

func TestLost(t *testing.T) {
	s := &Serve{VFIO: "0000:00:07.0"}
	if err := s.lost(unix.EIO); !errors.Is(err, unix.EIO) || strings.Contains(err.Error(), "lost") {
		t.Errorf("lost(EIO) = %v; want EIO", err)
	}
	if err := s.lost(vvu.ErrGone); !errors.Is(err, vvu.ErrGone) || !strings.HasPrefix(err.Error(), "0000:00:07.0 is lost: ") {
		t.Errorf("lost(ErrGone) = %v; want that it names the function", err)
	}
}
