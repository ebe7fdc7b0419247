package chain

import (
	"errors"
	"fmt"

	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
	"github.com/policy-engine/policy-engine/policies"
)

// checkVerdict reports why a verdict can't be carried out.
func checkVerdict(v policies.Verdict) error {
	if v.IsContinue() {
		return nil
	}
	if err := checkReason(v.Reason()); err != nil {
		return err
	}
	switch {
	case v.IsSkipRemaining():
		return nil
	case !v.IsImmediate():
		return errors.New("verdict without a meaning")
	case v.IsDeny() && v.Status() < 400:
		return fmt.Errorf("deny with status %d: must be between 400 and 599", v.Status())
	}
	if err := httpsyntax.Status(v.Status()); err != nil {
		return fmt.Errorf("answer with status %d: %w", v.Status(), err)
	}
	if status, ok := v.GRPCStatus(); ok {
		if err := httpsyntax.GRPCStatus(v.Status(), status); err != nil {
			return fmt.Errorf("answer with status %d and gRPC status %d: %w", v.Status(), status, err)
		}
	}
	for _, h := range v.Headers() {
		if err := policies.CheckHeader(h.Name, h.Value); err != nil {
			return err
		}
	}
	return nil
}

func checkReason(reason string) error {
	if err := httpsyntax.Reason(reason); err != nil {
		return fmt.Errorf("reason %.80q: %w", reason, err)
	}
	return nil
}
