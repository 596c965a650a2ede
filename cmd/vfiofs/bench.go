package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/bench"
)

// Bench holds the options of the bench command.
type Bench struct {
	Backend []string `group:"bench" sep:"none" placeholder:"NAME=COMMAND" help:"A backend to measure: a command with {socket}, {dir} and {queues} where to listen, what to share and how many queues to offer, or unix:PATH[,PID] for one that listens already and serves --dir. vfiofs and virtiofsd alone mean these programs with suitable options; bare means no server: preadv and pwritev by the client, for reads and writes. Default: vfiofs."`
	VFIO    bool     `name:"vfio" group:"bench" help:"Also measure this program over virtio-vhost-user, as vvu: vfiofs proxy and vfiofs --vfio."`

	Run    []string      `group:"bench" placeholder:"CASE" help:"What to measure: WORKLOAD, WORKLOAD@DEPTH or WORKLOAD@DEPTHxQUEUES, for example rand-read-4k@32. Default: a suite of all workloads."`
	Client string        `group:"bench" enum:"poll,event,both" default:"poll" help:"poll: look for completions all the time; event: sleep until called; both. Default: ${default}."`
	Rounds int           `group:"bench" placeholder:"N" default:"5" help:"Turns of each backend in each case, 5 or more. Default: ${default}."`
	Time   time.Duration `group:"bench" placeholder:"DURATION" default:"500ms" help:"How long a turn is. Default: ${default}."`
	Inodes int           `group:"bench" placeholder:"N" help:"Make N files, and let each backend know all of them, before anything is measured. Default: 0."`
	Life   bool          `group:"bench" help:"Also measure how long a backend that is a command takes to listen, and what it uses when idle."`
	Quick  bool          `group:"bench" help:"A smoke test: few cases, one short turn each. Its numbers mean nothing."`
	Pin    string        `group:"bench" enum:"on,off" default:"on" help:"Keep a client that polls and the backends on different processors: on or off. Default: ${default}."`

	Dir    string   `group:"bench" placeholder:"DIR" help:"Directory to share; it must be empty or not exist, and about 300 MB are written to it, beside the files of --inodes. Default: one below TMPDIR."`
	JSON   bool     `name:"json" group:"bench" help:"Print everything that was measured as JSON."`
	Verify bool     `group:"bench" help:"Measure nothing, but check that what is read and written is right."`
	Page   string   `group:"bench" placeholder:"FILE.md" help:"Measure nothing, but write a page of the reports named by --from, and its plots beside it."`
	From   []string `group:"bench" placeholder:"FILE" help:"Reports for --page, as --json prints them."`
}

// Help is shown by "vfiofs bench --help".
func (*Bench) Help() string {
	return `Sends the same requests to one or more vhost-user file system backends and compares them, without a
virtual machine. Backends take turns; the last one named is what the others are compared with.
Backends whose names differ only after a slash are variants, of which the best counts in each case.

Workloads:
` + bench.Catalogue() + `
Examples:

  Compare with virtiofsd:
    vfiofs bench --backend vfiofs --backend virtiofsd

  One case, with two settings of another backend:
    vfiofs bench --run rand-read-4k@32 --backend vfiofs \
      --backend 'other/1=other --socket-path {socket} --shared-dir {dir} --threads 1' \
      --backend 'other/4=other --socket-path {socket} --shared-dir {dir} --threads 4'

  A command line is split at blanks. Exit codes: 0 measured (or verified), 1 not.`
}

// run measures, verifies or renders.
func (b *Bench) run(ctx context.Context, stdout, stderr io.Writer) error {
	if b.Page != "" {
		return b.writePage()
	}
	opt, err := b.options()
	if err != nil {
		return err
	}
	if b.Dir == "" {
		tmp, err := os.MkdirTemp("", "vfiofs-bench-dir-")
		if err != nil {
			return fmt.Errorf("make a directory to share: %w; name one with --dir", err)
		}
		defer os.Remove(tmp)
		opt.Dir = tmp
	}
	if opt.Dir, err = filepath.Abs(opt.Dir); err != nil {
		return err
	}
	if b.Verify {
		return bench.Verify(ctx, opt, stdout)
	}
	progress := newProgress(stderr)
	opt.Progress = progress.show
	table := bench.NewTable(stdout)
	if !b.JSON {
		opt.Result = func(r bench.Result) {
			progress.clear()
			table.Add(r)
		}
	}
	report, err := bench.Run(ctx, opt)
	progress.clear()
	if b.JSON && report != nil && len(report.Results) > 0 {
		return errors.Join(err, writeJSON(stdout, report)) // what was measured before an error counts
	}
	if err != nil {
		return err
	}
	return table.Legend(report)
}

// writePage is --page.
func (b *Bench) writePage() error {
	if len(b.From) == 0 {
		return usage("`--page` needs reports: name them with --from")
	}
	var reports []*bench.Report
	for _, name := range b.From {
		r, err := bench.ReadReport(name)
		if err != nil {
			return err
		}
		reports = append(reports, r)
	}
	return bench.WritePage(b.Page, reports)
}

// options translates the command line.
func (b *Bench) options() (bench.Options, error) {
	opt := bench.Options{Rounds: b.Rounds, Time: b.Time, Inodes: b.Inodes, Life: b.Life, Pin: b.Pin == "on", Dir: b.Dir, Command: b.command()}
	switch {
	case b.Quick:
		opt.Rounds, opt.Time = 1, 50*time.Millisecond
	case b.Rounds < 5:
		return opt, usage("`--rounds` is %d: a median of fewer than 5 says little; --quick is for trying whether it works", b.Rounds)
	}
	self, err := os.Executable()
	if err != nil {
		return opt, fmt.Errorf("find this program: %w", err)
	}
	if len(b.Backend) == 0 {
		b.Backend = []string{"vfiofs"}
	}
	if b.VFIO {
		opt.Backends = append(opt.Backends, vvuBackend(self))
	}
	for _, text := range b.Backend {
		backend, err := parseBackend(text, self)
		if err != nil {
			return opt, err
		}
		if backend.Socket != "" && b.Dir == "" {
			return opt, usage("`--backend %s`: say what it shares with --dir", text)
		}
		opt.Backends = append(opt.Backends, backend)
	}
	clients := map[string][]bench.Client{"poll": {bench.Poll}, "event": {bench.Event}, "both": {bench.Poll, bench.Event}}[b.Client]
	if len(b.Run) == 0 {
		opt.Cases = bench.Suite(b.Quick, clients...)
	}
	for _, client := range clients {
		for _, text := range b.Run {
			cases, err := bench.ParseCases(text, client)
			if err != nil {
				return opt, usage("`--run`: %w", err)
			}
			opt.Cases = append(opt.Cases, cases...)
		}
	}
	return opt, nil
}

// command is the command line that gives the same cases and backends, for a shell.
func (b *Bench) command() string {
	words := []string{"vfiofs bench"}
	if b.VFIO {
		words = append(words, "--vfio")
	}
	for _, text := range b.Backend {
		if strings.ContainsAny(text, " {}") {
			text = "'" + text + "'"
		}
		words = append(words, "--backend "+text)
	}
	if len(b.Run) > 0 {
		words = append(words, "--run "+strings.Join(b.Run, ","))
	}
	if b.Inodes > 0 {
		words = append(words, fmt.Sprintf("--inodes %d", b.Inodes))
	}
	if b.Life {
		words = append(words, "--life")
	}
	return strings.Join(append(words, "--client "+b.Client), " ")
}

// serveCommand is this program as a backend.
func serveCommand(self string, more ...string) []string {
	return append([]string{self, "--shared-dir", "{dir}", "--num-request-queues", "{queues}", "--xattr", "--log-level", "warn"}, more...)
}

// vvuBackend is this program over virtio-vhost-user.
func vvuBackend(self string) bench.Backend {
	return bench.Backend{Name: "vvu", Commands: [][]string{
		{self, "proxy", "--socket", "{socket}", "--device-socket", "{device}", "--mem-path", "{memory}", "--log-level", "warn"},
		serveCommand(self, "--vfio", "{device}", "--tag", "bench"),
	}}
}

// parseBackend parses one --backend.
func parseBackend(text, self string) (bench.Backend, error) {
	name, command, ok := strings.Cut(text, "=")
	b := bench.Backend{Name: name}
	switch {
	case !ok && name == "vfiofs":
		b.Commands = [][]string{serveCommand(self, "--socket", "{socket}")}
		return b, nil
	case !ok && name == "bare":
		b.Bare = true
		return b, nil
	case !ok && name == "virtiofsd":
		path, err := findVirtiofsd()
		b.Commands = [][]string{{path, "--socket-path", "{socket}", "--shared-dir", "{dir}", "--sandbox", "none", "--xattr", "--log-level", "error"}}
		return b, err
	case !ok:
		return b, usage("`--backend %s`: want NAME=COMMAND, or vfiofs, virtiofsd or bare", text)
	}
	if socket, ok := strings.CutPrefix(command, "unix:"); ok {
		b.Socket = socket
		if path, pid, ok := strings.Cut(socket, ","); ok {
			b.Socket = path
			if _, err := fmt.Sscan(pid, &b.PID); err != nil {
				return b, usage("`--backend %s`: %q is no process", text, pid)
			}
		}
		return b, nil
	}
	argv := strings.Fields(command)
	if len(argv) == 0 || !strings.Contains(command, "{socket}") || !strings.Contains(command, "{dir}") {
		return b, usage("`--backend %s`: the command must have {socket} and {dir} where it wants to be told where to listen and what to share", text)
	}
	if argv[0] == "vfiofs" {
		argv[0] = self
	}
	b.Commands = [][]string{argv}
	return b, nil
}

// findVirtiofsd finds the program where distributions put it.
func findVirtiofsd() (string, error) {
	for _, name := range []string{"virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", usage("virtiofsd is not installed here: name its command with --backend 'virtiofsd=... --socket-path {socket} --shared-dir {dir}', or use scripts/bench, which fetches one")
}

// A progress shows on a terminal what goes on; anywhere else it is silent.
type progress struct {
	w     io.Writer
	shown bool
}

func newProgress(w io.Writer) *progress {
	if f, ok := w.(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			return &progress{w: w}
		}
	}
	return &progress{w: io.Discard}
}

// show replaces the line.
func (p *progress) show(now bench.Progress) {
	p.clear()
	p.shown = true
	if now.Task != "" {
		fmt.Fprintf(p.w, "%s: %d of %d", now.Task, now.Done, now.Total)
		return
	}
	fmt.Fprintf(p.w, "[%d/%d] %v", now.Number, now.Cases, now.Case)
	if now.Backend != "" {
		fmt.Fprintf(p.w, ": round %d of %d, %s %.0f/s", now.Round, now.Rounds, now.Backend, now.Rate)
	}
}

// clear removes the line.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}
