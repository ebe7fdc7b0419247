package route

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
)

type fakeWorker string

func (w fakeWorker) Name() string  { return string(w) }
func (fakeWorker) Available() bool { return true }
func (fakeWorker) Evaluate(*Call)  { panic("not called by the compiler") }

var bothPhases = []workerv1.Phase{workerv1.Phase_PHASE_REQUEST_HEADERS, workerv1.Phase_PHASE_RESPONSE_HEADERS}

func offerOf(worker string, policies ...string) Offer {
	o := Offer{Worker: fakeWorker(worker), Timeout: 500 * time.Millisecond, Discovered: true}
	for _, p := range policies {
		o.Policies = append(o.Policies, &workerv1.PolicyDescriptor{Name: p, Phases: bothPhases})
	}
	return o
}

// chainOf makes a chain of "name" or "name:on_failure".
func chainOf(flow string, policies ...string) config.Flow {
	var f config.Flow
	for i, p := range policies {
		name, onFailure, _ := strings.Cut(p, ":")
		f.Chain = append(f.Chain, config.Policy{
			Name: name, OnFailure: config.OnFailure(onFailure),
			Pos: config.Pos{File: "k.yaml", Line: 10 + i, Path: fmt.Sprintf("%s.policy_chain[%d]", flow, i)},
		})
	}
	return f
}

func kernelOf(workers []string, routes ...config.Route) *config.Kernel {
	k := &config.Kernel{Routes: routes}
	for i, w := range workers {
		k.Workers = append(k.Workers, config.WorkerRef{Name: w, Pos: config.Pos{File: "k.yaml", Line: i + 1, Path: fmt.Sprintf("workers[%d]", i)}})
	}
	return k
}

// show prints a plan as "worker#chain(policy policy)+", the plus for HoldsUp.
func show(p Plan) string {
	var b strings.Builder
	for i, s := range p.Headers {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s#%d(", s.Worker.Name(), s.Chain)
		for j, ref := range s.Policies {
			if j > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(ref.Name)
		}
		b.WriteByte(')')
		if s.HoldsUp {
			b.WriteByte('+')
		}
	}
	return b.String()
}

func TestCompilePlans(t *testing.T) {
	offers := []Offer{offerOf("w1", "auth", "limit"), offerOf("w2", "custom")}
	for _, tc := range []struct {
		name              string
		request, response []string
		wantRequest       string
		wantResponse      string
	}{
		{"no policies", nil, nil, "", ""},
		{"one segment", []string{"auth", "limit"}, nil, "w1#1(auth limit)+", ""},
		{"there and back again", []string{"auth", "custom", "limit"}, nil, "w1#1(auth)+ w2#2(custom)+ w1#3(limit)+", ""},
		{"flows are apart", []string{"auth"}, []string{"auth"}, "w1#1(auth)+", "w1#2(auth)+"},
		{"a policy twice", []string{"auth", "auth"}, nil, "w1#1(auth auth)+", ""},
		{"only deny holds up", []string{"auth:continue", "limit:skip_remaining", "custom:deny"}, []string{"custom:continue"}, "w1#1(auth limit) w2#2(custom)+", "w2#3(custom)"},
		{"one deny is enough", []string{"auth:continue", "limit:deny"}, nil, "w1#1(auth limit)+", ""},
		{"an unknown on_failure denies", []string{"auth:whatever"}, nil, "w1#1(auth)+", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := kernelOf([]string{"w1", "w2"}, config.Route{Name: "r", Request: chainOf("q", tc.request...), Response: chainOf("s", tc.response...)})
			table, _, err := Compile(7, cfg, offers)
			if err != nil {
				t.Fatal(err)
			}
			r := table.Lookup("r")
			if got := show(r.Request); got != tc.wantRequest {
				t.Errorf("request plan %q, want %q", got, tc.wantRequest)
			}
			if got := show(r.Response); got != tc.wantResponse {
				t.Errorf("response plan %q, want %q", got, tc.wantResponse)
			}
			if table.Generation() != 7 || !table.Ready() {
				t.Errorf("generation %d, ready %v", table.Generation(), table.Ready())
			}
			for _, s := range append(r.Request.Headers, r.Response.Headers...) {
				if s.Timeout != 500*time.Millisecond {
					t.Errorf("segment timeout %v", s.Timeout)
				}
			}
		})
	}
}

func TestCompileChains(t *testing.T) {
	request := chainOf("routes[0].request_flow", "auth:continue", "limit")
	request.Chain[0].Params = []byte(`{"key_store":"partners"}`)
	request.Chain[0].Timeout = 50 * time.Millisecond
	request.Chain[1].Timeout = 1 // A nanosecond must not become "no limit".
	cfg := kernelOf([]string{"w1", "w2"},
		config.Route{Name: "a", Request: request, Response: chainOf("routes[0].response_flow", "custom")},
		config.Route{Name: "b", Request: chainOf("routes[1].request_flow", "auth")})
	_, chains, err := Compile(1, cfg, []Offer{offerOf("w1", "auth", "limit"), offerOf("w2", "custom")})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]*workerv1.Chain{
		"w1": {
			{Id: 1, RouteName: "a", Policies: []*workerv1.PolicyInstance{
				{
					Name: "auth", Params: []byte(`{"key_store":"partners"}`), OnFailure: workerv1.OnFailure_ON_FAILURE_CONTINUE, TimeoutUs: 50_000,
					ReportOwnedHeaders: true, Path: "routes[0].request_flow.policy_chain[0]",
				},
				{Name: "limit", TimeoutUs: 1, ReportOwnedHeaders: true, Path: "routes[0].request_flow.policy_chain[1]"},
			}},
			{Id: 3, RouteName: "b", Policies: []*workerv1.PolicyInstance{{Name: "auth", ReportOwnedHeaders: true, Path: "routes[1].request_flow.policy_chain[0]"}}},
		},
		"w2": {{Id: 2, RouteName: "a", ResponseFlow: true, Policies: []*workerv1.PolicyInstance{{Name: "custom", ReportOwnedHeaders: true, Path: "routes[0].response_flow.policy_chain[0]"}}}},
	}
	if !reflect.DeepEqual(chains, want) {
		t.Errorf("chains %v\nwant %v", chains, want)
	}
}

// TestModeOfPoliciesNotKnownYet: a kernel that starts before its workers must not take a processing_mode for a mistake because nobody has told it yet what the policies need.
func TestModeOfPoliciesNotKnownYet(t *testing.T) {
	for _, mode := range []config.ProcessingMode{config.ProcessingModeBuffered, config.ProcessingModeStreaming} {
		chain := chainOf("q", "scan")
		chain.Mode = mode
		cfg := kernelOf([]string{"w1"}, config.Route{Name: "r", Request: chain, Response: chain})
		if table, _, err := Compile(1, cfg, nil); err != nil || !table.Lookup("r").Undiscovered {
			t.Errorf("%s, before the worker told: %v", mode, err)
		}
		if _, _, err := Compile(1, cfg, []Offer{offerOf("w1", "scan")}); err == nil {
			t.Errorf("%s: a policy that takes no part in the body was taken", mode)
		}
	}
}

func TestCompileMissingPolicies(t *testing.T) {
	undiscovered := offerOf("w2")
	undiscovered.Discovered = false
	for _, tc := range []struct {
		name         string
		workers      []string
		offers       []Offer
		unsupported  []string
		undiscovered bool
	}{
		{"all workers told", []string{"w1", "w2"}, []Offer{offerOf("w1", "auth"), offerOf("w2")}, []string{"ghost", "spectre"}, false},
		{"a worker has not told", []string{"w1", "w2"}, []Offer{offerOf("w1", "auth"), undiscovered}, nil, true},
		{"a worker is configured without an offer", []string{"w1", "w2"}, []Offer{offerOf("w1", "auth")}, nil, true},
		{"no workers at all", nil, nil, []string{"auth", "ghost", "spectre"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := kernelOf(tc.workers, config.Route{
				Name: "r", Request: chainOf("q", "auth", "ghost:continue", "spectre", "ghost"), Response: chainOf("s", "spectre"),
			})
			table, chains, err := Compile(1, cfg, tc.offers)
			if err != nil {
				t.Fatal(err)
			}
			r := table.Lookup("r")
			if !reflect.DeepEqual(r.Unsupported, tc.unsupported) || r.Undiscovered != tc.undiscovered {
				t.Errorf("unsupported %v, undiscovered %v; want %v, %v", r.Unsupported, r.Undiscovered, tc.unsupported, tc.undiscovered)
			}
			if len(r.Request.Headers)+len(r.Response.Headers) != 0 {
				t.Errorf("plans %q and %q: a route is never enforced in part", show(r.Request), show(r.Response))
			}
			if len(tc.offers) > 0 && len(chains["w1"]) != 1 {
				t.Errorf("chains %v: the known policy's parameters would not be checked", chains)
			}
		})
	}
}

func TestCompileErrors(t *testing.T) {
	headersOnly := func(phases ...workerv1.Phase) []Offer {
		return []Offer{{Worker: fakeWorker("w1"), Discovered: true, Policies: []*workerv1.PolicyDescriptor{{Name: "p", Phases: phases}}}}
	}
	for _, tc := range []struct {
		name   string
		cfg    *config.Kernel
		offers []Offer
		want   []string
	}{
		{
			"a request policy in the response flow", kernelOf([]string{"w1"}, config.Route{Name: "r", Response: chainOf("s", "p")}),
			headersOnly(workerv1.Phase_PHASE_REQUEST_HEADERS),
			[]string{`k.yaml:10: s.policy_chain[0]: policy "p" takes no part in the response_flow; the phases that it has are [PHASE_REQUEST_HEADERS]`},
		},
		{
			"a response policy in the request flow, twice", kernelOf([]string{"w1"}, config.Route{Name: "r", Request: chainOf("q", "p", "p")}),
			headersOnly(workerv1.Phase_PHASE_RESPONSE_HEADERS),
			[]string{
				`k.yaml:10: q.policy_chain[0]: policy "p" takes no part in the request_flow; the phases that it has are [PHASE_RESPONSE_HEADERS]`,
				`k.yaml:11: q.policy_chain[1]: policy "p" takes no part in the request_flow; the phases that it has are [PHASE_RESPONSE_HEADERS]`,
			},
		},
		{
			"a policy that would run in part", kernelOf([]string{"w1"}, config.Route{Name: "r", Request: chainOf("q", "p")}),
			headersOnly(workerv1.Phase_PHASE_REQUEST_HEADERS, 7),
			[]string{`k.yaml:10: q.policy_chain[0]: policy "p" needs phase 7, which this kernel does not know`},
		},
		{
			"a route twice", kernelOf(nil, config.Route{Name: "r", Pos: config.Pos{File: "k.yaml", Line: 3}}, config.Route{Name: "r", Pos: config.Pos{File: "k.yaml", Line: 9, Path: "routes[1]"}}), nil,
			[]string{`k.yaml:9: routes[1]: route "r" is configured already at line 3; legal is a route once`},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table, chains, err := Compile(1, tc.cfg, tc.offers)
			if err == nil {
				t.Fatal("no error")
			}
			if table != nil || chains != nil {
				t.Error("a table in spite of the error")
			}
			if got, want := err.Error(), strings.Join(tc.want, "\n"); got != want {
				t.Errorf("error\n%s\nwant\n%s", got, want)
			}
			var first *Error
			if !errors.As(err, &first) || first.Pos.File != "k.yaml" {
				t.Errorf("error %v has no position", err)
			}
		})
	}
}

// TestSegmenting: whatever the chain, its segments in a row are the chain, neighbours are of different workers, ids are unique and the pushed chains agree.
func TestSegmenting(t *testing.T) {
	policies := []string{"a", "b", "c", "d", "e"}
	offers := []Offer{offerOf("w1", "a", "b"), offerOf("w2", "c"), offerOf("w3", "d", "e")}
	worker := map[string]string{"a": "w1", "b": "w1", "c": "w2", "d": "w3", "e": "w3"}
	rapid.Check(t, func(t *rapid.T) {
		drawFlow := func(label string) config.Flow {
			chain := rapid.SliceOfN(rapid.Map(rapid.SampledFrom(policies), func(p string) string {
				return p + ":" + rapid.SampledFrom([]string{"deny", "continue", "skip_remaining"}).Draw(t, "on_failure")
			}), 0, 12).Draw(t, label)
			return chainOf(label, chain...)
		}
		var routes []config.Route
		for i := range rapid.IntRange(1, 4).Draw(t, "routes") {
			routes = append(routes, config.Route{Name: fmt.Sprint("r", i), Request: drawFlow("request"), Response: drawFlow("response")})
		}
		table, chains, err := Compile(1, kernelOf([]string{"w1", "w2", "w3"}, routes...), offers)
		if err != nil {
			t.Fatal(err)
		}
		pushed := make(map[uint32]*workerv1.Chain)
		owner := make(map[uint32]string)
		for w, cs := range chains {
			for _, c := range cs {
				if pushed[c.Id] != nil || c.Id == 0 {
					t.Fatalf("chain id %d is not unique", c.Id)
				}
				pushed[c.Id], owner[c.Id] = c, w
			}
		}
		check := func(in config.Route, flow config.Flow, plan Plan, response bool) {
			k := 0
			for i, s := range plan.Headers {
				if i > 0 && plan.Headers[i-1].Worker == s.Worker {
					t.Fatalf("neighbours of one worker: %s", show(plan))
				}
				c := pushed[s.Chain]
				if c == nil || owner[s.Chain] != s.Worker.Name() || len(c.Policies) != len(s.Policies) || c.RouteName != in.Name || c.ResponseFlow != response {
					t.Fatalf("segment %d of %s has chain %v", i, show(plan), c)
				}
				delete(pushed, s.Chain)
				holdsUp := false
				for j, ref := range s.Policies {
					if ref.Name != flow.Chain[k].Name || worker[ref.Name] != s.Worker.Name() || c.Policies[j].Name != ref.Name || c.Policies[j].OnFailure != ref.OnFailure {
						t.Fatalf("policy %d of %v is %v in %s", k, flow.Chain, ref, show(plan))
					}
					holdsUp = holdsUp || flow.Chain[k].OnFailure == config.OnFailureDeny
					k++
				}
				if s.HoldsUp != holdsUp {
					t.Fatalf("HoldsUp is %v in %s", s.HoldsUp, show(plan))
				}
			}
			if k != len(flow.Chain) {
				t.Fatalf("%d of %d policies are in the plan %s", k, len(flow.Chain), show(plan))
			}
		}
		for i, in := range routes {
			r := table.Lookup(in.Name)
			if r.Index != i || table.Routes()[i] != r {
				t.Fatalf("route %d has index %d", i, r.Index)
			}
			check(in, in.Request, r.Request, false)
			check(in, in.Response, r.Response, true)
		}
		if len(pushed) != 0 {
			t.Fatalf("chains without a segment: %v", pushed)
		}
	})
}
