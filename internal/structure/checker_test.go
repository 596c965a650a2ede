package structure

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// small are rules for trees of a few lines.
func small() Rules {
	return Rules{
		Module:         "m",
		Imports:        map[string][]string{"cmd/c": {"*"}, "a": {"b"}, "b": {}},
		ThirdParty:     map[string][]string{"*": {"golang.org/x/sys/unix"}, "b": {"example.org/lib/..."}},
		TestThirdParty: []string{"example.org/check"},
		Unsafe:         []string{"a"},
		MaxLines:       20,
		MaxTestLines:   30,
	}
}

// head begins a file that none of the rules object to.
const head = "// Package x follows no specification.\npackage x\n"

// TestCheck gives each rule something to find, and something close to it that is
// right.
func TestCheck(t *testing.T) {
	for _, test := range []struct {
		name       string
		file       string
		src        string
		exceptions map[string]string
		want       []string
	}{
		{name: "allowed imports", file: "a/a.go", src: head + `import ("m/b"; "fmt"; "golang.org/x/sys/unix")`},
		{
			name: "edge without a line", file: "b/b.go", src: head + `import "m/a"`,
			want: []string{"b/b.go:3: b may not import a: there is no line for it in the import table"},
		},
		{
			name: "package without a line", file: "z/z.go", src: head + `import "m/a"`,
			want: []string{"z/z.go:3: z may not import a: there is no line for it in the import table"},
		},
		{name: "a test imports more", file: "b/b_test.go", src: head + `import ("m/a"; "example.org/check")`},
		{name: "a command imports all", file: "cmd/c/main.go", src: "// Command c follows no specification.\npackage main\n" + `import ("m/a"; "m/z")`},
		{
			name: "import of a command", file: "a/a_test.go", src: head + `import "m/cmd/c"`,
			want: []string{"a/a_test.go:3: nothing imports a command, but a does import cmd/c"},
		},
		{
			name: "renamed import", file: "a/a.go", src: head + `import other "m/b"`,
			want: []string{"a/a.go:3: import of b is renamed to other; packages of our own keep their name"},
		},
		{
			name: "cgo", file: "a/a.go", src: head + `import "C"`,
			want: []string{"a/a.go:3: cgo is not used here"},
		},
		{
			name: "another module", file: "a/a.go", src: head + `import "example.org/lib/x"`,
			want: []string{"a/a.go:3: a may not import example.org/lib/x: there is no line for it in the table of other modules"},
		},
		{name: "another module that is listed", file: "b/b.go", src: head + `import ("example.org/lib/x"; "example.org/lib")`},
		{
			name: "a test's module outside of tests", file: "b/b.go", src: head + `import "example.org/check"`,
			want: []string{"b/b.go:3: b may not import example.org/check: there is no line for it in the table of other modules"},
		},
		{
			name: "an excepted edge", file: "b/b.go", src: head + `import "m/a"`,
			exceptions: map[string]string{"edge b/b.go a": "until next week"},
		},

		{
			name: "unsafe in an ordinary file", file: "a/a.go",
			src:  head + "import \"unsafe\"\n// SAFETY: none.\nvar _ = unsafe.Pointer(nil)",
			want: []string{"a/a.go:2: unsafe is imported by a file that is not named *_unsafe.go"},
		},
		{
			name: "unsafe in an ordinary package", file: "b/b_unsafe.go",
			src:  head + "import \"unsafe\"\n// SAFETY: none.\nvar _ = unsafe.Pointer(nil)",
			want: []string{"b/b_unsafe.go:2: b may not use unsafe: it is not in the list"},
		},
		{
			name: "unsafe without a reason", file: "a/a_unsafe.go",
			src: head + "import \"unsafe\"\n// SAFETY: a constant.\nvar _ = unsafe.Pointer(nil)\n" +
				"func f(p *int) uintptr {\n\treturn uintptr(unsafe.Pointer(p))\n}",
			want: []string{"a/a_unsafe.go:7: unsafe without a // SAFETY: line in the same declaration"},
		},
		{
			name: "unsafe with a reason", file: "a/a_unsafe.go",
			src: head + "import \"unsafe\"\nfunc f(p *int) uintptr {\n\t// SAFETY: only printed.\n\treturn uintptr(unsafe.Pointer(p))\n}\n" +
				"const size = unsafe.Sizeof(0)",
		},
		{name: "unsafe in a test", file: "b/b_test.go", src: head + "import \"unsafe\"\nvar p = unsafe.Pointer(nil)"},

		{
			name: "a library ends the process", file: "a/a.go", src: head + "import \"os\"\nfunc f() { os.Exit(1) }",
			want: []string{"a/a.go:4: os.Exit outside of a command; return an error"},
		},
		{
			name: "under another name", file: "a/a.go", src: head + "import sys \"os\"\nfunc f() { sys.Exit(1) }",
			want: []string{"a/a.go:4: os.Exit outside of a command; return an error"},
		},
		{name: "a command ends the process", file: "cmd/c/main.go", src: "// Command c follows no specification.\npackage main\nimport \"os\"\nfunc main() { os.Exit(1) }"},
		{name: "a test ends the process", file: "a/a_test.go", src: head + "import \"os\"\nfunc f() { os.Exit(1) }"},
		{
			name: "package log", file: "a/a.go", src: head + `import "log"`,
			want: []string{"a/a.go:2: package log is global and ends processes; use the *slog.Logger of the options"},
		},
		{
			name: "global logger", file: "a/a.go", src: head + "import \"log/slog\"\nfunc f(l *slog.Logger) { l.Info(\"right\"); slog.Info(\"wrong\") }",
			want: []string{"a/a.go:4: slog.Info uses the global logger; use the one of the options"},
		},
		{
			name: "init", file: "a/a.go", src: head + "func init() {}\ntype t struct{}\nfunc (t) init() {}",
			want: []string{"a/a.go:3: init function: importing a package must do nothing"},
		},
		{
			name: "a test sleeps", file: "a/a_test.go", src: head + "import \"time\"\nfunc f() { time.Sleep(1) }",
			want: []string{"a/a_test.go:4: a test sleeps; wait on a condition with a deadline instead"},
		},
		{name: "a daemon sleeps", file: "a/a.go", src: head + "import \"time\"\nfunc f() { time.Sleep(1) }"},

		{
			name: "state", file: "a/a.go", src: head + "var count int\nvar cache = make(map[string]int)",
			want: []string{
				"a/a.go:3: variable count of the package is neither an error nor a table",
				"a/a.go:4: variable cache of the package is neither an error nor a table",
			},
		},
		{
			name: "errors and tables", file: "a/a.go",
			src: head + "import \"errors\"\nvar errGone = errors.New(\"gone\")\nvar _ = 1\n" +
				"// names are the names.\nvar names = []string{\"x\"}\n\nvar sizes = map[int]int{} // by number\n",
		},
		{
			name: "table without a comment", file: "a/a.go", src: head + "\nvar names = []string{\"x\"}",
			want: []string{"a/a.go:4: table names has no comment that says what it holds"},
		},
		{
			name: "table that changes", file: "a/a.go",
			src: head + "// names are the names.\nvar names = []string{\"x\"}\nfunc f() { names[0] = \"y\" }\n" +
				"func g(names []string) { other := names[0]; _ = other }",
			want: []string{"a/a.go:5: table names of the package is written to"},
		},
		{name: "state of a test", file: "a/a_test.go", src: head + "var count int"},

		{
			name: "long file", file: "a/a.go", src: head + strings.Repeat("\n", 19),
			want: []string{"a/a.go:2: 21 lines; at most 20: a long file is two ideas"},
		},
		{name: "longest file", file: "a/a.go", src: head + strings.Repeat("\n", 18)},
		{name: "longest test", file: "a/a_test.go", src: head + strings.Repeat("\n", 28)},
		{
			name: "vague name", file: "a/util.go", src: head,
			want: []string{"a/util.go:2: name a file after what a reader looks for in it, not util.go"},
		},

		{
			name: "no package comment", file: "a/a.go", src: "package x\n",
			want: []string{"a/a.go:1: package a has no package comment"},
		},
		{
			name: "package comment without a specification", file: "a/a.go", src: "// Package x is x.\npackage x\n",
			want: []string{"a/a.go:2: the comment of package a names no specification, and does not say that there is none"},
		},
		{
			name: "undocumented", file: "a/a.go",
			src: head + "func F() {}\ntype T struct{}\nfunc (*T) M() {}\n\nconst C = 1\n\nvar ErrV error\ntype t int\nfunc (t) M() {}",
			want: []string{
				"a/a.go:3: exported F has no doc comment",
				"a/a.go:4: exported T has no doc comment",
				"a/a.go:5: exported M has no doc comment",
				"a/a.go:7: exported C has no doc comment",
				"a/a.go:9: exported ErrV has no doc comment",
			},
		},
		{
			name: "documented", file: "a/a.go",
			src: head + "// F does.\nfunc F() {}\n// T is.\ntype T[K any] struct{}\n// M does.\nfunc (*T[K]) M() {}\n" +
				"// Numbers.\nconst (\n\tC = 1\n\tD = 2\n)\nvar (\n\tErrV error // is\n)",
		},

		{
			name: "machine path", file: "notes.md", src: "see `/wor" + "k/x` or\n\"/roo" + "t\", and /hom" + "e/me/src",
			want: []string{
				"notes.md:1: /wor" + "k/x is a path of one machine",
				"notes.md:2: /roo" + "t is a path of one machine",
			},
		},
		{name: "other paths", file: "run", src: "/srv/home/x $lab/root/usr \"$lab\"/root /workshop /rooted ./wo" + "rk/x a/wo" + "rk http://x.org/wo" + "rk/y"},
		{name: "binary", file: "image", src: "\x00 /wor" + "k/x"},
		{
			name: "exception that is not needed", file: "a/a.go", src: head,
			exceptions: map[string]string{"length a/a.go": "was long"},
			want:       []string{`exceptions: "length a/a.go" is not needed any more`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			tree, err := Load(fstest.MapFS{test.file: &fstest.MapFile{Data: []byte(test.src)}})
			if err != nil {
				t.Fatal(err)
			}
			rules := small()
			rules.Exceptions = test.exceptions
			if diff := cmp.Diff(test.want, tree.Check(rules)); diff != "" {
				t.Errorf("Check of %s (-want +got):\n%s\n%s", test.file, diff, test.src)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	skipped := fstest.MapFS{
		".git/config":         {Data: []byte("/wor" + "k/x")},
		"bin/tool.go":         {Data: []byte("not Go")},
		"a/testdata/bad.go":   {Data: []byte("not Go")},
		"a/testdata/path.txt": {Data: []byte("fine")},
	}
	tree, err := Load(skipped)
	if err != nil {
		t.Fatalf("Load = %v; want nil", err)
	}
	if len(tree.source) != 0 || len(tree.text) != 2 {
		t.Errorf("Load took %d Go files and %d texts; want 0 and 2", len(tree.source), len(tree.text))
	}
	if _, err := Load(fstest.MapFS{"a/a.go": {Data: []byte("not Go")}}); err == nil {
		t.Error("Load of a file that is not Go = nil; want an error")
	}
}
