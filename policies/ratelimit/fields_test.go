package ratelimit

import (
	"testing"

	"github.com/policy-engine/policy-engine/policies/ratelimit/bucket"
)

// TestQuotaIsNeverZero: where a request costs more than requests, RateLimit-Policy tells one request in a longer time. A
// quota of 0 would say that no request is admitted.
func TestQuotaIsNeverZero(t *testing.T) {
	for _, tt := range []struct {
		requests, cost int64
		per            string
		policy         string
	}{
		{5, 9, "1s", `"identity-1s";q=1;w=2`},
		{5, 10, "1s", `"identity-1s";q=1;w=2`},
		{5, 11, "1s", `"identity-1s";q=1;w=3`},
		{3, 10, "24h", `"identity-24h0m0s";q=1;w=288000`},
		{1, 3, "1ms", `"identity-1ms";q=1;w=1`},
		{9, 9, "1s", `"identity-1s";q=1;w=1`},
		{9, 2, "1s", `"identity-1s";q=4;w=1`},
	} {
		p := Params{Requests: tt.requests, Cost: tt.cost, Key: bucket.Param{{"identity"}}, Headers: headersDraft}
		if err := p.Per.UnmarshalText([]byte(tt.per)); err != nil {
			t.Fatal(err)
		}
		r, ok := bucket.NewRate(p.Requests, int64(p.Per), max(p.Requests, p.Cost), p.Cost)
		if !ok {
			t.Fatalf("%+v is refused", tt)
		}
		if f := newFields(p, r); f.policy != tt.policy || f.limit < 1 {
			t.Errorf("%d requests in %s at a cost of %d: %s, limit %d, want %s", tt.requests, tt.per, tt.cost, f.policy, f.limit, tt.policy)
		}
	}
}
