package chain

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/policies"
)

// ErrTooLarge is the error of Load for a call beyond the limits.
var ErrTooLarge = errors.New("call is too large")

// maxTimeout bounds a caller's patience, so that no sum of times overflows.
const maxTimeout = time.Hour

// Load prepares for the chain's run, which begins now, on a call that arrived at received. The run aliases the call's bytes until Reset, but not the call. The holder outlives
// policies that overrun. After an error, the run is only good
// for Reset.
func (r *Run) Load(c *Chain, call *workerv1.Call, received, now time.Time, holder Holder) error {
	r.chain, r.holder = c, holder
	r.id, r.wantContext = call.Id, call.WantContext
	r.phase, r.chainID = call.Phase, call.Chain
	r.began = now
	r.join(call)
	if call.TimeoutUs > 0 {
		r.deadline = received.Add(Microseconds(call.TimeoutUs))
	}
	limits := r.settings.Limits
	if max(len(call.Headers), len(call.RequestHeaders), len(call.Body), len(call.Trailers)) > limits.MaxBodySize || len(call.Context) > limits.MaxStateSize {
		return ErrTooLarge
	}
	if err := r.enter(call); err != nil {
		return err
	}
	// A policy may keep strings, so those of the context can't alias the call. This is the only allocation of a run.
	if r.resume = len(call.Context) > 0; r.resume {
		if err := r.in.UnmarshalVTUnsafe(bytes.Clone(call.Context)); err != nil {
			return fmt.Errorf("decode context: %w", err)
		}
	}
	if err := r.fill(call); err != nil {
		return err
	}
	if r.settings.Poison {
		r.x.Poison()
	}
	return nil
}

// enter finds the steps of the call's phase.
func (r *Run) enter(call *workerv1.Call) error {
	steps, ok := r.chain.steps(call.Phase)
	isHeaders, isBody, isTrailers := kindOf(call.Phase)
	switch {
	case !ok:
		return fmt.Errorf("phase %v on a chain of the other flow", call.Phase)
	case !isHeaders && len(steps) == 0:
		return fmt.Errorf("phase %v on a chain of which no policy takes part in it", call.Phase)
	case !isBody && (len(call.Body) > 0 || call.WholeBody || call.NoBody):
		return errors.New("body in another phase than its own")
	case !isTrailers && len(call.Trailers) > 0:
		return errors.New("trailers in another phase than their own")
	}
	r.steps, r.stop = steps, len(steps)
	if call.Limit > 0 {
		for r.stop > 0 && steps[r.stop-1].index+1 >= int(call.Limit) {
			r.stop--
		}
	}
	return nil
}

func kindOf(p workerv1.Phase) (headers, body, trailers bool) {
	switch p {
	case workerv1.Phase_PHASE_REQUEST_HEADERS, workerv1.Phase_PHASE_RESPONSE_HEADERS:
		return true, false, false
	case workerv1.Phase_PHASE_REQUEST_BODY, workerv1.Phase_PHASE_RESPONSE_BODY:
		return false, true, false
	}
	return false, false, true
}

// Microseconds is a timeout of the protocol, an hour at most.
func Microseconds(us uint64) time.Duration {
	return time.Duration(min(us, uint64(maxTimeout/time.Microsecond))) * time.Microsecond
}

// fill makes the exchange what the calls before this one left.
func (r *Run) fill(call *workerv1.Call) error {
	if err := r.fillHeaders(call); err != nil {
		return err
	}
	_, isBody, isTrailers := kindOf(call.Phase)
	if isBody {
		if err := r.fillBody(call); err != nil {
			return err
		}
	}
	if isTrailers {
		if err := r.fillTrailers(call); err != nil {
			return err
		}
	}
	r.states = r.in.States[:len(r.in.States):len(r.in.States)]
	for _, e := range r.in.Metadata {
		r.x.ReplayMetadata(policies.Entry{Key: e.Key, Value: e.Value})
	}
	if id := r.in.Identity; id != nil {
		r.x.ReplayIdentity(r.identityOf(id))
	}
	if err := r.x.Err(); err != nil {
		return fmt.Errorf("replay context: %w", err)
	}
	return nil
}

func (r *Run) fillHeaders(call *workerv1.Call) error {
	r.requestHeaders, r.responseHeaders = call.Headers, nil
	isHeaders, _, _ := kindOf(call.Phase)
	endOfStream := isHeaders && call.EndOfStream
	if r.chain.response {
		r.requestHeaders, r.responseHeaders = call.RequestHeaders, call.Headers
	} else if len(call.RequestHeaders) > 0 || len(r.in.ResponseMutations) > 0 && isHeaders {
		return errors.New("request headers or changes of the response in a request phase")
	}
	if err := r.x.BeginRequest(r.chain.route, r.requestHeaders, endOfStream && !r.chain.response); err != nil {
		return fmt.Errorf("decode request headers: %w", err)
	}
	r.x.SetSource(call.SourceAddress, r.chain.TrustedHops)
	if err := r.replay(r.in.RequestMutations, false, false); err != nil {
		return err
	}
	if !r.chain.response {
		return nil
	}
	if err := r.x.BeginResponse(r.responseHeaders, endOfStream); err != nil {
		return fmt.Errorf("decode response headers: %w", err)
	}
	return r.replay(r.in.ResponseMutations, true, false)
}

func (r *Run) fillTrailers(call *workerv1.Call) error {
	if err := r.x.BeginTrailers(call.Trailers); err != nil {
		return fmt.Errorf("decode trailers: %w", err)
	}
	if r.chain.response {
		return r.replay(r.in.ResponseTrailerMutations, true, true)
	}
	return r.replay(r.in.RequestTrailerMutations, false, true)
}

func (r *Run) replay(mutations []*workerv1.Mutation, response, trailer bool) error {
	for _, m := range mutations {
		kind := policies.ChangeKind(m.Kind)
		if m.Kind <= 0 || m.Kind > workerv1.Mutation_KIND_SET_PATH_AND_ROUTE || response != isResponse(kind, response) || trailer && kind > policies.RemoveHeader {
			return fmt.Errorf("replay context: change of kind %v", m.Kind)
		}
		if err := r.x.Replay(policies.Change{Kind: kind, Response: response, Trailer: trailer, Name: m.Name, Value: m.Value}); err != nil {
			return fmt.Errorf("replay context: %w", err)
		}
	}
	return nil
}

// isResponse tells whether a kind of change is one of the response; header changes are of either.
func isResponse(kind policies.ChangeKind, either bool) bool {
	switch kind {
	case policies.SetPath, policies.SetPathAndRoute, policies.SetMethod:
		return false
	case policies.SetStatus:
		return true
	}
	return either
}

// identityOf is the SDK's form of an identity. Its slices are used again after Reset.
func (r *Run) identityOf(id *workerv1.Identity) policies.Identity {
	for _, c := range id.Claims {
		r.claims = append(r.claims, policies.Entry{Key: c.Key, Value: c.Value})
	}
	who := policies.Identity{Subject: id.Subject, Method: id.Method, Issuer: id.Issuer, Scopes: id.Scopes, Claims: r.claims}
	return who.WithCarriedClaims(id.ClaimsSet)
}
