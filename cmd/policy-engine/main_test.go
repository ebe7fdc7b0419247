package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// definitions are the packages' calls that make policies, in the order of a program's text.
func definitions(t *testing.T, file string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	ast.Inspect(parsed, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if f, ok := call.Fun.(*ast.SelectorExpr); ok && strings.HasSuffix(f.Sel.Name, "Definition") {
			found = append(found, f.X.(*ast.Ident).Name+"."+f.Sel.Name)
		}
		return true
	})
	return found
}

// TestOffersStandardPolicies: the same configuration files do for both forms. What the second worker offers may change with it.
func TestOffersStandardPolicies(t *testing.T) {
	want, got := definitions(t, "../policy-worker-1/main.go"), definitions(t, "main.go")
	if len(want) < 2 || len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Errorf("got %v, want it to begin with those of policy-worker-1, %v", got, want)
	}
}
