// Package ratelimit holds the policies rateLimit, which admits so many requests per time for each client, and rateLimitHeaders, which tells
// clients on responses what they have left.
package ratelimit

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/ratelimit/bucket"
)

const (
	name    = "rateLimit"
	version = "1.0.0"
)

// Definition returns the entry of rateLimit for a worker's registry.
func Definition() policies.Definition { return policies.Define(name, version, build) }

// Policy is rateLimit at one place of the configuration.
type Policy struct {
	rate    bucket.Rate
	client  *bucket.Client
	place   []byte // prefix of what is hashed to a bucket's key
	store   *bucket.Store
	account *bucket.Account
	clock   policies.Clock
	fields  fields
	retries *retries // nil where each request is counted

	detail   string // of a refusal
	limited  policies.Counter
	overflow policies.Counter
}

func build(env policies.Env, params Params) (*Policy, error) {
	r, client, err := params.check()
	if err != nil {
		return nil, err
	}
	opened, err := env.Shared("store", func() (io.Closer, error) { return bucket.NewStore(env.Clock().Now()), nil })
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	// What changes the meaning of a bucket is part of its name: buckets survive a reload that leaves it as it is.
	place := fmt.Sprintf("%q %d %d %d %d %q", env.Instance(), r.Requests, r.Per, r.Burst, params.Cost, params.Key.String())
	shared, err := env.Shared("account "+place, func() (io.Closer, error) { return &bucket.Account{}, nil })
	if err != nil {
		return nil, fmt.Errorf("open account: %w", err)
	}
	var remembered *retries
	if !params.CountRetries {
		opened, err := env.Shared("retries "+place, func() (io.Closer, error) { return &retries{}, nil })
		if err != nil {
			return nil, fmt.Errorf("open retries: %w", err)
		}
		remembered = opened.(*retries)
	}
	return &Policy{
		retries:  remembered,
		rate:     r,
		client:   client,
		place:    []byte(place),
		store:    opened.(*bucket.Store),
		account:  shared.(*bucket.Account),
		clock:    env.Clock(),
		fields:   newFields(params, r),
		detail:   fmt.Sprintf("limit of %d per %s (burst %d, cost %d) by %s", r.Requests, time.Duration(r.Per), r.Burst, params.Cost, params.Key),
		limited:  env.Counter("limited"),
		overflow: env.Counter("overflow"),
	}, nil
}

// OnRequestHeaders charges the client's bucket.
func (p *Policy) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	k, err := p.client.Key(r, p.place)
	if err != nil {
		return policies.Verdict{}, err
	}
	var retry [16]byte
	remember := false
	if p.retries != nil {
		if retry, remember = retryKey(k, r); remember && p.retries.isRetry(retry, p.clock.Now()) {
			return policies.Continue(), nil
		}
	}
	d := p.store.Take(k, p.account, &p.rate, p.clock.Now())
	if d.Shared {
		p.overflow.Inc()
	}
	if !d.Allowed {
		p.limited.Inc()
		return p.refuse(d), nil
	}
	if remember {
		p.retries.admit(retry, p.clock.Now())
	}
	p.fields.note(r, d)
	return policies.Continue(), nil
}

// refuse is the answer to a request over the limit.
func (p *Policy) refuse(d bucket.Decision) policies.Verdict {
	seconds := max(1, ceilSeconds(d.RetryAfter))
	retryAfter := strconv.FormatInt(seconds, 10)
	v := policies.Deny(429, "rate_limited").
		WithMessage("too many requests; retry after "+retryAfter+" s").
		WithDetail(p.detail).
		WithHeader("retry-after", retryAfter)
	return p.fields.answer(v, d, seconds)
}

// ceilSeconds returns ns in whole seconds, rounded up.
func ceilSeconds(ns int64) int64 {
	return (ns + int64(time.Second) - 1) / int64(time.Second)
}

var _ policies.RequestHeaders = (*Policy)(nil)
