package worker

import (
	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// refusal is why a call did not run, or its result could not be sent.
type refusal uint8

const (
	refusedUnknownGeneration refusal = iota
	refusedUnknownChain
	refusedOverloaded
	refusedTooLarge
	refusedMalformed
	refusedDraining
	refusedResultTooLarge
	refusedBodyCoding
	refusedBodyTooLarge
	numRefusals
)

// String is the reason in metrics and results.
func (r refusal) String() string {
	return [...]string{"unknown_generation", "unknown_chain", "overloaded", "too_large", "malformed_call", "draining", "result_too_large", "body_coding", "body_too_large"}[r]
}

func (r refusal) failure() workerv1.Result_Failure {
	return [...]workerv1.Result_Failure{
		workerv1.Result_FAILURE_UNKNOWN_GENERATION,
		workerv1.Result_FAILURE_UNKNOWN_CHAIN,
		workerv1.Result_FAILURE_OVERLOADED,
		workerv1.Result_FAILURE_TOO_LARGE,
		workerv1.Result_FAILURE_MALFORMED_CALL,
		workerv1.Result_FAILURE_DRAINING,
		workerv1.Result_FAILURE_RESULT_TOO_LARGE,
		workerv1.Result_FAILURE_BODY_CODING,
		workerv1.Result_FAILURE_BODY_TOO_LARGE,
	}[r]
}

// result is the answer to a call that was refused.
func (r refusal) result(call *workerv1.Call) *workerv1.Result {
	return &workerv1.Result{
		Id: call.Id, Phase: call.Phase, Outcome: workerv1.Result_OUTCOME_FAILED,
		Failure: r.failure(), Reason: r.String(),
	}
}
