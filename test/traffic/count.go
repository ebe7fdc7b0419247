package traffic

import (
	"fmt"
	"slices"
	"time"
)

// Span is a stretch of time in which valid requests may fail, because nobody is there who could serve them. The zero value is none.
type Span struct{ From, To time.Time }

// Count is what became of requests.
type Count struct {
	Sent int `json:"sent"`
	// Valid of them had to pass, and Passed did. Failed is the others; Excused of these failed while nobody could serve them, Lost are the rest.
	Valid   int `json:"valid"`
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Excused int `json:"excused"`
	Lost    int `json:"lost"`
	// Invalid had to be refused. Bypassed are the requests that reached the upstream without their proof, or that should not have, or were answered as if they had.
	Invalid  int `json:"invalid"`
	Bypassed int `json:"bypassed"`
	// Hung are those that got no answer in time, Repeated those that reached the upstream more than once.
	Hung     int `json:"hung"`
	Repeated int `json:"repeated"`
	// Statuses are what valid requests got instead of passing; "none" is no answer.
	Statuses map[string]int `json:"statuses,omitempty"`
	// Examples are of requests that bypassed, were lost, hung or were repeated.
	Examples []string `json:"examples,omitempty"`
	// Slowest is how long a request took at most, P99 what 99 of 100 took.
	Slowest time.Duration `json:"slowest_ns"`
	P99     time.Duration `json:"p99_ns"`
	// LastFailure is when the last valid request was sent that failed.
	LastFailure time.Time `json:"-"`
}

const maxExamples = 5

// Count counts the requests from one id to before another. Bound is how long a request may take.
func (l *Ledger) Count(from, to uint64, excuse Span, bound time.Duration) Count {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := Count{Statuses: map[string]int{}}
	var times []time.Duration
	for id := max(from, l.first); id < to; id++ {
		r := l.record(id)
		if r == nil {
			break
		}
		c.Sent++
		took := r.ended - r.sent
		if r.ended == 0 {
			took = time.Since(l.start) - r.sent
		}
		times = append(times, took)
		c.judge(l, id, r, excuse, r.silent || took > bound)
	}
	for _, s := range l.strange {
		c.Bypassed++
		c.example("bypassed: a request nobody has sent, %s", s)
	}
	l.strange = nil
	slices.Sort(times)
	if n := len(times); n > 0 {
		c.Slowest, c.P99 = times[n-1], times[n*99/100]
	}
	return c
}

func (c *Count) judge(l *Ledger, id uint64, r *record, excuse Span, hung bool) {
	what := fmt.Sprintf("request %d, %s, sent after %v: status %d after %v, arrived %d times, proven %v", id, r.kind.Name, r.sent, r.status, r.ended-r.sent, r.arrived, r.proven)
	if hung {
		c.Hung++
		c.example("hung: %s", what)
	}
	if r.arrived > 1 {
		c.Repeated++
		c.example("repeated: %s", what)
	}
	if r.kind.Expect == Refuse {
		c.Invalid++
		if r.arrived > 0 || r.status > 0 && r.status < 400 {
			c.Bypassed++
			c.example("bypassed: %s", what)
		}
		return
	}
	c.Valid++
	if r.arrived > 0 && !r.proven {
		c.Bypassed++
		c.example("bypassed: %s", what)
	}
	if r.status == 200 && r.proven {
		c.Passed++
		return
	}
	c.Failed++
	c.Statuses[statusName(r.status)]++
	if sent := l.start.Add(r.sent); sent.After(c.LastFailure) {
		c.LastFailure = sent
	}
	if !excuse.From.IsZero() && l.start.Add(r.ended).After(excuse.From) && l.start.Add(r.sent).Before(excuse.To) {
		c.Excused++
		return
	}
	c.Lost++
	c.example("lost: %s", what)
}

func statusName(status int) string {
	if status == 0 {
		return "none"
	}
	return fmt.Sprint(status)
}

func (c *Count) example(format, what string) {
	if len(c.Examples) < maxExamples {
		c.Examples = append(c.Examples, fmt.Sprintf(format, what))
	}
}

// Recent counts the valid requests that were sent since a time and have ended: those that passed, and the others.
func (l *Ledger) Recent(since time.Time) (passed, failed int) {
	after := since.Sub(l.start)
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.records) - 1; i >= 0 && l.records[i].sent >= after; i-- {
		r := &l.records[i]
		switch {
		case r.kind.Expect != Pass || r.ended == 0:
		case r.status == 200 && r.proven:
			passed++
		default:
			failed++
		}
	}
	return passed, failed
}
