package bucket

import (
	"encoding/json"
	"math"
	"math/big"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestVectors(t *testing.T) {
	// testdata/gcra_vectors.json names its source and licence.
	text, err := os.ReadFile("testdata/gcra_vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		Quota struct {
			RatePerSecond int64 `json:"rate_per_s"`
			Limit         int64 `json:"limit"`
		} `json:"quota"`
		Rows [][6]any `json:"rows"`
	}
	if err := json.Unmarshal(text, &vectors); err != nil || len(vectors.Rows) == 0 {
		t.Fatal(err)
	}
	r, ok := NewRate(vectors.Quota.RatePerSecond, int64(time.Second), vectors.Quota.Limit, 1)
	if !ok {
		t.Fatal("the rate is refused")
	}
	ms := func(v any) int64 { return int64(v.(float64)) * int64(time.Millisecond) }
	var tat moment
	for i, row := range vectors.Rows {
		step, _ := r.span(int64(row[1].(float64)))
		var got Decision
		tat, got = r.decide(tat, ms(row[0]), step)
		want := Decision{Allowed: !row[5].(bool), Remaining: int64(row[2].(float64)), ResetAfter: ms(row[3]), RetryAfter: ms(row[4])}
		if row[4].(float64) < 0 { // The source has -1 for both.
			want.RetryAfter = 0
			if !want.Allowed {
				want.RetryAfter = -1
			}
		}
		if got != want {
			t.Errorf("row %d %v: %+v, want %+v", i, row, got, want)
		}
	}
}

// model is a bucket of exact fractions: what is in it flows out of an equation, not out of a TAT.
type model struct {
	level *big.Rat // units that are left
	at    int64
	rate  Rate
}

func (m *model) take(now, n int64) (bool, int64) {
	m.level.Add(m.level, new(big.Rat).Mul(big.NewRat(now-m.at, m.rate.Per), big.NewRat(m.rate.Requests, 1)))
	if full := big.NewRat(m.rate.Burst, 1); m.level.Cmp(full) > 0 {
		m.level.Set(full)
	}
	m.at = now
	units := big.NewRat(n, 1)
	allowed := m.level.Cmp(units) >= 0
	if allowed {
		m.level.Sub(m.level, units)
	}
	return allowed, new(big.Int).Quo(m.level.Num(), m.level.Denom()).Int64()
}

// rates draws rates of all sizes, prime ones among them.
var rates = rapid.Custom(func(t *rapid.T) Rate {
	for {
		requests := rapid.Int64Range(1, rapid.SampledFrom([]int64{10, 1000, MaxRequests}).Draw(t, "up to")).Draw(t, "requests")
		per := rapid.Int64Range(int64(MinPer), int64(rapid.SampledFrom([]time.Duration{time.Second, time.Hour, MaxPer}).Draw(t, "within"))).Draw(t, "per")
		burst := rapid.Int64Range(1, rapid.SampledFrom([]int64{1, 20, MaxRequests}).Draw(t, "burst up to")).Draw(t, "burst")
		if r, ok := NewRate(requests, per, burst, rapid.Int64Range(1, burst).Draw(t, "cost")); ok {
			return r
		}
	}
})

func TestDecideIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rates.Draw(t, "rate")
		now := rapid.Int64Range(0, latestNow-int64(MaxPer)).Draw(t, "start")
		m := &model{level: big.NewRat(r.Burst, 1), at: now, rate: r}
		var tat moment
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now += rapid.Int64Range(0, min(r.full.ns*2+2, int64(MaxPer)/30)).Draw(t, "wait")
			n := rapid.Int64Range(0, r.Burst).Draw(t, "n")
			step, _ := r.span(n)
			before := tat
			var d Decision
			tat, d = r.decide(tat, now, step)
			allowed, left := m.take(now, n)
			if d.Allowed != allowed || d.Remaining != left {
				t.Fatalf("decided %+v, the model says %v with %d left", d, allowed, left)
			}
			if d.Allowed != (d.RetryAfter == 0) || d.ResetAfter < 0 || d.ResetAfter > r.full.ceil() {
				t.Fatalf("decided %+v", d)
			}
			if !d.Allowed { // Not sooner, and then surely.
				if _, again := r.decide(before, now+d.RetryAfter-1, step); again.Allowed {
					t.Fatalf("admitted before %d ns", d.RetryAfter)
				}
				if _, again := r.decide(before, now+d.RetryAfter, step); !again.Allowed {
					t.Fatalf("not admitted after %d ns", d.RetryAfter)
				}
			}
		}
	})
}

// In no stretch of time are more than burst + rate * length units admitted.
func TestNeverMoreThanBurstAndRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rates.Draw(t, "rate")
		type admission struct{ at, units int64 }
		var admitted []admission
		var tat moment
		now := int64(0)
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			now += rapid.Int64Range(0, max(1, r.step.ns)).Draw(t, "wait")
			var d Decision
			tat, d = r.decide(tat, now, r.step)
			if d.Allowed {
				admitted = append(admitted, admission{now, r.Cost})
			}
		}
		for i := range admitted {
			sum := int64(0)
			for _, a := range admitted[i:] {
				sum += a.units
				// sum <= burst + length * requests / per
				bound := new(big.Int).Mul(big.NewInt(a.at-admitted[i].at), big.NewInt(r.Requests))
				bound.Add(bound, new(big.Int).Mul(big.NewInt(r.Burst), big.NewInt(r.Per)))
				if new(big.Int).Mul(big.NewInt(sum), big.NewInt(r.Per)).Cmp(bound) > 0 {
					t.Fatalf("%d units between %d and %d", sum, admitted[i].at, a.at)
				}
			}
		}
	})
}

func TestHugeValues(t *testing.T) {
	for _, c := range []struct {
		requests, per, burst int64
		ok                   bool
	}{
		{1, int64(MaxPer), 9, true},
		{1, int64(MaxPer), 10, false},
		{MaxRequests, int64(MaxPer), MaxRequests, true},
		{1, int64(MaxPer), MaxRequests, false},
		{MaxRequests, int64(MinPer), 1, true},
		{1, math.MaxInt64, math.MaxInt64, false},
	} {
		r, ok := NewRate(c.requests, c.per, c.burst, 1)
		if ok != c.ok {
			t.Errorf("%+v: %v", c, ok)
		}
		if !ok {
			continue
		}
		// At the end of time, a bucket still empties: the burst, and then no more.
		all, _ := r.span(c.burst)
		tat, d := r.decide(moment{}, latestNow, all)
		if !d.Allowed || d.Remaining != 0 || tat.ns < latestNow {
			t.Errorf("%+v: %+v", c, d)
		}
		if _, d := r.decide(tat, latestNow, r.step); d.Allowed || d.RetryAfter <= 0 {
			t.Errorf("%+v: %+v", c, d)
		}
		// Nor does a clock that goes back to its beginning admit anything.
		if _, d := r.decide(tat, 0, r.step); d.Allowed || d.Remaining != 0 || d.RetryAfter <= 0 {
			t.Errorf("%+v at 0: %+v", c, d)
		}
	}
}

func FuzzDecide(f *testing.F) {
	f.Add(int64(7), int64(time.Second), int64(3), int64(1), int64(5), int64(9), int64(100))
	f.Fuzz(func(t *testing.T, requests, per, burst, cost, ns, frac, now int64) {
		if requests < 1 || requests > MaxRequests || per < int64(MinPer) || per > int64(MaxPer) || burst < 1 || burst > MaxRequests || cost < 1 || cost > burst {
			return
		}
		r, ok := NewRate(requests, per, burst, cost)
		if !ok || now < 0 || now > latestNow || ns < 0 || ns > latestNow+maxFull || frac < 0 || frac >= requests {
			return
		}
		tat, d := r.decide(moment{ns, frac}, now, r.step)
		if tat.ns < 0 || tat.frac < 0 || tat.frac >= requests || d.Remaining < 0 || d.Remaining > burst || d.ResetAfter < 0 || d.RetryAfter < 0 {
			t.Errorf("%+v, %+v", tat, d)
		}
		if d.Allowed && tat.after(r.add(moment{ns: now}, r.full)) {
			t.Errorf("admitted more than fits: %+v", tat)
		}
	})
}
