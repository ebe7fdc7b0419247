package chain

import (
	"errors"
	"fmt"

	"github.com/policy-engine/policy-engine/policies"
)

// maxReason is the longest reason, in bytes: it becomes a metric's label.
const maxReason = 64

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
	case v.IsDeny() && (v.Status() < 400 || v.Status() > 599):
		return fmt.Errorf("deny with status %d: legal are 400 to 599", v.Status())
	case v.Status() < 200 || v.Status() > 599:
		return fmt.Errorf("respond with status %d: legal are 200 to 599", v.Status())
	}
	if status, ok := v.GRPCStatus(); ok && (status > 16 || status == 0 && v.IsDeny()) {
		return fmt.Errorf("gRPC status %d: legal are 0 to 16, and 1 to 16 for a refusal", status)
	}
	for _, h := range v.Headers() {
		if err := policies.CheckHeader(h.Name, h.Value); err != nil {
			return err
		}
	}
	return nil
}

// checkReason takes one word of lower-case letters, digits and '_', or nothing.
func checkReason(reason string) error {
	if len(reason) > maxReason {
		return fmt.Errorf("reason of %d bytes: legal are %d", len(reason), maxReason)
	}
	for i := range len(reason) {
		if c := reason[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return fmt.Errorf("reason %q: legal are lower-case letters, digits and '_'", reason)
		}
	}
	return nil
}
