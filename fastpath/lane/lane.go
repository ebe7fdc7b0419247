// Package lane keeps one slow step from holding up the others of its goroutine. A Lane is a goroutine that runs steps of many calls one after the other, such as the one that reads a
// connection. A Watch finds steps that overrun their slice, and has another goroutine take over what the lane has to do besides the step.
package lane

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Slice is how long a step may keep its lane.
const Slice = 10 * time.Millisecond

// Owner has the work of a lane.
type Owner interface {
	// TakeOver has another goroutine go on with the work of the lane, but for the step that runs and what follows from it, which stays with the lane's goroutine. It is called once, by
	// the Watch, and the lane's goroutine is within the step until TakeOver has returned: it has written all that it wrote before the step, and touches nothing meanwhile.
	TakeOver(l *Lane)
}

// Task is the step that runs on a lane.
type Task interface {
	// Overran is called once, before TakeOver and under its conditions. The time is when the step has to end; the zero time means never.
	Overran(now time.Time) (limit time.Time)
}

// States of a lane besides the time at which a step began.
const (
	between = 0
	moved   = -1
)

// Lane is one goroutine's. Its goroutine alone calls the methods, except where they say so. A nil Lane is one that is not watched.
type Lane struct {
	watch *Watch
	owner Owner
	// state is the time since the watch's epoch, in nanoseconds and at least 1, while a step runs.
	state atomic.Int64
	// began is what state was set to.
	began int64
	// task is written before state.
	task  Task
	taken chan struct{} // closed after TakeOver

	contexts []derived
	timer    *time.Timer // set by the watch before taken is closed
	busy     func()      // as timer
	counted  bool        // by Stuck; guarded by the watch's lock
}

// derived is a context of the lane's steps.
type derived struct {
	parent, ctx context.Context
	cancel      context.CancelCauseFunc
}

// Context returns the context for steps under parent. It ends with parent, and after the step was moved aside also when the step has to end.
func (l *Lane) Context(parent context.Context) context.Context {
	if l == nil {
		return parent
	}
	for i := range l.contexts {
		if l.contexts[i].parent == parent {
			return l.contexts[i].ctx
		}
	}
	kept := l.contexts[:0]
	for _, d := range l.contexts {
		if d.parent.Err() == nil {
			kept = append(kept, d)
			continue
		}
		d.cancel(nil)
	}
	clear(l.contexts[len(kept):])
	ctx, cancel := context.WithCancelCause(parent)
	l.contexts = append(kept, derived{parent, ctx, cancel})
	return ctx
}

// Enter notes that steps are about to run.
func (l *Lane) Enter() { l.watch.enter() }

// Begin notes that a step begins, at the time on the watch's clock.
func (l *Lane) Begin(t Task, now time.Time) {
	if l == nil {
		return
	}
	l.task = t
	l.began = max(1, int64(now.Sub(l.watch.epoch)))
	l.state.Store(l.began)
}

// End notes that the step has ended. It returns false if the step was moved aside: then the goroutine only has what follows from the step to do, and to call Close.
func (l *Lane) End() (mine bool) {
	if l == nil || l.state.CompareAndSwap(l.began, between) {
		return true
	}
	<-l.taken
	if l.timer != nil {
		l.timer.Stop()
	}
	return false
}

// Moved reports whether a step of the lane was moved aside. It may be called from any goroutine.
func (l *Lane) Moved() bool { return l != nil && l.state.Load() == moved }

// Close ends the lane and its contexts. No step runs on it.
func (l *Lane) Close() {
	if l == nil {
		return
	}
	if l.Moved() {
		l.watch.release(l)
		if l.busy != nil {
			l.busy()
		}
	} else {
		l.watch.forget(l)
	}
	l.cancel(nil)
}

func (l *Lane) cancel(cause error) {
	for _, d := range l.contexts {
		d.cancel(cause)
	}
}

// Options are what a Watch is given.
type Options struct {
	// Now is the clock, that of the steps too.
	Now func() time.Time
	// Most is how many steps may be aside at a time. The lane of one more has to wait.
	Most int
	// Busy is called when a step is moved aside, and what it returns when that has ended. It may be nil.
	Busy func() func()
}

// Watch looks at lanes.
type Watch struct {
	now   func() time.Time
	epoch time.Time
	most  int
	busy  func() func()

	used, asleep atomic.Bool
	wake         chan struct{}

	mu    sync.Mutex
	lanes map[*Lane]struct{}
	aside map[*Lane]time.Time // since when

	// Look's own.
	looked  time.Time
	skipped bool
}

const (
	// interval is how often a Watch looks while steps run.
	interval = Slice / 2
	// patience is how many looks in a row find nothing before the watch sleeps.
	patience = 20
	// late is the time between two looks that says that the process did not run in between.
	late = 3 * Slice
)

// NewWatch makes a watch. Run has it look.
func NewWatch(o Options) *Watch {
	return &Watch{now: o.Now, epoch: o.Now().Add(-1), most: o.Most, busy: o.Busy, wake: make(chan struct{}, 1), lanes: make(map[*Lane]struct{}), aside: make(map[*Lane]time.Time)}
}

// Lane makes a lane. It must be closed.
func (w *Watch) Lane(o Owner) *Lane {
	l := &Lane{watch: w, owner: o, taken: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lanes[l] = struct{}{}
	return l
}

func (w *Watch) forget(l *Lane) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.lanes, l)
}

func (w *Watch) release(l *Lane) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.aside, l)
}

// Aside is how many steps are aside.
func (w *Watch) Aside() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.aside)
}

// Stuck returns how many steps have been aside for that time. Each is counted once.
func (w *Watch) Stuck(after time.Duration) (n int) {
	now := w.now()
	w.mu.Lock()
	defer w.mu.Unlock()
	for l, since := range w.aside {
		if !l.counted && now.Sub(since) >= after {
			l.counted = true
			n++
		}
	}
	return n
}

func (w *Watch) enter() {
	// Fast path.
	if w.used.Load() {
		return
	}
	w.used.Store(true)
	if w.asleep.Load() {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Run looks until ctx ends: often while steps run, and not at all while none do.
func (w *Watch) Run(ctx context.Context) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for idle := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		used := w.used.Swap(false)
		if running := w.Look(); running || used {
			idle = 0
			continue
		}
		if idle++; idle < patience {
			continue
		}
		idle = 0
		w.asleep.Store(true)
		if !w.used.Load() { // What enters from here on sees that the watch sleeps.
			tick.Stop()
			select {
			case <-ctx.Done():
				return
			case <-w.wake:
			}
			tick.Reset(interval)
		}
		w.asleep.Store(false)
	}
}

// Look moves the steps aside that have overrun their slice. It reports whether any step runs. It is for Run, and for tests.
func (w *Watch) Look() (running bool) {
	now := w.now()
	stopped := !w.looked.IsZero() && now.Sub(w.looked) > late && !w.skipped
	w.looked, w.skipped = now, stopped
	overdue := int64(now.Sub(w.epoch)) - int64(Slice)
	var slow []*Lane
	w.mu.Lock()
	for l := range w.lanes {
		began := l.state.Load()
		if began <= between {
			continue
		}
		running = true
		// After a pause of the whole process, each step looks slow: the next look decides.
		if began > overdue || stopped || len(w.aside) >= w.most || !l.state.CompareAndSwap(began, moved) {
			continue
		}
		w.aside[l] = now
		delete(w.lanes, l)
		slow = append(slow, l)
	}
	w.mu.Unlock()
	for _, l := range slow {
		w.move(l, now)
	}
	return running
}

// move moves the step of a lane aside, which is within it until taken is closed.
func (w *Watch) move(l *Lane, now time.Time) {
	defer close(l.taken)
	if w.busy != nil {
		l.busy = w.busy()
	}
	if limit := l.task.Overran(now); !limit.IsZero() {
		l.timer = time.AfterFunc(limit.Sub(now), func() { l.cancel(context.DeadlineExceeded) })
	}
	l.owner.TakeOver(l)
}
