package tokenquota

import (
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func BenchmarkRequest(b *testing.B) {
	w := newWorld(b, `{}`, `{"tokens": 1000000000, "per": "1s", "estimate": 1}`)
	p := w.quotas[0].(*Policy)
	x, headers := new(policies.Exchange), policytest.Request{}.HeaderMap()
	b.ReportAllocs()
	for b.Loop() {
		w.Advance(time.Millisecond)
		x.Reset()
		if err := x.BeginRequest("route", headers, true); err != nil {
			b.Fatal(err)
		}
		x.ReplayIdentity(policies.Identity{Subject: "alice", Method: "apiKeyAuth"})
		if v, err := p.OnRequestHeaders(b.Context(), x.Request()); err != nil || !v.IsContinue() {
			b.Fatal(v, err)
		}
	}
}

func chunk(t testing.TB, contentType, first, text string) (run func(), size int64) {
	t.Helper()
	w := newWorld(t, `{}`, `{"tokens": 1000, "per": "1h", "estimate": 1}`)
	e, got := w.request(t, "alice")
	if !got.Continued() || e == nil {
		t.Fatal(got)
	}
	u, body := w.usage.(*Usage), []byte(first+strings.Repeat(text, 64<<10/len(text)))
	x, ctx := new(policies.Exchange), t.Context()
	request, response := policytest.Request{}.HeaderMap(), policytest.Response{Headers: []string{"content-type: " + contentType}}.HeaderMap()
	return func() {
		x.Reset()
		if err := x.BeginRequest("chat", request, true); err != nil {
			t.Fatal(err)
		}
		if err := x.BeginResponse(response, false); err != nil {
			t.Fatal(err)
		}
		for _, m := range got.Metadata {
			x.ReplayMetadata(m)
		}
		x.BeginBody(false)
		x.Offer(body, true, false, true)
		if v, err := u.OnResponseChunk(ctx, x.Response(), x.Chunk()); err != nil || !v.IsContinue() {
			t.Fatal(v, err)
		}
	}, int64(len(body))
}

var bodies = map[string][3]string{
	"events": {"text/event-stream", "", "data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" tokens\"}}],\"usage\":null}\n\n"},
	"json":   {"application/json", "[", `{"text":"` + strings.Repeat("lorem ipsum ", 80) + `"},`},
}

func TestAllocationsAreBounded(t *testing.T) {
	for name, c := range bodies {
		run, _ := chunk(t, c[0], c[1], c[2])
		if n := testing.AllocsPerRun(50, run); n > 3 {
			t.Errorf("%s: %v allocations for a chunk", name, n)
		}
	}
}

func BenchmarkChunk(b *testing.B) {
	for name, c := range bodies {
		b.Run(name, func(b *testing.B) {
			run, size := chunk(b, c[0], c[1], c[2])
			b.ReportAllocs()
			b.SetBytes(size)
			for b.Loop() {
				run()
			}
		})
	}
}
