package e2e

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/policy-engine/policy-engine/test/harness"
)

// onRoute selects a route by a header where requests have no path to do so.
const onRoute = "X-Route: "

// addConnect adds to Envoy's configuration what an operator would for CONNECT: for each route one more, for tunnels whose header x-route names it. Without, Envoy refuses
// CONNECT itself.
func addConnect(text string) string {
	var doc map[string]any
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		panic(err)
	}
	listener := doc["static_resources"].(map[string]any)["listeners"].([]any)[0].(map[string]any)
	filter := listener["filter_chains"].([]any)[0].(map[string]any)["filters"].([]any)[0].(map[string]any)
	manager := filter["typed_config"].(map[string]any)
	manager["upgrade_configs"] = append(manager["upgrade_configs"].([]any), map[string]any{"upgrade_type": "CONNECT"})
	host := manager["route_config"].(map[string]any)["virtual_hosts"].([]any)[0].(map[string]any)
	routes := host["routes"].([]any)
	for _, route := range routes {
		name := route.(map[string]any)["name"]
		named := []any{map[string]any{"name": "x-route", "string_match": map[string]any{"exact": name}}}
		more := maps.Clone(route.(map[string]any))
		more["match"] = map[string]any{"connect_matcher": map[string]any{}, "headers": named}
		host["routes"] = append(host["routes"].([]any), more)
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(doc); err != nil {
		panic(err)
	}
	return out.String()
}

// tunnelUpstream takes CONNECT and sends back what comes; it answers other requests with their target.
func tunnelUpstream(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		w.Header().Set("X-Saw", r.Header.Get("X-Seen-A"))
		_, _ = io.WriteString(w, r.Method+" "+r.RequestURI)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX-Saw: "+r.Header.Get("X-Seen-A")+"\r\n\r\n")
	_, _ = io.Copy(conn, rw) // Until the client ends.
}

// TestProtocolConnect: a tunnel opens only when the policies let it.
func TestProtocolConnect(t *testing.T) {
	t.Parallel()
	e := harness.StartEngine(t, harness.Spec{
		Kernel: http1Routes, EditEnvoy: addConnect, Upstream: http.HandlerFunc(tunnelUpstream),
		Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	})
	connect := func(lines ...string) (*http1, *http.Response) {
		c := dialHTTP1(t, e.Listen)
		c.write(append([]string{"CONNECT elsewhere.example:443 HTTP/1.1", "Host: elsewhere.example:443"}, lines...)...)
		return c, c.response(http.MethodConnect)
	}
	t.Run("allowed", func(t *testing.T) {
		for _, route := range []string{"gate", "seen"} {
			c, r := connect(onRoute + route)
			if r.StatusCode != 200 {
				t.Fatalf("%s: %s", route, r.Status)
			}
			if saw := r.Header.Get("X-Saw"); route == "seen" && !strings.HasPrefix(saw, "CONNECT ") {
				t.Errorf("the policy saw %q", saw)
			}
			for _, message := range []string{"ping", strings.Repeat("x", 100000)} {
				go c.body(message)
				got := make([]byte, len(message))
				if _, err := io.ReadFull(c.reader, got); err != nil || string(got) != message {
					t.Fatalf("%s: the echo is %.20q, error %v", route, got, err)
				}
			}
			c.Close()
		}
	})
	t.Run("refused", func(t *testing.T) {
		for _, tt := range []struct {
			route string
			want  int
			code  string
		}{
			{"gate", 403, "TOLD_TO"},
			{"whole", 403, "TOLD_TO"}, // Policies on the headers come first.
			{"streamed-response", 403, "UPGRADE_REFUSED"},
			{"no-such-route", 404, "UNNAMED_ROUTE"}, // The last route of policyctl envoy, a prefix, matches no CONNECT.
		} {
			_, r := connect(onRoute+tt.route, mustNotArrive+"a tunnel that is refused")
			body, _ := io.ReadAll(r.Body)
			if r.StatusCode != tt.want || !strings.Contains(string(body), tt.code) {
				t.Errorf("%s: %s %s, want %d %s", tt.route, r.Status, body, tt.want, tt.code)
			}
		}
		before := e.Upstream.Count()
		for _, route := range []string{"whole", "whole-response", "streamed"} {
			_, r := connect(onRoute + route)
			if body, _ := io.ReadAll(r.Body); r.StatusCode != 403 || !strings.Contains(string(body), "UPGRADE_REFUSED") {
				t.Errorf("%s: %s %s, want 403 UPGRADE_REFUSED", route, r.Status, body)
			}
		}
		if n := e.Upstream.Count() - before; n != 0 {
			t.Errorf("%d tunnels have reached the upstream", n)
		}
	})
	t.Run("OPTIONS *", func(t *testing.T) { optionsStar(t, e) })
	wantIdle(t, e)
}

// optionsStar: Envoy takes no target but paths, and answers 404 (ConnectionManagerImpl::ActiveStream::decodeHeaders). At the kernel, the target * is a path like others.
func optionsStar(t *testing.T, e *harness.Engine) {
	if r := harness.Send(t, e.Listen, http.MethodOptions, "*", mustNotArrive+"Envoy refuses the target *"); r.Status != 404 {
		t.Errorf("through Envoy: %v", r)
	}
	c := dialKernel(t, e.ExtProc)
	r, err := c.exchange("seen", ":method: OPTIONS", ":path: *")
	if got, _ := set(r, "x-seen-a"); outcome(r, err) != "pass" || !strings.HasPrefix(got, "OPTIONS * ") {
		t.Errorf("allowed: answer %v, error %v", r, err)
	}
	if r, err := c.exchange("seen", ":method: OPTIONS", ":path: *", "x-deny: 1"); outcome(r, err) != "403" {
		t.Errorf("denied: answer %v, error %v", r, err)
	}
	if r, err := c.exchange("", ":method: OPTIONS", ":path: *"); outcome(r, err) != "404" {
		t.Errorf("no route: answer %v, error %v", r, err)
	}
}

// TestProtocolConnectByDefault: with the configuration as it is printed, CONNECT reaches no upstream.
func TestProtocolConnectByDefault(t *testing.T) {
	t.Parallel()
	e := startHTTP1(t, nil)
	c := dialHTTP1(t, e.Listen)
	c.write("CONNECT elsewhere.example:443 HTTP/1.1", "Host: elsewhere.example:443", mustNotArrive+"CONNECT")
	if r := c.response(http.MethodConnect); r.StatusCode < 400 {
		t.Errorf("CONNECT: %s", r.Status)
	}
	wantIdle(t, e)
}
