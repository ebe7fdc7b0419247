package route

import "testing"

// TestTrustedHopsOfAllChains: the number of trusted proxies is one for all policies of a kernel, whichever worker runs
// them, and follows the configuration from table to table.
func TestTrustedHopsOfAllChains(t *testing.T) {
	for _, hops := range []int{0, 1, 32} {
		cfg := ownedKernel()
		cfg.ClientAddress.TrustedHops = hops
		_, chains, err := Compile(1, cfg, []Offer{offerOf("w1", "auth"), offerOf("w2", "guard")})
		if err != nil || len(chains) != 2 {
			t.Fatal(chains, err)
		}
		for worker, list := range chains {
			for _, c := range list {
				if c.TrustedHops != uint32(hops) {
					t.Errorf("chain %d of %s has %d hops, want %d", c.Id, worker, c.TrustedHops, hops)
				}
			}
		}
	}
}
