package redact

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies/policytest"
)

// What the headers tell is decided by them, before any of the message goes on.
func TestHeadersDecide(t *testing.T) {
	const all, some = `{"literals": ["secret"]}`, `{"literals": ["secret"], "content_types": ["text/*", "application/*"]}`
	for _, c := range []struct {
		params          string
		status          int
		header          string
		request, answer string
	}{
		{all, 200, "content-type: text/plain", "continue unchanged", "continue unchanged"},
		{all, 206, "x-a: b", "continue unchanged", "502 partial_content"},
		{all, 200, "content-range: bytes 2-9/10", "400 partial_content", "502 partial_content"},
		{all, 200, "content-type: text/html; charset=utf-16", "415 charset", "502 charset"},
		{some, 206, "content-type: image/png", "continue unchanged", "continue unchanged"},
		{some, 200, "content-type: image/png; charset=utf-16", "continue unchanged", "continue unchanged"},
		{all, 200, "content-type: application/grpc", "415 framed_body", "502 framed_body"},
		{all, 200, "content-type: Application/gRPC+proto", "415 framed_body", "502 framed_body"},
		{some, 200, "content-type: application/grpc-web-text; a=b", "415 framed_body", "502 framed_body"},
		{some, 200, "content-type: application/connect+json", "415 framed_body", "502 framed_body"},
		{all, 200, "content-type: application/x-protobuf;a=b", "415 framed_body", "502 framed_body"},
		{all, 200, "content-type: application/senml+cbor", "415 framed_body", "502 framed_body"},
		{`{"literals": ["secret"], "content_types": ["text/*"]}`, 200, "content-type: application/grpc", "continue unchanged", "continue unchanged"},
		{all, 200, "content-type: application/protobuf-schema", "continue unchanged", "continue unchanged"},
	} {
		env := policytest.NewEnv(t)
		p := policytest.Build(t, Definition(), env, c.params)
		e := policytest.NewExchange(policytest.Request{Headers: []string{c.header}, Body: true})
		notLooked := strings.HasPrefix(c.header, "content-type: image/") || strings.Contains(c.params, `["text/*"]`)
		if got := e.OnRequestHeaders(t, p); got.String() != c.request || got.SkipsBody != notLooked {
			t.Errorf("%s: request: %s, skips the body %v; want %s", c.header, got, got.SkipsBody, c.request)
		}
		// Also where the headers were not seen by the policy.
		if got := e.OnRequestChunk(t, p, "secret", true); got.Continued() != strings.HasPrefix(c.request, "continue") {
			t.Errorf("%s: chunk of the request: %s", c.header, got)
		}
		e.Respond(policytest.Response{Status: c.status, Headers: []string{c.header}, Body: true})
		if got := e.OnResponseHeaders(t, p); got.String() != c.answer || got.SkipsBody != notLooked {
			t.Errorf("%s: response: %s, skips the body %v; want %s", c.header, got, got.SkipsBody, c.answer)
		}
		if got := e.OnResponseChunk(t, p, "secret", true); got.Continued() != strings.HasPrefix(c.answer, "continue") {
			t.Errorf("%s: chunk of the response: %s", c.header, got)
		}
		// Without a body there is nothing to redact.
		e = policytest.NewExchange(policytest.Request{Method: "HEAD", Headers: []string{c.header}})
		if got := e.OnRequestHeaders(t, p); got.String() != "continue unchanged" || !got.SkipsBody {
			t.Errorf("%s: request without a body: %s", c.header, got)
		}
		e.Respond(policytest.Response{Status: c.status, Headers: []string{c.header}})
		if got := e.OnResponseHeaders(t, p); got.String() != "continue unchanged" || !got.SkipsBody {
			t.Errorf("%s: response without a body: %s", c.header, got)
		}
	}
}

func TestFramedTypesInParameters(t *testing.T) {
	for _, mediaType := range []string{"application/grpc", "application/GRPC+proto", "application/grpc-web", "application/x-protobuf", "application/cbor"} {
		params := fmt.Sprintf(`{"literals": ["a"], "content_types": ["text/*", %q]}`, mediaType)
		if _, err := Definition().Build(policytest.NewEnv(t), json.RawMessage(params)); err == nil || !strings.Contains(err.Error(), "content_types[1]: ") {
			t.Errorf("%s: %v", mediaType, err)
		}
	}
}

// A body on which the patterns take too many steps is refused, and costs no more than its budget.
func TestStepsAreBounded(t *testing.T) {
	for _, c := range []struct{ params, body string }{
		{`{"patterns": ["[a-z]{1,1000}@"]}`, strings.Repeat("a", 1<<20)},
		{`{"patterns": ["[a-z]{1,64}@"], "max_steps": 100000}`, strings.Repeat("a", 1<<16)},
		{`{"patterns": ["(a?){500}b"]}`, strings.Repeat("a", 1<<16)},
		{`{"patterns": ["\\w{1,900}!\\pL"]}`, "x" + strings.Repeat("\u00e9a", 1<<15) + strings.Repeat("a", 1<<16)},
		{`{"patterns": ["[a-z]{1,1000}@"]}`, strings.Repeat("-", 3<<20) + strings.Repeat("a", 1<<16)},
	} {
		env := policytest.NewEnv(t)
		p := policytest.Build(t, Definition(), env, c.params)
		if got := pass(t, p, c.body); got.String() != "413 pattern_budget" || env.Count("refused") != 1 {
			t.Errorf("%s: request: %s, %d refusals", c.params, got, env.Count("refused"))
		}
		e := policytest.NewExchange(policytest.Request{})
		e.Respond(policytest.Response{Body: true})
		if got := e.Stream(t, p, c.body); got.String() != "502 pattern_budget" {
			t.Errorf("%s: response: %s", c.params, got)
		}
	}
	for _, c := range streams { // However long an honest body is, it has steps enough.
		p := policytest.Build(t, Definition(), policytest.NewEnv(t), c.params)
		if got := pass(t, p, strings.Repeat(c.line, 4<<20/len(c.line))); !got.Continued() {
			t.Errorf("%s: %s", c.params, got)
		}
	}
	for params, want := range map[string]string{
		`{"literals": ["a"], "max_steps": 99999}`:      "max_steps: must be between 100000 and 1000000000, got 99999",
		`{"literals": ["a"], "max_steps": 0}`:          "max_steps: must be between 100000 and 1000000000, got 0",
		`{"literals": ["a"], "max_steps": 1000000001}`: "max_steps: must be between 100000 and 1000000000, got 1000000001",
		`{"patterns": ["((a?){1000}){3}b"]}`:           "",
	} {
		if _, err := Definition().Build(policytest.NewEnv(t), json.RawMessage(params)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", params, err)
		}
	}
}

// A call that was abandoned does no more work.
func TestAbandonedCallsStop(t *testing.T) {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"patterns": ["[a-z]{1,100}@"]}`).(*Policy)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := newScanner(p.program)
	if _, err := s.scan(ctx, []byte(strings.Repeat("a", 1<<16)), place{}, false); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
