package workers

import (
	"slices"
	"strings"
	"testing"
)

// TestWarningsOfReplicas: what a replica warns of is in its status while it takes calls, within bounds.
func TestWarningsOfReplicas(t *testing.T) {
	f := newFake("w", 1, "p")
	path := socketPath(t)
	f.start(t, path)
	reg, w := setup(t, nil, path)
	push(t, reg, 1)
	ready(t, w)
	status := func() ReplicaStatus { return reg.Status()[0].Replicas[0] }
	warn := func(warnings ...string) {
		f.mu.Lock()
		f.warnings = warnings
		f.mu.Unlock()
	}
	if got := status(); got.Warnings != nil {
		t.Errorf("at the start: %q", got.Warnings)
	}
	warn("the key file is broken")
	eventually(t, "the warning is shown", func() bool { return slices.Equal(status().Warnings, []string{"the key file is broken"}) })
	if got := status(); got.Problem != "" || !w.Available() {
		t.Errorf("a replica with a warning: problem %q, available %t", got.Problem, w.Available())
	}
	warn(slices.Repeat([]string{strings.Repeat("é", maxWarning)}, 2*maxWarnings)...)
	eventually(t, "as many warnings as there may be", func() bool { return len(status().Warnings) == maxWarnings })
	for _, warning := range status().Warnings {
		if warning != strings.Repeat("é", maxWarning/2) {
			t.Errorf("%d bytes: %q", len(warning), warning)
		}
	}
	warn()
	eventually(t, "no warning is left", func() bool { return len(status().Warnings) == 0 })
}
