package config

import (
	"strings"

	"github.com/policy-engine/policy-engine/config/internal/document"
	"github.com/policy-engine/policy-engine/config/internal/strict"
)

// Fixed is the value of a key that a running kernel can't change, such as where it listens.
type Fixed struct {
	Pos   Pos
	Value string
	// Shown is the value for messages, without secrets and values of variables.
	Shown string
}

// reloadable are the keys of policy_kernel that a reload changes, with all below them. Whatever is not here takes a restart.
var reloadable = []string{
	"workers", "route_policies", "unknown_route", "identity_headers", "client_address", "policy_not_supported_response", "worker_unavailable_response", "refusals", "limits", "observability.log_level",
	"observability.tracing.sampling_rate", "observability.tracing.parent_limit", "admin.token", "admin.token_file",
}

func isReloadable(path string) bool {
	for _, key := range reloadable {
		if rest, ok := strings.CutPrefix(path, key); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

// fixed are the keys that take a restart, in their order.
func fixed(d *document.Kernel, origins strict.Origins) (all []Fixed) {
	strict.Leaves(d, origins, func(path string) bool {
		return isReloadable(strings.TrimPrefix(path, "policy_kernel."))
	}, func(at strict.Pos, value, shown string) {
		all = append(all, Fixed{Pos(at), value, shown})
	})
	return all
}

// RestartNeeded tells which keys of next a kernel that runs with k could take over only by a restart: an Errors, or nil.
func (k *Kernel) RestartNeeded(next *Kernel) error {
	var errs Errors
	for i := range min(len(k.Fixed), len(next.Fixed)) {
		if was, now := k.Fixed[i], next.Fixed[i]; was.Value != now.Value {
			errs.Add(now.Pos, "%q needs a restart; legal for a reload is %q, as it is now", now.Shown, was.Shown)
		}
	}
	return errs.Err()
}

// Hide replaces the values of variables in a message about what stands at path, such as one of a policy about its parameters, by the names of the variables.
func (k *Kernel) Hide(path, message string) string { return k.origins.Hide(path, message) }
