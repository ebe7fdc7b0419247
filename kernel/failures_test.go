package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
)

// faultyWorker is a worker of one policy, which owns x-user-id; what it does with calls is its fault.
type faultyWorker struct {
	fakeWorker
	fault atomic.Pointer[fault]
	calls atomic.Int64
	// mute makes health checks go without an answer.
	mute atomic.Bool
}

func (f *faultyWorker) HealthCheck(ctx context.Context, req *workerv1.HealthCheckRequest) (*workerv1.HealthCheckResponse, error) {
	if f.mute.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return f.fakeWorker.HealthCheck(ctx, req)
}

// fault makes a call's answer, or none, or the end of the stream.
type fault func(*workerv1.Call) (*workerv1.ResultBatch, error)

func (f *faultyWorker) PushConfig(ctx context.Context, req *workerv1.PushConfigRequest) (*workerv1.PushConfigResponse, error) {
	resp, err := f.fakeWorker.PushConfig(ctx, req)
	for _, c := range req.Chains {
		for i, p := range c.Policies {
			if p.ReportOwnedHeaders {
				resp.OwnedHeaders = append(resp.OwnedHeaders, &workerv1.OwnedHeaders{Chain: c.Id, Policy: uint32(i), Names: []string{"x-user-id"}})
			}
		}
	}
	return resp, err
}

func (f *faultyWorker) Execute(stream grpc.BidiStreamingServer[workerv1.CallBatch, workerv1.ResultBatch]) error {
	for {
		batch, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, c := range batch.Calls {
			f.calls.Add(1)
			results, err := (*f.fault.Load())(c)
			if err == nil && results != nil {
				err = stream.Send(results)
			}
			if err != nil {
				return err
			}
		}
	}
}

func answers(r *workerv1.Result) fault {
	return func(c *workerv1.Call) (*workerv1.ResultBatch, error) {
		made := proto.Clone(r).(*workerv1.Result)
		made.Id, made.Phase = c.Id, c.Phase
		return &workerv1.ResultBatch{Results: []*workerv1.Result{made}}, nil
	}
}

func refuses(f workerv1.Result_Failure) fault {
	return answers(&workerv1.Result{Outcome: workerv1.Result_OUTCOME_FAILED, Failure: f, Reason: "refused"})
}

func hangs(*workerv1.Call) (*workerv1.ResultBatch, error) { return nil, nil }

const failureConfig = `policy_kernel:
  workers:
    - name: faulty
      socket_path: %s
      timeout: 400ms
      max_in_flight: %d
      circuit_breaker: {consecutive_failures: %d, open_time: 1m}
      health_check: {interval: 20ms, timeout: 2s}
    - {name: witness, socket_path: "%s", timeout: 10s, health_check: {interval: 20ms, timeout: 2s}}
  route_policies:
    - {route_name: deny, request_flow: {policy_chain: [{policy: faulty}, {policy: witness}]}}
    - {route_name: continue, request_flow: {policy_chain: [{policy: faulty, on_failure: continue}, {policy: witness}]}}
    - {route_name: skip_remaining, request_flow: {policy_chain: [{policy: faulty, on_failure: skip_remaining}, {policy: witness}]}}
`

// TestFailuresOfWorkers: what the failure of a worker means for the request, for each on_failure. Failures of policies are in the tables of test/conformance.
func TestFailuresOfWorkers(t *testing.T) {
	tests := []struct {
		name  string
		fault fault
		// kill ends the worker first; fill has its only call under way, and trip its breaker open.
		kill, fill, trip bool
		deny             int
	}{
		{name: "connection lost", fault: func(*workerv1.Call) (*workerv1.ResultBatch, error) { return nil, errors.New("gone") }, deny: 503},
		{name: "gone before", fault: hangs, kill: true, deny: 503},
		{name: "hangs", fault: hangs, deny: 504},
		{name: "breaker open", fault: hangs, trip: true, deny: 503},
		{name: "too many calls under way", fault: hangs, fill: true, deny: 503},
		{name: "overloaded", fault: refuses(workerv1.Result_FAILURE_OVERLOADED), deny: 503},
		{name: "draining", fault: refuses(workerv1.Result_FAILURE_DRAINING), deny: 503},
		{name: "without the configuration", fault: refuses(workerv1.Result_FAILURE_UNKNOWN_GENERATION), deny: 503},
		{name: "result too large", fault: refuses(workerv1.Result_FAILURE_RESULT_TOO_LARGE), deny: 500},
		{name: "outcome missing", fault: answers(&workerv1.Result{}), deny: 500},
		{name: "status that is none", fault: answers(&workerv1.Result{Outcome: workerv1.Result_OUTCOME_IMMEDIATE, Immediate: &workerv1.ImmediateResponse{Status: 100}}), deny: 500},
		{name: "header that is none", fault: answers(&workerv1.Result{
			Outcome:   workerv1.Result_OUTCOME_CONTINUE,
			Mutations: []*workerv1.Mutation{{Kind: workerv1.Mutation_KIND_SET_HEADER, Name: "x-a", Value: []byte("a\r\nx-b: b")}},
		}), deny: 500},
		{name: "garbage", fault: func(*workerv1.Call) (*workerv1.ResultBatch, error) {
			var r workerv1.ResultBatch
			r.ProtoReflect().SetUnknown([]byte{1<<3 | 2, 2, 0xff, 0xff})
			return &r, nil
		}, deny: 500},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			faulty := &faultyWorker{fakeWorker: fakeWorker{name: "faulty", policies: []string{"faulty"}}}
			faulty.fault.Store(&tt.fault)
			witness := &faultyWorker{fakeWorker: fakeWorker{name: "witness", policies: []string{"witness"}}}
			well := answers(&workerv1.Result{Outcome: workerv1.Result_OUTCOME_CONTINUE})
			witness.fault.Store(&well)
			paths := [2]string{socketPath(t), socketPath(t)}
			kill := startServer(t, paths[0], faulty, &faulty.fakeWorker)
			startServer(t, paths[1], witness, &witness.fakeWorker)
			inFlight, failures := 1000, 1000
			if tt.fill {
				inFlight = 1
			}
			if tt.trip {
				failures = 1
			}
			r := launch(t, paths[0], func(cfg *config.Kernel, _ *Options) {
				other, err := config.ParseKernel("kernel.yaml", fmt.Appendf(nil, failureConfig, paths[0], inFlight, failures, paths[1]))
				if err != nil {
					t.Fatal(err)
				}
				other.Server, other.Admin, other.Drain = cfg.Server, cfg.Admin, cfg.Drain
				*cfg = *other
			})
			r.ready()
			if tt.kill {
				kill()
				eventually(t, "the kernel knows", func() bool {
					return r.metrics(`policy_kernel_worker_health{worker="faulty"}`) == "policy_kernel_worker_health{worker=\"faulty\"} 0\n"
				})
			}
			if tt.trip {
				faulty.mute.Store(true)
				eventually(t, "the breaker is open", func() bool { // A health answer of before may still come.
					r.ask("deny")
					return strings.HasSuffix(r.metrics(`policy_kernel_worker_breaker_state{worker="faulty"`), " 2\n")
				})
			}
			for _, onFailure := range []string{"deny", "continue", "skip_remaining"} {
				ready(t, r, tt.kill || tt.trip)
				if tt.fill {
					before := faulty.calls.Load()
					eventually(t, "a call is under way", func() bool { // The one before may be still.
						if err := r.stream("deny").Send(requestHeaders()); err != nil {
							t.Fatal(err)
						}
						return faulty.calls.Load() > before
					})
				}
				before := witness.calls.Load()
				start := time.Now()
				resp := r.exchange(r.stream(onFailure), requestHeaders("x-user-id", "mallory", "x_user-id", "mallory"))
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("%s: it took %v", onFailure, took)
				}
				judge(t, onFailure, tt.deny, resp, witness.calls.Load()-before)
			}
			if err := r.end(); err != nil {
				t.Error(err)
			}
		})
	}
}

// ready waits until the workers are there again: some faults end connections.
func ready(t *testing.T, r *running, gone bool) {
	t.Helper()
	if !gone {
		r.ready()
	}
}

// judge checks what became of a request, and how often the policy after the faulty one ran.
func judge(t *testing.T, onFailure string, deny int, resp *extprocv3.ProcessingResponse, ran int64) {
	t.Helper()
	if onFailure == "deny" {
		if got := int(resp.GetImmediateResponse().GetStatus().GetCode()); got != deny || ran != 0 {
			t.Errorf("deny: got %v, want %d; the next policy ran %d times", resp, deny, ran)
		}
		return
	}
	if resp.GetRequestHeaders() == nil {
		t.Errorf("%s: got %v", onFailure, resp)
		return
	}
	removed := resp.GetRequestHeaders().GetResponse().GetHeaderMutation().GetRemoveHeaders()
	if !slices.Contains(removed, "x-user-id") || !slices.Contains(removed, "x_user-id") {
		t.Errorf("%s: a client's owned headers go on: removed are %v", onFailure, removed)
	}
	if want := map[string]int64{"continue": 1, "skip_remaining": 0}[onFailure]; ran != want {
		t.Errorf("%s: the next policy ran %d times, want %d", onFailure, ran, want)
	}
}
