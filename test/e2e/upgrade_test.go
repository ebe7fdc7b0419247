package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

// TestKernelsTakeTurns: of two kernels behind one Envoy, each is stopped and started again under load, and no request fails.
func TestKernelsTakeTurns(t *testing.T) {
	t.Parallel()
	harness.NeedWorkerProcesses(t)
	spec := replicaSpec()
	spec.Second = true
	spec.Kernel = "  drain: {delay: 2s, deadline: 10s}\n" + spec.Kernel // Two health checks of Envoy's, on a machine that is busy.
	e := harness.StartEngine(t, spec)
	eventually(t, e, 200, "/on-a")
	kernels := []struct {
		process func() *harness.Process
		start   func()
		admin   string
	}{
		{func() *harness.Process { return e.Kernel }, e.StartKernel, e.Admin},
		{func() *harness.Process { return e.Second }, e.StartSecond, e.SecondAdmin},
	}
	l := startLoad(t, e, "/slow", "X-Misbehave: 20ms")
	for round := range 2 {
		for i, k := range kernels {
			waitHealthyKernels(t, e, 2)
			start := time.Now()
			k.process().Signal(sigterm)
			if status := k.process().Wait(); status != 0 {
				t.Errorf("kernel %d: exit status %d", i, status)
			}
			took := time.Since(start)
			if took < 2*time.Second {
				t.Errorf("kernel %d ended after %v, before Envoy could know", i, took)
			}
			l.wait(10)
			k.start()
			waitHealthyKernels(t, e, 2)
			l.wait(20)
			t.Logf("round %d, kernel %d: ended after %v, back after %v", round, i, took, time.Since(start))
		}
	}
	l.stop()
	checkLogs(t, e, []string{"a1", "a2", "b"})
}

// waitHealthyKernels waits until Envoy knows so many kernels as healthy.
func waitHealthyKernels(t *testing.T, e *harness.Engine, want int) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("Envoy has %d healthy kernels", want), func() error {
		resp, err := http.Get("http://" + e.EnvoyAdmin + "/stats?filter=cluster.policy_engine.membership_healthy")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var n int
		if _, err := fmt.Fscanf(resp.Body, "cluster.policy_engine.membership_healthy: %d", &n); err != nil || n != want {
			return fmt.Errorf("%d, error %v", n, err)
		}
		return nil
	})
}
