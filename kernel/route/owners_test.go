package route

import (
	"slices"
	"testing"

	"github.com/policy-engine/policy-engine/config"
)

// TestOwnersStay: a worker that comes with another's policy neither takes it over nor blocks the next table.
func TestOwnersStay(t *testing.T) {
	undiscovered := func(worker string) Offer { return Offer{Worker: fakeWorker(worker)} }
	for _, tt := range []struct {
		name          string
		workers       []string
		before, after []Offer
		owner         string // of p; empty: the route refuses
		conflicts     []Conflict
	}{
		{
			"a later worker",
			[]string{"w1", "w2"},
			[]Offer{offerOf("w1", "p"), offerOf("w2", "q")},
			[]Offer{offerOf("w1", "p"), offerOf("w2", "q", "p")},
			"w1",
			[]Conflict{{"p", "w1", "w2"}},
		},
		{
			"a worker that the file has first",
			[]string{"w1", "w2"},
			[]Offer{offerOf("w1"), offerOf("w2", "p")},
			[]Offer{offerOf("w1", "p"), offerOf("w2", "p")},
			"w2",
			[]Conflict{{"p", "w2", "w1"}},
		},
		{
			"three",
			[]string{"w1", "w2", "w3"},
			[]Offer{offerOf("w1"), offerOf("w2"), offerOf("w3", "p")},
			[]Offer{offerOf("w1", "p"), offerOf("w2", "p"), offerOf("w3", "p")},
			"w3",
			[]Conflict{{"p", "w3", "w2"}, {"p", "w3", "w1"}},
		},
		{
			"both at once",
			[]string{"w1", "w2"},
			[]Offer{undiscovered("w1"), undiscovered("w2")},
			[]Offer{offerOf("w1", "p"), offerOf("w2", "p")},
			"w1",
			[]Conflict{{"p", "w1", "w2"}},
		},
		{
			"the owner is away",
			[]string{"w1", "w2"},
			[]Offer{offerOf("w1", "p"), offerOf("w2")},
			[]Offer{undiscovered("w1"), offerOf("w2", "p")},
			"",
			[]Conflict{{"p", "w1", "w2"}},
		},
		{
			"the owner gave it up",
			[]string{"w1", "w2"},
			[]Offer{offerOf("w1", "p"), offerOf("w2")},
			[]Offer{offerOf("w1"), offerOf("w2", "p")},
			"w2", nil,
		},
		{
			"the owner left the file",
			[]string{"w2"},
			[]Offer{offerOf("w1", "p"), offerOf("w2")},
			[]Offer{offerOf("w2", "p")},
			"w2", nil,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first, _, err := Compile(1, kernelOf([]string{"w1", "w2", "w3"}), tt.before)
			if err != nil {
				t.Fatal(err)
			}
			cfg := kernelOf(tt.workers, config.Route{Name: "r", Request: chainOf("q", "p")}, config.Route{Name: "other"})
			second, _, err := CompileAfter(first, 2, cfg, tt.after)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(second.Conflicts(), tt.conflicts, func(a, b Conflict) bool {
				return slices.Contains(tt.conflicts, a) && slices.Contains(second.Conflicts(), b)
			}) {
				t.Errorf("conflicts %v, want %v", second.Conflicts(), tt.conflicts)
			}
			r := second.Lookup("r")
			if tt.owner == "" {
				if !r.Undiscovered || !r.Request.Empty() {
					t.Errorf("the route runs: %+v", r)
				}
			} else if r.Undiscovered || len(r.Unsupported) > 0 || r.Request.Headers[0].Worker.Name() != tt.owner {
				t.Errorf("the route is %+v, want it at %s", r, tt.owner)
			}
			// The next table has the same owner.
			third, _, err := CompileAfter(second, 3, cfg, tt.after)
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := third.ownerOf("p"); tt.owner != "" && got != tt.owner || tt.owner == "" && got != "w1" {
				t.Errorf("then the owner is %q", got)
			}
		})
	}
}

// TestOwnersAreRemembered: a worker that is away for several tables stays the owner of its policies.
func TestOwnersAreRemembered(t *testing.T) {
	cfg := kernelOf([]string{"w1", "w2"}, config.Route{Name: "r", Request: chainOf("q", "p")})
	away := Offer{Worker: fakeWorker("w1")}
	var table *Table
	for generation, offers := range [][]Offer{{offerOf("w1", "p"), offerOf("w2")}, {away, offerOf("w2")}, {away, offerOf("w2", "p")}} {
		var err error
		if table, _, err = CompileAfter(table, uint64(generation+1), cfg, offers); err != nil {
			t.Fatal(err)
		}
	}
	if r := table.Lookup("r"); !r.Undiscovered || !r.Request.Empty() {
		t.Errorf("another worker runs the policy: %+v", r)
	}
}

// TestFirstOwners: without a previous table, the order of the workers in the configuration decides, not that of their
// offers.
func TestFirstOwners(t *testing.T) {
	cfg := kernelOf([]string{"w1", "w2", "w3"}, config.Route{Name: "r", Request: chainOf("q", "p")})
	for _, offers := range [][]Offer{
		{offerOf("w1", "p"), offerOf("w2", "p"), offerOf("w3", "p")},
		{offerOf("w3", "p"), offerOf("w2", "p"), offerOf("w1", "p")},
		{offerOf("w2", "p"), offerOf("w1", "p"), offerOf("w3", "p")},
	} {
		table, _, err := Compile(1, cfg, offers)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := table.Conflicts(), []Conflict{{"p", "w1", "w2"}, {"p", "w1", "w3"}}; !slices.Equal(got, want) {
			t.Errorf("conflicts %v, want %v", got, want)
		}
		if r := table.Lookup("r"); r.Request.Headers[0].Worker.Name() != "w1" || !table.Runs("p") || table.Runs("q") {
			t.Errorf("p is run by %s", r.Request.Headers[0].Worker.Name())
		}
	}
}

// TestOffersThatAreIgnored: no worker runs a policy whose owner is away, though another one offers it.
func TestOffersThatAreIgnored(t *testing.T) {
	cfg := kernelOf([]string{"w1", "w2"}, config.Route{Name: "r", Request: chainOf("q", "p")})
	first, _, err := Compile(1, cfg, []Offer{offerOf("w1", "p"), offerOf("w2")})
	if err != nil {
		t.Fatal(err)
	}
	next, _, err := CompileAfter(first, 2, cfg, []Offer{{Worker: fakeWorker("w1")}, offerOf("w2", "p", "s")})
	if err != nil {
		t.Fatal(err)
	}
	if next.Runs("p") || !next.Runs("s") {
		t.Error("an offer that is ignored counts")
	}
}
