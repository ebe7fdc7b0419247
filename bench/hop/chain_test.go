package hop

import (
	"errors"
	"testing"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/worker"
)

// chains calls a worker in this process.
type chains struct {
	worker            *worker.Embedded
	request, response uint32
	headers           [][]byte
	next              int
	call              workerv1.Call
	context           []byte // of the last result
	err               error
}

func newChains(t testing.TB) *chains {
	t.Helper()
	w, err := worker.Embed(workerConfig(t, "/nowhere.sock"), policyRegistry(t), worker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	info, err := w.Protocol().GetWorkerConfig(t.Context(), &workerv1.GetWorkerConfigRequest{})
	if err != nil {
		t.Fatal(err)
	}
	table, pushed, err := route.Compile(generation, kernelConfig(t, "/nowhere.sock"), []route.Offer{{Worker: named("w"), Discovered: true, Policies: info.Policies}})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := w.Protocol().PushConfig(t.Context(), &workerv1.PushConfigRequest{KernelId: 1, Generation: generation, Chains: pushed["w"]})
	if err != nil || len(answer.Errors) > 0 {
		t.Fatal(answer, err)
	}
	r := table.Lookup("chain")
	return &chains{worker: w, headers: requests(t), request: r.Request.Headers[0].Chain, response: r.Response.Headers[0].Chain}
}

// named is an evaluator that only has a name.
type named string

func (n named) Name() string       { return string(n) }
func (named) Available() bool      { return true }
func (named) Evaluate(*route.Call) { panic("not for calls") }

// Result implements worker.Receiver.
func (c *chains) Result(r *workerv1.Result) {
	if r == nil || r.Outcome != workerv1.Result_OUTCOME_CONTINUE || len(r.Mutations) == 0 {
		c.err = errors.New("not allowed")
		return
	}
	c.context = append(c.context[:0], r.Context...)
}

func (c *chains) run(t testing.TB) {
	headers := c.headers[c.next]
	c.next = (c.next + 1) % len(c.headers)
	c.call = workerv1.Call{
		Generation: generation, Chain: c.request, Phase: workerv1.Phase_PHASE_REQUEST_HEADERS, Headers: headers, EndOfStream: true, WantContext: true,
	}
	c.worker.Execute(&c.call, c, func() {})
	if c.err != nil {
		t.Fatal(c.err)
	}
}

// responseHeaders are those of a small JSON answer, as a HeaderMap.
var responseHeaders = headerMap(":status", "200", "content-type", "application/json", "content-length", "512", "date", "Mon, 23 Nov 2026 12:00:00 GMT")

func headerMap(pairs ...string) []byte {
	var b []byte
	for i := 0; i < len(pairs); i += 2 {
		b = headermap.AppendField(b, pairs[i], pairs[i+1])
	}
	return b
}

func (c *chains) runResponse(t testing.TB) {
	c.call = workerv1.Call{
		Generation: generation, Chain: c.response, Phase: workerv1.Phase_PHASE_RESPONSE_HEADERS, Headers: responseHeaders, RequestHeaders: c.headers[0], Context: c.context,
	}
	c.worker.Execute(&c.call, c, func() {})
	if c.err != nil {
		t.Fatal(c.err)
	}
}

// BenchmarkChain is what a worker does with a call, without a socket: apiKeyAuth, jwtValidation (a token that is known) and rateLimit on a request of a browser, or
// securityHeaders on its response.
func BenchmarkChain(b *testing.B) {
	b.Run("request", func(b *testing.B) {
		c := newChains(b)
		for range c.headers {
			c.run(b)
		}
		b.ReportAllocs()
		for b.Loop() {
			c.run(b)
		}
	})
	b.Run("response", func(b *testing.B) {
		c := newChains(b)
		c.run(b)
		context := c.context
		b.ReportAllocs()
		for b.Loop() {
			c.context = context
			c.runResponse(b)
		}
	})
}
