package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"vfiofs/pci"
)

// Doctor holds the options of the doctor command.
type Doctor struct{ machine }

// Help is what "vfiofs doctor --help" says beyond the options.
func (Doctor) Help() string {
	return `Looks at this machine and changes nothing. Each line says what is there or missing, what it is needed for, and how to get it. The end says what vfiofs can do here: serve on a socket, drive a PCI function (--vfio ADDR), drive one over a vfio-user socket (--vfio PATH), be the device model (proxy), confine itself (--sandbox namespace), mount a share on this host (mount DIR), and run virtual machines.

Exit codes: 0 the socket transport works, 1 it doesn't, 2 wrong usage.`
}

// A purpose is something that vfiofs can do, or that is done with it.
type purpose string

// Purposes, as the last lines of the doctor name them.
const (
	forSocket   purpose = "--socket PATH"
	forVFIO     purpose = "--vfio ADDR"
	forVFIOUser purpose = "--vfio PATH"
	forProxy    purpose = "proxy"
	forSandbox  purpose = "--sandbox namespace"
	forMount    purpose = "mount DIR"
	forVMs      purpose = "virtual machines"
)

// purposes are all of them, in the order of the text.
var purposes = []purpose{forSocket, forVFIO, forVFIOUser, forProxy, forSandbox, forMount, forVMs}

// A finding is the result of one check.
type finding struct {
	Name   string    `json:"name"`
	OK     bool      `json:"ok"`
	Detail string    `json:"detail"`
	Fix    string    `json:"fix,omitempty"` // what to do if it isn't OK
	For    []purpose `json:"for"`           // what is impossible without it; empty: it is merely good to have
}

// An ability says whether one purpose can be served.
type ability struct {
	Name    purpose  `json:"name"`
	OK      bool     `json:"ok"`
	Missing []string `json:"missing"` // names of findings
}

// run looks, prints, and fails if not even the socket transport works.
func (d *Doctor) run(ctx context.Context, stdout io.Writer) error {
	findings := d.examine(ctx, d.sysfs())
	abilities := conclude(findings)
	if d.JSON {
		err := writeJSON(stdout, struct {
			Checks    []finding `json:"checks"`
			Abilities []ability `json:"abilities"`
		}{findings, abilities})
		return errors.Join(err, socketVerdict(abilities))
	}
	printFindings(stdout, findings)
	fmt.Fprintln(stdout)
	w := newTable(stdout)
	for _, a := range abilities {
		text := "works here"
		if !a.OK {
			text = "needs " + strings.Join(a.Missing, ", ")
		}
		fmt.Fprintf(w, "%s\t%s\n", a.Name, text)
	}
	return errors.Join(w.Flush(), socketVerdict(abilities))
}

// examine makes all checks.
func (d *Doctor) examine(ctx context.Context, sysfs pci.Sysfs) []finding {
	findings := d.checkKernel()
	findings = append(findings, d.checkLimits()...)
	findings = append(findings, d.checkJail()...)
	findings = append(findings, d.checkMemory()...)
	findings = append(findings, d.checkMount()...)
	findings = append(findings, d.checkVFIO(sysfs)...)
	return append(findings, d.checkVMs(ctx)...)
}

// conclude turns findings into abilities.
func conclude(findings []finding) []ability {
	abilities := make([]ability, 0, len(purposes))
	for _, p := range purposes {
		a := ability{Name: p, OK: true, Missing: []string{}}
		for _, f := range findings {
			if !f.OK && slices.Contains(f.For, p) {
				a.OK = false
				a.Missing = append(a.Missing, f.Name)
			}
		}
		abilities = append(abilities, a)
	}
	return abilities
}

func socketVerdict(abilities []ability) error {
	for _, a := range abilities {
		if a.Name == forSocket && !a.OK {
			return fmt.Errorf("the socket transport can't work here: it needs %s", strings.Join(a.Missing, ", "))
		}
	}
	return nil
}

// printFindings prints a line per finding, and below it what it is for and what to do
// if it is missing.
func printFindings(stdout io.Writer, findings []finding) {
	width := 0
	for _, f := range findings {
		width = max(width, len(f.Name))
	}
	for _, f := range findings {
		state := "ok"
		if !f.OK {
			state = "missing"
		}
		fmt.Fprintf(stdout, "%-7s  %-*s  %s\n", state, width, f.Name, f.Detail)
		if f.OK {
			continue
		}
		use := "good to have"
		if len(f.For) > 0 {
			names := make([]string, len(f.For))
			for i, p := range f.For {
				names[i] = string(p)
			}
			use = "needed for " + strings.Join(names, ", ")
		}
		fmt.Fprintf(stdout, "%*s%s; fix: %s\n", width+11, "", use, f.Fix)
	}
}
