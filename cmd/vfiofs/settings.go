package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/alecthomas/kong"
)

// A setting is the value of an option of serve that stands somewhere else than among
// the arguments. What counts, from the strongest: arguments, --cfg, environment, file,
// defaults.
type setting struct {
	name, value string
	place       string // where it stands, for messages
}

// arg returns the setting as an argument.
func (s setting) arg() string { return "--" + s.name + "=" + s.value }

// settable reports whether an option may stand in a file or in the environment.
func settable(flag *kong.Flag) bool {
	switch flag.Name {
	case "help", "cfg", "print-capabilities", "print-sandbox":
		return false
	}
	return true
}

// fromEnviron returns the settings of the environment: VFIOFS_LOG_LEVEL is --log-level.
// Other variables of that kind are left to other programs.
func fromEnviron(environ []string, flags []*kong.Flag) []setting {
	values := map[string]string{}
	for _, line := range environ {
		name, value, _ := strings.Cut(line, "=")
		values[name] = value
	}
	var settings []setting
	for _, flag := range flags {
		name := "VFIOFS_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
		if value, ok := values[name]; ok && settable(flag) {
			settings = append(settings, setting{flag.Name, value, "environment variable " + name})
		}
	}
	return settings
}

// maxFile is enough for any file of settings, in bytes.
const maxFile = 1 << 20

// fromFile returns the settings of the file of --config; "" is no file.
func fromFile(name string, flags []*kong.Flag) ([]setting, error) {
	if name == "" {
		return nil, nil
	}
	info, err := os.Stat(name)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxFile) {
		err = fmt.Errorf("open %s: not a regular file of at most %d bytes", name, maxFile)
	}
	text := []byte(nil)
	if err == nil {
		text, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the options in a file: %w; correct --config", err)
	}
	return parseFile(name, text, flags)
}

// parseFile reads lines of the form name = value. A line that begins with # is a comment;
// nothing is quoted. Options that may be repeated are repeated here, too.
//
// The form is that of the options themselves, so there is nothing else to learn, and
// mistakes have a line number. (JSON has neither comments nor line numbers in Go.)
func parseFile(name string, text []byte, flags []*kong.Flag) ([]setting, error) {
	var settings []setting
	number := 0
	for line := range bytes.Lines(text) {
		number++
		place := fmt.Sprintf("%s:%d", name, number)
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(string(line), "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok {
			return nil, usage("%s: %q is not of the form name = value; an option without a value is written name = true", place, key)
		}
		if err := checkKey(key, flags); err != nil {
			return nil, usage("%s: %w", place, err)
		}
		settings = append(settings, setting{key, value, place})
	}
	return settings, nil
}

// checkKey says what is wrong with the name of an option in a file.
func checkKey(key string, flags []*kong.Flag) error {
	if reason := refused(key); reason != "" {
		return fmt.Errorf("%s: %s", key, reason)
	}
	nearest, least := "", len(key)+len("announce-submounts")
	for _, flag := range flags {
		if !settable(flag) || flag.Name == "config" {
			continue
		}
		if flag.Name == key {
			return nil
		}
		if d := distance(key, flag.Name); d < least {
			nearest, least = flag.Name, d
		}
	}
	if !utf8.ValidString(key) {
		return errors.New("this is no text: a file of options has lines like cache = always")
	}
	return fmt.Errorf("there is no option %q; did you mean %q? \"vfiofs --help-all\" lists all, without the two dashes", key, nearest)
}

// distance returns how many bytes must be put in, taken out or changed to make a into b
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
