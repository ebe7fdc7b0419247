package chain

import (
	"errors"
	"strings"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/view"
	"github.com/policy-engine/policy-engine/worker/coding"
)

// readCodings finds the codings of the body. Policies can't change the header that names them.
func (r *Run) readCodings() {
	fields := r.x.Request().Headers()
	if r.chain.response {
		fields = r.x.Response().Headers()
	}
	for name, value := range fields {
		if !strings.EqualFold(view.String(name), "content-encoding") {
			continue
		}
		if err := r.body.codings.Add(value); err != nil {
			r.badCoding = err
			return
		}
	}
}

// recode gives the body the form that the policy that is to run wants: with its codings, or without. When it can't, it ends the chain, for there is no policy that failed:
// a body that can't be read can't be let pass either.
func (r *Run) recode(plain bool) (ok bool) {
	b := &r.body
	if !plain {
		if err := r.encodePlain(); err != nil {
			r.end(unreadable)
			return false
		}
		return true
	}
	if b.plain || b.codings.Empty() && r.badCoding == nil {
		return true
	}
	err := r.badCoding
	if err == nil {
		b.coded = b.bytes
		b.bytes, err = b.codings.Decode(b.coded, r.settings.Limits.MaxBodySize)
	}
	switch {
	case err == nil:
		b.plain = true
		return true
	case errors.Is(err, coding.ErrTooLarge):
		r.end(outcome{result: workerv1.Result_OUTCOME_FAILED, reason: "body_too_large", failure: workerv1.Result_FAILURE_BODY_TOO_LARGE})
	default:
		r.end(unreadable)
	}
	return false
}

// unreadable is how a chain ends whose body has codings that can't be undone.
var unreadable = outcome{result: workerv1.Result_OUTCOME_FAILED, reason: "body_coding", failure: workerv1.Result_FAILURE_BODY_CODING}

// encodePlain applies the codings to the body again if they are undone: to what a policy has made of it, or else it is what it was.
func (r *Run) encodePlain() (err error) {
	b := &r.body
	if !b.plain {
		return nil
	}
	b.plain = false
	if b.coded != nil {
		b.bytes, b.coded = b.coded, nil
		return nil
	}
	b.bytes, err = b.codings.Encode(b.bytes)
	return err
}
