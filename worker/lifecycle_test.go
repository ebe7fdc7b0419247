package worker

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/worker/chain"
)

func TestDrain(t *testing.T) {
	w := startWorker(t)
	w.push(t, 5, requestChain(1, policy("gate", "")), requestChain(2, policy("set", `{"header":"x","value":"y"}`)))
	s := w.stream(t)
	if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(1, 5, 1)}}); err != nil {
		t.Fatal(err)
	}
	receive(t, w.entered)
	unary := make(chan *workerv1.Result, 1)
	go func() {
		r, _ := w.client.ExecuteRequest(context.Background(), requestCall(2, 5, 1))
		unary <- r
	}()
	receive(t, w.entered)

	w.stop()
	eventually(t, "not serving", func() bool {
		h, err := w.client.HealthCheck(context.Background(), &workerv1.HealthCheckRequest{})
		return err == nil && h.Status == workerv1.HealthCheckResponse_STATUS_NOT_SERVING && h.InFlight == 2
	})
	if r := w.execute(t, requestCall(3, 5, 2)); r.Failure != workerv1.Result_FAILURE_DRAINING {
		t.Errorf("a new call: %v", r)
	}
	if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(4, 5, 2)}}); err != nil {
		t.Fatal(err)
	}
	if batch, err := s.Recv(); err != nil || !batch.Draining || len(batch.Results) > 0 {
		t.Errorf("notice: %v, %v", batch, err)
	}
	batch, err := s.Recv()
	if err != nil || batch.Results[0].Failure != workerv1.Result_FAILURE_DRAINING {
		t.Errorf("a new call: %v, %v", batch, err)
	}
	if _, err := w.client.PushConfig(context.Background(), &workerv1.PushConfigRequest{KernelId: testKernel, Generation: 6}); status.Code(err) != codes.Unavailable {
		t.Errorf("a new push: %v", err)
	}
	if w.closedSoFar() != 0 {
		t.Error("closed what is in use")
	}

	close(w.open)
	if batch, err = s.Recv(); err != nil || batch.Results[0].Id != 1 || batch.Results[0].Immediate.GetStatus() != 200 {
		t.Errorf("the call in flight: %v, %v", batch, err)
	}
	if r := receive(t, unary); r.GetImmediate().GetStatus() != 200 {
		t.Errorf("the unary call in flight: %v", r)
	}
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("end of the stream: %v", err)
	}
	w.wait(t)
	if w.closedSoFar() != 1 {
		t.Error("the instance is not closed")
	}
	if _, err := os.Lstat(w.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestDrainNotice: what is on its way when the worker says that it is about to stop is still taken.
func TestDrainNotice(t *testing.T) {
	w := startWorker(t, func(s *setup) { s.opts.Notice, s.opts.DrainTimeout = time.Minute, 3*time.Second })
	w.push(t, 5, requestChain(1, policy("gate", "")), requestChain(2, policy("set", `{"header":"x","value":"y"}`)))
	s := w.stream(t)
	if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(1, 5, 2)}}); err != nil {
		t.Fatal(err)
	}
	if batch, err := s.Recv(); err != nil || len(batch.Results) != 1 || batch.Draining {
		t.Fatalf("before: %v, %v", batch, err)
	}
	w.stop()
	if batch, err := s.Recv(); err != nil || !batch.Draining || len(batch.Results) > 0 {
		t.Errorf("notice: %v, %v", batch, err)
	}
	if h, err := w.client.HealthCheck(context.Background(), &workerv1.HealthCheckRequest{}); err != nil || h.Status != workerv1.HealthCheckResponse_STATUS_NOT_SERVING {
		t.Errorf("health %v, %v", h, err)
	}
	if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(2, 5, 2)}}); err != nil {
		t.Fatal(err)
	}
	if batch, err := s.Recv(); err != nil || batch.Results[0].Failure != 0 {
		t.Errorf("a call that was on its way: %v, %v", batch, err)
	}
	late := w.stream(t)
	if batch, err := late.Recv(); err != nil || !batch.Draining {
		t.Errorf("a stream that begins now: %v, %v", batch, err)
	}
}

func TestDrainDeadline(t *testing.T) {
	for _, name := range []string{"gate", "wall"} { // One heeds its context, one does not.
		t.Run(name, func(t *testing.T) {
			w := startWorker(t, func(s *setup) { s.opts.DrainTimeout = 20 * time.Millisecond })
			w.push(t, 5, requestChain(1, policy(name, "")))
			s := w.stream(t)
			if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(1, 5, 1)}}); err != nil {
				t.Fatal(err)
			}
			receive(t, w.entered)
			w.stop()
			w.wait(t)
			if batch, err := s.Recv(); err != nil || !batch.Draining {
				t.Errorf("notice: %v, %v", batch, err)
			}
			batch, err := s.Recv()
			if err == nil { // The result may still have come through; it must not be a decision.
				if r := batch.Results[0]; r.Failure != workerv1.Result_FAILURE_DRAINING {
					t.Errorf("result %v", r)
				}
				_, err = s.Recv()
			}
			if status.Code(err) != codes.Unavailable {
				t.Errorf("end of the stream: %v", err)
			}
			close(w.open)
			receive(t, w.ended)
		})
	}
}

func TestRetireWhileInUse(t *testing.T) {
	w := startWorker(t)
	w.push(t, 5, requestChain(1, policy("gate", ""), policy("set", `{"header":"x","value":"y"}`)))
	s := w.stream(t)
	if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(1, 5, 1)}}); err != nil {
		t.Fatal(err)
	}
	receive(t, w.entered)
	retired := make(chan error, 1)
	go func() {
		_, err := w.client.RetireConfig(context.Background(), &workerv1.RetireConfigRequest{Generation: 5})
		retired <- err
	}()
	eventually(t, "new calls refused", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		r, err := w.client.ExecuteRequest(ctx, requestCall(2, 5, 1))
		if err != nil { // It came in before.
			receive(t, w.entered)
			return false
		}
		return r.Failure == workerv1.Result_FAILURE_UNKNOWN_GENERATION
	})
	select {
	case <-retired:
		t.Fatal("retired while in use")
	default:
	}
	if w.closedSoFar() != 0 {
		t.Fatal("closed while in use")
	}
	close(w.open)
	if batch, err := s.Recv(); err != nil || batch.Results[0].Immediate.GetStatus() != 200 {
		t.Errorf("the call in flight: %v, %v", batch, err)
	}
	if err := receive(t, retired); err != nil {
		t.Error(err)
	}
	if w.closedSoFar() != 1 {
		t.Error("not closed")
	}
}

func TestLeases(t *testing.T) {
	now := time.Unix(1000, 0)
	gs := newGenerations(func() time.Time { return now })
	add := func(kernelID, id uint64) *generation {
		g := &generation{id: id, chains: map[uint32]*chain.Chain{}, using: map[sharedKey]*sharedValue{}, freed: make(chan struct{})}
		g.holds.Store(1)
		if !gs.add(kernelID, g) {
			t.Fatal("not added")
		}
		return g
	}
	freed := func(want ...uint64) {
		t.Helper()
		var ids []uint64
		for _, g := range gs.expire() {
			ids = append(ids, g.id)
			receive(t, g.freed)
			if g.acquire() {
				t.Error("acquired what is freed")
			}
		}
		slices.Sort(ids)
		if !slices.Equal(ids, want) {
			t.Errorf("freed %v, want %v", ids, want)
		}
	}
	add(1, 10)
	add(1, 11)
	add(2, 20)
	three := add(3, 30)
	now = now.Add(lease)
	freed()
	if got := gs.renew(2); !slices.Equal(got, []uint64{20}) {
		t.Errorf("generations %v", got)
	}
	three.kernel.renew(now) // A call was heard of.
	now = now.Add(time.Second)
	freed(10, 11)
	if gs.get(10) != nil || gs.get(20) == nil || gs.count() != 2 {
		t.Error("the table is wrong")
	}
	if got := gs.renew(1); len(got) != 0 {
		t.Errorf("generations %v", got)
	}
	now = now.Add(lease)
	freed(20, 30)
	last := add(4, 40)
	if got := gs.close(); len(got) != 1 || got[0] != last {
		t.Errorf("closed %v", got)
	}
	receive(t, last.freed)
	if gs.add(4, &generation{id: 41}) {
		t.Error("added after the end")
	}
}

// TestPushOf100000Chains is about the limits of messages.
func TestPushOf100000Chains(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	w := startWorker(t)
	chains := make([]*workerv1.Chain, 100_000)
	for i := range chains {
		chains[i] = requestChain(uint32(i), policy("deny", "{}"), policy("deny", "{}"), policy("deny", "{}"))
		for _, p := range chains[i].Policies {
			p.Path = "policy_kernel.route_policies[99999].request_flow.policy_chain[1]"
		}
	}
	w.push(t, 5, chains...)
	if r := w.execute(t, requestCall(1, 5, 99_999)); r.Immediate.GetStatus() != 403 {
		t.Errorf("result %v", r)
	}
}
