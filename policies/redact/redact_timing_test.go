package redact

import (
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

// stream runs the policy on chunks of 64 KiB.
func stream(t testing.TB, params, line string) (run func(), size int64) {
	t.Helper()
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), params).(*Policy)
	chunk := []byte(strings.Repeat(line, 64<<10/len(line)))
	x, headers, ctx := new(policies.Exchange), policytest.Request{Body: true}.HeaderMap(), t.Context()
	return func() {
		x.Reset()
		if err := x.BeginRequest("stream", headers, false); err != nil {
			t.Fatal(err)
		}
		x.BeginBody(false)
		x.Offer(chunk, true, false, false)
		if v, err := p.OnRequestChunk(ctx, x.Request(), x.Chunk()); err != nil || !v.IsContinue() || x.Err() != nil {
			t.Fatal(v, err, x.Err())
		}
	}, int64(len(chunk))
}

const logLine = `{"time":"2026-01-02T03:04:05Z","level":"info","message":"order 4711 was shipped to Jürgen","amount":12.50}` + "\n"

var streams = map[string]struct{ params, line string }{
	"literal":      {`{"literals": ["internal.example.net"]}`, logLine},
	"literals":     {`{"literals": ["internal.example.net", "Bearer ", "password", "zone-7", "token"]}`, logLine},
	"key":          {`{"patterns": ["sk-[A-Za-z0-9]{20,64}"]}`, logLine},
	"card number":  {`{"patterns": ["[0-9]{4}(?:[ -]?[0-9]{4}){3}"]}`, logLine},
	"address":      {`{"patterns": ["[a-z0-9._]{1,32}@[a-z0-9.-]{1,64}"]}`, logLine},
	"one per line": {`{"literals": ["shipped"]}`, logLine},
}

func TestPassingDoesNotAllocate(t *testing.T) {
	for name, c := range streams {
		run, _ := stream(t, c.params, c.line)
		most := 0.0
		if name == "one per line" {
			most = 1 // what goes on in place of the chunk
		}
		if n := testing.AllocsPerRun(50, run); n > most {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkChunk(b *testing.B) {
	for name, c := range streams {
		b.Run(name, func(b *testing.B) {
			run, size := stream(b, c.params, c.line)
			b.ReportAllocs()
			b.SetBytes(size)
			for b.Loop() {
				run()
			}
		})
	}
}
