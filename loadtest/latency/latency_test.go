package latency

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestPercentile compares with the nearest rank of all values, sorted.
func TestPercentile(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for name, tt := range map[string]struct {
		n    int
		draw func() time.Duration
	}{
		"one":         {1, func() time.Duration { return 3 * time.Millisecond }},
		"all alike":   {1000, func() time.Duration { return 1700 * time.Microsecond }},
		"zero":        {10, func() time.Duration { return 0 }},
		"negative":    {10, func() time.Duration { return -time.Second }},
		"short":       {5000, func() time.Duration { return time.Duration(r.Int64N(int64(32 * time.Microsecond))) }},
		"exponential": {20000, func() time.Duration { return time.Duration(r.ExpFloat64() * float64(5*time.Millisecond)) }},
		"wide":        {20000, func() time.Duration { return time.Duration(math.Exp(r.Float64()*25) * 1000) }},
	} {
		t.Run(name, func(t *testing.T) {
			var h, left, right Histogram
			values := make([]time.Duration, tt.n)
			for i := range values {
				d := tt.draw()
				values[i] = max(d, 0)
				h.Add(d)
				if i%3 == 0 {
					left.Add(d)
				} else {
					right.Add(d)
				}
			}
			slices.Sort(values)
			left.Merge(&right)
			left.Merge(new(Histogram))
			for _, p := range []float64{0, 1, 50, 90, 99, 99.9, 99.99, 100} {
				want := values[max(int(math.Ceil(p/100*float64(tt.n))), 1)-1]
				got := h.Percentile(p)
				if got < want-unit || float64(got) > float64(want)*(1+1.0/(1<<precision))+float64(unit) {
					t.Errorf("P%v is %v, want %v", p, got, want)
				}
				if merged := left.Percentile(p); merged != got {
					t.Errorf("P%v is %v after a merge, %v without", p, merged, got)
				}
			}
			if h.Max() != values[tt.n-1] || h.Count() != uint64(tt.n) {
				t.Errorf("the longest is %v of %d, want %v of %d", h.Max(), h.Count(), values[tt.n-1], tt.n)
			}
			var counted uint64
			last := time.Duration(-1)
			for _, b := range h.Bars() {
				if counted += b.Count; b.From < last || b.To <= b.From {
					t.Errorf("bar %v–%v comes after %v", b.From, b.To, last)
				}
				last = b.To
			}
			if counted != h.Count() {
				t.Errorf("the bars have %d, want %d", counted, h.Count())
			}
		})
	}
}

func TestNothing(t *testing.T) {
	var h Histogram
	if h.Percentile(99) != 0 || h.Mean() != 0 || h.Max() != 0 || h.Bars() != nil {
		t.Error("an empty histogram tells something")
	}
}

// TestBuckets: each value is in the bucket whose borders it has, up to the longest.
func TestBuckets(t *testing.T) {
	for units := uint64(0); units < 1<<39; units += 1 + units/97 {
		i := bucket(units)
		if d := time.Duration(units) * unit; i >= buckets || d < lower(i) || d >= upper(i) {
			t.Fatalf("%v is in bucket %d, %v to %v", d, i, lower(i), upper(i))
		}
	}
	var h Histogram
	h.Add(math.MaxInt64)
	if h.Percentile(50) != math.MaxInt64 {
		t.Errorf("the longest of all is %v", h.Percentile(50))
	}
}

func TestAddDoesNotAllocate(t *testing.T) {
	var h Histogram
	if n := testing.AllocsPerRun(100, func() { h.Add(time.Millisecond) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
