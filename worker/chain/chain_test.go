package chain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/policies"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type requestFunc func(context.Context, *policies.Request) (policies.Verdict, error)

func (f requestFunc) OnRequestHeaders(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
	return f(ctx, r)
}

type responseFunc func(context.Context, *policies.Response) (policies.Verdict, error)

func (f responseFunc) OnResponseHeaders(ctx context.Context, r *policies.Response) (policies.Verdict, error) {
	return f(ctx, r)
}

type blockingFunc struct{ requestFunc }

func (blockingFunc) MayBlock() {}

// log is an observer that notes statuses and causes.
type log struct {
	mu       sync.Mutex
	statuses []string
	failures []string
	stack    string

	slow, moved int
}

func (l *log) Ran(s Status, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d < 0 {
		panic("negative duration")
	}
	l.statuses = append(l.statuses, s.String())
}

func (l *log) Failed(f Failure) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, fmt.Sprintf("%s: %v", f.Cause, f.Err))
	l.stack = string(f.Stack)
}

func (l *log) Slow(_ time.Duration, moved bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.slow++; moved {
		l.moved++
	}
}

// holds counts what may outlive a run.
type holds struct{ n atomic.Int64 }

func (h *holds) Retain()  { h.n.Add(1) }
func (h *holds) Release() { h.n.Add(-1) }

func (h *holds) wait(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); h.n.Load() != 0; {
		if time.Now().After(end) {
			t.Fatalf("%d runs still hold on", h.n.Load())
		}
		time.Sleep(time.Millisecond)
	}
}

var limits = Limits{MaxBodySize: 1 << 20, MaxStateSize: 64 << 10}

func testSettings() *Settings { return &Settings{Limits: limits, Now: time.Now, Poison: true} }

func headerMap(kv ...string) []byte {
	var b []byte
	for i := 0; i < len(kv); i += 2 {
		b = headermap.AppendField(b, kv[i], kv[i+1])
	}
	return b
}

func requestCall() *workerv1.Call {
	return &workerv1.Call{
		Id: 7, Phase: workerv1.Phase_PHASE_REQUEST_HEADERS, WantContext: true,
		Headers: headerMap(":method", "GET", ":path", "/orders?page=2", "x-request-id", "r-1", "x-a", "client"),
	}
}

func mustCompile(t testing.TB, response bool, list ...Policy) *Chain {
	t.Helper()
	for i := range list {
		if list[i].Observer == nil {
			list[i].Observer = new(log)
		}
		if list[i].Name == "" {
			list[i].Name = fmt.Sprintf("p%d", i)
		}
	}
	c, err := Compile("orders", response, list)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// execute runs a chain to its end, as the worker does.
func execute(t testing.TB, r *Run, c *Chain, call *workerv1.Call) *workerv1.Result {
	t.Helper()
	h := new(holds)
	if err := r.Load(c, call, r.settings.Now(), r.settings.Now(), h); err != nil {
		t.Fatalf("load: %v", err)
	}
	if !r.Inline(context.Background()) {
		r.Wait(context.Background())
	}
	return r.Result()
}

// show renders a result.
func show(r *workerv1.Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", strings.TrimPrefix(r.Outcome.String(), "OUTCOME_"))
	if r.Failure != 0 {
		fmt.Fprintf(&b, " %s", strings.TrimPrefix(r.Failure.String(), "FAILURE_"))
	}
	if r.Policy != "" || r.Reason != "" {
		fmt.Fprintf(&b, " %s/%s", r.Policy, r.Reason)
	}
	if i := r.Immediate; i != nil {
		fmt.Fprintf(&b, " %d", i.Status)
		if i.GrpcStatus != nil {
			fmt.Fprintf(&b, " grpc=%d", *i.GrpcStatus)
		}
		for _, h := range i.Headers {
			fmt.Fprintf(&b, " %s=%s", h.Name, h.Value)
		}
		fmt.Fprintf(&b, " %s", i.Body)
	}
	for _, m := range r.Mutations {
		fmt.Fprintf(&b, " %s(%s=%s)", strings.TrimPrefix(m.Kind.String(), "KIND_"), m.Name, m.Value)
	}
	if r.Subject != "" {
		fmt.Fprintf(&b, " subject=%s", r.Subject)
	}
	return b.String()
}

func set(name, value string) requestFunc {
	return func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
		r.SetHeader(name, value)
		return policies.Continue(), nil
	}
}

func give(v policies.Verdict) requestFunc {
	return func(context.Context, *policies.Request) (policies.Verdict, error) { return v, nil }
}

// mess changes all that can be changed, and then does what f does.
func mess(f requestFunc) requestFunc {
	return func(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
		r.SetHeader("x-a", "mess")
		r.RemoveHeader("x-request-id")
		r.SetPath("/mess")
		r.SetMetadata("first", "mess")
		r.SetMetadata("second", "mess")
		r.SetMetadata("second", "more mess")
		r.SetIdentity(policies.Identity{Subject: "mess"})
		return f(ctx, r)
	}
}

// look reports what a policy sees.
func look(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	a, _ := r.Header("x-a")
	who := "nobody"
	if id := r.Identity(); id != nil {
		who = id.Subject
	}
	first, _ := r.Metadata("first")
	second, _ := r.Metadata("second")
	return policies.Respond(200, "looked", "", fmt.Appendf(nil, "a=%s path=%s id=%s who=%s first=%s second=%s", a, r.Path(), r.ID(), who, first, second)), nil
}

type badError struct{ p *int }

func (e *badError) Error() string { return fmt.Sprint(*e.p) }
func (e *badError) Unwrap() error { panic(*e.p) }

func TestChain(t *testing.T) {
	const (
		deny = workerv1.OnFailure_ON_FAILURE_DENY
		cont = workerv1.OnFailure_ON_FAILURE_CONTINUE
		skip = workerv1.OnFailure_ON_FAILURE_SKIP_REMAINING
	)
	before := Policy{Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
		r.SetHeader("x-a", "before")
		r.SetMetadata("first", "before")
		r.SetIdentity(policies.Identity{Subject: "alice", Method: "p0"})
		return policies.Continue(), nil
	})}
	const (
		kept = " SET_HEADER(x-a=before) subject=alice"
		seen = "IMMEDIATE p2/looked 200 a=before path=/orders?page=2 id=r-1 who=alice first=before second= subject=alice"
	)
	fails := errors.New("no")
	failing := func(context.Context, *policies.Request) (policies.Verdict, error) { return policies.Verdict{}, fails }
	panicking := func(context.Context, *policies.Request) (policies.Verdict, error) { panic("oh") }
	awaiting := func(f func(context.Context) (policies.Verdict, error)) requestFunc {
		return give(policies.Await(f))
	}
	tests := []struct {
		name string
		list []Policy
		want string
		// how the second policy ended
		status, failure string
	}{
		{"empty", nil, "CONTINUE", "", ""},
		{"each sees what was before", []Policy{before, {Instance: give(policies.Continue())}, {Instance: requestFunc(look)}}, seen, "continue", ""},
		{"other phase", []Policy{before, {Instance: responseFunc(func(context.Context, *policies.Response) (policies.Verdict, error) { panic("never") })}}, "CONTINUE" + kept, "", ""},
		{
			"deny",
			[]Policy{before, {Instance: give(policies.Deny(401, "no_key").WithHeader("WWW-Authenticate", "x"))}, {Instance: requestFunc(panicking)}},
			`IMMEDIATE p1/no_key 401 www-authenticate=x content-type=application/json {"error":"Unauthorized","code":"NO_KEY"} subject=alice`, "deny", "",
		},
		{
			"deny with a body",
			[]Policy{before, {Instance: give(policies.Deny(403, "no").WithBody("text/plain", []byte("go")))}},
			"IMMEDIATE p1/no 403 content-type=text/plain go subject=alice", "deny", "",
		},
		{"respond", []Policy{before, {Instance: give(policies.Respond(204, "gone", "", nil))}}, "IMMEDIATE p1/gone 204  subject=alice", "respond", ""},
		{"skip", []Policy{before, {Instance: give(policies.SkipRemaining("fine"))}, {Instance: requestFunc(panicking)}}, "SKIP_REMAINING p1/fine" + kept, "skip_remaining", ""},
		{"error, deny", []Policy{before, {Instance: mess(failing), OnFailure: deny}, {Instance: requestFunc(look)}}, "FAILED POLICY_ERROR p1/error subject=alice", "error", "error: no"},
		{"error, continue", []Policy{before, {Instance: mess(failing), OnFailure: cont}, {Instance: requestFunc(look)}}, seen, "error", "error: no"},
		{"error, skip", []Policy{before, {Instance: mess(failing), OnFailure: skip}, {Instance: requestFunc(look)}}, "SKIP_REMAINING POLICY_ERROR p1/error" + kept, "error", "error: no"},
		{"panic, deny", []Policy{before, {Instance: mess(panicking), OnFailure: deny}}, "FAILED POLICY_PANIC p1/panic subject=alice", "panic", "panic: panic: oh"},
		{"panic, continue", []Policy{before, {Instance: mess(panicking), OnFailure: cont}, {Instance: requestFunc(look)}}, seen, "panic", "panic: panic: oh"},
		{"panic of a blocking policy", []Policy{before, {Instance: blockingFunc{mess(panicking)}, OnFailure: cont}, {Instance: requestFunc(look)}}, seen, "panic", "panic: panic: oh"},
		{"error of a blocking policy", []Policy{before, {Instance: blockingFunc{mess(failing)}, OnFailure: cont, Timeout: time.Minute}, {Instance: requestFunc(look)}}, seen, "error", "error: no"},
		{"blocking", []Policy{before, {Instance: blockingFunc{give(policies.Deny(403, "no"))}, Timeout: time.Minute}}, `IMMEDIATE p1/no 403 content-type=application/json {"error":"Forbidden","code":"NO"} subject=alice`, "deny", ""},
		{"nil error that is not nil", []Policy{before, {Instance: requestFunc(func(context.Context, *policies.Request) (policies.Verdict, error) {
			return policies.Verdict{}, (*badError)(nil)
		})}}, "FAILED POLICY_ERROR p1/error subject=alice", "error", "error: <nil>"},
		{"deny status 200", []Policy{before, {Instance: give(policies.Deny(200, "x"))}}, "FAILED POLICY_ERROR p1/illegal_verdict subject=alice", "error", "illegal_verdict: deny with status 200: must be between 400 and 599"},
		{"deny status 600", []Policy{before, {Instance: give(policies.Deny(600, "x"))}}, "FAILED POLICY_ERROR p1/illegal_verdict subject=alice", "error", "illegal_verdict: answer with status 600: must be between 200 and 599"},
		{"gRPC status 17", []Policy{before, {Instance: give(policies.Respond(200, "x", "", nil).WithGRPCStatus(17))}}, "FAILED POLICY_ERROR p1/illegal_verdict subject=alice", "error", "illegal_verdict: answer with status 200 and gRPC status 17: gRPC status must be between 0 and 16, and not 0 with an HTTP status of 400 or above"},
		{"deny with gRPC status 0", []Policy{before, {Instance: give(policies.Deny(403, "x").WithGRPCStatus(0))}}, "FAILED POLICY_ERROR p1/illegal_verdict subject=alice", "error", "illegal_verdict: answer with status 403 and gRPC status 0: gRPC status must be between 0 and 16, and not 0 with an HTTP status of 400 or above"},
		{"respond with a gRPC status", []Policy{before, {Instance: give(policies.Respond(204, "gone", "", nil).WithGRPCStatus(5))}}, "IMMEDIATE p1/gone 204 grpc=5  subject=alice", "respond", ""},
		{"respond status 101", []Policy{before, {Instance: give(policies.Respond(101, "x", "", nil))}}, "FAILED POLICY_ERROR p1/illegal_verdict subject=alice", "error", "illegal_verdict: answer with status 101: must be between 200 and 599"},
		{"reason", []Policy{before, {Instance: give(policies.Deny(403, "No\xff"))}}, "FAILED POLICY_ERROR p1/illegal_verdict subject=alice", "error", `illegal_verdict: reason "No\xff": not a reason; expected up to 64 lower-case letters, digits and '_'`},
		{"long reason", []Policy{before, {Instance: give(policies.SkipRemaining(strings.Repeat("x", 65)))}}, "FAILED POLICY_ERROR p1/illegal_verdict subject=alice", "error", "illegal_verdict: reason \"" + strings.Repeat("x", 65) + "\": not a reason; expected up to 64 lower-case letters, digits and '_'"},
		{"header of an answer", []Policy{before, {Instance: give(policies.Deny(403, "x").WithHeader("x", "a\r\nb"))}}, "FAILED POLICY_ERROR p1/illegal_verdict subject=alice", "error", `illegal_verdict: set header "x": the value has a NUL, CR or LF`},
		{"illegal change beats deny", []Policy{before, {Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			r.SetHeader("x", "a\nb")
			return policies.Deny(403, "x"), nil
		})}}, "FAILED POLICY_ERROR p1/illegal_change subject=alice", "error", `illegal_change: set header "x": the value has a NUL, CR or LF`},
		{"a refusal with an illegal header is none that passes", []Policy{before, {OnFailure: cont, Instance: give(policies.Deny(403, "x").WithHeader("x", "a\r\nb"))}, {Instance: requestFunc(look)}}, "FAILED POLICY_ERROR p1/illegal_verdict subject=alice", "error", `illegal_verdict: set header "x": the value has a NUL, CR or LF`},
		{"a refusal with an illegal change is none that passes", []Policy{before, {OnFailure: skip, Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			r.SetHeader("x", "a\nb")
			return policies.Deny(403, "x"), nil
		})}}, "FAILED POLICY_ERROR p1/illegal_change subject=alice", "error", `illegal_change: set header "x": the value has a NUL, CR or LF`},
		{"illegal change, continue", []Policy{before, {OnFailure: cont, Instance: mess(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			r.RemoveHeader(":path")
			return policies.Continue(), nil
		})}, {Instance: requestFunc(look)}}, seen, "error", `illegal_change: remove header ":path": the name has a character that is not allowed in a header name (RFC 9110 section 5.6.2)`},
		{"metadata that is not text", []Policy{before, {Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			r.SetMetadata("k", "\xff")
			return policies.Continue(), nil
		})}}, "FAILED POLICY_ERROR p1/illegal_change subject=alice", "error", `illegal_change: set metadata "k": key or value is not valid UTF-8`},
		{"identity that is not text", []Policy{before, {Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			r.SetIdentity(policies.Identity{Subject: "x", Claims: []policies.Entry{{Key: "a", Value: "\xff"}}})
			return policies.Continue(), nil
		})}}, "FAILED POLICY_ERROR p1/illegal_change subject=alice", "error", "illegal_change: set identity: a text is not valid UTF-8"},
		{"identity without a subject", []Policy{before, {Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			r.SetIdentity(policies.Identity{})
			return policies.Continue(), nil
		})}}, "FAILED POLICY_ERROR p1/illegal_change subject=alice", "error", "illegal_change: set identity: the subject is empty"},
		{"await", []Policy{before, {Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			r.SetHeader("x-b", "method")
			return policies.Await(func(context.Context) (policies.Verdict, error) {
				r.SetHeader("x-c", "await")
				return policies.Continue(), nil
			}), nil
		})}}, "CONTINUE SET_HEADER(x-a=before) SET_HEADER(x-b=method) SET_HEADER(x-c=await) subject=alice", "continue", ""},
		{"await that denies", []Policy{before, {Instance: awaiting(func(context.Context) (policies.Verdict, error) { return policies.Deny(403, "x"), nil })}}, `IMMEDIATE p1/x 403 content-type=application/json {"error":"Forbidden","code":"X"} subject=alice`, "deny", ""},
		{"await that panics", []Policy{before, {OnFailure: cont, Instance: mess(awaiting(func(context.Context) (policies.Verdict, error) { panic("oh") }))}, {Instance: requestFunc(look)}}, seen, "panic", "panic: panic: oh"},
		{"await that fails", []Policy{before, {OnFailure: cont, Instance: mess(awaiting(func(context.Context) (policies.Verdict, error) { return policies.Verdict{}, fails }))}, {Instance: requestFunc(look)}}, seen, "error", "error: no"},
		{"await from await", []Policy{before, {Instance: awaiting(func(context.Context) (policies.Verdict, error) {
			return policies.Await(func(context.Context) (policies.Verdict, error) { panic("never") }), nil
		})}}, "FAILED POLICY_ERROR p1/illegal_verdict subject=alice", "error", "illegal_verdict: await from a function given to Await"},
		{"await with an error", []Policy{before, {Instance: requestFunc(func(context.Context, *policies.Request) (policies.Verdict, error) {
			return policies.Await(func(context.Context) (policies.Verdict, error) { panic("never") }), fails
		})}}, "FAILED POLICY_ERROR p1/error subject=alice", "error", "error: no"},
		{"await nothing", []Policy{before, {Instance: awaiting(nil)}}, "FAILED POLICY_ERROR p1/illegal_verdict subject=alice", "error", "illegal_verdict: verdict without a meaning"},
		{"blocking that awaits", []Policy{before, {Instance: blockingFunc{awaiting(func(context.Context) (policies.Verdict, error) { return policies.SkipRemaining("x"), nil })}}}, "SKIP_REMAINING p1/x" + kept, "skip_remaining", ""},
	}
	run := NewRun(testSettings()) // One run for all: nothing may be left from one to the next.
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			defer run.Reset()
			l := new(log)
			list := slices.Clone(tt.list)
			if len(list) > 1 {
				list[1].Observer = l
			}
			result := execute(t, run, mustCompile(t, false, list...), requestCall())
			if got := show(result); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if result.Id != 7 || result.Phase != workerv1.Phase_PHASE_REQUEST_HEADERS {
				t.Errorf("id %d, phase %v", result.Id, result.Phase)
			}
			if got := strings.Join(l.statuses, " "); got != tt.status {
				t.Errorf("status %q, want %q", got, tt.status)
			}
			if got := strings.Join(l.failures, " "); got != tt.failure {
				t.Errorf("failure %q, want %q", got, tt.failure)
			}
			if tt.status == "panic" && !strings.Contains(l.stack, "chain_test.go") {
				t.Errorf("stack %q does not show the policy", l.stack)
			}
		})
	}
	if run.Abandoned() {
		t.Error("the run was abandoned")
	}
}

func TestCompileRefuses(t *testing.T) {
	good := Policy{Name: "p", Instance: give(policies.Continue()), Observer: new(log)}
	for name, spoil := range map[string]func(*Policy){
		"no observer":        func(p *Policy) { p.Observer = nil },
		"unknown on_failure": func(p *Policy) { p.OnFailure = 9 },
		"negative timeout":   func(p *Policy) { p.Timeout = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			p := good
			spoil(&p)
			if _, err := Compile("r", false, []Policy{p}); err == nil {
				t.Error("no error")
			}
		})
	}
	if _, err := Compile("r", false, []Policy{good}); err != nil {
		t.Error(err)
	}
}

// TestOwnedHeadersOfFailedPolicies: what only a policy may say is not said by the client when the request goes on without the policy, even if it failed before it did anything.
func TestOwnedHeadersOfFailedPolicies(t *testing.T) {
	failing := requestFunc(func(context.Context, *policies.Request) (policies.Verdict, error) { panic("at once") })
	tests := []struct {
		name      string
		onFailure workerv1.OnFailure
		late      bool
		want      string
	}{
		{"continue", workerv1.OnFailure_ON_FAILURE_CONTINUE, false, "CONTINUE REMOVE_HEADER(x_user-id=) REMOVE_HEADER(x-user-id=)"},
		{"skip", workerv1.OnFailure_ON_FAILURE_SKIP_REMAINING, false, "SKIP_REMAINING POLICY_PANIC p0/panic REMOVE_HEADER(x_user-id=) REMOVE_HEADER(x-user-id=) REMOVE_HEADER(x-tenant=)"},
		{"deny", workerv1.OnFailure_ON_FAILURE_DENY, false, "FAILED POLICY_PANIC p0/panic"},
		{"no time left to begin", workerv1.OnFailure_ON_FAILURE_CONTINUE, true, "CONTINUE REMOVE_HEADER(x_user-id=) REMOVE_HEADER(x-user-id=)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cont := workerv1.OnFailure_ON_FAILURE_CONTINUE
			c := mustCompile(t, false,
				Policy{Instance: failing, OnFailure: tt.onFailure, Owned: []string{"x-user-id"}},
				Policy{Instance: give(policies.Continue()), OnFailure: cont, Owned: []string{"x-tenant"}})
			call := requestCall()
			call.Headers = headerMap(":method", "GET", ":path", "/", "x_user-id", "mallory", "x-user-id", "mallory", "x-tenant", "mallory", "x-other", "1")
			want := tt.want
			if tt.late {
				call.TimeoutUs = 1
				want += " REMOVE_HEADER(x-tenant=)" // The second policy has no time left either.
			}
			r := NewRun(testSettings())
			if got := show(execute(t, r, c, call)); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
