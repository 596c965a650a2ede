package main

import (
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/alecthomas/kong"
)

// A parser is the command line, and what it takes to read it.
type parser struct {
	*kong.Kong
	cli    CLI
	helped bool // help was printed, and there is nothing else to do
}

// newParser makes the model of the command line.
func newParser(stdout, stderr io.Writer) *parser {
	p := new(parser)
	k, err := kong.New(&p.cli,
		kong.Name("vfiofs"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { p.helped = true }),
		kong.Help(help),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoAppDescFormat: true, WrapUpperBound: 100}),
		kong.ExplicitGroups(groups()),
		kong.KindMapper(reflect.String, kong.MapperFunc(takeString)),
		kong.Vars{"sandbox": string(defaultSandbox()), "queues": fmt.Sprint(defaultQueues()), "workers": fmt.Sprint(defaultWorkers)},
	)
	if err != nil {
		panic(fmt.Sprintf("command line model: %v", err))
	}
	p.Kong = k
	return p
}

// parse reads a command line, argv[0] included, and returns the command. What it leaves
// open for serve is taken from --cfg, the environment and a file, in this order.
func (p *parser) parse(argv, environ []string) (command string, err error) {
	args, notes, err := modernize(argv[1:])
	if err != nil {
		return "", err
	}
	if i := slices.Index(args, "--help-all"); i >= 0 {
		args[i] = "--help"
		for _, flag := range p.serveFlags() {
			flag.Hidden = flag.Group == nil
		}
	}
	ctx, err := p.Parse(args)
	if err != nil {
		return "", usageError{err}
	}
	if p.helped || ctx.Command() != "serve" {
		return ctx.Command(), nil
	}
	final, err := p.settings(ctx, environ)
	if err != nil {
		return "", err
	}
	if len(args) > 0 && args[0] == "serve" {
		args = args[1:]
	}
	// Of two equal options the last wins.
	if ctx, err = p.Parse(append(final, args...)); err != nil {
		return "", usageError{err}
	}
	p.cli.Serve.name, p.cli.Serve.notes = filepath.Base(argv[0]), notes
	return ctx.Command(), nil
}

// serveFlags returns the options of serve.
func (p *parser) serveFlags() []*kong.Flag { return p.Model.DefaultCmd.Flags }

// optionsOf returns the options that were given, and their values as text.
func optionsOf(ctx *kong.Context) map[string]string {
	values := map[string]string{}
	for _, part := range ctx.Path {
		if part.Flag != nil {
			values[part.Flag.Name] = fmt.Sprint(reflect.Indirect(part.Flag.Target).Interface())
		}
	}
	return values
}

// settings returns, as arguments of serve, what stands elsewhere and is overridden
// neither by those in ctx nor by what ranks higher.
func (p *parser) settings(ctx *kong.Context, environ []string) ([]string, error) {
	arguments, cfg := optionsOf(ctx), p.cli.Serve.Cfg
	env := fromEnviron(environ, p.serveFlags())
	name, given := arguments["config"]
	for _, s := range env {
		if s.name == "config" && !given {
			name = s.value
		}
	}
	file, err := fromFile(name, p.serveFlags())
	if err != nil {
		return nil, err
	}
	var explicit, defaults []setting
	if cfg != nil {
		if explicit, err = parseCfg(*cfg); err != nil {
			return nil, err
		}
		defaults = cfgDefaults()
	}
	ranks := [][]setting{explicit, env, file, defaults}

	// A wrong value is reported where it stands.
	for _, s := range slices.Concat(ranks...) {
		if _, err := p.Parse([]string{"serve", s.arg()}); err != nil {
			return nil, usage("%s: %w", s.place, err)
		}
	}
	for _, s := range explicit {
		ctx, err := p.Parse([]string{"serve", s.arg()})
		if err != nil {
			return nil, usageError{err}
		}
		argument, ok := arguments[s.name]
		if value := optionsOf(ctx)[s.name]; ok && argument != value && (argument != "true" || value != "auto") {
			return nil, usage("`--%s %s` and `--cfg`, which says %s, contradict each other: drop one", s.name, argument, value)
		}
	}

	taken := map[string]bool{}
	for name := range arguments {
		taken[subject(name)] = true
	}
	var result []string
	for _, rank := range ranks {
		var kept []string
		for _, s := range rank {
			if !taken[subject(s.name)] {
				kept = append(kept, s.arg())
			}
		}
		for _, s := range rank {
			taken[subject(s.name)] = true
		}
		result = append(kept, result...)
	}
	return append([]string{"serve"}, result...), nil
}

// subject returns what an option is about: some say the same thing in several ways.
func subject(name string) string {
	switch name {
	case "socket", "socket-path", "fd", "vfio":
		return "socket"
	case "once", "keep":
		return "once"
	}
	return name
}
