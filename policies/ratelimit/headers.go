package ratelimit

import (
	"context"

	"github.com/policy-engine/policy-engine/policies"
)

// HeadersDefinition returns the entry of rateLimitHeaders for a worker's registry. It is a policy of its own, so that rateLimit in a response flow, where it
// would limit nothing, is a mistake that the engine finds when it loads the configuration.
func HeadersDefinition() policies.Definition {
	return policies.Define("rateLimitHeaders", version, func(policies.Env, struct{}) (*Headers, error) { return &Headers{}, nil })
}

// Headers is the policy rateLimitHeaders.
type Headers struct{}

// OnResponseHeaders tells the client what the limits of the request flow have left. It charges nothing.
func (*Headers) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	policy, limit := "", ""
	for i := range policyKeys {
		p, ok := r.Metadata(policyKeys[i])
		if !ok {
			break
		}
		l, _ := r.Metadata(limitKeys[i])
		policy, limit = join(policy, p), join(limit, l)
	}
	if policy != "" {
		r.SetHeader("ratelimit-policy", policy)
		r.SetHeader("ratelimit", limit)
	}
	for i := range plainForms {
		f := &plainForms[i]
		if text, ok := r.Metadata(f.key); ok {
			limit, remaining, reset, _ := cutPlain(text)
			r.SetHeader(f.limit, limit)
			r.SetHeader(f.remaining, remaining)
			r.SetHeader(f.reset, reset)
		}
	}
	return policies.Continue(), nil
}

// join adds an item to a list (RFC 9651 section 3.1).
func join(list, item string) string {
	if list == "" {
		return item
	}
	return list + ", " + item
}

var _ policies.ResponseHeaders = (*Headers)(nil)
