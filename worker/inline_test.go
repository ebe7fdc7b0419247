package worker

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/policies"
)

// caller makes an outgoing call: in its phase method, or in what it gives to Await.
type caller struct {
	client *http.Client
	url    string
	awaits bool
}

func (c *caller) OnRequestHeaders(context.Context, *policies.Request) (policies.Verdict, error) {
	if c.awaits {
		return policies.Await(c.call), nil
	}
	return c.call(context.Background())
}

func (c *caller) call(ctx context.Context) (policies.Verdict, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, http.NoBody)
	if err != nil {
		return policies.Verdict{}, err
	}
	resp, err := c.client.Do(r)
	if err != nil {
		return policies.Deny(403, "refused"), nil
	}
	resp.Body.Close()
	return policies.Continue(), nil
}

// blockingCaller says that it may block.
type blockingCaller struct{ caller }

func (*blockingCaller) MayBlock() {}

// TestHTTPClientIsNotForInlineRuns: whatever context a call has, it fails where it would hold up other requests.
func TestHTTPClientIsNotForInlineRuns(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	w := startWorker(t, func(s *setup) {
		s.more = append(s.more,
			policies.Define("inline", "1", func(env policies.Env, _ none) (*caller, error) {
				return &caller{client: env.HTTPClient(), url: server.URL}, nil
			}),
			policies.Define("awaits", "1", func(env policies.Env, _ none) (*caller, error) {
				return &caller{client: env.HTTPClient(), url: server.URL, awaits: true}, nil
			}),
			policies.Define("blocks", "1", func(env policies.Env, _ none) (*blockingCaller, error) {
				return &blockingCaller{caller{client: env.HTTPClient(), url: server.URL}}, nil
			}))
	})
	w.push(t, 5, requestChain(1, policy("inline", "")), requestChain(2, policy("awaits", "")), requestChain(3, policy("blocks", "")), requestChain(4, policy("blocks", ""), policy("inline", "")))
	for chain, want := range map[uint32]workerv1.Result_Outcome{
		1: workerv1.Result_OUTCOME_IMMEDIATE, 2: workerv1.Result_OUTCOME_CONTINUE, 3: workerv1.Result_OUTCOME_CONTINUE, 4: workerv1.Result_OUTCOME_IMMEDIATE,
	} {
		if r := w.execute(t, requestCall(1, 5, chain)); r.Outcome != want {
			t.Errorf("chain %d: %v", chain, r)
		}
	}
}
