package policytest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/fastpath/view"
	"github.com/policy-engine/policy-engine/policies"
)

// onRequest is a policy made of a function.
type onRequest func(context.Context, *policies.Request) (policies.Verdict, error)

func (f onRequest) OnRequestHeaders(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
	return f(ctx, r)
}

type onResponse func(*policies.Response) (policies.Verdict, error)

func (f onResponse) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	return f(r)
}

func TestRunReturnsWhatThePolicyDid(t *testing.T) {
	p := onRequest(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
		r.SetHeader("X-Name", string(r.Method()))
		r.RemoveHeader("x-secret")
		r.SetMetadata("k", "v")
		r.SetIdentity(policies.Identity{Subject: "alice"})
		return policies.Continue(), nil
	})
	got := Run(t, p, Request{Method: "PUT", Headers: []string{"x-secret: s", "x-name: a", "x-name: b"}})
	if !got.Continued() || got.String() != "continue" {
		t.Errorf("outcome %v", got)
	}
	if v, n := got.Header("x-name"); v != "PUT" || n != 1 {
		t.Errorf("x-name is %q, %d times", v, n)
	}
	if _, n := got.Header("x-secret"); n != 0 {
		t.Error("x-secret is still there")
	}
	if len(got.Changes) != 2 || got.Changes[0].Name != "x-name" || string(got.Changes[0].Value) != "PUT" {
		t.Errorf("changes %v", got.Changes)
	}
	if got.Identity == nil || got.Identity.Subject != "alice" || !slices.Equal(got.Metadata, []policies.Entry{{Key: "k", Value: "v"}}) {
		t.Errorf("identity %v, metadata %v", got.Identity, got.Metadata)
	}
}

func TestRunOutcomes(t *testing.T) {
	for name, c := range map[string]struct {
		policy onRequest
		want   string
	}{
		"nothing": {func(context.Context, *policies.Request) (policies.Verdict, error) { return policies.Continue(), nil }, "continue unchanged"},
		"deny": {func(context.Context, *policies.Request) (policies.Verdict, error) {
			return policies.Deny(403, "no"), nil
		}, "403 no"},
		"skip": {func(context.Context, *policies.Request) (policies.Verdict, error) {
			return policies.SkipRemaining("enough"), nil
		}, "skip_remaining enough"},
		"error": {func(context.Context, *policies.Request) (policies.Verdict, error) {
			return policies.Verdict{}, errors.New("broken")
		}, "error broken"},
		"panic": {func(context.Context, *policies.Request) (policies.Verdict, error) { panic("oh") }, "error panic: oh"},
		"illegal change": {func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			r.SetHeader("x", "a\nb")
			return policies.Continue(), nil
		}, "error set header \"x\": the value has a NUL, CR or LF"},
		"await": {func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			return policies.Await(func(context.Context) (policies.Verdict, error) {
				r.SetHeader("x", "1")
				return policies.Continue(), nil
			}), nil
		}, "continue"},
		"await twice": {func(context.Context, *policies.Request) (policies.Verdict, error) {
			again := func(context.Context) (policies.Verdict, error) { return policies.Verdict{}, nil }
			return policies.Await(func(context.Context) (policies.Verdict, error) { return policies.Await(again), nil }), nil
		}, "error await from a function given to Await"},
		"panic in await": {func(context.Context, *policies.Request) (policies.Verdict, error) {
			return policies.Await(func(context.Context) (policies.Verdict, error) { panic("oh") }), nil
		}, "error panic: oh"},
	} {
		t.Run(name, func(t *testing.T) {
			got := Run(t, c.policy, Request{})
			if got.String() != c.want {
				t.Errorf("outcome %q, want %q", got, c.want)
			}
			if wantPanic := strings.Contains(c.want, "panic"); wantPanic != (got.Panic != nil) {
				t.Errorf("Panic is %v", got.Panic)
			}
		})
	}
}

func TestUseAfterTheCallPanics(t *testing.T) {
	var kept *policies.Request
	p := onRequest(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
		kept = r
		return policies.Continue(), nil
	})
	Run(t, p, Request{})
	defer func() {
		if recover() != policies.ErrAfterCall {
			t.Error("the request could be used after the call")
		}
	}()
	kept.Path()
}

func TestKeptBytesAreOverwritten(t *testing.T) {
	var last string // What a policy that wants to save a copy might do.
	p := onRequest(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
		if last != "" {
			r.SetHeader("x-last", last)
		}
		last = view.String(r.Path())
		return policies.Continue(), nil
	})
	Run(t, p, Request{Path: "/a"})
	if v, _ := Run(t, p, Request{Path: "/b"}).Header("x-last"); v != "\xff\xff" {
		t.Errorf("the second run read %q", v)
	}
}

func TestAliasesOutliveNoCall(t *testing.T) {
	for name, p := range map[string]onRequest{
		"identity": func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			r.SetIdentity(policies.Identity{Subject: view.String(r.Path())})
			return policies.Continue(), nil
		},
		"metadata": func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			r.SetMetadata("path", view.String(r.Path()))
			return policies.Continue(), nil
		},
		"body": func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			return policies.Respond(200, "echo", "text/plain", r.Path()), nil
		},
		"answer's header": func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			return policies.Deny(403, "no").WithHeader("x-path", view.String(r.Path())), nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			problems := record(t, func(t testing.TB) { Run(t, p, Request{Path: "/a"}) })
			if !strings.Contains(problems, "copy them with string(b)") {
				t.Errorf("not noticed: %q", problems)
			}
		})
	}
}

func TestExchangeCarriesChangesOn(t *testing.T) {
	e := NewExchange(Request{Headers: []string{"x-a: 1", "x_forged: 1"}})
	first := onRequest(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
		r.SetHeader("x-a", "2")
		r.SetMetadata("m", "3")
		r.SetIdentity(policies.Identity{Subject: "alice"})
		return policies.Continue(), nil
	})
	e.OnRequestHeaders(t, first)
	failing := onRequest(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
		r.SetHeader("x-a", "4")
		r.RemoveSpellings("x-forged")
		return policies.Verdict{}, errors.New("broken")
	})
	e.OnRequestHeaders(t, failing)
	e.Respond(Response{Status: 503, Headers: []string{"server: up"}, Body: true})
	second := onResponse(func(r *policies.Response) (policies.Verdict, error) {
		a, _ := r.Request().Header("x-a")
		m, _ := r.Metadata("m")
		if _, n := r.Request().Header("x_forged"); n != 0 {
			t.Error("a removal of spellings does not outlive the failure of its policy")
		}
		r.SetHeader("x-seen", fmt.Sprint(string(a), m, r.Identity().Subject, r.Status(), r.EndOfStream()))
		return policies.Continue(), nil
	})
	got := e.OnResponseHeaders(t, second)
	if v, _ := got.Header("x-seen"); v != "23alice503 false" {
		t.Errorf("the response phase saw %q", v)
	}
	if v, _ := got.Header("server"); v != "up" {
		t.Errorf("server is %q", v)
	}
}

func TestMisuseIsReported(t *testing.T) {
	request := onRequest(func(context.Context, *policies.Request) (policies.Verdict, error) { return policies.Continue(), nil })
	response := onResponse(func(*policies.Response) (policies.Verdict, error) { return policies.Continue(), nil })
	for name, fn := range map[string]func(testing.TB){
		"has no method OnRequestHeaders":        func(t testing.TB) { Run(t, response, Request{}) },
		"has no method OnResponseHeaders":       func(t testing.TB) { RunResponse(t, request, Request{}, Response{}) },
		"OnResponseHeaders before Respond":      func(t testing.TB) { NewExchange(Request{}).OnResponseHeaders(t, response) },
		"field without a name":                  func(t testing.TB) { Run(t, request, Request{Headers: []string{""}}) },
		"set identity: the subject is empty":    func(t testing.TB) { Run(t, request, Request{Identity: &policies.Identity{}}) },
		"OnRequestHeaders after Respond: the r": func(t testing.TB) { e := NewExchange(Request{}); e.Respond(Response{}); e.OnRequestHeaders(t, request) },
	} {
		if got := record(t, fn); !strings.Contains(got, name) {
			t.Errorf("reported %q, want %q", got, name)
		}
	}
}

type closer struct{ closed *bool }

func (c closer) Close() error { *c.closed = true; return nil }

func TestEnv(t *testing.T) {
	var closed bool
	t.Run("in use", func(t *testing.T) {
		env := NewEnv(t, WithRoute("orders"), WithTime(Start.Add(time.Hour)), WithKeyStore("partners", NewKeyStore(map[string]policies.Key{"secret": {ID: "alice"}})))
		if env.Route() != "orders" || env.Instance() == env.At("elsewhere").Instance() {
			t.Error("route or instance")
		}
		env.Advance(time.Second)
		if got := env.Clock().Now(); !got.Equal(Start.Add(time.Hour + time.Second)) {
			t.Errorf("clock shows %v", got)
		}
		env.Counter("denied").Inc()
		env.At("elsewhere").Counter("denied").Inc()
		if env.Count("denied") != 2 || env.Count("other") != 0 {
			t.Error("counters")
		}
		env.Logger().Warn("hello", "n", 1)
		if lines := env.Lines(); len(lines) != 1 || !strings.Contains(lines[0], "msg=hello n=1") {
			t.Errorf("lines %q", lines)
		}
		opened := 0
		for range 2 {
			v, err := env.Shared("k", func() (io.Closer, error) { opened++; return closer{&closed}, nil })
			if err != nil || v.(closer).closed != &closed {
				t.Errorf("shared %v, %v", v, err)
			}
		}
		if opened != 1 || closed {
			t.Errorf("opened %d times, closed %v", opened, closed)
		}
		if _, err := env.KeyStore("x"); err == nil || !strings.Contains(err.Error(), "there are partners") {
			t.Errorf("unknown key store: %v", err)
		}
		if _, err := env.Issuer("x"); err == nil || !strings.Contains(err.Error(), "there are none") {
			t.Errorf("unknown issuer: %v", err)
		}
		if _, err := env.HTTPClient().Get("http://example.com"); err == nil {
			t.Error("there is a network")
		}
	})
	if !closed {
		t.Error("the shared value is open after the test")
	}
}

func TestIssuer(t *testing.T) {
	i := NewIssuer("https://issuer.example")
	if i.Keys() != nil {
		t.Error("keys before the first load")
	}
	i.SetKeys(policies.VerificationKey{ID: "a"})
	i.OnRefresh(func(context.Context) ([]policies.VerificationKey, error) {
		return []policies.VerificationKey{{ID: "b"}}, nil
	})
	set, err := i.Refresh(t.Context())
	if err != nil || set.Generation != 2 || set.Keys[0].ID != "b" || i.Keys() != set || i.Refreshes() != 1 {
		t.Errorf("refresh: %v, %v", set, err)
	}
	i.OnRefresh(func(context.Context) ([]policies.VerificationKey, error) { return nil, errors.New("down") })
	if _, err := i.Refresh(t.Context()); err == nil || i.Keys() != set {
		t.Error("a failed refresh changed the keys")
	}
}
