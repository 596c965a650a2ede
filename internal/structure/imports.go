package structure

import (
	"go/ast"
	"slices"
	"strconv"
	"strings"
)

// imports checks every edge between packages against the tables.
func (c *checker) imports() {
	for _, file := range c.source {
		for _, spec := range file.ast.Imports {
			c.edge(file, spec)
		}
	}
}

// edge checks one import.
func (c *checker) edge(file *source, spec *ast.ImportSpec) {
	target, own := c.target(spec)
	subject := file.path + " " + target
	switch {
	case target == "C":
		c.report(spec.Pos(), "edge", subject, "cgo is not used here")
	case own && spec.Name != nil && spec.Name.Name != "_":
		c.report(spec.Pos(), "edge", subject, "import of %s is renamed to %s; packages of our own keep their name", target, spec.Name.Name)
	case own && (target == "cmd" || strings.HasPrefix(target, "cmd/")):
		c.report(spec.Pos(), "edge", subject, "nothing imports a command, but %s does import %s", file.pkg, target)
	case own && !file.test && !c.mayImport(file.pkg, target):
		c.report(spec.Pos(), "edge", subject, "%s may not import %s: there is no line for it in the import table", file.pkg, target)
	case !own && isThirdParty(target) && !c.mayUse(file, target):
		c.report(spec.Pos(), "edge", subject, "%s may not import %s: there is no line for it in the table of other modules", file.pkg, target)
	}
}

// target returns what is imported: for a package of our own its directory.
func (c *checker) target(spec *ast.ImportSpec) (target string, own bool) {
	target, _ = strconv.Unquote(spec.Path.Value) // the parser has checked it
	if dir, ok := strings.CutPrefix(target, c.Module+"/"); ok {
		return dir, true
	}
	return target, target == c.Module
}

// isThirdParty reports whether an import path is from another module.
func isThirdParty(target string) bool {
	first, _, _ := strings.Cut(target, "/")
	return strings.Contains(first, ".")
}

func (c *checker) mayImport(pkg, target string) bool {
	allowed := c.Imports[pkg]
	return slices.Contains(allowed, target) || slices.Contains(allowed, "*")
}

// mayUse reports whether a file may import a package from another module.
func (c *checker) mayUse(file *source, target string) bool {
	allowed := slices.Concat(c.ThirdParty["*"], c.ThirdParty[file.pkg])
	if file.test {
		allowed = append(allowed, c.TestThirdParty...)
	}
	return slices.ContainsFunc(allowed, func(line string) bool {
		below, all := strings.CutSuffix(line, "/...")
		return target == below || all && strings.HasPrefix(target, below+"/")
	})
}

// localName returns the name by which a file calls an imported package of the
// standard library, or "" if it does not import it.
func (s *source) localName(target string) string {
	for _, spec := range s.ast.Imports {
		if name, _ := strconv.Unquote(spec.Path.Value); name == target {
			if spec.Name != nil {
				return spec.Name.Name
			}
			return target[strings.LastIndexByte(target, '/')+1:]
		}
	}
	return ""
}

// uses calls found for every mention of a member of an imported package below node.
func (s *source) uses(node ast.Node, target string, found func(sel *ast.SelectorExpr)) {
	local := s.localName(target)
	if local == "" {
		return
	}
	ast.Inspect(node, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == local {
				found(sel)
			}
		}
		return true
	})
}
