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

// TestPolicyThatNeverReturns: one that does not say that it may block costs its connection, its client is served on another one, the log names it, and the worker stops
// without it.
func TestPolicyThatNeverReturns(t *testing.T) {
	var log output
	w := startWorker(t, func(s *setup) {
		s.opts.Log = slog.New(slog.NewTextHandler(&log, nil))
		s.opts.watchInterval, s.opts.DrainTimeout = time.Millisecond, time.Millisecond
	})
	w.push(t, 5, requestChain(1, policy("deny", "")), requestChain(2, policy("stall", "")))
	s := w.stream(t)
	if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(1, 5, 2)}}); err != nil {
		t.Fatal(err)
	}
	receive(t, w.entered)
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
	if r := w.execute(t, requestCall(2, 5, 1)); r.Immediate.GetStatus() != 403 {
		t.Errorf("result %v", r)
	}
	m, err := w.client.GetMetrics(t.Context(), &workerv1.GetMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(m.Text), "policy_worker_stuck_policies_total 1\n") {
		t.Error("it is not counted once")
	}
	w.stop()
	w.wait(t)
	if got := log.String(); strings.Count(got, "its connection is ended") != 1 || !strings.Contains(got, "the worker stops without it") || strings.Count(got, "(*stall).OnRequestHeaders") < 2 {
		t.Errorf("the log does not name the policy both times: %.3000s", got)
	}
	close(w.release) // It returns, for the sake of the other tests.
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
