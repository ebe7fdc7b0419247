package bucket

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/policies/policytest"
)

func keyOf(shard byte, n uint64) Key {
	k := Key{shard}
	binary.BigEndian.PutUint64(k[8:], n)
	return k
}

// oncePerHour admits one request per hour, so that buckets live long.
func oncePerHour(t testing.TB) *Rate {
	r, ok := NewRate(1, int64(time.Hour), 1, 1)
	if !ok {
		t.Fatal("the rate is refused")
	}
	return &r
}

func TestMadeUpKeysHarmNobody(t *testing.T) {
	s, a, r := newStore(policytest.Start, 8*minSweep, 1<<20), &Account{}, oncePerHour(t)
	now := policytest.Start
	victim := keyOf(1, 0)
	if !s.Take(victim, a, r, now).Allowed {
		t.Fatal("the first request is refused")
	}
	admitted, shared := 0, 0
	for n := range uint64(100_000) {
		now = now.Add(time.Millisecond)
		d := s.Take(keyOf(1, n+1), a, r, now)
		if d.Allowed {
			admitted++
		}
		if d.Shared {
			shared++
		}
	}
	sh := &s.shards[1]
	if len(sh.buckets) > 8*minSweep || a.buckets.Load() != int64(len(sh.buckets)) {
		t.Errorf("%d buckets, %d counted", len(sh.buckets), a.buckets.Load())
	}
	if admitted > 8*minSweep+1 || shared < 100_000-8*minSweep {
		t.Errorf("%d were admitted, %d shared a bucket", admitted, shared)
	}
	if d := s.Take(victim, a, r, now); d.Allowed || d.Shared {
		t.Errorf("the victim's bucket is gone: %+v", d)
	}
	// The flood is over, its buckets have filled up: there is room again.
	now = now.Add(2 * time.Hour)
	if d := s.Take(keyOf(1, 1<<40), a, r, now); !d.Allowed || d.Shared {
		t.Errorf("no room after the flood: %+v", d)
	}
	if len(sh.buckets) != 1 || a.buckets.Load() != 1 {
		t.Errorf("%d buckets are left, %d counted", len(sh.buckets), a.buckets.Load())
	}
}

func TestAPlaceHasItsShare(t *testing.T) {
	s, r := newStore(policytest.Start, 1<<20, 100), oncePerHour(t)
	flooded, other := &Account{}, &Account{}
	for n := range uint64(10_000) {
		s.Take(keyOf(byte(n), n), flooded, r, policytest.Start)
	}
	if n := flooded.buckets.Load(); n != 100 {
		t.Errorf("the place has %d buckets", n)
	}
	if d := s.Take(keyOf(1, 1<<40), other, r, policytest.Start); !d.Allowed || d.Shared {
		t.Errorf("another place is without room: %+v", d)
	}
}

func TestDeadBucketsAreDropped(t *testing.T) {
	s, a := newStore(policytest.Start, maxPerShard, maxPerPlace), &Account{}
	r, _ := NewRate(1, int64(time.Second), 1, 1)
	now := policytest.Start
	for n := range uint64(100_000) {
		now = now.Add(10 * time.Millisecond) // 100 live at any time.
		if d := s.Take(keyOf(0, n), a, &r, now); !d.Allowed || d.Shared {
			t.Fatalf("request %d: %+v", n, d)
		}
	}
	if n := len(s.shards[0].buckets); n > 4*100 {
		t.Errorf("%d buckets for 100 clients", n)
	}
}

func TestTheClockGoesBackwards(t *testing.T) {
	s, a, r := newStore(policytest.Start, maxPerShard, maxPerPlace), &Account{}, oncePerHour(t)
	k := keyOf(0, 0)
	s.Take(k, a, r, policytest.Start.Add(time.Hour))
	for _, at := range []time.Duration{time.Minute, -time.Hour, 119 * time.Minute, 0} {
		if d := s.Take(k, a, r, policytest.Start.Add(at)); d.Allowed {
			t.Errorf("admitted at %v", at)
		}
	}
	if d := s.Take(k, a, r, policytest.Start.Add(2*time.Hour)); !d.Allowed {
		t.Error("refused after an hour")
	}
	// The clock was a year ahead and comes back: time stands still, and does not run backwards.
	s.Take(k, a, r, policytest.Start.AddDate(1, 0, 0))
	if d := s.Take(k, a, r, policytest.Start.Add(3*time.Hour)); d.Allowed || d.RetryAfter > int64(time.Hour) {
		t.Errorf("%+v", d)
	}
	// Nor does the end of time overflow.
	if d := s.Take(keyOf(0, 1), a, r, time.Unix(1<<50, 0)); !d.Allowed {
		t.Errorf("%+v", d)
	}
	if d := s.Take(keyOf(0, 1), a, r, time.Unix(1<<50, 0)); d.Allowed {
		t.Errorf("%+v", d)
	}
}

func TestClientsAtOnce(t *testing.T) {
	const clients, requests, burst = 8, 4000, 100
	s, a := newStore(policytest.Start, maxPerShard, 4), &Account{}
	r, _ := NewRate(burst, int64(time.Hour), burst, 1)
	var admitted [clients]atomic.Int64
	var wait sync.WaitGroup
	for g := range 4 {
		wait.Go(func() {
			for i := range requests {
				c := (i + g) % clients
				if d := s.Take(keyOf(byte(c), uint64(c)), a, &r, policytest.Start); d.Allowed {
					admitted[c].Add(1)
				}
			}
		})
	}
	wait.Wait()
	total := int64(0)
	for c := range admitted {
		if n := admitted[c].Load(); n > burst {
			t.Errorf("client %d: %d admitted", c, n)
		}
		total += admitted[c].Load()
	}
	// Those without a bucket share one.
	if n := a.buckets.Load(); total != burst*(n+1) || n < 4 {
		t.Errorf("%d admitted with %d buckets", total, n)
	}
}
