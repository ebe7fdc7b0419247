package manual

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// broken is a repository with what the checks are for.
var broken = map[string]string{
	"Makefile": "# a comment\n.PHONY: test\ntest: build ## Run\n\t@go test ./...\n\ndemo:\n\t@go run ./program -x\n",
	"a/a_test.go": `package a
import ("testing"; "github.com/policy-engine/policy-engine/rig")
func TestGood(t *testing.T) { t.Run("a case", func(t *testing.T) {}) }
func TestShort(t *testing.T) { if testing.Short() { t.Skip("it is slow") } }
func TestSkipped(t *testing.T) { t.Helper(); t.Skip("later") }
func TestSkippedWithin(t *testing.T) { t.Run("x", func(t *testing.T) { t.Skipf("later") }) }
func TestReturns(t *testing.T) { if x() { return }; t.Skip("not here") }
func TestHelped(t *testing.T) { help(t) }
func TestRig(t *testing.T) { rig.Need(t) }
func help(t *testing.T) { if x() { t.SkipNow() } }
func FuzzGood(f *testing.F) {}
`,
	"a/race_test.go":            "//go:build !race\n\npackage a\nimport \"testing\"\nfunc TestWithoutRace(t *testing.T) {}\n",
	"a/windows_test.go":         "//go:build windows\n\npackage a\nimport \"testing\"\nfunc TestElsewhere(t *testing.T) {}\n",
	"a/a.go":                    "package a\nfunc TestNone() {}\nfunc x() bool { return true }\n",
	"a/testdata/transcript.txt": "…",
	"rig/rig.go":                "package rig\nimport \"testing\"\nfunc Need(t testing.TB) { t.Helper(); if true { t.Skip(\"no\") } }\n",
	"program/main.go":           "package main\nfunc main() { check(\"the demo answers\") }\n",
}

func plant(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestProofsCanFail proves that the checks find what they are for.
func TestProofsCanFail(t *testing.T) {
	tree, err := ReadTree(plant(t, broken))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ cell, want string }{
		"a test":                   {"`a TestGood`", ""},
		"a fuzz target":            {"`a FuzzGood`", ""},
		"a subtest":                {"`a TestGood/a case`", ""},
		"a transcript":             {"`a TestGood/transcript`", ""},
		"a target":                 {"`make test`", ""},
		"a target with a variable": {"`make test FUZZTIME=1s`", ""},
		"a check of a target":      {"`make demo: the demo answers`", ""},
		"two proofs":               {"`a TestGood`, `make demo`", ""},
		"no proof":                 {"tested by hand", "no proof"},
		"one good and one bad":     {"`a TestGood`, `a TestGone`", "a TestGone: there is no such test"},
		"a function that is gone":  {"`a TestGone`", "there is no such test"},
		"not in a test file":       {"`a TestNone`", "there is no such test"},
		"another system's":         {"`a TestElsewhere`", "there is no such test"},
		"a package that is gone":   {"`b TestGood`", `there is no package "b"`},
		"a subtest that is gone":   {"`a TestGood/another case`", `no text "another case"`},
		"always skipped":           {"`a TestSkipped`", "it is always skipped"},
		"a subtest always skipped": {"`a TestSkippedWithin`", "it is always skipped"},
		"skipped when short":       {"`a TestShort`", "may be skipped"},
		"skipped after a return":   {"`a TestReturns`", "may be skipped"},
		"skipped by its helper":    {"`a TestHelped`", "may be skipped"},
		"skipped by another room":  {"`a TestRig`", "may be skipped"},
		"without the detector":     {"`a TestWithoutRace`", "without the race detector only"},
		"a target that is gone":    {"`make tests`", "no such target"},
		"a check that is gone":     {"`make demo: the demo sings`", `no text "the demo sings"`},
		"a check elsewhere":        {"`make test: the demo answers`", "no check of that name"},
		"a word":                   {"`TestGood`", "is no proof"},
	} {
		t.Run(name, func(t *testing.T) {
			found, _ := CheckProofs("## 1 Heading\n\n| Line | Proof |\n| --- | --- |\n| x | "+tt.cell+" |\n", tree, nil)
			got := strings.Join(found, "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	listed, err := Skips("## " + SkipsSection + "\n\n| Test | When |\n| --- | --- |\n| `a TestShort` | short |\n")
	if err != nil || listed["a TestShort"] != 5 {
		t.Fatalf("listed are %v, %v", listed, err)
	}
	if found, partial := CheckProofs("| Proof |\n| --- |\n| `a TestShort` |\n", tree, listed); len(found) != 0 || !partial["a TestShort"] {
		t.Errorf("a test that is listed as one that may be skipped: %q, %v", found, partial)
	}
	if _, partial := CheckProofs("| Proof |\n| --- |\n| `a TestGood` |\n", tree, listed); len(partial) != 0 {
		t.Errorf("a test that runs everywhere: %v", partial)
	}
}

func TestRowsCanFail(t *testing.T) {
	page := "# Title\n## 1 One\n| A | B |\n| --- | :-: |\n| a\\|b | `c|d` |\n\n```\n# no heading\n| no | row |\n```\n### 2 Two\n| A |\n|---|\n| x |\n"
	rows, err := Rows(page)
	if err != nil || len(rows) != 2 {
		t.Fatalf("rows %+v, %v", rows, err)
	}
	if r := rows[0]; r.Section != "1 One" || r.Line != 5 || r.Cell("A") != "a|b" || r.Cell("B") != "`c|d`" || r.Cell("C") != "" {
		t.Errorf("the first row is %+v", r)
	}
	if r := rows[1]; r.Section != "2 Two" || r.Line != 14 || r.Cell("A") != "x" {
		t.Errorf("the second row is %+v", r)
	}
	if _, err := Rows("| A | B |\n| --- | --- |\n| a |\n"); err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("a row with a cell too few: %v", err)
	}
	if got := CheckSections("## 1 One\n| Proof |\n|---|\n| `make x` |\n", map[string]int{"1": 2, "2": 1}); len(got) != 2 {
		t.Errorf("sections without lines: %q", got)
	}
}

func TestSourceCanFail(t *testing.T) {
	dir := plant(t, map[string]string{
		"p/p.go": "package p\nconst worst = \"worst_case\"\nvar m = \"policy_kernel_x_total\"\nvar meanings = \"policy_kernel_y_total\"\nfunc f() { policies.Deny(4, \"bad_thing\"); refuse(\"worse_thing\", `a message`); policies.Deny(4, worst); g(&flaw{worst, 1}) }\nfunc (k kind) String() string { return [...]string{\"one\", \"two\"}[k] }\n" +
			"// policy_kernel_comment is no text of the code.\n",
		"p/p_test.go": "package p\nvar n = \"policy_kernel_test\"\n",
	})
	s, err := ReadSource(dir, "p")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.Reasons(), " "); got != "bad_thing worse_thing worst_case" {
		t.Errorf("reasons %q", got)
	}
	if got := strings.Join(s.Strings("kind"), " "); got != "one two" || len(s.Strings("other")) != 0 {
		t.Errorf("strings %q", got)
	}
	if got := strings.Join(s.Find(metricName, "meanings"), " "); got != "policy_kernel_x_total" {
		t.Errorf("metrics %q", got)
	}
	names, err := Mentions("## Metrics\n| Name | Meaning |\n|---|---|\n| `a`, `b` | `c` |\n## Other\n| Name |\n|---|\n| `d` |\n", "Metrics", "Name")
	if err != nil || strings.Join(names, " ") != "a b" {
		t.Errorf("names %q, %v", names, err)
	}
	if p, c := Difference([]string{"a", "b"}, []string{"b", "c"}); len(p) != 1 || p[0] != "a" || len(c) != 1 || c[0] != "c" {
		t.Errorf("difference %q, %q", p, c)
	}
}
