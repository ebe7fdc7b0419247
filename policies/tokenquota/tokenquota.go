// Package tokenquota holds the policies tokenQuota, which admits requests as long as their client has tokens left, and tokenUsage, which charges what the answers say was used.
package tokenquota

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/ratelimit/bucket"
)

const (
	name      = "tokenQuota"
	usageName = "tokenUsage"
	version   = "1.0.0"
)

// Definition returns the entry of tokenQuota for a worker's registry.
func Definition() policies.Definition { return policies.Define(name, version, build) }

// Policy is tokenQuota at one place of the configuration.
type Policy struct {
	client  *bucket.Client
	place   []byte // prefix of what is hashed to a bucket's key
	receipt receipt
	store   *bucket.Store
	account *bucket.Account
	clock   policies.Clock
	// item and policy are what the fields RateLimit and RateLimit-Policy say of the quota.
	item, policy       string
	detail             string // of a refusal
	exhausted, overrun policies.Counter
}

func openStore(env policies.Env) (*bucket.Store, error) {
	opened, err := env.Shared("store", func() (io.Closer, error) { return bucket.NewStore(env.Clock().Now()), nil })
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return opened.(*bucket.Store), nil
}

func build(env policies.Env, params Params) (*Policy, error) {
	rate, client, err := params.check()
	if err != nil {
		return nil, err
	}
	store, err := openStore(env)
	if err != nil {
		return nil, err
	}
	// What changes the meaning of a bucket is part of its name: buckets survive a reload that leaves it as it is.
	place := fmt.Sprintf("%q %d %d %d %q", env.Instance(), rate.Requests, rate.Per, rate.Burst, params.Key.String())
	sum := sha256.Sum256([]byte(place))
	account := bucket.Key(sum[:len(bucket.Key{})])
	per := time.Duration(rate.Per)
	item := strconv.Quote(params.Key.Label() + "-tokens-" + per.String())
	policy := fmt.Sprintf("%s;q=%d", item, rate.Requests)
	if per%time.Second == 0 {
		policy += fmt.Sprintf(";w=%d", per/time.Second)
	}
	return &Policy{
		client: client, place: []byte(place), receipt: receipt{account: account, rate: rate},
		store: store, account: store.Account(account), clock: env.Clock(),
		item: item, policy: policy,
		detail:    fmt.Sprintf("quota of %d tokens per %s by %s", rate.Requests, per, params.Key),
		exhausted: env.Counter("exhausted"), overrun: env.Counter("overflow"),
	}, nil
}

var errManyQuotas = errors.New("charge tokens: there are more than four quotas in the chain")

// OnRequestHeaders charges the client's bucket with the estimate, and leaves a receipt for tokenUsage.
func (p *Policy) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	slot := 0
	for ; slot < len(receipts); slot++ {
		if _, taken := r.Metadata(receipts[slot]); !taken {
			break
		}
	}
	if slot == len(receipts) {
		return policies.Verdict{}, errManyQuotas
	}
	key, err := p.client.Key(r, p.place)
	if err != nil {
		return policies.Verdict{}, err
	}
	d := p.store.Take(key, p.account, &p.receipt.rate, p.clock.Now())
	if d.Shared {
		p.overrun.Inc()
	}
	if !d.Allowed {
		p.exhausted.Inc()
		return p.refuse(d), nil
	}
	receipt := p.receipt
	receipt.bucket = key
	r.SetMetadata(receipts[slot], receipt.text())
	return policies.Continue(), nil
}

// refuse is the answer to a client that has no tokens left.
func (p *Policy) refuse(d bucket.Decision) policies.Verdict {
	seconds := max(1, (d.RetryAfter+int64(time.Second)-1)/int64(time.Second))
	retryAfter := strconv.FormatInt(seconds, 10)
	return policies.Deny(429, "quota_exhausted").
		WithMessage("the tokens are used up; retry after "+retryAfter+" s").
		WithDetail(p.detail).
		WithHeader("retry-after", retryAfter).
		WithHeader("ratelimit-policy", p.policy).
		WithHeader("ratelimit", fmt.Sprintf("%s;r=%d;t=%d", p.item, d.Remaining, seconds))
}

var _ policies.RequestHeaders = (*Policy)(nil)
