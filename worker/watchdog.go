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

// watchdog looks for policies that don't say that they may block, and don't return: they keep the goroutine that reads their connection, so that all of its calls would
// wait for their timeouts. It says which policy it is, by its stack, and ends the connection: the kernel fails its calls at once and connects anew. The policy can't be
// stopped; its call counts as in flight until it returns.
type watchdog struct {
	server *server
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
	w := watchdog{server: s}
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
	w.server.mu.Lock()
	seen := make(map[*stream]sighting, len(w.server.streams))
	for st := range w.server.streams {
		seen[st] = w.seen[st]
	}
	w.server.mu.Unlock()
	for st, before := range seen {
		st.conn.Lock()
		if seen[st] = before.next(st.batches, st.running); seen[st].times == stuckAfter {
			w.report()
			st.leave() // It ends the loop over the batches, too, if the policy ever returns.
			st.conn.Abort()
		}
		st.conn.Unlock()
	}
	w.seen = seen
}

func (w *watchdog) report() {
	w.server.service.core.meters.stuck.Inc()
	w.server.service.env.log.Error("a policy that does not say that it may block does not return; its connection is ended", "stacks", string(batchStacks()))
}

// batchStacks are the stacks of the goroutines that run batches.
func batchStacks() (found []byte) {
	all := make([]byte, 16*maxStacks)
	for stack := range bytes.SplitSeq(all[:runtime.Stack(all, true)], []byte("\n\n")) {
		if bytes.Contains(stack, []byte("(*stream).runBatch(")) && len(found)+len(stack) <= maxStacks {
			found = append(append(found, stack...), '\n')
		}
	}
	return found
}
