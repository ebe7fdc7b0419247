package compose

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metricsql"
	"go.yaml.in/yaml/v3"

	"github.com/policy-engine/policy-engine/test/harness"
)

// question is an expression of PromQL that a dashboard or an alert asks, with the texts that name labels of its result.
type question struct {
	where, expr string
	texts       []string
}

// rules are those of alerts.yml, and what such a file may have.
func rules(t *testing.T) []question {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	dec := yaml.NewDecoder(bytes.NewReader(read(t, root(t), "deploy", "compose", "alerts.yml")))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		t.Fatal(err)
	}
	var found []question
	names := make(map[string]bool)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if severity := r.Labels["severity"]; r.Alert == "" || r.Expr == "" || names[r.Alert] || r.Annotations["summary"] == "" || severity != "critical" && severity != "warning" {
				t.Errorf("alert %q has no expression, no summary, an unknown severity %q, or a name that was there before", r.Alert, severity)
			}
			names[r.Alert] = true
			found = append(found, question{"alert " + r.Alert, r.Expr, slices.Collect(maps.Values(r.Annotations))})
		}
	}
	return found
}

// panels are those of the dashboard.
func panels(t *testing.T) []question {
	t.Helper()
	var board struct {
		UID, Title string
		Panels     []struct {
			ID         int
			Type       string
			Title      string
			Datasource struct{ UID string }
			Targets    []struct{ RefID, Expr, LegendFormat string }
		}
		Templating struct {
			List []struct {
				Name    string
				Current struct{ Value any }
			}
		}
	}
	if err := json.Unmarshal(read(t, root(t), "deploy", "compose", "grafana", "dashboards", "policy-engine.json"), &board); err != nil {
		t.Fatal(err)
	}
	if board.UID == "" || board.Title != "Policy Engine" {
		t.Errorf("the dashboard is %q with the id %q", board.Title, board.UID)
	}
	source := regexp.MustCompile(`(?m)^    uid: (\S+)$`).FindSubmatch(read(t, root(t), "deploy", "compose", "grafana", "provisioning", "datasources", "prometheus.yaml"))
	variables := make(map[string]string)
	for _, v := range board.Templating.List {
		variables["$"+v.Name] = fmt.Sprint(v.Current.Value)
	}
	if source == nil || variables["$datasource"] != string(source[1]) || variables["$instance"] != "[$__all]" || variables["$route"] != "[$__all]" {
		t.Errorf("variables %v, want the source that is provisioned, %s, and all instances and routes", variables, source)
	}
	ids := make(map[int]bool)
	var found []question
	for _, p := range board.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			continue
		}
		if p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("panel %q asks nothing, or the source %q, want ${datasource}", p.Title, p.Datasource.UID)
		}
		for _, target := range p.Targets {
			q := question{"panel " + p.Title, strings.ReplaceAll(target.Expr, "$__rate_interval", "1m"), []string{target.LegendFormat}}
			q.checkVariables(t)
			found = append(found, q)
		}
	}
	return found
}

// checkVariables checks that a panel shows the instances, and the routes, that are chosen.
func (q question) checkVariables(t *testing.T) {
	t.Helper()
	expr, err := metricsql.Parse(q.expr)
	if err != nil {
		t.Errorf("%s: %v", q.where, err)
		return
	}
	metricsql.VisitAll(expr, func(e metricsql.Expr) {
		m, ok := e.(*metricsql.MetricExpr)
		if !ok {
			return
		}
		for _, filters := range m.LabelFilterss {
			chosen := make(map[string]string)
			for _, f := range filters {
				chosen[f.Label] = f.Value
			}
			routed := strings.HasPrefix(chosen["__name__"], "policy_kernel_request") || strings.HasPrefix(chosen["__name__"], "policy_kernel_tolerated")
			if chosen["instance"] != "$instance" || routed && chosen["route"] != "$route" {
				t.Errorf("%s: %s does not ask for the chosen $instance, or $route", q.where, m.AppendString(nil))
			}
		}
	})
}

// namedLabels are the labels that texts of Grafana's ({{worker}}) and of Prometheus's ({{ $labels.worker }}) name.
var namedLabels = regexp.MustCompile(`\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}`)

// added are the labels that Prometheus adds.
var added = []string{"instance", "job", "__name__"}

// check holds a question against the labels that the engine's metrics have.
func (q question) check(exported map[string]map[string]bool) error {
	expr, err := metricsql.Parse(q.expr)
	if err != nil {
		return fmt.Errorf("%s: %w", q.where, err)
	}
	known := make(map[string]bool)
	for _, l := range added {
		known[l] = true
	}
	var used []string
	metricsql.VisitAll(expr, func(e metricsql.Expr) {
		switch e := e.(type) {
		case *metricsql.MetricExpr:
			for _, filters := range e.LabelFilterss {
				for _, f := range filters {
					if f.Label != "__name__" {
						used = append(used, f.Label)
						continue
					}
					for name := range strings.SplitSeq(f.Value, "|") {
						labels, found := exported[name]
						if !found && name != "up" {
							err = fmt.Errorf("%s: the engine exports no %s", q.where, name)
						}
						maps.Copy(known, labels)
					}
				}
			}
		case *metricsql.AggrFuncExpr:
			used = append(used, e.Modifier.Args...)
		}
	})
	for _, text := range q.texts {
		for _, m := range namedLabels.FindAllStringSubmatch(text, -1) {
			used = append(used, m[1])
		}
	}
	for _, l := range used {
		if !known[l] && err == nil {
			err = fmt.Errorf("%s: nothing that it asks for has a label %q", q.where, l)
		}
	}
	return err
}

const observed = `  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/1.sock"}
    - {name: worker-2, socket_path: "${RUN_DIR}/2.sock"}
    - {name: worker-3, socket_path: "${RUN_DIR}/3.sock"} # It offers what worker-2 does.
  route_policies:
    - route_name: limited
      request_flow: {policy_chain: [{policy: rateLimit, params: {requests: 1, per: 1m, key: route}}]}
    - route_name: tolerated
      request_flow: {policy_chain: [{policy: misbehave, on_failure: continue}]}
    - route_name: response
      response_flow: {policy_chain: [{policy: misbehave}]}
`

// keySet serves a key set with one key, and returns its address.
func keySet(t *testing.T) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":%q}]}`, base64.RawURLEncoding.EncodeToString(public))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// breakConnection has the kernel end a connection for a SETTINGS frame on a stream, which RFC 9113 section 6.5 forbids.
func breakConnection(t *testing.T, address string) {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	const settings, settingsOfStream = "\x00\x00\x00\x04\x00\x00\x00\x00\x00", "\x00\x00\x00\x04\x00\x00\x00\x00\x01"
	if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+settings+settingsOfStream); err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, c) // Until the kernel has ended it.
}

// exported are the metrics of a running engine, to which has happened what they count, with their labels.
func exported(t *testing.T) map[string]map[string]bool {
	t.Helper()
	keys := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(keys, []byte("keys: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := harness.StartEngine(t, harness.Spec{
		Kernel: observed,
		Workers: []harness.WorkerSpec{
			{Name: "worker-1", Program: "policy-worker-1", Config: "  name: worker-1\n  socket_path: \"${RUN_DIR}/1.sock\"\n" +
				"  jwt_issuers: {corporate: {issuer: \"https://idp.example\", jwks_uri: \"" + keySet(t) + "\"}}\n" +
				"  key_stores: {partners: {file: " + keys + "}}\n"},
			{Name: "worker-2", Program: "testworker", Config: "  name: worker-2\n  socket_path: \"${RUN_DIR}/2.sock\"\n"},
			{Name: "worker-3", Program: "testworker", Config: "  name: worker-3\n  socket_path: \"${RUN_DIR}/3.sock\"\n"},
		},
	})
	for _, r := range []struct {
		status int
		path   string
		line   string
	}{
		{200, "/limited", "X-A: b"},
		{429, "/limited", "X-A: b"},
		{500, "/response", harness.AnswerHeader + ": x-misbehave panic"},
		{200, "/tolerated", "X-Misbehave: exit"}, // The last one: the worker is gone then.
	} {
		if got := harness.Send(t, e.Listen, "GET", r.path, r.line); got.Status != r.status {
			t.Fatalf("%s: %v, want %d", r.path, got, r.status)
		}
	}
	breakConnection(t, e.ExtProc)
	found := make(map[string]map[string]bool)
	var text string
	harness.Eventually(t, "the ended connection is counted", func() error {
		var status int
		if status, text = e.Health("/metrics"); status != 200 {
			return fmt.Errorf("metrics: status %d", status)
		}
		if !strings.Contains(text, "policy_kernel_connections_ended_total") {
			return errors.New("it is not among the metrics")
		}
		return nil
	})
	series := regexp.MustCompile(`^([a-z_0-9]+)(?:\{(.*)\})? `)
	label := regexp.MustCompile(`([a-z_]+)="`)
	for line := range strings.Lines(text) {
		m := series.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if found[m[1]] == nil {
			found[m[1]] = make(map[string]bool)
		}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			found[m[1]][l[1]] = true
		}
	}
	return found
}

// TestDashboards: what the dashboard and the alerts ask for is what a running engine exports, by metrics and by labels.
func TestDashboards(t *testing.T) {
	metrics := exported(t)
	questions := append(rules(t), panels(t)...)
	if len(questions) < 40 {
		t.Errorf("there are %d expressions; were all found?", len(questions))
	}
	asked := make(map[string]bool)
	for _, q := range questions {
		if err := q.check(metrics); err != nil {
			t.Error(err)
		}
		for name := range metrics {
			if strings.Contains(q.expr, name) {
				asked[name] = true
			}
		}
	}
	for _, bad := range []question{
		{"unknown metric", "rate(policy_kernel_nonsense_total[1m])", nil},
		{"unknown label", `policy_kernel_requests_total{tenant="a"}`, nil},
		{"unknown group", "sum by (tenant) (policy_kernel_requests_total)", nil},
		{"unknown label in a text", "policy_kernel_worker_health", []string{"{{ $labels.tenant }}"}},
		{"unknown label in a legend", "policy_kernel_worker_health", []string{"{{tenant}}"}},
		{"no expression", "sum by (", nil},
	} {
		if bad.check(metrics) == nil {
			t.Errorf("%s: %q is taken", bad.where, bad.expr)
		}
	}
	// What the engine counts of itself has its place on the dashboard or among the alerts; of histograms, one part will do. The number of a generation tells nobody anything by itself.
	delete(metrics, "policy_kernel_config_generation")
	for name := range metrics {
		base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		if strings.HasPrefix(name, "policy_") && !asked[name] && !asked[base+"_bucket"] && !asked[base+"_sum"] && !strings.Contains(name, "_trace_spans") {
			t.Errorf("nobody looks at %s", name)
		}
	}
}

// TestPrometheus: the configuration names files and targets that are there.
func TestPrometheus(t *testing.T) {
	var file struct {
		Global struct {
			ScrapeInterval     string `yaml:"scrape_interval"`
			EvaluationInterval string `yaml:"evaluation_interval"`
		}
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName       string                       `yaml:"job_name"`
			StaticConfigs []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	dir := filepath.Join(root(t), "deploy", "compose")
	dec := yaml.NewDecoder(bytes.NewReader(read(t, dir, "prometheus.yml")))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		t.Fatal(err)
	}
	if len(file.ScrapeConfigs) != 1 || file.ScrapeConfigs[0].JobName != "policy-engine" || !slices.Equal(file.ScrapeConfigs[0].StaticConfigs[0].Targets, []string{"engine:9090"}) {
		t.Errorf("scraped: %+v", file.ScrapeConfigs)
	}
	compose := string(read(t, root(t), "docker-compose.yaml"))
	for _, f := range file.RuleFiles {
		if !strings.Contains(compose, "target: "+f+",") {
			t.Errorf("docker-compose.yaml mounts no %s", f)
		}
		if _, err := os.Stat(filepath.Join(dir, filepath.Base(f))); err != nil {
			t.Error(err)
		}
	}
	provider := string(read(t, dir, "grafana", "provisioning", "dashboards", "policy-engine.yaml"))
	if folder := regexp.MustCompile(`path: ([^}\s]+)`).FindStringSubmatch(provider); folder == nil || !strings.Contains(compose, "source: ./deploy/compose/grafana/dashboards, target: "+folder[1]+",") {
		t.Errorf("docker-compose.yaml does not mount the dashboards at %v", folder)
	}
}
