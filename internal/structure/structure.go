// Package structure checks the shape of this repository: who may import whom, where
// unsafe and global state may be, how long a file may get, what must be documented.
// What go vet and staticcheck cannot know stands here; the test of this package runs
// the rules over the whole tree.
//
//	tree (fs.FS) ──► Load ──► Tree ──► Check(Rules) ──► findings, one line each
//	                           │  source: parsed Go files
//	                           └─ text: all files that are not binary
//
// rules.go holds the tables, and is the file to change when the design changes: a
// new edge between packages is a new line there, so it is seen in review. Files are
// parsed and not built, so all platforms and build tags count.
//
// The package follows no specification of its own.
package structure

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// A Tree is a repository's files, as far as the rules look at them.
type Tree struct {
	fset   *token.FileSet
	source []*source
	text   []text
}

// A source is one Go file.
type source struct {
	path    string // from the root of the tree, with slashes
	pkg     string // directory, as in the tables
	test    bool   // a _test.go file
	command bool   // package main
	lines   int
	ast     *ast.File
}

// A text is any file without NUL bytes.
type text struct {
	path string
	data []byte
}

// Load reads the tree. Directories named testdata count as text only, and .git and
// bin do not count.
func Load(root fs.FS) (*Tree, error) {
	t := &Tree{fset: token.NewFileSet()}
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.Name() == ".git" || name == "bin":
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !entry.Type().IsRegular():
			return nil
		}
		data, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		return t.add(name, data)
	})
	if err != nil {
		return nil, fmt.Errorf("load the source tree: %w", err)
	}
	return t, nil
}

// add takes one file into the tree.
func (t *Tree) add(name string, data []byte) error {
	if !bytes.Contains(data, []byte{0}) {
		t.text = append(t.text, text{name, data})
	}
	if path.Ext(name) != ".go" || slices.Contains(strings.Split(name, "/"), "testdata") {
		return nil
	}
	parsed, err := parser.ParseFile(t.fset, name, data, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	t.source = append(t.source, &source{
		path:    name,
		pkg:     path.Dir(name),
		test:    strings.HasSuffix(name, "_test.go"),
		command: parsed.Name.Name == "main",
		lines:   bytes.Count(data, []byte("\n")),
		ast:     parsed,
	})
	return nil
}

// Check applies all rules and returns what they found, sorted, one line each:
// "path:line: what is wrong". An exception that nothing needs is a finding too.
func (t *Tree) Check(r Rules) []string {
	c := &checker{Tree: t, Rules: r, used: map[string]bool{}}
	c.imports()
	c.unsafe()
	c.calls()
	c.state()
	c.files()
	c.docs()
	c.machinePaths()
	for key := range r.Exceptions {
		if !c.used[key] {
			c.findings = append(c.findings, fmt.Sprintf("exceptions: %q is not needed any more", key))
		}
	}
	slices.Sort(c.findings)
	return c.findings
}

// A checker is one run of the rules.
type checker struct {
	*Tree
	Rules
	used     map[string]bool // exceptions
	findings []string
}

// report adds a finding about what stands at pos, unless "rule subject" is an
// exception; subject is a file, or a file and an identifier in it.
func (c *checker) report(pos token.Pos, rule, subject, format string, args ...any) {
	p := c.fset.Position(pos)
	c.reportAt(fmt.Sprintf("%s:%d", p.Filename, p.Line), rule, subject, format, args...)
}

func (c *checker) reportAt(place, rule, subject, format string, args ...any) {
	key := rule + " " + subject
	if _, ok := c.Exceptions[key]; ok {
		c.used[key] = true
		return
	}
	c.findings = append(c.findings, place+": "+fmt.Sprintf(format, args...))
}
