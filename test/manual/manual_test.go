package manual

import (
	"go/ast"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// specification is how many lines each section of the specification has.
var specification = map[string]int{
	"2.1": 12, "2.2": 6, "2.3": 16, "3": 14, "3.2": 11, "4": 5, "5.1": 5, "5.2": 4, "6.1": 6, "6.2": 7, "6.3": 4, "7": 4, "8.1": 3, "8.2": 2, "8.3": 4,
	"9.1": 5, "9.2": 4, "9.3": 4, "9.4": 4,
}

// metricName is a metric of the engine in a text of its code. A prefix is none.
var metricName = regexp.MustCompile(`(policy_(?:kernel|worker)_[a-z0-9_]*[a-z0-9])(?:$|[^a-z0-9_])`)

// code is a code in the body of an answer of the kernel.
var code = regexp.MustCompile(`(?:^|"code":")([A-Z]+(?:_[A-Z]+)+)(?:$|")`)

func root(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatalf("go env GOMOD: %v", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func source(t *testing.T, folders ...string) *Source {
	t.Helper()
	s, err := ReadSource(root(t), folders...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestProofs: what the pages name as proofs exists, and runs.
func TestProofs(t *testing.T) {
	tree, err := ReadTree(root(t))
	if err != nil {
		t.Fatal(err)
	}
	listed, err := Skips(page(t, "spec-coverage.md"))
	if err != nil {
		t.Fatal(err)
	}
	partial := map[string]bool{}
	for _, name := range []string{"spec-coverage.md", "security.md"} {
		found, some := CheckProofs(page(t, name), tree, listed)
		for _, problem := range found {
			t.Errorf("docs/%s: %s", name, problem)
		}
		maps.Copy(partial, some)
	}
	for name, line := range listed {
		if !partial[name] {
			t.Errorf("docs/spec-coverage.md: line %d: %s runs everywhere, or is no proof", line, name)
		}
	}
	for _, problem := range CheckSections(page(t, "spec-coverage.md"), specification) {
		t.Errorf("docs/spec-coverage.md: %s", problem)
	}
}

// TestFailClosedRules: each of the ways in which Envoy lets requests pass has its rule, and the rule its proof.
func TestFailClosedRules(t *testing.T) {
	rows, err := Rows(page(t, "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	var rules []string
	for i := range rows {
		if id := rows[i].Cell("Rule"); id != "" && rows[i].Cell("Proof") != "" {
			rules = append(rules, id)
		}
	}
	for _, id := range []string{"E1", "E2", "E3", "E4", "E5", "E6", "E7", "E8", "E9", "E10", "E11"} {
		if !slices.Contains(rules, id) {
			t.Errorf("docs/security.md: no proof of rule %s", id)
		}
	}
}

// TestReasons: the page explains every reason that a worker counts failures under.
func TestReasons(t *testing.T) {
	s := source(t, "worker")
	inCode := append(s.Strings("Cause"), s.Strings("refusal")...)
	compare(t, "operations.md", "reason", mentions(t, "operations.md", "Reasons of workers", "Reason"), inCode)
	for _, status := range s.Strings("Status") {
		if !strings.Contains(page(t, "operations.md"), "`"+status+"`") {
			t.Errorf("docs/operations.md: status %s of executions is missing", status)
		}
	}
}

// compare fails for names that only the page, or only the code, has.
func compare(t *testing.T, name, what string, inPage, inCode []string) {
	t.Helper()
	if len(inCode) < 5 {
		t.Fatalf("%d %s found in the code; the check would prove nothing", len(inCode), what)
	}
	onlyPage, onlyCode := Difference(inPage, inCode)
	for _, only := range onlyPage {
		t.Errorf("docs/%s: %s: the code has no such %s", name, only, what)
	}
	for _, only := range onlyCode {
		t.Errorf("docs/%s: %s %s is missing", name, what, only)
	}
}

func mentions(t *testing.T, name, section, column string) []string {
	t.Helper()
	names, err := Mentions(page(t, name), section, column)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestMetrics: docs/metrics.md explains every metric that the engine exports, and no other.
func TestMetrics(t *testing.T) {
	var inPage []string
	for _, name := range mentions(t, "metrics.md", "Metrics", "metric") {
		if strings.HasPrefix(name, "policy_") {
			inPage = append(inPage, name)
		}
	}
	compare(t, "metrics.md", "metric", inPage, source(t, "kernel", "worker", "telemetry", "engine", "limits", "policies").Find(metricName, "meanings"))
}

// TestQueries: what the pages tell to ask Prometheus for exists.
func TestQueries(t *testing.T) {
	exported := source(t, "kernel", "worker", "telemetry").Find(metricName, "meanings")
	for _, name := range []string{"operations.md", "security.md"} {
		for _, m := range metricName.FindAllStringSubmatch(page(t, name), -1) {
			metric := m[1]
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				metric = strings.TrimSuffix(metric, suffix)
			}
			if !slices.Contains(exported, metric) {
				t.Errorf("docs/%s: there is no metric %s", name, m[1])
			}
		}
	}
}

// TestLogLines: the lines that the page explains are ones that the engine writes.
func TestLogLines(t *testing.T) {
	written := source(t, "kernel", "worker", "watch", "policies", "telemetry", "engine").Find(regexp.MustCompile(`^([a-zA-Z].+ .+)$`))
	lines := mentions(t, "operations.md", "Log lines", "Line")
	if len(lines) < 10 {
		t.Fatalf("%d lines; the check would prove nothing", len(lines))
	}
	for _, line := range lines {
		if !slices.Contains(written, line) {
			t.Errorf("docs/operations.md: nothing logs %q", line)
		}
	}
}

// TestCodes: the page explains every code that a client can get in the body of a refusal, and no other.
func TestCodes(t *testing.T) {
	codes := source(t, "kernel", "config").Find(code)
	for _, reason := range source(t, "policies", "worker").Reasons() {
		codes = append(codes, strings.ToUpper(reason))
	}
	slices.Sort(codes)
	compare(t, "operations.md", "code", slices.Concat(mentions(t, "operations.md", "Codes of the kernel", "Code"), mentions(t, "operations.md", "Codes of the policies", "Code")), slices.Compact(codes))
}

// TestAlerts: the page says what to do about each alert of the rules for Prometheus, and about no other.
func TestAlerts(t *testing.T) {
	rules, err := os.ReadFile(filepath.Join(root(t), "deploy", "compose", "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var inRules []string
	for _, m := range regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(string(rules), -1) {
		inRules = append(inRules, m[1])
	}
	compare(t, "operations.md", "alert", mentions(t, "operations.md", "Dashboards and alerts", "Alert"), inRules)
}

// TestFlags: the page has every flag of the programs that serve.
func TestFlags(t *testing.T) {
	text := strings.Join(mentions(t, "operations.md", "Programs", "Flags"), " ") + " "
	s := source(t, "kernel", "worker", "engine")
	found := 0
	for _, f := range s.files {
		ast.Inspect(f.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); !ok || x.Name != "flags" {
				return true
			}
			for _, arg := range call.Args[:min(2, len(call.Args))] { // String(name, …) and StringVar(&v, name, …).
				if name, ok := literal(arg); ok && sel.Sel.Name != "Parse" {
					found++
					if !strings.Contains(text, "--"+name+" ") {
						t.Errorf("docs/operations.md: flag --%s is missing", name)
					}
					break
				}
			}
			return true
		})
	}
	if found < 8 {
		t.Fatalf("%d flags; the check would prove nothing", found)
	}
}

// TestStatuses: the page explains every value that the label status of the kernel's metrics can have.
func TestStatuses(t *testing.T) {
	s := source(t, "kernel/extproc")
	var inCode []string
	for _, f := range s.files {
		inCode = append(inCode, elements(f.file, "statusNames")...)
	}
	inCode = slices.DeleteFunc(inCode, func(name string) bool { return name == "none" })
	compare(t, "operations.md", "status", mentions(t, "operations.md", "Statuses", "Status"), inCode)
}
