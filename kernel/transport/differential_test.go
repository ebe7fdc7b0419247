package transport

import (
	"context"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/listener"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// subject is a server with the real state machine, and a worker whose results depend only on the call.
type subject struct {
	transport config.Transport
	server    Server
	addr      string
	later     bool // results come on another goroutine

	mu        sync.Mutex
	decisions []string
}

// verdicts are what a header x-verdict may ask of the worker.
var verdicts = []string{"continue", "skip", "deny", "policy error", "timeout", "unavailable", "overloaded", "nonsense"}

// Name implements route.Evaluator.
func (*subject) Name() string { return "w" }

// Available implements route.Evaluator.
func (*subject) Available() bool { return true }

// Evaluate implements route.Evaluator.
func (s *subject) Evaluate(c *route.Call) {
	result, err := evaluate(&c.Message)
	if !s.later {
		c.Done.Complete(c, result, err)
		return
	}
	time.AfterFunc(time.Millisecond, func() { // What follows the message arrives before, most of the time.
		c.Done.Complete(c, result, err)
		s.server.AfterBatch()
	})
}

func evaluate(m *workerv1.Call) (*workerv1.Result, error) {
	verdict := ""
	fields, err := headermap.Parse(nil, m.Headers)
	if err != nil {
		return nil, err
	}
	for _, f := range fields {
		if string(f.Name) == "x-verdict" {
			verdict = string(f.Value)
		}
	}
	sum := strconv.FormatUint(uint64(crc32.ChecksumIEEE(slices.Concat(m.Headers, m.RequestHeaders, m.Context))), 16)
	r := &workerv1.Result{
		Phase: m.Phase, Outcome: workerv1.Result_OUTCOME_CONTINUE, Subject: "s" + sum,
		Mutations: []*workerv1.Mutation{{Kind: workerv1.Mutation_KIND_SET_HEADER, Name: "x-sum", Value: []byte(sum)}},
	}
	if m.WantContext {
		r.Context = []byte(sum)
	}
	switch verdict {
	case "skip":
		r.Outcome, r.Policy, r.Reason = workerv1.Result_OUTCOME_SKIP_REMAINING, "guard", "enough"
	case "deny":
		r.Outcome, r.Policy, r.Reason, r.Mutations, r.Context = workerv1.Result_OUTCOME_IMMEDIATE, "guard", "no", nil, nil
		r.Immediate = &workerv1.ImmediateResponse{Status: 403, Body: []byte(sum)}
	case "policy error":
		return &workerv1.Result{Phase: m.Phase, Outcome: workerv1.Result_OUTCOME_FAILED, Failure: workerv1.Result_FAILURE_POLICY_ERROR, Policy: "guard"}, nil
	case "timeout":
		return nil, route.ErrTimeout
	case "unavailable":
		return nil, route.ErrUnavailable
	case "overloaded":
		return nil, route.ErrOverloaded
	case "nonsense":
		return &workerv1.Result{}, nil
	}
	return r, nil
}

// Decided implements extproc.Observer.
func (s *subject) Decided(d *extproc.Decision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decisions = append(s.decisions, fmt.Sprintf("%v %v of route %q, policy %q, reason %q, request %q", d.Phase, d.Status, d.RouteName, d.Policy, d.Reason, d.RequestID))
}

// takeDecisions returns those since the last time, sorted, when all streams have ended.
func (s *subject) takeDecisions(t tester) []string {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(bound); s.server.Streams() != 0; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d streams have not ended", s.transport, s.server.Streams())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.decisions
	s.decisions = nil
	slices.Sort(d)
	return d
}

// newSubject starts a server with a few routes.
func newSubject(t testing.TB, transport config.Transport, later bool) *subject {
	t.Helper()
	s := &subject{transport: transport, later: later}
	guard := []config.Policy{{Name: "guard"}}
	two := []config.Policy{{Name: "guard", OnFailure: config.OnFailureContinue}, {Name: "other"}}
	kernel := &config.Kernel{
		UnknownRoute: config.UnknownRouteDeny, Workers: []config.WorkerRef{{Name: "w"}},
		Routes: []config.Route{
			{Name: "open"},
			{Name: "request", Request: config.Flow{Chain: guard}},
			{Name: "response", Response: config.Flow{Chain: guard}},
			{Name: "both", Request: config.Flow{Chain: guard}, Response: config.Flow{Chain: guard}},
			{Name: "two", Request: config.Flow{Chain: two}, Response: config.Flow{Chain: two}},
		},
	}
	offer := route.Offer{Worker: s, Timeout: time.Second, Discovered: true}
	for _, name := range []string{"guard", "other"} {
		offer.Policies = append(offer.Policies, &workerv1.PolicyDescriptor{
			Name: name, Phases: []workerv1.Phase{workerv1.Phase_PHASE_REQUEST_HEADERS, workerv1.Phase_PHASE_RESPONSE_HEADERS},
		})
	}
	kernel.PolicyNotSupported, kernel.WorkerUnavailable = config.ImmediateResponse{Status: 500}, config.ImmediateResponse{Status: 503}
	table, _, err := route.Compile(1, kernel, []route.Offer{offer})
	if err != nil {
		t.Fatal(err)
	}
	table.Report(s.Name(), nil)
	store := route.NewStore(route.Terms{}, func(uint64) {})
	store.Swap(table)
	settings := &extproc.Settings{Routes: store, Observer: s}
	cfg := config.Server{Address: "127.0.0.1", MaxConcurrentStreams: 1000, Transport: transport}
	if s.server, err = New(Options{
		Config: cfg, Logger: zap.NewNop(), New: func() extproc.Driven { return extproc.New(settings) },
		Panicked: func() { t.Errorf("%s: a panic", transport) },
	}); err != nil {
		t.Fatal(err)
	}
	l, err := listener.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- s.server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.server.Drain(ctx)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// seen is what came of a connection's calls.
type seen struct {
	outcomes  []*outcome
	decisions []string
}

// run plays the calls on a connection of its own, beside a stream that must notice nothing of them.
func (s *subject) run(t tester, calls []*call) seen {
	t.Helper()
	p := newPlayer(t, s.addr)
	defer p.nc.Close()
	bystander := &call{fields: requestFields(processMethod, [2]string{routeKey, "both"})}
	id := p.open(bystander)
	p.do(id, step{data: framed(0, processing("request_headers", true, nil, nil))})
	p.do(id, step{await: 1})
	outcomes := p.play(calls)
	p.do(id, step{data: framed(0, processing("response_headers", true, nil, nil)), end: true})
	b := p.streams[id]
	for !b.ended {
		p.read()
	}
	if len(b.messages) != 2 || b.status != "0" {
		t.Fatalf("%s: the stream beside the others ended with %v after %d answers", s.transport, b, len(b.messages))
	}
	return seen{outcomes, s.takeDecisions(t)}
}

// twins are a server of each transport, with results at once and later.
type twins [2][2]*subject

func newTwins(t testing.TB) *twins {
	var w twins
	for i, later := range []bool{false, true} {
		w[i] = [2]*subject{newSubject(t, config.TransportFast, later), newSubject(t, config.TransportGRPC, later)}
	}
	return &w
}

// compare plays the calls to both, and fails when they differ in more than is written down.
func (w *twins) compare(t tester, later bool, calls []*call) {
	t.Helper()
	pair := w[0]
	if later {
		pair = w[1]
	}
	fast, reference := pair[0].run(t, calls), pair[1].run(t, calls)
	sameDecisions := true
	for i, c := range calls {
		a, b := fast.outcomes[i], reference.outcomes[i]
		wantA, wantB := b.String(), b.String()
		d, differ := differences[c.oddity]
		if differ {
			wantA, wantB = d.fast, d.grpc
		}
		// A reset may overtake the end of the stream.
		if !a.cancelled && !b.cancelled && (a.String() != wantA || b.String() != wantB) {
			t.Fatalf("call %d, %v:\nfast: %v\ngrpc: %v\nwant: %v\nand:  %v", i, c, a, b, wantA, wantB)
		}
		if differ && d.fast == served {
			sameDecisions = false
			continue // The other one does not answer at all.
		}
		if len(a.messages) != len(b.messages) {
			t.Fatalf("call %d (%s): fast %d messages, grpc %d", i, c.oddity, len(a.messages), len(b.messages))
		}
		for j := range a.messages {
			if !sameAnswer(a.messages[j], b.messages[j]) {
				t.Fatalf("call %d (%s), message %d:\nfast: %q\ngrpc: %q", i, c.oddity, j, a.messages[j], b.messages[j])
			}
		}
	}
	if sameDecisions && !slices.Equal(fast.decisions, reference.decisions) {
		t.Fatalf("decisions:\nfast: %s\ngrpc: %s", strings.Join(fast.decisions, "\n      "), strings.Join(reference.decisions, "\n      "))
	}
}

// sameAnswer compares two messages as protobuf; those of the health protocol differ in no byte.
func sameAnswer(a, b string) bool {
	var x, y extprocv3.ProcessingResponse
	if proto.Unmarshal([]byte(a), &x) != nil || proto.Unmarshal([]byte(b), &y) != nil {
		return a == b
	}
	return proto.Equal(&x, &y)
}

func (w *twins) property(t *rapid.T) {
	calls := make([]*call, rapid.IntRange(1, 4).Draw(t, "calls"))
	for i := range calls {
		calls[i] = drawCall(t)
	}
	w.compare(t, rapid.Bool().Draw(t, "results later"), calls)
}

// TestDifferential: what one transport answers to valid calls, the other one does too, except for differences.
func TestDifferential(t *testing.T) {
	w := newTwins(t)
	rapid.Check(t, w.property)
}

// FuzzDifferential is TestDifferential with the fuzzer's choices.
func FuzzDifferential(f *testing.F) {
	w := newTwins(f)
	random := rand.NewChaCha8([32]byte{})
	for range 8 {
		seed := make([]byte, 4096)
		_, _ = random.Read(seed) // It never fails.
		f.Add(seed)
	}
	f.Fuzz(rapid.MakeFuzz(w.property))
}

// TestOddities plays each oddity alone.
func TestOddities(t *testing.T) {
	w := newTwins(t)
	names := map[string]bool{}
	for _, odd := range oddities {
		c := odd()
		names[c.oddity] = true
		t.Run(c.oddity, func(t *testing.T) { w.compare(t, false, []*call{odd()}) })
	}
	for name := range differences {
		if !names[name] {
			t.Errorf("a difference that no test plays: %s", name)
		}
	}
}
