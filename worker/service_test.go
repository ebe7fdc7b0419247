package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
)

// TestEveryMethod calls every method with a stock client, in the order of a kernel's life.
func TestEveryMethod(t *testing.T) {
	w, ctx := startWorker(t), context.Background()

	cfg, err := w.client.GetWorkerConfig(ctx, &workerv1.GetWorkerConfigRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Name != "worker-1" || cfg.Version != "v1" || cfg.InstanceId == 0 || len(cfg.Policies) != 11 {
		t.Errorf("configuration %v", cfg)
	}
	i := slices.IndexFunc(cfg.Policies, func(p *workerv1.PolicyDescriptor) bool { return p.Name == "set" })
	if p := cfg.Policies[i]; p.Version != "1.2.3" || !slices.Equal(p.Phases, []workerv1.Phase{1, 4}) || !json.Valid(p.ParamsSchema) {
		t.Errorf("descriptor %v", p)
	}

	w.push(
		t, 5,
		requestChain(1, policy("set", `{"header":"x-a","value":"b"}`)),
		&workerv1.Chain{Id: 2, RouteName: "route-1", ResponseFlow: true, Policies: []*workerv1.PolicyInstance{policy("set", `{"header":"x-a","value":"b"}`)}},
		requestChain(3, policy("deny", "")),
	)
	health, err := w.client.HealthCheck(ctx, &workerv1.HealthCheckRequest{KernelId: testKernel})
	if err != nil {
		t.Fatal(err)
	}
	if health.Status != workerv1.HealthCheckResponse_STATUS_SERVING || !slices.Equal(health.Generations, []uint64{5}) || health.InstanceId != cfg.InstanceId {
		t.Errorf("health %v", health)
	}

	call := requestCall(9, 5, 1)
	call.WantContext = true
	result := w.execute(t, call)
	if result.Id != 9 || result.Phase != call.Phase || result.Outcome != workerv1.Result_OUTCOME_CONTINUE || len(result.Mutations) != 1 || result.Subject != "alice" {
		t.Errorf("result %v", result)
	}
	response := &workerv1.Call{
		Generation: 5, Chain: 2, Phase: workerv1.Phase_PHASE_RESPONSE_HEADERS,
		Headers: headermap.AppendField(nil, ":status", "200"), RequestHeaders: call.Headers, Context: result.Context,
	}
	result, err = w.client.ExecuteResponse(ctx, response)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Mutations) != 1 || string(result.Mutations[0].Value) != "b of alice" {
		t.Errorf("result %v", result)
	}

	s := w.stream(t)
	if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{requestCall(1, 5, 1), requestCall(2, 5, 3), {Id: 3, Generation: 5, Chain: 2, Phase: response.Phase, Context: response.Context}}}); err != nil {
		t.Fatal(err)
	}
	batch, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(batch.Results) != 3 {
		t.Fatalf("%d results in the first batch, want 3: they are batched at the source", len(batch.Results))
	}
	if d := batch.Results[1]; d.Id != 2 || d.Immediate.GetStatus() != 403 || d.Policy != "deny" || d.Reason != "denied" || string(d.Immediate.Body) != `{"error":"Forbidden","code":"DENIED"}` {
		t.Errorf("result %v", d)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != io.EOF {
		t.Errorf("end of the stream: %v", err)
	}

	text, err := w.client.GetMetrics(ctx, &workerv1.GetMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`policy_worker_executions_total{policy="set",status="continue"} 4`,
		`policy_worker_executions_total{policy="deny",status="deny"} 1`,
		`policy_worker_execution_duration_seconds_count{policy="set"} 4`,
		`policy_worker_execution_duration_seconds_bucket{policy="set",le="+Inf"} 4`,
		`policy_worker_policy_failures_total{policy="set",reason="panic"} 0`,
		`policy_worker_policy_failures_total{policy="none",reason="overloaded"} 0`,
		`policy_worker_policy_events_total{policy="set",event="set"} 2`,
		`policy_worker_in_flight 0`,
		`policy_worker_generations 1`,
	} {
		if !strings.Contains(string(text.Text), line+"\n") {
			t.Errorf("metrics lack %s:\n%s", line, text.Text)
		}
	}

	for range 2 { // Retiring what is not there is a success.
		if _, err := w.client.RetireConfig(ctx, &workerv1.RetireConfigRequest{Generation: 5}); err != nil {
			t.Fatal(err)
		}
	}
	if w.closedSoFar() != 2 {
		t.Errorf("closed %v, want 2 instances", w.closed)
	}
	if r := w.execute(t, call); r.Failure != workerv1.Result_FAILURE_UNKNOWN_GENERATION {
		t.Errorf("result %v", r)
	}
}

func TestPushRefuses(t *testing.T) {
	w := startWorker(t)
	set := `{"header":"a","value":"b"}`
	tests := []struct {
		name   string
		chains []*workerv1.Chain
		want   []string
	}{
		{"unknown policy", []*workerv1.Chain{requestChain(1, policy("sett", set))}, []string{`1 chain[sett]: unknown policy "sett"; legal are bad, deny, explodes, gate, set, shares, sharesNot, sharesToo, stall, stores, wall`}},
		{"all mistakes at once", []*workerv1.Chain{requestChain(1, policy("set", "{}"), policy("set", `{"headre":"a"}`)), requestChain(2, policy("x", ""))}, []string{
			"1 chain[set].params.header: is missing",
			"1 chain[set].params.value: value of the header: value: is missing",
			"1 chain[set].params.headre: unknown parameter; legal are header, value, wait",
			`2 chain[x]: unknown policy "x"; legal are bad, deny, explodes, gate, set, shares, sharesNot, sharesToo, stall, stores, wall`,
		}},
		{"wrong type", []*workerv1.Chain{requestChain(1, policy("set", `{"header":1,"value":"b"}`))}, []string{"1 chain[set].params.header: number is not legal here; want a string"}},
		{"panic", []*workerv1.Chain{requestChain(1, policy("explodes", ""))}, []string{"1 chain[explodes]: the policy can't be built: it panicked: no"}},
		{"store and issuer", []*workerv1.Chain{requestChain(1, policy("stores", `{"store":"s","issuer":"i"}`))}, []string{
			`1 chain[stores]: unknown key store "s"; key_stores of the worker's configuration is empty`,
			`1 chain[stores]: unknown token issuer "i"; jwt_issuers of the worker's configuration is empty`,
		}},
		{"chain twice", []*workerv1.Chain{requestChain(1), requestChain(1)}, []string{`1 : chain 1 of route "route-1": there are two of that id`}},
		{"unknown on_failure", []*workerv1.Chain{requestChain(1, &workerv1.PolicyInstance{Name: "deny", OnFailure: 7})}, []string{`1 : compile chain of route "route-1": policy 0 ("deny") has the unknown on_failure 7`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			chains := append([]*workerv1.Chain{requestChain(100, policy("set", set))}, tt.chains...)
			resp, err := w.client.PushConfig(context.Background(), &workerv1.PushConfigRequest{KernelId: testKernel, Generation: 7, Chains: chains})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range resp.Errors {
				got = append(got, fmt.Sprintf("%d %s: %s", e.Chain, e.Path, e.Message))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			health, err := w.client.HealthCheck(context.Background(), &workerv1.HealthCheckRequest{KernelId: testKernel})
			if err != nil || len(health.Generations) != 0 {
				t.Errorf("generations %v, error %v", health.GetGenerations(), err)
			}
			// What was built before the mistake was found is closed again.
			eventually(t, "all instances closed", func() bool {
				w.mu.Lock()
				defer w.mu.Unlock()
				return slices.Contains(w.closed, "route-100/request/set/0")
			})
			w.mu.Lock()
			w.closed = nil
			w.mu.Unlock()
		})
	}
	t.Run("bounded", func(t *testing.T) {
		var chains []*workerv1.Chain
		for i := range 2 * maxConfigErrors {
			chains = append(chains, requestChain(uint32(i), policy("x", "")))
		}
		resp, err := w.client.PushConfig(context.Background(), &workerv1.PushConfigRequest{KernelId: testKernel, Generation: 7, Chains: chains})
		if err != nil || len(resp.Errors) != maxConfigErrors+1 {
			t.Errorf("%d errors, %v", len(resp.GetErrors()), err)
		}
	})
	t.Run("no kernel", func(t *testing.T) {
		_, err := w.client.PushConfig(context.Background(), &workerv1.PushConfigRequest{Generation: 7})
		if status.Code(err) != codes.InvalidArgument {
			t.Error(err)
		}
	})
	t.Run("another kernel's", func(t *testing.T) {
		w.push(t, 8)
		_, err := w.client.PushConfig(context.Background(), &workerv1.PushConfigRequest{KernelId: 2, Generation: 8})
		if status.Code(err) != codes.AlreadyExists {
			t.Error(err)
		}
	})
}

func TestPushTwice(t *testing.T) {
	w := startWorker(t)
	for range 2 {
		w.push(t, 5, requestChain(1, policy("set", `{"header":"a","value":"b"}`)))
	}
	if len(w.instances) != 1 {
		t.Errorf("instances %v, want 1: the second push has no effect", w.instances)
	}
}

// TestInstanceNames: the name of a place survives what happens around it.
func TestInstanceNames(t *testing.T) {
	w := startWorker(t)
	set := policy("set", `{"header":"a","value":"b"}`)
	w.push(t, 1, requestChain(1, set, set))
	w.push(t, 2, requestChain(7, policy("deny", ""), set, policy("deny", "")), &workerv1.Chain{Id: 8, RouteName: "route-7", Policies: []*workerv1.PolicyInstance{set}},
		&workerv1.Chain{Id: 9, RouteName: "route-7", ResponseFlow: true, Policies: []*workerv1.PolicyInstance{set}})
	want := []string{"route-1/request/set/0", "route-1/request/set/1", "route-7/request/set/0", "route-7/request/set/1", "route-7/response/set/0"}
	if !slices.Equal(w.instances, want) {
		t.Errorf("got  %q\nwant %q", w.instances, want)
	}
}

func TestShared(t *testing.T) {
	w, ctx := startWorker(t), context.Background()
	expect := func(opened, dropped int64) {
		t.Helper()
		if w.opened.Load() != opened || w.dropped.Load() != dropped {
			t.Fatalf("opened %d, closed %d; want %d, %d", w.opened.Load(), w.dropped.Load(), opened, dropped)
		}
	}
	retire := func(generation uint64) {
		t.Helper()
		if _, err := w.client.RetireConfig(ctx, &workerv1.RetireConfigRequest{Generation: generation}); err != nil {
			t.Fatal(err)
		}
	}
	w.push(t, 1, requestChain(1, policy("shares", ""), policy("shares", "")))
	w.push(t, 2, requestChain(1, policy("shares", "")))
	expect(1, 0)
	retire(1)
	expect(1, 0)
	// A push that fails does not keep it.
	if resp, err := w.client.PushConfig(ctx, &workerv1.PushConfigRequest{KernelId: testKernel, Generation: 3, Chains: []*workerv1.Chain{requestChain(1, policy("shares", ""), policy("x", ""))}}); err != nil || len(resp.Errors) != 1 {
		t.Fatal(resp, err)
	}
	retire(2)
	eventually(t, "the value closed", func() bool { return w.dropped.Load() == 1 })
	w.push(t, 4, requestChain(1, policy("shares", ""), policy("sharesToo", "")))
	expect(2, 1)
	w.push(t, 5, requestChain(1, policy("sharesNot", "")))
	expect(3, 1)
}

func TestRefusals(t *testing.T) {
	w := startWorker(t)
	w.push(t, 5,
		requestChain(1, policy("set", `{"header":"x","value":"y"}`)),
		requestChain(2, policy("bad", "")),
		requestChain(3, policy("set", `{"header":"x","value":"`+strings.Repeat("y", 1<<10)+`"}`)),
		&workerv1.Chain{Id: 4, RouteName: "r", ResponseFlow: true},
	)
	tests := []struct {
		name string
		call func(*workerv1.Call)
		want workerv1.Result_Failure
	}{
		{"unknown generation", func(c *workerv1.Call) { c.Generation = 6 }, workerv1.Result_FAILURE_UNKNOWN_GENERATION},
		{"unknown chain", func(c *workerv1.Call) { c.Chain = 99 }, workerv1.Result_FAILURE_UNKNOWN_CHAIN},
		{"headers too large", func(c *workerv1.Call) { c.Headers = make([]byte, 64<<10+1) }, workerv1.Result_FAILURE_TOO_LARGE},
		{"context too large", func(c *workerv1.Call) { c.Context = make([]byte, 1<<10+1) }, workerv1.Result_FAILURE_TOO_LARGE},
		{"malformed headers", func(c *workerv1.Call) { c.Headers = []byte{0xff} }, workerv1.Result_FAILURE_MALFORMED_CALL},
		{"malformed context", func(c *workerv1.Call) { c.Context = []byte{0xff} }, workerv1.Result_FAILURE_MALFORMED_CALL},
		{"chain of the other flow", func(c *workerv1.Call) { c.Chain = 4 }, workerv1.Result_FAILURE_MALFORMED_CALL},
		{"panic", func(c *workerv1.Call) { c.Chain = 2 }, workerv1.Result_FAILURE_POLICY_PANIC},
		{"result too large", func(c *workerv1.Call) { c.Chain = 3 }, workerv1.Result_FAILURE_RESULT_TOO_LARGE},
	}
	s := w.stream(t)
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			call := requestCall(uint64(i), 5, 1)
			tt.call(call)
			check := func(r *workerv1.Result) {
				t.Helper()
				if r.Id != call.Id || r.Phase != call.Phase || r.Outcome != workerv1.Result_OUTCOME_FAILED || r.Failure != tt.want || len(r.Mutations) != 0 || r.Reason == "" {
					t.Errorf("got %v, want %v", r, tt.want)
				}
			}
			check(w.execute(t, call))
			if err := s.Send(&workerv1.CallBatch{Calls: []*workerv1.Call{call, requestCall(77, 5, 1)}}); err != nil {
				t.Fatal(err)
			}
			batch, err := s.Recv()
			if err != nil || len(batch.Results) != 2 {
				t.Fatal(batch, err)
			}
			check(batch.Results[0])
			if batch.Results[1].Outcome != workerv1.Result_OUTCOME_CONTINUE {
				t.Errorf("the next call: %v", batch.Results[1])
			}
		})
	}
	for name, phase := range map[string]workerv1.Phase{"none": 0, "response": 4, "beyond the last": 7} {
		t.Run("phase "+name, func(t *testing.T) {
			call := requestCall(1, 5, 1)
			call.Phase = phase
			if _, err := w.client.ExecuteRequest(context.Background(), call); status.Code(err) != codes.InvalidArgument {
				t.Error(err)
			}
			call.Phase = max(1, phase%4)
			if _, err := w.client.ExecuteResponse(context.Background(), call); status.Code(err) != codes.InvalidArgument {
				t.Error(err)
			}
		})
	}
	text, err := w.client.GetMetrics(context.Background(), &workerv1.GetMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`{policy="none",reason="unknown_generation"} 2`, `{policy="none",reason="unknown_chain"} 2`, `{policy="none",reason="too_large"} 4`,
		`{policy="none",reason="malformed_call"} 6`, `{policy="none",reason="result_too_large"} 2`, `{policy="bad",reason="panic"} 2`,
	} {
		if !strings.Contains(string(text.Text), "policy_worker_policy_failures_total"+line+"\n") {
			t.Errorf("metrics lack %s", line)
		}
	}
}

// TestRandomBytes: what is no gRPC ends its own connection only.
func TestRandomBytes(t *testing.T) {
	w := startWorker(t)
	w.push(t, 5, requestChain(1, policy("deny", "")))
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		conn, err := net.Dial("unix", w.path)
		if err != nil {
			t.Fatal(err)
		}
		junk := make([]byte, 1+random.IntN(4096))
		for i := range junk {
			junk[i] = byte(random.Uint32())
		}
		if random.IntN(2) == 0 { // Come further than the preface.
			conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
		}
		conn.Write(junk)
		conn.(*net.UnixConn).CloseWrite()
		io.Copy(io.Discard, conn) // The server closes.
		conn.Close()
		if r := w.execute(t, requestCall(1, 5, 1)); r.Immediate.GetStatus() != 403 {
			t.Fatalf("result %v", r)
		}
	}
}
