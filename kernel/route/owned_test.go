package route

import (
	"fmt"
	"slices"
	"testing"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
)

func ownedKernel(keepOn ...string) *config.Kernel {
	cfg := kernelOf([]string{"w1", "w2"},
		config.Route{Name: "key", Request: chainOf("p", "auth")},
		config.Route{Name: "tenant", Request: chainOf("p", "guard"), Response: chainOf("q", "auth")},
		config.Route{Name: "public"})
	cfg.IdentityHeaders.KeepOn = keepOn
	return cfg
}

func reportOf(chain uint32, names ...string) []*workerv1.OwnedHeaders {
	return []*workerv1.OwnedHeaders{{Chain: chain, Names: names}}
}

// TestOwnedHeadersOfAllRoutes: what a policy of one route owns is owned on all routes, and on those that are not configured.
func TestOwnedHeadersOfAllRoutes(t *testing.T) {
	table, chains, err := Compile(1, ownedKernel(), []Offer{offerOf("w1", "auth"), offerOf("w2", "guard")})
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range chains {
		for _, c := range list {
			for _, p := range c.Policies {
				if !p.ReportOwnedHeaders {
					t.Errorf("the worker of chain %d is not asked for the owned headers of %s", c.Id, p.Name)
				}
			}
		}
	}
	places := []*Route{table.Lookup("key"), table.Lookup("tenant"), table.Lookup("public"), nil}
	check := func(want string) {
		t.Helper()
		for _, r := range places {
			got := "unknown"
			if owned := table.Owned(r); owned != nil {
				got = fmt.Sprint(owned.Headers.Names(), owned.Trailers.Names())
			}
			if got != want {
				t.Errorf("on %v: %s, want %s", r, got, want)
			}
		}
	}
	check("unknown")
	table.Report("w1", []*workerv1.OwnedHeaders{{Chain: 1, Names: []string{"X-User-ID"}, Credentials: []string{"x-api-key", "authorization"}}})
	check("unknown") // The other worker's policies may own more.
	table.Report("w2", reportOf(2, "x-tenant"))
	check("[x-tenant x-user-id] [x-api-key x-tenant x-user-id]")
	table.Report("w2", reportOf(2, "x_tenant", "x-other")) // A replica of another version.
	check("[x-other x-tenant x-user-id] [x-api-key x-other x-tenant x-user-id]")
	table.Report("w2", reportOf(2, "host", "content-type", "authorization", ":path")) // No policy may own these.
	check("[x-other x-tenant x-user-id] [x-api-key x-other x-tenant x-user-id]")
}

// TestKeepOn: on a route in keep_on, clients can send the headers that only policies of other routes own.
func TestKeepOn(t *testing.T) {
	table, _, err := Compile(1, ownedKernel("tenant", "public"), []Offer{offerOf("w1", "auth"), offerOf("w2", "guard")})
	if err != nil {
		t.Fatal(err)
	}
	table.Report("w1", []*workerv1.OwnedHeaders{{Chain: 1, Names: []string{"x-user-id"}}, {Chain: 3, Names: []string{"x-back"}}})
	table.Report("w2", reportOf(2, "x-tenant"))
	for name, want := range map[string][]string{
		"key": {"x-back", "x-tenant", "x-user-id"}, "tenant": {"x-back", "x-tenant"}, "public": nil,
	} {
		if got := table.Owned(table.Lookup(name)).Headers.Names(); !slices.Equal(got, want) {
			t.Errorf("on %s: %v, want %v", name, got, want)
		}
	}
	if got := table.Owned(nil).Headers.Len(); got != 3 {
		t.Errorf("on an unknown route: %d names, want 3", got)
	}
}

// TestOwnedHeadersOfUnknownWorkers: while a worker was never there, what its policies own is not known.
func TestOwnedHeadersOfUnknownWorkers(t *testing.T) {
	away := Offer{Worker: fakeWorker("w2")}
	table, _, err := Compile(1, ownedKernel(), []Offer{offerOf("w1", "auth"), away})
	if err != nil {
		t.Fatal(err)
	}
	table.Report("w1", nil)
	if table.Owned(nil) != nil {
		t.Error("known though a policy's worker was never there")
	}
	// A policy that no worker offers runs nowhere.
	table, _, err = Compile(2, ownedKernel(), []Offer{offerOf("w1", "auth"), offerOf("w2")})
	if err != nil {
		t.Fatal(err)
	}
	table.Report("w1", nil)
	if table.Owned(nil) == nil {
		t.Error("unknown though all workers have reported")
	}
	// Without policies there is nothing to report.
	table, _, err = Compile(3, kernelOf([]string{"w1"}, config.Route{Name: "public"}), []Offer{{Worker: fakeWorker("w1")}})
	if err != nil {
		t.Fatal(err)
	}
	if owned := table.Owned(table.Lookup("public")); owned == nil || owned.Headers.Len() != 0 {
		t.Error("unknown though no policy is configured")
	}
}
