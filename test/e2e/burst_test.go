package e2e

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

// burstUpstream holds all requests until as many are in flight, or have ended in another way, and answers them all at once.
type burstUpstream struct {
	want    int64
	arrived atomic.Int64
	ended   atomic.Int64
	all     chan struct{}
	open    sync.Once
}

func (u *burstUpstream) check() {
	if u.arrived.Load()+u.ended.Load() >= u.want {
		u.open.Do(func() { close(u.all) })
	}
}

// ServeHTTP implements http.Handler.
func (u *burstUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.arrived.Add(1)
	u.check()
	select {
	case <-u.all:
	case <-r.Context().Done():
	}
	_, _ = io.WriteString(w, "ok\n")
}

// TestBurst: requests that are sent at once, and whose responses come all at once, are all answered: nothing of Envoy or of the engine
// takes many for too many.
func TestBurst(t *testing.T) {
	const inFlight = 3000
	upstream := &burstUpstream{want: inFlight, all: make(chan struct{})}
	e := harness.StartEngine(t, harness.Spec{
		Kernel: `  workers:
    - {name: worker-a, socket_path: "${RUN_DIR}/a.sock", timeout: 20s}
  route_policies:
    - route_name: burst
      request_flow: {policy_chain: [{policy: witnessA, params: {name: a}}]}
      response_flow: {policy_chain: [{policy: witnessA, params: {name: b}}]}
`,
		Upstream: upstream, Untapped: true, Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A")},
		EnvoyArgs: []string{"--route", "burst=/"},
		// The upstream's limits are not those of the engine.
		EditEnvoy: func(text string) string {
			return strings.NewReplacer("max_connections: 4096", "max_connections: 65536", "max_requests: 4096", "max_requests: 65536",
				"max_pending_requests: 4096", "max_pending_requests: 65536").Replace(text)
		},
	})
	client := newClient(t, "HTTP/2")
	client.Timeout = 60 * time.Second
	var all sync.WaitGroup
	var mu sync.Mutex
	lost := map[string]int{}
	for range inFlight {
		all.Go(func() {
			what := "200"
			resp, err := client.Get("http://" + e.Listen + "/")
			if err != nil {
				what = err.Error()
			} else {
				text, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					what = resp.Status + " " + string(text)
				}
			}
			upstream.ended.Add(1)
			upstream.check()
			mu.Lock()
			lost[what]++
			mu.Unlock()
		})
	}
	all.Wait()
	if lost["200"] != inFlight || upstream.arrived.Load() != inFlight {
		t.Errorf("%d requests arrived at the upstream; outcomes %v", upstream.arrived.Load(), lost)
	}
}
