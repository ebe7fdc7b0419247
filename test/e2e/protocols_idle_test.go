package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

// wantIdle waits until nothing of any request is left in kernel and workers.
func wantIdle(t *testing.T, e *harness.Engine) {
	t.Helper()
	harness.Eventually(t, "all state of requests is freed", func() error {
		m := e.Scrape()
		for _, gauge := range []string{"policy_kernel_streams", "policy_kernel_body_bytes"} {
			if value, ok := m[gauge]; !ok || value != 0 {
				return fmt.Errorf("%s is %v (there: %v)", gauge, value, ok)
			}
		}
		workers := 0
		for series, value := range m {
			if !strings.HasPrefix(series, "policy_worker_in_flight") {
				continue
			}
			workers++
			if value != 0 {
				return fmt.Errorf("%s is %v", series, value)
			}
		}
		if workers == 0 {
			return errors.New("no worker tells what it has in flight")
		}
		return nil
	})
}
