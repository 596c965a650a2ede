// Command vfiofs serves a directory to a virtual machine over virtio-fs.
//
//	command line ─► Serve ─► passthrough.FS ─► fuse.Server ─► virtiofs.Device
//	                                                               ▲
//	          a client: source.Accept ─► vhostuser.Link ─► Backend ┘
//
// main.go holds the command line and the exit code, serve.go the life of the
// daemon, source.go where clients come from (a socket, or a PCI function), check.go
// what is refused before anything is opened, log.go and limits.go what is set up for
// the whole process. Three tools stand beside it: proxy.go is "vfiofs proxy", bind.go
// and functions.go are "vfiofs vfio", doctor.go and examine.go "vfiofs doctor".
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
	exitUsage  = 2 // usage errors of the tools: vfio and doctor
)

// CLI is the command line: its fields are the commands.
type CLI struct {
	Serve   Serve   `cmd:"" default:"withargs" help:"Serve a directory to one guest at a time over a vhost-user socket (the default command)."`
	Proxy   Proxy   `cmd:"" help:"Connect a device VM, where vfiofs runs, with the virtual machines that it serves."`
	VFIO    VFIO    `cmd:"" name:"vfio" help:"Give PCI functions to user space, and take them back."`
	Doctor  Doctor  `cmd:"" help:"Say what vfiofs can do on this machine, what is missing, and how to fix it."`
	Version Version `cmd:"" help:"Print the version and what it was built from."`

	ShowVersion bool `name:"version" short:"V" help:"Print the version and exit."`
}

func main() {
	signal.Ignore(unix.SIGPIPE, unix.SIGXFSZ)
	ctx, stop := signal.NotifyContext(context.Background(), stopSignals()...)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
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

// run carries out one command line and returns the exit code. ctx ends the daemon.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var cli CLI
	helped := false
	parser, err := kong.New(&cli,
		kong.Name("vfiofs"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { helped = true }),
		kong.Help(help),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoAppDescFormat: true, WrapUpperBound: 100}),
		kong.ExplicitGroups(groups()),
		kong.KindMapper(reflect.String, kong.MapperFunc(takeString)),
		kong.Vars{"queues": fmt.Sprint(defaultQueues()), "workers": fmt.Sprint(defaultWorkers)},
	)
	if err != nil {
		panic(fmt.Sprintf("command line model: %v", err))
	}
	command, err := parser.Parse(args)
	switch {
	case helped:
		return exitOK
	case err != nil:
		err = usageError{err}
	case cli.ShowVersion:
		err = Version{Short: true}.write(stdout)
	case command.Command() == "version":
		err = cli.Version.write(stdout)
	case command.Command() == "proxy":
		err = cli.Proxy.run(ctx, stdout, stderr)
	case command.Command() == "doctor":
		err = cli.Doctor.run(ctx, stdout)
	case strings.HasPrefix(command.Command(), "vfio "):
		err = cli.VFIO.run(command.Command(), stdout)
	default:
		err = cli.Serve.run(ctx, stderr)
	}
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "vfiofs: error: %v\n", err)
	if errors.As(err, new(usageError)) {
		fmt.Fprintln(stderr, `Run "vfiofs --help" for all options.`)
		if len(args) > 0 && (args[0] == "vfio" || args[0] == "doctor") {
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
