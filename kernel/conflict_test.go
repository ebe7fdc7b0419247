package kernel

import (
	"fmt"
	"strings"
	"testing"
)

// TestConflictOfOwners starts a kernel whose second worker offers the first one's policy: the first in the configuration
// owns it, whichever comes first. The conflict ends neither the start nor a reload; log, metric and /workers name both.
func TestConflictOfOwners(t *testing.T) {
	first, second := socketPath(t), socketPath(t)
	workers := strings.Replace(workerText(first), "worker-1", "owner", 1) + strings.Replace(workerText(second), "worker-1", "hostile", 1)
	(&fakeWorker{name: "hostile", policies: []string{"guard", "made-up"}}).start(t, second)
	r := launchFile(t, kernelText("", workers, "a"))
	eventually(t, "the first table", func() bool { return len(r.log.lines("configuration in use")) > 0 })
	kill := (&fakeWorker{name: "owner", policies: []string{"guard", "made-up"}}).start(t, first)
	r.ready()
	conflicts := `policy_kernel_policy_conflicts{worker="hostile",policy="guard"} 1` + "\n" +
		`policy_kernel_policy_conflicts{worker="hostile",policy="unused"} 1` + "\n"
	eventually(t, "both conflicts are shown", func() bool { return r.metrics("policy_kernel_policy_conflicts") == conflicts })
	if _, page := r.get("/workers"); !strings.Contains(page, `{"policy":"guard","owner":"owner","other":"hostile"}`) {
		t.Errorf("/workers: %s", page)
	}
	if n := len(r.log.lines(`"policy":"guard","owner":"owner","other":"hostile"`)); n != 1 {
		t.Errorf("%d lines name the conflict", n)
	}
	r.reload(kernelText("", workers, "a", "b"), "success")
	if got := r.ask("b"); got != 0 {
		t.Errorf("the new route: %d", got)
	}
	// The owner decides: without it, its routes refuse, though the other worker offers the policy.
	kill()
	eventually(t, "the routes refuse", func() bool { return r.ask("a") == 503 && r.ask("b") == 503 })
	// Without a route that has it, the policy's name is no label any more.
	r.reload(kernelText("", workers), "success")
	unused := `policy_kernel_policy_conflicts{worker="hostile",policy="unused"} 2` + "\n"
	eventually(t, "no label of an unused policy", func() bool { return r.metrics("policy_kernel_policy_conflicts") == unused })
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// TestIgnoredOffersAreNoOffers reloads while the owner of a policy leaves its new sockets silent: another worker's offer
// of the policy, which is ignored, does not make up for it.
func TestIgnoredOffersAreNoOffers(t *testing.T) {
	first, second := socketPath(t), socketPath(t)
	workers := strings.Replace(workerText(first), "worker-1", "owner", 1) + strings.Replace(workerText(second), "worker-1", "hostile", 1)
	(&fakeWorker{name: "owner", policies: []string{"guard"}}).start(t, first)
	(&fakeWorker{name: "hostile", policies: []string{"guard"}}).start(t, second)
	r := launchFile(t, kernelText("", workers, "a"))
	r.ready()
	r.reload(kernelText("", strings.Replace(workers, first, "/nowhere/w.sock", 1), "a"), "failure")
	if got := r.ask("a"); got != 0 {
		t.Errorf("the last good configuration: %d", got)
	}
	if n := len(r.log.lines(fmt.Sprintf("no worker offers policy %s", `\"guard\"`))); n == 0 {
		t.Error("no line names the policy that would be lost")
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}
