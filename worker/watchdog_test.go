package worker

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// neverReturning starts a worker with two routes whose policies never return, and one whose policy denies.
func neverReturning(t *testing.T, concurrent int) (*running, *output) {
	t.Helper()
	log := new(output)
	w := startWorker(t, func(s *setup) {
		s.cfg.MaxConcurrentRequests = concurrent
		s.opts.Log = slog.New(slog.NewTextHandler(log, nil))
		s.opts.watchInterval, s.opts.DrainTimeout = 20*time.Millisecond, time.Millisecond
	})
	w.push(t, 5, requestChain(1, policy("deny", "")), requestChain(2, policy("stall", "")), requestChain(3, policy("stall", "")))
	return w, log
}

func (r *running) metrics(t *testing.T) string {
	t.Helper()
	m, err := r.client.GetMetrics(t.Context(), &workerv1.GetMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return string(m.Text)
}

// TestPolicyThatNeverReturns: one that does not implement Blocking costs its own call. The connection goes on, the log names the policy, and the worker stops without it.
func TestPolicyThatNeverReturns(t *testing.T) {
	w, log := neverReturning(t, 10)
	s := w.stream(t)
	if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(1, 5, 2), requestCall(2, 5, 1)}}); err != nil {
		t.Fatal(err)
	}
	receive(t, w.entered)
	if batch, err := s.Recv(); err != nil || len(batch.Results) != 1 || batch.Results[0].Id != 2 {
		t.Fatalf("beside it: %v, %v", batch, err)
	}
	eventually(t, "it is counted once", func() bool { return strings.Contains(w.metrics(t), "policy_worker_stuck_policies_total 1\n") })
	if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(3, 5, 1)}}); err != nil {
		t.Fatal(err)
	}
	if batch, err := s.Recv(); err != nil || len(batch.Results) != 1 || batch.Results[0].Id != 3 {
		t.Errorf("afterwards: %v, %v", batch, err)
	}
	w.stop()
	w.wait(t)
	if got := log.String(); strings.Count(got, stuckAlone) != 1 || !strings.Contains(got, "the worker stops without it") || strings.Count(got, "(*stall).OnRequestHeaders") < 2 {
		t.Errorf("the log does not name the policy both times: %.3000s", got)
	}
	close(w.release) // It returns, for the sake of the other tests.
}

// TestTooManyThatNeverReturn: when no more calls may be aside, one that does not return costs its connection, and its client is served on another one.
func TestTooManyThatNeverReturn(t *testing.T) {
	w, log := neverReturning(t, 4)
	s := w.stream(t)
	if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(1, 5, 2), requestCall(2, 5, 3)}}); err != nil {
		t.Fatal(err)
	}
	receive(t, w.entered)
	receive(t, w.entered)
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
	if r := w.execute(t, requestCall(3, 5, 1)); r.Immediate.GetStatus() != 403 {
		t.Errorf("result %v", r)
	}
	eventually(t, "both are counted", func() bool { return strings.Contains(w.metrics(t), "policy_worker_stuck_policies_total 2\n") })
	if strings.Count(log.String(), "its connection is ended") != 1 {
		t.Errorf("not logged once: %.3000s", log.String())
	}
	close(w.release)
}

func TestSightings(t *testing.T) {
	type look struct {
		batch   uint64
		running bool
		times   int
	}
	for _, tt := range []struct {
		name  string
		looks []look
	}{
		{"the same batch", []look{{7, true, 1}, {7, true, 2}, {7, true, 3}}},
		{"one batch after the other", []look{{1, true, 1}, {2, true, 1}, {3, true, 1}}},
		{"nothing runs", []look{{1, false, 0}, {1, false, 0}}},
		{"it ended in between", []look{{1, true, 1}, {1, false, 0}, {2, true, 1}, {2, true, 2}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s sighting
			for i, l := range tt.looks {
				if s = s.next(l.batch, l.running); s.times != l.times {
					t.Errorf("look %d: seen %d times, want %d", i, s.times, l.times)
				}
			}
		})
	}
}
