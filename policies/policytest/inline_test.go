package policytest

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
)

// server answers every call.
type server struct{}

func (server) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(""))}, nil
}

type inlineCaller struct {
	client *http.Client
	awaits bool
}

func (c *inlineCaller) OnRequestHeaders(context.Context, *policies.Request) (policies.Verdict, error) {
	if c.awaits {
		return policies.Await(c.call), nil
	}
	return c.call(context.Background())
}

func (c *inlineCaller) call(ctx context.Context) (policies.Verdict, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://example.com", http.NoBody)
	if err != nil {
		return policies.Verdict{}, err
	}
	resp, err := c.client.Do(r)
	if err != nil {
		return policies.Verdict{}, err
	}
	return policies.Continue(), resp.Body.Close()
}

type blockingCaller struct{ inlineCaller }

func (*blockingCaller) MayBlock() {}

// TestHTTPClientIsNotForInlineRuns: as in a worker, an outgoing call fails where a policy must not wait.
func TestHTTPClientIsNotForInlineRuns(t *testing.T) {
	client := NewEnv(t, WithHTTPClient(&http.Client{Transport: server{}})).HTTPClient()
	if r := Run(t, &inlineCaller{client: client}, Request{}); r.Err == nil || !strings.Contains(r.Err.Error(), "policies.Await") {
		t.Errorf("inline: %v", r)
	}
	for name, p := range map[string]any{"await": &inlineCaller{client, true}, "blocking": &blockingCaller{inlineCaller{client: client}}} {
		if r := Run(t, p, Request{}); !r.Continued() {
			t.Errorf("%s: %v", name, r)
		}
	}
}
