package kernel

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/telemetry"
)

type namedEvaluator struct{ name string }

func (e *namedEvaluator) Name() string       { return e.name }
func (*namedEvaluator) Available() bool      { return true }
func (*namedEvaluator) Evaluate(*route.Call) {}

// decisions are one of each kind that a test counts.
func allowed(r *route.Route, worker route.Evaluator) *extproc.Decision {
	d := &extproc.Decision{Route: r, RouteName: r.Name, Phase: workerv1.Phase_PHASE_REQUEST_HEADERS, OfRequest: true, Status: extproc.StatusAllowed, Elapsed: 300 * time.Microsecond}
	if worker != nil {
		d.Worker = &route.Segment{Worker: worker}
	}
	return d
}

func exposed(set *metrics.Set, prefix string) string {
	var b, found strings.Builder
	set.WritePrometheus(&b)
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, prefix) {
			found.WriteString(line)
		}
	}
	return found.String()
}

func TestObserverDoesNotAllocate(t *testing.T) {
	o := NewObserver(10, metrics.NewSet(), zap.NewNop())
	d := allowed(&route.Route{Name: "a", Index: 3}, &namedEvaluator{"w"})
	if n := testing.AllocsPerRun(1000, func() { o.Decided(d) }); n != 0 {
		t.Errorf("%v allocations per decision", n)
	}
}

// TestObserverAfterReload: indexes belong to a table; counters to names.
func TestObserverAfterReload(t *testing.T) {
	set := metrics.NewSet()
	o := NewObserver(2, set, zap.NewNop())
	w1, w2 := &namedEvaluator{"w1"}, &namedEvaluator{"w2"}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 250 {
				o.Decided(allowed(&route.Route{Name: "a", Index: 0}, w1))
				o.Decided(allowed(&route.Route{Name: "b", Index: 0}, w1)) // of another table
				o.Decided(allowed(&route.Route{Name: "a", Index: 1}, w2))
				o.Decided(allowed(&route.Route{Name: "c", Index: 7}, nil)) // of a longer table
			}
		})
	}
	all.Wait()
	want := `policy_kernel_requests_total{route="a",worker="w1",status="allowed"} 1000
policy_kernel_requests_total{route="a",worker="w2",status="allowed"} 1000
policy_kernel_requests_total{route="b",worker="w1",status="allowed"} 1000
policy_kernel_requests_total{route="c",worker="none",status="allowed"} 1000
`
	if got := exposed(set, "policy_kernel_requests_total"); got != want {
		t.Errorf("got\n%s", got)
	}
}

// tableOf is a table whose routes call the worker with the policy p.
func tableOf(t *testing.T, generation uint64, worker *namedEvaluator, routes ...string) *route.Table {
	t.Helper()
	return tableOfPolicy(t, generation, worker, "p", routes...)
}

// tableOfPolicy is a table whose routes call the worker with a policy.
func tableOfPolicy(t *testing.T, generation uint64, worker *namedEvaluator, policy string, routes ...string) *route.Table {
	t.Helper()
	cfg := &config.Kernel{}
	for _, name := range routes {
		cfg.Routes = append(cfg.Routes, config.Route{Name: name, Request: config.Flow{Chain: []config.Policy{{Name: policy}}}})
	}
	table, _, err := route.Compile(generation, cfg, []route.Offer{{Worker: worker, Discovered: true, Policies: []*workerv1.PolicyDescriptor{
		{Name: policy, Phases: []workerv1.Phase{workerv1.Phase_PHASE_REQUEST_HEADERS}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// TestForget: series of routes that are gone go, those of routes that stay count on, also when another Worker has the name, and a route that comes back is counted anew.
func TestForget(t *testing.T) {
	set := metrics.NewSet()
	o := NewObserver(0, set, zap.NewNop())
	w, again, other := &namedEvaluator{"w"}, &namedEvaluator{"w"}, &namedEvaluator{"other"}
	decide := func(table *route.Table, name string, worker *namedEvaluator) {
		t.Helper()
		o.Decided(allowed(table.Lookup(name), worker))
	}
	expect := func(when, want string) {
		t.Helper()
		if got := exposed(set, "policy_kernel_requests_total"); got != want {
			t.Errorf("%s: got\n%s", when, got)
		}
	}
	first := tableOf(t, 1, w, "a", "b")
	o.Follow(first)
	decide(first, "a", w)
	decide(first, "b", w)
	o.Decided(&extproc.Decision{RouteName: "x", Phase: workerv1.Phase_PHASE_REQUEST_HEADERS, OfRequest: true, Status: extproc.StatusUnknownRoute})
	second := tableOf(t, 2, again, "b", "c")
	o.Follow(second)
	decide(second, "b", again)
	decide(first, "a", w) // a stream of the old table
	const unknown = `policy_kernel_requests_total{route="unknown",worker="none",status="unknown_route"} 1` + "\n"
	both := `policy_kernel_requests_total{route="a",worker="w",status="allowed"} 2
policy_kernel_requests_total{route="b",worker="w",status="allowed"} 2
` + unknown
	o.Forget([]*route.Table{first, second}, time.Minute)
	expect("while both tables are in use", both)
	if o.Forget([]*route.Table{second}, time.Minute) {
		t.Error("there is more to forget")
	}
	decide(second, "b", again)
	expect("without the first table", `policy_kernel_requests_total{route="b",worker="w",status="allowed"} 3`+"\n"+unknown)
	third := tableOf(t, 3, other, "a", "b")
	o.Follow(third)
	decide(third, "a", other)
	decide(third, "b", other)
	o.Forget([]*route.Table{third}, time.Minute)
	expect("with another worker", `policy_kernel_requests_total{route="a",worker="other",status="allowed"} 1
policy_kernel_requests_total{route="b",worker="other",status="allowed"} 1
`+unknown)
	if got := exposed(set, "policy_kernel_request_duration_seconds_count"); strings.Contains(got, `"w"`) {
		t.Errorf("left over: %s", got)
	}
}

// TestForgetTakesItsTime: it stops when its time is up, and finds the rest the next time.
func TestForgetTakesItsTime(t *testing.T) {
	set := metrics.NewSet()
	o := NewObserver(0, set, zap.NewNop())
	w := &namedEvaluator{"w"}
	table := tableOf(t, 1, w, "a", "b", "c")
	o.Follow(table)
	for _, r := range table.Routes() {
		o.Decided(allowed(r, w))
	}
	times := 1
	for o.Forget(nil, 0) {
		times++
	}
	if got := exposed(set, "policy_kernel_"); got != "" || times < 3 {
		t.Errorf("after %d times: %s", times, got)
	}
}

// TestLabelsNeverComeFromARequest: whatever requests, and the workers' words about them, hold, the series are those of the configuration's names.
func TestLabelsNeverComeFromARequest(t *testing.T) {
	a, b := &route.Route{Name: "a", Index: 0}, &route.Route{Name: "b", Index: 1}
	worker := &route.Segment{Worker: &namedEvaluator{"w"}}
	series := regexp.MustCompile(`^(#|policy_kernel_[a-z_]+\{route="(a|b|unknown)",worker="(w|none)"(,status="[a-z_]+")?(,le="[^"]+")?\} |policy_kernel_decisions_total\{route="(a|b|unknown)",policy="none",reason="[a-z0-9_]+"\} )`)
	rapid.Check(t, func(t *rapid.T) {
		set := metrics.NewSet()
		o := NewObserver(2, set, zap.NewNop())
		text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"a", "unknown", `x"} 1`, "a\n", "w"}))
		for range rapid.IntRange(1, 20).Draw(t, "decisions") {
			o.Decided(&extproc.Decision{
				Route:     rapid.SampledFrom([]*route.Route{nil, a, b}).Draw(t, "route"),
				Worker:    rapid.SampledFrom([]*route.Segment{nil, worker}).Draw(t, "worker"),
				RouteName: text.Draw(t, "route name"), Policy: text.Draw(t, "policy"), Reason: text.Draw(t, "reason"), RequestID: []byte(text.Draw(t, "request id")),
				Phase:     workerv1.Phase(rapid.IntRange(0, 6).Draw(t, "phase")),
				Status:    rapid.SampledFrom(extproc.Statuses()).Draw(t, "status"),
				Tolerated: rapid.SampledFrom([]extproc.Status{extproc.StatusNone, extproc.StatusWorkerTimeout}).Draw(t, "tolerated"),
				OfRequest: rapid.Bool().Draw(t, "of the request"),
			})
		}
		var b bytes.Buffer
		set.WritePrometheus(&b)
		for line := range strings.Lines(b.String()) {
			if !series.MatchString(line) && !strings.Contains(line, `_sum{route=`) && !strings.Contains(line, `_count{route=`) {
				t.Fatalf("a label came from a request: %s", line)
			}
		}
	})
	set := metrics.NewSet()
	o := NewObserver(1, set, zap.NewNop())
	for i := range 100 {
		o.Decided(&extproc.Decision{RouteName: fmt.Sprint("invented", i), Phase: workerv1.Phase_PHASE_REQUEST_HEADERS, OfRequest: true, Status: extproc.StatusUnknownRoute})
	}
	if got := exposed(set, "policy_kernel_requests_total"); got != `policy_kernel_requests_total{route="unknown",worker="none",status="unknown_route"} 100`+"\n" {
		t.Error(got)
	}
}

// TestUnknownRoutesInTheLog checks the lines of requests whose route is unknown: host and path are bounded and escaped,
// and each name has one line a minute.
func TestUnknownRoutesInTheLog(t *testing.T) {
	for _, tt := range []struct {
		status         extproc.Status
		route          string
		level, message string
	}{
		{extproc.StatusUnknownRoute, "nowhere", "warn", "unknown route"},
		{extproc.StatusRouteNotFound, "policy-engine/not-found", "info", "no route of Envoy matches a request"},
		{extproc.StatusUnnamedRoute, "", "warn", "Envoy named no route for a request"},
	} {
		var out bytes.Buffer
		log, err := telemetry.NewLogger("kernel", "info", &out)
		if err != nil {
			t.Fatal(err)
		}
		o := NewObserver(0, metrics.NewSet(), log.Logger)
		for range 100 {
			o.Decided(&extproc.Decision{
				RouteName: tt.route, Phase: workerv1.Phase_PHASE_REQUEST_HEADERS, OfRequest: true, Status: tt.status,
				Host: []byte("shop.example\"\n{"), Path: []byte("/a\x00\xff" + strings.Repeat("b", 5000)),
			})
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		var line map[string]any
		if err := json.Unmarshal([]byte(lines[0]), &line); err != nil || len(lines) != 1 {
			t.Fatalf("%v: %v, %d lines: %.300s", tt.status, err, len(lines), out.String())
		}
		metadata, _ := line["metadata"].(map[string]any)
		path, _ := metadata["path"].(string)
		if line["level"] != tt.level || line["message"] != tt.message || metadata["route"] != tt.route ||
			metadata["host"] != "shop.example\"\n{" ||
			!strings.HasPrefix(path, "/a\x00\ufffdbbb") || len(lines[0]) > 600 {
			t.Errorf("%v: %s", tt.status, lines[0])
		}
	}
}

func TestWhatCounts(t *testing.T) {
	r := &route.Route{Name: "a"}
	tests := []struct {
		name string
		d    extproc.Decision
		want string
	}{
		{"malformed first message", extproc.Decision{OfRequest: true, Status: extproc.StatusMalformedMessage}, `requests_total{route="unknown",worker="none",status="malformed_message"} 1`},
		{"malformed later message", extproc.Decision{Route: r, Status: extproc.StatusMalformedMessage}, `response_failures_total{route="a",worker="none",status="malformed_message"} 1`},
		{"allowed response", extproc.Decision{Route: r, Phase: workerv1.Phase_PHASE_RESPONSE_HEADERS, Status: extproc.StatusAllowed}, ""},
		{
			"tolerated failure in a response",
			extproc.Decision{Route: r, Phase: workerv1.Phase_PHASE_RESPONSE_HEADERS, Status: extproc.StatusAllowed, Tolerated: extproc.StatusWorkerTimeout},
			`tolerated_failures_total{route="a",worker="none",status="worker_timeout"} 1`,
		},
		{"cancelled request", extproc.Decision{Route: r, Phase: workerv1.Phase_PHASE_REQUEST_HEADERS, OfRequest: true, Status: extproc.StatusCancelled}, `requests_total{route="a",worker="none",status="cancelled"} 1`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			set := metrics.NewSet()
			NewObserver(1, set, zap.NewNop()).Decided(&tt.d)
			var got []string
			for line := range strings.Lines(exposed(set, "policy_kernel_")) {
				if strings.Contains(line, "_total{") && !strings.HasPrefix(line, decisionsTotal) { // TestReasons has those.
					got = append(got, strings.TrimSpace(strings.TrimPrefix(line, "policy_kernel_")))
				}
			}
			if s := strings.Join(got, "\n"); s != tt.want {
				t.Errorf("got %q, want %q", s, tt.want)
			}
		})
	}
}

func BenchmarkDecided(b *testing.B) {
	o := NewObserver(10, metrics.NewSet(), zap.NewNop())
	d := allowed(&route.Route{Name: "a", Index: 3}, &namedEvaluator{"w"})
	b.ReportAllocs()
	for b.Loop() {
		o.Decided(d)
	}
}
