package chain

import (
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/fastpath/lane"
)

// TestSuspectsAreMeasured: a run that took long by the clock is no proof. What counts is the processor time of the next
// ones, or that several in a row wait.
func TestSuspectsAreMeasured(t *testing.T) {
	type run struct{ used, took time.Duration }
	short := run{used: 20 * time.Microsecond, took: 30 * time.Microsecond}
	starved := run{used: 20 * time.Microsecond, took: 3 * lane.Slice}
	busy := run{used: markAt, took: markAt}
	for name, tt := range map[string]struct {
		runs         []run
		aside        bool
		stillInDoubt bool
	}{
		"short runs":                       {runs: []run{short, short, short, short}},
		"not enough short runs":            {runs: []run{short, short, short}, stillInDoubt: true},
		"starved once, then short":         {runs: []run{starved, short, short, short, short}},
		"starved now and then":             {runs: []run{starved, starved, short, starved, starved, short}, stillInDoubt: true},
		"waits each time":                  {runs: []run{starved, starved, starved}, aside: true},
		"uses a processor":                 {runs: []run{busy}, aside: true},
		"uses a processor after short run": {runs: []run{short, short, busy}, aside: true},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(1, 0)
			a := &Aside{ThreadTime: func() time.Duration { return 0 }}
			p := new(pace)
			a.suspect(p, now)
			for _, r := range tt.runs {
				a.measured(p, now, r.used, r.took)
			}
			if aside := p.owed.Load() > 0; aside != tt.aside {
				t.Errorf("runs aside: %v, want %v", aside, tt.aside)
			}
			if doubt := p.doubt.Load() > 0; doubt != tt.stillInDoubt {
				t.Errorf("in doubt: %v, want %v", doubt, tt.stillInDoubt)
			}
		})
	}
}

// TestClockAloneMarksAtOnce: where processor time is not known, a run that took long is enough.
func TestClockAloneMarksAtOnce(t *testing.T) {
	p := new(pace)
	(&Aside{}).suspect(p, time.Unix(1, 0))
	if p.owed.Load() == 0 {
		t.Error("the next run is inline")
	}
}
