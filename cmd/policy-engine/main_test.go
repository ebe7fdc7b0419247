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

// TestOffersWhatTheWorkersOffer: the same configuration files do for both forms.
func TestOffersWhatTheWorkersOffer(t *testing.T) {
	want := append(definitions(t, "../policy-worker-1/main.go"), definitions(t, "../policy-worker-2/main.go")...)
	if got := definitions(t, "main.go"); len(want) < 2 || !slices.Equal(got, want) {
		t.Errorf("got %v, want those of policy-worker-1 and policy-worker-2, %v", got, want)
	}
}
