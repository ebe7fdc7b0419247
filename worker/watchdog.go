package worker

import (
	"bytes"
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	// watchInterval is how often the batches that run are looked at, and stuckAfter how often the same one is seen when it is stuck.
	watchInterval = time.Second
	stuckAfter    = 5
	// maxStacks bounds what is logged of them, in bytes.
	maxStacks = 64 << 10
)

// watchdog looks for policies that do not implement policies.Blocking and do not return. It reports them by their stacks.
// Their calls were moved aside, as a rule, and hold up no others. Where too many are aside already, a call keeps the
// goroutine that reads its connection, so that all calls of the connection would wait for their timeouts: then the watchdog
// ends the connection, and the kernel fails its calls at once and connects again. A policy cannot be stopped; its call
// counts as in flight until it returns.
type watchdog struct {
	server *server
	after  time.Duration // when a call that does not hold up others is stuck
	seen   map[*stream]sighting
}

// sighting is a batch that ran when it was looked at, and how often in a row.
type sighting struct {
	batch uint64
	times int
}

// next is the sighting after s.
func (s sighting) next(batch uint64, running bool) sighting {
	switch {
	case !running:
		return sighting{}
	case batch != s.batch:
		return sighting{batch, 1}
	}
	return sighting{batch, s.times + 1}
}

// watch has the watchdog look once per interval until ctx ends.
func (s *server) watch(ctx context.Context, interval time.Duration) {
	w := watchdog{server: s, after: stuckAfter * interval}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.look()
		}
	}
}

// look is called once per interval.
func (w *watchdog) look() {
	core := w.server.service.core
	if n := w.server.lanes.Stuck(w.after) + core.settings.Aside.Stuck(core.settings.Now(), w.after); n > 0 {
		core.reportStuck(stuckAlone, n)
	}
	w.server.mu.Lock()
	seen := make(map[*stream]sighting, len(w.server.streams))
	for st := range w.server.streams {
		seen[st] = w.seen[st]
	}
	w.server.mu.Unlock()
	for st, before := range seen {
		st.conn.Lock()
		if seen[st] = before.next(st.batches, st.running); seen[st].times == stuckAfter {
			core.reportStuck("a policy that does not implement policies.Blocking does not return, and too many calls are aside already; its connection is ended", 1)
			st.leave() // It ends the loop over the batches, too, if the policy ever returns.
			st.conn.Abort()
		}
		st.conn.Unlock()
	}
	w.seen = seen
}

// stuckAlone is the log line of a policy that does not return on a goroutine that has nothing else to do.
const stuckAlone = "a policy that does not implement policies.Blocking does not return; other calls go on without it"

// watchStuck has the calls of Embedded looked at once per interval until ctx ends. Those of a server have its watchdog.
func (c *core) watchStuck(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			now := c.settings.Now()
			if n := c.alone.stuck(now, stuckAfter*interval) + c.settings.Aside.Stuck(now, stuckAfter*interval); n > 0 {
				c.reportStuck(stuckAlone, n)
			}
		}
	}
}

// reportStuck logs and counts policies that do not return.
func (c *core) reportStuck(message string, policies int) {
	c.meters.stuck.Add(policies)
	c.log.Error(message, "policies", policies, "stacks", string(inlineStacks()))
}

// lone has the calls of Embedded whose policies run inline on a goroutine of their own: all that have no lane, and those
// that were moved aside. It is safe for concurrent use.
type lone struct {
	mu    sync.Mutex
	since map[*execution]time.Time // the zero time: reported
}

func (l *lone) add(e *execution, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since == nil {
		l.since = make(map[*execution]time.Time)
	}
	l.since[e] = now
}

// remove does nothing if the call was not added.
func (l *lone) remove(e *execution) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.since, e)
}

// stuck returns how many calls have been there for that time. Each is counted once.
func (l *lone) stuck(now time.Time, after time.Duration) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e, since := range l.since {
		if !since.IsZero() && now.Sub(since) >= after {
			l.since[e] = time.Time{}
			n++
		}
	}
	return n
}

// inlineFrames are functions under which policies run inline: batches, calls of Embedded, runs aside.
var inlineFrames = [][]byte{[]byte("(*stream).runBatch("), []byte("(*Embedded).begin("), []byte("chain.(*Aside).run(")}

// inlineStacks are the stacks of the goroutines that run policies inline, or calls that were moved aside.
func inlineStacks() (found []byte) {
	all := make([]byte, 16*maxStacks)
	for stack := range bytes.SplitSeq(all[:runtime.Stack(all, true)], []byte("\n\n")) {
		inline := slices.ContainsFunc(inlineFrames, func(frame []byte) bool { return bytes.Contains(stack, frame) })
		if inline && len(found)+len(stack) <= maxStacks {
			found = append(append(found, stack...), '\n')
		}
	}
	return found
}
