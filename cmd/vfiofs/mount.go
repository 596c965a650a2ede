package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vfiofs/fuse/devfuse"
	"vfiofs/internal/fsclient"
)

// Mount holds the options of the mount command.
type Mount struct {
	Socket string `group:"mount" required:"" placeholder:"PATH" help:"Unix socket of the backend."`
	Dir    string `arg:"" name:"dir" help:"Directory to mount on."`

	Queues    int  `group:"mount" placeholder:"N" default:"0" help:"Request queues to use, 1 to 63, one thread each, if the backend has as many. Default: one per processor, at most 8."`
	ReadOnly  bool `group:"mount" help:"Mount read-only."`
	Interrupt bool `group:"mount" negatable:"" default:"true" help:"Tell the backend of signals to programs that wait for it, so that a wait for a lock ends. A virtual machine never does. On by default."`
	Trusted   bool `group:"mount" help:"Honour set-user-id programs and device nodes of the share, as a virtual machine would. Without it they have no effect here."`

	LogLevel  string `group:"process" placeholder:"LEVEL" enum:"error,warn,info,debug,trace,off" default:"info" help:"error, warn, info, debug, trace or off. Default: ${default}."`
	LogFormat string `group:"process" placeholder:"FORMAT" enum:"text,json" default:"text" help:"text or json, one line per event. Default: ${default}."`
}

// Help is shown by "vfiofs mount --help".
func (*Mount) Help() string {
	return `Mounts what a vhost-user-fs backend shares on this host, without a virtual machine: to look at a
share, to debug a backend (vfiofs, virtiofsd or any other), and to run programs against it at the
speed of the host. The backend sees the same requests as from a guest with this host's kernel.

  vfiofs --socket /tmp/fs.sock --shared-dir /srv/home &
  vfiofs mount --socket /tmp/fs.sock /mnt

It stays in the foreground. Ctrl-C, SIGTERM, "umount DIR" and "fusermount3 -u DIR" end it with exit
code 0 and nothing left mounted; if the backend goes away it ends with 1, and whoever uses the mount
gets an error.

A backend serves one client: it must not be in use by a virtual machine, and vfiofs waits for the
next client when this one has left. The mount is for all users, with permissions checked by the
kernel.

It needs /dev/fuse and the right to mount. Without being root, do it in a namespace:

  unshare --user --map-root-user --mount vfiofs mount --socket /tmp/fs.sock DIR

The mount exists in that namespace only (nsenter to get in). fusermount3 is not used for mounting.`
}

// check refuses what can't work before anything is opened.
func (m *Mount) check() error {
	switch {
	case m.Socket == "":
		return usage("--socket must not be empty")
	case m.Dir == "":
		return usage("DIR must not be empty")
	case m.Queues < 0 || m.Queues > 63:
		return usage("--queues is %d; want 1 to 63", m.Queues)
	}
	return nil
}

// run is the life of the mount.
func (m *Mount) run(ctx context.Context, stderr io.Writer) (err error) {
	if err := m.check(); err != nil {
		return err
	}
	client, err := fsclient.Dial(ctx, m.Socket, devfuse.ClientOptions(m.Queues))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("%w (is a backend running there, for example: vfiofs --socket %s --shared-dir DIR?)", err, m.Socket)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	session, err := devfuse.Mount(client, m.Dir, devfuse.Options{
		Source: m.source(client), ReadOnly: m.ReadOnly, Trusted: m.Trusted, NoInterrupt: !m.Interrupt,
		Log: newLog(stderr, m.LogLevel, m.LogFormat),
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "mounted %s on %s; Ctrl-C or \"umount %s\" unmounts\n", m.Socket, m.Dir, m.Dir)
	if err := session.Serve(ctx); err != nil {
		return fmt.Errorf("%s on %s: %w; the mount is gone", m.Socket, m.Dir, err)
	}
	return nil
}

// source is what the mount table shows: the tag, or where the socket is.
func (m *Mount) source(client *fsclient.Client) string {
	if tag := client.Tag(); tag != "" {
		return tag
	}
	if path, err := filepath.Abs(m.Socket); err == nil {
		return path
	}
	return m.Socket
}
