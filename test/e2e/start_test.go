package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

// TestMistakes: a configuration with a mistake never serves. The kernel says where the mistake is, also when only a worker could find it.
func TestMistakes(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, routes, want string }{
		{"a key of a later version", "      request_flow: {policy_chain: [{policy: witnessA, params: {name: a}, when: \"true\"}]}", "when"},
		{"an unknown parameter", "      request_flow: {policy_chain: [{policy: witnessA, params: {name: a, nam: b}}]}", "request_flow.policy_chain[0].params.nam"},
		{"a missing parameter", "      request_flow: {policy_chain: [{policy: witnessA}]}", "request_flow.policy_chain[0]"},
		{"a parameter of another type", "      request_flow: {policy_chain: [{policy: witnessA, params: {name: 5}}]}", "request_flow.policy_chain[0].params.name"},
		{"an illegal value", "      request_flow: {policy_chain: [{policy: answerA, params: {if: x, status: 99}}]}", "request_flow.policy_chain[0].params.status"},
		{"a policy in a flow that it has no part in", "      response_flow: {policy_chain: [{policy: waitA}]}", "response_flow.policy_chain[0]"},
		{"a route twice", "    - route_name: r", "route_policies[1].route_name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := harness.Prepare(t, harness.Spec{
				Kernel: twoWorkers + "  route_policies:\n    - route_name: r\n" + tt.routes + "\n", NoEnvoy: true,
				Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
			})
			e.StartWorker("a")
			e.StartWorker("b")
			e.StartKernel()
			if status := e.Kernel.Wait(); status != 2 {
				t.Errorf("exit status %d, want 2", status)
			}
			if out := e.Kernel.Output(); !strings.Contains(out, "kernel.yaml:") || !strings.Contains(out, tt.want) {
				t.Errorf("the kernel does not name the file, the line and %s:\n%s", tt.want, out)
			}
		})
	}
	t.Run("two workers with the same policy", func(t *testing.T) {
		t.Parallel()
		e := harness.Prepare(t, harness.Spec{
			Kernel: twoWorkers + "  route_policies: [{route_name: r, request_flow: {policy_chain: [{policy: witnessA, params: {name: a}}]}}]\n", NoEnvoy: true,
			Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "A")},
		})
		e.StartWorker("a")
		e.StartWorker("b")
		e.StartKernel()
		if harness.OneProcess() { // Both are in the same program: its author's mistake.
			if status := e.Kernel.Wait(); status != 2 {
				t.Errorf("exit status %d, want 2", status)
			}
		} else { // One of them can be hostile: the first of the configuration owns the policy, and the other ends nothing.
			e.WaitReady()
			kernel := dialKernel(t, e.ExtProc)
			harness.Eventually(t, "the owner's policy runs", func() error {
				r, err := kernel.exchange("r")
				if got := outcome(r, err); got != "pass" {
					return fmt.Errorf("the request is %s, %v", got, err)
				}
				return nil
			})
			harness.Eventually(t, "the conflict is counted", func() error {
				const series = `policy_kernel_policy_conflicts{worker="worker-b",policy="witnessA"}`
				if n := e.Scrape()[series]; n != 1 {
					return fmt.Errorf("%s is %v, want 1", series, n)
				}
				return nil
			})
		}
		for _, owner := range []string{"worker-a", "worker-b", "witnessA"} {
			if !strings.Contains(e.Kernel.Output(), owner) {
				t.Errorf("the kernel does not name %s:\n%s", owner, e.Kernel.Output())
			}
		}
	})
	t.Run("a worker's file", func(t *testing.T) {
		t.Parallel()
		harness.NeedWorkerProcesses(t)
		spec := testWorker("a", "worker-a", "A")
		spec.Config += "  nonsense: 1\n"
		e := harness.Prepare(t, harness.Spec{Kernel: twoWorkers, NoEnvoy: true, Workers: []harness.WorkerSpec{spec}})
		e.StartWorker("a")
		if status := e.Worker("a").Wait(); status != 2 || !strings.Contains(e.Worker("a").Output(), "a.yaml:4: policy_worker.nonsense") {
			t.Errorf("exit status %d, want 2, and the line of the mistake:\n%s", status, e.Worker("a").Output())
		}
	})
}

// TestSockets: a worker's socket is its owner's alone, and belongs to one worker at a time.
func TestSockets(t *testing.T) {
	t.Parallel()
	harness.NeedWorkerProcesses(t)
	e := harness.StartEngine(t, harness.Spec{
		Kernel: twoWorkers + gates, NoEnvoy: true,
		Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	})
	info, err := os.Stat(e.RunDir + "/a.sock")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v; want 0600", info.Mode(), err)
	}
	c := dialKernel(t, e.ExtProc)
	first := e.Worker("a")
	e.StartWorker("a") // on the socket of the one that runs
	if status := e.Worker("a").Wait(); status != 1 || !strings.Contains(e.Worker("a").Output(), "a.sock") {
		t.Errorf("a second worker on the socket: exit status %d, want 1 and the socket's name:\n%s", status, e.Worker("a").Output())
	}
	if got := outcome(c.exchange("gate", "x-deny: 1")); got != "403" || !first.Running() {
		t.Errorf("the first one is disturbed: %s", got)
	}

	// What a killed worker leaves is not in the way of the next one.
	first.Kill()
	if _, err := os.Stat(e.RunDir + "/a.sock"); err != nil {
		t.Fatal(err)
	}
	e.StartWorker("a")
	// The kernel may not have noticed yet that the first one is gone: being ready says nothing of the next one.
	harness.Eventually(t, "the next worker decides", func() error {
		if got := outcome(c.exchange("gate", "x-deny: 1")); got != "403" {
			return fmt.Errorf("the answer is %s", got)
		}
		return nil
	})

	// A file in the socket's place is somebody else's: neither taken for a worker nor removed.
	e.Worker("a").Signal(sigterm)
	e.Worker("a").Wait()
	if err := os.WriteFile(e.RunDir+"/a.sock", []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.StartWorker("a")
	if status := e.Worker("a").Wait(); status != 1 {
		t.Errorf("a worker whose socket's place is taken by a file: exit status %d, want 1", status)
	}
	if text, err := os.ReadFile(e.RunDir + "/a.sock"); err != nil || string(text) != "mine" {
		t.Errorf("the file in the socket's place: %q, error %v", text, err)
	}
	if r, err := c.exchange("gate"); outcome(r, err) != "503" {
		t.Errorf("without its worker: answer %v, error %v", r, err)
	}
	e.WaitNotReady()
}
