package manual

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Source is the code of some folders, without its tests.
type Source struct{ files []sourceFile }

type sourceFile struct {
	folder string
	file   *ast.File
}

// ReadSource reads the Go files in and below folders of a repository.
func ReadSource(root string, folders ...string) (*Source, error) {
	s := &Source{}
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(root, folder), func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			s.files = append(s.files, sourceFile{filepath.Dir(name), file})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Find returns what the first group of a pattern finds in the texts of the code, sorted, each once. Variables that only explain such texts are left out.
func (s *Source) Find(pattern *regexp.Regexp, explanations ...string) []string {
	var found []string
	for _, f := range s.files {
		ast.Inspect(f.file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && slices.ContainsFunc(spec.Names, func(name *ast.Ident) bool { return slices.Contains(explanations, name.Name) }) {
				return false
			}
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				return true
			}
			for _, m := range pattern.FindAllStringSubmatch(text, -1) {
				found = append(found, m[1])
			}
			return true
		})
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// Reasons returns the reasons that policies refuse for: what they give to Deny, to a function of their own that is called refuse…, or to a flaw. As codes they are in upper case.
func (s *Source) Reasons() []string {
	constants := map[string]string{} // by folder and name
	for _, f := range s.files {
		ast.Inspect(f.file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok {
				for i := range min(len(spec.Names), len(spec.Values)) {
					if text, ok := literal(spec.Values[i]); ok {
						constants[f.folder+" "+spec.Names[i].Name] = text
					}
				}
			}
			return true
		})
	}
	var found []string
	for _, f := range s.files {
		add := func(e ast.Expr) {
			text, ok := literal(e)
			if name, isName := e.(*ast.Ident); isName {
				text, ok = constants[f.folder+" "+name.Name], true
			}
			if ok && reason.MatchString(text) {
				found = append(found, text)
			}
		}
		ast.Inspect(f.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if name := called(n); name == "Deny" && len(n.Args) == 2 {
					add(n.Args[1])
				} else if strings.HasPrefix(name, "refuse") && len(n.Args) > 0 {
					add(n.Args[0])
				}
			case *ast.CompositeLit:
				if name, ok := n.Type.(*ast.Ident); ok && name.Name == "flaw" && len(n.Elts) > 0 {
					add(n.Elts[0])
				}
			}
			return true
		})
	}
	slices.Sort(found)
	return slices.Compact(found)
}

var reason = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

func literal(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}

func called(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// Mentions returns what a text has in back quotes in the column of tables below a heading: the names that a page explains there.
func Mentions(page, section, column string) ([]string, error) {
	rows, err := Rows(page)
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range rows {
		if rows[i].Section == section {
			names = append(names, Quoted(rows[i].Cell(column))...)
		}
	}
	return names, nil
}

// Difference returns what only one of two lists has.
func Difference(page, code []string) (onlyPage, onlyCode []string) {
	for _, name := range page {
		if !slices.Contains(code, name) {
			onlyPage = append(onlyPage, name)
		}
	}
	for _, name := range code {
		if !slices.Contains(page, name) {
			onlyCode = append(onlyCode, name)
		}
	}
	return onlyPage, onlyCode
}

// elements returns the texts in a list that a variable is set to.
func elements(file *ast.File, variable string) []string {
	var found []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Names) != 1 || spec.Names[0].Name != variable || len(spec.Values) != 1 {
			return true
		}
		list, ok := spec.Values[0].(*ast.CompositeLit)
		if !ok {
			return true
		}
		for _, e := range list.Elts {
			if pair, ok := e.(*ast.KeyValueExpr); ok {
				e = pair.Value
			}
			if text, ok := literal(e); ok {
				found = append(found, text)
			}
		}
		return true
	})
	return found
}

// Strings returns the texts that the method String of a type can return, where it has a list of them.
func (s *Source) Strings(typeName string) []string {
	var found []string
	for _, f := range s.files {
		for _, decl := range f.file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Name.Name != "String" || fn.Recv == nil || fn.Body == nil {
				continue
			}
			if receiver, ok := fn.Recv.List[0].Type.(*ast.Ident); !ok || receiver.Name != typeName {
				continue
			}
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				if list, ok := n.(*ast.CompositeLit); ok {
					for _, e := range list.Elts {
						if text, ok := literal(e); ok {
							found = append(found, text)
						}
					}
				}
				return true
			})
		}
	}
	return found
}
