package kernel

import (
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/workers"
)

// TestStateIsOfTheOffersNow: the kernel is not ready from the moment a worker is discovered until there is a table with its policies.
func TestStateIsOfTheOffersNow(t *testing.T) {
	log := zap.NewNop()
	registry := workers.New(nil, workers.Options{KernelID: 1, Logger: log, Metrics: metrics.NewSet()})
	d := newDistributor(&config.Kernel{}, registry, NewObserver(0, metrics.NewSet(), log), extproc.NewBudget(0), log, metrics.NewSet(), time.Now)
	expect := func(when string, ready bool) {
		t.Helper()
		if got := d.state(); (got == "") != ready {
			t.Errorf("%s: %q", when, got)
		}
	}
	expect("before the first table", false)
	if err := d.distribute(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect("with the first table", true)
	d.offersChanged()
	expect("after a change", false)
	if err := d.distribute(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect("with the next table", true)
}

func TestGood(t *testing.T) {
	now := time.Unix(1000, 0)
	tests := []struct {
		name               string
		accepted, complete bool
		after              time.Duration
		want               bool
	}{
		{"at the start", false, false, 0, false},
		{"no worker accepted for long", false, false, time.Hour, false},
		{"one worker accepted just now", true, false, time.Second, false},
		{"one worker accepted long ago", true, false, time.Minute, true},
		{"all workers accepted", true, true, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newDistributor(&config.Kernel{}, nil, nil, nil, zap.NewNop(), metrics.NewSet(), func() time.Time { return now })
			d.accepted, d.complete = tt.accepted, tt.complete
			now = now.Add(tt.after)
			if got := d.good(); got != tt.want {
				t.Errorf("got %t", got)
			}
		})
	}
}
