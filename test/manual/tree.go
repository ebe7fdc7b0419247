package manual

import (
	"errors"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
)

// Module is the module's path.
const Module = "github.com/policy-engine/policy-engine"

// Tree is what a repository has of tests and of targets of make.
type Tree struct {
	packages map[string]*testPackage // by folder
	targets  map[string]target
}

// testPackage is what is known of a folder's Go files.
type testPackage struct {
	functions map[string]*function
	// literals are the texts in the code, names the files below testdata, also without what follows their last dot: subtests are called so.
	literals, names map[string]bool
}

// function is a function of any file of a package.
type function struct {
	inTest bool
	// always: it skips the test, whatever the circumstances. sometimes: it may.
	always, sometimes bool
	// tag is the build constraint that keeps it from running with the race detector, or from running without it.
	tag   string
	calls []string // folder and name of functions that it calls
}

type target struct {
	folders []string // that its recipe names, as ./folder
}

// ReadTree reads the Go files of a repository, and its Makefile.
func ReadTree(root string) (*Tree, error) {
	t := &Tree{packages: map[string]*testPackage{}, targets: map[string]target{}}
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		return nil, err
	}
	t.readMakefile(string(makefile))
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel == "build" || rel == "bin" || strings.HasPrefix(d.Name(), ".") && rel != "." {
				return filepath.SkipDir
			}
			return nil
		}
		if folder, below, ok := strings.Cut(rel, "/testdata/"); ok {
			names := t.at(folder).names
			names[path.Base(below)], names[strings.TrimSuffix(path.Base(below), path.Ext(below))] = true, true
			return nil
		}
		if strings.HasSuffix(rel, ".go") {
			return t.readFile(name, rel)
		}
		return nil
	})
	return t, err
}

func (t *Tree) at(folder string) *testPackage {
	p := t.packages[folder]
	if p == nil {
		p = &testPackage{functions: map[string]*function{}, literals: map[string]bool{}, names: map[string]bool{}}
		t.packages[folder] = p
	}
	return p
}

var (
	rule   = regexp.MustCompile(`^([a-z][a-z0-9-]*):`)
	inTree = regexp.MustCompile(`\./([a-z0-9/_-]+)`)
)

func (t *Tree) readMakefile(text string) {
	name := ""
	for line := range strings.Lines(text) {
		if m := rule.FindStringSubmatch(line); m != nil {
			name = m[1]
			t.targets[name] = target{}
		} else if strings.HasPrefix(line, "\t") && name != "" {
			tg := t.targets[name]
			for _, m := range inTree.FindAllStringSubmatch(line, -1) {
				tg.folders = append(tg.folders, strings.TrimSuffix(m[1], "/"))
			}
			t.targets[name] = tg
		} else if strings.TrimSpace(line) != "" {
			name = ""
		}
	}
}

func (t *Tree) readFile(name, rel string) error {
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	tag, runs := buildTag(file)
	if !runs {
		return nil
	}
	folder, isTest := path.Dir(rel), strings.HasSuffix(rel, "_test.go")
	p := t.at(folder)
	imports := map[string]string{}
	for _, spec := range file.Imports {
		ours, ok := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), Module+"/")
		if !ok {
			continue
		}
		local := path.Base(ours)
		if spec.Name != nil {
			local = spec.Name.Name
		}
		imports[local] = ours
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if text, err := strconv.Unquote(lit.Value); err == nil {
				p.literals[text] = true
			}
		}
		return true
	})
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Body != nil {
			p.functions[f.Name.Name] = readFunction(f, folder, imports, isTest, tag)
		}
	}
	return nil
}

// buildTag returns what a file's build constraint says of the race detector, and whether the file is compiled on this system at all.
func buildTag(file *ast.File) (tag string, runs bool) {
	for _, group := range file.Comments {
		for _, c := range group.List {
			if !constraint.IsGoBuild(c.Text) {
				continue
			}
			expr, err := constraint.Parse(c.Text)
			if err != nil {
				return "", false
			}
			under := func(race bool) bool {
				return expr.Eval(func(tag string) bool {
					return tag == "race" && race || tag == runtime.GOOS || tag == runtime.GOARCH || tag == "unix" || tag == "gc" || strings.HasPrefix(tag, "go1.")
				})
			}
			switch with, without := under(true), under(false); {
			case with && without:
				return "", true
			case with:
				return "runs with the race detector only", true
			case without:
				return "runs without the race detector only", true
			default:
				return "", false
			}
		}
	}
	return "", true
}

func readFunction(f *ast.FuncDecl, folder string, imports map[string]string, isTest bool, tag string) *function {
	fn := &function{inTest: isTest, tag: tag}
	ast.Inspect(f.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BlockStmt:
		case *ast.FuncLit:
			fn.always = fn.always || skipsAlways(n.Body)
		case *ast.CallExpr:
			fn.sometimes = fn.sometimes || isSkip(n)
			switch called := n.Fun.(type) {
			case *ast.Ident:
				fn.calls = append(fn.calls, folder+" "+called.Name)
			case *ast.SelectorExpr:
				if x, ok := called.X.(*ast.Ident); ok && imports[x.Name] != "" {
					fn.calls = append(fn.calls, imports[x.Name]+" "+called.Sel.Name)
				}
			}
		}
		return true
	})
	fn.always = fn.always || skipsAlways(f.Body)
	return fn
}

// isSkip: a call of Skip, Skipf or SkipNow of whatever is called t, b, f or tb.
func isSkip(call *ast.CallExpr) bool {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	if !ok || x.Name != "t" && x.Name != "b" && x.Name != "f" && x.Name != "tb" {
		return false
	}
	return sel.Sel.Name == "Skip" || sel.Sel.Name == "Skipf" || sel.Sel.Name == "SkipNow"
}

// skipsAlways: the body comes to a skip without a branch that could have left it before.
func skipsAlways(body *ast.BlockStmt) bool {
	for _, stmt := range body.List {
		if e, ok := stmt.(*ast.ExprStmt); ok {
			if call, ok := e.X.(*ast.CallExpr); ok && isSkip(call) {
				return true
			}
		}
		leaves := false
		ast.Inspect(stmt, func(n ast.Node) bool {
			switch n.(type) {
			case *ast.FuncLit:
				return false
			case *ast.ReturnStmt:
				leaves = true
			}
			return true
		})
		if leaves {
			return false
		}
	}
	return false
}

// Look returns an error if what a proof names does not exist or never runs. partly says why it does not run everywhere, "" if it does.
func (t *Tree) Look(p Proof) (partly string, err error) {
	if p.Target != "" {
		return "", t.lookTarget(p)
	}
	pkg := t.packages[p.Folder]
	if pkg == nil {
		return "", fmt.Errorf("there is no package %q", p.Folder)
	}
	f := pkg.functions[p.Test]
	if f == nil || !f.inTest {
		return "", errors.New("there is no such test")
	}
	if f.always {
		return "", errors.New("it is always skipped")
	}
	for _, part := range strings.Split(p.Sub, "/") {
		if part != "" && !pkg.literals[part] && !pkg.names[part] {
			return "", fmt.Errorf("the package has no text %q, so no subtest of that name", part)
		}
	}
	if f.tag != "" {
		return f.tag, nil
	}
	if t.maySkip(p.Folder+" "+p.Test, map[string]bool{}) {
		return "may be skipped", nil
	}
	return "", nil
}

// maySkip follows the calls of a test.
func (t *Tree) maySkip(name string, seen map[string]bool) bool {
	if seen[name] {
		return false
	}
	seen[name] = true
	folder, fn, _ := strings.Cut(name, " ")
	pkg := t.packages[folder]
	if pkg == nil || pkg.functions[fn] == nil {
		return false
	}
	f := pkg.functions[fn]
	if f.sometimes {
		return true
	}
	for _, called := range f.calls {
		if t.maySkip(called, seen) {
			return true
		}
	}
	return false
}

func (t *Tree) lookTarget(p Proof) error {
	tg, ok := t.targets[p.Target]
	if !ok {
		return errors.New("there is no such target in the Makefile")
	}
	if p.Check == "" {
		return nil
	}
	for _, folder := range tg.folders {
		for name, pkg := range t.packages {
			if (name == folder || strings.HasPrefix(name, folder+"/")) && pkg.literals[p.Check] {
				return nil
			}
		}
	}
	return fmt.Errorf("what the target runs (%s) has no text %q, so no check of that name", strings.Join(tg.folders, ", "), p.Check)
}
