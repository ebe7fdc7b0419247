package policies

import (
	"fmt"
	"strings"
)

// Warner is implemented by policies whose parameters can be valid and yet probably not what was meant. Warnings are those of BadParam; they are logged when
// the policy is built, printed by `policyctl validate`, and stop nothing.
type Warner interface {
	Warnings() []error
}

// PatternWarning returns a warning if a value of a parameter looks like a pattern or a template, which it is not, and nil otherwise.
func PatternWarning(param, value string) error {
	if !strings.ContainsAny(value, "*{}") {
		return nil
	}
	return BadParam(param, "%q looks like a pattern, and is taken as it is; expected the exact value", value)
}

// PatternWarnings returns the warnings of a list of values.
func PatternWarnings(param string, values []string) (warnings []error) {
	for i, value := range values {
		if err := PatternWarning(fmt.Sprintf("%s[%d]", param, i), value); err != nil {
			warnings = append(warnings, err)
		}
	}
	return warnings
}

// ClaimWarning returns a warning if a claim is one name that looks like a path with dots, and nil otherwise.
func ClaimWarning(param string, claim ClaimPath) error {
	if hint := claim.Literal(); hint != "" {
		return BadParam(param, "%s", hint)
	}
	return nil
}
