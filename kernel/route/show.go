package route

import (
	"strings"
)

// Shown is a route for a page.
type Shown struct {
	Name     string    `json:"name"`
	Request  ShownPlan `json:"request"`
	Response ShownPlan `json:"response"`
	// Unsupported are policies that no worker offers: all requests are refused.
	Unsupported []string `json:"unsupported,omitempty"`
	// Undiscovered: a policy has no known worker yet, and all requests are refused.
	Undiscovered bool `json:"undiscovered,omitempty"`
}

// ShownPlan is the plan of a flow.
type ShownPlan struct {
	// Body is in what form a body is asked for, CodedBody one with a content coding.
	Body      string      `json:"body"`
	CodedBody string      `json:"coded_body"`
	Headers   []ShownCall `json:"on_headers,omitempty"`
	Bodies    []ShownCall `json:"on_body,omitempty"`
	Trailers  []ShownCall `json:"on_trailers,omitempty"`
}

// ShownCall is a call of a worker.
type ShownCall struct {
	Worker  string `json:"worker"`
	Chain   uint32 `json:"chain"`
	Timeout string `json:"timeout"`
	// Required: the request does not start while the worker is unavailable.
	Required bool          `json:"required"`
	Policies []ShownPolicy `json:"policies"`
}

// ShownPolicy is a policy in a call.
type ShownPolicy struct {
	Name      string `json:"name"`
	OnFailure string `json:"on_failure"`
}

// Show is the route's plan for a page.
func (r *Route) Show() Shown {
	return Shown{Name: r.Name, Request: r.Request.show(), Response: r.Response.show(), Unsupported: r.Unsupported, Undiscovered: r.Undiscovered}
}

func (p *Plan) show() ShownPlan {
	return ShownPlan{
		Body: p.BodyMode.String(), CodedBody: p.CodedBodyMode.String(), Headers: showCalls(p.Headers), Bodies: showCalls(p.Body), Trailers: showCalls(p.Trailers),
	}
}

func showCalls(segments []Segment) (calls []ShownCall) {
	for i := range segments {
		s := &segments[i]
		c := ShownCall{Worker: s.Worker.Name(), Chain: s.Chain, Timeout: s.Timeout.String(), Required: s.HoldsUp}
		for _, p := range s.Policies {
			c.Policies = append(c.Policies, ShownPolicy{p.Name, strings.ToLower(strings.TrimPrefix(p.OnFailure.String(), "ON_FAILURE_"))})
		}
		calls = append(calls, c)
	}
	return calls
}
