package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

// The workers have as much time as a busy machine needs for all of them.
var manyBodies = strings.ReplaceAll(longStreams, "timeout: 400ms", "timeout: 8s") + `    - route_name: whole
      request_flow: {policy_chain: [{policy: bodyA, params: {name: a}}]}
      response_flow: {policy_chain: [{policy: bodyB, params: {name: b, append: "!"}}]}
`

// TestManyBodiesAtATime: long bodies of many clients on one connection of Envoy's, in chunks and as a whole, take turns: none is refused, lost or changed.
func TestManyBodiesAtATime(t *testing.T) {
	for _, mode := range streamModes {
		t.Run(mode.name, func(t *testing.T) {
			e := harness.StartEngine(t, harness.Spec{
				Kernel: manyBodies, Upstream: &longUpstream{}, Untapped: true, EnvoyArgs: mode.envoy,
				Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
			})
			client := newClient(t, "HTTP/1.1")
			const clients = 40
			for _, tt := range []struct {
				route string
				size  int64 // of both bodies
				added int64 // to the response's
			}{{"/watched", 2 << 20, 0}, {"/edited", 2 << 20, 0}, {"/whole", 900 << 10, 1}} {
				var all sync.WaitGroup
				for range clients {
					all.Go(func() {
						if err := exchangeBodies(client, "http://"+e.Listen+tt.route, tt.size, tt.size+tt.added); err != nil {
							t.Errorf("%s: %v", tt.route, err)
						}
					})
				}
				all.Wait()
			}
			wantIdle(t, e)
		})
	}
}

// exchangeBodies sends a body, has the upstream send one as long, and wants so many bytes of it.
func exchangeBodies(client *http.Client, url string, size, want int64) error {
	resp, err := client.Post(fmt.Sprintf("%s?size=%d", url, size), "application/octet-stream", &blank{size})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.Copy(io.Discard, resp.Body)
	if err == nil && (got != want || resp.StatusCode != http.StatusOK || resp.Header.Get("X-Got") != fmt.Sprint(size)) {
		err = fmt.Errorf("%s, sent %q of %d bytes, got %d of %d", resp.Status, resp.Header.Get("X-Got"), size, got, want)
	}
	return err
}
