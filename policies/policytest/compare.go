package policytest

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
)

// run runs both flows on the exchange and compares what comes out.
func (x *exchange) run(t testing.TB, request, response []any) {
	t.Helper()
	if x.response == nil && len(request) == 0 || x.response != nil && len(response) == 0 {
		t.Fatalf("line %d: no policy stands in the flow that is to run", x.line)
	}
	e, body := NewExchange(x.request), x.requestBody
	p := e.flow(t, request, body)
	if r := p.result; x.response != nil && (r == nil || r.Continued() || p.skip == r) {
		e.Respond(*x.response)
		body = x.responseBody
		p = e.flow(t, response, body)
	}
	if p.result == nil {
		t.Fatalf("line %d: %s: no policy takes part; for one of bodies, there has to be @body, @chunk or @no-body", x.line, x.request)
	}
	x.compare(t, p.result)
	x.compareBody(t, p, body)
}

// compareBody compares what of the body goes on.
func (x *exchange) compareBody(t testing.TB, p *passage, came *bodyLines) {
	t.Helper()
	got := p.sent
	if x.sent != nil && x.sent.whole {
		got = []string{strings.Join(got, "")}
	}
	if x.sent != nil && !slices.Equal(got, x.sent.chunks) {
		t.Errorf("line %d: %s: of the body, %q goes on, want %q", x.line, x.request, got, x.sent.chunks)
	}
	if x.outcome == "continue" && x.detail != "" && came != nil && strings.Join(p.sent, "") != strings.Join(came.chunks, "") {
		t.Errorf("line %d: %s: of the body, %q goes on, which is not unchanged", x.line, x.request, p.sent)
	}
}

func (x *exchange) compare(t testing.TB, r *Result) {
	t.Helper()
	if !x.sameOutcome(r) {
		t.Errorf("line %d: %s: the outcome is %q, want %q", x.line, x.request, r, strings.TrimSpace(x.outcome+" "+x.detail))
		return
	}
	headers := r.Headers
	if r.Err == nil && r.Verdict.IsImmediate() {
		headers = r.Verdict.Headers()
	}
	x.compareHeaders(t, headers)
	if x.body != "" && !sameJSON(t, x, string(r.Verdict.Body())) {
		t.Errorf("line %d: %s: the body is %s, want %s", x.line, x.request, r.Verdict.Body(), x.body)
	}
	if x.identity != nil {
		var got []string
		if r.Identity != nil {
			got = append([]string{r.Identity.Subject}, r.Identity.Scopes...)
		}
		if !slices.Equal(got, x.identity.fields) {
			t.Errorf("line %d: %s: the identity is %q, want %q", x.line, x.request, got, x.identity.fields)
		}
	}
}

func (x *exchange) sameOutcome(r *Result) bool {
	switch x.outcome {
	case "continue":
		return r.Continued() && (x.detail == "" || len(r.Changes) == 0)
	case "error":
		return r.Err != nil && strings.Contains(r.Err.Error(), x.detail)
	}
	if r.Err != nil || x.detail != "" && x.detail != r.Verdict.Reason() {
		return false
	}
	if x.outcome == "skip_remaining" {
		return r.Verdict.IsSkipRemaining()
	}
	return r.Verdict.IsImmediate() && strconv.Itoa(r.Verdict.Status()) == x.outcome
}

func (x *exchange) compareHeaders(t testing.TB, headers []policies.Header) {
	t.Helper()
	want, got := map[string][]string{}, map[string][]string{}
	for _, h := range x.headers {
		want[h.Name] = append(want[h.Name], h.Value)
	}
	for _, h := range headers {
		name := strings.ToLower(h.Name)
		got[name] = append(got[name], h.Value)
	}
	for name, values := range want {
		if !slices.EqualFunc(got[name], values, matches) {
			t.Errorf("line %d: %s: the values of header %q are %q, want %q", x.line, x.request, name, got[name], values)
		}
	}
	for _, name := range x.absent {
		if values := got[strings.ToLower(name)]; len(values) > 0 {
			t.Errorf("line %d: %s: there is a header %q with %q, want none", x.line, x.request, name, values)
		}
	}
}

// matches compares a value with one that may end with "…".
func matches(got, want string) bool {
	if prefix, ok := strings.CutSuffix(want, "…"); ok {
		return strings.HasPrefix(got, prefix)
	}
	return got == want
}

func sameJSON(t testing.TB, x *exchange, got string) bool {
	t.Helper()
	var w, g any
	if err := json.Unmarshal([]byte(x.body), &w); err != nil {
		t.Fatalf("line %d: expected body: %v", x.line, err)
	}
	return json.Unmarshal([]byte(got), &g) == nil && reflect.DeepEqual(w, g)
}
