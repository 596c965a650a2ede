package structure

import (
	"bytes"
	"fmt"
	"go/ast"
	"regexp"
	"strings"
)

// docs checks that packages and exported identifiers are documented.
func (c *checker) docs() {
	comments := map[string]string{} // package comments by package
	first := map[string]*source{}   // the first file of each package
	for _, file := range c.source {
		if file.test {
			continue
		}
		comments[file.pkg] += file.ast.Doc.Text()
		if first[file.pkg] == nil {
			first[file.pkg] = file
		}
		for _, decl := range file.ast.Decls {
			c.documented(file, decl)
		}
	}
	for pkg, file := range first {
		switch comment := strings.ToLower(comments[pkg]); {
		case comment == "":
			c.report(file.ast.Package, "doc", pkg, "package %s has no package comment", pkg)
		case !strings.Contains(comment, "spec"):
			c.report(file.ast.Package, "doc", pkg, "the comment of package %s names no specification, and does not say that there is none", pkg)
		}
	}
}

// documented checks the exported identifiers of one declaration.
func (c *checker) documented(file *source, decl ast.Decl) {
	missing := func(name *ast.Ident, docs ...*ast.CommentGroup) {
		if !name.IsExported() {
			return
		}
		for _, doc := range docs {
			if doc != nil {
				return
			}
		}
		c.report(name.Pos(), "doc", file.path+" "+name.Name, "exported %s has no doc comment", name.Name)
	}
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil || ast.IsExported(receiver(d)) {
			missing(d.Name, d.Doc)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				missing(s.Name, d.Doc, s.Doc, s.Comment)
			case *ast.ValueSpec:
				for _, name := range s.Names {
					missing(name, d.Doc, s.Doc, s.Comment)
				}
			}
		}
	}
}

// receiver returns the name of a method's type.
func receiver(f *ast.FuncDecl) string {
	x := f.Recv.List[0].Type
	if star, ok := x.(*ast.StarExpr); ok {
		x = star.X
	}
	switch t := x.(type) {
	case *ast.IndexExpr:
		x = t.X
	case *ast.IndexListExpr:
		x = t.X
	}
	if name, ok := x.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}

// machinePath matches a path that exists on one developer's machine only. What
// follows a variable or another path, as in "$dir"/home, is a path of its own kind.
const machinePath = "(?:^|[\\s=:,;(\\[{<>|&`])[\"'`]?(/(?:work|root|home/\\w[\\w.-]*)(?:/[\\w./-]*|\\b))"

// machinePaths checks all texts for such paths.
func (c *checker) machinePaths() {
	pattern := regexp.MustCompile(machinePath)
	for _, text := range c.text {
		for i, line := range bytes.Split(text.data, []byte("\n")) {
			if m := pattern.FindSubmatch(line); m != nil {
				c.reportAt(fmt.Sprintf("%s:%d", text.path, i+1), "path", text.path, "%s is a path of one machine", m[1])
			}
		}
	}
}
