package structure

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"strconv"
	"strings"
)

// specCases are the numbers of the edge cases in fs-device.md H, as ranges: 194 cases,
// each of which the name of a test has to have.
func specCases() [][2]int {
	return [][2]int{
		{1, 28},    // H.1 transport and descriptors
		{30, 44},   // H.2 header and framing
		{50, 57},   // H.3 INIT
		{60, 77},   // H.4 lookup, forget, names
		{80, 101},  // H.5 create, open, tmpfile
		{110, 122}, // H.6 data
		{130, 141}, // H.7 directories
		{150, 158}, // H.8 rename, link, unlink
		{160, 169}, // H.9 attributes
		{170, 180}, // H.10 xattr, ACL, labels
		{185, 192}, // H.11 ioctl and misc
		{200, 216}, // H.12 vhost-user state machine
		{220, 226}, // H.13 migration
		{230, 245}, // H.14 command line, cfg, jail
	}
}

// Cases returns which of the edge cases no test is named after, as "H016". A name is
// that of a function which go test runs, or of a subtest: in the call of Run, or in a
// table. "H001-H005" names two cases and not five.
func (t *Tree) Cases(ranges [][2]int) (missing []string) {
	number := regexp.MustCompile(`H([0-9]{3})`)
	named := map[int]bool{}
	for _, s := range t.source {
		if s.test || strings.HasSuffix(s.pkg, "test") {
			for _, name := range testNames(s.ast, s.test) {
				for _, m := range number.FindAllStringSubmatch(name, -1) {
					n, _ := strconv.Atoi(m[1]) // three digits
					named[n] = true
				}
			}
		}
	}
	for _, r := range ranges {
		for n := r[0]; n <= r[1]; n++ {
			if !named[n] {
				missing = append(missing, fmt.Sprintf("H%03d", n))
			}
		}
	}
	return missing
}

// testNames returns what may be names of tests and subtests in a file.
func testNames(file *ast.File, test bool) (names []string) {
	literals := func(n ast.Node) {
		ast.Inspect(n, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				names = append(names, lit.Value)
			}
			return true
		})
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if test && n.Recv == nil && (strings.HasPrefix(n.Name.Name, "Test") || strings.HasPrefix(n.Name.Name, "Fuzz")) {
				names = append(names, n.Name.Name)
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Run" && len(n.Args) == 2 {
				literals(n.Args[0])
			}
		case *ast.CompositeLit:
			for _, e := range n.Elts {
				if pair, ok := e.(*ast.KeyValueExpr); ok {
					e = pair.Key // of a map; names of fields are no literals
					if named, ok := pair.Value.(*ast.BasicLit); ok {
						literals(named)
					}
				}
				switch e := e.(type) {
				case *ast.BasicLit, *ast.BinaryExpr:
					literals(e)
				case *ast.CallExpr: // that makes the line of a table
					for _, arg := range e.Args {
						if name, ok := arg.(*ast.BasicLit); ok {
							literals(name)
						}
					}
				}
			}
		}
		return true
	})
	return names
}
