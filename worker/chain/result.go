package chain

import (
	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
	"github.com/policy-engine/policy-engine/policies"
)

// encoding is memory for results, used again for each.
type encoding struct {
	result    workerv1.Result
	immediate workerv1.ImmediateResponse
	grpc      uint32 // the gRPC status of immediate
	context   workerv1.Context
	identity  workerv1.Identity
	bytes     []byte
}

// maxKept is the largest buffer that is kept for the next run, in bytes.
const maxKept = 64 << 10

func (e *encoding) reset() {
	e.result.ResetVT()
	e.result.Context, e.result.Body = nil, nil
	if e.immediate.Status != 0 {
		clear(e.immediate.Headers)
		e.immediate.Reset()
	}
	e.context.Identity = nil // It is ours, not the pool's.
	e.context.ResetVT()
	claims := e.identity.Claims
	for _, c := range claims {
		c.Reset()
	}
	e.identity.Reset()
	e.identity.Claims = claims[:0]
	if cap(e.bytes) > maxKept {
		e.bytes = nil
	}
}

// Result is the outcome of a run that has ended. It aliases the run and the call's bytes, and is valid until Reset.
func (r *Run) Result() *workerv1.Result {
	o, out := &r.outcome, &r.out.result
	out.Id, out.Phase, out.Outcome = r.id, r.phase, o.result
	out.Position = uint32(o.position)
	out.Policy, out.Reason, out.Detail, out.Failure = o.policy, o.reason, o.detail, o.failure
	if who, ok := r.x.Identity(); ok {
		out.Subject = who.Subject
	}
	fits := true
	switch o.result {
	case workerv1.Result_OUTCOME_IMMEDIATE:
		fits = r.encodeImmediate()
	case workerv1.Result_OUTCOME_CONTINUE, workerv1.Result_OUTCOME_SKIP_REMAINING:
		out.SkipsBody = r.skips
		fits = r.encodeChanges() && r.encodeBody() && (!r.wantContext || r.encodeContext())
	}
	if !fits {
		r.out.reset()
		out.Id, out.Phase = r.id, r.phase
		out.Outcome, out.Failure = workerv1.Result_OUTCOME_FAILED, workerv1.Result_FAILURE_RESULT_TOO_LARGE
		out.Reason = "result_too_large"
	}
	return out
}

// encodeImmediate fills in the answer to the client, and tells whether it is within the limits.
func (r *Run) encodeImmediate() bool {
	v, answer, size := &r.outcome.verdict, &r.out.immediate, 0
	answer.Status = uint32(v.Status())
	answer.Body = v.Body()
	if status, ok := v.GRPCStatus(); ok {
		r.out.grpc = status
		answer.GrpcStatus = &r.out.grpc
	}
	typed := false
	for _, h := range v.Headers() {
		answer.Headers = append(answer.Headers, &workerv1.Header{Name: h.Name, Value: []byte(h.Value)})
		typed = typed || h.Name == "content-type"
		size += len(h.Name) + len(h.Value)
	}
	if v.IsDeny() && !typed { // The default body of a refusal is JSON, and so is no other: WithBody comes with a type.
		answer.Headers = append(answer.Headers, &workerv1.Header{Name: "content-type", Value: contentTypeJSON})
	}
	r.out.result.Immediate = answer
	return len(answer.Body) <= min(r.settings.Limits.MaxBodySize, httpsyntax.MaxBody) && r.fieldsFit(len(answer.Headers), size)
}

var contentTypeJSON = []byte("application/json")

// encodeChanges fills in what the policies of this run changed, and tells whether it is within the limits.
func (r *Run) encodeChanges() bool {
	size := 0
	for _, c := range r.x.Changes() {
		r.out.result.Mutations = appendMutation(r.out.result.Mutations, c)
		size += len(c.Name) + len(c.Value)
	}
	return r.fieldsFit(len(r.out.result.Mutations), size)
}

// fieldsFit reports whether header fields are within the worker's limits and the kernel's.
func (r *Run) fieldsFit(n, size int) bool {
	return n <= httpsyntax.MaxFields && size <= min(r.settings.Limits.MaxStateSize, httpsyntax.MaxFieldBytes)
}

// encodeBody fills in what takes the place of the body, and tells whether it is within the limits.
func (r *Run) encodeBody() bool {
	if r.body.replaced {
		r.out.result.Body, r.out.result.BodyReplaced = r.body.bytes, true
	}
	return len(r.body.bytes) <= r.settings.Limits.MaxBodySize
}

// encodeContext fills in what later calls need, and tells whether it is within the limits.
func (r *Run) encodeContext() bool {
	c := &r.out.context
	if who, ok := r.x.Identity(); ok {
		c.Identity = &r.out.identity
		c.Identity.Subject, c.Identity.Method, c.Identity.Issuer, c.Identity.Scopes = who.Subject, who.Method, who.Issuer, who.Scopes
		c.Identity.ClaimsSet = who.CarriedClaims()
		for _, claim := range who.Claims {
			var e *workerv1.Entry
			c.Identity.Claims, e = extend(c.Identity.Claims)
			e.Key, e.Value = claim.Key, claim.Value
		}
	}
	for _, m := range r.x.Metadata() {
		var e *workerv1.Entry
		c.Metadata, e = extend(c.Metadata)
		e.Key, e.Value = m.Key, m.Value
	}
	for _, change := range r.x.AllChanges() {
		list := &c.RequestMutations
		switch {
		case change.Response && change.Trailer:
			list = &c.ResponseTrailerMutations
		case change.Response:
			list = &c.ResponseMutations
		case change.Trailer:
			list = &c.RequestTrailerMutations
		}
		*list = appendMutation(*list, change)
	}
	r.encodeStates()
	size := c.SizeVT()
	if size == 0 && r.resume {
		c.Spent = true
		size = c.SizeVT()
	}
	if size > r.settings.Limits.MaxStateSize {
		return false
	}
	if cap(r.out.bytes) < size {
		r.out.bytes = make([]byte, size)
	}
	r.out.bytes = r.out.bytes[:size]
	if _, err := c.MarshalToSizedBufferVT(r.out.bytes); err != nil {
		return false
	}
	r.out.result.Context = r.out.bytes
	return true
}

// encodeStates fills in what the policies keep.
func (r *Run) encodeStates() {
	c := &r.out.context
	for _, st := range r.states {
		if len(st.State) == 0 && len(st.Held) == 0 && !st.Out {
			continue
		}
		var e *workerv1.PolicyState
		c.States, e = extend(c.States)
		e.Chain, e.Policy, e.State, e.Held, e.Out = st.Chain, st.Policy, st.State, st.Held, st.Out
		r.out.result.Holding = r.out.result.Holding || len(st.Held) > 0
	}
}

func appendMutation(list []*workerv1.Mutation, c policies.Change) []*workerv1.Mutation {
	list, m := extend(list)
	m.Kind, m.Name, m.Value = workerv1.Mutation_Kind(c.Kind), c.Name, c.Value
	return list
}

// extend makes the list one longer, with the element that was there before Reset if there is one.
func extend[T any](list []*T) ([]*T, *T) {
	if len(list) < cap(list) {
		list = list[:len(list)+1]
	} else {
		list = append(list, nil)
	}
	last := &list[len(list)-1]
	if *last == nil {
		*last = new(T)
	}
	return list, *last
}
