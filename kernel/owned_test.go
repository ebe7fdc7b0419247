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

// TestOwnedHeadersAreCarriedOver: a worker that is away at a reload has reported its owned headers before, as long as the
// parameters stay the same.
func TestOwnedHeadersAreCarriedOver(t *testing.T) {
	d := &distributor{live: make(map[uint64]*route.Table)}
	generation := uint64(0)
	bring := func(params string, reported ...*workerv1.OwnedHeaders) (known bool, names []string) {
		t.Helper()
		generation++
		cfg := &config.Kernel{
			Workers: []config.WorkerRef{{Name: "w"}},
			Routes: []config.Route{
				{Name: "r", Request: config.Flow{Chain: []config.Policy{
					{Name: "key", Params: []byte(params), OnFailure: config.OnFailureContinue}, {Name: "limit", OnFailure: config.OnFailureContinue},
				}}},
				// The same policy with the same parameters stands in two chains.
				{Name: "s", Request: config.Flow{Chain: []config.Policy{{Name: "limit", OnFailure: config.OnFailureContinue}}}},
			},
		}
		headers := []workerv1.Phase{workerv1.Phase_PHASE_REQUEST_HEADERS}
		table, chains, err := route.Compile(generation, cfg, []route.Offer{{Worker: named("w"), Discovered: true, Policies: []*workerv1.PolicyDescriptor{
			{Name: "key", Phases: headers}, {Name: "limit", Phases: headers},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		p := &pushed{table: table, chains: chains, reports: make(map[string][]*workerv1.OwnedHeaders)}
		d.setPushing(p)
		if reported != nil {
			d.acknowledged(generation, "w", reported)
		}
		d.carryOver(p)
		d.live[generation] = table
		d.setPushing(nil)
		return namesOf(table)
	}
	owned := &workerv1.OwnedHeaders{Chain: 1, Policy: 0, Names: []string{"x-user-id"}}

	if known, _ := bring("1"); known {
		t.Error("known of a worker that was never there")
	}
	if known, names := bring("1", owned); !known || len(names) != 1 {
		t.Errorf("reported: %t, %v", known, names)
	}
	if known, names := bring("1"); !known || len(names) != 1 || names[0] != "x-user-id" {
		t.Errorf("the worker is gone: %t, %v", known, names)
	}
	if known, _ := bring("2"); known {
		t.Error("known of parameters that no worker has seen")
	}
	d.acknowledged(generation, "w", []*workerv1.OwnedHeaders{{Chain: 1, Policy: 0, Names: []string{"x-other"}}})
	if known, names := namesOf(d.live[generation]); !known || len(names) != 1 || names[0] != "x-other" {
		t.Errorf("the worker has come back: %v, %t", names, known)
	}
}

// namesOf are the owned headers of a table, and whether they are known.
func namesOf(table *route.Table) (known bool, names []string) {
	owned := table.Owned(table.Lookup("r"))
	if owned == nil {
		return false, nil
	}
	return true, owned.Headers.Names()
}
