package main

import (
	"fmt"
	"slices"
)

// tolerance is what may be more at the end than before: a part of it, and so much besides, for what comes and goes.
type tolerance struct {
	part float64
	more float64
}

// median is the middle one of values, 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// trend compares the last quarter of a line with the second one: the first is for warming up. Medians don't mind what comes and goes.
type trend struct {
	Before float64 `json:"second_quarter"`
	After  float64 `json:"last_quarter"`
	// Grew: it is more than the tolerance allows.
	Grew bool `json:"grew"`
}

func judge(values []float64, t tolerance) trend {
	n := len(values)
	tr := trend{Before: median(values[n/4 : n/2]), After: median(values[n-n/4:])}
	tr.Grew = tr.After > tr.Before*(1+t.part)+t.more
	return tr
}

func (t trend) String() string {
	verdict := ""
	if t.Grew {
		verdict = " LEAK"
	}
	return fmt.Sprintf("%.0f → %.0f%s", t.Before, t.After, verdict)
}
