package mutations

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/worker/chain"
)

const (
	set    = workerv1.Mutation_KIND_SET_HEADER
	add    = workerv1.Mutation_KIND_APPEND_HEADER
	remove = workerv1.Mutation_KIND_REMOVE_HEADER
	path   = workerv1.Mutation_KIND_SET_PATH
	routed = workerv1.Mutation_KIND_SET_PATH_AND_ROUTE
	method = workerv1.Mutation_KIND_SET_METHOD
	status = workerv1.Mutation_KIND_SET_STATUS
)

// forbidden are the headers that neither a policy nor a worker may set, append to or remove, on the request, the response, their trailers and an answer.
var forbidden = []string{
	"content-length", "transfer-encoding", "content-encoding", "connection", "upgrade", "te", "trailer", "expect", "keep-alive", "proxy-connection", "http2-settings", "host",
	":path", ":method", ":authority", ":scheme", ":status", ":protocol", ":x", "", "x-envoy-original-path", "x-envoy-", "x a", "x:", "x\r\ny", "x\x00", "x-\xc3\xa9",
}

// values are header values, and whether they are allowed.
var values = map[string]bool{
	"": true, "v": true, "a\tb": true, "\xe9\xff": true, strings.Repeat("v", 8192): true,
	"a\r\nset-cookie: b": false, "a\n": false, "\r": false, "a\x00b": false, "\x1b[2J": false, "\x7f": false,
}

var paths = map[string]bool{
	"/": true, "/a?b=c": true, "/a//b": true, "/%2e%2e/;x": true, "/a?x=//y": true,
	"//evil/": false, `/\evil/`: false, "": false, "a": false, "*": false, "http://evil/": false, "HTTPS://evil/": false, "evil:443": false, "?a": false,
	"/a b": false, "/a\tb": false, "/a\r\nx: y": false, "/a\x00": false, "/a#b": false, "/\xc3\xa9": false, "/\x7f": false,
}

var methods = map[string]bool{
	"GET": true, "POST": true, "M-SEARCH": true, "X": true,
	"CONNECT": false, "connect": false, "PRI": false, "pri": false, "": false, "GET /": false, "GET\r\n": false, "GE\x00T": false, "G\xc3\x89T": false,
}

var statuses = map[int]bool{200: true, 204: true, 304: true, 404: true, 599: true, 101: false, 100: false, 199: false, 600: false, 0: false, 999: false, 1000: false}

// TestOneRuleOnBothSides plays each change through a worker's chain, as a policy's, and through the kernel's state machine, as a worker's.
func TestOneRuleOnBothSides(t *testing.T) {
	phases := []workerv1.Phase{
		workerv1.Phase_PHASE_REQUEST_HEADERS, workerv1.Phase_PHASE_RESPONSE_HEADERS, workerv1.Phase_PHASE_REQUEST_TRAILERS, workerv1.Phase_PHASE_RESPONSE_TRAILERS,
	}
	try := func(t *testing.T, phase workerv1.Phase, m *workerv1.Mutation, allowed bool) {
		t.Helper()
		if got := kernelTakes(t, phase, &workerv1.Result{Outcome: workerv1.Result_OUTCOME_CONTINUE, Mutations: []*workerv1.Mutation{m}}); got != allowed {
			t.Errorf("%v %v %q %.80q: the kernel takes it: %v, want %v", phase, m.Kind, m.Name, m.Value, got, allowed)
		}
		if got := workerTakes(t, phase, m); got != allowed {
			t.Errorf("%v %v %q %.80q: the SDK takes it: %v, want %v", phase, m.Kind, m.Name, m.Value, got, allowed)
		}
	}
	for _, phase := range phases {
		request := phase < workerv1.Phase_PHASE_RESPONSE_HEADERS
		headers := phase == workerv1.Phase_PHASE_REQUEST_HEADERS || phase == workerv1.Phase_PHASE_RESPONSE_HEADERS
		for _, name := range forbidden {
			for _, kind := range []workerv1.Mutation_Kind{set, add, remove} {
				try(t, phase, &workerv1.Mutation{Kind: kind, Name: name, Value: []byte("1")}, false)
			}
		}
		for value, allowed := range values {
			for _, kind := range []workerv1.Mutation_Kind{set, add} {
				try(t, phase, &workerv1.Mutation{Kind: kind, Name: "x-a", Value: []byte(value)}, allowed)
			}
		}
		for _, name := range []string{"x-a", "x-envoys", "!#$%&'*+-.^_`|~0z", "set-cookie", "location", "te-x", "content-lengths", "authorization"} {
			try(t, phase, &workerv1.Mutation{Kind: set, Name: name, Value: []byte("1")}, true)
		}
		for value, allowed := range paths {
			try(t, phase, &workerv1.Mutation{Kind: path, Value: []byte(value)}, allowed && request && headers)
			try(t, phase, &workerv1.Mutation{Kind: routed, Value: []byte(value)}, allowed && request && headers)
		}
		for value, allowed := range methods {
			try(t, phase, &workerv1.Mutation{Kind: method, Value: []byte(value)}, allowed && request && headers)
		}
		for value, allowed := range statuses {
			try(t, phase, &workerv1.Mutation{Kind: status, Value: fmt.Append(nil, value)}, allowed && !request && headers)
		}
	}
}

// TestOneRuleOfAnswersOnBothSides does so with answers in place of the upstream's.
func TestOneRuleOfAnswersOnBothSides(t *testing.T) {
	try := func(t *testing.T, verdict policies.Verdict, answer *workerv1.ImmediateResponse, allowed bool) {
		t.Helper()
		for _, phase := range []workerv1.Phase{workerv1.Phase_PHASE_REQUEST_HEADERS, workerv1.Phase_PHASE_RESPONSE_HEADERS} {
			r := &workerv1.Result{Outcome: workerv1.Result_OUTCOME_IMMEDIATE, Reason: verdict.Reason(), Immediate: answer}
			if got := kernelTakes(t, phase, r); got != allowed {
				t.Errorf("%v %.80v: the kernel takes it: %v, want %v", phase, answer, got, allowed)
			}
			if got := runs(t, phase, &policy{verdict: verdict}); got != allowed {
				t.Errorf("%v %.80v: the SDK takes it: %v, want %v", phase, answer, got, allowed)
			}
		}
	}
	field := func(name, value string, allowed bool) {
		try(t, policies.Deny(403, "no").WithHeader(name, value),
			&workerv1.ImmediateResponse{Status: 403, Headers: []*workerv1.Header{{Name: strings.ToLower(name), Value: []byte(value)}}}, allowed)
	}
	for _, name := range forbidden {
		field(name, "1", false)
	}
	for value, allowed := range values {
		field("set-cookie", value, allowed)
		field("location", value, allowed)
	}
	for code, allowed := range statuses {
		try(t, policies.Respond(code, "ok", "", nil), &workerv1.ImmediateResponse{Status: uint32(code)}, allowed)
	}
	for _, tc := range []struct {
		status  int
		grpc    uint32
		allowed bool
	}{{403, 7, true}, {403, 16, true}, {403, 17, false}, {403, 0, false}, {200, 0, true}, {200, 1 << 31, false}, {503, 0, false}} {
		try(t, policies.Respond(tc.status, "ok", "", nil).WithGRPCStatus(tc.grpc), &workerv1.ImmediateResponse{Status: uint32(tc.status), GrpcStatus: &tc.grpc}, tc.allowed)
	}
	for reason, allowed := range map[string]bool{"": true, "no_key_2": true, "No": false, "a b": false, "a-b": false, "a\n": false, strings.Repeat("a", 64): true, strings.Repeat("a", 65): false} {
		try(t, policies.Respond(200, reason, "", nil), &workerv1.ImmediateResponse{Status: 200}, allowed)
	}
	for n, allowed := range map[int]bool{100: true, 101: false} {
		v, a := policies.Respond(200, "ok", "", nil), &workerv1.ImmediateResponse{Status: 200}
		for i := range n {
			v = v.WithHeader(fmt.Sprintf("x-%d", i), "v")
			a.Headers = append(a.Headers, &workerv1.Header{Name: fmt.Sprintf("x-%d", i), Value: []byte("v")})
		}
		try(t, v, a, allowed)
	}
	for n, allowed := range map[int]bool{60*1024 - 3: true, 60*1024 - 2: false} {
		value := strings.Repeat("v", n)
		try(t, policies.Respond(200, "ok", "", nil).WithHeader("x-a", value), &workerv1.ImmediateResponse{Status: 200, Headers: []*workerv1.Header{{Name: "x-a", Value: []byte(value)}}}, allowed)
	}
	for n, allowed := range map[int]bool{1 << 20: true, 1<<20 + 1: false} {
		body := make([]byte, n)
		try(t, policies.Respond(200, "ok", "", body), &workerv1.ImmediateResponse{Status: 200, Body: body}, allowed)
	}
}

// policy makes one change, or gives one verdict, in the phase.
type policy struct {
	phase   workerv1.Phase
	change  *workerv1.Mutation
	verdict policies.Verdict
}

func (p *policy) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	if p.phase == workerv1.Phase_PHASE_REQUEST_HEADERS {
		p.request(r)
	}
	return p.verdict, nil
}

func (p *policy) OnRequestTrailers(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	switch p.change.Kind {
	case set:
		r.SetTrailer(p.change.Name, string(p.change.Value))
	case add:
		r.AppendTrailer(p.change.Name, string(p.change.Value))
	case remove:
		r.RemoveTrailer(p.change.Name)
	default:
		p.request(r)
	}
	return p.verdict, nil
}

func (p *policy) request(r *policies.Request) {
	if p.change == nil {
		return
	}
	switch value := string(p.change.Value); p.change.Kind {
	case set:
		r.SetHeader(p.change.Name, value)
	case add:
		r.AppendHeader(p.change.Name, value)
	case remove:
		r.RemoveHeader(p.change.Name)
	case path:
		r.SetPath(value)
	case routed:
		r.SetPathAndRoute(value)
	case method:
		r.SetMethod(value)
	}
}

func (p *policy) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	if p.phase == workerv1.Phase_PHASE_RESPONSE_HEADERS {
		p.response(r)
	}
	return p.verdict, nil
}

func (p *policy) OnResponseTrailers(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	switch p.change.Kind {
	case set:
		r.SetTrailer(p.change.Name, string(p.change.Value))
	case add:
		r.AppendTrailer(p.change.Name, string(p.change.Value))
	case remove:
		r.RemoveTrailer(p.change.Name)
	default:
		p.response(r)
	}
	return p.verdict, nil
}

func (p *policy) response(r *policies.Response) {
	if p.change == nil {
		return
	}
	switch value := string(p.change.Value); p.change.Kind {
	case set:
		r.SetHeader(p.change.Name, value)
	case add:
		r.AppendHeader(p.change.Name, value)
	case remove:
		r.RemoveHeader(p.change.Name)
	case status:
		code := 0
		fmt.Sscan(value, &code)
		r.SetStatus(code)
	case path:
		r.Request().SetPath(value)
	case routed:
		r.Request().SetPathAndRoute(value)
	case method:
		r.Request().SetMethod(value)
	}
}

func (*policy) Ran(chain.Status, time.Duration) {}
func (*policy) Failed(chain.Failure)            {}
func (*policy) Slow(time.Duration, bool)        {}
func (*policy) Retain()                         {}
func (*policy) Release()                        {}

// workerTakes reports whether a worker lets a policy make the change.
func workerTakes(t *testing.T, phase workerv1.Phase, m *workerv1.Mutation) bool {
	t.Helper()
	if m.Kind == status && phase < workerv1.Phase_PHASE_RESPONSE_HEADERS {
		return false // A policy has no way to say so.
	}
	return runs(t, phase, &policy{phase: phase, change: m})
}

func headers(pseudo ...string) []byte {
	m := new(corev3.HeaderMap)
	for i := 0; i < len(pseudo); i += 2 {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: pseudo[i], RawValue: []byte(pseudo[i+1])})
	}
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func runs(t *testing.T, phase workerv1.Phase, p *policy) bool {
	t.Helper()
	response := phase >= workerv1.Phase_PHASE_RESPONSE_HEADERS
	c, err := chain.Compile("orders", response, []chain.Policy{{Name: "p", Instance: p, Observer: p}})
	if err != nil {
		t.Fatal(err)
	}
	call := &workerv1.Call{Phase: phase, Headers: headers(":method", "GET", ":path", "/", "te", "trailers")}
	if response {
		call.RequestHeaders, call.Headers = call.Headers, headers(":status", "200")
	}
	if phase == workerv1.Phase_PHASE_REQUEST_TRAILERS || phase == workerv1.Phase_PHASE_RESPONSE_TRAILERS {
		call.Trailers = headers("x-t", "1")
	}
	now := time.Now()
	r := chain.NewRun(&chain.Settings{Limits: chain.Limits{MaxBodySize: 3 << 20, MaxStateSize: 3 << 20}, Now: time.Now})
	if err := r.Load(c, call, now, now, p); err != nil {
		t.Fatal(err)
	}
	if !r.Inline(t.Context()) {
		r.Wait(t.Context())
	}
	return r.Result().Outcome != workerv1.Result_OUTCOME_FAILED
}

// evaluator is a worker whose results the test delivers.
type evaluator struct{}

func (evaluator) Name() string         { return "w" }
func (evaluator) Available() bool      { return true }
func (evaluator) Evaluate(*route.Call) { panic("the machine does no I/O") }

// decisions has the last decision.
type decisions struct{ last extproc.Status }

func (d *decisions) Decided(decision *extproc.Decision) { d.last = decision.Status }

// kernelTakes reports whether the kernel takes the result of a worker in the phase.
func kernelTakes(t *testing.T, phase workerv1.Phase, r *workerv1.Result) bool {
	t.Helper()
	descriptor := &workerv1.PolicyDescriptor{Name: "p", Phases: []workerv1.Phase{workerv1.Phase_PHASE_REQUEST_HEADERS, workerv1.Phase_PHASE_RESPONSE_HEADERS}}
	if phase == workerv1.Phase_PHASE_REQUEST_TRAILERS || phase == workerv1.Phase_PHASE_RESPONSE_TRAILERS {
		descriptor.Phases = append(descriptor.Phases, phase)
	}
	chain := []config.Policy{{Name: "p"}}
	cfg := &config.Kernel{Routes: []config.Route{{Name: "orders", Request: config.Flow{Chain: chain}, Response: config.Flow{Chain: chain}}}}
	table, _, err := route.Compile(1, cfg, []route.Offer{{Worker: evaluator{}, Timeout: time.Second, Discovered: true, Policies: []*workerv1.PolicyDescriptor{descriptor}}})
	if err != nil {
		t.Fatal(err)
	}
	table.Report("w", nil)
	store := route.NewStore(route.TermsOf(cfg), nil)
	store.Swap(table)
	seen := new(decisions)
	m := extproc.New(&extproc.Settings{Routes: store, Bodies: extproc.NewBudget(1 << 20), Observer: seen})
	m.Open("orders", 0)
	defer m.Close()
	for _, step := range []struct {
		phase   workerv1.Phase
		message *extprocv3.ProcessingRequest
	}{
		{workerv1.Phase_PHASE_REQUEST_HEADERS, &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{Headers: lines(":method", "GET", ":path", "/")}}}},
		{workerv1.Phase_PHASE_REQUEST_TRAILERS, &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{Trailers: lines("x-t", "1")}}}},
		{workerv1.Phase_PHASE_RESPONSE_HEADERS, &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{Headers: lines(":status", "200")}}}},
		{workerv1.Phase_PHASE_RESPONSE_TRAILERS, &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseTrailers{ResponseTrailers: &extprocv3.HttpTrailers{Trailers: lines("x-t", "1")}}}},
	} {
		if !slices.Contains(descriptor.Phases, step.phase) {
			continue
		}
		b, err := proto.Marshal(step.message)
		if err != nil {
			t.Fatal(err)
		}
		e := m.Message(b, 0)
		if e.Kind != extproc.KindCall {
			t.Fatalf("%v: effect %v %s", step.phase, e.Kind, e.Message)
		}
		if step.phase == phase {
			result := proto.CloneOf(r)
			result.Phase, result.Context = phase, []byte("c")
			m.Complete(e.Call, result, nil, 0)
			return seen.last != extproc.StatusIllegalResult
		}
		if e = m.Complete(e.Call, &workerv1.Result{Phase: step.phase, Outcome: workerv1.Result_OUTCOME_CONTINUE, Context: []byte("c")}, nil, 0); e.Kind != extproc.KindAnswer {
			t.Fatalf("%v: effect %v %s", step.phase, e.Kind, e.Message)
		}
	}
	t.Fatalf("phase %v never came", phase)
	return false
}

func lines(kv ...string) *corev3.HeaderMap {
	m := new(corev3.HeaderMap)
	for i := 0; i < len(kv); i += 2 {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: kv[i], RawValue: []byte(kv[i+1])})
	}
	return m
}
