package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// Completion holds the argument of the completion command.
type Completion struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is what "vfiofs completion --help" says beyond the options.
func (Completion) Help() string {
	return `Prints what makes a shell complete command lines of vfiofs. For one session:

  bash:  source <(vfiofs completion bash)
  zsh:   source <(vfiofs completion zsh)
  fish:  vfiofs completion fish | source

Packages install it where the shell finds it.`
}

// run prints a script for a shell, made from the model of the command line.
func (c Completion) run(app *kong.Application, stdout io.Writer) error {
	write := map[string]func(*kong.Node) string{"bash": bash, "zsh": zsh, "fish": fish}[c.Shell]
	_, err := io.WriteString(stdout, write(app.Node))
	return err
}

// walk calls do for the program and for each command, with the words that lead there.
func walk(node *kong.Node, words string, do func(node *kong.Node, words string)) {
	if node.Hidden {
		return
	}
	do(node, words)
	for _, child := range node.Children {
		walk(child, strings.TrimSpace(words+" "+child.Name), do)
	}
}

// commandNames returns the names of the commands of a command.
func commandNames(node *kong.Node) (names []string) {
	for _, child := range node.Children {
		if !child.Hidden {
			names = append(names, child.Name)
		}
	}
	return names
}

// spellings returns the long spellings of an option, without dashes.
func spellings(flag *kong.Flag) []string {
	if flag.Tag.Negatable != "" {
		return []string{flag.Name, "no-" + flag.Name}
	}
	return []string{flag.Name}
}

// A kind is what a value may be.
type kind int

// The kinds.
const (
	anything kind = iota
	oneOf
	file
	directory
)

// valueKind returns what the value of an option or argument may be, and the words if it
// is one of them.
func valueKind(v *kong.Value, placeholder string) (kind, []string) {
	switch list := cmp.Or(v.Enum, v.Tag.Get("values")); {
	case list != "":
		return oneOf, strings.Split(strings.TrimSuffix(list, ","), ",")
	case placeholder == "DIR" || v.Name == "dir":
		return directory, nil
	case strings.HasPrefix(placeholder, "FILE") || placeholder == "PATH":
		return file, nil
	}
	return anything, nil
}

// briefly returns the first sentence of a help text, without what shells would read.
func briefly(help string) string {
	help, _, _ = strings.Cut(help, ". ")
	return strings.NewReplacer("'", "’", `"`, "”", "`", "’", `\`, "/", "[", "(", "]", ")", ":", ",", "$", "").Replace(strings.TrimSuffix(help, "."))
}

// bash returns a script for bash. It needs nothing else, not even bash-completion.
func bash(app *kong.Node) string {
	var values, words strings.Builder
	walk(app, "", func(node *kong.Node, path string) {
		list := commandNames(node)
		for _, flag := range options(node) {
			for _, name := range spellings(flag) {
				list = append(list, "--"+name)
			}
			if flag.IsBool() {
				continue
			}
			action := "return"
			switch kind, choice := valueKind(flag.Value, flag.PlaceHolder); kind {
			case oneOf:
				action = fmt.Sprintf("mapfile -t COMPREPLY < <(compgen -W '%s' -- \"$cur\")", strings.Join(choice, " "))
			case file:
				action = "compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")"
			case directory:
				action = "compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- \"$cur\")"
			}
			fmt.Fprintf(&values, "\t'%s:--%s') %s; return ;;\n", path, flag.Name, action)
		}
		for _, arg := range node.Positional {
			switch kind, choice := valueKind(arg, ""); kind {
			case oneOf:
				list = append(list, choice...)
			case directory:
				list = append(list, `'; compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); : '`)
			}
		}
		fmt.Fprintf(&words, "\t'%s') words='%s' ;;\n", path, strings.Join(list, " "))
	})
	return `# bash completion of vfiofs, made by "vfiofs completion bash"
_vfiofs() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path= words=
	COMPREPLY=()
	# Bash takes --cache=never for three words.
	if [[ $cur == '=' ]]; then
		cur=
	elif [[ $prev == '=' ]]; then
		prev=${COMP_WORDS[COMP_CWORD-2]}
	fi
	if ((COMP_CWORD > 1)) && [[ ${COMP_WORDS[1]} != -* ]]; then
		path=${COMP_WORDS[1]}
		if ((COMP_CWORD > 2)) && [[ $path == vfio && ${COMP_WORDS[2]} != -* ]]; then
			path+=" ${COMP_WORDS[2]}"
		fi
	fi
	case "$path:$prev" in
` + values.String() + `	esac
	case "$path" in
` + words.String() + `	esac
	mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -F _vfiofs vfiofs
`
}

// zsh returns a function for zsh.
func zsh(app *kong.Node) string {
	var cases strings.Builder
	walk(app, "", func(node *kong.Node, path string) {
		fmt.Fprintf(&cases, "\t('%s') _arguments -s", path)
		for _, flag := range options(node) {
			for _, name := range spellings(flag) {
				repeat := ""
				if flag.IsCumulative() {
					repeat = "*"
				}
				value := ""
				if !flag.IsBool() {
					name += "="
					value = ":" + strings.ToLower(briefly(flag.FormatPlaceHolder())) + ":" + zshAction(valueKind(flag.Value, flag.PlaceHolder))
				}
				fmt.Fprintf(&cases, " \\\n\t\t'%s--%s[%s]%s'", repeat, name, briefly(flag.Help), value)
			}
		}
		switch list := commandNames(node); {
		case len(list) > 0:
			fmt.Fprintf(&cases, " \\\n\t\t':command:(%s)'", strings.Join(list, " "))
		default:
			for _, arg := range node.Positional {
				fmt.Fprintf(&cases, " \\\n\t\t'*:%s:%s'", arg.Name, zshAction(valueKind(arg, "")))
			}
		}
		cases.WriteString(" ;;\n")
	})
	return `#compdef vfiofs
# zsh completion of vfiofs, made by "vfiofs completion zsh"
_vfiofs() {
	local vfiofs_path=
	if ((CURRENT > 2)) && [[ $words[2] != -* ]]; then
		vfiofs_path=$words[2]
		shift words
		((CURRENT--))
		if ((CURRENT > 2)) && [[ $vfiofs_path == vfio && $words[2] != -* ]]; then
			vfiofs_path+=" $words[2]"
			shift words
			((CURRENT--))
		fi
	fi
	case $vfiofs_path in
` + cases.String() + `	esac
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
	_vfiofs "$@"
else
	compdef _vfiofs vfiofs
fi
`
}

// zshAction returns how _arguments completes a value.
func zshAction(k kind, choice []string) string {
	switch k {
	case oneOf:
		return "(" + strings.Join(choice, " ") + ")"
	case file:
		return "_files"
	case directory:
		return "_files -/"
	}
	return " "
}

// fish returns commands for fish.
func fish(app *kong.Node) string {
	var b strings.Builder
	b.WriteString("# fish completion of vfiofs, made by \"vfiofs completion fish\"\ncomplete -c vfiofs -f\n")
	walk(app, "", func(node *kong.Node, path string) {
		condition := fmt.Sprintf("not __fish_seen_subcommand_from %s", strings.Join(commandNames(app), " "))
		if path != "" {
			condition = "__fish_seen_subcommand_from " + strings.ReplaceAll(path, " ", "; and __fish_seen_subcommand_from ")
		}
		line := func(format string, args ...any) {
			fmt.Fprintf(&b, "complete -c vfiofs -n '%s'"+format+"\n", append([]any{condition}, args...)...)
		}
		for _, child := range node.Children {
			if !child.Hidden {
				line(" -a '%s' -d '%s'", child.Name, briefly(child.Help))
			}
		}
		for _, flag := range options(node) {
			for _, name := range spellings(flag) {
				value := ""
				if !flag.IsBool() {
					value = fishAction(valueKind(flag.Value, flag.PlaceHolder))
				}
				line(" -l '%s'%s -d '%s'", name, value, briefly(flag.Help))
			}
		}
		for _, arg := range node.Positional {
			if value := fishAction(valueKind(arg, "")); value != " -x" {
				line("%s", strings.TrimPrefix(value, " -x"))
			}
		}
	})
	return b.String()
}

// fishAction returns how a value is completed.
func fishAction(k kind, choice []string) string {
	switch k {
	case oneOf:
		return " -x -a '" + strings.Join(choice, " ") + "'"
	case file:
		return " -r -F"
	case directory:
		return " -x -a '(__fish_complete_directories)'"
	}
	return " -x"
}
