package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

// version is the release; set it with -ldflags "-X main.version=1.2.3".
var version = "0.1.0"

// Version prints what this binary is.
type Version struct {
	Short bool `help:"Only the version, as --version prints it."`
}

// write prints the version as "vfiofs X.Y.Z", and below it how it was built.
func (v Version) write(w io.Writer) error {
	text := "vfiofs " + version + "\n"
	if !v.Short {
		text += buildFacts(debug.ReadBuildInfo())
	}
	_, err := io.WriteString(w, text)
	return err
}

// buildFacts returns a line each for the commit and the tool chain, as far as they
// are known.
func buildFacts(info *debug.BuildInfo, ok bool) string {
	text := ""
	if ok {
		facts := map[string]string{}
		for _, s := range info.Settings {
			facts[s.Key] = s.Value
		}
		if commit := facts["vcs.revision"]; commit != "" {
			if facts["vcs.modified"] == "true" {
				commit += " with changes"
			}
			text += fmt.Sprintf("commit %s, %s\n", commit, facts["vcs.time"])
		}
	}
	return text + fmt.Sprintf("built with %s for %s/%s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
