package policytest

import (
	"slices"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
)

// bodyLines are the lines of an example that give a body: as a whole, in chunks, or that there is none.
type bodyLines struct {
	chunks []string
	whole  bool
	none   bool
}

// passage is how a flow ended.
type passage struct {
	// result is the last one, with the changes of all; nil if no policy took part.
	result *Result
	// sent are the chunks of the body as they went on; a whole body is one.
	sent []string
	skip *Result // that of a policy after which the flow's later ones are left out
	list []policies.Change
}

// took takes over a result, and reports whether the flow goes on.
func (p *passage) took(r *Result) bool {
	p.list = append(p.list, r.Changes...)
	r.Changes = p.list
	p.result = r
	if r.Err == nil && r.Verdict.IsSkipRemaining() {
		p.skip = r
	}
	return r.Continued()
}

// flow runs a chain on the headers of the request, or of the response after Respond, and then on its body if there are lines for it.
func (e *Exchange) flow(t testing.TB, chain []any, body *bodyLines) *passage {
	t.Helper()
	p := &passage{}
	for i, policy := range chain {
		r := e.onHeaders(t, policy)
		if r != nil && !p.took(r) {
			chain = chain[:i+1]
			break
		}
	}
	if body != nil && (p.result == nil || p.result.Continued() || p.skip != nil) {
		e.bodyFlow(t, p, chain, body)
	}
	if p.result != nil && p.skip != nil && p.result.Continued() {
		p.skip.Changes = p.list
		p.result = p.skip
	}
	return p
}

// onHeaders is nil for a policy that does not take part in the headers.
func (e *Exchange) onHeaders(t testing.TB, policy any) *Result {
	t.Helper()
	if e.response != nil {
		if _, ok := policy.(policies.ResponseHeaders); ok {
			return e.OnResponseHeaders(t, policy)
		}
		return nil
	}
	if _, ok := policy.(policies.RequestHeaders); ok {
		return e.OnRequestHeaders(t, policy)
	}
	return nil
}

// bodyFlow runs a chain on a body: on each chunk, all policies; on the whole body, where one of them wants it.
func (e *Exchange) bodyFlow(t testing.TB, p *passage, chain []any, body *bodyLines) {
	t.Helper()
	chunks := body.chunks
	if len(chunks) == 0 || slices.ContainsFunc(chain, e.wantsWhole) {
		chunks = []string{strings.Join(chunks, "")}
	}
	for i, data := range chunks {
		last := i+1 == len(chunks)
		for j, policy := range chain {
			if data == "" && !last {
				break // A policy before holds all of it back.
			}
			if *e.skips(policy) {
				continue
			}
			r := e.onBody(t, policy, data, last)
			if r == nil {
				continue
			}
			goesOn := p.took(r)
			if !goesOn && p.skip != r {
				return
			}
			if data = r.Body; !goesOn {
				chain = chain[:j+1]
				break
			}
		}
		p.sent = append(p.sent, data)
	}
}

func (e *Exchange) wantsWhole(policy any) (ok bool) {
	if e.response != nil {
		_, ok = policy.(policies.ResponseBody)
	} else {
		_, ok = policy.(policies.RequestBody)
	}
	return ok
}

// onBody is nil for a policy that does not take part in the body.
func (e *Exchange) onBody(t testing.TB, policy any, data string, last bool) *Result {
	t.Helper()
	whole := e.wantsWhole(policy)
	if e.response != nil {
		if whole {
			return e.OnResponseBody(t, policy, data)
		}
		if _, ok := policy.(policies.ResponseChunks); ok {
			return e.OnResponseChunk(t, policy, data, last)
		}
		return nil
	}
	if whole {
		return e.OnRequestBody(t, policy, data)
	}
	if _, ok := policy.(policies.RequestChunks); ok {
		return e.OnRequestChunk(t, policy, data, last)
	}
	return nil
}
