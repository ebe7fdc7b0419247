package kernel

import (
	"testing"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// named is an evaluator that is never called.
type named string

func (n named) Name() string       { return string(n) }
func (named) Available() bool      { return false }
func (named) Evaluate(*route.Call) { panic("never") }

// TestClaimsAreRecalled: a worker that is gone at a reload has told before what its policies claim, as long as their parameters stay the same.
func TestClaimsAreRecalled(t *testing.T) {
	d := &distributor{live: make(map[uint64]*route.Table)}
	generation := uint64(0)
	bring := func(params string, told ...*workerv1.Claims) (known bool, names []string) {
		t.Helper()
		generation++
		cfg := &config.Kernel{
			Workers: []config.WorkerRef{{Name: "w"}},
			Routes: []config.Route{{Name: "r", Request: config.Flow{Chain: []config.Policy{
				{Name: "key", Params: []byte(params), OnFailure: config.OnFailureContinue}, {Name: "limit", OnFailure: config.OnFailureContinue},
			}}}},
		}
		headers := []workerv1.Phase{workerv1.Phase_PHASE_REQUEST_HEADERS}
		table, chains, err := route.Compile(generation, cfg, []route.Offer{{Worker: named("w"), Discovered: true, Policies: []*workerv1.PolicyDescriptor{
			{Name: "key", Phases: headers}, {Name: "limit", Phases: headers},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		p := &pushed{table: table, chains: chains, told: make(map[string][]*workerv1.Claims)}
		d.setPushing(p)
		if told != nil {
			d.acknowledged(generation, "w", told)
		}
		d.recall(p)
		d.live[generation] = table
		d.setPushing(nil)
		s := table.Lookup("r").Request.Headers[0]
		names, known = s.Claims.Of(s.Chain, 0)
		return known, names
	}
	claims := &workerv1.Claims{Chain: 1, Policy: 0, Names: []string{"x-user-id"}}

	if known, _ := bring("1"); known {
		t.Error("known of a worker that was never there")
	}
	if known, names := bring("1", claims); !known || len(names) != 1 {
		t.Errorf("told: %t, %v", known, names)
	}
	if known, names := bring("1"); !known || len(names) != 1 || names[0] != "x-user-id" {
		t.Errorf("the worker is gone: %t, %v", known, names)
	}
	if known, _ := bring("2"); known {
		t.Error("known of parameters that no worker has seen")
	}
	d.acknowledged(generation, "w", []*workerv1.Claims{{Chain: 1, Policy: 0, Names: []string{"x-other"}}})
	s := d.live[generation].Lookup("r").Request.Headers[0]
	if names, known := s.Claims.Of(s.Chain, 0); !known || len(names) != 1 || names[0] != "x-other" {
		t.Errorf("the worker has come back: %v, %t", names, known)
	}
}
