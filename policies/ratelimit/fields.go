package ratelimit

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/ratelimit/bucket"
)

// fields are the header fields that tell a client what it has left: RateLimit and RateLimit-Policy
// (draft-ietf-httpapi-ratelimit-headers-11, structured fields of RFC 9651), or RateLimit-Limit, RateLimit-Remaining and
// RateLimit-Reset (the same draft up to -07), or the same three with X- before them. All of them count seconds.
//
// A request policy can't set headers of the response, so what an admitted request has left travels as metadata to rateLimitHeaders.
type fields struct {
	form   string
	cost   int64
	limit  int64
	name   string // as an sf-string
	policy string // the item of RateLimit-Policy
	// plain is of the forms with a field for each number; nil for the others.
	plain *plainForm
	// texts are those last made: most requests of a client repeat one that another client had, and find it made.
	texts *[64]atomic.Pointer[text]
}

// text tells what is left.
type text struct {
	remaining, reset int64
	value            string
}

func newFields(params Params, r bucket.Rate) fields {
	// Clients count requests, so a cost is taken out. A name of digits, letters and token characters needs no escapes in an sf-string.
	f := fields{form: params.Headers, cost: r.Cost, limit: r.Requests / r.Cost, texts: new([64]atomic.Pointer[text])}
	for i := range plainForms {
		if plainForms[i].name == f.form {
			f.plain = &plainForms[i]
		}
	}
	per := time.Duration(r.Per)
	f.name = strconv.Quote(params.Key.Label() + "-" + per.String())
	f.policy = fmt.Sprintf("%s;q=%d", f.name, f.limit)
	if f.limit == 0 {
		// One request costs more than the time of per brings: there is one in a longer time. Rounded up, it promises less.
		f.limit, per = 1, ceilTime(per, r.Cost, r.Requests)
		f.policy = fmt.Sprintf("%s;q=1", f.name)
	}
	if per%time.Second == 0 {
		f.policy += fmt.Sprintf(";w=%d", per/time.Second)
	}
	return f
}

// ceilTime returns per × cost / requests in whole seconds, rounded up.
func ceilTime(per time.Duration, cost, requests int64) time.Duration {
	high, low := bits.Mul64(uint64(per), uint64(cost))
	seconds, rest := bits.Div64(high, low, uint64(requests)) // It fits: burst, which is cost or more, fills up in less than an int64 of ns.
	if t := time.Duration(seconds); rest == 0 && t%time.Second == 0 {
		return t
	}
	return time.Duration(seconds).Truncate(time.Second) + time.Second
}

// text returns the RateLimit item, or in a plain form the values of limit, remaining and reset with spaces between
// them.
func (f *fields) text(remaining, reset int64) string {
	slot := &f.texts[uint64(remaining*31+reset)%uint64(len(f.texts))]
	// Fast path: the same was said before.
	if t := slot.Load(); t != nil && t.remaining == remaining && t.reset == reset {
		return t.value
	}
	var buf [128]byte
	b := buf[:0]
	if f.plain != nil {
		b = append(strconv.AppendInt(b, f.limit, 10), ' ')
		b = append(strconv.AppendInt(b, remaining, 10), ' ')
	} else {
		b = append(append(b, f.name...), ";r="...)
		b = append(strconv.AppendInt(b, remaining, 10), ";t="...)
	}
	b = strconv.AppendInt(b, reset, 10)
	t := &text{remaining, reset, string(b)}
	slot.Store(t)
	return t.value
}

// The metadata that rateLimitHeaders reads: an item of each field for each of several limits, in the order of the chain.
var (
	policyKeys = [...]string{"rateLimit.policy.0", "rateLimit.policy.1", "rateLimit.policy.2", "rateLimit.policy.3"}
	limitKeys  = [len(policyKeys)]string{"rateLimit.limit.0", "rateLimit.limit.1", "rateLimit.limit.2", "rateLimit.limit.3"}
)

// plainForm is a form with a field for each number.
type plainForm struct {
	name string
	// key is the metadata with what is left of the limit that will be reached first: these fields have no lists.
	key                     string
	limit, remaining, reset string
}

var plainForms = [...]plainForm{
	{headersLegacy, "rateLimit.legacy", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"},
	{headersX, "rateLimit.x", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"},
}

// note leaves a note for rateLimitHeaders.
func (f *fields) note(r *policies.Request, d bucket.Decision) {
	remaining, reset := d.Remaining/f.cost, ceilSeconds(d.ResetAfter)
	switch {
	case f.form == headersDraft:
		for i := range policyKeys {
			if _, taken := r.Metadata(policyKeys[i]); !taken {
				r.SetMetadata(policyKeys[i], f.policy)
				r.SetMetadata(limitKeys[i], f.text(remaining, reset))
				return
			}
		}
	case f.plain != nil:
		if other, ok := r.Metadata(f.plain.key); ok {
			if _, left, _, ok := cutPlain(other); ok {
				if n, err := strconv.ParseInt(left, 10, 64); err == nil && n <= remaining {
					return
				}
			}
		}
		r.SetMetadata(f.plain.key, f.text(remaining, reset))
	}
}

// cutPlain splits a text of a plain form.
func cutPlain(text string) (limit, remaining, reset string, ok bool) {
	limit, rest, _ := strings.Cut(text, " ")
	remaining, reset, ok = strings.Cut(rest, " ")
	return limit, remaining, reset, ok
}

// answer sets the fields of a refusal. Its t is the same as Retry-After, which must not be earlier (section 6 of the draft).
func (f *fields) answer(v policies.Verdict, d bucket.Decision, seconds int64) policies.Verdict {
	remaining := d.Remaining / f.cost
	switch {
	case f.form == headersDraft:
		return v.WithHeader("ratelimit-policy", f.policy).WithHeader("ratelimit", f.text(remaining, seconds))
	case f.plain != nil:
		limit, remaining, reset, _ := cutPlain(f.text(remaining, seconds))
		return v.WithHeader(f.plain.limit, limit).WithHeader(f.plain.remaining, remaining).WithHeader(f.plain.reset, reset)
	}
	return v
}
