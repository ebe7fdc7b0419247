package chain

import (
	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/policies"
)

// outcome is how the chain ended.
type outcome struct {
	result  workerv1.Result_Outcome
	verdict policies.Verdict // with IMMEDIATE
	policy  string
	reason  string
	detail  string
	failure workerv1.Result_Failure
	// position is the index of the policy in the chain, and one more.
	position int
}

// cancel ends the chain without a decision: the call was given up by the caller, or the worker stops.
func (r *Run) cancel(s *step) {
	r.ran(s, StatusCancelled, r.settings.Now().Sub(r.began), "cancelled", "")
	r.awaiting = nil
	r.end(outcome{result: workerv1.Result_OUTCOME_FAILED, reason: "cancelled", failure: workerv1.Result_FAILURE_DRAINING})
}

// end ends the chain before its last step.
func (r *Run) end(o outcome) {
	r.outcome = o
	if o.result == workerv1.Result_OUTCOME_SKIP_REMAINING {
		r.flush()
	}
	r.next, r.stop = len(r.steps), len(r.steps)
}

// finish notes that all steps ran, unless one of them ended the chain.
func (r *Run) finish() {
	if r.outcome.result == workerv1.Result_OUTCOME_UNSPECIFIED {
		r.outcome.result = workerv1.Result_OUTCOME_CONTINUE
		r.flush() // Of the steps that the call wants left out.
	}
}
