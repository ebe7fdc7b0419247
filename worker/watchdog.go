package worker

import (
	"bytes"
	"context"
	"runtime"
	"time"
)

const (
	// watchInterval is how often the batches that run are looked at, and stuckAfter how often the same one is seen when it is stuck.
	watchInterval = time.Second
	stuckAfter    = 5
	// maxStacks bounds what is logged of them, in bytes.
	maxStacks = 64 << 10
)

// watchdog looks for policies that do not implement policies.Blocking and do not return. It reports them by their stacks. Their calls were moved aside, as a rule, and hold up no others.
// Where too many are aside already, a call keeps the goroutine that reads its connection, so that all calls of the connection would wait for their timeouts: then the watchdog ends the
// connection, and the kernel fails its calls at once and connects again. A policy cannot be stopped; its call counts as in flight until it returns.
type watchdog struct {
	server *server
	after  time.Duration // when a call that was moved aside is stuck
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
	if n := w.server.lanes.Stuck(w.after); n > 0 {
		w.report("a policy that does not implement policies.Blocking does not return; its call was moved aside", n)
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
			w.report("a policy that does not implement policies.Blocking does not return, and too many calls are aside already; its connection is ended", 1)
			st.leave() // It ends the loop over the batches, too, if the policy ever returns.
			st.conn.Abort()
		}
		st.conn.Unlock()
	}
	w.seen = seen
}

func (w *watchdog) report(message string, policies int) {
	w.server.service.core.meters.stuck.Add(policies)
	w.server.service.env.log.Error(message, "policies", policies, "stacks", string(batchStacks()))
}

// batchStacks are the stacks of the goroutines that run batches, or calls of batches that were moved aside.
func batchStacks() (found []byte) {
	all := make([]byte, 16*maxStacks)
	for stack := range bytes.SplitSeq(all[:runtime.Stack(all, true)], []byte("\n\n")) {
		if bytes.Contains(stack, []byte("(*stream).runBatch(")) && len(found)+len(stack) <= maxStacks {
			found = append(append(found, stack...), '\n')
		}
	}
	return found
}
