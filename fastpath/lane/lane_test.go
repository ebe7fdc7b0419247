package lane

import (
	"context"
	"sync"
	"testing"
	"time"
)

// clock is one that the test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// work is the owner of lanes and their only task.
type work struct {
	limit   time.Time
	overran int
	taken   []*Lane
}

func (w *work) Overran(time.Time) time.Time {
	w.overran++
	return w.limit
}

func (w *work) TakeOver(l *Lane) { w.taken = append(w.taken, l) }

func newWatch(most int) (*Watch, *clock) {
	c := &clock{now: time.Unix(1000, 0)}
	return NewWatch(Options{Now: c.Now, Most: most}), c
}

// end ends a step that was moved aside, or not, on another goroutine, as a lane does.
func end(l *Lane) bool {
	ended := make(chan bool)
	go func() { ended <- l.End() }()
	return <-ended
}

func TestStepsAreMovedAfterTheirSlice(t *testing.T) {
	w, c := newWatch(10)
	o := &work{}
	l := w.Lane(o)
	for range 5 { // One after the other, each short.
		l.Begin(o, c.Now())
		c.add(Slice - 1)
		w.Look()
		if !l.End() {
			t.Fatal("moved within its slice")
		}
	}
	c.add(2 * Slice)
	if w.Look() {
		t.Error("a step runs between two")
	}
	l.Begin(o, c.Now())
	c.add(Slice)
	if !w.Look() || len(o.taken) != 1 || o.taken[0] != l || o.overran != 1 {
		t.Errorf("not moved once: %+v", o)
	}
	w.Look()
	if end(l) || !l.Moved() || o.overran != 1 || w.Aside() != 1 {
		t.Errorf("it is not the goroutine's own: %+v, %d aside", o, w.Aside())
	}
	l.Close()
	if w.Aside() != 0 {
		t.Error("it is aside after its end")
	}
}

// TestMostAside: the lane of one step more than may be aside waits, until there is room.
func TestMostAside(t *testing.T) {
	w, c := newWatch(1)
	o := &work{}
	first, second := w.Lane(o), w.Lane(o)
	first.Begin(o, c.Now())
	second.Begin(o, c.Now())
	c.add(Slice)
	for range 3 {
		w.Look()
		c.add(Slice)
	}
	if len(o.taken) != 1 {
		t.Fatalf("%d moved", len(o.taken))
	}
	moved, other := o.taken[0], first
	if moved == first {
		other = second
	}
	end(moved)
	moved.Close()
	w.Look()
	if !other.Moved() {
		t.Error("the other one is not moved when there is room")
	}
	end(other)
	other.Close()
}

// TestPauseOfTheProcess: after a pause, every step looks slow; the look after that decides.
func TestPauseOfTheProcess(t *testing.T) {
	w, c := newWatch(10)
	o := &work{}
	l := w.Lane(o)
	defer l.Close()
	w.Look()
	l.Begin(o, c.Now())
	c.add(time.Second)
	w.Look()
	if !l.End() {
		t.Fatal("moved because of a pause")
	}
	l.Begin(o, c.Now())
	c.add(time.Second)
	w.Look() // Two in a row are no pause.
	if end(l) {
		t.Error("not moved though it overran")
	}
}

// TestContexts: a context ends with its parent, when the step has to end, and with the lane.
func TestContexts(t *testing.T) {
	w, c := newWatch(10)
	parent, cancel := context.WithCancel(t.Context())
	o := &work{limit: c.Now().Add(Slice + time.Millisecond)}
	l := w.Lane(o)
	ctx := l.Context(parent)
	if l.Context(parent) != ctx {
		t.Error("another context for the same parent")
	}
	l.Begin(o, c.Now())
	c.add(Slice)
	w.Look()
	<-ctx.Done()
	if context.Cause(ctx) != context.DeadlineExceeded {
		t.Errorf("cause %v", context.Cause(ctx))
	}
	end(l)
	l.Close()
	next := w.Lane(o)
	first := next.Context(parent)
	cancel()
	<-first.Done()
	second := next.Context(t.Context())
	if len(next.contexts) != 1 {
		t.Errorf("%d contexts kept, want 1", len(next.contexts))
	}
	next.Close()
	<-second.Done()
	if nobody := (*Lane)(nil); nobody.Context(parent) != parent || !nobody.End() || nobody.Moved() {
		t.Error("a lane that is not watched does something")
	}
}

func TestStuck(t *testing.T) {
	w, c := newWatch(10)
	o := &work{}
	l := w.Lane(o)
	l.Begin(o, c.Now())
	c.add(Slice)
	w.Look()
	if n := w.Stuck(time.Second); n != 0 {
		t.Errorf("%d at once", n)
	}
	c.add(time.Second)
	if n := w.Stuck(time.Second); n != 1 {
		t.Errorf("%d after a second, want 1", n)
	}
	if n := w.Stuck(time.Second); n != 0 {
		t.Errorf("%d again", n)
	}
	end(l)
	l.Close()
}

// TestRunSleeps: a watch that finds nothing sleeps until steps run again, and finds these.
func TestRunSleeps(t *testing.T) {
	w := NewWatch(Options{Now: time.Now, Most: 1})
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	group.Go(func() { w.Run(ctx) })
	for !w.asleep.Load() {
		time.Sleep(time.Millisecond)
	}
	o := &work{}
	l := w.Lane(o)
	l.Enter()
	l.Begin(o, time.Now())
	for !l.Moved() {
		time.Sleep(time.Millisecond)
	}
	if l.End() {
		t.Error("it is not moved")
	}
	l.Close()
}

// TestStepsDoNotAllocate is about the fast path.
func TestStepsDoNotAllocate(t *testing.T) {
	w, c := newWatch(1)
	o := &work{}
	l := w.Lane(o)
	now := c.Now()
	if n := testing.AllocsPerRun(100, func() {
		l.Enter()
		l.Context(t.Context())
		l.Begin(o, now)
		l.End()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	l.Close()
}

func BenchmarkStep(b *testing.B) {
	w, c := newWatch(1)
	o := &work{}
	l := w.Lane(o)
	now := c.Now()
	for b.Loop() {
		l.Begin(o, now)
		l.End()
	}
	l.Close()
}

func caller() bool { return Under("lane.caller") }

func TestUnder(t *testing.T) {
	if !caller() || Under("lane.caller") {
		t.Error("Under does not find its callers, and no others")
	}
}
