// Command vfiofs serves a directory to a virtual machine over virtio-fs.
//
//	command line ─► Serve ─► passthrough.FS ─► fuse.Server ─► virtiofs.Device
//	                                                               ▲
//	          a client: source.Accept ─► vhostuser.Link ─► Backend ┘
//
// main.go holds the command line and the exit code, serve.go the life of the
// daemon, source.go where clients come from (a socket, or a PCI function), check.go
// what is refused before anything is opened, log.go and limits.go what is set up for
// the whole process, sandbox.go what confines it. Three tools stand beside it: proxy.go is "vfiofs proxy", bind.go
// and functions.go are "vfiofs vfio", doctor.go and examine*.go "vfiofs doctor".
//
// Ownership: serve owns the file system, the device and the source, and closes
// them in reverse order. One client is served at a time; its connection belongs to
// the loop that accepted it.
//
// Spec: fs-device.md A, F.8, G.1.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"strings"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"
)

// Exit codes (fs-device.md A.1.1).
const (
	exitOK     = 0
	exitFailed = 1 // failures at run time; for serve usage errors as well
	exitUsage  = 2 // usage errors of the tools: vfio, doctor and mount
)

// CLI is the command line: its fields are the commands.
type CLI struct {
	Serve   Serve   `cmd:"" default:"withargs" help:"Serve a directory to one guest at a time over a vhost-user socket (the default command)."`
	Proxy   Proxy   `cmd:"" help:"Connect a device VM, where vfiofs runs, with the virtual machines that it serves."`
	Mount   Mount   `cmd:"" help:"Mount a share on this host, without a virtual machine."`
	Bench   Bench   `cmd:"" help:"Measure file system backends and compare them, without a virtual machine."`
	VFIO    VFIO    `cmd:"" name:"vfio" help:"Give PCI functions to user space, and take them back."`
	Doctor  Doctor  `cmd:"" help:"Say what vfiofs can do on this machine, what is missing, and how to fix it."`
	Version Version `cmd:"" help:"Print the version and what it was built from."`

	Man        Man        `cmd:"" help:"Print a manual page."`
	Completion Completion `cmd:"" help:"Print what makes a shell complete command lines."`

	ShowVersion bool `name:"version" short:"V" help:"Print the version and exit."`
}

func main() {
	signal.Ignore(unix.SIGPIPE, unix.SIGXFSZ)
	ctx, stop := signal.NotifyContext(context.Background(), stopSignals()...)
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// stopSignals returns the signals that end the daemon. One that was ignored when
// the process started stays ignored, as nohup and background jobs expect.
func stopSignals() []os.Signal {
	signals := []os.Signal{unix.SIGTERM}
	for _, s := range []os.Signal{unix.SIGINT, unix.SIGHUP} {
		if !signal.Ignored(s) {
			signals = append(signals, s)
		}
	}
	return signals
}

// run carries out one command line, argv[0] included, and returns the exit code. ctx
// ends the daemon.
func run(ctx context.Context, argv []string, stdout, stderr io.Writer) int {
	p := newParser(stdout, stderr)
	cli := &p.cli
	command, err := p.parse(argv, os.Environ())
	switch {
	case p.helped:
		return exitOK
	case err != nil:
	case cli.ShowVersion:
		err = Version{Short: true}.write(stdout)
	case command == "version":
		err = cli.Version.write(stdout)
	case command == "proxy":
		err = cli.Proxy.run(ctx, stdout, stderr)
	case command == "mount <dir>":
		err = cli.Mount.run(ctx, stderr)
	case command == "doctor":
		err = cli.Doctor.run(ctx, stdout)
	case command == "bench":
		err = cli.Bench.run(ctx, stdout, stderr)
	case strings.HasPrefix(command, "man"):
		err = cli.Man.run(p.Model, stdout)
	case strings.HasPrefix(command, "completion"):
		err = cli.Completion.run(p.Model, stdout)
	case strings.HasPrefix(command, "vfio "):
		err = cli.VFIO.run(command, stdout)
	case cli.Serve.PrintCapabilities:
		err = printCapabilities(stdout)
	default:
		err = cli.Serve.run(ctx, stdout, stderr)
	}
	if err == nil {
		return exitOK
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	fmt.Fprintf(stderr, "vfiofs: error: %v\n", err)
	if errors.As(err, new(usageError)) {
		fmt.Fprintln(stderr, `Run "vfiofs --help" for all options.`)
		if len(argv) > 1 && (argv[1] == "vfio" || argv[1] == "doctor" || argv[1] == "mount") {
			return exitUsage
		}
	}
	return exitFailed
}

// takeString stores an argument as it is. Paths are bytes to Linux, while kong's own
// mapper replaces what is not UTF-8.
func takeString(ctx *kong.DecodeContext, target reflect.Value) error {
	if ctx.Scan.Peek().IsEOL() {
		return errors.New("its value is missing")
	}
	token, err := ctx.Scan.PopValue("string")
	if err != nil {
		return err
	}
	target.SetString(token.String())
	return nil
}

// usageError marks a mistake on the command line.
type usageError struct{ error }

// usage makes a usageError.
func usage(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

func (e usageError) Unwrap() error { return e.error }
