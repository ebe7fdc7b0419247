package chain

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/policy-engine/policy-engine/fastpath/lane"
	"github.com/policy-engine/policy-engine/policies"
)

// pace says whether the runs of a policy at its place take long. The phases of the place share it.
type pace struct {
	// owed is how many runs in a row have to be short before runs are inline again; 0: they are.
	owed atomic.Int32
	// doubt is how many inline runs are measured by the processor time of their thread, because one took long by the clock.
	doubt atomic.Int32

	// The lock of Aside guards these.
	need    int32     // what owed begins with
	marked  time.Time // when owed was set last because of an inline run
	strikes int       // measured runs in a row that were long by the clock alone
	long    bool      // a run was long since then
	running int
	waiting []*ticket
}

const (
	// markAt is the processor time of an inline run from which the next ones run aside. It is short of lane.Slice, so that
	// runs that are not moved aside count too.
	markAt = lane.Slice / 4
	// doubtRuns is how many runs are measured after one that took markAt by the clock: it used a processor, waited, or got
	// none because others had it. maxStrikes is how many of them in a row may wait for lane.Slice.
	doubtRuns, maxStrikes = 4, 3
	// busyAt is the processor time from which a run is long.
	busyAt = time.Millisecond
	// minNeed and maxNeed bound how many short runs in a row end the time aside; longer with each long run, so that short runs between long ones do not help.
	minNeed, maxNeed = 4, 1024
	// forgetAfter is how long that number is kept.
	forgetAfter = time.Minute
)

// suspect has the next inline runs of a place measured, because one took long by the clock. Without a clock of
// processor time, they run aside at once.
func (a *Aside) suspect(p *pace, now time.Time) {
	switch {
	case a == nil:
	case a.ThreadTime != nil:
		p.doubt.Store(doubtRuns)
	default:
		a.mu.Lock()
		defer a.mu.Unlock()
		a.mark(p, now)
	}
}

// measured takes the processor time and the duration of an inline run that was measured.
func (a *Aside) measured(p *pace, now time.Time, used, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case used >= markAt:
		p.doubt.Store(0)
		p.strikes = 0
		a.mark(p, now)
	case took >= lane.Slice:
		if p.strikes++; p.strikes >= maxStrikes {
			p.doubt.Store(0)
			p.strikes = 0
			a.mark(p, now)
		}
	default:
		p.strikes = 0
		if p.doubt.Load() > 0 { // Runs at the same time may have taken the last one.
			p.doubt.Add(-1)
		}
	}
}

// mark has the next runs of a place run aside, because of one that was inline. The lock is held.
func (a *Aside) mark(p *pace, now time.Time) {
	if p.need == 0 || now.Sub(p.marked) > forgetAfter {
		p.need = minNeed
	}
	p.marked = now
	p.owed.Store(p.need)
}

// ran notes how long a run aside took, and its processor time.
func (a *Aside) ran(p *pace, took, busy time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if busy >= busyAt {
		p.need = min(4*max(p.need, minNeed), maxNeed)
	}
	switch {
	case busy >= busyAt, took >= lane.Slice:
		p.long = true
		p.owed.Store(max(p.need, minNeed))
	case p.owed.Load() > 0 && p.owed.Add(-1) == 0:
		p.long = false
	}
}

// Aside bounds the runs of policies that are known to take long. Such a run has a thread of its own, and yields to the others.
type Aside struct {
	// Running is how many may run at a time, and PerPlace how many of one policy at its place.
	Running, PerPlace int
	// Waiting is how many may wait, and WaitingPerPlace how many of one policy at its place.
	Waiting, WaitingPerPlace int
	// Yield makes the calling goroutine's thread yield to others, until the goroutine ends, and returns the thread's processor time. Busy says that a processor is busy until done. Both
	// may be nil.
	Yield func() (used func() time.Duration)
	Busy  func() (done func())
	// ThreadTime returns the processor time of the calling thread. Nil: inline runs are judged by the clock alone.
	ThreadTime func() time.Duration

	mu      sync.Mutex
	running int
	waiting int
	turns   []*pace   // places with waiting runs; the first one is next
	runs    []*ticket // that run
}

// ticket is a run's place in the queue.
type ticket struct {
	pace *pace
	turn chan struct{} // closed when it may run
	// began is when it ran; the zero time if it was counted by Stuck. The lock of Aside guards it.
	began time.Time
}

var errOverloaded = errors.New("too many runs of the policy take long")

// queue admits a run, now or later. It returns nil if too many wait for runs that are long.
func (a *Aside) queue(p *pace) *ticket {
	t := &ticket{pace: p, turn: make(chan struct{})}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running < a.Running && p.running < a.PerPlace {
		a.begin(t)
		return t
	}
	if p.long && (a.waiting >= a.Waiting || len(p.waiting) >= a.WaitingPerPlace) {
		return nil
	}
	if len(p.waiting) == 0 {
		a.turns = append(a.turns, p)
	}
	a.waiting++
	p.waiting = append(p.waiting, t)
	return t
}

func (a *Aside) begin(t *ticket) {
	a.running++
	t.pace.running++
	close(t.turn)
}

// wait waits for the turn of a ticket. It is an error if ctx ends before.
func (a *Aside) wait(ctx context.Context, t *ticket) error {
	select {
	case <-t.turn:
	case <-ctx.Done():
		if a.leave(t) {
			return ctx.Err()
		}
		<-t.turn
	}
	return nil
}

// run runs fn, whose turn it is, on a thread that ends with the goroutine.
func (a *Aside) run(t *ticket, now func() time.Time, fn func()) {
	defer a.end(t)
	if a.Busy != nil {
		defer a.Busy()()
	}
	began := now()
	a.note(t, began)
	used := func() time.Duration { return now().Sub(began) }
	if a.Yield != nil {
		used = a.Yield()
	}
	before := used()
	defer func() { a.ran(t.pace, now().Sub(began), used()-before) }()
	fn()
}

// leave takes a ticket out of the queue. It returns false if it is not there.
func (a *Aside) leave(t *ticket) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := t.pace
	i := slices.Index(p.waiting, t)
	if i < 0 {
		return false
	}
	a.waiting--
	p.waiting = slices.Delete(p.waiting, i, i+1)
	if len(p.waiting) == 0 {
		a.turns = slices.DeleteFunc(a.turns, func(other *pace) bool { return other == p })
	}
	return true
}

// note has Stuck look at a run.
func (a *Aside) note(t *ticket, began time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t.began = began
	a.runs = append(a.runs, t)
}

// Stuck returns how many runs have taken that long. Each is counted once.
func (a *Aside) Stuck(now time.Time, after time.Duration) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.runs {
		if !t.began.IsZero() && now.Sub(t.began) >= after {
			t.began = time.Time{}
			n++
		}
	}
	return n
}

// end ends a run, and begins those that may run instead, one place after the other.
func (a *Aside) end(ended *ticket) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := ended.pace
	a.runs = slices.DeleteFunc(a.runs, func(t *ticket) bool { return t == ended })
	a.running--
	p.running--
	for i := 0; i < len(a.turns) && a.running < a.Running; {
		next := a.turns[i]
		if next.running >= a.PerPlace {
			i++
			continue
		}
		t := next.waiting[0]
		next.waiting = slices.Delete(next.waiting, 0, 1)
		a.waiting--
		a.turns = slices.Delete(a.turns, i, i+1)
		if len(next.waiting) > 0 {
			a.turns = append(a.turns, next)
		}
		a.begin(t)
	}
}

// On has the run take place on a lane; nil is one that is not watched. It is called before Inline.
func (r *Run) On(l *lane.Lane) { r.lane = l }

// Moved reports that a step of the run was moved aside by the lane's watch: what follows takes place on the goroutine that was the lane's.
func (r *Run) Moved() bool { return r.moved }

// Overran implements lane.Task: the step that runs is moved aside.
func (r *Run) Overran(now time.Time) (limit time.Time) {
	s := &r.steps[r.next]
	r.moved = true
	r.settings.Aside.suspect(s.pace, now)
	s.observer.Slow(now.Sub(r.began), true)
	if h, ok := r.holder.(MoveHolder); ok {
		h.Moved(now, r.deadline)
	}
	return r.limit(s)
}

// Quit fails the step that was moved aside because its policy has ended the goroutine (runtime.Goexit). Wait runs the rest of the chain.
func (r *Run) Quit() {
	r.lane = nil
	r.settle(&r.steps[r.next], policies.Verdict{}, &panicError{value: "the policy ended its goroutine"}, false)
}

// measured is inline with the run's processor time measured.
func (r *Run) measured(ctx context.Context, s *step) (v policies.Verdict, err error) {
	a, began := r.settings.Aside, r.began
	runtime.LockOSThread()
	before := a.ThreadTime()
	defer func() {
		used := a.ThreadTime() - before
		runtime.UnlockOSThread()
		now := r.settings.Now()
		a.measured(s.pace, now, used, now.Sub(began))
	}()
	return s.inline(ctx, r.x, r.lane)
}

// measure notes how long an inline run of a step took that was not moved aside.
func (r *Run) measure(s *step, elapsed time.Duration) {
	// Fast path.
	if elapsed < markAt {
		return
	}
	r.settings.Aside.suspect(s.pace, r.began)
	if elapsed >= lane.Slice {
		s.observer.Slow(elapsed, false)
	}
}
