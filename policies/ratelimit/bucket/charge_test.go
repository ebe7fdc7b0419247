package bucket

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/policy-engine/policy-engine/policies/policytest"
)

// What is charged is what could have been taken, as long as it is there; what is given back can be taken again.
func TestChargeIsTaking(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rates.Draw(t, "rate")
		now := rapid.Int64Range(0, 1<<40).Draw(t, "now")
		n := rapid.Int64Range(0, r.Burst).Draw(t, "units")
		step, _ := r.span(n)
		tat, d := r.decide(moment{}, now, step)
		if charged := r.charge(moment{}, now, n); !d.Allowed || charged != tat {
			t.Fatalf("charged %v, taken %v, %+v", charged, tat, d)
		}
		if back := r.charge(tat, now, -n); back.ns != now || back.frac != 0 {
			t.Fatalf("given back: %v, want %d", back, now)
		}
		if back := r.charge(tat, now, math.MinInt64+1); back != (moment{ns: now}) {
			t.Fatalf("more given back than there was: %v", back)
		}
	})
}

func TestWhatIsOwed(t *testing.T) {
	r, _ := NewRate(100, int64(time.Second), 100, 10)
	s := NewStore(policytest.Start)
	a, k, now := s.Account(Key{1}), Key{2}, policytest.Start
	if a != s.Account(Key{1}) || a == s.Account(Key{3}) {
		t.Fatal("an account is not what its name says")
	}
	s.Charge(k, a, &r, -5, now) // There is nothing to give back.
	if n := a.buckets.Load(); n != 0 {
		t.Errorf("%d buckets", n)
	}
	s.Charge(k, a, &r, 290, now) // 190 are owed.
	if d := s.Take(k, a, &r, now.Add(1999*time.Millisecond)); d.Allowed || d.RetryAfter != int64(time.Millisecond) {
		t.Errorf("%+v", d)
	}
	if d := s.Take(k, a, &r, now.Add(2*time.Second)); !d.Allowed {
		t.Errorf("%+v", d)
	}
	// However much is charged, nothing overflows.
	for range 100 {
		s.Charge(k, a, &r, math.MaxInt64, time.Unix(1<<40, 0))
	}
	if d := s.Take(k, a, &r, time.Unix(1<<40, 0)); d.Allowed || d.RetryAfter <= 0 || d.ResetAfter <= 0 {
		t.Errorf("%+v", d)
	}
}

// Clients for which there is no room are charged, all together.
func TestChargeWithoutRoom(t *testing.T) {
	r, _ := NewRate(1, int64(time.Hour), 1, 1)
	s := newStore(policytest.Start, 1<<20, 1)
	a := s.Account(Key{})
	s.Charge(Key{1}, a, &r, 1, policytest.Start)
	s.Charge(Key{2}, a, &r, 1, policytest.Start)
	if n := a.buckets.Load(); n != 1 {
		t.Errorf("%d buckets, there is room for one", n)
	}
	if d := s.Take(Key{3}, a, &r, policytest.Start); d.Allowed || !d.Shared {
		t.Errorf("a client without room is not charged: %+v", d)
	}
}
