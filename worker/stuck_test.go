package worker

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/lane"
)

// embeddedBurner is a worker in this process whose policy returns when the test lets it.
type embeddedBurner struct {
	*embedded
	b     *burner
	group *sync.WaitGroup
	watch *lane.Watch
}

func startEmbeddedBurner(t *testing.T) *embeddedBurner {
	t.Helper()
	b := newBurner()
	e := &embeddedBurner{b: b, group: new(sync.WaitGroup), watch: lane.NewWatch(lane.Options{Now: time.Now, Most: 1})}
	e.embedded = embed(t, func(_ *config.Worker, o *Options) { o.watchInterval = 20 * time.Millisecond }, b.definition())
	resp, err := e.Protocol().PushConfig(t.Context(), &workerv1.PushConfigRequest{
		KernelId: testKernel, Generation: 5, Chains: []*workerv1.Chain{requestChain(3, policy("burn", ""))},
	})
	if err != nil || len(resp.Errors) > 0 {
		t.Fatal(resp, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		e.group.Wait()
	})
	e.group.Go(func() { e.watch.Run(ctx) })
	return e
}

// call has a call run on a lane, which may be nil, and returns when its policy runs. The result comes in to; returned is
// closed when the call has not kept, or no longer keeps, its goroutine.
func (e *embeddedBurner) call(t *testing.T, l *lane.Lane) (to inbox, returned chan struct{}) {
	t.Helper()
	to, returned = make(inbox, 1), make(chan struct{})
	e.group.Go(func() {
		defer close(returned)
		if l != nil {
			l.Enter()
		}
		e.ExecuteOn(l, burnCall(1, 3, "/slow"), to, func() {})
	})
	receive(t, e.b.entered)
	return to, returned
}

// moved is call with the call moved aside.
func (e *embeddedBurner) moved(t *testing.T) inbox {
	t.Helper()
	o := owner{make(chan struct{})}
	to, _ := e.call(t, e.watch.Lane(o))
	receive(t, o.took)
	return to
}

// end lets the policy return.
func (e *embeddedBurner) end(t *testing.T, to inbox) {
	t.Helper()
	e.b.release <- struct{}{}
	if r := receive(t, to); r.Outcome != workerv1.Result_OUTCOME_CONTINUE {
		t.Errorf("result %v", r)
	}
}

func (e *embeddedBurner) stuck(t *testing.T) string {
	t.Helper()
	m, err := e.Protocol().GetMetrics(t.Context(), &workerv1.GetMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(m.Text)) {
		if n, ok := strings.CutPrefix(line, "policy_worker_stuck_policies_total "); ok {
			return strings.TrimSpace(n)
		}
	}
	return "no metric"
}

// TestStuckPolicyInOneProcess: in one process, too, a call whose policy does not return is logged with its stack and
// counted, once, wherever it runs. Calls that returned before are not.
func TestStuckPolicyInOneProcess(t *testing.T) {
	// next has a call run that ends, and returns where the result comes of one that does not.
	for name, next := range map[string]func(*testing.T, *embeddedBurner) inbox{
		"moved aside": func(t *testing.T, e *embeddedBurner) inbox {
			e.end(t, e.moved(t))
			return e.moved(t)
		},
		"without a lane": func(t *testing.T, e *embeddedBurner) inbox {
			to, _ := e.call(t, nil)
			e.end(t, to)
			to, _ = e.call(t, nil)
			return to
		},
		"aside from the start": func(t *testing.T, e *embeddedBurner) inbox {
			for range 4 { // The first run is suspect; after three more the policy is known to take long.
				to, _ := e.call(t, nil)
				time.Sleep(lane.Slice)
				e.end(t, to)
			}
			to, returned := e.call(t, nil)
			receive(t, returned) // It has left the policy to another goroutine.
			return to
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := startEmbeddedBurner(t)
			to := next(t, e)
			eventually(t, "it is counted", func() bool { return e.stuck(t) == "1" })
			time.Sleep(stuckAfter * 2 * 20 * time.Millisecond) // Time in which it, or one before, would be counted once more.
			e.end(t, to)
			if n := e.stuck(t); n != "1" {
				t.Errorf("counted %s times", n)
			}
			if got := e.log.String(); strings.Count(got, stuckAlone) != 1 || !strings.Contains(got, "(*burner).OnRequestHeaders") {
				t.Errorf("the log does not name the policy once: %.3000s", got)
			}
			if n := len(e.worker.service.core.alone.since); n != 0 {
				t.Error(fmt.Sprint(n) + " calls are still watched")
			}
		})
	}
}
