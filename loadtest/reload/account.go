package reload

import (
	"fmt"
	"sync"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/latency"
)

// phase is what the engine did meanwhile.
type phase int

const (
	quiet  phase = iota
	under        // a reload was under way for a part of the request's time
	behind       // a reload had ended less than wake before the request: the old generation is retired and its memory given back
	phases
)

// wake is how long a reload is felt after it has ended, at most.
const wake = time.Second

func (p phase) String() string { return [...]string{"quiet", "reload", "after"}[p] }

// account is what became of the requests, and when there were reloads. It is safe for concurrent use.
type account struct {
	mu        sync.Mutex
	latencies [phases]latency.Histogram // of requests that got what they have to
	failures  map[string]uint64         // of the others
	failed    uint64
	refused   uint64 // with a bad credential, as they have to be; in latencies too

	begun, ended time.Time       // of the last reload; ended is before begun while it is under way
	took         []time.Duration // by reloads

	now      latency.Histogram // since the last take
	atFailed uint64            // failed at the last take
}

func newAccount() *account { return &account{failures: make(map[string]uint64)} }

// reload takes down how long a reload takes.
func (a *account) reload(do func() error) error {
	a.mu.Lock()
	a.begun = time.Now()
	a.mu.Unlock()
	err := do()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = time.Now()
	a.took = append(a.took, a.ended.Sub(a.begun))
	return err
}

// answered takes down a request that was due then and got what it has to.
func (a *account) answered(due, at time.Time, refused bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	took := at.Sub(due)
	a.latencies[a.phase(due, at)].Add(took)
	a.now.Add(took)
	if refused {
		a.refused++
	}
}

// fail takes down a request that did not.
func (a *account) fail(why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed++
	// What an error says may have something of its request in it: without a bound, each would be a kind of its own.
	if a.failures[why] == 0 && len(a.failures) >= 20 {
		why = "other"
	}
	a.failures[why]++
}

func (a *account) phase(due, at time.Time) phase {
	switch over := a.ended.After(a.begun); {
	case a.begun.IsZero() || at.Before(a.begun):
		// Before the last reload has begun: that can only have been in the wake of the one before for requests that are read late.
		return quiet
	case !over || due.Before(a.ended):
		return under
	case due.Before(a.ended.Add(wake)):
		return behind
	}
	return quiet
}

// take is a line of progress about what has come since the last one.
func (a *account) take() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	line := fmt.Sprintf("%6d answered  %d failed  P50 %.2f ms  P99 %.2f ms  reloads %d", a.now.Count(), a.failed-a.atFailed, millis(a.now.Percentile(50)), millis(a.now.Percentile(99)), len(a.took))
	if a.begun.After(a.ended) {
		line += ", one under way"
	}
	a.now, a.atFailed = latency.Histogram{}, a.failed
	return line
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
