package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// activated returns a command that runs as a service manager would start it: with a
// listening socket as descriptor 3, and its own number in LISTEN_PID.
func activated(t *testing.T, socket, count string, argv ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, argv...)...)
	cmd.Env = append(os.Environ(), "LISTEN_FDS="+count, "GORACE="+raceOptions)
	cmd.ExtraFiles = []*os.File{file}
	var log bytes.Buffer
	cmd.Stderr = &log
	return cmd, &log
}

// TestActivation serves a client over a socket that somebody else listens on. It is --fd=3.
func TestActivation(t *testing.T) {
	vfiofs := program(t)
	for _, mode := range modes() {
		t.Run(mode, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			cmd, log := activated(t, socket, "1", vfiofs, "--shared-dir", t.TempDir(), "--sandbox", mode)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			conn, err := net.Dial("unix", socket)
			if err == nil {
				err = askFeatures(conn)
				conn.Close()
			}
			if err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("after the client has left: %v; want exit code 0\n%s", err, log)
			}
			if !strings.Contains(log.String(), "Waiting for vhost-user socket connection...") {
				t.Errorf("log:\n%s\nwant the words that launchers wait for", log)
			}
			if _, err := os.Stat(socket); err != nil {
				t.Errorf("the manager's socket: %v; want it left alone", err)
			}
		})
	}
}

func TestActivationRefused(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct{ name, count, stderr string }{
		{"several sockets", "2", "write one ListenStream="},
		{"no number", "x", `LISTEN_FDS is "x"`},
		{"two sources", "1", "the command line names another"},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := []string{program(t), "--shared-dir", dir}
			if test.name == "two sources" {
				args = append(args, "--socket", filepath.Join(dir, "s"))
			}
			cmd, log := activated(t, filepath.Join(t.TempDir(), "s"), test.count, args...)
			if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != exitFailed {
				t.Errorf("exit: %v; want code %d", err, exitFailed)
			}
			if !strings.Contains(log.String(), test.stderr) {
				t.Errorf("stderr:\n%s\nwant %q in it", log, test.stderr)
			}
		})
	}
}

// TestActivationOfAnother ignores what was meant for another process.
func TestActivationOfAnother(t *testing.T) {
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	s := new(Serve)
	if err := s.activate(nil); err != nil || s.FD != nil {
		t.Errorf("activate with the LISTEN_PID of another = %v, fd %v; want nothing", err, s.FD)
	}
}
