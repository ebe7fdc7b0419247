package worker

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// TestWaitingHoldsUpNobody: a call whose policy blocks is overtaken.
func TestWaitingHoldsUpNobody(t *testing.T) {
	w := startWorker(t)
	w.push(t, 5, requestChain(1, policy("gate", "")), requestChain(2, policy("deny", "")))
	s := w.stream(t)
	if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(1, 5, 2), requestCall(2, 5, 1), requestCall(3, 5, 2), requestCall(4, 5, 1)}}); err != nil {
		t.Fatal(err)
	}
	batch, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(batch.Results) != 2 || batch.Results[0].Id != 1 || batch.Results[1].Id != 3 {
		t.Fatalf("first batch %v", batch)
	}
	receive(t, w.entered)
	receive(t, w.entered)
	for id := uint64(10); id < 20; id++ { // The bytes of the first batch belong to the calls that wait: none of these may get at them.
		if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(id, 5, 2)}}); err != nil {
			t.Fatal(err)
		}
		if batch, err = s.Recv(); err != nil || len(batch.Results) != 1 || batch.Results[0].Id != id {
			t.Fatal(batch, err)
		}
	}
	// Half-closing asks for what is under way, and no more.
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	close(w.open)
	got := map[uint64]bool{}
	for {
		batch, err := s.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range batch.Results {
			if r.Immediate.GetStatus() != 200 {
				t.Errorf("result %v", r)
			}
			got[r.Id] = true
		}
	}
	if len(got) != 2 || !got[2] || !got[4] {
		t.Errorf("results of %v, want 2 and 4", got)
	}
}

// TestHalfCloseDuringABatch: the last call that waits ends while a later batch runs, whose results count too.
func TestHalfCloseDuringABatch(t *testing.T) {
	w := startWorker(t)
	w.push(t, 5, requestChain(1, policy("gate", "")), requestChain(2, policy("stall", "")))
	s := w.stream(t)
	if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(1, 5, 1)}}); err != nil {
		t.Fatal(err)
	}
	receive(t, w.entered)
	// Two batches and the half-close have to be in the queue when the second batch runs; that is so if they come in one read, or in the next one.
	for id := uint64(2); id < 4; id++ {
		if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(id, 5, 2)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	receive(t, w.entered) // The second batch.
	w.release <- struct{}{}
	receive(t, w.entered) // The third, with the half-close most likely.
	close(w.open)
	got := map[uint64]bool{}
	for {
		batch, err := s.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range batch.Results {
			if got[r.Id] = true; r.Id == 1 {
				close(w.release)
			}
		}
	}
	if len(got) != 3 {
		t.Errorf("results of %v, want 1, 2 and 3", got)
	}
}

func TestOverload(t *testing.T) {
	w := startWorker(t)
	w.push(t, 5, requestChain(1, policy("gate", "")), requestChain(2, policy("deny", "")))
	s := w.stream(t)
	var calls []*workerv1.Call
	for id := range uint64(12) { // The limit is 10.
		calls = append(calls, requestCall(id, 5, 1))
	}
	if err := s.Send(&workerv1.CallBatch{Calls: calls}); err != nil {
		t.Fatal(err)
	}
	batch, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(batch.Results) != 2 || batch.Results[0].Failure != workerv1.Result_FAILURE_OVERLOADED || batch.Results[0].Id != 10 {
		t.Fatalf("batch %v", batch)
	}
	// A chain that does not wait is not refused, however many calls of others do.
	if r := w.execute(t, requestCall(1, 5, 2)); r.Immediate.GetStatus() != 403 {
		t.Errorf("result %v", r)
	}
	close(w.open)
	for n := 0; n < 10; n += len(batch.Results) {
		if batch, err = s.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "room again", func() bool {
		return w.execute(t, requestCall(1, 5, 1)).Failure == workerv1.Result_FAILURE_UNSPECIFIED
	})
}

// TestAbandonedCountsAsInFlight: policies that hang can't pile up without end, nor is what they use closed.
func TestAbandonedCountsAsInFlight(t *testing.T) {
	w := startWorker(t, func(s *setup) { s.cfg.MaxConcurrentRequests = 2 })
	wall := policy("wall", "")
	wall.TimeoutUs = 1000
	wall.OnFailure = workerv1.OnFailure_ON_FAILURE_CONTINUE
	w.push(t, 5, requestChain(1, wall, policy("deny", "")))
	for range 2 {
		if r := w.execute(t, requestCall(1, 5, 1)); r.Immediate.GetStatus() != 403 {
			t.Fatalf("the chain did not go on: %v", r)
		}
	}
	if r := w.execute(t, requestCall(1, 5, 1)); r.Failure != workerv1.Result_FAILURE_OVERLOADED {
		t.Errorf("result %v", r)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.client.RetireConfig(ctx, &workerv1.RetireConfigRequest{Generation: 5}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("retired while in use: %v", err)
	}
	if n := w.closedSoFar(); n != 0 {
		t.Errorf("%d instances closed while in use", n)
	}
	close(w.open)
	eventually(t, "the instance closed", func() bool { return w.closedSoFar() == 1 })
}

func TestClientThatGoes(t *testing.T) {
	w := startWorker(t)
	w.push(t, 5, requestChain(1, policy("gate", "")))
	ctx, cancel := context.WithCancel(context.Background())
	s, err := w.client.Execute(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(1, 5, 1)}}); err != nil {
		t.Fatal(err)
	}
	receive(t, w.entered)
	cancel()
	if got := receive(t, w.ended); got != context.Canceled.Error() {
		t.Errorf("the policy's context: %s", got)
	}
	eventually(t, "nothing in flight", func() bool {
		h, err := w.client.HealthCheck(context.Background(), &workerv1.HealthCheckRequest{})
		return err == nil && h.InFlight == 0
	})
}

func TestBatchThatIsNone(t *testing.T) {
	w := startWorker(t)
	for name, tt := range map[string]struct {
		bytes []byte
		want  codes.Code
	}{
		"not a message": {[]byte{0xff}, codes.InvalidArgument},
		"too large":     {make([]byte, minBatch+1), codes.ResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			s := w.stream(t)
			if err := s.SendMsg(preparedFrame(t, tt.bytes)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Recv(); status.Code(err) != tt.want {
				t.Error(err)
			}
		})
	}
	w.push(t, 5, requestChain(1, policy("deny", "")))
	if r := w.execute(t, requestCall(1, 5, 1)); r.Immediate.GetStatus() != 403 {
		t.Errorf("result %v", r)
	}
}

// preparedFrame makes a message of unknown fields, or of bytes that are none.
func preparedFrame(t *testing.T, b []byte) any {
	t.Helper()
	m := new(workerv1.CallBatch)
	m.ProtoReflect().SetUnknown(b)
	return m
}

// standing is a clock that stands still.
type standing struct{ at time.Time }

func (s standing) Now() time.Time { return s.at }

// TestManyResults: a batch of results that is too long for one message goes out in several.
func TestManyResults(t *testing.T) {
	w := startWorker(t, func(s *setup) {
		s.cfg.ResourceLimits.MaxStateSize = 64 << 10
		s.opts.Clock = standing{time.Now()} // No call is slow, so that the results are in order.
	})
	w.push(t, 5, requestChain(1, policy("set", `{"header":"x","value":"`+strings.Repeat("y", 50<<10)+`"}`)))
	s := w.stream(t)
	var calls []*workerv1.Call
	for id := range uint64(100) {
		calls = append(calls, requestCall(id, 5, 1))
	}
	if err := s.Send(&workerv1.CallBatch{Calls: calls}); err != nil {
		t.Fatal(err)
	}
	messages, next := 0, uint64(0)
	for ; next < 100; messages++ {
		batch, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range batch.Results {
			if r.Id != next || len(r.Mutations) != 1 {
				t.Fatalf("result %d, want %d", r.Id, next)
			}
			next++
		}
	}
	if messages < 4 || messages > 6 {
		t.Errorf("%d messages for 5 MB", messages)
	}
}

func TestStreamsAtOnce(t *testing.T) {
	w := startWorker(t)
	gate := policy("gate", "")
	gate.TimeoutUs = 500
	w.push(t, 5, requestChain(1, policy("set", `{"header":"x","value":"y"}`), policy("deny", "")), requestChain(2, gate))
	quit := make(chan struct{})
	defer close(quit)
	go func() {
		for {
			select {
			case <-w.entered:
			case <-w.ended:
			case <-quit:
				return
			}
		}
	}()
	done := make(chan error)
	for range 4 {
		go func() {
			done <- func() error {
				s, err := w.client.Execute(t.Context())
				if err != nil {
					return err
				}
				for id := range uint64(50) {
					if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(id, 5, 1), requestCall(id, 5, 2)}}); err != nil {
						return err
					}
					for n := 0; n < 2; {
						batch, err := s.Recv()
						if err != nil {
							return err
						}
						n += len(batch.Results)
					}
				}
				return s.CloseSend()
			}()
		}()
	}
	for range 4 {
		if err := receive(t, done); err != nil {
			t.Error(err)
		}
	}
}
