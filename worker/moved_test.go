package worker

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/fastpath/lane"
	"github.com/policy-engine/policy-engine/policies"
)

// burner burns processor time until the test releases it or its context ends, and then does what the request's path says.
type burner struct {
	entered chan string
	release chan struct{}
	ended   chan error // what ended the contexts
}

func newBurner() *burner {
	return &burner{entered: make(chan string, 100), release: make(chan struct{}, 100), ended: make(chan error, 100)}
}

func (b *burner) definition() policies.Definition {
	return policies.Define("burn", "1", func(policies.Env, none) (*burner, error) { return b, nil })
}

func (b *burner) OnRequestHeaders(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
	before := string(r.Path())
	b.entered <- before
	for spinning := true; spinning; {
		select {
		case <-b.release:
			spinning = false
		default:
			if ctx.Err() != nil {
				b.ended <- ctx.Err()
				return policies.Verdict{}, ctx.Err()
			}
			for range 1000 { //nolint:revive // It burns processor time.
			}
		}
	}
	if string(r.Path()) != before {
		return policies.Verdict{}, fmt.Errorf("the path became %q while the call was aside", r.Path())
	}
	switch before {
	case "/panic":
		panic("told to")
	case "/exit":
		runtime.Goexit()
	case "/await":
		return policies.Await(func(context.Context) (policies.Verdict, error) { return policies.Deny(403, "awaited"), nil }), nil
	}
	r.SetHeader("x-burnt", before)
	return policies.Continue(), nil
}

// startBurning starts a worker with chain 1: deny, and the chains 2 and 3: burn and set.
func startBurning(t *testing.T, change ...func(*setup)) (*running, *burner, *output) {
	t.Helper()
	b, log := newBurner(), new(output)
	w := startWorker(t, append(change, func(s *setup) {
		s.more = append(s.more, b.definition())
		s.opts.Log = slog.New(slog.NewTextHandler(log, nil))
	})...)
	w.push(t, 5, requestChain(1, policy("deny", "")), requestChain(2, policy("burn", ""), policy("set", `{"header":"a","value":"b"}`)), requestChain(3, policy("burn", "")))
	return w, b, log
}

func burnCall(id uint64, chain uint32, path string) *workerv1.Call {
	c := requestCall(id, 5, chain)
	c.Headers = headermap.AppendField(headermap.AppendField(nil, ":method", "GET"), ":path", path)
	return c
}

type executeStream interface {
	Send(*workerv1.CallBatch) error
	Recv() (*workerv1.ResultBatch, error)
}

// results reads so many results from a stream.
func results(t *testing.T, s executeStream, n int) map[uint64]*workerv1.Result {
	t.Helper()
	got := make(map[uint64]*workerv1.Result)
	for len(got) < n {
		batch, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range batch.Results {
			if got[r.Id] != nil {
				t.Fatalf("two results of call %d", r.Id)
			}
			got[r.Id] = r
		}
	}
	return got
}

func send(t *testing.T, s executeStream, calls ...*workerv1.Call) {
	t.Helper()
	if err := s.Send(&workerv1.CallBatch{Calls: calls}); err != nil {
		t.Fatal(err)
	}
}

// TestSlowCallIsMovedAside: the calls before it, after it and of later batches are answered while it runs; its own result comes, and is right, though the connection's memory was used again.
func TestSlowCallIsMovedAside(t *testing.T) {
	w, b, log := startBurning(t)
	s := w.stream(t)
	send(t, s, requestCall(1, 5, 1), burnCall(2, 2, "/slow"), requestCall(3, 5, 1))
	receive(t, b.entered)
	if got := results(t, s, 2); got[1] == nil || got[3] == nil {
		t.Fatalf("beside it: %v", got)
	}
	for id := uint64(10); id < 30; id++ {
		send(t, s, requestCall(id, 5, 1), burnCall(id+100, 1, strings.Repeat("/x", 200)))
		results(t, s, 2)
	}
	b.release <- struct{}{}
	r := results(t, s, 1)[2]
	if r == nil || r.Outcome != workerv1.Result_OUTCOME_CONTINUE || len(r.Mutations) != 2 || string(r.Mutations[0].Value) != "/slow" || r.Subject != "alice" {
		t.Errorf("its result: %v", r)
	}
	eventually(t, "nothing in flight", func() bool { return w.inFlight(t) == 0 })
	if n := w.metrics(t); !strings.Contains(n, `policy_worker_slow_inline_runs_total{policy="burn"} 1`+"\n") || !strings.Contains(n, `policy_worker_slow_inline_runs_total{policy="deny"} 0`+"\n") {
		t.Errorf("not counted once under its name")
	}
	if got := log.String(); strings.Count(got, "slow policy") != 1 || !strings.Contains(got, "policy=burn route=route-2") || !strings.Contains(got, "moved_aside=true") {
		t.Errorf("log %s", got)
	}
}

func (r *running) inFlight(t *testing.T) uint32 {
	t.Helper()
	h, err := r.client.HealthCheck(context.Background(), &workerv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return h.InFlight
}

// TestMovedCallEnds: however a call ends that was moved aside, its result comes, and the connection goes on.
func TestMovedCallEnds(t *testing.T) {
	for path, want := range map[string]string{
		"/panic": "FAILURE_POLICY_PANIC", "/exit": "FAILURE_POLICY_PANIC", "/await": "awaited", "/late": "FAILURE_POLICY_TIMEOUT",
	} {
		t.Run(path[1:], func(t *testing.T) {
			w, b, _ := startBurning(t)
			s := w.stream(t)
			call := burnCall(2, 3, path)
			if path == "/late" {
				call.TimeoutUs = 30_000
			}
			send(t, s, call, requestCall(3, 5, 1))
			receive(t, b.entered)
			results(t, s, 1)
			if path == "/late" {
				receive(t, b.ended)
			} else {
				b.release <- struct{}{}
			}
			r := results(t, s, 1)[2]
			if r == nil || !strings.Contains(r.String(), want) || r.Outcome == workerv1.Result_OUTCOME_CONTINUE {
				t.Errorf("result %v, want %s", r, want)
			}
			send(t, s, requestCall(4, 5, 1))
			results(t, s, 1)
			eventually(t, "nothing in flight", func() bool { return w.inFlight(t) == 0 })
		})
	}
}

// TestConnectionEndsDuringMovedCall: the policy's context ends with the connection.
func TestConnectionEndsDuringMovedCall(t *testing.T) {
	w, b, _ := startBurning(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := w.client.Execute(ctx)
	if err != nil {
		t.Fatal(err)
	}
	send(t, s, burnCall(1, 2, "/slow"), requestCall(2, 5, 1))
	receive(t, b.entered)
	results(t, s, 1)
	w.conn.Close()
	receive(t, b.ended)
	<-s.Context().Done()
}

// TestHalfCloseDuringMovedCall: the stream ends after the result of the call that was moved aside.
func TestHalfCloseDuringMovedCall(t *testing.T) {
	w, b, _ := startBurning(t)
	s := w.stream(t)
	send(t, s, burnCall(1, 2, "/slow"), requestCall(2, 5, 1))
	receive(t, b.entered)
	results(t, s, 1)
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	b.release <- struct{}{}
	if r := results(t, s, 1)[1]; r.Outcome != workerv1.Result_OUTCOME_CONTINUE {
		t.Errorf("result %v", r)
	}
	if _, err := s.Recv(); err != io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
}

// TestRetireDuringMovedCall: the generation stays until the call has ended.
func TestRetireDuringMovedCall(t *testing.T) {
	w, b, _ := startBurning(t)
	s := w.stream(t)
	send(t, s, burnCall(1, 2, "/slow"), requestCall(2, 5, 1))
	receive(t, b.entered)
	results(t, s, 1)
	retired := make(chan error, 1)
	go func() {
		_, err := w.client.RetireConfig(context.Background(), &workerv1.RetireConfigRequest{Generation: 5})
		retired <- err
	}()
	eventually(t, "the generation is retired", func() bool {
		return w.execute(t, requestCall(3, 5, 1)).Failure == workerv1.Result_FAILURE_UNKNOWN_GENERATION
	})
	if n := w.closedSoFar(); n != 0 {
		t.Errorf("%d instances closed while a call uses them", n)
	}
	b.release <- struct{}{}
	if r := results(t, s, 1)[1]; r.Outcome != workerv1.Result_OUTCOME_CONTINUE || len(r.Mutations) != 2 {
		t.Errorf("result %v", r)
	}
	if err := receive(t, retired); err != nil {
		t.Error(err)
	}
}

// TestSlowPolicyIsBounded: the next calls of a policy that takes long run aside from the start, so many at a time; those beyond the bound fail by their own name, and other routes lose nothing.
func TestSlowPolicyIsBounded(t *testing.T) {
	w, b, log := startBurning(t, func(s *setup) { s.cfg.MaxConcurrentRequests = 64 }) // 8 of a place may wait.
	s := w.stream(t)
	const hostile = 30
	var calls []*workerv1.Call
	for id := range uint64(hostile) {
		calls = append(calls, burnCall(100+id, 3, "/slow"))
	}
	// The first run is moved aside; the next ones are measured, and wait for as long.
	const moved = 4
	for n, call := range calls[:moved] {
		send(t, s, call)
		receive(t, b.entered)
		send(t, s, requestCall(uint64(10+n), 5, 1))
		results(t, s, 1)
		b.release <- struct{}{}
		results(t, s, 1)
	}
	send(t, s, calls[moved])
	receive(t, b.entered) // It runs aside from the start,
	time.Sleep(lane.Slice)
	b.release <- struct{}{} // and proves that the policy is slow.
	results(t, s, 1)
	send(t, s, calls[moved+1:]...)
	send(t, s, requestCall(2, 5, 1))
	refused, neighbours := 0, 0
	perPlace := max(1, runtime.NumCPU()/4)
	for want := hostile - (moved + 1) - perPlace - 8; refused < want || neighbours < 1; {
		for id, r := range results(t, s, 1) {
			switch {
			case id == 2:
				neighbours++
			case r.Outcome == workerv1.Result_OUTCOME_FAILED && r.Failure == workerv1.Result_FAILURE_POLICY_OVERLOADED && r.Reason == "overloaded" && r.Policy == "burn":
				refused++
			default:
				t.Fatalf("call %d: %v", id, r)
			}
		}
	}
	for n := range 20 {
		if r := w.execute(t, requestCall(uint64(n), 5, 1)); r.Immediate.GetStatus() != 403 {
			t.Errorf("a neighbour: %v", r)
		}
	}
	for range perPlace + 8 {
		b.release <- struct{}{}
	}
	for id, r := range results(t, s, perPlace+8) {
		if r.Outcome != workerv1.Result_OUTCOME_CONTINUE {
			t.Errorf("call %d: %v", id, r)
		}
	}
	if !strings.Contains(w.metrics(t), fmt.Sprintf(`policy_worker_policy_failures_total{policy="burn",reason="overloaded"} %d`, refused)) {
		t.Error("the refusals are not counted")
	}
	if got := log.String(); !strings.Contains(got, `level=WARN msg="policy overloaded`) || strings.Contains(got, "policy failed") {
		t.Errorf("the refusals do not have a log line of their own: %s", got)
	}
}

// owner takes a lane over for a caller that has nothing else to do.
type owner struct{ took chan struct{} }

func (o owner) TakeOver(*lane.Lane) { close(o.took) }

// laneReceiver is an inbox that is told of lateness.
type laneReceiver struct {
	inbox
	late chan struct{}
}

func (r laneReceiver) Late() { close(r.late) }

// TestEmbeddedMovesAside: in one process, the caller's lane is taken over; the result comes later, or says in time that there is none.
func TestEmbeddedMovesAside(t *testing.T) {
	for _, path := range []string{"/slow", "/panic", "/exit", "/await", "/late"} {
		t.Run(path[1:], func(t *testing.T) {
			b := newBurner()
			e := embed(t, func(*config.Worker, *Options) {}, b.definition())
			resp, err := e.Protocol().PushConfig(t.Context(), &workerv1.PushConfigRequest{KernelId: testKernel, Generation: 5, Chains: []*workerv1.Chain{requestChain(3, policy("burn", ""))}})
			if err != nil || len(resp.Errors) > 0 {
				t.Fatal(resp, err)
			}
			watch := lane.NewWatch(lane.Options{Now: time.Now, Most: 1})
			ctx, cancel := context.WithCancel(t.Context())
			var group sync.WaitGroup
			defer group.Wait()
			defer cancel()
			group.Go(func() { watch.Run(ctx) })
			o, to := owner{make(chan struct{})}, laneReceiver{make(inbox, 2), make(chan struct{})}
			call := burnCall(1, 3, path)
			if path == "/late" {
				call.TimeoutUs = 30_000
			}
			l := watch.Lane(o)
			group.Go(func() {
				l.Enter()
				e.ExecuteOn(l, call, to, func() { e.later <- struct{}{} })
			})
			receive(t, b.entered)
			receive(t, o.took)
			clear(call.Headers) // The caller's bytes are not needed any more.
			if path == "/late" {
				receive(t, to.late)
				receive(t, b.ended)
				receive(t, e.later)
				eventually(t, "nothing in flight", func() bool { return e.worker.service.core.inFlight.Load() == 0 })
				if len(to.inbox) > 0 {
					t.Error("a result after the timeout")
				}
				return
			}
			b.release <- struct{}{}
			r := receive(t, to.inbox)
			receive(t, e.later)
			switch {
			case path == "/slow" && (r == nil || r.Outcome != workerv1.Result_OUTCOME_CONTINUE || len(r.Mutations) != 1 || string(r.Mutations[0].Value) != "/slow"),
				path == "/panic" && (r == nil || r.Failure != workerv1.Result_FAILURE_POLICY_PANIC),
				path == "/exit" && r != nil,
				path == "/await" && (r == nil || r.Immediate.GetStatus() != 403):
				t.Errorf("result %v", r)
			}
			eventually(t, "nothing in flight", func() bool { return e.worker.service.core.inFlight.Load() == 0 && watch.Aside() == 0 })
		})
	}
}
