package ratelimit

import (
	"errors"
	"time"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/ratelimit/bucket"
)

// Params are the parameters of rateLimit.
type Params struct {
	Requests int64             `json:"requests" jsonschema:"required,minimum=1,maximum=1000000000,description=How many requests a client may make in the time of per."`
	Per      policies.Duration `json:"per" jsonschema:"required,description=The time that requests counts for; from 1ms to 8784h."`
	Burst    *int64            `json:"burst,omitempty" jsonschema:"minimum=1,maximum=1000000000,description=How many requests a client that was quiet may make at once. Default: as many as requests."`
	Key      bucket.Param      `json:"key,omitempty" jsonschema:"default=identity,description=What makes two requests those of one client: identity or client_ip or route or header:NAME; several of them under all; or a list of which the first counts that the request has."`
	Cost     int64             `json:"cost,omitempty" jsonschema:"minimum=1,default=1,description=How much of requests and burst one request uses up."`
	Store    string            `json:"store,omitempty" jsonschema:"enum=local,default=local,description=Where the state is kept: local is the memory of the worker."`
	// CountRetries is false where a request that comes again with the same x-request-id is to be counted once.
	CountRetries bool `json:"count_retries,omitempty" jsonschema:"default=true,description=Whether a request that was admitted within the last minute is counted again when it comes again with the same x-request-id."`

	Headers string `json:"headers,omitempty" jsonschema:"enum=draft,enum=legacy,enum=x-ratelimit,enum=off,default=draft,description=The fields that tell clients what they have left."`
}

// Defaults sets what the configuration leaves out.
func (p *Params) Defaults() {
	*p = Params{Key: bucket.Param{{"identity"}}, Cost: 1, Store: "local", Headers: headersDraft, CountRetries: true}
}

// The forms of the header fields.
const (
	headersDraft  = "draft"
	headersLegacy = "legacy"
	headersX      = "x-ratelimit"
	headersOff    = "off"
)

// check returns the parameters as the policy uses them, or all that is wrong with them.
func (p *Params) check() (bucket.Rate, *bucket.Client, error) {
	var problems []error
	bad := func(param, format string, args ...any) {
		problems = append(problems, policies.BadParam(param, format, args...))
	}
	burst := p.Requests
	if p.Requests < 1 || p.Requests > bucket.MaxRequests {
		bad("requests", "%d is not legal; legal are 1 to %d", p.Requests, bucket.MaxRequests)
	}
	if per := time.Duration(p.Per); per < bucket.MinPer || per > bucket.MaxPer {
		bad("per", "%v is not legal; legal are 1ms to 8784h", per)
	}
	if p.Burst != nil {
		if burst = *p.Burst; burst < 1 || burst > bucket.MaxRequests {
			bad("burst", "%d is not legal; legal are 1 to %d", burst, bucket.MaxRequests)
		}
	}
	if p.Cost < 1 {
		bad("cost", "%d is not legal; it must be at least 1", p.Cost)
	} else if burst >= 1 && p.Cost > burst {
		bad("cost", "%d is more than burst, which is %d: no request would ever be admitted", p.Cost, burst)
	}
	if p.Store != "local" {
		bad("store", "%q is not legal; legal is local", p.Store)
	}
	switch p.Headers {
	case headersDraft, headersLegacy, headersX, headersOff:
	default:
		bad("headers", "unknown value %q, expected draft, legacy, x-ratelimit or off", p.Headers)
	}
	key, wrong := p.Key.Client()
	problems = append(problems, wrong...)
	if len(problems) > 0 {
		return bucket.Rate{}, nil, errors.Join(problems...)
	}
	r, ok := bucket.NewRate(p.Requests, int64(p.Per), burst, p.Cost)
	if !ok {
		return bucket.Rate{}, nil, policies.BadParam("burst", "%d takes longer than %.0f years to fill up again", burst, bucket.MaxFull.Hours()/24/365)
	}
	return r, key, nil
}
