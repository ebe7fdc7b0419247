package main

import (
	"math/rand/v2"
	"testing"
)

// TestTrend: what grows is found, what comes and goes is not.
func TestTrend(t *testing.T) {
	noise := rand.New(rand.NewPCG(1, 2))
	line := func(f func(i int) float64) []float64 {
		values := make([]float64, 120)
		for i := range values {
			values[i] = f(i)
		}
		return values
	}
	tol := tolerance{part: 0.1, more: 8}
	for name, tt := range map[string]struct {
		values []float64
		grew   bool
	}{
		"flat":                       {line(func(int) float64 { return 50 }), false},
		"noise":                      {line(func(int) float64 { return 50 + 20*noise.Float64() }), false},
		"warming up":                 {line(func(i int) float64 { return min(50, 10+4*float64(i)) }), false},
		"a saw":                      {line(func(i int) float64 { return 40 + float64(i%20) }), false},
		"peaks":                      {line(func(i int) float64 { return 50 + 500*float64((i+1)%30/29) }), false},
		"falls":                      {line(func(i int) float64 { return 100 - float64(i)/2 }), false},
		"a leak":                     {line(func(i int) float64 { return 50 + float64(i)/2 }), true},
		"a leak under noise":         {line(func(i int) float64 { return 50 + float64(i)/2 + 20*noise.Float64() }), true},
		"a leak that starts halfway": {line(func(i int) float64 { return 50 + float64(max(0, i-60)) }), true},
		"a step":                     {line(func(i int) float64 { return 50 + 30*float64(i/80) }), true},
		"too little to tell":         {[]float64{1, 100}, false},
		"nothing":                    {nil, false},
	} {
		if got := judge(tt.values, tol); got.Grew != tt.grew {
			t.Errorf("%s: %v, want %v", name, got, tt.grew)
		}
	}
}
