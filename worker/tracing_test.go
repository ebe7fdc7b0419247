package worker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	oteltrace "go.opentelemetry.io/otel/trace"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/telemetry/trace"
	"github.com/policy-engine/policy-engine/test/collector"
	"github.com/policy-engine/policy-engine/worker/chain"
)

// policyFunc is a policy of request headers.
type policyFunc func(context.Context, *policies.Request) (policies.Verdict, error)

// OnRequestHeaders implements policies.RequestHeaders.
func (f policyFunc) OnRequestHeaders(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
	return f(ctx, r)
}

type ignored struct{}

func (ignored) Ran(chain.Status, time.Duration) {}
func (ignored) Failed(chain.Failure)            {}
func (ignored) Slow(time.Duration, bool)        {}

type noHolder struct{}

func (noHolder) Retain()  {}
func (noHolder) Release() {}

// traced runs policies as a chain on a call with this trace, and returns the spans that arrive.
func traced(t *testing.T, wire []byte, now func() time.Time, list ...policyFunc) []collector.Span {
	t.Helper()
	c, err := collector.Start("127.0.0.1:0", true)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tracer, err := trace.New(trace.Options{Service: "policy-worker", Endpoint: c.Address(), Insecure: true, Timeout: 5 * time.Second, QueueSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var in []chain.Policy
	for i, f := range list {
		in = append(in, chain.Policy{Name: fmt.Sprint("p", i), Instance: f, Observer: ignored{}})
	}
	compiled, err := chain.Compile("r", false, in)
	if err != nil {
		t.Fatal(err)
	}
	run := chain.NewRun(&chain.Settings{Limits: chain.Limits{MaxBodySize: 1 << 20, MaxStateSize: 1 << 16}, Now: now, Tracer: spans{tracer}})
	call := &workerv1.Call{Phase: workerv1.Phase_PHASE_REQUEST_HEADERS, Trace: wire, TimeoutUs: 100_000}
	if err := run.Load(compiled, call, now(), now(), noHolder{}); err != nil {
		t.Fatal(err)
	}
	if !run.Inline(context.Background()) {
		run.Wait(context.Background())
	}
	run.Reset()
	if err := tracer.Close(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	return c.Spans()
}

var wire = []byte("trace-id-16bytesspan-id8vendor=x")

// TestPolicySpans: a span for each policy that ran, with its verdict; a policy can go on with it in its context, also after Await.
func TestPolicySpans(t *testing.T) {
	var seen []string
	see := func(ctx context.Context) {
		seen = append(seen, oteltrace.SpanContextFromContext(ctx).SpanID().String())
	}
	got := traced(t, wire, time.Now,
		func(ctx context.Context, _ *policies.Request) (policies.Verdict, error) {
			see(ctx)
			return policies.Continue(), nil
		},
		func(ctx context.Context, _ *policies.Request) (policies.Verdict, error) {
			see(ctx)
			return policies.Await(func(ctx context.Context) (policies.Verdict, error) {
				see(ctx)
				return policies.Continue(), nil
			}), nil
		},
		func(ctx context.Context, _ *policies.Request) (policies.Verdict, error) {
			see(ctx)
			return policies.Deny(403, "no_entry"), nil
		},
		func(context.Context, *policies.Request) (policies.Verdict, error) {
			t.Error("it ran")
			return policies.Continue(), nil
		},
	)
	var ids []string
	for i, s := range got {
		ids = append(ids, s.ID)
		want := [...]string{"continue", "continue", "deny"}[i]
		if s.Name != fmt.Sprint("policy p", i) || s.Trace != fmt.Sprintf("%x", wire[:16]) || s.Parent != fmt.Sprintf("%x", wire[16:24]) || s.State != "vendor=x" || s.Failed ||
			s.Attributes["policy_engine.verdict"] != want || s.Attributes["policy_engine.phase"] != "request_headers" || s.Attributes["policy_engine.route"] != "r" {
			t.Errorf("%+v", s)
		}
	}
	if len(got) != 3 || got[2].Attributes["policy_engine.reason"] != "no_entry" {
		t.Fatalf("%+v", got)
	}
	if want := []string{ids[0], ids[1], ids[1], ids[2]}; !slices.Equal(seen, want) {
		t.Errorf("the policies saw %q, want %q", seen, want)
	}
}

func TestFailedPolicySpans(t *testing.T) {
	for want, f := range map[string]policyFunc{
		"error error": func(context.Context, *policies.Request) (policies.Verdict, error) {
			return policies.Verdict{}, errors.New(canary)
		},
		"panic panic": func(context.Context, *policies.Request) (policies.Verdict, error) { panic(canary) },
		"timeout timeout": func(context.Context, *policies.Request) (policies.Verdict, error) {
			return policies.Await(func(ctx context.Context) (policies.Verdict, error) {
				<-ctx.Done()
				return policies.Continue(), nil
			}), nil
		},
	} {
		got := traced(t, wire, time.Now, f)
		if len(got) != 1 || !got[0].Failed || got[0].Attributes["policy_engine.verdict"]+" "+got[0].Attributes["policy_engine.reason"] != want {
			t.Errorf("%s: %+v", want, got)
		}
		if strings.Contains(fmt.Sprint(got), canary) {
			t.Errorf("%s: the text of an error, which may hold a secret, is in %+v", want, got)
		}
	}
}

// canary stands for a secret.
const canary = "canary-7431"

// TestNoSpans: calls that are not traced, or whose trace can't be read, have none.
func TestNoSpans(t *testing.T) {
	for _, wire := range [][]byte{nil, []byte("short"), make([]byte, 24)} {
		got := traced(t, wire, time.Now, func(ctx context.Context, _ *policies.Request) (policies.Verdict, error) {
			if oteltrace.SpanContextFromContext(ctx).IsValid() {
				t.Error("a policy has a span")
			}
			return policies.Continue(), nil
		})
		if len(got) != 0 {
			t.Errorf("%q: %+v", wire, got)
		}
	}
}

// TestClientContinuesTheTrace: what a policy asks others is part of the trace, if there is one.
func TestClientContinuesTheTrace(t *testing.T) {
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = append(got, r.Header.Get("traceparent")) }))
	defer server.Close()
	client := newHTTPClient()
	defer client.CloseIdleConnections()
	parent, err := trace.FromWire(wire)
	if err != nil {
		t.Fatal(err)
	}
	for _, ctx := range []context.Context{t.Context(), oteltrace.ContextWithRemoteSpanContext(t.Context(), parent)} {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if r.Header.Get("traceparent") != "" {
			t.Error("the caller's request was changed")
		}
	}
	if want := fmt.Sprintf("00-%x-%x-01", wire[:16], wire[16:24]); len(got) != 2 || got[0] != "" || got[1] != want {
		t.Errorf("got %q, want none and %s", got, want)
	}
}
