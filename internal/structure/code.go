package structure

import (
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
)

// unsafe checks that unsafe code is in files one can list, and that each piece of it
// says why it is sound.
func (c *checker) unsafe() {
	for _, file := range c.source {
		if file.test || file.localName("unsafe") == "" {
			continue
		}
		switch {
		case !strings.HasSuffix(file.path, "_unsafe.go"):
			c.report(file.ast.Package, "unsafe", file.path, "unsafe is imported by a file that is not named *_unsafe.go")
		case !slices.Contains(c.Unsafe, file.pkg):
			c.report(file.ast.Package, "unsafe", file.path, "%s may not use unsafe: it is not in the list", file.pkg)
		}
		for _, decl := range file.ast.Decls {
			if pos := file.unsound(decl); pos.IsValid() {
				c.report(pos, "unsafe", file.path, "unsafe without a // SAFETY: line in the same declaration")
			}
		}
	}
}

// unsound returns the place of the first use of unsafe in decl if no comment of it
// has a SAFETY line. Sizes and offsets are constants and need no reason.
func (s *source) unsound(decl ast.Decl) token.Pos {
	first := token.NoPos
	s.uses(decl, "unsafe", func(sel *ast.SelectorExpr) {
		switch sel.Sel.Name {
		case "Sizeof", "Offsetof", "Alignof":
		default:
			if !first.IsValid() {
				first = sel.Pos()
			}
		}
	})
	begin := decl.Pos()
	if doc := docOf(decl); doc != nil {
		begin = doc.Pos()
	}
	for _, comment := range s.ast.Comments {
		if comment.Pos() >= begin && comment.End() <= decl.End() && strings.Contains(comment.Text(), "SAFETY:") {
			return token.NoPos
		}
	}
	return first
}

func docOf(decl ast.Decl) *ast.CommentGroup {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		return d.Doc
	case *ast.GenDecl:
		return d.Doc
	}
	return nil
}

// globalLoggers are the functions of log/slog that use the process's logger.
var globalLoggers = []string{
	"Default", "SetDefault", "Debug", "DebugContext", "Error", "ErrorContext",
	"Info", "InfoContext", "Log", "LogAttrs", "Warn", "WarnContext", "With",
}

// calls checks for what only a command may do (end the process, log to a global
// logger, act at start-up) and for sleeping tests.
func (c *checker) calls() {
	for _, file := range c.source {
		if file.test || strings.HasSuffix(file.pkg, "test") {
			file.uses(file.ast, "time", func(sel *ast.SelectorExpr) {
				if sel.Sel.Name == "Sleep" {
					c.report(sel.Pos(), "sleep", file.path, "a test sleeps; wait on a condition with a deadline instead")
				}
			})
		}
		if file.test || file.command {
			continue
		}
		if file.localName("log") != "" {
			c.report(file.ast.Package, "call", file.path, "package log is global and ends processes; use the *slog.Logger of the options")
		}
		file.uses(file.ast, "os", func(sel *ast.SelectorExpr) {
			if sel.Sel.Name == "Exit" {
				c.report(sel.Pos(), "call", file.path, "os.Exit outside of a command; return an error")
			}
		})
		file.uses(file.ast, "log/slog", func(sel *ast.SelectorExpr) {
			if slices.Contains(globalLoggers, sel.Sel.Name) {
				c.report(sel.Pos(), "call", file.path, "slog.%s uses the global logger; use the one of the options", sel.Sel.Name)
			}
		})
		for _, decl := range file.ast.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				c.report(f.Pos(), "init", file.path, "init function: importing a package must do nothing")
			}
		}
	}
}

// state checks that package-level variables are error sentinels or documented tables
// that nobody writes to.
func (c *checker) state() {
	for _, file := range c.source {
		if file.test || file.command {
			continue
		}
		for _, decl := range file.ast.Decls {
			if d, ok := decl.(*ast.GenDecl); ok && d.Tok == token.VAR {
				for _, spec := range d.Specs {
					c.variable(file, d, spec.(*ast.ValueSpec))
				}
			}
		}
	}
}

// variable checks one line of a var declaration.
func (c *checker) variable(file *source, decl *ast.GenDecl, spec *ast.ValueSpec) {
	for i, name := range spec.Names {
		subject := file.path + " " + name.Name
		switch {
		case name.Name == "_" || strings.HasPrefix(strings.ToLower(name.Name), "err"):
		case i >= len(spec.Values) || !isTable(spec.Values[i]):
			c.report(name.Pos(), "state", subject, "variable %s of the package is neither an error nor a table", name.Name)
		case decl.Doc == nil && spec.Doc == nil && spec.Comment == nil:
			c.report(name.Pos(), "state", subject, "table %s has no comment that says what it holds", name.Name)
		case c.written(file.pkg, name.Name).IsValid():
			c.report(c.written(file.pkg, name.Name), "state", subject, "table %s of the package is written to", name.Name)
		}
	}
}

// isTable reports whether a value is an array, slice or map written out.
func isTable(value ast.Expr) bool {
	lit, ok := value.(*ast.CompositeLit)
	if !ok {
		return false
	}
	switch lit.Type.(type) {
	case *ast.ArrayType, *ast.MapType:
		return true
	}
	return false
}

// written returns the place where a package assigns to a variable of that name, or
// to an element of it.
func (c *checker) written(pkg, name string) (at token.Pos) {
	targets := func(n ast.Node) []ast.Expr {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				return n.Lhs
			}
		case *ast.IncDecStmt:
			return []ast.Expr{n.X}
		}
		return nil
	}
	for _, file := range c.source {
		if file.pkg != pkg || file.test {
			continue
		}
		ast.Inspect(file.ast, func(n ast.Node) bool {
			for _, target := range targets(n) {
				if base(target) == name {
					at = target.Pos()
				}
			}
			return true
		})
	}
	return at
}

// base returns the identifier at the left end of x, y in y[i].f.
func base(x ast.Expr) string {
	for {
		switch e := x.(type) {
		case *ast.Ident:
			return e.Name
		case *ast.IndexExpr:
			x = e.X
		case *ast.SelectorExpr:
			x = e.X
		case *ast.ParenExpr:
			x = e.X
		default:
			return ""
		}
	}
}

// vagueNames say nothing about what is in a file.
var vagueNames = []string{"util", "utils", "common", "helper", "helpers", "misc"}

// files checks names and lengths.
func (c *checker) files() {
	for _, file := range c.source {
		limit := c.MaxLines
		if file.test {
			limit = c.MaxTestLines
		}
		if file.lines > limit {
			c.report(file.ast.Package, "length", file.path, "%d lines; at most %d: a long file is two ideas", file.lines, limit)
		}
		name := strings.TrimSuffix(strings.TrimSuffix(path.Base(file.path), ".go"), "_test")
		if slices.Contains(vagueNames, name) {
			c.report(file.ast.Package, "name", file.path, "name a file after what a reader looks for in it, not %s", path.Base(file.path))
		}
	}
}
