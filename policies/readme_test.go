package policies_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var sections = []string{"Name", "Description", "Parameters", "Examples", "Metrics"}

// source is what the test knows of a policy's folder.
type source struct {
	policy     bool     // it has func Definition() policies.Definition
	params     []string // the names of the fields of Params
	runsReadme bool     // a test calls RunExamples
	benchmark  bool
}

func readSource(t *testing.T, dir string) source {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var s source
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		isTest := strings.HasSuffix(file, "_test.go")
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				s.policy = s.policy || !isTest && n.Recv == nil && n.Name.Name == "Definition"
				s.benchmark = s.benchmark || isTest && strings.HasPrefix(n.Name.Name, "Benchmark")
			case *ast.CallExpr:
				f, ok := n.Fun.(*ast.SelectorExpr)
				s.runsReadme = s.runsReadme || isTest && ok && f.Sel.Name == "RunExamples"
			case *ast.TypeSpec:
				if fields, ok := n.Type.(*ast.StructType); ok && n.Name.Name == "Params" {
					s.params = append(s.params, jsonNames(t, fields)...)
				}
			}
			return true
		})
	}
	return s
}

func jsonNames(t *testing.T, s *ast.StructType) []string {
	t.Helper()
	var names []string
	for _, f := range s.Fields.List {
		if f.Tag == nil {
			continue
		}
		tag, err := strconv.Unquote(f.Tag.Value)
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// readmeSections returns the text of each section, and their names in order. Headings in code blocks are none.
func readmeSections(text string) (bySection map[string]string, order []string) {
	bySection = map[string]string{}
	code, current := false, ""
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "```") {
			code = !code
		}
		if heading, ok := strings.CutPrefix(line, "## "); ok && !code {
			current = strings.TrimSpace(heading)
			order = append(order, current)
			continue
		}
		bySection[current] += line
	}
	return bySection, order
}

// Every policy tells its users what they need, and its examples are true because a test runs them.
func TestEveryPolicyHasAReadme(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if !e.IsDir() || e.Name() == "testdata" {
			continue
		}
		s := readSource(t, e.Name())
		if !s.policy {
			continue
		}
		n++
		t.Run(e.Name(), func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(e.Name(), "README.md"))
			if err != nil {
				t.Fatal(err)
			}
			bySection, order := readmeSections(string(text))
			if !slices.Equal(order, sections) {
				t.Errorf("the sections are %q, want %q", order, sections)
			}
			for _, section := range sections {
				if strings.TrimSpace(bySection[section]) == "" {
					t.Errorf("section %q is empty", section)
				}
			}
			for _, param := range s.params {
				if !strings.Contains(bySection["Parameters"], "`"+param+"`") {
					t.Errorf("section \"Parameters\" does not tell of %q", param)
				}
			}
			if !s.runsReadme {
				t.Error("no test calls policytest.RunExamples")
			}
			if !s.benchmark {
				t.Error("there is no benchmark")
			}
		})
	}
	if n < 6 {
		t.Errorf("%d policies were found", n)
	}
}
