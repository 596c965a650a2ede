package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// Man holds the argument of the man command.
type Man struct {
	Page string `arg:"" optional:"" name:"command" help:"The command to describe. Default: vfiofs itself, and serve."`
}

// Help is what "vfiofs man --help" says beyond the options.
func (Man) Help() string {
	return `Prints a manual page, for example to install it, or to read it:

  vfiofs man proxy | man -l -`
}

// run prints a page, made from the model of the command line.
func (m Man) run(app *kong.Application, stdout io.Writer) error {
	node := app.Node
	if m.Page != "" && m.Page != app.DefaultCmd.Name {
		if node = command(app.Node, m.Page); node == nil {
			return usage("there is no command %q: \"vfiofs --help\" lists all", m.Page)
		}
	}
	var p page
	p.write(node)
	_, err := io.WriteString(stdout, p.String())
	return err
}

// command finds a command below another by its name.
func command(node *kong.Node, name string) *kong.Node {
	for _, child := range node.Children {
		if child.Name == name && !child.Hidden {
			return child
		}
	}
	return nil
}

// options returns the options to tell about. Those of the default command are those of
// the program, too. Hidden ones with a group are only rare.
func options(node *kong.Node) []*kong.Flag {
	flags := node.Flags
	if node.DefaultCmd != nil {
		flags = append(flags[:len(flags):len(flags)], node.DefaultCmd.Flags...)
	}
	var result []*kong.Flag
	for _, flag := range flags {
		if !flag.Hidden || flag.Group != nil {
			result = append(result, flag)
		}
	}
	return result
}

// A page is a manual page, in the language of man(7).
type page struct{ strings.Builder }

// macro writes a line that begins with a macro; the arguments are text.
func (p *page) macro(name string, args ...string) {
	p.WriteString("." + name)
	for _, arg := range args {
		fmt.Fprintf(p, " \"%s\"", strings.ReplaceAll(roff(arg), `"`, `\(dq`))
	}
	p.WriteByte('\n')
}

// text writes paragraphs. Lines that are indented stay as they are.
func (p *page) text(text string) {
	verbatim := false
	for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		line = strings.TrimSuffix(line, "\n")
		switch indented := strings.HasPrefix(line, "  "); {
		case line == "":
			if verbatim {
				p.macro("fi")
			}
			verbatim = false
			p.macro("PP")
			continue
		case indented != verbatim:
			p.macro(map[bool]string{true: "nf", false: "fi"}[indented])
			verbatim = indented
		}
		p.WriteString(roff(line) + "\n")
	}
	if verbatim {
		p.macro("fi")
	}
}

// roff protects text from being read as the language. A hyphen is made one that can be
// copied into a shell.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}

// write writes the page of one command.
func (p *page) write(node *kong.Node) {
	name := node.FullPath()
	title := strings.ReplaceAll(name, " ", "-")
	help, detail := node.Help, node.Detail
	if node.DefaultCmd != nil {
		help, detail, _ = strings.Cut(node.Help, "\n")
	}
	p.macro("TH", strings.ToUpper(title), "1", "", "vfiofs "+version, "User commands")
	p.macro("SH", "NAME")
	brief := strings.TrimSuffix(strings.TrimPrefix(help, "vfiofs "), ".")
	p.WriteString(roff(title) + ` \- ` + roff(strings.ToLower(brief[:1])+brief[1:]) + "\n")
	p.macro("SH", "SYNOPSIS")
	p.synopsis(node)
	if node.DefaultCmd != nil {
		for _, child := range node.Children {
			if !child.Hidden && child != node.DefaultCmd {
				p.macro("br")
				p.synopsis(child)
			}
		}
	}
	p.macro("SH", "DESCRIPTION")
	p.text(help + "\n\n" + strings.TrimSpace(detail))
	p.options("SH", node)
	p.commands(node)
}

// synopsis writes how a command is called.
func (p *page) synopsis(node *kong.Node) {
	p.macro("B", node.FullPath())
	p.WriteString("[\\fIoption\\fR...]")
	if len(node.Children) > 0 && node.DefaultCmd == nil {
		p.WriteString(" \\fIcommand\\fR")
	}
	for _, arg := range node.Positional {
		p.WriteString(" " + roff(arg.Summary()))
	}
	p.WriteByte('\n')
}

// options describes the options of a command, in their groups.
func (p *page) options(section string, node *kong.Node) {
	flags := options(node)
	titles := []string{""}
	members := map[string][]*kong.Flag{}
	for _, group := range groups() {
		titles = append(titles, group.Title)
	}
	for _, flag := range flags {
		title := ""
		if flag.Group != nil {
			title = flag.Group.Title
		}
		members[title] = append(members[title], flag)
	}
	if len(flags) > 0 && section != "" {
		p.macro(section, "OPTIONS")
	}
	for _, title := range titles {
		if title != "" && len(members[title]) > 0 {
			p.macro("SS", strings.TrimSuffix(title, ":"))
		}
		for _, flag := range members[title] {
			p.macro("TP")
			p.WriteString(spelled(flag) + "\n")
			p.WriteString(roff(flag.Help) + "\n")
		}
	}
}

// spelled returns an option with its value.
func spelled(flag *kong.Flag) string {
	text := ""
	if flag.Short != 0 {
		text = `\fB\-` + string(flag.Short) + `\fR, `
	}
	text += `\fB\-\-` + roff(flag.Name) + `\fR`
	if flag.Tag.Negatable != "" {
		text += `, \fB\-\-no\-` + roff(flag.Name) + `\fR`
	}
	if !flag.IsBool() {
		text += ` \fI` + roff(flag.FormatPlaceHolder()) + `\fR`
	}
	return text
}

// commands describes the commands of a command. The program's have pages of their own.
func (p *page) commands(node *kong.Node) {
	if len(node.Children) == 0 {
		return
	}
	p.macro("SH", "COMMANDS")
	var pages []string
	for _, child := range node.Children {
		switch {
		case child.Hidden:
		case node.DefaultCmd == nil:
			p.macro("SS", child.FullPath())
			p.text(child.Help)
			p.options("", child)
		default:
			p.macro("TP")
			p.macro("B", child.Name)
			p.WriteString(roff(child.Help) + "\n")
			if hasPage(child) {
				pages = append(pages, `\fBvfiofs\-`+roff(child.Name)+`\fR(1)`)
			}
		}
	}
	if len(pages) > 0 {
		p.macro("SH", "SEE ALSO")
		p.WriteString(strings.Join(pages, ", ") + "\n")
	}
}

// hasPage reports whether a command has a manual page of its own: those that have more to
// say than the page of the program.
func hasPage(node *kong.Node) bool { return !node.Hidden && node.Detail != "" }
