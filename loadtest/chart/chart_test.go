package chart

import (
	"encoding/xml"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
)

// TestWellFormed: each diagram is XML whatever it is given, and has no number that a browser can't draw.
func TestWellFormed(t *testing.T) {
	series := []Series{{"a <b> & c", []Point{{1, 2}, {2, 0}}}, {"one point", []Point{{1, 1}}}, {"none", nil}}
	for name, svg := range map[string]string{
		"lines":             Lines("L & <x>", "s", series),
		"no lines":          Lines("L", "s", nil),
		"zeros":             Lines("L", "s", []Series{{"z", []Point{{0, 0}, {0, 0}}}}),
		"bars":              Bars("B", []string{"one", "two"}, []Bar{{"a<", []float64{1, 2}, "n&"}, {"b", []float64{0, 0}, ""}}),
		"no bars":           Bars("B", nil, nil),
		"distribution":      Distribution("D", "ms", []Share{{0, 0.5, 3}, {0.5, 1, 4}, {9, 100, 1}}, []Mark{{"P50", 0.5}, {"P99", 100}}),
		"of one":            Distribution("D", "ms", []Share{{1, 1, 3}}, []Mark{{"P50", 1}}),
		"of nothing":        Distribution("D", "ms", nil, []Mark{{"P50", 0}}),
		"more than colours": Lines("L", "s", slices.Repeat(series[:1], 9)),
	} {
		for _, bad := range []string{"NaN", "Inf", "%!"} {
			if strings.Contains(svg, bad) {
				t.Errorf("%s has %s: %s", name, bad, svg)
			}
		}
		for _, text := range []string{svg, string(Standalone(svg))} {
			for d := xml.NewDecoder(strings.NewReader(text)); ; {
				if _, err := d.Token(); err == io.EOF {
					break
				} else if err != nil {
					t.Errorf("%s: %v in %s", name, err, text)
					break
				}
			}
		}
	}
}

func TestTicks(t *testing.T) {
	for _, highest := range []float64{-1, 0, 1e-9, 0.3, 1, 4, 4.1, 99, 100, 101, 12345, 1e12, math.Inf(1), math.NaN()} {
		got := ticks(highest)
		if got[0] != 0 || len(got) < 2 || len(got) > 7 || !slices.IsSorted(got) || highest > 0 && !math.IsInf(highest, 0) && got[len(got)-1] < highest {
			t.Errorf("%v: %v", highest, got)
		}
	}
}

func TestPage(t *testing.T) {
	page := string(Page("A <title>", Text("1 < 2"), Table([][]string{{"a", "b"}, {"<c>", "d"}}), Figures([][2]string{{"n", "<v>"}})))
	for _, want := range []string{"A &lt;title&gt;", "1 &lt; 2", "<th>a</th>", "<td>&lt;c&gt;</td>", "<dd>&lt;v&gt;</dd>"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in %s", want, page)
		}
	}
}
